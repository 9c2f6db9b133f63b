"""A run under way: its folder, its journal, and what is done with all of its parts."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from groundup.config import plain
from groundup.engine.checkpoint import Checkpoint, newest_checkpoint, remove_drafts
from groundup.engine.distributed import World
from groundup.engine.gauges import memory_held
from groundup.engine.journal import Journal, open_log
from groundup.engine.progress import Progress
from groundup.engine.readings import TakenStep
from groundup.engine.schedule import drop_points, late_point
from groundup.engine.state import TrainingState, Window, versions
from groundup.engine.step import Team, refuse_diverged, spend
from groundup.engine.stop import StopFlag
from groundup.engine.training import Plan
from groundup.errors import CheckpointError, Interrupted
from groundup.metering import PART, Stopwatch, pace_of
from groundup.records import lock_folder, read_json, write_json

RESULT = "result.json"
"""Written last: a run is done when it exists."""

Evaluate = Callable[[nn.Module, int], dict[str, float | None]]
"""Metrics of a model after so many images."""


def run_state(folder: Path) -> Literal["missing", "partial", "done"]:
    """How far the run of this folder has come, by what exists."""
    if (folder / RESULT).exists():
        return "done"
    return "partial" if open_log(folder).path.exists() else "missing"


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


def hold_folder(held: contextlib.ExitStack, folder: Path, recipe: str) -> None:
    """Lock the folder for as long as `held` is open, unless it is another recipe's.

    Raises:
        CheckpointError: it is, or another run holds it.
    """
    held.enter_context(lock_folder(folder))
    refuse_foreign(folder, recipe)


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


def result_of(folder: Path) -> dict[str, Any] | None:
    """What a finished run came to; None where it is not finished."""
    return dict(read_json(folder / RESULT)) if run_state(folder) == "done" else None


def open_checkpoints(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that proves itself; what killed processes left half written is removed."""
    checkpoint = newest_checkpoint(folder)
    remove_drafts(folder)
    return checkpoint


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
