"""recipes/hf-ppo.yaml from start to end on three small models made on the spot: GPT-2, Llama and Qwen2.

    python -m benchmarks.architectures

Each takes its rows in another shape: GPT-2's are transcripts and it has no chat template, Llama's are TRL's,
Qwen2's are plain messages. Prints a JSON line for each, and exits with 1 where a run did not end, the
policy's log-probs are not the trainer's, or what was exported does not load. It tells neither
speed nor quality.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from benchmarks.recipes import RECIPES
from orchestrator.drive import drive, new_run
from orchestrator.ledger import Ledger
from orchestrator.payloads import Payload, read_payload
from orchestrator.progress import PlainProgress
from orchestrator.summary import summarise
from trueline.v1 import trainer_pb2

Row = dict[str, Any]
SHAPES = {"gpt2": "hh-text", "llama": "trl", "qwen2": "plain"}
THINGS = ("lamp", "fan", "clock", "radio", "kettle", "phone", "chair", "door")
FAULTS = ("is broken", "is too loud", "came late", "is the wrong one", "will not open", "fell down")
ROUNDS, RESPONSE_TOKENS, CONTEXT = 3, 16, 96


@dataclass(frozen=True)
class Talk:
    """A question, a good answer and a bad one."""

    question: str
    good: str
    bad: str


def main() -> int:
    """Runs the architectures, one after another."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    flags.add_argument("--family", choices=list(SHAPES), action="append", help="only this one; repeatable")
    flags.add_argument("--seed", type=int, default=0)
    options = flags.parse_args()
    sound = True
    with tempfile.TemporaryDirectory(prefix="trueline-architectures-") as scratch:
        for family in options.family or SHAPES:
            found = run_family(family, Path(scratch) / family, options.seed)
            print(json.dumps(found), flush=True)
            sound = sound and found["sound"]
    return 0 if sound else 1


def run_family(family: str, directory: Path, seed: int) -> dict[str, Any]:
    """One run of the recipe and what is to be seen of it."""
    started = time.monotonic()
    directory.mkdir(parents=True)
    overrides = overrides_of(family, directory, seed)
    ledger = new_run(RECIPES / "hf-ppo.yaml", directory / "run", overrides, seed)
    if not asyncio.run(drive(directory / "run", ledger, PlainProgress(sys.stderr))):
        return {"family": family, "status": "stopped", "sound": False}
    report, (mismatch, limit) = summarise(ledger), logprob_mismatch(ledger)
    parameters = exported_parameters(directory / "run" / "export")
    evaluation = report["evaluation"]["models"]
    return {
        "family": family,
        "shape": SHAPES[family],
        "parameters": parameters,
        "status": report["status"],
        "rounds": len(report["rounds"]),
        "mismatch_largest": mismatch,
        "mismatch_limit": limit,
        "heldout_accuracy": report["reward_model"]["heldout_accuracy"],
        "proxy": {name: round(each["proxy"]["mean"], 3) for name, each in evaluation.items()},
        "seconds": round(time.monotonic() - started, 1),
        "sound": report["status"] == "finished" and mismatch <= limit and parameters > 0,
    }


def overrides_of(family: str, directory: Path, seed: int) -> list[str]:
    """The recipe with everything small, on rows in the family's own shape."""
    shape = SHAPES[family]
    write_rows(
        directory / "rows.jsonl", (compared(talk, i, shape) for i, talk in enumerate(talks(240, seed)))
    )
    write_rows(directory / "shown.jsonl", (demonstrated(talk, shape) for talk in talks(240, seed + 1)))
    command = ["python", "-m", "worlds.fromtext", "prepare", f"--data={directory / 'rows.jsonl'}"]
    command += ["--output={prepared}", "--seed={seed}", f"--family={family}", "--vocabulary=400"]
    command += [f"--context={CONTEXT}", *(["--no-chat-template"] if shape == "hh-text" else [])]
    training = {"path": "{prepared}/train.jsonl", "shape": shape}
    held_out = {**training, "path": "{prepared}/heldout.jsonl"}
    small = {"minibatch_size": 16, "micro_batch_size": 16, "max_tokens": CONTEXT}
    sampling = {"temperature": 1.0, "max_new_tokens": RESPONSE_TOKENS}
    changes: dict[str, Any] = {
        "prepare": {"command": command},
        "models.start": "{prepared}/model",
        **{f"services.{name}.threads": 1 for name in ("policy", "reference", "reward", "trainer")},
        "stages.sft.data": {"path": str(directory / "shown.jsonl"), "shape": shape},
        "stages.sft.loss_on": "all" if shape == "hh-text" else "assistant",
        **{f"stages.{stage}.{name}": value for stage in ("sft", "reward") for name, value in small.items()},
        "stages.sft.optimizer.learning_rate": 3e-3,
        "stages.comparisons.data": training,
        "stages.comparisons.held_out_data": held_out,
        "stages.reward.optimizer.learning_rate": 3e-3,
        "stages.reward.normalisation.samples": 64,
        "stages.ppo.prompts": training,
        "stages.ppo.rounds": ROUNDS,
        "stages.ppo.prompts_per_round": 32,
        "stages.ppo.prompts_per_chunk": 16,
        "stages.ppo.sampling": sampling,
        "stages.ppo.checkpoint_every": 2,
        "stages.ppo.algorithm.micro_batch_size": 16,
        "stages.evaluate.prompts": held_out,
        "stages.evaluate.prompt_limit": 32,
        "stages.evaluate.sampling": sampling,
    }
    return [f"{path}={json.dumps(value)}" for path, value in changes.items()]


def talks(count: int, seed: int) -> Iterable[Talk]:
    """Complaints with a number of their own, each with an answer that helps and one that does not."""
    draw = random.Random(seed)
    for number in range(count):
        thing, fault = draw.choice(THINGS), draw.choice(FAULTS)
        question = f"case {number + 1000 * seed}: my {thing} {fault}."
        bad = draw.choice(["no.", "not my problem.", "go away."])
        yield Talk(question, f"sorry, we will mend the {thing}.", bad)


def compared(talk: Talk, number: int, shape: str) -> Row:
    """A comparison, which is a prompt too, in one of the shapes."""
    ask, answers = {"role": "user", "content": talk.question}, {"chosen": talk.good, "rejected": talk.bad}
    if shape == "plain":
        return {"prompt_id": f"p{number}", "messages": [ask], **answers}
    if shape == "trl":
        return {"prompt": [ask], **{key: [said(text)] for key, text in answers.items()}}
    return {key: f"\n\nHuman: {talk.question}\n\nAssistant: {text}" for key, text in answers.items()}


def demonstrated(talk: Talk, shape: str) -> Row:
    """A demonstration: in one case of four a bad answer, so that there is something to learn."""
    answer = talk.bad if len(talk.question) % 4 == 0 else talk.good
    ask = {"role": "user", "content": talk.question}
    if shape == "plain":
        return {"messages": [ask, said(answer)]}
    if shape == "trl":
        return {"prompt": [ask], "completion": [said(answer)]}
    return {"chosen": f"\n\nHuman: {talk.question}\n\nAssistant: {answer}"}


def said(text: str) -> dict[str, str]:
    """A turn of the assistant's."""
    return {"role": "assistant", "content": text}


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def logprob_mismatch(ledger: Ledger) -> tuple[float, float]:
    """(largest difference of policy's and trainer's log-probs in any round, what it may be).

    The limit is 1e-5 times the largest log-prob sampled, or 1e-5 where that is below 1.
    """
    rounds = ledger.all_rounds("ppo")
    largest = 1.0
    for phase in ledger.all_phases("ppo", "scored").values():
        for rollout in read_payload(Payload(**phase), trainer_pb2.PpoBatch).rollouts:
            largest = max(largest, *map(abs, rollout.policy_logprobs))
    return max(each.metrics["mismatch_largest"] for each in rounds), 1e-5 * largest


def exported_parameters(directory: Path) -> int:
    """Parameters of what was exported, as transformers itself loads it."""
    disable_progress_bar()
    return int(AutoModelForCausalLM.from_pretrained(directory).num_parameters())


if __name__ == "__main__":
    sys.exit(main())
