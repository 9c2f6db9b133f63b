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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import nn

from groundup.config import Options, plain
from groundup.engine.capture import check_capture
from groundup.engine.checkpoint import Checkpoint, newest_checkpoint, remove_drafts
from groundup.engine.distributed import TIMEOUT, World
from groundup.engine.gauges import build_stopwatch, memory_held
from groundup.engine.journal import Journal, open_log
from groundup.engine.late import check_late_parts, enter_phase
from groundup.engine.numerics import Precision, build_scaler, determinism
from groundup.engine.optimizer import OptimizerOptions, build_average, build_optimizer
from groundup.engine.progress import Progress
from groundup.engine.readings import TakenStep
from groundup.engine.schedule import (
    ScheduleOptions,
    check_schedule,
    drop_points,
    is_late,
    late_point,
    lr_at,
    total_images,
)
from groundup.engine.state import TrainingState, Window, versions
from groundup.engine.step import (
    Losses,
    Team,
    build_team,
    draw_microbatches,
    refuse_diverged,
    spend,
    take_step,
)
from groundup.engine.stop import StopFlag, listening
from groundup.errors import CheckpointError, DivergedError, Interrupted, UsageError
from groundup.metering import PART, Stopwatch, pace_of, part
from groundup.records import lock_folder, read_json, write_json
from groundup.shares import Share
from groundup.structures import Batch

RESULT = "result.json"
"""Written last: a run is done when it exists."""

MOST_SHAPES = 64
"""Shapes of captured batches that the losses are compiled for. Past its own limit, 8, torch compiles no more,
and five sizes with a few rungs of truth are more; left to itself it would, from the second shape on, compile
for sizes that it does not know."""

Batches = Callable[[int], Iterator[Batch]]
"""From a position in the order of images, the batches that follow, without end."""
Evaluate = Callable[[nn.Module, int], dict[str, float | None]]
"""Metrics of a model after so many images."""


class UpkeepOptions(Options):
    """What a run does besides learning; none of it changes the weights."""

    log_every: int = 320
    """Images between records of the losses, 20 steps of 16."""
    checkpoint_every: int | None = 80_000
    """Images between checkpoints, 5,000 steps of 16 as in Detectron2; None: by the clock and at the end."""
    checkpoint_seconds: float | None = 900.0
    """Seconds between checkpoints; None: only by images."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay. Two: the older one stands while the newer is proven."""
    keep_at: tuple[int, ...] = ()
    """Images seen after which a checkpoint is written that always stays: where other runs branch off."""
    process_timeout: float = TIMEOUT
    """Seconds that processes which train together wait for one another; a killed one is noticed at once."""
    time_limit: float | None = None
    """Seconds until the run writes a checkpoint and leaves with status 75; None: no limit."""
    tensorboard: bool = True
    """Whether the log is repeated as TensorBoard events."""
    profile: bool = False
    """Whether the log says where a step's time went, part by part. On a GPU each part is then waited for,
    which costs time but no bit; `train --profile` for short."""

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> "UpkeepOptions":
        """Refuse periods that never come."""
        for name in (
            "log_every",
            "checkpoint_every",
            "checkpoint_seconds",
            "keep_checkpoints",
            "process_timeout",
            "time_limit",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}, but must be above 0")
        if any(point <= 0 for point in self.keep_at):
            raise ValueError(f"keep_at is {list(self.keep_at)}, but all must be above 0")
        return self


class TrainOptions(Options):
    """How a model learns."""

    schedule: ScheduleOptions = ScheduleOptions()
    """Length, batch size, learning rate."""
    optimizer: OptimizerOptions = OptimizerOptions()
    """How gradients become steps."""
    accumulate: int = 1
    """Microbatches an optimizer step; the batches passed in have schedule.batch_size / accumulate images,
    over all processes. Equal to the big batch for losses that are means over images."""
    precision: Precision = "fp32"
    """fp32 as written, or autocast to bf16, or to fp16 with a loss scale."""
    compile: bool = False
    """Compile the losses with torch.compile; each new shape may be compiled anew (`transforms.buckets`)."""
    capture: bool = False
    """Capture steps as CUDA graphs, one for each shape, and repeat them: for one process on one GPU, with
    `model.roi_slots=fixed` and `transforms.buckets`. With or without `compile`."""
    read_every: int = 1
    """Steps between readings of losses. At 1 every step waits for the GPU to say that its losses are finite;
    above 1 the GPU itself keeps what is not finite from the weights, and the run stops when it is read: at
    the latest before anything is logged, evaluated or saved."""
    evaluate_every: int | None = None
    """Images between evaluations; one always follows the last step. None: only that."""
    deterministic: bool = False
    """Bit-equal runs on a GPU too, slower; a CPU always is."""
    upkeep: UpkeepOptions = UpkeepOptions()
    """Log, checkpoints, limits: no part of a run's identity."""

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> "TrainOptions":
        """Refuse counts and periods below 1, microbatches that do not fill a batch, and unread fp16."""
        if self.precision == "fp16" and (self.capture or self.read_every > 1):
            raise ValueError(
                "precision is fp16, whose loss scale is read at every step, but capture is "
                f"{str(self.capture).lower()} and read_every {self.read_every}: write precision=bf16"
            )
        for name in ("accumulate", "evaluate_every", "read_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        if self.schedule.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate is {self.accumulate}, "
                f"but must divide schedule.batch_size {self.schedule.batch_size}"
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that is settled before the first step."""

    options: TrainOptions
    num_images: int
    seed: int
    recipe: str

    @property
    def total(self) -> int:
        """Images of the whole run."""
        return total_images(self.options.schedule, self.num_images)

    @property
    def batch_size(self) -> int:
        """Images a step, of all processes together."""
        return self.options.schedule.batch_size

    def lr(self, images_seen: int) -> float:
        """Rate of the step that begins there."""
        return lr_at(images_seen, self.options.schedule, self.num_images)

    def is_late(self, images_seen: int) -> bool:
        """Whether late parts take part in the step that begins there."""
        return is_late(images_seen, self.options.schedule, self.num_images)

    def is_due(self, images_seen: int, every: int | None) -> bool:
        """Whether something done every so many images is done after the step that ended there."""
        return every is not None and images_seen // every > (images_seen - self.batch_size) // every


def run_state(folder: Path) -> Literal["missing", "partial", "done"]:
    """How far the run of this folder has come, by what exists."""
    if (folder / RESULT).exists():
        return "done"
    return "partial" if open_log(folder).path.exists() else "missing"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The parts of a run under way, and what is done with all of them."""

    folder: Path
    plan: Plan
    state: TrainingState
    team: Team
    journal: Journal | None
    """The first process's; None in the others."""
    evaluate: Evaluate | None
    stop: StopFlag
    stopwatch: Stopwatch | None
    """Counts the parts of steps; None without `profile`."""
    unread: list[TakenStep] = field(default_factory=list)
    """Steps whose losses the host has not seen."""

    def read(self) -> None:
        """See the losses of all steps taken; count and show them.

        Raises:
            DivergedError: one was not finite; the weights are as they were before it.
        """
        began = time.monotonic()
        for taken in self.unread:
            refuse_diverged(taken, self.team)
        waited_for_device = (time.monotonic() - began) / max(1, len(self.unread))
        for taken in self.unread:
            record_step(self, taken, waited_for_device)
        self.unread.clear()

    def append(self, kind: str, **facts: Any) -> None:
        """Add a record to the log."""
        if self.journal is not None:
            self.journal.append(kind, self.state.images_seen, **facts)

    def step_timed(self) -> contextlib.AbstractContextManager[None]:
        """Counts the parts of a step taken inside, where that was asked for."""
        return contextlib.nullcontext() if self.stopwatch is None else self.stopwatch.running()

    def save(self) -> Path:
        """Commit a checkpoint, not before its log is on the disk and its losses are known to be finite."""
        self.read()
        return self.team.world.lead(self._commit)

    def _commit(self) -> Path:
        assert self.journal is not None, "the first process has one"
        self.journal.flush()
        upkeep = self.plan.options.upkeep
        path = self.state.save(
            self.folder, recipe=self.plan.recipe, keep=upkeep.keep_checkpoints, keep_at=upkeep.keep_at
        )
        self.append("checkpoint", path=path.relative_to(self.folder).as_posix())
        return path

    def judge(self) -> None:
        """Evaluate the weights that count, unless the log already says what came out."""
        self.read()
        state, world = self.state, self.team.world
        if self.evaluate is None or world.lead(self._is_judged):
            return
        began = time.monotonic()
        state.judged.eval()
        try:
            with torch.no_grad():
                world.share_buffers(state.judged)
                metrics = self.evaluate(state.judged, state.images_seen)
        finally:
            state.model.train()
        if self.journal is not None:
            self.journal.evaluation(state.images_seen, metrics, time.monotonic() - began)

    def _is_judged(self) -> bool:
        assert self.journal is not None, "the first process has one"
        return self.journal.evaluated(self.state.images_seen) is not None

    def pulse(self, *, is_late: bool = False) -> bool:
        """Between two steps: whether the clock asks for a checkpoint in any process.

        Raises:
            Interrupted: any process was asked to stop; all of them stop here.
            DivergedError: as `read`.
        """
        reason = self.stop.reason
        must_stop, must_save = self.team.world.any_of([reason is not None, is_late])
        if must_stop:
            self.read()
            raise Interrupted(f"stopped by {reason}")
        return must_save

    def interrupted(self) -> Interrupted:
        """Save; what there is to say of it."""
        reason = self.team.world.first_of(self.stop.reason) or "another process"
        path = self.save()
        self.append("stop", reason=reason)
        error = Interrupted(
            f"stopped by {reason} after {self.state.images_seen} of {self.plan.total} images; "
            f"{path} is written; the same command goes on from there"
        )
        error.is_told = not self.team.world.leads
        return error


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


def hold_folder(held: contextlib.ExitStack, folder: Path, recipe: str) -> None:
    """Lock the folder for as long as `held` is open, unless it is another recipe's.

    Raises:
        CheckpointError: it is, or another run holds it.
    """
    held.enter_context(lock_folder(folder))
    refuse_foreign(folder, recipe)


def result_of(folder: Path) -> dict[str, Any] | None:
    """What a finished run came to; None where it is not finished."""
    return dict(read_json(folder / RESULT)) if run_state(folder) == "done" else None


def open_checkpoints(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that proves itself; what killed processes left half written is removed."""
    checkpoint = newest_checkpoint(folder)
    remove_drafts(folder)
    return checkpoint


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
        UsageError: it has none.
    """
    losses_of = getattr(model, "losses", None)
    if losses_of is None:
        raise UsageError(f"a {type(model).__name__} cannot be trained: it has no method losses(batch)")
    if not compiled:
        chosen: Losses = losses_of
        return chosen
    if captured:
        torch._dynamo.config.recompile_limit = MOST_SHAPES
    # What is compiled into one piece has no parts.
    return part("compiled losses", is_whole=True)(
        torch.compile(losses_of, dynamic=False if captured else None)
    )


def record_step(run: Run, taken: TakenStep, waited_for_device: float) -> None:
    """Count a step and show it; its part of the wait for its numbers belongs to its time."""
    state, batch_size = run.state, run.plan.batch_size
    losses, norm = taken.read()
    seconds = taken.seconds + waited_for_device
    spend(state, seconds)
    state.window.add(losses, norm, images=batch_size, seconds=seconds, waited=taken.waited)
    if run.journal is not None:
        loss, seen = sum(losses.values()), taken.images_seen + batch_size
        run.journal.progress.step(seen, loss=loss, seconds=seconds, waited=taken.waited)


def record_window(run: Run, lr: float) -> None:
    """Log the steps since the last record and begin anew."""
    run.read()
    state, window = run.state, run.state.window
    bill = state.exposure.to_json()
    timing = window.timing() | {"exposure_seconds": bill.pop("seconds")} | memory_held(state.model)
    if run.stopwatch is not None:
        parts = run.stopwatch.take(window.seconds)
        timing |= {f"{PART}{name}": seconds for name, seconds in parts.items()}
    facts = {
        "lr": lr,
        "gradient_norm": window.mean_norm(),
        "skipped_steps": state.skipped_steps,
        "exposure": bill,
    }
    if run.journal is not None:
        run.journal.train(state.images_seen, window.mean_losses(), facts, timing)
    state.window = Window()


def open_journal(
    held: contextlib.ExitStack,
    folder: Path,
    state: TrainingState,
    plan: Plan,
    checkpoint: Checkpoint | None,
    world: World,
    *,
    quiet: bool,
) -> Journal:
    """The journal, open for as long as `held` is; it says what the run is made of and where it goes on."""
    progress = Progress(plan.total, state.images_seen, quiet=quiet)
    tensorboard = plan.options.upkeep.tensorboard
    journal = Journal(folder, state.images_seen, plan.batch_size, progress, tensorboard=tensorboard)
    held.enter_context(journal)
    skipped = () if checkpoint is None else checkpoint.skipped
    journal.append(
        "start",
        state.images_seen,
        recipe=plan.recipe,
        seed=plan.seed,
        num_images=plan.num_images,
        total_images=plan.total,
        drop_points=drop_points(plan.options.schedule, plan.num_images),
        late_point=late_point(plan.options.schedule, plan.num_images),
        options=plain(plan.options),
        versions=versions(),
        processes=world.size,
        skipped_checkpoints=skipped,
    )
    for line in skipped:
        journal.progress.note(f"passed over {line}")
    if checkpoint is not None:
        journal.progress.note(f"going on from {checkpoint.path} after {state.images_seen} images")
    return journal


def conclude(run: Run, path: Path) -> dict[str, Any]:
    """Write the result, by which the run is done, and give it back."""
    state, journal = run.state, run.journal
    assert journal is not None, "the first process has one"
    losses = [record["loss"] for record in journal.log.read() if record["kind"] == "train"]
    metrics = journal.evaluated(state.images_seen)
    result = {
        "recipe": run.plan.recipe,
        "images_seen": state.images_seen,
        "loss": losses[-1],
        "metrics": metrics,
        "exposure": state.exposure.to_json(),
        "skipped_steps": state.skipped_steps,
        "checkpoint": path.relative_to(run.folder).as_posix(),
    }
    journal.append("done", state.images_seen, metrics=metrics)
    pace = pace_of(journal.log.read())
    if pace is not None and run.stopwatch is not None:
        for line in pace.lines():
            journal.progress.note(line)
    journal.flush()
    write_json(run.folder / RESULT, result)
    return dict(read_json(run.folder / RESULT))


def refuse_foreign(folder: Path, recipe: str) -> None:
    """Refuse a folder that another recipe began.

    Raises:
        CheckpointError: it did.
    """
    for record in open_log(folder).read():
        if record["kind"] == "start" and record["recipe"] != recipe:
            raise CheckpointError(
                f"{folder}: holds a run of recipe {record['recipe']}, but this is {recipe}; "
                "choose another --out"
            )
