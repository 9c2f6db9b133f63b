"""How often the true class is the likeliest, or among the five likeliest. No torch here.

Legend:
    N  images      K  classes
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int64

from groundup.errors import DataError

CONFIDENCE = 0.95
"""Of every interval."""
TOP = 5
"""Places that count for top-5. Source: ILSVRC (Russakovsky et al., 2015), section 4.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """So many of so many."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """0..1; not a number where there is nothing to count."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the share that such images have, by Wilson's score; 0..1 where there are none."""
        return wilson_interval(self.count, self.total)

    def to_json(self) -> dict[str, Any]:
        """The share, its counts and interval as JSON values; null where nothing was counted."""
        return asdict(self) | {
            "value": self.value if self.total else None,
            "interval": list(self.interval),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """How well images are classified."""

    top1: Share
    top5: Share | None
    """None with 5 classes or fewer, where it could only be all."""
    classes: dict[str, Share]
    """Top-1 of each class's own images, by name, in the order of labels."""
    loss: float
    """Mean of -log(probability of the true class)."""

    @property
    def metrics(self) -> dict[str, float]:
        """Flat names for a log, shares in 0..1."""
        named = {"class/top1": self.top1.value, "class/loss": self.loss}
        return named if self.top5 is None else named | {"class/top5": self.top5.value}

    def lines(self) -> list[str]:
        """A table for reading."""
        rows = [("top-1", self.top1), *([("top-5", self.top5)] if self.top5 is not None else [])]
        rows += [(f"  {name}", share) for name, share in self.classes.items() if share.total]
        width = max(len(name) for name, _ in rows)
        text = [f"{name:{width}}  {describe(share)}" for name, share in rows]
        return [*text, f"{'loss':{width}}  {self.loss:.4f}"]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "top1": self.top1.to_json(),
            "top5": None if self.top5 is None else self.top5.to_json(),
            "classes": {name: share.to_json() for name, share in self.classes.items()},
            "loss": self.loss,
        }


def describe(share: Share) -> str:
    """A share as text: 0.9025 [0.880, 0.921] 722 of 800."""
    low, high = share.interval
    return f"{share.value:.4f} [{low:.3f}, {high:.3f}] {share.count} of {share.total}"


def top_k(
    scores: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"], names: Sequence[str], *, source: str
) -> TopK:
    """Accuracies of scores against true labels.

    Args:
        scores: probability of each class.
        labels: true classes, 0 .. K-1.
        names: of the classes.
        source: where the scores come from, for messages.

    Raises:
        DataError: no images, or scores that are not finite, as of a model whose weights are not.
    """
    if not len(labels):
        raise DataError(f"{source}: no images to score")
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores).all(axis=1)).sum())
        raise DataError(f"{source}: {bad} of {len(labels)} images have scores that are not finite")
    places = places_of(scores, labels)
    is_first = places == 0
    true_scores = np.take_along_axis(scores, labels[:, None], axis=1).astype(np.float64)
    return TopK(
        top1=Share(count=int(is_first.sum()), total=len(labels)),
        top5=Share(count=int((places < TOP).sum()), total=len(labels)) if len(names) > TOP else None,
        classes={
            name: Share(count=int(is_first[labels == label].sum()), total=int((labels == label).sum()))
            for label, name in enumerate(names)
        },
        loss=float(-np.log(np.maximum(true_scores, np.finfo(np.float32).tiny)).mean()),
    )


def places_of(scores: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """Place of each true class among the scores, 0 for the highest; of equal scores the lower label leads."""
    true_scores = np.take_along_axis(scores, labels[:, None], axis=1)
    leads = (scores == true_scores) & (np.arange(scores.shape[1]) < labels[:, None])
    return np.asarray(((scores > true_scores) | leads).sum(axis=1), np.int64)


def wilson_interval(count: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of a share by the score test; (0, 1) where nothing was counted.

    Source: Wilson (1927); Brown, Cai and DasGupta (2001), equation 4.
    """
    if not total:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, weight = count / total, z * z / total
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    return max(0.0, centre - half), min(1.0, centre + half)
