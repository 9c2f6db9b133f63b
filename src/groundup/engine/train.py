"""The loop. It trains anything with `losses(batch)`; all it needs is passed in, all it says is logged.

State on disk: nothing, a log and checkpoints, or `result.json`, which is written last. The same call
starts, goes on, or returns the result. What is done after a step is a function of the images seen, so
a run that was stopped or killed anywhere ends, on a CPU, with the bits of one that was not.

Several processes (`engine.distributed`) go through the same loop in step. The first one holds the folder and
the journal; what it reads there, and whatever depends on a clock or a signal, all of them agree on.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groundup.engine.capture import check_capture
from groundup.engine.distributed import World, first_line
from groundup.engine.gauges import build_stopwatch
from groundup.engine.journal import Journal
from groundup.engine.late import check_late_parts, enter_phase
from groundup.engine.numerics import build_scaler, determinism
from groundup.engine.optimizer import build_average, build_optimizer
from groundup.engine.run import (
    Evaluate,
    Run,
    conclude,
    hold_folder,
    open_checkpoints,
    open_journal,
    record_window,
    result_of,
)
from groundup.engine.schedule import check_schedule
from groundup.engine.state import TrainingState
from groundup.engine.step import Losses, build_team, draw_microbatches, take_step
from groundup.engine.stop import StopFlag, listening
from groundup.engine.training import Plan, TrainOptions
from groundup.errors import DivergedError, Interrupted, UsageError
from groundup.metering import part
from groundup.shares import Share
from groundup.structures import Batch

MOST_SHAPES = 64
"""Shapes of captured batches that the losses are compiled for. Past its own limit, 8, torch compiles no more,
and five sizes with a few rungs of truth are more; left to itself it would, from the second shape on, compile
for sizes that it does not know."""

Batches = Callable[[int], Iterator[Batch]]
"""From a position in the order of images, the batches that follow, without end."""


def train(
    model: nn.Module,
    batches: Batches,
    options: TrainOptions,
    folder: Path,
    *,
    num_images: int,
    seed: int,
    recipe: str,
    evaluate: Evaluate | None = None,
    stop: StopFlag | None = None,
    quiet: bool = False,
    world: World | None = None,
    loss_images: int = 1,
) -> dict[str, Any]:
    """Train the model where it lies, in the folder: start, go on, or return what is done.

    The model has `losses(batch)`, named scalars that are summed, and comes with its first weights on its
    device; `evaluate` gets it in eval mode, without gradients. `num_images` counts the photographs of the
    training set, in which the schedule is measured. `seed` is of what a step draws besides `Batch.seeds`;
    the order of images is `batches`' own. `recipe` names all that the weights hang on (a fingerprint); a
    folder belongs to one. `stop` is shared with `evaluate`, which polls it by `stop.check()`; None makes
    one that only the loop polls. Returned is what `result.json` holds.

    With a `world` of several processes each calls this alike, with the batches of its own share, and gets the
    same result; losses are then means over groups of `loss_images` images. `evaluate` is called in all.

    Raises:
        Interrupted: asked to stop; a checkpoint is written.
        DivergedError: a loss or gradient is not finite; it never reached the weights.
        CheckpointError: the folder is in use, another recipe's or damaged, or the disk is full.
        UsageError: a schedule or batches that cannot be, or processes that were started differently.
    """
    place = world = world or World()
    world.together(lambda: check_schedule(options.schedule, num_images))
    world.together(lambda: check_late_parts(model, options.schedule))
    if options.capture:
        world.together(lambda: check_capture(next(model.parameters()).device, place.size))
    plan = Plan(options=options, num_images=num_images, seed=seed, recipe=recipe)
    share = world.together(
        lambda: Share(
            num_images=plan.batch_size // options.accumulate,
            group_size=loss_images,
            rank=place.rank,
            world_size=place.size,
        )
    )
    device = next(model.parameters()).device
    with (
        contextlib.ExitStack() as held,
        listening(stop, options.upkeep.time_limit) as flag,
        determinism(device, strict=options.deterministic),
    ):
        world.agree_on({"the version of torch": str(torch.__version__), "the recipe's fingerprint": recipe})
        world.lead(lambda: hold_folder(held, folder, recipe))
        finished = world.lead(lambda: result_of(folder))
        if finished is not None:
            return finished
        state = build_state(model, plan, device)
        checkpoint = world.lead(lambda: open_checkpoints(folder))
        if checkpoint is not None:
            world.together(lambda: state.load(checkpoint, recipe=recipe))
        journals: list[Journal] = []
        world.lead(
            lambda: journals.append(open_journal(held, folder, state, plan, checkpoint, world, quiet=quiet))
        )
        run = Run(
            folder=folder,
            plan=plan,
            state=state,
            team=build_team(
                model,
                state.optimizer,
                share,
                world,
                reads_late=options.read_every > 1,
                captures=options.capture,
            ),
            journal=journals[0] if journals else None,
            evaluate=evaluate,
            stop=flag,
            stopwatch=build_stopwatch(device) if options.upkeep.profile else None,
        )
        try:
            loop(run, batches)
            path = run.save()
            run.judge()
        except Interrupted:
            raise run.interrupted() from None
        except DivergedError as error:
            run.append("diverged", message=str(error))
            raise
        return world.lead(lambda: conclude(run, path))


def loop(run: Run, batches: Batches) -> None:
    """Take the steps that are left; log, save and evaluate when due.

    A checkpoint comes before the evaluation that is due with it, so that of an interrupted evaluation
    nothing else is repeated.
    """
    plan, state = run.plan, run.state
    options, upkeep = plan.options, plan.options.upkeep
    if state.images_seen >= plan.total:
        return
    losses_of = losses_method(state.model, compiled=options.compile, captured=options.capture)
    state.model.train()
    if state.images_seen > 0 and plan.is_due(state.images_seen, options.evaluate_every):
        run.judge()
    stream = batches(state.images_seen)
    saved_at = time.monotonic()
    run.pulse()
    while True:
        began = time.monotonic()
        with run.step_timed():
            microbatches = draw_microbatches(stream, options.accumulate, run.team.share)
            waited = time.monotonic() - began
            enter_phase(state, is_late=plan.is_late(state.images_seen))
            lr = plan.lr(state.images_seen)
            taken = take_step(
                state,
                microbatches,
                losses_of,
                options.optimizer,
                run.team,
                lr=lr,
                seed=plan.seed,
                precision=options.precision,
            )
        taken.seconds, taken.waited = time.monotonic() - began, waited
        run.unread.append(taken)
        if len(run.unread) >= options.read_every:
            run.read()
        is_last = state.images_seen >= plan.total
        if is_last or plan.is_due(state.images_seen, upkeep.log_every):
            record_window(run, lr)
        if is_last:
            return
        by_clock = run.pulse(is_late=time.monotonic() - saved_at >= (upkeep.checkpoint_seconds or math.inf))
        is_due = plan.is_due(state.images_seen, upkeep.checkpoint_every)
        if is_due or by_clock or state.images_seen in upkeep.keep_at:
            run.save()
            saved_at = time.monotonic()
        if plan.is_due(state.images_seen, options.evaluate_every):
            run.judge()


def build_state(model: nn.Module, plan: Plan, device: torch.device) -> TrainingState:
    """The state before the first step; on a GPU the weights lie channels last, where its kernels are fast."""
    if device.type == "cuda":
        model.to(memory_format=torch.channels_last)
    return TrainingState(
        model=model,
        optimizer=build_optimizer(
            model,
            plan.options.optimizer,
            is_unread=plan.options.capture or plan.options.read_every > 1,
        ),
        average=build_average(model, plan.options.optimizer),
        scaler=build_scaler(device, plan.options.precision),
    )


def losses_method(model: nn.Module, *, compiled: bool, captured: bool) -> Losses:
    """The model's `losses`, compiled if asked for; for captured steps once for each shape.

    Raises:
        UsageError: it has none; by the losses given, that torch cannot compile on this machine.
    """
    losses_of = getattr(model, "losses", None)
    if losses_of is None:
        raise UsageError(f"a {type(model).__name__} cannot be trained: it has no method losses(batch)")
    if not compiled:
        chosen: Losses = losses_of
        return chosen
    if captured:
        torch._dynamo.config.recompile_limit = MOST_SHAPES
    compiled_losses = torch.compile(losses_of, dynamic=False if captured else None)

    def losses(batch: Batch) -> dict[str, torch.Tensor]:
        try:
            found: dict[str, torch.Tensor] = compiled_losses(batch)
        except torch._dynamo.exc.ShortenTraceback as error:
            raise UsageError(
                f"training.compile is true, but torch cannot compile here: {first_line(error)}; mend that, "
                "or write training.compile=false"
            ) from error
        return found

    # What is compiled into one piece has no parts.
    return part("compiled losses", is_whole=True)(losses)
