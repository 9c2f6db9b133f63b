"""What a study's folder holds: its runs with their curves and bills, however far they have come. No torch.

Metrics are 0 .. 1 here, as runs log them; AP points, 0 .. 100, begin in `study.answer`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from groundup.errors import CheckpointError, DataError
from groundup.metering import Pace, pace_of
from groundup.metrics.exposure import Exposure
from groundup.records import Log, read_json
from groundup.study.compare import Question
from groundup.study.study import PRETRAINING, RUNS, Study, load_study

PLAN = "plan.json"
"""The planned runs in a study's folder."""
KEEP_AT = "training.upkeep.keep_at"
"""The plan's own note in a run's recipe: the points where others leave its trunk, of which it keeps the
checkpoints. It changes nothing of the run."""
RECIPE, RECORD, RESULT, LOG, FAILURE = (
    "recipe.json",
    "record.json",
    "result.json",
    "log.jsonl",
    "failure.json",
)
"""Files of a run's folder. The modules that write them import torch, so a test holds the names equal."""
EVALUATION = "evaluations/images_{:09d}"
"""Folder of the evaluation after so many images, inside a run's folder."""

RunState: TypeAlias = Literal["missing", "partial", "done", "failed"]
"""Not begun, begun and not ended, ended, ended by a fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One entry of plan.json: a training of one arm at one point of the axes with one seed."""

    key: str
    """Name of the run's folder."""
    arm: str
    point: dict[str, Any]
    """Value of each axis under its dotted path."""
    seed: int
    total_images: int
    drops: tuple[int, ...]
    """Images seen from which on each drop of the rate holds, rising."""
    parent: str | None
    """Key of the run whose trunk it shares."""
    branch_images: int
    """Images of that trunk, trained once for both."""
    own_images: int
    """Images of its own: the total without the trunk."""
    num_train: int
    """Photographs of its training set, the share that it uses; 0 where the plan does not say."""
    recipe: dict[str, Any]
    """Plain resolved recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One evaluation of a run."""

    images_seen: int
    metrics: dict[str, float]
    """Defined values, 0 .. 1, under flat names: box/AP, mask/AP50."""
    folder: Path | None
    """The evaluation's folder; None where it is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One planned run as far as it has come."""

    key: str
    arm: str
    point: dict[str, Any]
    seed: int
    state: RunState
    failure: str | None
    """Why it ended by a fault; None where it did not."""
    folder: Path
    total_images: int
    """Images it is planned to see."""
    images_seen: int
    """Images it has seen, as logged."""
    drops: tuple[int, ...]
    own_images: int
    parent: str | None
    branch_images: int
    num_train_images: int
    """Photographs of its training set, the share that it uses; 0 while that is not known."""
    curve: tuple[CurvePoint, ...]
    """Evaluations in rising order of images seen, the trunk's included."""
    losses: tuple[tuple[int, float], ...]
    """(images seen, mean training loss since the record before), rising, the trunk's included."""
    exposure: Exposure | None
    """Its bill so far as if it had been trained straight; None where nothing is logged."""
    trunk_exposure: Exposure
    """The part of that bill that its trunk's run paid, by the log's record of branching; nothing where it
    took over none. On the straight line between two records, so exact to less than their distance."""
    environment: dict[str, Any]
    """Versions and machine."""
    dropped: dict[str, int]
    """Instances that were unusable, by rule."""
    command: tuple[str, ...]
    pace: Pace | None = None
    """Speed, waiting, memory; None where nothing is logged."""

    @property
    def end(self) -> CurvePoint | None:
        """The evaluation that follows the last step; None while there is none."""
        return next((p for p in self.curve if p.images_seen >= self.total_images), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingResult:
    """One pre-training that the study carries out itself."""

    name: str
    folder: Path
    state: RunState
    exposure: Exposure | None
    metrics: dict[str, float]
    """Of its last evaluation, 0 .. 1."""
    num_images: int
    """Photographs of its training set; 0 while that is not known."""
    curve: tuple[CurvePoint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResults:
    """All that a study's folder holds."""

    folder: Path
    study: Study
    question: Question
    runs: tuple[RunResult, ...]
    """In the order of the plan."""
    pretraining: dict[str, PretrainingResult]
    recipes: dict[str, dict[str, Any]]
    """Plain recipe of every run by its key."""
    val_annotations: Path | None
    val_images: Path | None
    """Folder of the validation photographs; None: that of the annotations."""
    categories: tuple[str, ...]
    """Names, in the order of the model's labels; empty while no run has begun."""
    commands: tuple[str, ...]
    """What carries the study out, line by line."""

    def run(self, key: str) -> RunResult:
        """The run of that key."""
        return next(run for run in self.runs if run.key == key)

    def runs_of(self, arm: str, point: Mapping[str, Any] | None = None) -> tuple[RunResult, ...]:
        """The runs of an arm, at one point of the axes or at all, in the order of the plan."""
        return tuple(
            run for run in self.runs if run.arm == arm and (point is None or run.point == dict(point))
        )

    @property
    def points(self) -> tuple[dict[str, Any], ...]:
        """The points of the axes, each once, in the order of the plan."""
        points: list[dict[str, Any]] = []
        for run in self.runs:
            if run.point not in points:
                points.append(run.point)
        return tuple(points)


def read_study_results(folder: Path) -> StudyResults:
    """All that the folder holds; a study half done reads too, one without a plan has no runs.

    Raises:
        UsageError: the folder is no study's, or study or question were edited.
        CheckpointError: a file of ours is damaged.
    """
    study = load_study(folder)
    plan = read_json(folder / PLAN) if (folder / PLAN).exists() else {}
    planned = tuple(planned_runs(plan))
    runs = tuple(read_run(folder / RUNS / one.key, one) for one in planned)
    recipes = {
        one.key: read_json(run.folder / RECIPE) if (run.folder / RECIPE).exists() else one.recipe
        for one, run in zip(planned, runs, strict=True)
    }
    annotations, images = validation_of(recipes)
    return StudyResults(
        folder=folder,
        study=study,
        question=study.question,
        runs=runs,
        pretraining={name: read_pretraining(folder / PRETRAINING / name, name) for name in study.pretraining},
        recipes=recipes,
        val_annotations=annotations,
        val_images=images,
        categories=categories_of(runs),
        commands=tuple(str(command) for command in plan.get("commands", ())),
    )


def planned_runs(plan: Mapping[str, Any]) -> Iterator[PlannedRun]:
    """The entries of plan.json: the one place that knows their form.

    Raises:
        CheckpointError: an entry lacks what a run must have.
    """
    for entry in plan.get("runs", ()):
        try:
            total, branch = int(entry["total_images"]), int(entry.get("branch_images", 0))
            yield PlannedRun(
                key=str(entry["key"]),
                arm=str(entry["arm"]),
                point=dict(entry["point"]),
                seed=int(entry["seed"]),
                total_images=total,
                drops=tuple(int(drop) for drop in entry.get("drops", ())),
                parent=entry.get("parent"),
                branch_images=branch,
                own_images=int(entry.get("own_images", total - branch)),
                num_train=int(entry.get("num_train", 0)),
                recipe=dict(entry.get("recipe", {})),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{PLAN}: damaged entry {entry!r:.80}: {error!r}; `groundup study plan` writes it anew"
            ) from None


def read_run(folder: Path, planned: PlannedRun) -> RunResult:
    """The run in its folder, which need not exist yet."""
    records = list(Log(folder / LOG).read())
    record = read_json(folder / RECORD) if (folder / RECORD).exists() else {}
    state, failure = state_of(folder)
    curve = curve_of(folder, records)
    start = next((r for r in records if r["kind"] == "start"), {})
    return RunResult(
        key=planned.key,
        arm=planned.arm,
        point=planned.point,
        seed=planned.seed,
        state=state,
        failure=failure,
        folder=folder,
        total_images=planned.total_images,
        images_seen=max((int(r["images_seen"]) for r in records), default=0),
        drops=planned.drops,
        own_images=planned.own_images,
        parent=planned.parent,
        branch_images=planned.branch_images,
        num_train_images=int(start.get("num_images", planned.num_train)),
        curve=curve,
        losses=tuple((int(r["images_seen"]), float(r["loss"])) for r in records if r["kind"] == "train"),
        exposure=exposure_of_run(folder, records),
        trunk_exposure=branch_exposure(records),
        environment=dict(record.get("environment", {})),
        dropped={str(rule): int(count) for rule, count in record.get("dropped", {}).items()},
        command=tuple(str(word) for word in record.get("command", ())),
        pace=pace_of(records),
    )


def read_pretraining(folder: Path, name: str) -> PretrainingResult:
    """A pre-training in its folder, which need not exist yet."""
    records = list(Log(folder / LOG).read())
    curve = curve_of(folder, records)
    start = next((r for r in records if r["kind"] == "start"), {})
    return PretrainingResult(
        name=name,
        folder=folder,
        state=state_of(folder)[0],
        exposure=exposure_of_run(folder, records),
        metrics=dict(curve[-1].metrics) if curve else {},
        num_images=int(start.get("num_images", 0)),
        curve=curve,
    )


def state_of(folder: Path) -> tuple[RunState, str | None]:
    """How far a run has come, by what exists, and its fault where it failed."""
    if (folder / RESULT).exists():
        return "done", None
    if (folder / FAILURE).exists():
        return "failed", str(read_json(folder / FAILURE).get("message", "no message"))
    return ("partial" if (folder / LOG).exists() else "missing"), None


def curve_of(folder: Path, records: list[dict[str, Any]]) -> tuple[CurvePoint, ...]:
    """The logged evaluations, rising, each with its folder where that is there."""
    points = {}
    for record in records:
        if record["kind"] == "evaluation":
            where = folder / EVALUATION.format(record["images_seen"])
            metrics = {name: float(v) for name, v in record["metrics"].items() if v is not None}
            points[int(record["images_seen"])] = CurvePoint(
                images_seen=int(record["images_seen"]),
                metrics=metrics,
                folder=where if where.is_dir() else None,
            )
    return tuple(points[images] for images in sorted(points))


def exposure_of_run(folder: Path, records: list[dict[str, Any]]) -> Exposure | None:
    """The bill of a run: that of its result, or the last one it logged.

    Raises:
        CheckpointError: a result without a bill that can be read.
    """
    if (folder / RESULT).exists():
        try:
            return Exposure.from_json(read_json(folder / RESULT)["exposure"])
        except (KeyError, TypeError, DataError) as error:
            raise CheckpointError(f"{folder / RESULT}: no bill that can be read: {error}") from None
    bills = logged_bills(records)
    return bills[-1] if bills else None


def logged_bills(records: list[dict[str, Any]]) -> list[Exposure]:
    """The bill at each record of the losses, rising."""
    return [
        Exposure.from_json({**r["exposure"], "seconds": r["timing"]["exposure_seconds"]})
        for r in records
        if r["kind"] == "train"
    ]


def branch_exposure(records: list[dict[str, Any]]) -> Exposure:
    """The bill of the trunk that a run took over; nothing where it took over none.

    On the straight line between the records around the point.
    """
    branch = max((int(r["images_seen"]) for r in records if r["kind"] == "branch"), default=0)
    before = Exposure()
    for bill in logged_bills(records) if branch else ():
        if bill.images >= branch:
            return between(before, bill, (branch - before.images) / max(bill.images - before.images, 1))
        before = bill
    return before


def between(first: Exposure, second: Exposure, share: float) -> Exposure:
    """The bill at a share of the way from the first to the second."""

    def at(one: float, other: float) -> float:
        return one + share * (other - one)

    return Exposure(
        images=round(at(first.images, second.images)),
        instances=round(at(first.instances, second.instances)),
        pixels=round(at(first.pixels, second.pixels)),
        flops=round(at(first.flops, second.flops)),
        seconds=at(first.seconds, second.seconds),
    )


def validation_of(recipes: Mapping[str, Mapping[str, Any]]) -> tuple[Path | None, Path | None]:
    """Annotations and photographs that the runs are judged by, which all of a study share."""
    for recipe in recipes.values():
        split = recipe.get("data", {}).get("val", {})
        if split.get("annotations"):
            annotations = Path(split["annotations"])
            return annotations, Path(split["images"]) if split.get("images") else annotations.parent
    return None, None


def categories_of(runs: tuple[RunResult, ...]) -> tuple[str, ...]:
    """Names of the categories, from the first run that has begun."""
    for run in runs:
        if (run.folder / RECORD).exists():
            found = read_json(run.folder / RECORD).get("categories", ())
            return tuple(str(category["name"]) for category in found)
    return ()
