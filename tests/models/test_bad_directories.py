"""What is no whole model in safetensors is refused with what to do; the version before goes on serving."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from services.hub import fetched
from services.models import describe_causal, load_causal
from services.weights import WeightsError, describe_plain, path_of, verify
from tests.model_services import asked, header, policy_service, sampling
from tests.tiny_models import tiny_tokenizer, write_tiny_model
from tests.trainer.wiring import begin_request, trainer
from trueline import CallError
from trueline.v1 import policy_pb2, trainer_pb2, types_pb2


def edited(file: Path, **changes: Any) -> None:
    """A JSON file with some keys set, or taken out where the value is None."""
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


class Planted:
    """Unpickled, it would leave a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def only(name: str, content: bytes = b"weights") -> Any:
    """Has `name` in the place of the safetensors file."""

    def damage(path: Path) -> None:
        (path / "model.safetensors").unlink()
        (path / name).write_bytes(content)

    return damage


def adapter(path: Path) -> None:
    (path / "model.safetensors").rename(path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def own_code(path: Path) -> None:
    edited(path / "config.json", model_type="mine", auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"})
    (path / "modeling_mine.py").write_text(f"open({str(path / 'ran')!r}, 'w')\n")


def no_tokenizer(path: Path) -> None:
    for file in path.glob("tokenizer*"):
        file.unlink()


def no_end(path: Path) -> None:
    edited(path / "tokenizer_config.json", eos_token=None)


DAMAGES: dict[str, tuple[Any, str]] = {
    "pickle": (only("pytorch_model.bin"), r"pytorch_model\.bin: is a pickle.*save_pretrained"),
    "tensorflow": (only("tf_model.h5"), r"tf_model\.h5: holds TensorFlow weights.*convert them"),
    "flax": (only("flax_model.msgpack"), r"flax_model\.msgpack: holds Flax weights"),
    "onnx": (only("model.onnx"), r"model\.onnx: holds ONNX weights"),
    "nothing": (lambda path: (path / "model.safetensors").unlink(), "holds no .safetensors file"),
    "adapter": (adapter, r"adapter_config\.json: is an adapter's.*merge_and_unload"),
    "own code": (
        own_code,
        r"config\.json: is of a model type that brings its own code \('mine'",
    ),
    "no tokenizer": (no_tokenizer, r"tokenizer\.json: missing"),
    "no end token": (no_end, r"tokenizer_config\.json: names no eos_token"),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_foreign_directory_is_refused_with_what_to_do(tmp_path: Path, damage: Any, says: str) -> None:
    path = write_tiny_model(tmp_path / "m")
    damage(path)
    with pytest.raises(WeightsError, match=says):
        load_causal(path)
    assert not (path / "ran").exists(), "nothing of the directory's own was run"


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "gptq": (
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        r"config\.json: has quantised weights \(gptq\).*in full precision",
    ),
    "awq": ({"quantization_config": {"quant_method": "awq", "bits": 4}}, r"has quantised weights \(awq\)"),
    "bitsandbytes": (
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        r"has quantised weights \(bitsandbytes\)",
    ),
    "an end that is a text": ({"eos_token_id": "</s>"}, r"config\.json: is not a model's config"),
    "a context that is a text": ({"max_position_embeddings": "64"}, "expected int, got str"),
    "no heads": ({"num_attention_heads": 0}, r"config\.json: is not a model's config"),
    "a width below 0": ({"hidden_size": -1}, r"config\.json: is not a model's config"),
    "a type that torch lacks": ({"dtype": "nope"}, r"config\.json: is not a model's config"),
    "a pad id that is none": ({"pad_token_id": 9999}, "does not load as AutoModelForCausalLM"),
    "architectures that are a number": ({"architectures": 5}, r"config\.json: is not a model's config"),
}


@pytest.mark.parametrize(("changes", "says"), CONFIGS.values(), ids=CONFIGS.keys())
async def test_a_config_that_cannot_be_is_the_callers_fault_at_every_door(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    path = write_tiny_model(tmp_path / "m")
    edited(path / "config.json", **changes)
    where = types_pb2.ModelLocation(uri=str(path))
    models = [trainer_pb2.StageModel(role=trainer_pb2.MODEL_ROLE_TRAINED, location=where)]
    async with policy_service() as (policy, _), trainer() as client:
        for call in (
            policy.load_weights(header=header("load"), location=where),
            client.begin_stage(begin_request(tmp_path, "sft", models=models)),
        ):
            with pytest.raises(CallError, match=says) as caught:
                await call
            assert caught.value.code.name == "INVALID_ARGUMENT"


def test_generation_settings_that_are_a_list_are_named(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m")
    (path / "generation_config.json").write_text("[]")
    for load in (load_causal, describe_causal):
        with pytest.raises(WeightsError, match="is not a mapping|has no attribute"):
            load(path)


@pytest.mark.parametrize("error", [MemoryError("no room"), OSError(errno.ENOSPC, "No space left on device")])
def test_a_full_memory_or_disk_is_no_fault_of_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*given: Any, **named: Any) -> None:
        raise error

    path = write_tiny_model(tmp_path / "m")
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(type(error)) as caught:
        load_causal(path)
    assert caught.value is error


async def test_a_service_refuses_pickles_and_goes_on_serving_what_it_served(tmp_path: Path) -> None:
    good, bad = write_tiny_model(tmp_path / "good"), write_tiny_model(tmp_path / "bad")
    (bad / "model.safetensors").unlink()
    torch.save(Planted(tmp_path / "trace"), bad / "pytorch_model.bin")
    async with policy_service(model=good) as (policy, _):
        before = (await policy.get_policy()).version
        location = types_pb2.ModelLocation(uri=str(bad))
        with pytest.raises(CallError, match="is a pickle, and pickled weights are never loaded"):
            await policy.load_weights(header=header("load"), location=location)
        assert (await policy.get_policy()).version == before
        reply = await policy.generate(prompts=asked([5, 6]), sampling=sampling())
        assert reply.rollouts[0].policy_version == before
    assert not (tmp_path / "trace").exists()


def test_without_a_padding_token_some_id_pads_that_ends_nothing(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m")
    edited(path / "tokenizer_config.json", pad_token=None)
    loaded = load_causal(path)
    assert loaded.tokenizer.pad_token_id is None and loaded.pad_id == 0 and 0 not in loaded.eos_ids
    edited(path / "tokenizer_config.json", pad_token="</s>")
    assert load_causal(path).pad_id not in load_causal(path).eos_ids, "an end token that pads reads as an end"


async def test_without_a_chat_template_messages_are_refused_until_a_file_gives_one(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m")
    tiny_tokenizer(chat_template=None).save_pretrained(path)
    (path / "chat_template.jinja").unlink(missing_ok=True)
    async with policy_service(model=path) as (policy, _):
        with pytest.raises(CallError, match="the tokenizer has no chat template; send text or token ids"):
            await policy.generate(prompts=asked([(types_pb2.ROLE_USER, "w1")]), sampling=sampling())
        reply = await policy.generate(prompts=asked("w1 w2"), sampling=sampling())
        assert list(reply.rollouts[0].prompt_ids) == [6, 7]
    (path / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message.content }} {% endfor %}"
    )
    async with policy_service(model=path) as (policy, _):
        prompts = asked([(types_pb2.ROLE_USER, "w1")])
        reply = await policy.generate(prompts=prompts, sampling=sampling())
        assert list(reply.rollouts[0].prompt_ids) == [6]


def in_cache(home: Path, name: str, commit: str, **shape: Any) -> Path:
    """A snapshot as the hub's client keeps it, on branch main."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return write_tiny_model(repository / "snapshots" / commit, **shape)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, in a directory of its own and without a network."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    return tmp_path / "home"


@pytest.mark.parametrize("name", ["hf://tiny/llama", "hf://tiny/llama@main", f"hf://tiny/llama@{COMMIT}"])
def test_a_hub_name_stands_for_its_snapshot(offline: Path, name: str) -> None:
    snapshot = in_cache(offline, "tiny/llama", COMMIT)
    path = fetched(path_of(name))
    assert path.samefile(snapshot)
    assert describe_plain(path).model == COMMIT, "a run knows which commit it trained"


def test_a_directory_is_its_own_and_what_the_hub_lacks_is_told(offline: Path, tmp_path: Path) -> None:
    assert fetched(tmp_path) == tmp_path
    with pytest.raises(WeightsError, match=r"hf://tiny/absent@v2: cannot be fetched .* hf download"):
        fetched(path_of("hf://tiny/absent@v2"))
    for uri in ("hf://", "hf://a/b/c", "hf://a b", "hf://../x@y z"):
        with pytest.raises(WeightsError):
            path_of(uri)


async def test_a_service_serves_a_model_by_its_hub_name(offline: Path, tmp_path: Path) -> None:
    in_cache(offline, "tiny/llama", COMMIT)
    location = types_pb2.ModelLocation(uri="hf://tiny/llama@main")
    async with policy_service() as (policy, _):
        served = (await policy.load_weights(header=header("load"), location=location)).version
        assert (served.model, served.number) == (COMMIT, 0)
        missing = types_pb2.ModelLocation(uri="hf://tiny/absent")
        with pytest.raises(CallError, match="cannot be fetched"):
            await policy.load_weights(header=header("again"), location=missing)
        assert (await policy.get_policy()).version == served


async def test_prompts_are_counted_as_the_policy_reads_them(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m", context=48)
    wanted = asked([5, 6, 7], "w1 w2", [(types_pb2.ROLE_USER, "w1")])
    prompts = [each.prompt for each in wanted]
    async with policy_service(model=path) as (policy, _):
        counted = await policy.count_prompt_tokens(prompts=prompts)
        reply = await policy.generate(prompts=wanted, sampling=sampling())
        assert list(counted.tokens) == [len(each.prompt_ids) for each in reply.rollouts]
        assert counted.context_length == 48 and counted.version == (await policy.get_policy()).version
        with pytest.raises(CallError, match=r"prompts: must hold 1 to 4096 prompts"):
            await policy.count_prompt_tokens(prompts=[])
        with pytest.raises(CallError, match=r"prompts\[1\]: must be text, conversation or token_ids"):
            await policy.count_prompt_tokens(prompts=[prompts[0], types_pb2.Prompt()])
        other = types_pb2.ModelVersion(model="other", number=1, sha256="0" * 64)
        with pytest.raises(CallError) as caught:
            await policy.count_prompt_tokens(
                policy_pb2.CountPromptTokensRequest(prompts=prompts, expected_version=other)
            )
        assert caught.value.code.name == "FAILED_PRECONDITION"


async def test_a_stage_takes_its_models_by_hub_name_and_goes_back_to_one(
    offline: Path, tmp_path: Path
) -> None:
    in_cache(offline, "tiny/llama", COMMIT)
    location = types_pb2.ModelLocation(uri="hf://tiny/llama")
    roles = (trainer_pb2.MODEL_ROLE_TRAINED, trainer_pb2.MODEL_ROLE_REFERENCE)
    models = [trainer_pb2.StageModel(role=role, location=location) for role in roles]
    async with trainer() as client:
        begun = await client.begin_stage(begin_request(tmp_path, "preference", models=models))
        back = await client.roll_back(header=header("back"), good=location, number=1)
    assert begun.parameters > 0
    assert verify(Path(back.location.uri)).parent.model == COMMIT
