"""Which values a search tries next: all of a grid, or what optuna draws from the trials before. No torch."""

import importlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from groundup.errors import UsageError
from groundup.study.search_options import Range

Space = Mapping[str, list[Any] | Range]
Values = dict[str, Any]
WORST = 0.0
"""What a trial without a score counts as: no AP lies below it."""


def grid_points(space: Space) -> list[Values]:
    """Every combination of the values, the last path fastest."""
    lists = [values for values in space.values() if isinstance(values, list)]
    assert len(lists) == len(space), "a grid has no ranges: SearchOptions refuses them"
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*lists)]


def lies_in(space: Space, values: Values) -> bool:
    """Whether the space holds these values."""
    return all(
        values[path] in allowed
        if isinstance(allowed, list)
        else isinstance(values[path], int | float) and allowed.low <= values[path] <= allowed.high
        for path, allowed in space.items()
    )


def draw_values(
    space: Space, history: Sequence[tuple[Values, float | None]], *, base: Values, seed: int
) -> Values:
    """What to try after these trials: first the base recipe's own values if the space holds them, then TPE.

    A pure function of its arguments, so a search that was stopped goes on as if it had not been.
    `history` holds values and scores, None for trials that have none.

    Raises:
        UsageError: optuna is not installed.
    """
    optuna = import_optuna()
    if not history and lies_in(space, base):
        return base
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {path: distribution_of(optuna, allowed) for path, allowed in space.items()}
    # A sampler's own state would hang on the process; a seed for each trial does not.
    sampler = optuna.samplers.TPESampler(seed=seed + len(history))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for values, score in history:
        if lies_in(space, values):
            params = {path: encoded(space[path], values[path]) for path in space}
            study.add_trial(
                optuna.trial.create_trial(
                    params=params, distributions=distributions, value=WORST if score is None else score
                )
            )
    drawn = study.ask(distributions).params
    return {path: decoded(space[path], drawn[path]) for path in space}


def import_optuna() -> Any:
    """Optuna, which is an extra.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module("optuna")
    except ModuleNotFoundError:
        raise UsageError(
            "search.method: optuna is not installed; pip install groundup[search], or use method: grid"
        ) from None


def distribution_of(optuna: Any, allowed: list[Any] | Range) -> Any:
    """The values as optuna knows them: places in a list, as its members may be lists themselves."""
    if isinstance(allowed, list):
        return optuna.distributions.CategoricalDistribution(list(range(len(allowed))))
    if allowed.whole:
        return optuna.distributions.IntDistribution(int(allowed.low), int(allowed.high), log=allowed.log)
    return optuna.distributions.FloatDistribution(allowed.low, allowed.high, log=allowed.log)


def encoded(allowed: list[Any] | Range, value: Any) -> Any:
    """A value as optuna knows it."""
    return allowed.index(value) if isinstance(allowed, list) else value


def decoded(allowed: list[Any] | Range, value: Any) -> Any:
    """The value that optuna means."""
    return allowed[value] if isinstance(allowed, list) else value
