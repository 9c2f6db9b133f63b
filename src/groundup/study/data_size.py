"""What pre-training is worth in data: how much more of it training from scratch needs for the same AP.

Between measured sizes the curve is joined in the logarithm of the size; beyond the largest a power
law is fitted, and followed to four times that size and not further (one-shot estimates of needed data
are unreliable: Mahmood et al. 2022). Sources: reliability.md 6.7; Hoiem et al. 2021 for the law,
Hernandez et al. 2021 for "effective data transferred".

Legend:
    B  replicates     P  data sizes, rising     E  exponents that are tried
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from groundup.errors import UsageError
from groundup.study.censoring import Censored, censored_interval
from groundup.study.crossover import Curve, check_rising, resampled_means

FURTHEST = 4.0
"""Times the largest size beyond which nothing is claimed. Source: reliability.md 6.7."""
FEWEST_SIZES = 3
"""Sizes needed to fit a power law, which has three parameters; 5 or more are advised (Jain et al. 2023)."""
EXPONENTS = -np.geomspace(0.05, 2.0, 40)
"""Slower than the first is a constant, faster than the last is a step, in data of any use."""
HIGHEST_AP = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """Error 100 - AP as offset + scale * size ** exponent, one law per replicate."""

    offset: Float64[np.ndarray, " B"]
    scale: Float64[np.ndarray, " B"]
    exponent: Float64[np.ndarray, " B"]

    def ap_at(self, size: float) -> Float64[np.ndarray, " B"]:
        """AP points at a size, in images."""
        return HIGHEST_AP - self.offset - self.scale * size**self.exponent

    def size_for(self, ap: Float64[np.ndarray, " B"]) -> Float64[np.ndarray, " B"]:
        """The size at which the law reaches that AP; infinite where it never does."""
        share = (HIGHEST_AP - self.offset - ap) / np.where(self.scale > 0, self.scale, 1.0)
        reachable = (share > 0) & (self.scale > 0)
        return np.where(reachable, np.where(reachable, share, 1.0) ** (1 / self.exponent), np.inf)


def fit_power_law(
    sizes: Float64[np.ndarray, " P"],
    ap: Float64[np.ndarray, "B P"],
    weights: Float64[np.ndarray, " P"] | None = None,
) -> PowerLaw:
    """Weighted least squares in every replicate; `weights` are one over the variances, None means equal.

    For each exponent tried the rest is a straight line; lines that rise or start below no error are
    bent to the border.

    Raises:
        UsageError: too few sizes.
    """
    if len(sizes) < FEWEST_SIZES:
        raise UsageError(f"a power law needs {FEWEST_SIZES} data sizes, got {len(sizes)}")
    error = HIGHEST_AP - ap
    w = np.ones_like(sizes) if weights is None else weights / weights.mean()
    best = np.full(len(error), np.inf)
    offset, scale, exponent = (np.zeros(len(error)) for _ in range(3))
    for power in EXPONENTS.tolist():
        x = sizes**power
        mean_x, mean_y = np.average(x, weights=w), np.average(error, axis=1, weights=w)
        spread = (w * (x - mean_x) ** 2).sum()
        slope = np.maximum(((error - mean_y[:, None]) * (w * (x - mean_x))).sum(axis=1) / spread, 0.0)
        level = mean_y - slope * mean_x
        through_zero = np.maximum((error * (w * x)).sum(axis=1) / (w * x**2).sum(), 0.0)
        slope, level = np.where(level < 0, through_zero, slope), np.maximum(level, 0.0)
        loss = (w * (error - level[:, None] - slope[:, None] * x) ** 2).sum(axis=1)
        better = loss < best
        best = np.where(better, loss, best)
        offset, scale = np.where(better, level, offset), np.where(better, slope, scale)
        exponent = np.where(better, power, exponent)
    return PowerLaw(offset=offset, scale=scale, exponent=exponent)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataWorth:
    """Pre-training on `size` images is worth `factor` times these images from scratch."""

    size: float
    factor: Censored
    limits: tuple[float, float]
    """The factors between which the study can tell: smallest size, and four times the largest."""
    share_extrapolated: float
    """Share of replicates whose answer lies beyond the largest size that was trained on."""
    includes_seeds: bool
    sentence: str


def value_in_data(
    candidate: Curve,
    reference: Curve,
    *,
    row: int = -1,
    alpha: float = 0.05,
    seed: int = 0,
    names: tuple[str, str] = ("scratch", "pre-training"),
) -> DataWorth:
    """How many times the data of the reference's `row` the candidate needs for the same AP.

    Raises:
        UsageError: sizes out of order or not positive.
    """
    check_rising(candidate.x)
    if candidate.x[0] <= 0:
        raise UsageError(f"data sizes are numbers of images above 0, got {candidate.x.tolist()}")
    size = float(reference.x[row])
    scratch = resampled_means(candidate.samples, seed)
    target = resampled_means((reference.samples[row],), seed + 1)[:, 0]
    needed = sizes_needed(candidate.x, scratch, target, inverse_variances(scratch))
    factor = censored_interval(needed / size, alpha)
    furthest = FURTHEST if len(candidate.x) >= FEWEST_SIZES else 1.0
    limits = (float(candidate.x[0]) / size, furthest * float(candidate.x[-1]) / size)
    extrapolated = float((needed > candidate.x[-1]).mean())
    one_seed = min(len(s.points) for s in (*candidate.samples, reference.samples[row])) < 2
    return DataWorth(
        size=size,
        factor=factor,
        limits=limits,
        share_extrapolated=extrapolated,
        includes_seeds=not one_seed,
        sentence=worth_in_words(
            size, factor, needed / size, limits, extrapolated, alpha, names, len(candidate.x), one_seed
        ),
    )


def inverse_variances(ap: Float64[np.ndarray, "B P"]) -> Float64[np.ndarray, " P"]:
    """Weights for the fit: one over the variance at each size."""
    variance = ap.var(axis=0)
    floored: Float64[np.ndarray, " P"] = np.maximum(
        variance, 1e-3 * max(float(variance.max()), np.finfo(float).tiny)
    )
    return 1.0 / floored


def sizes_needed(
    sizes: Float64[np.ndarray, " P"],
    ap: Float64[np.ndarray, "B P"],
    target: Float64[np.ndarray, " B"],
    weights: Float64[np.ndarray, " P"],
) -> Float64[np.ndarray, " B"]:
    """Size at which each replicate's curve first reaches its target.

    Minus infinity below the smallest size, infinite beyond what may be claimed. Dips are bridged: more
    data never counts as less AP.
    """
    rising = np.maximum.accumulate(ap, axis=1)
    reached = rising >= target[:, None]
    index = np.where(reached.any(axis=1), reached.argmax(axis=1), len(sizes))
    right = np.clip(index, 1, len(sizes) - 1) if len(sizes) > 1 else np.zeros(len(index), dtype=np.intp)
    left = np.maximum(right - 1, 0)
    rows = np.arange(len(ap))
    low, high = rising[rows, left], rising[rows, right]
    share = np.clip((target - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0)
    logs = np.log(sizes)
    needed = np.exp(logs[left] + share * (logs[right] - logs[left]))
    below = (index == 0) & (rising[:, 0] > target)
    needed = np.where(index == 0, np.where(below, -np.inf, sizes[0]), needed)
    beyond = index == len(sizes)
    if beyond.any():
        needed[beyond] = np.inf
        if len(sizes) >= FEWEST_SIZES:
            law = fit_power_law(sizes, ap[beyond], weights)
            # from the last measured point on, along the law: its own level there may differ a little
            lift = ap[beyond, -1] - law.ap_at(float(sizes[-1]))
            further = np.maximum(law.size_for(target[beyond] - lift), sizes[-1])
            needed[beyond] = np.where(further <= FURTHEST * sizes[-1], further, np.inf)
    return needed


def worth_in_words(
    size: float,
    factor: Censored,
    factors: Float64[np.ndarray, " B"],
    limits: tuple[float, float],
    extrapolated: float,
    alpha: float,
    names: tuple[str, str],
    num_sizes: int,
    one_seed: bool,
) -> str:
    """The factor with its band, and what lies beyond the study."""
    candidate, reference = names
    low, middle, high = np.quantile(factors, [alpha / 2, 0.5, 1 - alpha / 2], method="inverted_cdf").tolist()

    def say(value: float) -> str:
        if np.isposinf(value):
            return f"more than {limits[1]:.2g}"
        return f"less than {limits[0]:.2g}" if np.isneginf(value) else f"{value:.2g}"

    held = "images only, the error of training is unknown" if one_seed else "images and seeds"
    text = (
        f"With {size:,.0f} images, {reference} is worth {say(middle)} times the data for {candidate} "
        f"({100 * (1 - alpha):g} % interval over {held}: {say(low)} to {say(high)})."
    )
    if extrapolated > alpha / 2 and num_sizes >= FEWEST_SIZES:
        text += f" In {100 * extrapolated:.0f} % of replicates it lies beyond the largest size trained on."
    if factor.share_reached < 1 and factor.high is None:
        text += f" Nothing is claimed beyond {limits[1]:.2g} times."
    return text
