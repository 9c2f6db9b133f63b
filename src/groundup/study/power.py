"""How many seeds or images a claim needs, before training and after an inconclusive result.

Values are AP points; power is reckoned for a true difference of zero unless one is given.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from groundup.study.difference import Difference, degrees_of_freedom

POWER = 0.8
"""Chance of the claim where it is true that a plan should have. Source: the usual choice (Cohen 1988)."""
MOST_SEEDS = 39
"""More seeds per arm than these nobody trains. Source: the table of reliability.md 6.3."""
MOST_IMAGES = 100.0
"""More images than so many times the present ones nobody annotates."""
NUM_QUANTILES = 4000
"""Of the chi-squared distribution, to integrate over the estimated spread; good to 1e-3."""


def equivalence_power(
    seed_sd: float, margin: float, num_seeds: int, *, alpha: float = 0.05, difference: float = 0.0
) -> float:
    """Chance that two one-sided tests find two arms within the margin; image error left out.

    Both arms have `num_seeds` seeds of the same spread. Source: Schuirmann 1987, integrated over the
    chi-squared distribution of the estimated variance.
    """
    degrees = 2 * (num_seeds - 1)
    quantiles = (np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES
    estimated = seed_sd * np.sqrt(stats.chi2.ppf(quantiles, degrees) / degrees)
    scale = np.sqrt(2 / num_seeds)
    room = margin - stats.t.ppf(1 - alpha, degrees) * estimated * scale
    sd = max(seed_sd * scale, np.finfo(float).tiny)
    inside = stats.norm.cdf((room - difference) / sd) - stats.norm.cdf((-room - difference) / sd)
    return float(np.where(room > 0, inside, 0.0).mean())


def seeds_for_equivalence(
    seed_sd: float, margin: float, *, alpha: float = 0.05, power: float = POWER, most: int = MOST_SEEDS
) -> int | None:
    """Fewest seeds per arm with that power to claim equivalence; None if more than `most`."""
    for num_seeds in range(2, most + 1):
        if equivalence_power(seed_sd, margin, num_seeds, alpha=alpha) >= power:
            return num_seeds
    return None


def smallest_margin(
    seed_sd: float, num_seeds: int, *, alpha: float = 0.05, power: float = POWER
) -> float | None:
    """The margin that so many seeds per arm can support; None for one seed, which supports none."""
    if num_seeds < 2:
        return None
    low, high = 0.0, 100.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        enough = equivalence_power(seed_sd, middle, num_seeds, alpha=alpha) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What would decide, if difference and spreads stay as measured; None where it alone cannot."""

    more_seeds: int | None
    """Per arm."""
    images: float | None
    """Times the present number of images."""

    def sentence(self, num_images: int, known_seeds: bool) -> str:
        """In words."""
        if not known_seeds:
            return "train at least 3 seeds per arm first: the spread between trainings is unknown"
        ways = []
        if self.more_seeds is not None:
            noun = "seed" if self.more_seeds == 1 else "seeds"
            ways.append(f"about {self.more_seeds} more {noun} per arm")
        if self.images is not None:
            ways.append(f"about {round(num_images * (self.images - 1), -1):.0f} more validation images")
        if ways:
            return " or ".join(ways) + " would decide, if difference and spread stay as they are"
        return (
            f"neither {MOST_SEEDS} seeds per arm nor {MOST_IMAGES:.0f} times the images would decide alone: "
            "the difference lies close to a border of the claims; widen the margin in a new study"
        )


def what_decides(difference: Difference, margin: float, alpha: float) -> Need:
    """The fewest further seeds, and the fewest further images, that would give a verdict.

    Seeds are taken to shrink the seed terms alone, images the image term alone.
    """
    if difference.variance_seeds is None:
        return Need(more_seeds=None, images=None)
    seeds = None
    start = max(difference.num_seeds)
    for count in range(start + 1, MOST_SEEDS + 1):
        if decides(difference, margin, alpha, num_seeds=(count, count), images=1.0):
            seeds = count - start
            break
    factors = np.geomspace(1.05, MOST_IMAGES, 100).tolist()
    images = next(
        (f for f in factors if decides(difference, margin, alpha, num_seeds=difference.num_seeds, images=f)),
        None,
    )
    return Need(more_seeds=seeds, images=images)


def decides(
    difference: Difference, margin: float, alpha: float, *, num_seeds: tuple[int, int], images: float
) -> bool:
    """Whether the same difference would give a verdict with so many seeds and so many times the images."""
    assert difference.variance_seeds is not None, "asked only where the spread is known"
    terms = [v / n for v, n in zip(difference.variance_seeds, num_seeds, strict=True)]
    variance = difference.se_image**2 / images + sum(terms)
    degrees = degrees_of_freedom(variance, difference.variance_seeds, num_seeds)
    se = variance**0.5
    different = abs(difference.delta) > stats.t.ppf(1 - alpha / 2, degrees) * se
    not_worse = difference.delta - stats.t.ppf(1 - alpha, degrees) * se > -margin
    return bool(different or not_worse)
