"""What a study searches before its runs: space, arms, length and judge of a trial. No torch."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any, Literal

from pydantic import Field, model_serializer, model_validator

from groundup.config import Options, did_you_mean

LENGTH_PATHS = ("training.schedule.units", "training.schedule.images")
"""Options that say how long a run is."""
UNSEARCHABLE = ("start", "data", "seed", "name", *LENGTH_PATHS)
"""Options, and sections of them, that are the arms', the judge's or the budget's."""
METRIC = re.compile(r"(box|mask|keypoints|voc)/A[PR]\S*")
"""Metrics of which more is better. Source: groundup.engine.evaluate, names of a log."""


class Range(Options):
    """Numbers between two ends, for a search that draws them."""

    low: float
    """Least."""
    high: float
    """Greatest."""
    log: bool = False
    """Draw on a logarithmic scale, as a learning rate asks for."""
    whole: bool = False
    """Whole numbers alone."""

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> "Range":
        """Refuse ends in the wrong order and logarithms of what has none."""
        if self.low >= self.high:
            raise ValueError(f"low is {self.low} and high {self.high}; low must be below high")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}, but a logarithmic scale begins above 0")
        if self.whole and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"low is {self.low} and high {self.high}, but whole asks for whole numbers")
        return self


class SearchOptions(Options):
    """Trainings that look for options of the recipe before the study's own runs are begun."""

    space: dict[str, list[Any] | Range]
    """Values to choose from by dotted path; with optuna also {low, high, log, whole}."""
    protocol: Literal["carry_over", "each_arm"]
    """`carry_over`: search on one arm, and what wins is used in all. `each_arm`: each is searched, under the
    same budget, and has what wins there. Source: He et al. (2019), section 5.1, which carries over from the
    pre-trained arm."""
    arm: str | None = None
    """The arm that is searched under `carry_over`; None under `each_arm`."""
    also: list[str] = Field(default_factory=list)
    """Arms that under `carry_over` are searched by themselves besides, with the same space and budget, and
    that use what wins there. Such an arm may repeat one that carries over, so that both stand in the report.
    Source: He et al. (2019), 5.2: on 1k images scratch has 3.5 AP by what won for pre-training, 5.4 by its
    own."""
    method: Literal["grid", "optuna"] = "grid"
    """Every combination of the values, or trials that follow from those before them (TPE)."""
    num_trials: int | None = None
    """Trials of each search with optuna; None for a grid, which counts its own."""
    units: float | None = None
    """Length of a trial in units of the arm's schedule; None where `images` says it."""
    images: int | None = None
    """Length of a trial in images, instead of `units`."""
    metric: str = "box/AP"
    """What is maximised: a metric of a trial's last evaluation."""
    judged_on: Literal["holdout", "validation"] = "holdout"
    """Training photographs that trials do not learn from, or the photographs that the verdict is of, on
    which the arms then look better than they are."""
    holdout: float = 0.2
    """Share of the training photographs that trials are judged on instead of learning from them. The runs
    of the study learn from all."""
    holdout_seed: int = 0
    """Names the draw of that share."""
    repeat_for: list[str] = Field(default_factory=list)
    """Axes at each of whose values the search is made anew, typically data.fraction."""
    point: dict[str, Any] = Field(default_factory=dict)
    """Values of other axes at which trials are trained; the first of those that are not named."""
    seed: int = 0
    """Seed of every trial, and of the draws of optuna."""

    @model_serializer(mode="wrap")
    def _leave_out_no_others(self, serialize: Callable[[Any], Any]) -> dict[str, Any]:
        """A search of no further arms is written, and named by its fingerprint, as before there were any."""
        values: dict[str, Any] = serialize(self)
        if not self.also:
            values.pop("also", None)
        return values

    @property
    def trials_each(self) -> int:
        """Trials of one search."""
        if self.num_trials is not None:
            return self.num_trials
        return prod(len(values) for values in self.space.values() if isinstance(values, list))

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> "SearchOptions":
        """Refuse spaces of nothing, budgets that are not said and judges that are none."""
        if not self.space:
            raise ValueError("space is empty; give a dotted path and its values")
        for path, values in self.space.items():
            if path in UNSEARCHABLE or path.split(".")[0] in UNSEARCHABLE:
                raise ValueError(f"space.{path}: cannot be searched; it belongs to the arms or the budget")
            if isinstance(values, Range):
                if self.method == "grid":
                    raise ValueError(f"space.{path}: a range needs method: optuna; a grid lists values")
            elif not values or any(value in values[:row] for row, value in enumerate(values)):
                raise ValueError(f"space.{path}: {values} is empty or has a value twice")
        if (self.units is None) == (self.images is None):
            raise ValueError("give the length of a trial once, as units or as images")
        if (self.units or self.images or 0) <= 0:
            raise ValueError(f"a trial of {self.units or self.images} has no length")
        if (self.method == "optuna") != (self.num_trials is not None):
            raise ValueError("num_trials goes with method: optuna, and a grid counts its own")
        if self.num_trials is not None and self.num_trials < 1:
            raise ValueError(f"num_trials is {self.num_trials}, but must be at least 1")
        if not METRIC.fullmatch(self.metric):
            raise ValueError(
                f"metric is {self.metric!r}, but must be an AP or AR such as box/AP or mask/AP75"
            )
        if not 0 < self.holdout < 1:
            raise ValueError(f"holdout is {self.holdout}, but must lie between 0 and 1")
        if (self.protocol == "carry_over") != (self.arm is not None):
            raise ValueError("protocol carry_over names the arm that is searched (arm), each_arm names none")
        if self.also and self.arm is None:
            raise ValueError("also names arms that are searched besides that of carry_over; each_arm has all")
        if self.arm in self.also or len(set(self.also)) < len(self.also):
            raise ValueError(f"also is {self.also}, but must be different arms besides {self.arm!r}")
        if self.seed < 0 or self.holdout_seed < 0:
            raise ValueError("seed and holdout_seed must not be negative")
        return self


def check_search(
    search: SearchOptions, arms: Mapping[str, Mapping[str, Any]], axes: Mapping[str, Sequence[Any]]
) -> None:
    """Refuse a search that does not fit the study's arms and axes.

    Raises:
        ValueError: it does not, with the key that says so.
    """
    if search.arm is not None and search.arm not in arms:
        raise ValueError(f"search.arm: {search.arm!r} is no arm{did_you_mean(search.arm, list(arms))}")
    for arm in search.also:
        if arm not in arms:
            raise ValueError(f"search.also: {arm!r} is no arm{did_you_mean(arm, list(arms))}")
    for path in search.space:
        if path in axes:
            raise ValueError(f"search.space.{path}: is an axis too; give it once")
        for arm, changes in arms.items():
            if path in changes:
                raise ValueError(f"search.space.{path}: arms.{arm} sets it too; give it once")
    for key, paths in (("repeat_for", search.repeat_for), ("point", list(search.point))):
        for path in paths:
            if path not in axes:
                raise ValueError(f"search.{key}: {path} is no axis{did_you_mean(path, list(axes))}")
            if path in LENGTH_PATHS:
                raise ValueError(f"search.{key}: {path}: trials have a length of their own")
    for path, value in search.point.items():
        if path in search.repeat_for:
            raise ValueError(f"search.point.{path}: is in repeat_for, so it has every value")
        if value not in axes[path]:
            raise ValueError(f"search.point.{path}: {value!r} is no value of the axis {axes[path]}")


def searched_arms(search: SearchOptions, arms: Sequence[str]) -> list[str]:
    """The arms that are searched."""
    return list(arms) if search.arm is None else [search.arm, *search.also]


def winning_arm(search: SearchOptions, arm: str) -> str:
    """The arm whose search an arm has its options from."""
    return arm if search.arm is None or arm in search.also else search.arm


def search_places(search: SearchOptions, axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """The values of the repeated axes, one dictionary a search; one of nothing where none is repeated."""
    for values in product(*(axes[path] for path in search.repeat_for)):
        yield dict(zip(search.repeat_for, values, strict=True))


def trial_point(
    search: SearchOptions, axes: Mapping[str, Sequence[Any]], place: Mapping[str, Any]
) -> dict[str, Any]:
    """The value of every axis but lengths that trials are trained at."""
    return {
        path: place[path] if path in place else search.point.get(path, values[0])
        for path, values in axes.items()
        if path not in LENGTH_PATHS
    }
