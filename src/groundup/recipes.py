"""Recipes by name: each a function that returns the whole tree, so that "go to definition" shows it."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from groundup.classification import TASK, ClassifierRecipe
from groundup.classifier_recipes import CLASSIFIER_RECIPES
from groundup.config import did_you_mean, override, plain, read_tree, read_yaml, vary
from groundup.errors import UsageError
from groundup.models.start import StartOptions, normalisation_of
from groundup.paper_recipes import PAPER_RECIPES
from groundup.peer_recipes import PEER_RECIPES
from groundup.recipe import Recipe
from groundup.tiny_recipes import TINY_RECIPES

AnyRecipe = Recipe | ClassifierRecipe
"""Of a detector or of a classifier."""

RECIPES: dict[str, Callable[[], AnyRecipe]] = {
    build.__name__: build for build in (*PAPER_RECIPES, *PEER_RECIPES, *TINY_RECIPES, *CLASSIFIER_RECIPES)
}


def spelled_out(assignment: str) -> list[str]:
    """`start=scratch` and `start=WEIGHTS` as the assignments they stand for; others as they are.

    The constants that pixels are normalised with follow the weights where they are known.

    Raises:
        DataError: weights that cannot be read.
    """
    key, _, value = assignment.partition("=")
    if key != "start":
        return [assignment]
    if value in {"scratch", "null", ""}:
        changes: dict[str, object] = plain(StartOptions())
    else:
        constants = normalisation_of(value)
        changes = {"weights": value}
        if constants is not None:
            changes |= {"pixel_mean": list(constants[0]), "pixel_std": list(constants[1])}
    return [f"start.{name}={json.dumps(change)}" for name, change in changes.items()]


def kind_of(values: Mapping[str, Any]) -> type[Recipe] | type[ClassifierRecipe]:
    """Which recipe the nested dictionaries describe: a classifier's says so in `task`."""
    return ClassifierRecipe if values.get("task") == TASK else Recipe


def resolve_recipe(recipe: str, given: Sequence[str]) -> AnyRecipe:
    """The recipe of that name or YAML file, with the given `key=value` assignments applied.

    A YAML file may name a recipe to begin with (`recipe: NAME`); its other keys replace parts of it. In a
    file too, `start: WEIGHTS` is short for what `start=WEIGHTS` means.

    Raises:
        UsageError: no such recipe or file, or an option that cannot be.
    """
    assignments = [one for assignment in given for one in spelled_out(assignment)]
    if recipe in RECIPES:
        return override(RECIPES[recipe](), assignments)
    path = Path(recipe)
    if path.suffix not in {".yaml", ".yml", ".json"}:
        raise UsageError(
            f"no recipe '{recipe}'{did_you_mean(recipe, list(RECIPES))} "
            "(`groundup recipes` lists them; a recipe of your own is a .yaml file)"
        )
    values = read_yaml(path)
    short_start = values.pop("start") if isinstance(values.get("start"), str) else None
    if short_start is not None and not any(one.startswith("start=") for one in given):
        assignments = [*spelled_out(f"start={short_start}"), *assignments]
    base = values.pop("recipe", None)
    if base is None:
        return override(read_tree(kind_of(values), values), assignments)
    if str(base) not in RECIPES:
        raise UsageError(f"{path}: recipe: no recipe '{base}'{did_you_mean(str(base), list(RECIPES))}")
    whole = RECIPES[str(base)]()
    return override(vary(whole, dict(replaced(plain(whole), values))), assignments)


def replaced(
    whole: Mapping[str, Any], part: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """The dotted paths at which the part replaces the whole; sections of both, leaf by leaf."""
    for name, value in part.items():
        if isinstance(value, Mapping) and isinstance(whole.get(name), Mapping):
            yield from replaced(whole[name], value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
