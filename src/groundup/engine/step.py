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

from groundup.engine.capture import Outputs, Repeater
from groundup.engine.distributed import World
from groundup.engine.gradients import GradientSum
from groundup.engine.numerics import Precision, autocast, step_seed
from groundup.engine.optimizer import (
    OptimizerOptions,
    apply_lr,
    clip_gradients,
    gradient_norm,
    update_average,
)
from groundup.engine.readings import Guard, TakenStep, parameters_of
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
    guard: Guard | None = None
    """Stops what must not move while losses are read late; None where they are read at every step."""
    repeater: Repeater | None = None
    """Captures and repeats the step; None where it is taken as written."""


def build_team(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    share: Share,
    world: World,
    *,
    reads_late: bool = False,
    captures: bool = False,
) -> Team:
    """The processes of `world` at work on what the optimizer trains."""
    trained = parameters_of(optimizer)
    device = trained[0].device
    return Team(
        world=world,
        share=share,
        gradients=GradientSum(model, trained, world),
        guard=Guard(device) if reads_late or captures else None,
        repeater=Repeater(device) if captures else None,
    )


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
) -> TakenStep:
    """Move the weights once; what the step computed comes back, read or, under a guard, not.

    Without a guard the one wait for a GPU is the reading of these numbers, between the gradients and the
    optimizer; with one there is none. Either way nothing that is not finite reaches the weights.

    Raises:
        DivergedError: a loss or the gradient is not finite; the weights are as they were. Under a guard
            `refuse_diverged` raises it, once the step is read.
    """
    apply_lr(state.optimizer, lr)
    # Captured passes add to the gradients that lie there.
    state.optimizer.zero_grad(set_to_none=team.repeater is None)
    torch.manual_seed(step_seed(seed, state.images_seen, team.world.rank))
    sums = sum_losses(state, microbatches, losses_of, team, precision)
    finish_gradient(state, team)
    shares = team.world.sum_tensor(torch.stack([*sums.values()]))
    move = move_now if team.guard is None else move_guarded
    taken = TakenStep(
        names=tuple(sums),
        values=shares,
        images_seen=state.images_seen,
        lr=lr,
        image_ids=[batch.image_ids for batch in microbatches],
    )
    move(state, taken, options, team)
    if state.average is not None:
        update_average(state.average, state.model)
    count_step(state, microbatches, team)
    return taken


@part("optimizer")
def finish_gradient(state: TrainingState, team: Team) -> None:
    """Wait until all processes have added their gradients, and take the loss scale out of them."""
    team.gradients.finish()
    state.scaler.unscale_(state.optimizer)


@part("optimizer")
def move_now(state: TrainingState, taken: TakenStep, options: OptimizerOptions, team: Team) -> None:
    """Read the step and, where it is finite, move the weights; its values get the gradient's norm.

    Raises:
        DivergedError: it is not.
    """
    parameters = parameters_of(state.optimizer)
    norm = gradient_norm(parameters)
    taken.values = torch.cat([taken.values, norm.float()[None]]).cpu()
    losses, norm_value = taken.read()
    overflowed = state.scaler.is_enabled() and state.scaler.get_scale() > LEAST_SCALE
    if not all(map(math.isfinite, losses.values())) or not (math.isfinite(norm_value) or overflowed):
        raise diverged(taken, team)
    if math.isfinite(norm_value):
        clip_gradients(parameters, norm, options)
    else:
        state.skipped_steps += 1
    state.scaler.step(state.optimizer)
    state.scaler.update()


@part("optimizer")
def move_guarded(state: TrainingState, taken: TakenStep, options: OptimizerOptions, team: Team) -> None:
    """Move the weights unless anything was ever not finite; nobody waits. Values get the gradient's norm."""
    guard, optimizer = team.guard, state.optimizer
    assert guard is not None, "there is one, or the step is read at once"
    parameters = parameters_of(optimizer)

    def move(shares: Tensor) -> Outputs:
        norm = gradient_norm(parameters)
        values = torch.cat([shares, norm.float()[None]])
        guard.watch(values)
        clip_gradients(parameters, norm, options)
        guard.step(optimizer)
        return {"values": values}

    if team.repeater is None:
        taken.values = move(taken.values)["values"]
        return
    has_gradient = tuple(parameter.grad is not None for parameter in parameters)
    with capturable(optimizer):
        taken.values = team.repeater.run(("move", has_gradient), taken.values, move)["values"]


@contextlib.contextmanager
def capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Say to optimizers that ask that their step may be captured: all that it reads lies on the device."""
    groups = [group for group in optimizer.param_groups if "capturable" in group]
    optimizer._warned_capturable_if_run_uncaptured = True
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in groups:
            group["capturable"] = False


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

    def backward(batch: Batch, losses_of: Losses) -> Outputs:
        with autocast(device, precision):
            losses = losses_of(batch.to(device))
        part = batch.num_images / num_images * weight
        shares = {name: loss.float() * part for name, loss in losses.items()}
        backpropagate(state.scaler.scale(torch.stack(list(shares.values())).sum()))
        return {name: share.detach() for name, share in shares.items()}

    def counted(batch: Batch) -> Outputs:
        shares: Outputs = {}
        # The model's own method: operations inside a compiled function cannot be seen.
        flops = count_flops(lambda: shares.update(backward(batch, state.model.losses)))  # type: ignore[arg-type]
        flops, pixels = team.world.sum_counts([flops, padded_pixels(batch)])
        state.flops_per_pixel = flops / pixels
        if team.repeater is not None:
            team.repeater.forget()  # the model is new, or has changed its form
        return shares

    for batch in microbatches:
        is_last = batch is microbatches[-1]
        with team.gradients.last_pass() if is_last else contextlib.nullcontext():
            if state.flops_per_pixel is None:
                shares = counted(batch)
            elif team.repeater is not None:
                shares = team.repeater.run("pass", batch, lambda seen: backward(seen, losses_of))
            else:
                shares = backward(batch, losses_of)
        for name, share in shares.items():
            sums[name] = sums[name] + share if name in sums else share
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


def refuse_diverged(taken: TakenStep, team: Team) -> None:
    """Stop at a step that a guard has kept from the weights.

    Raises:
        DivergedError: a number of the step is not finite.
    """
    # Without a guard the step has been judged as it was taken; in fp16 an infinite norm is no reason to stop.
    if team.guard is not None and not taken.is_finite():
        raise diverged(taken, team)


def diverged(taken: TakenStep, team: Team) -> DivergedError:
    """What is not finite, where, on which photographs of all processes, and what to do; the first says it."""
    losses, norm = taken.read()
    own = [int(i) for image_ids in taken.image_ids for i in image_ids]
    ids = [i for part in team.world.gather(lambda: own) for i in part]
    named = ", ".join(map(str, ids[:MAX_NAMED])) + (", ..." if len(ids) > MAX_NAMED else "")
    shown = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    num_images = len(taken.image_ids) * team.share.num_images
    error = DivergedError(
        f"not finite in step {taken.images_seen // num_images} (after {taken.images_seen} images, "
        f"rate {taken.lr:.3g}): {shown}, gradient norm {norm:.4g}, on images {named}; the weights were not "
        "moved; lower schedule.lr, lengthen schedule.warmup_images, set optimizer.clip, or check these images"
    )
    error.is_told = not team.world.leads
    return error
