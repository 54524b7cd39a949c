"""What a stage will need in memory, told before anything is loaded.

    states       weights, gradients and two moments in float32: 16 bytes a parameter of each model in
                 training, so 32 for a policy with its critic, spread evenly over the ranks
    gathered     with several ranks the block at work, the next one and what is outside blocks, whole
    activations  what a micro-batch leaves for its backward pass, and on a GPU the weights once more in bf16,
                 which autocast makes; its logits apart
    copy         weights and moments again, in main memory: a step that fails is undone from it

Activations are counted, not guessed: the model is built without bytes (fake tensors), reads rows of two
lengths, and what autograd keeps is weighed. Real use is a little above, by fragments and by libraries.
Source of the counts per parameter: Rajbhandari et al. 2020 (arXiv 1910.02054), section 3.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from services.models import BUILDING
from services.trainer.sharding import blocks_of

GIB = 2**30
STATE_BYTES = 16
COPY_BYTES = 12
FLOAT_BYTES = 4
# The logits, their log-softmax (or a scaled copy) and their gradient.
LOGIT_COPIES = 3
USABLE = 0.9  # of a device's memory: the rest goes to fragments and libraries
MODELS = {"ppo": 2, "sft": 1, "reward": 1}  # in training at once
LENGTHS = (97, 193)  # unlike any width, so that what grows with their square can be told apart
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Footprint:
    """What one model weighs, in parameters and bytes."""

    parameters: int
    blocks: int
    block_parameters: int
    hidden_size: int
    vocabulary_size: int
    context_length: int
    activation_bytes: float  # that one token leaves for the backward pass, logits left out
    cast_bytes: float  # that autocast's copies of the weights hold until then

    @property
    def outside_parameters(self) -> int:
        """Embeddings and all else that is in no block."""
        return self.parameters - self.blocks * self.block_parameters


@dataclass(frozen=True)
class Plan:
    """A stage on some ranks; sizes are bytes on each rank."""

    model: Footprint
    stage: str
    ranks: int
    micro_batch_size: int
    max_tokens: int
    activation_checkpointing: bool
    device_memory: int
    on_cpu: bool  # then states and copy lie in one memory

    @property
    def states(self) -> float:
        return STATE_BYTES * MODELS[self.stage] * self.model.parameters / self.ranks

    @property
    def gathered(self) -> float:
        if self.ranks == 1:
            return 0.0
        model = self.model
        # Two blocks' weights and one's gradients; embeddings and head, with theirs.
        return FLOAT_BYTES * (3 * model.block_parameters + 2 * model.outside_parameters)

    @property
    def activations(self) -> float:
        model, tokens = self.model, self.micro_batch_size * self.max_tokens
        if not self.activation_checkpointing:
            return tokens * model.activation_bytes + model.cast_bytes
        inputs = FLOAT_BYTES * model.hidden_size * model.blocks
        return tokens * inputs + (tokens * model.activation_bytes + model.cast_bytes) / model.blocks

    @property
    def logits(self) -> float:
        if self.stage == "reward":
            return 0.0
        tokens = self.micro_batch_size * self.max_tokens
        return LOGIT_COPIES * FLOAT_BYTES * tokens * self.model.vocabulary_size

    @property
    def copy(self) -> float:
        return COPY_BYTES * MODELS[self.stage] * self.model.parameters / self.ranks

    @property
    def device_total(self) -> float:
        """Bytes in the memory of the rank's device."""
        own = self.states + self.gathered + self.activations + self.logits
        return own + self.copy if self.on_cpu else own

    @property
    def fits(self) -> bool:
        return self.device_total <= USABLE * self.device_memory


def footprint(model_dir: Path, *, autocast: bool) -> Footprint:
    """Weighs the model that a directory's config.json describes; its weights need not be there.

    `autocast` is for a GPU, where passes run in bf16.
    """
    config = AutoConfig.from_pretrained(model_dir, local_files_only=True)
    with FakeTensorMode():
        with BUILDING:
            model = AutoModelForCausalLM.from_config(config).eval()
        blocks = blocks_of(model)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            short, long = (_kept_bytes(model, length) for length in LENGTHS)
        a_token = (long - short) / (LENGTHS[1] - LENGTHS[0])
        text = config.get_text_config()
        return Footprint(
            parameters=sum(p.numel() for p in model.parameters()),
            blocks=len(blocks),
            block_parameters=max(sum(p.numel() for p in block.parameters()) for block in blocks),
            hidden_size=text.hidden_size,
            vocabulary_size=model.get_input_embeddings().num_embeddings,
            context_length=text.max_position_embeddings,
            activation_bytes=a_token,
            cast_bytes=max(0.0, short - LENGTHS[0] * a_token) if autocast else 0.0,
        )


def _kept_bytes(model: Any, length: int) -> int:
    """Bytes that the backbone keeps for its backward pass behind one row of this length."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, tuple[int, Any]] = {}

    def weigh(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # Attention that fakes cannot fuse keeps squares, which the real one never writes.
        square = tensor.shape[-2:] == (length, length)
        if storage._cdata not in own and not square:
            kept[storage._cdata] = storage.nbytes(), storage
        return tensor

    ids_BT = torch.zeros((1, length), dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
        output = model.base_model(input_ids=ids_BT, use_cache=False)
    assert output is not None  # what it holds is weighed while it lives
    return sum(size for size, _ in kept.values())


def ways_to_fit(plan: Plan) -> Iterator[Plan]:
    """The first plan that fits of each kind of change: less kept, smaller micro-batches, more ranks."""
    frugal = replace(plan, activation_checkpointing=True)
    small = replace(plan, micro_batch_size=1)
    smallest = replace(frugal, micro_batch_size=1)
    alone = next((each for each in (frugal, small, smallest) if each.fits), None)
    if alone is not None:
        yield alone
    for start in (plan, smallest):
        more = (replace(start, ranks=ranks) for ranks in RANKS if ranks > plan.ranks)
        found = next((each for each in more if each.fits), None)
        if found is not None:
            yield found


def flags_of(plan: Plan) -> str:
    """A plan as the flags that ask for it."""
    words = [f"--ranks {plan.ranks}", f"--micro-batch-size {plan.micro_batch_size}"]
    if plan.activation_checkpointing:
        words.append("--activation-checkpointing")
    return " ".join(words)


def report(plan: Plan) -> str:
    """The plan for a person to read; GiB on each rank."""
    tokens = f"{plan.micro_batch_size} x {plan.max_tokens} tokens"
    trained = "policy and critic" if plan.stage == "ppo" else "the model"
    bytes_each = STATE_BYTES * MODELS[plan.stage]
    lines = [
        f"{plan.stage} with {plan.model.parameters:,} parameters on {plan.ranks} rank(s); GiB on each:",
        _line(f"weights, gradients, Adam of {trained}: {bytes_each} bytes a parameter", plan.states),
        _line("blocks gathered whole while they work", plan.gathered),
        _line(f"activations of {tokens}", plan.activations),
        _line("their logits", plan.logits),
    ]
    copy = _line("copy to undo a failed step, in main memory", plan.copy)
    if plan.on_cpu:
        lines.append(copy)
    total = "fits" if plan.fits else "does not fit"
    share = f"of {plan.device_memory / GIB:.1f}, of which {USABLE:.0%} are counted on: {total}"
    lines.append(_line("together", plan.device_total) + f"  {share}")
    if not plan.on_cpu:
        lines.append(copy)
    if plan.ranks > 1:
        lines.append(_line("one whole model while it is loaded, in main memory", 4 * plan.model.parameters))
    if not plan.fits:
        ways = [f"  {flags_of(way)}" for way in ways_to_fit(plan)]
        lines += ["what would fit:", *ways] if ways else ["no number of ranks that is tried here would fit"]
    return "\n".join(lines)


def _line(what: str, size: float) -> str:
    return f"{size / GIB:10.2f}  {what}"


def parameters_on_disk(model_dir: Path) -> int:
    """Parameters in a directory's safetensors files, by their headers alone."""
    count = 0
    for file in sorted(model_dir.glob("*.safetensors")):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        count += sum(int(torch.Size(shape).numel()) for shape in shapes)
    return count


def memory_of(device: torch.device) -> int:
    """Bytes of a GPU's memory, or of this machine's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
