"""Precise batch norm: before a model is judged, its norms' statistics over many training images.

The running statistics of training are a moving average over the last few batches, each seen by other weights.
Here they are replaced, for an evaluation only, by mean and variance over a fixed set of training batches
under the weights that are judged. Training never sees them, so a resumed run still equals the straight one.

Source: Detectron2, `TEST.PRECISE_BN` (200 batches of 16, on in its SyncBN configurations from scratch); Wu
and Johnson, Rethinking "Batch" in BatchNorm (2021), section 3.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from groundup.engine.checkpoint import STATISTICS
from groundup.engine.distributed import World
from groundup.engine.stop import StopFlag
from groundup.errors import Interrupted
from groundup.records import write_whole
from groundup.structures import Batch


@dataclass(slots=True)
class Moments:
    """Count, mean and sum of squares about it of each channel, of what has passed so far."""

    count: Tensor
    mean: Tensor
    squares: Tensor

    def add(self, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        """Join others to these. Source: Chan, Golub and LeVeque (1979)."""
        total = self.count + count
        away, share = mean - self.mean, count / total.clamp(min=1)
        self.squares += squares + away.square() * self.count * share
        self.mean += away * share
        self.count = total


@contextlib.contextmanager
def precise_norms(
    model: nn.Module, batches: Iterator[Batch], num_batches: int, world: World, stop: StopFlag | None = None
) -> Iterator[dict[str, Tensor]]:
    """Inside, the batch norms' running statistics are those of so many batches; afterwards what they were.

    The model passes the batches through its `losses` as in training, without gradients. Several processes
    bring their shares of the same batches and get the same statistics. Given are the tensors by name.

    Raises:
        Interrupted: a process was asked to stop.
    """
    norms = {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, _BatchNorm) and part.running_mean is not None
    }
    modes = [(part, part.training) for part in model.modules()]
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        model.train()
        moments = observe(model, norms, batches, num_batches, world, stop)
        restore(model, before)
        statistics = joint_statistics(moments, world)
        for part, mode in modes:
            part.training = mode
        restore(model, statistics)
        yield statistics
    finally:
        restore(model, before)
        for part, mode in modes:
            part.training = mode


def save_statistics(folder: Path, statistics: dict[str, Tensor]) -> None:
    """Keep them with the evaluation that used them, where `engine.checkpoint.load_weights` finds them."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in statistics.items()}
    write_whole(folder / STATISTICS, safetensors.torch.save(tensors))


@torch.no_grad()
def observe(
    model: nn.Module,
    norms: dict[str, _BatchNorm],
    batches: Iterator[Batch],
    num_batches: int,
    world: World,
    stop: StopFlag | None,
) -> dict[str, Moments]:
    """What enters each norm while the batches pass."""
    device = next(model.parameters()).device
    moments = {
        name: Moments(*(torch.zeros(norm.num_features, dtype=torch.float64, device=device) for _ in range(3)))
        for name, norm in norms.items()
    }
    with contextlib.ExitStack() as hooked:
        for name, norm in norms.items():
            hooked.callback(norm.register_forward_pre_hook(observer(moments[name])).remove)
        for _ in range(num_batches):
            if any(world.any_of([stop is not None and stop.reason is not None])):
                raise Interrupted("stopped before an evaluation")
            model.losses(next(batches).to(device))  # type: ignore[operator]
    return moments


def observer(moments: Moments) -> Callable[[nn.Module, Any], None]:
    """A hook that adds what enters a norm to its moments."""

    def hook(_norm: nn.Module, inputs: Any) -> None:
        values = inputs[0].transpose(0, 1).flatten(1).double()
        count = values.new_full((len(values),), values.shape[1])
        mean = values.sum(dim=1) / count.clamp(min=1)
        moments.add(count, mean, (values - mean[:, None]).square().sum(dim=1))

    return hook


def joint_statistics(moments: dict[str, Moments], world: World) -> dict[str, Tensor]:
    """Running mean and variance (unbiased, as torch keeps it) of each norm over all processes, by name."""
    statistics = {}
    for name, own in moments.items():
        rows = torch.zeros(world.size, 3, len(own.mean), dtype=torch.float64, device=own.mean.device)
        rows[world.rank] = torch.stack([own.count, own.mean, own.squares])
        whole = Moments(*torch.zeros_like(rows[0]))
        for part in world.sum_tensor(rows):
            whole.add(*part)
        if whole.count[0] > 0:
            statistics[f"{name}.running_mean"] = whole.mean.float()
            statistics[f"{name}.running_var"] = (whole.squares / (whole.count - 1).clamp(min=1)).float()
    return statistics


def restore(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Write the values into the model's buffers of these names."""
    buffers = dict(model.named_buffers())
    with torch.no_grad():
        for name, tensor in tensors.items():
            buffers[name].copy_(tensor)
