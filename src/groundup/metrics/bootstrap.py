"""AP under weights of the images, for thousands of weightings at once: the paired bootstrap. No torch.

A weight says how often an image is counted: 1 everywhere is the evaluator's AP, 0 takes the image
away, 2 is the image and a copy of it. The weighted AP is that of pycocotools on images so repeated.

Why it is fast: interpolated precision changes at true positives alone, so only these (a few per cent
of the detections) carry a running sum; detections between two of them are summed by one sparse
product that all IoU thresholds share.

Legend:
    N  images     K  categories     T  IoU thresholds     D  detections     B  replicates (weightings)
    P  true positives of a category at any threshold     S  seeds
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt8
from scipy.sparse import csr_array

from groundup.errors import UsageError
from groundup.metrics.match_table import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE, MatchTable

RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
"""Source: pycocotools `Params.setDetParams`; the very floats matter where a recall equals one."""
NUM_REPLICATES = 2000
"""For a final verdict; 500 will do for a first look."""
CHUNK = 256
"""Replicates summed together: rows of a common category then stay in the processor's cache."""
NEARLY = 1e-9
"""Far below the smallest step of recall (1 / instances), far above rounding."""

Endpoint: TypeAlias = Literal["AP", "AP50", "AP75", "APs", "APm", "APl"]
"""What arms are compared by, as in `CocoAP`."""
ENDPOINTS: dict[Endpoint, tuple[str, float | None]] = {
    "AP": ("all", None),
    "AP50": ("all", 0.5),
    "AP75": ("all", 0.75),
    "APs": ("small", None),
    "APm": ("medium", None),
    "APl": ("large", None),
}
"""Area range and IoU threshold of each; None means the mean over all thresholds."""


def draw_weights(num_images: int, num_replicates: int, seed: int) -> Int32[np.ndarray, "N B"]:
    """How often each image is drawn when as many are drawn with replacement, anew in each replicate."""
    random = np.random.default_rng(seed)
    weights = np.empty((num_images, num_replicates), dtype=np.int32)
    for replicate in range(num_replicates):
        drawn = random.integers(0, num_images, num_images)
        weights[:, replicate] = np.bincount(drawn, minlength=num_images)
    return weights


def weighted_ap(
    table: MatchTable, weights: Int32[np.ndarray, "N B"] | Float64[np.ndarray, "N B"], area: str = "all"
) -> Float64[np.ndarray, "B T K"]:
    """AP, 0 .. 1, of every category and threshold under every weighting; NaN without an instance to find.

    Equal to pycocotools on images repeated as the weights say, if no image has equal scores in one
    category (copies of an image would then interleave).

    Raises:
        UsageError: an area range that the table does not have.
    """
    if area not in table.areas:
        raise UsageError(f"area range {area!r} is not in the match table; it has {', '.join(table.areas)}")
    num_replicates = weights.shape[1]
    values = np.full((num_replicates, len(table.thresholds), len(table.category_ids)), np.nan)
    plans = list(plan_categories(table, table.areas.index(area)))
    for first in range(0, num_replicates, CHUNK):
        chunk = weights[:, first : first + CHUNK].astype(np.float64)
        for plan in plans:
            values[first : first + CHUNK, :, plan.category] = plan.accumulate(chunk)
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryPlan:
    """One category's part of a table in the order of summing."""

    category: int
    to_find: csr_array
    """(1, N): instances to find in each image."""
    between: csr_array
    """(P, N): detections of each image since the true positive before, counted at every threshold."""
    thresholds: tuple["ThresholdPlan", ...]

    def accumulate(self, weights: Float64[np.ndarray, "N B"]) -> Float64[np.ndarray, "B T"]:
        """AP at each threshold."""
        num_to_find = (self.to_find @ weights)[0]
        counted = run_down(np.add, self.between @ weights)
        columns = [plan.accumulate(weights, counted, num_to_find) for plan in self.thresholds]
        values = np.stack(columns, axis=1)
        values[num_to_find <= 0] = np.nan
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdPlan:
    """What one threshold adds to its category's plan. Q counts its true positives."""

    places: Int64[np.ndarray, " Q"]
    """Rows of its true positives among the category's P."""
    images: Int32[np.ndarray, " Q"]
    more: csr_array | None
    """(Q, N): detections counted here and not at every threshold; None where there are none."""

    def accumulate(
        self,
        weights: Float64[np.ndarray, "N B"],
        counted: Float64[np.ndarray, "P B"],
        num_to_find: Float64[np.ndarray, " B"],
    ) -> Float64[np.ndarray, " B"]:
        """Mean interpolated precision over the recall thresholds.

        Each true positive's precision counts as often as there are recall thresholds between the
        recall before it and its own. Source: pycocotools `COCOeval.accumulate`, rearranged.
        """
        if not len(self.places):
            return np.zeros(weights.shape[1])
        found = weights[self.images]
        run_down(np.add, found)
        precision = counted[self.places]
        if self.more is not None:
            precision += run_down(np.add, self.more @ weights)
        precision += np.spacing(1)
        np.divide(found, precision, out=precision)
        run_down(np.maximum, precision[::-1])
        found /= np.where(num_to_find > 0, num_to_find, 1.0)
        reached = num_reached(found)
        precision *= np.diff(reached, axis=0, prepend=0)
        total: Float64[np.ndarray, " B"] = precision.sum(axis=0)
        return total / len(RECALL_THRESHOLDS)


def run_down(operation: np.ufunc, rows: Float64[np.ndarray, "Q B"]) -> Float64[np.ndarray, "Q B"]:
    """The rows, each joined in place with all before it.

    Row by row, as `accumulate` down the columns of an array takes ten times as long as its sums.
    """
    before = None
    for row in rows:
        if before is not None:
            operation(before, row, out=row)
        before = row
    return rows


def num_reached(recall: Float64[np.ndarray, "Q B"]) -> Int64[np.ndarray, "Q B"]:
    """How many recall thresholds are at most the recall, compared as the floats they are.

    Multiplication gives the highest threshold that can be meant; whether it is reached is asked of
    the float itself: 0.07 as 7 / 100 is not yet the seventh of `linspace`.
    """
    steps = len(RECALL_THRESHOLDS) - 1
    last = (recall * steps + NEARLY).astype(np.intp)
    np.minimum(last, steps, out=last)
    return last + (RECALL_THRESHOLDS[last] <= recall)


def plan_categories(table: MatchTable, area: int) -> Iterator[CategoryPlan]:
    """The plans of all categories that have an instance to find."""
    counted = table.gt_counted[area]
    for category in range(len(table.category_ids)):
        images = table.gt_images[counted & (table.gt_categories == category)]
        if len(images):
            part = slice(int(table.starts[category]), int(table.starts[category + 1]))
            to_find = incidence(np.zeros(len(images), dtype=np.int64), images, 1, table.num_images)
            yield plan_category(
                category, table.outcomes[area, :, part], table.images[part], to_find, table.num_images
            )


def plan_category(
    category: int,
    outcomes: UInt8[np.ndarray, "T D"],
    images: Int32[np.ndarray, " D"],
    to_find: csr_array,
    num_images: int,
) -> CategoryPlan:
    """The plan of one category's detections, which come by falling score."""
    hits = outcomes == TRUE_POSITIVE
    positions = np.flatnonzero(hits.any(axis=0))
    counts = outcomes != IGNORED
    always = counts.all(axis=0)
    assert (outcomes <= FALSE_POSITIVE).all(), "an outcome is one of three"
    thresholds = []
    for hit, count in zip(hits, counts, strict=True):
        own = np.flatnonzero(hit)
        extra = np.flatnonzero(count & ~always)
        segments = np.searchsorted(own, extra)
        before = segments < len(own)
        thresholds.append(
            ThresholdPlan(
                places=np.searchsorted(positions, own),
                images=images[own],
                more=incidence(segments[before], images[extra[before]], len(own), num_images)
                if before.any()
                else None,
            )
        )
    shared = np.flatnonzero(always)
    segments = np.searchsorted(positions, shared)
    before = segments < len(positions)
    return CategoryPlan(
        category=category,
        to_find=to_find,
        between=incidence(segments[before], images[shared[before]], len(positions), num_images),
        thresholds=tuple(thresholds),
    )


def incidence(
    segments: Int64[np.ndarray, " D"], images: Int32[np.ndarray, " D"], num_segments: int, num_images: int
) -> csr_array:
    """(segments, N): how many of the detections lie in each segment and image."""
    ones = np.ones(len(segments))
    return csr_array((ones, (segments, images)), shape=(num_segments, num_images))


def summarise_endpoint(
    values: Float64[np.ndarray, "B T K"], thresholds: Float64[np.ndarray, " T"], endpoint: Endpoint
) -> Float64[np.ndarray, " B"]:
    """The endpoint in AP points, 0 .. 100; NaN where no category has an instance to find."""
    threshold = ENDPOINTS[endpoint][1]
    if threshold is not None:
        rows = np.flatnonzero(np.isclose(thresholds, threshold))
        if not len(rows):
            raise UsageError(f"{endpoint}: the match table has no IoU threshold {threshold}")
        values = values[:, rows]
    by_category = values.mean(axis=1)
    defined = ~np.isnan(by_category)
    total, count = np.where(defined, by_category, 0.0).sum(axis=1), defined.sum(axis=1)
    return np.where(count > 0, 100.0 * total / np.maximum(count, 1), np.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSample:
    """One endpoint of one arm, in AP points. S counts the arm's seeds."""

    points: Float64[np.ndarray, " S"]
    """On the images as they are."""
    replicates: Float64[np.ndarray, "B S"]
    """On the images as drawn; the same images for every seed and every arm."""


def bootstrap_endpoints(
    tables: Sequence[MatchTable],
    weights: Int32[np.ndarray, "N B"],
    endpoints: Sequence[Endpoint],
    *,
    num_threads: int = 1,
) -> dict[Endpoint, EndpointSample]:
    """The endpoints of an arm's seeds, one table each, under the weights and without them.

    Pairing is in the weights: call it with the same for every arm.

    Raises:
        UsageError: tables of different images or truths, weights of another number of images.
    """
    check_paired(tables, weights.shape[0])
    with_unit = np.concatenate([np.ones_like(weights[:, :1]), weights], axis=1)
    areas: Mapping[str, list[Endpoint]] = {
        area: [e for e in endpoints if ENDPOINTS[e][0] == area] for area in AREAS
    }

    def of_table(table: MatchTable) -> dict[Endpoint, Float64[np.ndarray, " B_plus_1"]]:
        return {
            endpoint: summarise_endpoint(values, table.thresholds, endpoint)
            for area, wanted in areas.items()
            if wanted
            for values in [weighted_ap(table, with_unit, area)]
            for endpoint in wanted
        }

    with ThreadPoolExecutor(num_threads) as pool:
        found = list(pool.map(of_table, tables))
    return {
        endpoint: EndpointSample(
            points=np.array([one[endpoint][0] for one in found]),
            replicates=np.stack([one[endpoint][1:] for one in found], axis=1),
        )
        for endpoint in endpoints
    }


AREAS = ("all", "small", "medium", "large")
"""The area ranges that endpoints can ask for."""


def check_paired(tables: Sequence[MatchTable], num_images: int | None = None) -> None:
    """Refuse tables that do not score the same truth.

    Raises:
        UsageError: no tables, different truths, or another number of images than the weights have.
    """
    if not tables:
        raise UsageError("no match tables: an arm needs at least one evaluated seed")
    digests = {table.truth_digest for table in tables}
    if len(digests) > 1:
        sizes = ", ".join(str(table.num_images) for table in tables)
        raise UsageError(
            f"match tables of {len(digests)} different truths cannot be paired (images: {sizes}); "
            "evaluate all runs on the same annotations with the same limits"
        )
    if num_images is not None and tables[0].num_images != num_images:
        raise UsageError(f"weights of {num_images} images, match tables of {tables[0].num_images}")
