"""When the candidate catches up with the reference's end, and from how much data on it is no worse.

Source: reliability.md 6.5 and 6.7.

Legend:
    B  replicates     S, R  seeds     P  evaluations or data sizes, rising
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from groundup.errors import UsageError
from groundup.metrics.bootstrap import EndpointSample
from groundup.study.censoring import Censored, censored_interval, settling_points
from groundup.study.difference import measure_difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """An arm's AP points over times (images seen) or sizes (images trained on). S counts seeds."""

    x: Float64[np.ndarray, " P"]
    """Rising."""
    samples: tuple[EndpointSample, ...]
    """One for each x, all under the same weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossover:
    """Where the candidate is no worse than the reference by the margin, from there on to the end."""

    point: float | None
    """First x from which the lower bound of the difference stays above minus the margin; None: not
    within what was measured, which is no promise that it comes later."""
    replicates: Censored
    """The same in every replicate of images and seeds."""
    lower_bounds: tuple[float, ...]
    """Lower end of the interval of the difference at each x."""
    includes_seeds: bool
    """Whether the bounds hold the error of training too."""
    sentence: str


def find_crossover(
    candidate: Curve,
    reference: EndpointSample | Curve,
    *,
    margin: float,
    alpha: float = 0.05,
    seed: int = 0,
    unit: str = "training images seen",
    names: tuple[str, str] = ("scratch", "pre-training"),
    measure: str = "AP",
) -> Crossover:
    """The catch-up point against the reference's end, or against its curve at the same x.

    `measure` is what the samples are of, in words.

    Raises:
        UsageError: curves at different x.
    """
    references = rivals_of(candidate, reference)
    check_rising(candidate.x)
    differences = [measure_difference(c, r) for c, r in zip(candidate.samples, references, strict=True)]
    bounds = [difference.interval(1 - alpha)[0] for difference in differences]
    above = np.array(bounds)[None] > -margin
    point = float(settling_points(candidate.x, above)[0])
    first = resampled_means(candidate.samples, seed)
    second = resampled_means(references, seed + 1)
    in_replicates = censored_interval(settling_points(candidate.x, first - second > -margin), alpha)
    includes_seeds = not any(difference.image_only for difference in differences)
    return Crossover(
        point=point if np.isfinite(point) else None,
        replicates=in_replicates,
        lower_bounds=tuple(bounds),
        includes_seeds=includes_seeds,
        sentence=crossover_in_words(
            point, in_replicates, candidate.x, f"{margin:g} {measure}", alpha, unit, names, includes_seeds
        ),
    )


def rivals_of(candidate: Curve, reference: EndpointSample | Curve) -> tuple[EndpointSample, ...]:
    """What the candidate is held against at each of its x."""
    if isinstance(reference, EndpointSample):
        return (reference,) * len(candidate.samples)
    if not np.array_equal(candidate.x, reference.x):
        raise UsageError("the curves have different points; compare arms trained on the same sizes")
    return reference.samples


def check_rising(x: Float64[np.ndarray, " P"]) -> None:
    """Refuse points out of order, in which "from there on" has no meaning."""
    if not len(x) or (np.diff(x) <= 0).any():
        raise UsageError(f"a curve needs points in rising order, got {x.tolist()}")


def resampled_means(samples: tuple[EndpointSample, ...], seed: int) -> Float64[np.ndarray, "B P"]:
    """Mean over seeds in each replicate, the seeds drawn anew with replacement, whole curves together.

    Drawing of n seeds understates their variance by (n - 1) / n, so deviations are widened. One seed
    stays as it is: its error is of images alone. Curves of unlike numbers of seeds are drawn point by
    point.
    """
    random = np.random.default_rng(seed)
    counts = [sample.replicates.shape[1] for sample in samples]
    num_replicates = samples[0].replicates.shape[0]
    drawn = {
        count: random.integers(0, count, (num_replicates, count)) if count > 1 else None
        for count in sorted(set(counts))
    }
    columns = []
    for sample, count in zip(samples, counts, strict=True):
        mean = sample.replicates.mean(axis=1)
        seeds = drawn[count]
        if seeds is not None:
            deviations = sample.points - sample.points.mean()
            mean = mean + deviations[seeds].mean(axis=1) * np.sqrt(count / (count - 1))
        columns.append(mean)
    return np.stack(columns, axis=1)


def crossover_in_words(
    point: float,
    replicates: Censored,
    x: Float64[np.ndarray, " P"],
    margin: str,
    alpha: float,
    unit: str,
    names: tuple[str, str],
    includes_seeds: bool,
) -> str:
    """The point, its interval, and what is not known."""
    candidate, reference = names
    held = "images and seeds" if includes_seeds else "images only, the error of training is unknown"
    end = f"{x[-1]:,.0f} {unit}"
    high = "not within the budget" if replicates.high is None else f"{replicates.high:,.0f}"
    interval = f"beyond {end}" if replicates.low is None else f"from {replicates.low:,.0f} to {high}"
    interval = f"{100 * (1 - alpha):g} % interval over {held}: {interval}"
    if not np.isfinite(point):
        return (
            f"That {candidate} comes within {margin} of {reference} is not shown within the budget "
            f"of {end} ({interval}); no promise is made of what comes later."
        )
    return f"From {point:,.0f} {unit} on, {candidate} is not worse than {reference} by {margin} ({interval})."
