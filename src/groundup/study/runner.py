"""Carries out what is missing of a study, in processes of this machine; the same call goes on.

What is to be done is decided by what exists: a run is done when its `result.json` is there. One runner
works in a study's folder at a time, a second says so; a run whose folder another process holds, such as one
left over from a runner that was killed, is waited for. Nothing here trains, and nothing imports torch but
to count GPUs.
"""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from groundup.engine.stop import StopFlag
from groundup.errors import (
    EXIT_RESUMABLE,
    CheckpointError,
    DivergedError,
    GroundupError,
    Interrupted,
)
from groundup.records import is_held, lock_folder, write_json
from groundup.study.display import Display
from groundup.study.plan import Plan, RunPlan, build_plan, read_plan, write_plan
from groundup.study.results import FAILURE, LOG, PLAN, RESULT
from groundup.study.search import write_trial_data
from groundup.study.search_results import conclude_search, has_diverged, is_trial, read_searches
from groundup.study.status import axis_words, read_status
from groundup.study.study import PRETRAINING, Study, load_study, register_study
from groundup.study.worker import run_path
from groundup.study.workers import STDERR, TAKEN_BACK, Crew, Workers

POLL_SECONDS = 0.1
"""How often ended runs and signals are looked for."""
CHECKPOINT = "checkpoints/images_{:09d}/COMMIT"
"""What exists when a run has come to a branch point. Source: groundup.engine.checkpoint."""
CHECKPOINTS = "checkpoints/images_*/COMMIT"
"""All of them."""
OMP_THREADS = "OMP_NUM_THREADS"
"""Threads of a process; a list is by depth, the first of which counts. Source: OpenMP 5.2, section 21.1.2."""
MAX_TAKEN_BACK = 3
"""How often in a row a run may lose its machine without a further checkpoint before it is left alone."""
TAIL_CHARACTERS = 2000
"""Of what a failed run's process wrote, to find its last line in."""


class FailedRunsError(GroundupError):
    """Runs of a study failed; the others are done."""

    exit_code: ClassVar[int] = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOutcome:
    """What a call of the runner came to; runs by key, pre-training as `pretraining:NAME`."""

    done: tuple[str, ...] = ()
    """Done now or before."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why, by key."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Not tried because what they begin from failed: which, by key."""
    interrupted: tuple[str, ...] = ()
    """Stopped by something else than this runner; they go on by the same command."""

    def refuse_failures(self) -> None:
        """Raise what the exit status is to say.

        Raises:
            FailedRunsError: a run failed.
            Interrupted: none failed, but one was stopped.
        """
        if self.failed:
            key, message = next(iter(self.failed.items()))
            more = f" and {len(self.failed) - 1} more" if len(self.failed) > 1 else ""
            skipped = f", {len(self.skipped)} skipped that begin from them" if self.skipped else ""
            raise FailedRunsError(
                f"{len(self.failed)} runs failed ({key}: {message}{more}){skipped}; the others are done; "
                "the same command tries them again"
            )
        if self.interrupted:
            raise Interrupted(
                f"{len(self.interrupted)} runs were stopped; the same command goes on with them"
            )


def run_study(
    folder: Path,
    *,
    processes: int = 1,
    threads: int | None = None,
    quiet: bool = False,
    time_limit: float | None = None,
    workers: Crew | None = None,
) -> StudyOutcome:
    """Carry out what is missing of the planned study in the folder (`plan.write_plan`).

    Args:
        folder: of a study that is set down and planned.
        processes: runs at a time.
        threads: of each; None: as `threads_each`.
        quiet: say nothing but failures.
        time_limit: seconds after which every run writes a checkpoint and the call ends as by a signal.
        workers: those to use, with their number of threads; None: some of its own.

    Raises:
        Interrupted: asked to stop by a signal or the time limit; every run wrote a checkpoint.
        CheckpointError: another runner is at work in the folder.
    """
    plan = read_plan(folder)
    count = threads_each(processes, threads)
    with (
        only_runner(folder),
        StopFlag(time_limit) as stop,
        Display(quiet=quiet) as display,
        ExitStack() as stack,
    ):
        while True:
            runner = Runner(folder, plan, display, processes)
            if not runner.is_finished:
                if workers is None:
                    workers = stack.enter_context(Workers(threads=count, devices=visible_devices()))
                runner.work(workers, stop)
                display.show(read_status(folder))
            outcome = runner.outcome()
            if not plan.is_open or outcome.failed or outcome.interrupted:
                return outcome
            plan = follow_search(folder, plan, display)


def follow_search(folder: Path, plan: Plan, display: Display) -> Plan:
    """The plan after its known trials have ended: further trials, or the runs with what won.

    Raises:
        UsageError: no trial of a search has a score.
        DataError: data or weights cannot be used any more.
    """
    if conclude_search(folder):
        for search in read_searches(folder):
            words = [search.arm, *axis_words(search.place)]
            display.note(f"won      {', '.join(words)}: {search.winner}, {search.why}")
    plan = build_plan(load_study(folder), folder, commands=plan.commands)
    write_plan(folder, plan)
    return plan


def begin_study(study: Study, folder: Path, *, commands: Sequence[str] = ()) -> Plan:
    """Set a study, its question and its plan down in the folder before training, or find them unchanged.

    `commands` are those that carry it out, for the report; the first ones written stay.

    Raises:
        UsageError: another study, question or plan stands there.
        DataError: data or weights that cannot be used.
    """
    if (folder / PLAN).exists():
        commands = read_plan(folder).commands or commands
    plan = build_plan(study, folder, commands=commands)
    register_study(folder, study)
    write_trial_data(study, folder)
    write_plan(folder, plan)
    return plan


def threads_each(processes: int, threads: int | None = None) -> int:
    """Threads of each of so many processes.

    None: what OMP_NUM_THREADS says, as in any program of torch; else the processors this process may use,
    shared out.
    """
    told = os.environ.get(OMP_THREADS, "").partition(",")[0]
    if threads is None and told.isdecimal() and int(told) > 0:
        return int(told)
    return threads or max(1, len(os.sched_getaffinity(0)) // processes)


@contextmanager
def only_runner(folder: Path) -> Iterator[None]:
    """Hold the study for this runner.

    Raises:
        CheckpointError: another holds it.
    """
    if is_held(folder):
        raise CheckpointError(
            f"{folder}: another `groundup study run` is at work in it; "
            "`groundup study status` shows how far it is"
        )
    with lock_folder(folder):
        yield


def visible_devices() -> list[str]:
    """Values of CUDA_VISIBLE_DEVICES for one GPU each; none where there is no GPU."""
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named or [str(number) for number in range(count)] if count else []


class Runner:
    """What is waiting, at work, done and given up."""

    def __init__(self, folder: Path, plan: Plan, display: Display, processes: int) -> None:
        """Look at what exists; trunks come before their branches, long runs before short ones."""
        self._folder, self._plan, self._display, self._processes = folder, plan, display, processes
        runs = () if plan.is_open else plan.runs
        self._runs: dict[str, RunPlan] = {run.key: run for run in (*plan.trials, *runs)}
        keys = [f"{PRETRAINING}:{one.name}" for one in plan.pretraining]
        keys += [trial.key for trial in plan.trials]
        keys += [run.key for run in sorted(runs, key=lambda run: run.parent is not None)]
        self._done = [key for key in keys if self.is_done(key)]
        self._waiting = [key for key in keys if key not in self._done]
        self._active: set[str] = set()
        self._failed: dict[str, str] = {}
        self._skipped: dict[str, str] = {}
        self._interrupted: list[str] = []
        self._lost: dict[str, tuple[str, int]] = {}
        self._is_stopping = False

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        return not self._waiting and not self._active

    def outcome(self) -> StudyOutcome:
        """What it came to."""
        return StudyOutcome(
            done=tuple(self._done),
            failed=dict(self._failed),
            skipped=dict(self._skipped),
            interrupted=tuple(self._interrupted),
        )

    def work(self, workers: Crew, stop: StopFlag) -> None:
        """Keep the workers busy until nothing is left.

        Raises:
            Interrupted: asked to stop; every run's process has ended.
        """
        while not self.is_finished:
            if stop.reason is not None:
                self.halt(workers, stop.reason)
            self.skip_orphans()
            for key in self.ready()[: self._processes - len(self._active)]:
                self.start(key, workers)
            for key, status in workers.ended():
                self.conclude(key, status)
            if self._display.is_due:
                self._display.show(read_status(self._folder))
            time.sleep(POLL_SECONDS)

    def halt(self, workers: Crew, reason: str) -> None:
        """Ask every run to stop, and wait for it.

        Raises:
            Interrupted: always.
        """
        self._is_stopping = True
        if self._active:
            self._display.note(f"stopping {len(self._active)} runs by {reason}")
            workers.stop(signal.SIGTERM)
        while self._active:
            for key, status in workers.ended():
                self.conclude(key, status)
            time.sleep(POLL_SECONDS)
        raise Interrupted(
            f"stopped by {reason}; {len(self._done)} runs are done, {len(self._interrupted)} begun and "
            f"{len(self._waiting)} others are left; the same command goes on"
        )

    def ready(self) -> list[str]:
        """Runs that can begin now, in the order in which they should."""
        return [key for key in self._waiting if self.is_free(key) and not is_held(self.path(key))]

    def is_free(self, key: str) -> bool:
        """Whether what the run begins from is there."""
        run = self._runs.get(key)
        if run is None:
            return True
        if run.pretraining is not None and not self.is_done(f"{PRETRAINING}:{run.pretraining}"):
            return False
        if run.parent is None or self.has_begun(key) or self.is_done(run.parent):
            return True
        return (self.path(run.parent) / CHECKPOINT.format(run.branch_images)).is_file()

    def has_begun(self, key: str) -> bool:
        """Whether the run has a checkpoint of its own, so that it needs no other run."""
        return any(self.path(key).glob(CHECKPOINTS))

    def is_done(self, key: str) -> bool:
        """Whether its result is there; that a trial diverges is one."""
        return (self.path(key) / RESULT).exists() or has_diverged(self._folder, key)

    def path(self, key: str) -> Path:
        """The run's folder."""
        return run_path(self._folder, key)

    def skip_orphans(self) -> None:
        """Give up runs that would begin from one that failed or was given up or stopped."""
        for key in list(self._waiting):
            run = self._runs.get(key)
            if run is None or self.is_free(key):
                continue
            sources = [run.parent] if run.parent else []
            sources += [f"{PRETRAINING}:{run.pretraining}"] if run.pretraining else []
            for source in sources:
                if source in self._failed or source in self._skipped:
                    self._waiting.remove(key)
                    self._skipped[key] = f"{source}, which it begins from, failed"
                    self._display.note(f"skipped  {self.title(key)}: {self._skipped[key]}", always=True)
                    break
                if source in self._interrupted:
                    self._waiting.remove(key)
                    self._interrupted.append(key)
                    break

    def start(self, key: str, workers: Crew) -> None:
        """Begin a run or go on with it."""
        goes_on = (self.path(key) / LOG).exists()
        (self.path(key) / FAILURE).unlink(missing_ok=True)
        workers.start(self._folder, key)
        self._waiting.remove(key)
        self._active.add(key)
        self._display.note(f"{'goes on ' if goes_on else 'started '} {self.title(key)}")

    def conclude(self, key: str, status: int) -> None:
        """Take note of how a run's process ended."""
        self._active.discard(key)
        # A run that is still opening its data has nothing to save and ends by the signal itself.
        was_stopped = status == EXIT_RESUMABLE or (self._is_stopping and status == -signal.SIGTERM)
        if self.is_done(key):
            self._done.append(key)
            self._display.note(f"done     {self.title(key)}")
        elif status == TAKEN_BACK and self.begins_again(key):
            self._waiting.insert(0, key)
            self._display.note(f"lost     {self.title(key)}: its machine is gone; it begins again")
        elif was_stopped or status == TAKEN_BACK:
            self._interrupted.append(key)
            self._display.note(f"stopped  {self.title(key)}")
        else:
            message = failure_message(self.path(key) / STDERR, status)
            time_of = datetime.now(UTC).isoformat(timespec="seconds")
            record = {"message": message, "exit_code": status, "time": time_of}
            write_json(self.path(key) / FAILURE, record)
            if is_trial(key) and status == DivergedError.exit_code:
                self._done.append(key)
                self._display.note(f"diverged {self.title(key)}")
                return
            self._failed[key] = message
            self._display.note(f"failed   {self.title(key)}: {message}", always=True)

    def begins_again(self, key: str) -> bool:
        """Whether a run that lost its machine is given another one, now that it has lost it once more."""
        newest = max((path.parent.name for path in self.path(key).glob(CHECKPOINTS)), default="")
        before, times = self._lost.get(key, (newest, 0))
        self._lost[key] = newest, times + 1 if newest == before else 1
        return not self._is_stopping and self._lost[key][1] <= MAX_TAKEN_BACK

    def title(self, key: str) -> str:
        """The run in words."""
        run = self._runs.get(key)
        if run is None:
            return key
        kind = ["trial"] if is_trial(key) else []
        return ", ".join([*kind, run.arm, *axis_words(run.point), f"seed {run.seed}"])


def failure_message(stderr: Path, status: int) -> str:
    """Why a run's process ended: the last line it wrote, or the signal that ended it."""
    if status < 0:
        name = signal.Signals(-status).name
        hint = "; the machine may have run out of memory" if -status == signal.SIGKILL else ""
        return f"killed by {name}{hint}; see {stderr}"
    text = stderr.read_text(errors="replace")[-TAIL_CHARACTERS:] if stderr.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1].removeprefix("groundup: ") if lines else "it wrote nothing"
    return last if lines and lines[-1].startswith("groundup: ") else f"status {status}: {last}; see {stderr}"
