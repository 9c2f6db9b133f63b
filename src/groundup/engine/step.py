"""One optimizer step: microbatches in, gradients checked, weights moved.

Where several processes train together, each holds its share of every microbatch; losses, gradients and the
bill are sums over all of them, so that each process moves its copy of the weights alike.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from groundup.engine.distributed import World
from groundup.engine.gradients import GradientSum
from groundup.engine.numerics import Precision, autocast, step_seed
from groundup.engine.optimizer import OptimizerOptions, apply_lr, clip_gradients, gradient_norm
from groundup.engine.state import TrainingState
from groundup.errors import DivergedError, UsageError
from groundup.metering import part
from groundup.metrics.exposure import Exposure
from groundup.metrics.flops import count_flops, exposure_of
from groundup.shares import Share
from groundup.structures import Batch

Losses = Callable[[Batch], dict[str, Tensor]]
LEAST_SCALE = 1.0
"""An fp16 loss scale that has fallen below this was not the cause of what is not finite."""
MAX_NAMED = 16
"""Image ids named in a message, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """The processes of a run at work on its steps."""

    world: World
    share: Share
    """This process's part of every microbatch."""
    gradients: GradientSum


def build_team(model: nn.Module, optimizer: torch.optim.Optimizer, share: Share, world: World) -> Team:
    """The processes of `world` at work on what the optimizer trains."""
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return Team(world=world, share=share, gradients=GradientSum(model, trained, world))


@part("data wait")
def draw_microbatches(stream: Iterator[Batch], count: int, share: Share) -> list[Batch]:
    """The next microbatches of a step, this process's part of each.

    Raises:
        UsageError: the stream ended, or they do not make `count` times the share's images.
    """
    drawn = []
    for _ in range(count):
        batch = next(stream, None)
        if batch is None:
            raise UsageError("the batches ended; a training stream goes on without end")
        drawn.append(batch)
    found = sum(batch.num_images for batch in drawn)
    if found != count * share.num_own:
        raise UsageError(
            f"{count} microbatches hold {found} images, but schedule.batch_size is "
            f"{count * share.num_images}; the loader must give {share.num_own} images a batch"
        )
    return drawn


def take_step(
    state: TrainingState,
    microbatches: Sequence[Batch],
    losses_of: Losses,
    options: OptimizerOptions,
    team: Team,
    *,
    lr: float,
    seed: int,
    precision: Precision,
) -> tuple[dict[str, float], float]:
    """Move the weights once; the losses and the norm of their gradient (before clipping) come back.

    The one wait for a GPU is the reading of these numbers, between the gradients and the optimizer:
    nothing that is not finite reaches the weights.

    Raises:
        DivergedError: a loss or the gradient is not finite; the weights are as they were.
    """
    apply_lr(state.optimizer, lr)
    state.optimizer.zero_grad(set_to_none=True)
    torch.manual_seed(step_seed(seed, state.images_seen, team.world.rank))
    sums = sum_losses(state, microbatches, losses_of, team, precision)
    norm = finished_gradient(state, team)
    shares = team.world.sum_tensor(torch.stack([*sums.values()]))
    *values, norm_value = torch.cat([shares, norm.float()[None]]).tolist()
    losses = dict(zip(sums, values, strict=True))
    overflowed = state.scaler.is_enabled() and state.scaler.get_scale() > LEAST_SCALE
    if not all(map(math.isfinite, values)) or not (math.isfinite(norm_value) or overflowed):
        raise diverged(state, microbatches, team, losses, norm_value, lr)
    move_weights(state, norm, norm_value, options)
    count_step(state, microbatches, team)
    return losses, norm_value


@part("optimizer")
def finished_gradient(state: TrainingState, team: Team) -> Tensor:
    """The norm of the gradient, once all processes have added theirs and the loss scale is out of it."""
    team.gradients.finish()
    state.scaler.unscale_(state.optimizer)
    return gradient_norm(trained_parameters(state))


@part("optimizer")
def move_weights(state: TrainingState, norm: Tensor, norm_value: float, options: OptimizerOptions) -> None:
    """One step of the optimizer, clipped, and of the average; none where fp16 has overflowed."""
    if math.isfinite(norm_value):
        clip_gradients(trained_parameters(state), norm, options)
    else:
        state.skipped_steps += 1
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average is not None:
        state.average.update_parameters(state.model)


def trained_parameters(state: TrainingState) -> list[nn.Parameter]:
    """What the optimizer trains."""
    return [p for group in state.optimizer.param_groups for p in group["params"]]


def sum_losses(
    state: TrainingState,
    microbatches: Sequence[Batch],
    losses_of: Losses,
    team: Team,
    precision: Precision,
) -> dict[str, Tensor]:
    """Leave this process's part of the gradient in the parameters; its part of each loss, detached.

    The parts of all processes add up to the loss of the whole batch. A microbatch counts by its part of the
    images. The first one of a run is counted in operations; it then runs uncompiled.
    """
    device = next(state.model.parameters()).device
    num_images = sum(batch.num_images for batch in microbatches)
    weight = team.share.weight
    sums: dict[str, Tensor] = {}

    def backward(batch: Batch, losses_of: Losses) -> None:
        with autocast(device, precision):
            losses = losses_of(batch.to(device))
        part = batch.num_images / num_images * weight
        shares = {name: loss.float() * part for name, loss in losses.items()}
        backpropagate(state.scaler.scale(torch.stack(list(shares.values())).sum()))
        for name, share in shares.items():
            sums[name] = sums[name] + share.detach() if name in sums else share.detach()

    for batch in microbatches:
        is_last = batch is microbatches[-1]
        with team.gradients.last_pass() if is_last else contextlib.nullcontext():
            if state.flops_per_pixel is None:
                first = batch
                # The model's own method: operations inside a compiled function cannot be seen.
                flops = count_flops(lambda: backward(first, state.model.losses))  # type: ignore[arg-type]  # noqa: B023
                flops, pixels = team.world.sum_counts([flops, padded_pixels(first)])
                state.flops_per_pixel = flops / pixels
            else:
                backward(batch, losses_of)
    return sums


@part("backward")
def backpropagate(loss: Tensor) -> None:
    """Leave the loss's gradient in the parameters."""
    loss.backward()


def padded_pixels(batch: Batch) -> int:
    """Pixels of the batch, padding included: what convolutions work on."""
    num_images, _, height, width = batch.images.shape
    return int(num_images * height * width)


def count_step(state: TrainingState, microbatches: Sequence[Batch], team: Team) -> None:
    """Put the step of all processes on the bill, all but its time.

    Operations are in proportion to padded pixels.
    """
    for batch in microbatches:
        own = exposure_of(batch)
        images, instances, pixels, padded = team.world.sum_counts(
            [own.images, own.instances, own.pixels, padded_pixels(batch)]
        )
        flops = round((state.flops_per_pixel or 0.0) * padded)
        state.exposure = state.exposure + Exposure(
            images=images, instances=instances, pixels=pixels, flops=flops
        )
        state.images_seen += images


def spend(state: TrainingState, seconds: float) -> None:
    """Put time on the bill."""
    state.exposure = state.exposure + Exposure(seconds=seconds)


def diverged(
    state: TrainingState,
    microbatches: Sequence[Batch],
    team: Team,
    losses: dict[str, float],
    norm: float,
    lr: float,
) -> DivergedError:
    """What is not finite, where, on which photographs of all processes, and what to do; the first says it."""
    own = [int(i) for batch in microbatches for i in batch.image_ids]
    ids = [i for part in team.world.gather(lambda: own) for i in part]
    named = ", ".join(map(str, ids[:MAX_NAMED])) + (", ..." if len(ids) > MAX_NAMED else "")
    shown = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    num_images = len(microbatches) * team.share.num_images
    error = DivergedError(
        f"not finite in step {state.images_seen // num_images} (after {state.images_seen} images, "
        f"rate {lr:.3g}): {shown}, gradient norm {norm:.4g}, on images {named}; the weights were not "
        "moved; lower schedule.lr, lengthen schedule.warmup_images, set optimizer.clip, or check these images"
    )
    error.is_told = not team.world.leads
    return error
