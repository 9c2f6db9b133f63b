"""What a study will carry out: every run with what it shares, how long it is, and what that comes to.

Building a plan opens the data and starts nothing. Reading one needs no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from groundup.config import fingerprint, plain, vary
from groundup.engine.schedule import (
    check_schedule,
    drop_points,
    images_of_unit,
    total_images,
    warmup_length,
)
from groundup.errors import GroundupError, UsageError
from groundup.records import digest_of, read_json, write_json
from groundup.study.expansion import SCHEMES, StudyRun, expand, resolve_pretraining
from groundup.study.results import PLAN
from groundup.study.sharing import common_warmup, share_trunks, trunk_of
from groundup.study.study import PRETRAINING, Study, study_directory

LENGTHS = ("training.schedule.units", "training.schedule.images")
"""Axes along which runs share trunks."""
KEY_DIGITS = 6
"""Hexadecimal digits in a run's key; arm, axes and seed are in it by name."""
NAME_CHARACTERS = 40
"""Of an arm or an axis value in a key: file systems allow 255 bytes in a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """One training: an arm at one point of the axes with one seed."""

    key: str
    """Name of its folder under `runs/`: arm, values of the axes, seed, digits of its identity."""
    arm: str
    point: dict[str, Any]
    """Value of each axis by dotted path."""
    seed: int
    total_images: int
    """Images it sees, those of its trunk included."""
    drops: tuple[int, ...]
    """Images seen from which on each drop of the rate holds, rising."""
    warmup: int
    """Images of the warm-up."""
    unit_images: int
    """Images of one unit."""
    parent: str | None
    """Key of the run whose trunk it shares; None where it begins by itself."""
    branch_images: int
    """Images taken over from the parent; 0 without one."""
    own_images: int
    """Images that are trained for it alone: the total without the branch's."""
    num_train: int
    """Photographs of its training set."""
    num_val: int
    """Photographs it is evaluated on."""
    num_evaluations: int
    """Evaluations it makes itself."""
    pretraining: str | None
    """The study's pre-training that it starts from."""
    recipe: dict[str, Any]
    """Plain resolved recipe; a start from the study's own pre-training is `pretraining:NAME` in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingPlan:
    """One pre-training of the study."""

    name: str
    total_images: int
    num_train: int
    num_val: int
    num_evaluations: int
    recipe: dict[str, Any]
    """Plain resolved recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything a study carries out."""

    runs: tuple[RunPlan, ...]
    """In the order of the study: arms, points, seeds."""
    pretraining: tuple[PretrainingPlan, ...]
    commands: tuple[str, ...] = ()
    """What carries the study out, line by line, for the report."""

    @property
    def shared_images(self) -> int:
        """Images to train, pre-training left out, where what is equal is trained once."""
        return sum(run.own_images for run in self.runs)

    @property
    def unshared_images(self) -> int:
        """The same run by run."""
        return sum(run.total_images for run in self.runs)

    def run(self, key: str) -> RunPlan:
        """The run of that key."""
        return next(run for run in self.runs if run.key == key)

    def branches_of(self, key: str) -> tuple[RunPlan, ...]:
        """The runs that share this one's trunk, those that leave it first first."""
        found = [run for run in self.runs if run.parent == key]
        return tuple(sorted(found, key=lambda run: run.branch_images))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "runs": [asdict(run) for run in self.runs],
            "pretraining": [asdict(one) for one in self.pretraining],
            "commands": list(self.commands),
            "shared_images": self.shared_images,
            "unshared_images": self.unshared_images,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedData:
    """What a plan needs to know of a recipe's data."""

    num_train: int
    num_val: int
    train_digest: str
    val_digest: str


def build_plan(study: Study, folder: Path, *, commands: Sequence[str] = ()) -> Plan:
    """The plan of a study in its folder, which need not exist. Opens the data; starts and writes nothing.

    Raises:
        UsageError: the study cannot be carried out as it is written; arms are judged on different images.
        DataError: data or weights that cannot be used.
    """
    base = study_directory(folder)
    described = expand(study, folder)
    opened = open_all(described)
    refuse_unpaired(described, opened)
    described = with_common_warmup(described, opened)
    pretraining = tuple(plan_pretraining(study, name, base) for name in study.pretraining)
    made = {one.name: one.recipe for one in pretraining}
    references = dict.fromkeys(run.recipe.start.weights for run in described)
    weights = {reference: weights_identity(reference, made) for reference in references}
    keys = [key_of(run, data, weights) for run, data in zip(described, opened, strict=True)]
    shares = shares_of(described, opened)
    branch_points: dict[int, set[int]] = {}
    for parent, images in shares:
        if parent is not None:
            branch_points.setdefault(parent, set()).add(images)
    runs = [
        plan_run(run, data, key, keys[parent] if parent is not None else None, images, branch_points.get(row))
        for row, (run, data, key, (parent, images)) in enumerate(
            zip(described, opened, keys, shares, strict=True)
        )
    ]
    return Plan(runs=tuple(runs), pretraining=pretraining, commands=tuple(commands))


def open_all(runs: Sequence[StudyRun]) -> list[OpenedData]:
    """The data of every run, each set opened once.

    Raises:
        DataError: it cannot be used.
    """
    from groundup.run import open_splits

    known: dict[str, OpenedData] = {}
    result = []
    for run in runs:
        masks = run.recipe.model.mask_head is not None
        name = fingerprint({"data": plain(run.recipe.data), "masks": masks})
        if name not in known:
            splits = open_splits(run.recipe)
            known[name] = OpenedData(
                num_train=splits.train.num_images,
                num_val=splits.val.num_images,
                train_digest=splits.train.digest,
                val_digest=splits.val.digest,
            )
        result.append(known[name])
    return result


def refuse_unpaired(runs: Sequence[StudyRun], opened: Sequence[OpenedData]) -> None:
    """Refuse runs that are judged on different photographs: they could not be compared.

    Raises:
        UsageError: naming two.
    """
    for run, data in zip(runs, opened, strict=True):
        if data.val_digest != opened[0].val_digest:
            raise UsageError(
                f"arms {runs[0].arm} and {run.arm} are evaluated on different sets "
                f"({runs[0].recipe.data.val.annotations} and {run.recipe.data.val.annotations}); "
                "set data.val once, under set"
            )


def with_common_warmup(runs: Sequence[StudyRun], opened: Sequence[OpenedData]) -> list[StudyRun]:
    """Runs that differ in length, with the warm-up of the shortest spelled out in all of them.

    On a small set the warm-up otherwise follows the length, so no two lengths would begin alike. A warm-up
    that the study sets is left.
    """
    groups: dict[str, list[int]] = {}
    for row, run in enumerate(runs):
        rest = {path: value for path, value in run.point.items() if path not in LENGTHS}
        groups.setdefault(fingerprint(rest), []).append(row)
    result = list(runs)
    for rows in groups.values():
        schedules = [runs[row].recipe.training.schedule for row in rows]
        counts = [opened[row].num_train for row in rows]
        lengths = {total_images(one, count) for one, count in zip(schedules, counts, strict=True)}
        if len(lengths) < 2:
            continue
        warmup = common_warmup(schedules, counts)
        for row in rows:
            recipe = runs[row].recipe
            if recipe.training.schedule.warmup_images is None:
                longer = vary(recipe, {"training.schedule.warmup_images": warmup})
                result[row] = replace(runs[row], recipe=longer)
    return result


def shares_of(runs: Sequence[StudyRun], opened: Sequence[OpenedData]) -> list[tuple[int | None, int]]:
    """For every run the place of the run whose trunk it shares, and the images of it."""
    groups: dict[str, list[int]] = {}
    for row, (run, data) in enumerate(zip(runs, opened, strict=True)):
        groups.setdefault(fingerprint({"trunk": trunk_of(plain(run.recipe)), **asdict(data)}), []).append(row)
    result: list[tuple[int | None, int]] = [(None, 0)] * len(runs)
    for rows in groups.values():
        schedules = [runs[row].recipe.training.schedule for row in rows]
        for row, share in zip(rows, share_trunks(schedules, opened[rows[0]].num_train), strict=True):
            if share.parent is not None:
                result[row] = (rows[share.parent], share.branch_images)
    return result


def plan_run(
    run: StudyRun,
    data: OpenedData,
    key: str,
    parent: str | None,
    branch_images: int,
    branch_points: Iterable[int] | None,
) -> RunPlan:
    """The plan of one run; `branch_points` are where others leave it.

    Raises:
        UsageError: its schedule cannot be on data of this size.
    """
    recipe, schedule = run.recipe, run.recipe.training.schedule
    try:
        check_schedule(schedule, data.num_train)
    except GroundupError as error:
        place = "".join(f", {path}={value}" for path, value in run.point.items())
        raise type(error)(f"arms.{run.arm}{place}: {error}") from None
    if branch_points:
        recipe = vary(recipe, {"training.upkeep.keep_at": sorted(branch_points)})
    total = total_images(schedule, data.num_train)
    return RunPlan(
        key=key,
        arm=run.arm,
        point=run.point,
        seed=run.seed,
        total_images=total,
        drops=drop_points(schedule, data.num_train),
        warmup=warmup_length(schedule, data.num_train),
        unit_images=images_of_unit(schedule, data.num_train),
        parent=parent,
        branch_images=branch_images,
        own_images=total - branch_images,
        num_train=data.num_train,
        num_val=data.num_val,
        num_evaluations=count_evaluations(
            branch_images, total, recipe.training.evaluate_every, schedule.batch_size
        ),
        pretraining=made_here(recipe.start.weights),
        recipe=plain(recipe),
    )


def count_evaluations(begin: int, end: int, every: int | None, batch_size: int) -> int:
    """Evaluations of a run between two counts of images; one always follows the last step."""
    if every is None:
        return 1
    before_last = max(begin, end - batch_size)
    return before_last // every - begin // every + 1


def made_here(weights: str | None) -> str | None:
    """The study's pre-training that weights mean; None for others."""
    prefix = f"{PRETRAINING}:"
    return weights.removeprefix(prefix) if weights is not None and weights.startswith(prefix) else None


def plan_pretraining(study: Study, name: str, base: Path) -> PretrainingPlan:
    """The plan of one pre-training.

    Raises:
        UsageError: its recipe cannot be.
        DataError: its data cannot be used.
    """
    recipe = resolve_pretraining(study, name, base)
    try:
        num_train, num_val = count_pictures(recipe)
        check_schedule(recipe.training.schedule, num_train)
    except GroundupError as error:
        raise type(error)(f"pretraining.{name}: {error}") from None
    schedule, every = recipe.training.schedule, recipe.training.evaluate_every
    total = total_images(schedule, num_train)
    return PretrainingPlan(
        name=name,
        total_images=total,
        num_train=num_train,
        num_val=num_val,
        num_evaluations=count_evaluations(0, total, every, schedule.batch_size),
        recipe=plain(recipe),
    )


def key_of(run: StudyRun, data: OpenedData, weights: Mapping[str | None, str | None]) -> str:
    """The run's folder name. It follows the contents of files, not their paths, and is a name anywhere.

    `weights` gives what identifies weights by their reference.
    """
    values = trunk_of(plain(run.recipe))
    values["training"]["schedule"] = plain(run.recipe.training.schedule)
    values["data"] = {**values["data"], "train": data.train_digest, "val": data.val_digest}
    values["start"] = {**values["start"], "weights": weights[run.recipe.start.weights]}
    axes = [f"{path.rsplit('.', 1)[-1]}-{plain_name(value)}" for path, value in run.point.items()]
    words = [plain_name(run.arm), *axes, f"seed-{run.seed}", fingerprint(values)[:KEY_DIGITS]]
    return "_".join(words)


def plain_name(value: Any) -> str:
    """Letters, digits, points and hyphens of a value's text."""
    text = "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in str(value))
    return text.strip("-.")[:NAME_CHARACTERS] or "x"


def weights_identity(reference: str | None, made: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What identifies weights before they are loaded: a digest, a library's name, the recipe that makes them.

    Raises:
        DataError: a file that is not there.
    """
    if reference is None:
        return None
    name = made_here(reference)
    if name is not None:
        return fingerprint({**made[name], "loader": None})
    if reference.partition(":")[0] in SCHEMES:
        return reference
    from groundup.models.weights import local_file

    return digest_of(local_file(reference))


def write_plan(folder: Path, plan: Plan) -> None:
    """Write plan.json.

    Raises:
        UsageError: other runs stand there: data or weights have changed since the study was begun.
    """
    path = folder / PLAN
    if path.exists():
        before = {str(run["key"]) for run in read_json(path).get("runs", ())}
        now = {run.key for run in plan.runs}
        if before != now:
            gone, new = min(before - now, default="nothing"), min(now - before, default="nothing")
            raise UsageError(
                f"{path}: data or weights have changed since the study was begun (it plans {gone}, "
                f"now it would be {new}); restore them, or begin a new study"
            )
    write_json(path, plan.to_json())


def read_plan(folder: Path) -> Plan:
    """The plan that was written.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    path = folder / PLAN
    if not path.exists():
        raise UsageError(f"{folder}: has no {PLAN}; `groundup study run` writes it")
    values = read_json(path)
    try:
        return Plan(
            runs=tuple(RunPlan(**{**run, "drops": tuple(run["drops"])}) for run in values["runs"]),
            pretraining=tuple(PretrainingPlan(**one) for one in values["pretraining"]),
            commands=tuple(values["commands"]),
        )
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path}: damaged: {error}; remove it and run `groundup study run` again") from None


def count_pictures(recipe: Any) -> tuple[int, int]:
    """Photographs of a classifier recipe's training and validation sets.

    Raises:
        DataError: they cannot be used.
    """
    from groundup.classification import open_class_splits

    splits = open_class_splits(recipe)
    return splits.train.num_images, splits.val.num_images
