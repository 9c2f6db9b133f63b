"""What a study's runs are doing: one row each, read off their folders. No torch."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from groundup.errors import GroundupError
from groundup.study.plan import Plan, PretrainingPlan, RunPlan, read_plan
from groundup.study.progress import Activity, RunProgress, read_progress
from groundup.study.results import PLAN
from groundup.study.search_results import has_diverged, is_trial
from groundup.study.study import PRETRAINING, STUDY, load_study, read_study
from groundup.study.worker import run_path

COLUMNS = ("run", "seed", "state", "images", "images/s", "left", "score")
"""Headings of the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRow:
    """One run, or one pre-training."""

    key: str
    """Folder name; `pretraining:NAME` for a pre-training, `search:ARM/NAME` for a trial."""
    arm: str
    point: dict[str, Any]
    seed: int | None
    """None for a pre-training and for a trial."""
    state: Activity
    images_seen: int
    total_images: int
    branch_images: int
    """Taken over from another run."""
    images_per_second: float | None
    seconds_left: float | None
    """At its present speed; None where it is not running or that is not known."""
    metric: str | None
    """Name of the score; `diverged` in place of one where a trial did."""
    score: float | None
    """Of the last evaluation, 0 .. 1; None before it."""
    message: str | None
    """Why it failed."""

    @property
    def title(self) -> str:
        """Arm and values of the axes."""
        return ", ".join([self.arm, *axis_words(self.point)])

    def cells(self) -> tuple[str, ...]:
        """The row as text, under COLUMNS."""
        share = f"{self.images_seen:,}/{self.total_images:,}"
        speed = f"{self.images_per_second:.3g}" if self.images_per_second is not None else ""
        left = "" if self.seconds_left is None else clock(self.seconds_left)
        score = self.metric or "" if self.score is None else f"{self.metric} {self.score:.3f}"
        seed = "" if self.seed is None else str(self.seed)
        return self.title, seed, self.state, share, speed, left, score


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStatus:
    """A study as it stands."""

    name: str
    folder: Path
    rows: tuple[StatusRow, ...]
    """Pre-training first, then trials, then runs, in the order of the plan."""
    shared_images: int
    """Images to train, pre-training and trials left out."""

    def count(self, state: Activity) -> int:
        """Runs in that state, pre-training and trials included."""
        return sum(row.state == state for row in self.rows)

    @property
    def trained_images(self) -> int:
        """Those of them that are trained, shared ones once."""
        return sum(max(0, r.images_seen - r.branch_images) for r in self.rows if r.seed is not None)

    def summary(self) -> str:
        """All runs in one line."""
        states: tuple[Activity, ...] = ("done", "running", "partial", "missing", "failed")
        counts = ", ".join(f"{self.count(state)} {state}" for state in states if self.count(state))
        percent = 100 * self.trained_images / max(1, self.shared_images)
        return f"{self.name}: {len(self.rows)} runs ({counts}); {percent:.0f} % of the images trained"

    def lines(self) -> Iterator[str]:
        """A table for reading, and what went wrong."""
        table = [COLUMNS, *(row.cells() for row in self.rows)]
        widths = [max(len(cells[column]) for cells in table) for column in range(len(COLUMNS))]
        for cells in table:
            line = "  ".join(text.ljust(width) for text, width in zip(cells, widths, strict=True))
            yield line.rstrip()
        for row in self.rows:
            if row.message is not None:
                seed = "" if row.seed is None else f", seed {row.seed}"
                yield f"failed: {row.title}{seed}: {row.message}"
        yield self.summary()

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "folder": str(self.folder),
            "shared_images": self.shared_images,
            "trained_images": self.trained_images,
            "runs": [asdict(row) for row in self.rows],
        }


def read_status(folder: Path) -> StudyStatus:
    """The study in the folder as it stands.

    Raises:
        UsageError: the folder is no study's, or nothing was planned yet.
    """
    study = load_study(folder)
    plan = read_plan(folder)
    return StudyStatus(
        name=study.name,
        folder=folder,
        rows=tuple(rows_of(plan, folder, f"{study.question.kind}/{study.question.endpoint}")),
        shared_images=plan.shared_images,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundStudy:
    """A study in a folder of studies, begun or only written down."""

    path: Path
    name: str
    text: str
    """What it asks."""
    status: StudyStatus | None
    """None before it is planned."""

    def line(self) -> str:
        """In one line."""
        state = "not begun" if self.status is None else self.status.summary().removeprefix(f"{self.name}: ")
        return f"{self.path}  {self.text}  {state}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        done = None if self.status is None else self.status.count("done")
        total = None if self.status is None else len(self.status.rows)
        return {"path": str(self.path), "name": self.name, "text": self.text, "runs": total, "done": done}


def find_studies(folder: Path) -> list[FoundStudy]:
    """The studies in a folder, by name: folders of studies, and YAML files that describe one."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        is_file = path.suffix in {".yaml", ".yml"}
        if not is_file and not (path / STUDY).exists():
            continue
        try:
            study = read_study(path)
            status = read_status(path) if not is_file and (path / PLAN).exists() else None
        except GroundupError as error:
            found.append(FoundStudy(path=path, name=path.stem, text=f"cannot be read: {error}", status=None))
            continue
        found.append(FoundStudy(path=path, name=study.name, text=study.question.text, status=status))
    return found


def rows_of(plan: Plan, folder: Path, metric_name: str) -> Iterator[StatusRow]:
    """The rows of a plan."""
    for one in plan.pretraining:
        key = f"{PRETRAINING}:{one.name}"
        yield row_of(one, key, read_progress(run_path(folder, key)), metric_name)
    for run in (*plan.trials, *plan.runs):
        row = row_of(run, run.key, read_progress(run_path(folder, run.key)), metric_name)
        diverged = has_diverged(folder, run.key)
        yield replace(row, state="done", message=None, metric="diverged", score=None) if diverged else row


def row_of(plan: RunPlan | PretrainingPlan, key: str, progress: RunProgress, metric_name: str) -> StatusRow:
    """The row of one run."""
    run = plan if isinstance(plan, RunPlan) else None
    name = key if run is None else f"trial: {run.arm}" if is_trial(key) else run.arm
    metric, score = headline(progress.metrics, metric_name)
    speed, left = progress.images_per_second, None
    if progress.state == "running" and speed:
        left = max(0, plan.total_images - progress.images_seen) / speed
    return StatusRow(
        key=key,
        arm=name,
        point={} if run is None else run.point,
        seed=None if run is None or is_trial(key) else run.seed,
        state=progress.state,
        images_seen=plan.total_images if progress.state == "done" else progress.images_seen,
        total_images=plan.total_images,
        branch_images=0 if run is None else run.branch_images,
        images_per_second=speed,
        seconds_left=left,
        metric=metric,
        score=score,
        message=progress.failure,
    )


def headline(metrics: Mapping[str, float], name: str) -> tuple[str | None, float | None]:
    """The metric to show: the question's, else the first there is."""
    chosen = name if name in metrics else next(iter(metrics), None)
    return chosen, None if chosen is None else metrics[chosen]


def axis_words(point: Mapping[str, Any]) -> list[str]:
    """The values of axes under the last word of their paths: units=2."""
    return [f"{path.rsplit('.', 1)[-1]}={value}" for path, value in point.items()]


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
