"""One optimizer step: microbatches in, gradients checked, weights moved."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from groundup.engine.numerics import Precision, autocast, step_seed
from groundup.engine.optimizer import OptimizerOptions, apply_lr, clip_gradients, gradient_norm
from groundup.engine.state import TrainingState
from groundup.errors import DivergedError, UsageError
from groundup.metrics.exposure import Exposure
from groundup.metrics.flops import count_flops, exposure_of
from groundup.structures import Batch

Losses = Callable[[Batch], dict[str, Tensor]]
LEAST_SCALE = 1.0
"""An fp16 loss scale that has fallen below this was not the cause of what is not finite."""
MAX_NAMED = 16
"""Image ids named in a message, at most."""


def draw_microbatches(stream: Iterator[Batch], count: int, batch_size: int) -> list[Batch]:
    """The next microbatches of a step.

    Raises:
        UsageError: the stream ended, or they do not make `batch_size` images.
    """
    drawn = []
    for _ in range(count):
        batch = next(stream, None)
        if batch is None:
            raise UsageError("the batches ended; a training stream goes on without end")
        drawn.append(batch)
    found = sum(batch.num_images for batch in drawn)
    if found != batch_size:
        raise UsageError(
            f"{count} microbatches hold {found} images, but schedule.batch_size is {batch_size}; "
            f"the loader must give {batch_size // count} images a batch"
        )
    return drawn


def take_step(
    state: TrainingState,
    microbatches: Sequence[Batch],
    losses_of: Losses,
    options: OptimizerOptions,
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
    torch.manual_seed(step_seed(seed, state.images_seen))
    sums = sum_losses(state, microbatches, losses_of, precision)
    state.scaler.unscale_(state.optimizer)
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    norm = gradient_norm(parameters)
    *values, norm_value = torch.stack([*sums.values(), norm.float()]).tolist()
    losses = dict(zip(sums, values, strict=True))
    overflowed = state.scaler.is_enabled() and state.scaler.get_scale() > LEAST_SCALE
    if not all(map(math.isfinite, values)) or not (math.isfinite(norm_value) or overflowed):
        raise diverged(state, microbatches, losses, norm_value, lr)
    if math.isfinite(norm_value):
        clip_gradients(parameters, norm, options)
    else:
        state.skipped_steps += 1
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average is not None:
        state.average.update_parameters(state.model)
    count_step(state, microbatches)
    return losses, norm_value


def sum_losses(
    state: TrainingState, microbatches: Sequence[Batch], losses_of: Losses, precision: Precision
) -> dict[str, Tensor]:
    """Leave the gradient of the whole batch's loss in the parameters; each loss of the whole batch, detached.

    A microbatch counts by its part of the images. The first one of a run is counted in operations; it
    then runs uncompiled.
    """
    device = next(state.model.parameters()).device
    num_images = sum(batch.num_images for batch in microbatches)
    sums: dict[str, Tensor] = {}

    def backward(batch: Batch, losses_of: Losses) -> None:
        with autocast(device, precision):
            losses = losses_of(batch.to(device))
        shares = {name: loss.float() * (batch.num_images / num_images) for name, loss in losses.items()}
        state.scaler.scale(torch.stack(list(shares.values())).sum()).backward()
        for name, share in shares.items():
            sums[name] = sums[name] + share.detach() if name in sums else share.detach()

    for batch in microbatches:
        if state.flops_per_pixel is None:
            first = batch
            # The model's own method: operations inside a compiled function cannot be seen.
            flops = count_flops(lambda: backward(first, state.model.losses))  # type: ignore[arg-type]  # noqa: B023
            state.flops_per_pixel = flops / padded_pixels(first)
        else:
            backward(batch, losses_of)
    return sums


def padded_pixels(batch: Batch) -> int:
    """Pixels of the batch, padding included: what convolutions work on."""
    num_images, _, height, width = batch.images.shape
    return int(num_images * height * width)


def count_step(state: TrainingState, microbatches: Sequence[Batch]) -> None:
    """Put the step on the bill, all but its time; operations in proportion to padded pixels."""
    for batch in microbatches:
        flops = round((state.flops_per_pixel or 0.0) * padded_pixels(batch))
        state.exposure = state.exposure + exposure_of(batch, flops=flops)
        state.images_seen += batch.num_images


def spend(state: TrainingState, seconds: float) -> None:
    """Put time on the bill."""
    state.exposure = state.exposure + Exposure(seconds=seconds)


def diverged(
    state: TrainingState, microbatches: Sequence[Batch], losses: dict[str, float], norm: float, lr: float
) -> DivergedError:
    """What is not finite, where, on which photographs, and what to do."""
    ids = [int(i) for batch in microbatches for i in batch.image_ids]
    named = ", ".join(map(str, ids[:MAX_NAMED])) + (", ..." if len(ids) > MAX_NAMED else "")
    shown = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    num_images = sum(batch.num_images for batch in microbatches)
    return DivergedError(
        f"not finite in step {state.images_seen // num_images} (after {state.images_seen} images, "
        f"rate {lr:.3g}): {shown}, gradient norm {norm:.4g}, on images {named}; the weights were not "
        "moved; lower schedule.lr, lengthen schedule.warmup_images, set optimizer.clip, or check these images"
    )
