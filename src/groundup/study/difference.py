"""The difference between two arms with its two sources of error: the images and the trainings.

All values are AP points, 0 .. 100. The difference is candidate minus reference; in this project's
question the candidate is trained from scratch and the reference from pre-trained weights.

Legend:
    B  bootstrap replicates     S, R  seeds of the candidate and of the reference
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import stats

from groundup.errors import UsageError
from groundup.metrics.bootstrap import EndpointSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Candidate minus reference with what is known of its error."""

    delta: float
    """Difference of the means over seeds."""
    num_seeds: tuple[int, int]
    """Of the candidate, of the reference."""
    points: tuple[tuple[float, ...], tuple[float, ...]]
    """AP of each seed: the candidate's, the reference's."""
    se_image: float
    """Standard error of drawing the images: bootstrap of the difference of the means over seeds."""
    variance_seeds: tuple[float, float] | None
    """Variance of AP between seeds in each arm; None where an arm has one seed and it is unknown."""
    image_quantiles: Float64[np.ndarray, " B"]
    """The bootstrapped differences, rising."""

    @property
    def image_only(self) -> bool:
        """Whether the error of training is unknown, so that the interval holds that of images alone."""
        return self.variance_seeds is None

    @property
    def se(self) -> float:
        """Standard error of the difference; of one seed, that of the images alone."""
        if self.variance_seeds is None:
            return self.se_image
        terms = [v / n for v, n in zip(self.variance_seeds, self.num_seeds, strict=True)]
        return float(np.sqrt(self.se_image**2 + sum(terms)))

    @property
    def degrees(self) -> float:
        """Degrees of freedom of `se` (Welch and Satterthwaite; the images alone have no end of them)."""
        if self.variance_seeds is None:
            return MANY_DEGREES
        return degrees_of_freedom(self.se**2, self.variance_seeds, self.num_seeds)

    def interval(self, level: float) -> tuple[float, float]:
        """Two-sided interval of that level, such as 0.95.

        Of several seeds: t. Of one seed: percentiles of the bootstrap over images.
        """
        tail = (1 - level) / 2
        if self.image_only:
            low, high = np.quantile(self.image_quantiles, [tail, 1 - tail])
            return float(low), float(high)
        half = float(stats.t.ppf(1 - tail, self.degrees)) * self.se
        return self.delta - half, self.delta + half

    @property
    def p_value(self) -> float:
        """Two-sided, of no difference."""
        if self.se == 0:
            return 1.0 if self.delta == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.delta) / self.se, self.degrees))


MANY_DEGREES = 1e6
"""Degrees of freedom at which t is the normal distribution."""


def degrees_of_freedom(variance: float, seeds: tuple[float, float], counts: tuple[int, int]) -> float:
    """Welch's and Satterthwaite's, of a variance that holds the two arms' variances between seeds."""
    below = sum((v / n) ** 2 / (n - 1) for v, n in zip(seeds, counts, strict=True))
    return min(variance**2 / below, MANY_DEGREES) if below > 0 else MANY_DEGREES


def measure_difference(candidate: EndpointSample, reference: EndpointSample) -> Difference:
    """The difference of two arms whose replicates were drawn with the same weights.

    SE^2 = SE_image^2 + s_A^2 / n_A + s_B^2 / n_B (reliability.md 6.2). A seed's own luck with the given
    images is in both its terms, so the interval is a little wide rather than narrow: the 95 % interval
    of simulated detectors covers about 97 % where seeds differ by that luck alone, 96 % where trainings
    differ too. Without the double part an A/A study calls 5 to 6 % different (tests/laws).

    Raises:
        UsageError: unpaired replicates, or AP that is undefined.
    """
    if candidate.replicates.shape[0] != reference.replicates.shape[0]:
        raise UsageError("the arms have different numbers of bootstrap replicates and cannot be paired")
    if not (np.isfinite(candidate.points).all() and np.isfinite(reference.points).all()):
        raise UsageError("AP is undefined: the annotations hold no instance to find; choose another endpoint")
    first, second = defined_replicates(candidate.replicates, reference.replicates)
    replicated = first.mean(axis=1) - second.mean(axis=1)
    known = min(first.shape[1], second.shape[1]) > 1
    return Difference(
        delta=float(candidate.points.mean() - reference.points.mean()),
        num_seeds=(first.shape[1], second.shape[1]),
        points=(tuple(candidate.points.tolist()), tuple(reference.points.tolist())),
        se_image=float(replicated.std(ddof=1)),
        variance_seeds=(float(candidate.points.var(ddof=1)), float(reference.points.var(ddof=1)))
        if known
        else None,
        image_quantiles=np.sort(replicated),
    )


def defined_replicates(
    first: Float64[np.ndarray, "B S"], second: Float64[np.ndarray, "B R"]
) -> tuple[Float64[np.ndarray, "_ S"], Float64[np.ndarray, "_ R"]]:
    """The replicates in which both arms have an instance to find; in small data a few have none."""
    defined = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
    if defined.sum() < 2:
        raise UsageError("AP is undefined in the bootstrap: too few images with instances to compare arms on")
    return first[defined], second[defined]


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """The p values adjusted for being several: each may be held against alpha as if it were the only one.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    ranked = sorted(p_values, key=lambda name: p_values[name])
    adjusted, highest = {}, 0.0
    for rank, name in enumerate(ranked):
        highest = max(highest, min((len(ranked) - rank) * p_values[name], 1.0))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}
