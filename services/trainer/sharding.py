"""Models laid out over ranks by FSDP2, and their tensors as parts and as wholes.

A part is a rank's own piece of a tensor (rows of its first dimension), a whole is the tensor that all ranks
hold together. With one rank a tensor is both. Source: Zhao et al. 2023 (arXiv 2304.11277);
torch.distributed.fsdp.fully_shard.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from services.trainer.ranks import Ranks

READS = "forward_positions"  # a scalar model is called by this name too


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer's blocks: the list of modules that holds the most parameters."""
    lists: list[nn.Module] = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of blocks")
    return list(max(lists, key=_parameters).children())


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def checkpoint_activations(model: nn.Module) -> None:
    """Keeps each block's input alone for the backward pass, which computes the rest again: equal results.

    Source: Chen et al. 2016 (arXiv 1604.06174).
    """
    for block in blocks_of(model):
        # No random state is kept for the second pass: there is no dropout.
        again = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        block.forward = again


def shard(model: nn.Module, ranks: Ranks) -> None:
    """Spreads a model over the ranks, block by block; gradients become sums over the ranks, not means."""
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    for module in (*blocks_of(model), model):
        # The root too: weights that stayed gathered behind a forward pass would not see later changes.
        fully_shard(module, mesh=ranks.mesh, reshard_after_forward=True)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    # It warns that changing a returned view in place would go wrong; nothing here changes one.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    if hasattr(model, READS):
        register_fsdp_forward_method(model, READS)


def part(tensor: Tensor) -> Tensor:
    """This rank's own piece; writing to it writes to the tensor."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor that all ranks hold together; every rank has to ask for it."""
    with torch.no_grad():
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor the piece that this rank holds of `like`."""
    if not isinstance(like, DTensor):
        return tensor
    return part(distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None))


def laid_out(piece: Tensor, like: Tensor) -> Tensor:
    """A piece of this rank as a tensor that is spread as `like` is."""
    if not isinstance(like, DTensor):
        return piece
    shape: Any = {"shape": like.shape, "stride": like.stride()}
    return DTensor.from_local(piece, like.device_mesh, like.placements, run_check=False, **shape)
