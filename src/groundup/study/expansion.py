"""From a study to the recipes it stands for: arms crossed with axes and seeds, resolved and checked.

Recipes are resolved late: importing this needs no torch, calling it does.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.config import differences, plain, vary
from groundup.errors import GroundupError, UsageError
from groundup.study.search_results import Winners
from groundup.study.study import PRETRAINING, SCRATCH, Study, pretraining_of, seeds_of, study_directory

if TYPE_CHECKING:
    from groundup.recipe import Recipe

SCHEMES = ("timm", "torchvision", "package", PRETRAINING)
"""Prefixes of weights that are no path. Source: groundup.models.weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRun:
    """One training of a study, as it is described; `plan` adds what follows from the data."""

    arm: str
    point: dict[str, Any]
    """Value of each axis by dotted path."""
    seed: int
    recipe: "Recipe"
    """Resolved; a start from the study's own pre-training is `pretraining:NAME`."""


def expand(study: Study, folder: Path, winners: Winners | None = None) -> list[StudyRun]:
    """Every training of the study: arms, then points of the axes, then seeds, in the order of the file.

    Relative paths start from the folder that the study was set down in, or the current one. Without `winners`
    what the study searches has the base recipe's own values.

    Raises:
        UsageError: an option that does not exist or cannot be, with the key of the study that says so; arms
            that do not differ.
        DataError: weights that are not there.
    """
    base = study_directory(folder)
    whole = base_recipe(study, base)
    changes = {arm: arm_changes(study, arm, base) for arm in study.arms}
    refuse_equal_arms(study, arm_recipes(study, base))
    return [
        StudyRun(
            arm=arm,
            point=point,
            seed=seed,
            recipe=resolve_run(
                whole, arm, {**changes[arm], **won(winners, arm, point), **point, "seed": seed}, base
            ),
        )
        for arm in study.arms
        for point in points_of(study)
        for seed in seeds_of(study, arm)
    ]


def won(winners: Winners | None, arm: str, point: Mapping[str, Any]) -> dict[str, Any]:
    """What the study's search found for an arm at a point; nothing where nothing was searched."""
    return {} if winners is None else winners.values_for(arm, point)


def points_of(study: Study) -> Iterator[dict[str, Any]]:
    """Every combination of the axes' values; one, of nothing, without axes."""
    for values in itertools.product(*study.axes.values()):
        yield dict(zip(study.axes, values, strict=True))


def base_recipe(study: Study, base: Path) -> "Recipe":
    """The recipe that all arms begin with.

    Raises:
        UsageError: it does not exist, or trains no detector.
    """
    from groundup.recipe import Recipe
    from groundup.recipes import resolve_recipe

    try:
        recipe = resolve_recipe(recipe_source(study.recipe, base), [])
    except GroundupError as error:
        raise type(error)(f"recipe: {error}") from None
    if not isinstance(recipe, Recipe):
        raise UsageError(f"recipe: {study.recipe} trains no detector; a classifier goes under pretraining")
    return recipe


def arm_changes(study: Study, arm: str, base: Path) -> dict[str, Any]:
    """What the study and the arm change in the recipe, by dotted path, the short form of `start` spelled out.

    Raises:
        UsageError: a start that cannot be.
        DataError: weights that are not there.
    """
    try:
        start = start_changes(study, arm, base)
    except GroundupError as error:
        raise type(error)(f"arms.{arm}.{error}") from None
    own = {path: value for path, value in study.arms[arm].items() if path != "start"}
    return {**study.set, **start, **own}


def resolve_run(whole: "Recipe", arm: str, changes: Mapping[str, Any], base: Path) -> "Recipe":
    """The recipe with an arm's changes.

    Raises:
        UsageError: an option that does not exist or cannot be.
    """
    try:
        changed: Recipe = with_base(vary(whole, changes), base)
    except GroundupError as error:
        raise type(error)(f"arms.{arm}: {error}") from None
    return changed


def recipe_source(recipe: str, base: Path) -> str:
    """A recipe's name as it is; a file's path from the base."""
    return str(base / recipe) if Path(recipe).suffix in {".yaml", ".yml", ".json"} else recipe


def start_changes(study: Study, arm: str, base: Path) -> dict[str, Any]:
    """What the short form `start: ...` of an arm stands for, by dotted path; nothing where it has none.

    Raises:
        UsageError: it is no text.
        DataError: weights that are not there.
    """
    from groundup.recipes import spelled_out

    if "start" not in study.arms[arm]:
        return {}
    value = study.arms[arm]["start"] or SCRATCH
    if not isinstance(value, str):
        raise UsageError(f"start: {value!r} is no start; write scratch, a file, or {PRETRAINING}:NAME")
    made = pretraining_of(study, arm)
    if made is not None:
        start = plain(resolve_pretraining(study, made, base)).get("start", {})
        constants = {f"start.{name}": start[name] for name in ("pixel_mean", "pixel_std") if name in start}
        return {"start.weights": value, **constants}
    value = value if value == SCRATCH else absolute_weights(value, base)
    pairs = (assignment.split("=", 1) for assignment in spelled_out(f"start={value}"))
    return {path: json.loads(text) for path, text in pairs}


def resolve_pretraining(study: Study, name: str, base: Path) -> Any:
    """The recipe of one of the study's pre-trainings.

    Raises:
        UsageError: it cannot be.
    """
    from groundup.recipes import resolve_recipe

    options = study.pretraining[name]
    try:
        recipe = resolve_recipe(recipe_source(options.recipe, base), [])
        return with_base(vary(recipe, options.set), base)
    except GroundupError as error:
        raise type(error)(f"pretraining.{name}: {error}") from None


def with_base(recipe: Any, base: Path) -> Any:
    """The recipe with its data and weights under absolute paths."""
    values = plain(recipe)
    changes: dict[str, Any] = {}
    for path, value in data_paths(values.get("data", {}), "data."):
        changes[path] = str(base / value)
    weights = (values.get("start") or {}).get("weights")
    if isinstance(weights, str):
        changes["start.weights"] = absolute_weights(weights, base)
    return vary(recipe, changes)


def data_paths(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Files and folders in the data section of a plain recipe, by dotted path: the splits' values."""
    for split in ("train", "val"):
        value = section.get(split)
        if isinstance(value, str):
            yield f"{prefix}{split}", value
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                if isinstance(inner, str):
                    yield f"{prefix}{split}.{name}", inner


def absolute_weights(reference: str, base: Path) -> str:
    """A weights file under its absolute path; other references as they are."""
    return reference if reference.partition(":")[0] in SCHEMES else str(base / Path(reference).expanduser())


def arm_recipes(study: Study, base: Path, winners: Winners | None = None) -> dict[str, dict[str, Any]]:
    """Each arm's plain recipe at the first point and seed of the study, without the recipe's name.

    Raises:
        UsageError, DataError: as `expand`.
    """
    whole, point = base_recipe(study, base), next(points_of(study))
    recipes = {}
    for arm in study.arms:
        own = {**arm_changes(study, arm, base), **won(winners, arm, point)}
        changes = {**own, **point, "seed": study.seeds[0]}
        recipes[arm] = plain(resolve_run(whole, arm, changes, base)) | {"name": ""}
    return recipes


def arm_differences(study: Study, base: Path, winners: Winners | None = None) -> dict[str, tuple[Any, ...]]:
    """The options in which the arms are not all alike, with the value in each arm: the computed table."""
    return differences(list(arm_recipes(study, base, winners).values()))


def refuse_equal_arms(study: Study, recipes: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse two arms that are one, unless the study says that it is an A/A study.

    An arm that is searched by itself besides has options of its own, though it begins as another.

    Raises:
        UsageError: naming them.
    """
    if study.allow_equal_arms:
        return
    searched_alone = set(() if study.search is None else study.search.also)
    for (first, one), (second, other) in itertools.combinations(recipes.items(), 2):
        if one == other and not {first, second} & searched_alone:
            raise UsageError(
                f"arms.{first} and arms.{second} are the same recipe; let them differ, "
                "or set allow_equal_arms: true for an A/A study"
            )
