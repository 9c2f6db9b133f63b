"""COCO average precision and recall: the one door to the evaluator library.

The evaluator is hotcoco, equal to pycocotools to 1e-9 (tests/parity). What we add: results are
checked first, undefined values are None instead of -1, and the detection limit applies to every
value, AP included.

Legend (axes of the evaluator's tables):
    T  IoU thresholds 0.50, 0.55 .. 0.95     R  recall thresholds 0, 0.01 .. 1
    K  categories, by id                     A  area ranges     M  detection limits
"""

import contextlib
import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from operator import contains
from typing import Any

import numpy as np
from hotcoco import COCO, COCOeval
from jaxtyping import Float64

from groundup.errors import DataError
from groundup.metrics.results import FIELD, CheckedResults, Document, Kind, Result, check_results

STANDARD_LIMIT: dict[Kind, int] = {"bbox": 100, "segm": 100, "keypoints": 20}
"""Detections per image and category that COCO's own figures use. Source: pycocotools `Params`."""
LOWER_LIMITS = (1, 10)
"""The further limits at which recall is reported, where they are below the main one. Same source."""
IOU_50, IOU_75 = 0, 5
"""Rows of the thresholds 0.50 and 0.75 among the T."""
COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107),
    *(0.087, 0.087, 0.089, 0.089),
)
"""Spread of each of COCO's 17 person keypoints, in root areas. Source: pycocotools `Params.setKpParams`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryAP:
    """One category's values, 0 .. 1; None where the category has no instance to find."""

    id: int
    name: str
    AP: float | None
    AP50: float | None
    AP75: float | None
    AR: float | None
    """Recall at the main limit."""
    num_instances: int
    """Instances in the annotations, crowds left out."""
    num_results: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoAP:
    """COCO's values of one kind, 0 .. 1; None where there is no instance to find (undefined).

    Undefined values enter no mean. Small, medium and large are areas below 32^2, from 32^2 to 96^2,
    and above 96^2 pixels; keypoints have no small range.
    """

    kind: Kind
    AP: float | None
    """Mean over the ten IoU thresholds, 101 recall thresholds and all categories."""
    AP50: float | None
    AP75: float | None
    APs: float | None
    APm: float | None
    APl: float | None
    AR: dict[int, float | None]
    """Mean of the highest recall over thresholds and categories, by detection limit."""
    ARs: float | None
    ARm: float | None
    ARl: float | None
    limits: tuple[int, ...]
    """Detection limits per image and category, rising. All values but `AR[limit]` use the last."""
    categories: tuple[CategoryAP, ...]
    num_images: int
    num_instances: int
    """Instances of the evaluated categories, crowds left out."""
    num_results: int
    sigmas: tuple[float, ...] | None
    """Spread of each keypoint that was used; None for boxes and masks."""
    notes: tuple[str, ...]
    """What a reader of the values must know: no results, no truth, a limit that is not COCO's."""

    @property
    def max_detections(self) -> int:
        """The detection limit of AP."""
        return self.limits[-1]

    def values(self) -> dict[str, float]:
        """The defined values under flat names: AP, AP50, .., AR@1, .., ARl."""
        named = {name: getattr(self, name) for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")}
        named |= {f"AR@{limit}": recall for limit, recall in self.AR.items()}
        named |= {name: getattr(self, name) for name in ("ARs", "ARm", "ARl")}
        return {name: value for name, value in named.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values; undefined values are null."""
        return {
            **asdict(self),
            "AR": {str(limit): recall for limit, recall in self.AR.items()},
            "limits": list(self.limits),
            "categories": [asdict(category) for category in self.categories],
            "sigmas": None if self.sigmas is None else list(self.sigmas),
            "notes": list(self.notes),
        }


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Inside, Python does not look for cycles, of which results have none: it would walk all of them."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@collection_paused()
def coco_ap(
    document: Document,
    results: Sequence[Result],
    kind: Kind,
    max_detections: int | None = None,
    *,
    sigmas: Sequence[float] | None = None,
    source: str = "results",
) -> CocoAP:
    """COCO's AP and AR of the results against the document's annotations.

    `max_detections` is per image and category, as in COCO; None means COCO's own limit (100;
    keypoints 20). `sigmas` are the keypoints' spreads; None means COCO's for 17 keypoints, else their
    mean for each. `source` names the results in messages.

    Raises:
        DataError: results that `check_results` refuses, masks whose runs do not fit their image,
            annotations that cannot be scored.
    """
    limits = detection_limits(STANDARD_LIMIT[kind] if max_detections is None else max_detections, kind)
    check_truth(document, kind)
    checked = check_results(document, results, kind, source=source)
    category_ids = evaluated_categories(document, kind)
    evaluator = build_evaluator(document, results, checked, limits, source, sigmas=sigmas)
    spreads = tuple(evaluator.params.kpt_oks_sigmas) if kind == "keypoints" else None
    evaluator.evaluate()
    evaluator.accumulate()
    tables = evaluator.eval
    assert tables is not None, "accumulate() fills the tables"
    return summarise(document, checked, tables, category_ids=category_ids, limits=limits, sigmas=spreads)


def build_evaluator(
    document: Document,
    results: Sequence[Result],
    checked: CheckedResults,
    limits: Sequence[int],
    source: str,
    *,
    sigmas: Sequence[float] | None = None,
) -> COCOeval:
    """The library's evaluator of checked results, not yet run; `limits` are detections, rising.

    `sigmas` are the keypoints' spreads, as in `coco_ap`.
    """
    truth = COCO(document)
    evaluator = COCOeval(truth, load_detections(truth, document, results, checked, source), checked.kind)
    evaluator.params.max_dets = list(limits)
    evaluator.params.cat_ids = evaluated_categories(document, checked.kind)
    if checked.kind == "keypoints":
        evaluator.params.kpt_oks_sigmas = list(standard_sigmas(document) if sigmas is None else sigmas)
    return evaluator


def detection_limits(max_detections: int, kind: Kind) -> tuple[int, ...]:
    """The limits to evaluate, rising; the last is the main one. Keypoints have but one, as in COCO."""
    if max_detections < 1:
        raise DataError(f"max_detections must be at least 1, got {max_detections}")
    lower = () if kind == "keypoints" else LOWER_LIMITS
    return (*(limit for limit in lower if limit < max_detections), max_detections)


def check_document(document: Document) -> None:
    """Refuse ids that occur twice, which the evaluators count wrongly in silence.

    Raises:
        DataError: a missing list, or ids that occur twice.
    """
    for name in ("images", "annotations", "categories"):
        if not isinstance(document.get(name), list):
            raise DataError(f"annotations: no list '{name}'; a COCO document has one")
        ids = [entry["id"] for entry in document[name]]
        if len(set(ids)) < len(ids):
            seen: set[Any] = set()
            twice = [i for i in ids if i in seen or seen.add(i)]  # type: ignore[func-returns-value]
            raise DataError(
                f"annotations: {len(twice)} ids occur twice in '{name}', the first is {twice[0]!r}; "
                "run groundup data check"
            )


def check_truth(document: Document, kind: Kind) -> None:
    """Refuse annotations by which results of this kind cannot be scored.

    Raises:
        DataError: as `check_document`; annotations that `lacks_truth` finds wanting.
    """
    check_document(document)
    lack = lacks_truth(document, kind)
    if lack is not None:
        raise DataError(f"annotations: {lack}")


def lacks_truth(document: Document, kind: Kind) -> str | None:
    """Why the annotations cannot tell right from wrong in this kind; None where they can."""
    categories = set(evaluated_categories(document, kind))
    if not categories:
        return "no categories with keypoints" if kind == "keypoints" else "no categories"
    annotations, field = document["annotations"], FIELD[kind]
    bare = [a["id"] for a in annotations if not a.get(field) and a["category_id"] in categories]
    if not bare:
        return None
    return f"{len(bare)} of {len(annotations)} annotations have no {field}, the first is {bare[0]!r}"


def evaluated_categories(document: Document, kind: Kind) -> list[int]:
    """Category ids in rising order; for keypoints those that have keypoints."""
    return sorted(c["id"] for c in document["categories"] if kind != "keypoints" or c.get("keypoints"))


def standard_sigmas(document: Document) -> tuple[float, ...]:
    """COCO's spreads for 17 keypoints, else their mean for each keypoint; other data has no standard.

    Raises:
        DataError: categories that differ in their number of keypoints.
    """
    counts = sorted({len(c["keypoints"]) for c in document["categories"] if c.get("keypoints")})
    if len(counts) != 1:
        raise DataError(f"annotations: categories have {counts} keypoints; evaluate them one by one")
    if counts[0] == len(COCO_SIGMAS):
        return COCO_SIGMAS
    return (sum(COCO_SIGMAS) / len(COCO_SIGMAS),) * counts[0]


def load_detections(
    truth: COCO, document: Document, results: Sequence[Result], checked: CheckedResults, source: str
) -> COCO:
    """The results inside the evaluator, of one kind alone.

    Boxes go as one table, many times faster than objects. Masks and keypoints go without their boxes:
    the area of a detection, which decides whether it is small, would else be the box's. Source:
    `COCO.loadRes` of pycocotools, and Detectron2's evaluator, which drops the boxes too.
    """
    kind = checked.kind
    if kind == "bbox":
        image_ids = np.array([image["id"] for image in document["images"]], dtype=np.float64)
        table = np.empty((len(results), 7))
        table[:, 0] = image_ids[checked.image_rows]
        table[:, 1:5] = checked.values
        table[:, 5] = checked.scores
        table[:, 6] = checked.category_ids
        return truth.load_res(table)
    field = FIELD[kind]
    if any(any(map(contains, results, repeat(other))) for other in ("bbox", "area")):
        kept = ("image_id", "category_id", "score", field)
        results = [{name: result[name] for name in kept} for result in results]
    detections = truth.load_res(list(results))
    if kind == "segm":
        refuse_damaged_masks(detections, results, source)
    return detections


def refuse_damaged_masks(detections: COCO, results: Sequence[Result], source: str) -> None:
    """Refuse masks that are no code or run past their image: the evaluator drops them in silence.

    It gives them no area. Text that ends before the image does is a mask of what it says, as in
    pycocotools.
    """
    decoded = detections.get_ann_ids(area_rng=[0.0, float(np.finfo(np.float64).max)])
    if len(decoded) < len(results):
        whole = set(decoded)
        rows = [row for row, i in enumerate(detections.get_ann_ids()) if i not in whole]
        first = results[rows[0]]
        if isinstance(first["segmentation"]["counts"], list):
            raise DataError(
                f"{source}: row {rows[0]} (image {first['image_id']!r}) has a mask whose counts are a list, "
                "but results have them as compressed text: pycocotools.mask.frPyObjects makes it"
            )
        raise DataError(
            f"{source}: {len(rows)} of {len(results)} results have a mask whose runs do not fit "
            f"their image: the first is row {rows[0]} (image {first['image_id']!r}); write them anew"
        )


def summarise(
    document: Document,
    checked: CheckedResults,
    tables: dict[str, Any],
    *,
    category_ids: list[int],
    limits: tuple[int, ...],
    sigmas: tuple[float, ...] | None,
) -> CocoAP:
    """The record of the evaluator's precision (T, R, K, A, M) and recall (T, K, A, M)."""
    precision: Float64[np.ndarray, "T R K A M"] = np.asarray(tables["precision"])
    recall: Float64[np.ndarray, "T K A M"] = np.asarray(tables["recall"])
    ranges = (
        ("all", "medium", "large") if checked.kind == "keypoints" else ("all", "small", "medium", "large")
    )
    area = {name: row for row, name in enumerate(ranges)}

    def average_precision(name: str) -> float | None:
        return defined_mean(precision[:, :, :, area[name], -1]) if name in area else None

    def average_recall(name: str) -> float | None:
        return defined_mean(recall[:, :, area[name], -1]) if name in area else None

    categories = category_values(document, checked, category_ids, precision, recall)
    return CocoAP(
        kind=checked.kind,
        AP=average_precision("all"),
        AP50=defined_mean(precision[IOU_50, :, :, 0, -1]),
        AP75=defined_mean(precision[IOU_75, :, :, 0, -1]),
        APs=average_precision("small"),
        APm=average_precision("medium"),
        APl=average_precision("large"),
        AR={limit: defined_mean(recall[:, :, 0, m]) for m, limit in enumerate(limits)},
        ARs=average_recall("small"),
        ARm=average_recall("medium"),
        ARl=average_recall("large"),
        limits=limits,
        categories=categories,
        num_images=len(document["images"]),
        num_instances=sum(category.num_instances for category in categories),
        num_results=len(checked.scores),
        sigmas=sigmas,
        notes=notes_on(categories, checked, limits, sigmas),
    )


def defined_mean(table: Float64[np.ndarray, "..."]) -> float | None:
    """Mean of the values that are defined (not -1); None where none is."""
    defined = table[table > -1]
    return float(np.mean(defined)) if defined.size else None


def category_values(
    document: Document,
    checked: CheckedResults,
    category_ids: list[int],
    precision: Float64[np.ndarray, "T R K A M"],
    recall: Float64[np.ndarray, "T K A M"],
) -> tuple[CategoryAP, ...]:
    """Each category's values over all areas at the main limit, in the order of ids.

    A category is defined at all thresholds or at none.
    """
    names = {category["id"]: str(category.get("name", category["id"])) for category in document["categories"]}
    instances = count_instances(document)
    found = dict(zip(*(a.tolist() for a in np.unique(checked.category_ids, return_counts=True)), strict=True))
    by_threshold = precision[:, :, :, 0, -1].mean(axis=1)
    table = np.stack(
        [
            by_threshold.mean(axis=0),
            by_threshold[IOU_50],
            by_threshold[IOU_75],
            recall[:, :, 0, -1].mean(axis=0),
        ]
    )
    return tuple(
        CategoryAP(
            id=category,
            name=names[category],
            **dict(zip(("AP", "AP50", "AP75", "AR"), (v if v > -1 else None for v in row), strict=True)),
            num_instances=instances.get(category, 0),
            num_results=found.get(category, 0),
        )
        for category, row in zip(category_ids, table.T.tolist(), strict=True)
    )


def count_instances(document: Document) -> dict[int, int]:
    """Annotations of each category id, crowds left out."""
    return Counter(a["category_id"] for a in document["annotations"] if not a.get("iscrowd", 0))


def notes_on(
    categories: tuple[CategoryAP, ...],
    checked: CheckedResults,
    limits: tuple[int, ...],
    sigmas: tuple[float, ...] | None,
) -> tuple[str, ...]:
    """What a reader of the values must know."""
    notes = []
    if not any(category.num_instances for category in categories):
        notes.append("the annotations hold no instance: every value is undefined")
    elif not len(checked.scores):
        notes.append("there are no results: every defined value is 0")
    if limits[-1] != STANDARD_LIMIT[checked.kind]:
        notes.append(
            f"AP uses up to {limits[-1]} detections per image and category "
            f"(COCO's own figures use {STANDARD_LIMIT[checked.kind]})"
        )
    if sigmas is not None and tuple(sigmas) != COCO_SIGMAS:
        notes.append(f"keypoint spreads are not COCO's: {', '.join(f'{s:.4f}' for s in sigmas)}")
    return tuple(notes)
