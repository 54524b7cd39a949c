"""A model in training: its weights, its AdamW, its learning rate, and the guards of an update."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from services.errors import PreconditionError
from services.trainer.device import Compute
from services.trainer.ranks import Ranks
from services.trainer.settings import OptimizerSettings
from services.trainer.sharding import laid_out, part, part_of, whole

NON_FINITE = "non_finite"
STEP = "step"  # of the moments in an optimizer's state the one that is no tensor of the model's shape


class NonFiniteError(PreconditionError):
    """A loss, a gradient or a weight came out as NaN or infinite. The step is undone."""

    def __init__(self, what: str, value: float) -> None:
        super().__init__(NON_FINITE, f"{what} is {value}: the step was undone and the weights are as before")


def check_loss(what: str, losses: Sequence[Tensor], ranks: Ranks) -> None:
    """Raises NonFiniteError, on every rank, where one of the losses of any rank is not finite.

    Comes behind the backward passes, which all ranks make together.
    """
    total = ranks.summed(torch.stack(list(losses)).sum()).item()
    if not math.isfinite(total):
        raise NonFiniteError(what, total)


def learning_rate(settings: OptimizerSettings, update: int, total_updates: int) -> float:
    """The rate of update number `update`, counted from 0.

    Rises in a line over the warm-up, so that its last update has the peak, and then stays or falls to 0 at
    `total_updates`. With a peak of 1, two updates of warm-up, "linear" and six updates in all the rates are
    0.5, 1, 1, 0.75, 0.5, 0.25.
    """
    if update < settings.warmup_updates:
        return settings.learning_rate * (update + 1) / settings.warmup_updates
    if settings.schedule == "constant":
        return settings.learning_rate
    span = max(1, total_updates - settings.warmup_updates)
    done = min(1.0, (update - settings.warmup_updates) / span)
    left = 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return settings.learning_rate * left


class Learner:
    """One model with its optimizer. Weights and moments can be copied out and put back bit for bit."""

    def __init__(self, model: nn.Module, settings: OptimizerSettings, total_updates: int) -> None:
        self.model, self.settings, self.total_updates = model, settings, total_updates
        self.updates = 0
        self.parameters = {name: p for name, p in sorted(model.named_parameters()) if p.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._groups(),
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            fused=True,
        )

    def _groups(self) -> list[dict[str, object]]:
        """Matrices decay; gains and biases do not, as a pull towards 0 is no simplicity there."""
        matrices = [p for p in self.parameters.values() if p.ndim >= 2]
        vectors = [p for p in self.parameters.values() if p.ndim < 2]
        groups = ((matrices, self.settings.weight_decay), (vectors, 0.0))
        return [{"params": params, "weight_decay": decay} for params, decay in groups if params]

    @property
    def learning_rate(self) -> float:
        """The rate of the next update."""
        return learning_rate(self.settings, self.updates, self.total_updates)

    def accumulate(self, compute: Compute, losses: Sequence[Callable[[], Tensor]]) -> None:
        """Adds the gradients of the losses, which are computed here; every second one on a second thread.

        The two threads' gradients are added in one order, so that the same losses give the same bits.
        """
        if not compute.two_halves:
            for loss in losses:
                loss().backward()
            return
        halves = compute.both(lambda: self._gradients(losses[::2]), lambda: self._gradients(losses[1::2]))
        for half in halves:
            for parameter, gradient in zip(self.parameters.values(), half, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def _gradients(self, losses: Sequence[Callable[[], Tensor]]) -> list[Tensor | None]:
        """The sum of the losses' gradients, one per parameter, kept apart from what other threads add."""
        parameters = list(self.parameters.values())
        sums: list[Tensor | None] = [None] * len(parameters)
        for loss in losses:
            found = torch.autograd.grad(loss(), parameters, allow_unused=True)
            sums = [b if a is None else a if b is None else a + b for a, b in zip(sums, found, strict=True)]
        return sums

    def update(self) -> float:
        """One optimizer update from the accumulated gradients; gives their norm before clipping.

        Raises NonFiniteError, with the weights unchanged, when the norm is not finite.
        """
        limit = self.settings.max_gradient_norm or math.inf
        norm = whole(torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit)).item()
        if not math.isfinite(norm):
            raise NonFiniteError("the gradient's norm", norm)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.updates += 1
        return norm

    def forget_moments(self) -> None:
        """For weights that were replaced: the moments of others say nothing about them."""
        self._optimizer.state.clear()
        self._optimizer.zero_grad()

    def check_weights(self, ranks: Ranks) -> None:
        """Raises NonFiniteError for a weight that is not finite, on whichever rank it lies."""
        broken = torch.stack([(~part(p).isfinite()).sum() for p in self.parameters.values()])
        for name, count in zip(self.parameters, ranks.summed(broken).tolist(), strict=True):
            if count:
                raise NonFiniteError(f"weight {name}", math.nan)

    @torch.no_grad()
    def replace_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Takes over whole tensors by name; the moments of others say nothing about them."""
        for name, parameter in self.parameters.items():
            part(parameter).copy_(part_of(weights[name].detach(), parameter))
        self.forget_moments()

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments by name, not copied: "weights/lm_head.weight", "exp_avg/lm_head.weight"."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            found[f"weights/{name}"] = parameter.detach()
            for moment, value in self._optimizer.state.get(parameter, {}).items():
                found[f"{moment}/{name}"] = value
        return found

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], updates: int, *, whole: bool) -> None:
        """Puts back what `tensors` gave, or this rank's parts of it; drops gradients.

        KeyError for a weight that is missing.
        """
        self.forget_moments()

        def piece(tensor: Tensor, parameter: Tensor) -> Tensor:
            return part_of(tensor, parameter) if whole else tensor

        for name, parameter in self.parameters.items():
            part(parameter).copy_(piece(tensors[f"weights/{name}"], parameter))
        for key, value in tensors.items():
            moment, _, name = key.partition("/")
            if moment == "weights":
                continue
            parameter = self.parameters[name]
            if moment != STEP:  # a count, which every rank has
                value = laid_out(piece(value, parameter).to(parameter.device, copy=True), parameter)
            else:
                value = value.to(parameter.device, copy=True)
            self._optimizer.state[parameter][moment] = value
        self.updates = updates
