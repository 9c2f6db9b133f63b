"""What a study will carry out: every run with what it shares, how long it is, and what that comes to.

Building a plan opens the data and starts nothing. What it is made of is in `planned`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
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
from groundup.study.expansion import StudyRun, expand, resolve_pretraining
from groundup.study.keys import Counted, OpenedData, key_of, made_here, weights_identity
from groundup.study.planned import (
    Plan,
    PretrainingPlan,
    RunPlan,
    SearchPlan,
    read_plan,
    write_plan,
)
from groundup.study.results import KEEP_AT
from groundup.study.search import DescribedSearch, describe_searches
from groundup.study.search_options import LENGTH_PATHS
from groundup.study.search_results import read_winners
from groundup.study.sharing import common_warmup, share_trunks, trunk_of
from groundup.study.study import Study, study_directory

__all__ = [
    "LENGTHS",
    "Plan",
    "PretrainingPlan",
    "RunPlan",
    "SearchPlan",
    "build_plan",
    "count_evaluations",
    "read_plan",
    "write_plan",
]

LENGTHS = LENGTH_PATHS
"""Axes along which runs share trunks."""


def build_plan(
    study: Study, folder: Path, *, commands: Sequence[str] = (), counted: Counted | None = None
) -> Plan:
    """The plan of a study in its folder, which need not exist. Opens the data; starts and writes nothing.

    What won in the study's search is read from the folder; before it is known the plan is open. With
    `counted` nothing is opened, neither data nor weights: the plan says what would be.

    Raises:
        UsageError: the study cannot be carried out as it is written; arms are judged on different images.
        DataError: data or weights that cannot be used.
    """
    base = study_directory(folder)
    winners = read_winners(folder, study)
    described = expand(study, folder, winners)
    refuse_unjudged(study, described)
    opened = open_all(described) if counted is None else count_all(described, counted)
    refuse_unpaired(described, opened)
    described = with_common_warmup(described, opened)
    pretraining = tuple(plan_pretraining(study, name, base) for name in study.pretraining)
    made = {one.name: one.recipe for one in pretraining}
    references = dict.fromkeys(run.recipe.start.weights for run in described)
    weights = {
        reference: weights_identity(reference, made) if counted is None else reference
        for reference in references
    }
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
    return Plan(
        runs=tuple(runs),
        pretraining=pretraining,
        searches=tuple(
            plan_search(study, search) for search in describe_searches(study, folder, made, counted)
        ),
        is_open=study.search is not None and winners is None,
        commands=tuple(commands),
    )


def plan_search(study: Study, search: DescribedSearch) -> SearchPlan:
    """The plan of one search.

    Raises:
        UsageError: the schedule of a trial cannot be on data of this size.
    """
    assert study.search is not None, "asked of studies that search"
    return SearchPlan(
        arm=search.arm,
        place=search.place,
        point=search.point,
        base=search.base,
        num_trials=study.search.trials_each,
        num_train=search.data.num_train,
        num_val=search.data.num_val,
        trials=tuple(plan_run(one.run, search.data, one.key, None, 0, None) for one in search.trials),
    )


def open_all(runs: Sequence[StudyRun]) -> list[OpenedData]:
    """The data of every run, each set opened once.

    Raises:
        DataError: it cannot be used.
    """
    from groundup.splits import open_splits

    known: dict[str, OpenedData] = {}
    result = []
    for run in runs:
        model = run.recipe.model
        heads = {"masks": model.mask_head is not None, "keypoints": model.keypoint_head is not None}
        name = fingerprint({"data": plain(run.recipe.data), **heads})
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


def count_all(runs: Sequence[StudyRun], counted: Counted) -> list[OpenedData]:
    """The data of every run as they are told by number."""
    return [counted.opened(run.recipe.data.fraction, images=run.recipe.data.images) for run in runs]


def refuse_unjudged(study: Study, runs: Sequence[StudyRun]) -> None:
    """Refuse a question about what an arm's detector does not find.

    Raises:
        UsageError: naming the arm.
    """
    kind = study.question.kind
    asked = {study.question.candidate, study.question.reference}
    for run in runs:
        heads = {"mask": run.recipe.model.mask_head, "keypoints": run.recipe.model.keypoint_head}
        if run.arm in asked and heads.get(kind, True) is None:
            head = "mask_head" if kind == "mask" else "keypoint_head"
            raise UsageError(
                f"question.kind is {kind}, but the detector of arm {run.arm} (recipe {study.recipe}) has "
                f"model.{head}=null; choose a recipe with that head, or another question.kind"
            )


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
        recipe = vary(recipe, {KEEP_AT: sorted(branch_points)})
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


def count_pictures(recipe: Any) -> tuple[int, int]:
    """Photographs of a classifier recipe's training and validation sets.

    Raises:
        DataError: they cannot be used.
    """
    from groundup.classification import open_class_splits

    splits = open_class_splits(recipe)
    return splits.train.num_images, splits.val.num_images
