"""Average precision of boxes by the rules of Pascal VOC's development kit, in numpy alone.

Every detection is compared with the object of its class that it overlaps most, taken or not. At or above
the threshold it is right if that object was not found before, wrong if it was, and neither if the object is
difficult; below the threshold it is wrong. Difficult objects are not asked for. Nothing limits the number
of detections. Source: VOC development kits 2007 and 2012, `VOCevaldet.m` (overlaps `>= minoverlap`; Python
re-implementations such as py-faster-rcnn's `voc_eval.py` ask for `>`) and `VOCap.m`.

Legend:
    D  detections of a class     G  its objects     T  overlap thresholds     R  points of a curve
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float64, Int64

from groundup.errors import DataError
from groundup.metrics.coco_ap import check_truth
from groundup.metrics.results import CheckedResults, Document, Result, check_results

VocMetric: TypeAlias = Literal["voc2007", "voc2012"]
"""How a curve becomes a number: mean precision at 11 recalls (to 2009), or the area under it (from 2010)."""
Pixels: TypeAlias = Literal["edges", "inclusive"]
"""What a box's numbers are. `edges`: x and x + width are its borders. `inclusive`: they are its first and
last pixel, so sides count one more, as in the kit's `x2 - x1 + 1`. The converter makes edges of VOC's
pixels (x = xmin - 1, width = xmax - xmin + 1), on which `edges` gives exactly what the kit gives on the
xml; `inclusive` is for annotations that were carried over with width = xmax - xmin."""

RECALLS = (0.0, 0.1, 0.2, 3 * 0.1, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""The 11 recalls. Source: the kit's `0:0.1:1`, which counts from either end to the middle, so 0.3 alone is
one rounding above the nearest number to 3/10; Python's `arange` rounds 0.6 and 0.7 up besides."""
MIN_OVERLAP = 0.5
"""Source: VOC development kit, `VOCopts.minoverlap`."""
THRESHOLDS = tuple((50 + 5 * step) / 100 for step in range(10))
"""Those of COCO, at which Detectron2 gives VOC's AP too. Source: `PascalVOCDetectionEvaluator`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VocCategoryAP:
    """One class's values, 0 .. 1; None where it has no object that is asked for."""

    id: int
    name: str
    AP: dict[str, float | None]
    """By overlap threshold, as in `0.50`."""
    num_instances: int
    """Objects that are asked for: not difficult."""
    num_difficult: int
    num_results: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VocAP:
    """VOC's values, 0 .. 1: means over the classes that have objects; None where none has."""

    metric: VocMetric
    pixels: Pixels
    thresholds: tuple[float, ...]
    """Overlaps from which on a detection can be right, rising."""
    AP: dict[str, float | None]
    """Mean over classes by threshold, as in `0.50`: VOC's own mAP."""
    categories: tuple[VocCategoryAP, ...]
    num_images: int
    num_instances: int
    num_difficult: int
    num_results: int
    notes: tuple[str, ...]

    def at(self, threshold: float) -> float | None:
        """Mean over classes at an overlap; None where it is undefined or was not evaluated."""
        return self.AP.get(name_of(threshold))

    def values(self) -> dict[str, float]:
        """The defined values under flat names: AP50, AP75, and AP, the mean over COCO's ten thresholds."""
        named = {"AP50": self.at(0.5), "AP75": self.at(0.75)}
        defined = [value for value in (self.at(one) for one in THRESHOLDS) if value is not None]
        if len(defined) == len(THRESHOLDS):
            named["AP"] = float(np.mean(defined))
        return {name: value for name, value in named.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values; undefined values are null."""
        return asdict(self) | {
            "thresholds": list(self.thresholds),
            "categories": [asdict(category) for category in self.categories],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Matches:
    """The detections of one class in order of score, the first given first among equals."""

    overlaps: Float64[np.ndarray, " D"]
    """With the object that each overlaps most; 0 without any."""
    objects: Int64[np.ndarray, " D"]
    """That object's number within the class; -1 without any."""
    difficult: Bool[np.ndarray, " G"]


def voc_ap(
    document: Document,
    results: Sequence[Result],
    metric: VocMetric,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    pixels: Pixels = "edges",
    source: str = "results",
) -> VocAP:
    """VOC's AP of box results against the document's annotations.

    Objects are difficult whose annotation says `difficult` or `iscrowd`. `source` names the results in
    messages.

    Raises:
        DataError: results that `check_results` refuses, annotations without boxes, a threshold that is none.
    """
    if not thresholds or not all(0 < one <= 1 for one in thresholds):
        raise DataError(f"VOC's overlap thresholds must lie in 0 (excluded) .. 1, got {list(thresholds)}")
    check_truth(document, "bbox")
    checked = check_results(document, results, "bbox", source=source)
    rising = tuple(sorted(set(thresholds)))
    categories = tuple(
        category_ap(category, matches, metric, rising)
        for category, matches in match_all(document, checked, pixels)
    )
    return VocAP(
        metric=metric,
        pixels=pixels,
        thresholds=rising,
        AP={name_of(one): mean_of([c.AP[name_of(one)] for c in categories]) for one in rising},
        categories=categories,
        num_images=len(document["images"]),
        num_instances=sum(category.num_instances for category in categories),
        num_difficult=sum(category.num_difficult for category in categories),
        num_results=len(checked.scores),
        notes=tuple(notes_on(categories)),
    )


def name_of(threshold: float) -> str:
    """A threshold as a key: `0.50`."""
    return f"{threshold:.2f}"


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean of the defined values; None where none is."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def match_all(
    document: Document, checked: CheckedResults, pixels: Pixels
) -> list[tuple[dict[str, Any], Matches]]:
    """Every category by id with its detections matched."""
    row_of = {image["id"]: row for row, image in enumerate(document["images"])}
    truths: dict[int, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for annotation in document["annotations"]:
        truths[annotation["category_id"]][row_of[annotation["image_id"]]].append(annotation)
    return [
        (category, match_category(truths[category["id"]], checked, category["id"], pixels))
        for category in sorted(document["categories"], key=lambda category: int(category["id"]))
    ]


def match_category(
    truths: dict[int, list[Any]], checked: CheckedResults, category_id: int, pixels: Pixels
) -> Matches:
    """The detections of a class, each with the object it overlaps most; `truths` are objects by image row."""
    chosen = np.flatnonzero(checked.category_ids == category_id)
    chosen = chosen[np.argsort(-checked.scores[chosen], kind="stable")]
    rows, boxes = checked.image_rows[chosen], checked.values[chosen]
    overlaps, objects = np.zeros(len(chosen)), np.full(len(chosen), -1, np.int64)
    by_image = np.argsort(rows, kind="stable")
    bounds = np.flatnonzero(np.diff(rows[by_image])) + 1
    places = {int(rows[part[0]]): part for part in np.split(by_image, bounds) if len(part)}
    difficult: list[bool] = []
    for row, annotations in truths.items():
        part = places.get(row)
        if part is not None:
            truth = np.array([annotation["bbox"] for annotation in annotations], np.float64)
            table = overlap_table(boxes[part], truth, pixels)
            best = table.argmax(axis=1)
            overlaps[part] = table[np.arange(len(part)), best]
            objects[part] = np.where(overlaps[part] > 0, len(difficult) + best, -1)
        difficult += [bool(a.get("difficult") or a.get("iscrowd")) for a in annotations]
    return Matches(overlaps, objects, np.array(difficult, np.bool_))


def overlap_table(
    boxes: Float64[np.ndarray, "D 4"], truth: Float64[np.ndarray, "G 4"], pixels: Pixels
) -> Float64[np.ndarray, "D G"]:
    """Intersection over union of boxes (x, y, width, height); 0 where they do not touch."""
    extra = 1.0 if pixels == "inclusive" else 0.0
    first, second = boxes[:, None], truth[None]
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    sides = high - low + extra
    shared = np.where((sides > 0).all(axis=-1), sides.prod(axis=-1), 0.0)
    union = (first[..., 2:] + extra).prod(axis=-1) + (second[..., 2:] + extra).prod(axis=-1) - shared
    table: Float64[np.ndarray, "D G"] = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
    return table


def category_ap(
    category: dict[str, Any], matches: Matches, metric: VocMetric, thresholds: tuple[float, ...]
) -> VocCategoryAP:
    """One class's AP at every threshold."""
    num_asked = int((~matches.difficult).sum())
    values: dict[str, float | None] = {}
    for threshold in thresholds:
        recall, precision = curve(matches, threshold)
        average = eleven_point_ap if metric == "voc2007" else area_ap
        values[name_of(threshold)] = average(recall, precision) if num_asked else None
    return VocCategoryAP(
        id=int(category["id"]),
        name=str(category.get("name", category["id"])),
        AP=values,
        num_instances=num_asked,
        num_difficult=int(matches.difficult.sum()),
        num_results=len(matches.overlaps),
    )


def curve(matches: Matches, threshold: float) -> tuple[Float64[np.ndarray, " D"], Float64[np.ndarray, " D"]]:
    """Recall and precision after each detection.

    The precision before the first that is right or wrong is undefined in the kit (0 / 0), which takes
    maxima over it as over nothing; it is 0 here.
    """
    reaches = (matches.objects >= 0) & (matches.overlaps >= threshold)
    asked = reaches.copy()
    asked[reaches] = ~matches.difficult[matches.objects[reaches]]
    places = np.flatnonzero(asked)
    _, firsts = np.unique(matches.objects[places], return_index=True)
    is_right = np.zeros(len(reaches), np.bool_)
    is_right[places[firsts]] = True
    right = np.cumsum(is_right, dtype=np.float64)
    counted = right + np.cumsum((asked | ~reaches) & ~is_right)
    precision = np.divide(right, counted, out=np.zeros_like(right), where=counted > 0)
    return right / max(1, int((~matches.difficult).sum())), precision


def eleven_point_ap(recall: Float64[np.ndarray, " R"], precision: Float64[np.ndarray, " R"]) -> float:
    """Mean over 11 recalls of the best precision from there on. Source: VOC 2007, `VOCevaldet.m`."""
    return float(np.mean([precision[recall >= least].max(initial=0.0) for least in RECALLS]))


def area_ap(recall: Float64[np.ndarray, " R"], precision: Float64[np.ndarray, " R"]) -> float:
    """Area under the precision made falling. Source: VOC 2010 and later, `VOCap.m`."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


def notes_on(categories: tuple[VocCategoryAP, ...]) -> list[str]:
    """What a reader of the values must know."""
    notes = []
    bare = [category.name for category in categories if not category.num_instances]
    if bare:
        notes.append(
            f"no object to find of {', '.join(bare[:5])}{', ...' if len(bare) > 5 else ''}: left out"
        )
    num_difficult = sum(category.num_difficult for category in categories)
    if num_difficult:
        notes.append(f"{num_difficult} difficult objects are neither asked for nor counted as wrong")
    return notes
