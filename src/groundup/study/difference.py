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
    variance_shared: float
    """The part of `se_image` squared that all seeds have in common, at least 0. Of a single seed: all."""
    variance_seeds: tuple[float, float] | None
    """Variance of AP between seeds in each arm; None where an arm has one seed and it is unknown."""
    image_quantiles: Float64[np.ndarray, " B"]
    """The bootstrapped differences, rising."""

    @property
    def image_only(self) -> bool:
        """Whether the error of training is unknown, so that the interval holds that of images alone."""
        return self.variance_seeds is None

    @property
    def seed_terms(self) -> tuple[float, float]:
        """Variance of each arm's mean over its seeds."""
        if self.variance_seeds is None:
            return (0.0, 0.0)
        first, second = self.variance_seeds
        return (first / self.num_seeds[0], second / self.num_seeds[1])

    @property
    def se(self) -> float:
        """Standard error of the difference; of one seed, that of the images alone."""
        if self.image_only:
            return self.se_image
        return float(np.sqrt(self.variance_shared + sum(self.seed_terms)))

    @property
    def degrees(self) -> float:
        """Degrees of freedom of `se` (Welch and Satterthwaite; the image term has no end of them)."""
        below = [
            term**2 / (count - 1)
            for term, count in zip(self.seed_terms, self.num_seeds, strict=True)
            if term > 0
        ]
        total = self.variance_shared + sum(self.seed_terms)
        return float(min(total**2 / sum(below), MANY_DEGREES)) if below else MANY_DEGREES

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


def measure_difference(candidate: EndpointSample, reference: EndpointSample) -> Difference:
    """The difference of two arms whose replicates were drawn with the same weights.

    A seed's AP on the given images already holds that seed's own luck with these images, and so does
    the bootstrap of the mean over seeds. Adding the two would count it twice, so of the images only
    what the seeds share is added: the mean covariance between the replicates of different seeds
    (reliability.md 6.2 adds the whole, which is never narrower: `se_image`).

    Raises:
        UsageError: unpaired replicates, or AP that is undefined.
    """
    if candidate.replicates.shape[0] != reference.replicates.shape[0]:
        raise UsageError("the arms have different numbers of bootstrap replicates and cannot be paired")
    if not (np.isfinite(candidate.points).all() and np.isfinite(reference.points).all()):
        raise UsageError("AP is undefined: the annotations hold no instance to find; choose another endpoint")
    first, second = defined_replicates(candidate.replicates, reference.replicates)
    replicated = first.mean(axis=1) - second.mean(axis=1)
    variance = float(replicated.var(ddof=1))
    counts = (len(candidate.points), len(reference.points))
    known = min(counts) > 1
    own = own_variance(first) / counts[0] + own_variance(second) / counts[1] if known else 0.0
    return Difference(
        delta=float(candidate.points.mean() - reference.points.mean()),
        num_seeds=counts,
        points=(tuple(candidate.points.tolist()), tuple(reference.points.tolist())),
        se_image=float(np.sqrt(variance)),
        variance_shared=max(variance - own, 0.0),
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


def own_variance(replicates: Float64[np.ndarray, "B S"]) -> float:
    """Variance over the images that each seed has for itself: its variance less what seeds share."""
    covariance = np.cov(replicates, rowvar=False)
    count = covariance.shape[0]
    total, shared = float(np.trace(covariance)), float(covariance.sum() - np.trace(covariance))
    return float(max(total / count - shared / (count * (count - 1)), 0.0))


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
