"""What steps have computed, read by the host at once or late.

Reading waits for a GPU. Read at once, numbers that are not finite stop a step before it moves the weights.
Read late, steps follow one another without waiting, and a `Guard` on the device does the same: from the first
number on that is not finite, no step moves anything. The weights are then as they were before that step,
whenever its numbers are read; and they are read before anything is logged, evaluated or saved.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from groundup.engine.optimizer import is_fused


@dataclass(slots=True, kw_only=True)
class TakenStep:
    """A step of which the numbers may still be on the device."""

    names: tuple[str, ...]
    """Of the losses."""
    values: Tensor
    """The losses of the whole batch, then the norm of their gradient before clipping; float32."""
    images_seen: int
    """Before the step."""
    lr: float
    image_ids: Sequence[Tensor]
    """Of each microbatch of this process, on the CPU."""
    seconds: float = 0.0
    """What it took, as far as the host waited for it."""
    waited: float = 0.0
    """Seconds of them spent waiting for data."""

    def read(self) -> tuple[dict[str, float], float]:
        """The losses and the norm; waits for the device that computes them."""
        *losses, norm = self.values.tolist()
        return dict(zip(self.names, losses, strict=True)), norm

    def is_finite(self) -> bool:
        """Whether all numbers are; waits as `read`."""
        return all(map(math.isfinite, self.values.tolist()))


class Guard:
    """A flag on the device: up from the first number that is not finite, for good."""

    def __init__(self, device: torch.device) -> None:
        """Begin with the flag down."""
        self.flag = torch.zeros((), device=device)
        """0 or 1, as optimizers know it from loss scales: `found_inf`."""

    def watch(self, values: Tensor) -> None:
        """Put the flag up if any of the values is not finite."""
        self.flag.copy_(torch.maximum(self.flag, (~values.isfinite()).any().to(self.flag.dtype)))

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the optimizer's step where the flag is down; where it is up nothing moves, its state neither.

        On a GPU the optimizer's kernels look at the flag themselves (`fused`), and nobody waits.
        """
        if is_fused(optimizer):
            optimizer.found_inf = self.flag  # type: ignore[attr-defined]
            begin_momenta(optimizer)
            optimizer.step()
        elif not bool(self.flag):
            optimizer.step()


def begin_momenta(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter with a gradient a momentum of zero where it has none yet.

    The first step from there is the one without: zero decayed, plus the gradient. Fused kernels know only
    first steps of all parameters at once, and late parts of a model come when others have momenta.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("momentum") else ():
            state = optimizer.state[parameter]
            if parameter.grad is not None and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """All that the optimizer trains."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
