"""From a study's search to its trials: ordinary trainings on data of their own, resolved and checked.

Trials that are judged on a held-out share get annotation files of their own in the study's folder.
Recipes are resolved late: importing this needs no torch, calling it does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.config import did_you_mean, fingerprint, leaves, plain, vary
from groundup.engine.schedule import total_images
from groundup.errors import GroundupError, UsageError
from groundup.study.expansion import StudyRun, arm_changes, base_recipe, resolve_run
from groundup.study.keys import (
    KEY_DIGITS,
    Counted,
    OpenedData,
    digits_of,
    place_words,
    weights_identity,
)
from groundup.study.search_options import SearchOptions, search_places, searched_arms, trial_point
from groundup.study.search_results import (
    TrialResult,
    planned_searches,
    read_trial,
    scores_of,
    search_identity,
)
from groundup.study.search_space import draw_values, grid_points
from groundup.study.study import SEARCH, Study, study_directory

if TYPE_CHECKING:
    from groundup.data.coco import Index
    from groundup.recipe import Recipe

DATA = "_data"
"""Folder of the trials' annotations beside those of the arms, whose names begin with no underscore."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One trial as it is described; `plan` adds what follows from the data."""

    key: str
    """`search:`, the folder of its search and its own."""
    run: StudyRun
    """Its point are the values that it tries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedSearch:
    """One search: an arm at one value of the repeated axes."""

    arm: str
    place: dict[str, Any]
    point: dict[str, Any]
    """Value of every axis but lengths, as trials are trained with."""
    base: dict[str, Any]
    """The base recipe's own values of what is searched."""
    data: OpenedData
    """Of every trial."""
    trials: tuple[Trial, ...]
    """Those that are known now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialData:
    """What trials learn from and are judged on."""

    opened: OpenedData
    changes: dict[str, Any]
    """In the recipe, by dotted path."""


def describe_searches(
    study: Study, folder: Path, made: Mapping[str, Mapping[str, Any]], counted: Counted | None = None
) -> list[DescribedSearch]:
    """Every search of the study with the trials that are known. Opens the data unless they are counted.

    With a grid all are known; with optuna those that were begun, and one more if they have all ended. `made`
    are the plain recipes of the study's pre-trainings by name.

    Raises:
        UsageError: a trial that cannot be; searches whose budgets differ; optuna is not installed.
        DataError: data or weights that cannot be used.
    """
    search = study.search
    if search is None:
        return []
    recorded = {
        search_identity(entry["arm"], entry["place"]): [trial["point"] for trial in entry["trials"]]
        for entry in planned_searches(folder)
    }
    result = []
    for place in search_places(search, study.axes):
        lengths: dict[str, int] = {}
        for arm in searched_arms(search, list(study.arms)):
            recipe, data = trial_recipe(study, search, folder, arm, place, counted)
            known = recorded.get(search_identity(arm, place), [])
            start = recipe.start.weights
            weights = {start: start if counted is not None else weights_identity(start, made)}
            described = DescribedSearch(
                arm=arm,
                place=place,
                point=trial_point(search, study.axes, place),
                base=own_values(recipe, search),
                data=data.opened,
                trials=(),
            )
            trials = tuple(describe_trials(search, folder, described, recipe, weights, known))
            result.append(replace(described, trials=trials))
            lengths[arm] = total_images(recipe.training.schedule, data.opened.num_train)
        refuse_unequal_budgets(lengths)
    return result


def trial_recipe(
    study: Study,
    search: SearchOptions,
    folder: Path,
    arm: str,
    place: Mapping[str, Any],
    counted: Counted | None,
) -> tuple["Recipe", TrialData]:
    """The recipe of an arm's trials with the base recipe's own values, and its data.

    Raises:
        UsageError, DataError: it cannot be.
    """
    base = study_directory(folder)
    recipe = arm_recipe(study, search, arm, place, base)
    data = (
        data_of_trials(recipe, search, folder) if counted is None else counted_trials(recipe, search, counted)
    )
    length = {
        "training.schedule.units": search.units,
        "training.schedule.images": search.images,
        "training.evaluate_every": None,
        "seed": search.seed,
    }
    try:
        return vary(recipe, {**length, **data.changes}), data
    except GroundupError as error:
        raise type(error)(f"search, arms.{arm}: {error}") from None


def arm_recipe(
    study: Study, search: SearchOptions, arm: str, place: Mapping[str, Any], base: Path
) -> "Recipe":
    """The arm's recipe at the point of the axes where its trials are trained, on data undivided."""
    changes = {**arm_changes(study, arm, base), **trial_point(search, study.axes, place)}
    return resolve_run(base_recipe(study, base), arm, changes, base)


def own_values(recipe: "Recipe", search: SearchOptions) -> dict[str, Any]:
    """The recipe's own values of what is searched.

    Raises:
        UsageError: it has no such option.
    """
    known = plain(recipe)
    result = {}
    for path in search.space:
        node: Any = known
        for name in path.split("."):
            if not isinstance(node, Mapping) or name not in node:
                near = did_you_mean(path, [name for name, _ in leaves(known)])
                raise UsageError(f"search.space: no option '{path}'{near}")
            node = node[name]
        result[path] = node
    return result


def describe_trials(
    search: SearchOptions,
    folder: Path,
    described: DescribedSearch,
    recipe: "Recipe",
    weights: Mapping[str | None, str | None],
    known: list[dict[str, Any]],
) -> Iterator[Trial]:
    """The trials of one search that are known now; `known` are values that were planned before.

    Raises:
        UsageError: values that the recipe cannot have.
    """
    grid = grid_points(search.space) if search.method == "grid" else []
    results: list[TrialResult] = []
    for number in range(search.trials_each):
        if grid:
            values = grid[number]
        elif number < len(known):
            values = known[number]
        elif all(one.is_settled for one in results):
            values = draw_values(search.space, scores_of(results), base=described.base, seed=search.seed)
        else:
            return
        trial = describe_trial(described, recipe, weights, values, number)
        yield trial
        if not grid:
            results.append(read_trial(folder, trial.key, values, search.metric))


def describe_trial(
    search: DescribedSearch,
    recipe: "Recipe",
    weights: Mapping[str | None, str | None],
    values: Mapping[str, Any],
    number: int,
) -> Trial:
    """One trial of these values.

    Raises:
        UsageError: the recipe cannot have them.
    """
    try:
        changed = vary(recipe, values)
    except GroundupError as error:
        raise type(error)(f"search.space, arms.{search.arm}: {error}") from None
    run = StudyRun(arm=search.arm, point=dict(values), seed=changed.seed, recipe=changed)
    # Names may lose characters, so that two arms share a folder: the digits tell their trials apart.
    digits = fingerprint({"arm": search.arm, "run": digits_of(run, search.data, weights)})[:KEY_DIGITS]
    place = "_".join(place_words(search.arm, search.place))
    return Trial(key=f"{SEARCH}:{place}/trial-{number:03d}_{digits}", run=run)


def refuse_unequal_budgets(lengths: Mapping[str, int]) -> None:
    """Refuse arms whose trials are not equally long: the longer searched would have the advantage.

    Raises:
        UsageError: naming two.
    """
    first, last = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
    least, most = lengths[first], lengths[last]
    if least != most:
        raise UsageError(
            f"search: a trial of {first} sees {least:,} images and one of {last} {most:,}; "
            "give both the same budget by search.images"
        )


def data_of_trials(recipe: "Recipe", search: SearchOptions, folder: Path) -> TrialData:
    """What trials of the recipe learn from and are judged on. Writes nothing.

    Raises:
        UsageError: too few photographs to hold some out.
        DataError: the data cannot be used.
    """
    from groundup.splits import open_splits

    splits = open_splits(recipe)
    if search.judged_on == "validation":
        opened = OpenedData(
            num_train=splits.train.num_images,
            num_val=splits.val.num_images,
            train_digest=splits.train.digest,
            val_digest=splits.val.digest,
        )
        return TrialData(opened=opened, changes={})
    kept, held = divide(splits.train, search)
    files = division_files(splits.train, search, folder)
    split = fingerprint({"holdout": search.holdout, "seed": search.holdout_seed})
    return TrialData(
        opened=OpenedData(
            num_train=len(kept),
            num_val=len(held),
            train_digest=f"{splits.train.digest}-kept-{split}",
            val_digest=f"{splits.train.digest}-held-{split}",
        ),
        changes={
            "data.train": {"annotations": str(files[0]), "images": str(splits.train.images)},
            "data.val": {"annotations": str(files[1]), "images": str(splits.train.images)},
            "data.fraction": 1.0,
            "data.images": None,
            # The whole set was held to its limit; what is unusable in it may all fall to one part.
            "data.max_dropped_ratio": 1.0,
        },
    )


def counted_trials(recipe: "Recipe", search: SearchOptions, counted: Counted) -> TrialData:
    """The same where data are told by number."""
    holdout = None if search.judged_on == "validation" else search.holdout
    opened = counted.opened(recipe.data.fraction, holdout, recipe.data.images)
    return TrialData(opened=opened, changes={"data.fraction": 1.0, "data.images": None})


def divide(train: "Index", search: SearchOptions) -> tuple[list[int], list[int]]:
    """Rows that trials learn from, and rows that are held out.

    Raises:
        UsageError: one of the two would have no objects.
    """
    from groundup.data.subset import subset_rows

    held = subset_rows(train, search.holdout, search.holdout_seed).tolist()
    kept = sorted(set(range(train.num_images)) - set(held))
    if not train.num_usable[kept].any() or not train.num_usable[held].any():
        raise UsageError(
            f"{train.annotations}: search.holdout {search.holdout:g} of {train.num_images} images leaves "
            "none with objects to learn from, or to be judged on; change it, or search.holdout_seed"
        )
    return kept, held


def division_files(train: "Index", search: SearchOptions, folder: Path) -> tuple[Path, Path]:
    """Where the annotations of the two parts of these photographs are: learnt from and held out."""
    name = fingerprint({"set": train.digest, "share": search.holdout, "seed": search.holdout_seed})
    parent = folder.absolute() / SEARCH / DATA
    return parent / f"{name}_train.json", parent / f"{name}_holdout.json"


def write_trial_data(study: Study, folder: Path) -> None:
    """Write the annotations that the study's trials need and that are not there yet.

    Raises:
        DataError: the data cannot be used.
    """
    search = study.search
    if search is None or search.judged_on == "validation":
        return
    from groundup.data.subset import write_subset
    from groundup.splits import open_splits

    base = study_directory(folder)
    for place in search_places(search, study.axes):
        for arm in searched_arms(search, list(study.arms)):
            train = open_splits(arm_recipe(study, search, arm, place, base)).train
            files = division_files(train, search, folder)
            for rows, path in zip(divide(train, search), files, strict=True):
                if not path.exists():
                    write_subset(train, rows, path)
