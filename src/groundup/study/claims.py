"""Claims about two arms and how they are judged: confirmed, contradicted or undecided. No torch.

A claim holds one requirement or several, each of the form "this value lies above this border". It is
confirmed where the intervals of all of them lie above, contradicted where that of one lies below, and
undecided otherwise. Several claims of one study are corrected for being several (Holm).

Legend:
    B  bootstrap replicates     S  seeds
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy import stats

from groundup.metrics.bootstrap import EndpointSample
from groundup.study.difference import Difference, measure_difference

Mark: TypeAlias = Literal["confirmed", "contradicted", "undecided", "not asked"]
"""What a study says of a claim. Not asked: its plan lacks what the claim speaks of."""
STEPS = 40
"""Halvings of the range in which an end of an interval is sought: to far less than a digit that is shown."""
MOST_TIMES = 100.0
"""Quotients of AP beyond this are not told apart: AP points end at 100, and less than 1 is nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """That a difference lies above a border; both in AP points, unless the samples are of something else."""

    difference: Difference
    border: float = 0.0
    one_sided: bool = False
    """Whether it is a claim about a margin, whose interval has level 1 - 2 alpha as that of the verdict's
    non-inferiority; else the interval has level 1 - alpha."""

    def level(self, alpha: float) -> float:
        """Level of the interval by which it is judged."""
        return 1 - 2 * alpha if self.one_sided else 1 - alpha

    def interval(self, alpha: float) -> tuple[float, float]:
        """The interval by which it is judged."""
        return self.difference.interval(self.level(alpha))

    def holds(self, alpha: float) -> bool:
        """Whether the interval lies above the border."""
        return self.interval(alpha)[0] > self.border

    def fails(self, alpha: float) -> bool:
        """Whether the interval lies below the border."""
        return self.interval(alpha)[1] < self.border

    @property
    def p_value(self) -> float:
        """Of the difference being the border: below alpha where the t interval leaves the border out."""
        away = abs(self.difference.delta - self.border)
        if self.difference.se == 0:
            return 0.0 if away > 0 else 1.0
        tail = float(stats.t.sf(away / self.difference.se, self.difference.degrees))
        return tail if self.one_sided else min(2 * tail, 1.0)


def p_value_of(requirements: Sequence[Requirement], alpha: float) -> float:
    """The p value of a claim, in the direction in which it may be decided.

    All requirements must hold, so the claim is as sure as the least sure of them (intersection-union
    test: Berger 1982, Multiparameter hypothesis testing and acceptance sampling); one that fails is
    enough against it, so that p value is taken times their number (Bonferroni).
    """
    failing = [one.p_value for one in requirements if one.fails(alpha)]
    if failing:
        return min(len(requirements) * min(failing), 1.0)
    return max(one.p_value for one in requirements)


def mark_of(requirements: Sequence[Requirement], p_value: float, alpha: float) -> Mark:
    """What the requirements say; `p_value` is corrected for the claims being several."""
    if p_value >= alpha:
        return "undecided"
    if any(one.fails(alpha) for one in requirements):
        return "contradicted"
    return "confirmed" if all(one.holds(alpha) for one in requirements) else "undecided"


def multiplied(sample: EndpointSample, factor: float) -> EndpointSample:
    """The sample times a number."""
    return EndpointSample(points=factor * sample.points, replicates=factor * sample.replicates)


def constant_beside(sample: EndpointSample, value: float) -> EndpointSample:
    """A number that is known for certain, in the form of the sample it is to be held against."""
    return EndpointSample(
        points=np.full_like(sample.points, value), replicates=np.full_like(sample.replicates, value)
    )


def subtracted(first: EndpointSample, second: EndpointSample) -> EndpointSample:
    """First minus second, seed by seed: of the same trainings, or of branches of one trunk.

    Taken so, what a seed's luck gives to both drops out.
    """
    return EndpointSample(
        points=first.points - second.points, replicates=first.replicates - second.replicates
    )


def divided(first: EndpointSample, second: EndpointSample) -> EndpointSample:
    """First over second, seed by seed; NaN where second is 0."""

    def quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        found = below > 0
        return np.where(found, above / np.where(found, below, 1.0), np.nan)

    return EndpointSample(
        points=quotient(first.points, second.points), replicates=quotient(first.replicates, second.replicates)
    )


def quotient_of(
    first: EndpointSample, second: EndpointSample, level: float
) -> tuple[float, float, float | None]:
    """Quotient of two arms' AP and its interval: all r for which that of first - r x second holds 0.

    Nothing below 0 nor above `MOST_TIMES`. The upper end is None where it is not bounded, as when the
    second may be 0. Source: Fieller 1954, Some problems in interval estimation.

    Raises:
        UsageError: AP that is undefined.
    """

    def ends(quotient: float) -> tuple[float, float]:
        return measure_difference(first, multiplied(second, quotient)).interval(level)

    above, below = float(first.points.mean()), float(second.points.mean())
    low = bisected(lambda quotient: ends(quotient)[0] > 0)
    high = bisected(lambda quotient: ends(quotient)[1] >= 0)
    value = min(above / below, MOST_TIMES) if below > 0 else MOST_TIMES
    return value, MOST_TIMES if low is None else low, high


def bisected(is_below: Callable[[float], bool]) -> float | None:
    """Where something stops to be so as its argument grows from 0; None where it still is at the end."""
    if is_below(MOST_TIMES):
        return None
    low, high = 0.0, MOST_TIMES
    if not is_below(low):
        return 0.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return low
