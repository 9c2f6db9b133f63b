"""Values that may lie beyond what was measured: where a curve settles above a line, and intervals of it.

Beyond the last measured point a value is infinite, before the first it is minus infinity; both stand
for "not within what was measured", never for a number.

Legend:
    B  replicates     P  points of a curve, in rising order of time or size
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64


@dataclass(frozen=True, slots=True, kw_only=True)
class Censored:
    """An estimate with an interval whose ends may lie beyond what was measured (None)."""

    value: float | None
    """Median of the replicates; None where it lies beyond."""
    low: float | None
    high: float | None
    share_reached: float
    """Share of replicates in which it lies within what was measured."""


def settling_points(
    times: Float64[np.ndarray, " P"], above: Bool[np.ndarray, "B P"]
) -> Float64[np.ndarray, " B"]:
    """First time from which on each curve stays above its line to the end; infinite where it does not."""
    stays = np.logical_and.accumulate(above[:, ::-1], axis=1)[:, ::-1]
    return np.where(stays.any(axis=1), times[stays.argmax(axis=1)], np.inf)


def censored_interval(values: Float64[np.ndarray, " B"], alpha: float) -> Censored:
    """Median and percentile interval; quantiles are values that occur, so infinity never mixes in."""
    low, middle, high = np.quantile(values, [alpha / 2, 0.5, 1 - alpha / 2], method="inverted_cdf").tolist()

    def measured(value: float) -> float | None:
        return value if np.isfinite(value) else None

    return Censored(
        value=measured(middle),
        low=measured(low),
        high=measured(high),
        share_reached=float(np.isfinite(values).mean()),
    )
