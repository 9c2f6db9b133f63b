"""Matches of detections with the truth, made once and kept, so that AP can be had again under weights.

Which detection finds which instance is settled image by image and does not depend on which images are
counted. The table keeps the outcome of every detection; `metrics.bootstrap` sums it up again under
any weights of the images without matching anew. No torch here.

Legend:
    N  images     K  categories     A  area ranges     T  IoU thresholds
    G  instances of one image and category, or of all; M  detections of one image and category
    D  detections of the table
"""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt8
from pycocotools import mask as coco_mask

from groundup.errors import DataError
from groundup.metrics.coco_ap import (
    STANDARD_LIMIT,
    check_truth,
    evaluated_categories,
    standard_sigmas,
)
from groundup.metrics.results import Document, Kind, Result, check_results
from groundup.records import write_whole

FORMAT = 1
"""Number of the file's layout; a file of another number is refused."""
IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""Source: pycocotools `Params.setDetParams`."""
AREA_RANGES = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""Areas in pixels, both ends included; keypoints have no small range. Source: pycocotools `Params`."""
BEST_IOU = 1 - 1e-10
"""A threshold never asks for more overlap than this. Source: pycocotools `COCOeval.evaluateImg`."""
IGNORED, TRUE_POSITIVE, FALSE_POSITIVE = 0, 1, 2
"""Outcomes of a detection. Ignored: it found a crowd, or an instance out of the area range, or it
found nothing and is itself out of the range."""


@dataclass(frozen=True, kw_only=True)
class MatchTable:
    """The outcome of every detection and the instances to find.

    Detections lie category by category, in each by falling score; equal scores in the order of image
    ids, then of the results: the order in which pycocotools counts them.
    """

    kind: Kind
    max_detections: int
    """Detections counted per image and category; the rest are not in the table."""
    thresholds: Float64[np.ndarray, " T"]
    areas: tuple[str, ...]
    """Names of the area ranges, "all" first."""
    image_ids: Int64[np.ndarray, " N"]
    """Rising."""
    category_ids: Int64[np.ndarray, " K"]
    """Rising."""
    category_names: tuple[str, ...]
    starts: Int64[np.ndarray, " K_plus_1"]
    """First detection of each category; the last value is D."""
    images: Int32[np.ndarray, " D"]
    """Row of each detection's image among `image_ids`."""
    scores: Float64[np.ndarray, " D"]
    rows: Int32[np.ndarray, " D"]
    """Place of each detection in the results it came from."""
    outcomes: UInt8[np.ndarray, "A T D"]
    gt_images: Int32[np.ndarray, " G"]
    """Row of each instance's image among `image_ids`."""
    gt_categories: Int32[np.ndarray, " G"]
    """Row of each instance's category among `category_ids`."""
    gt_counted: Bool[np.ndarray, "A G"]
    """Whether the instance is to be found in the area range: no crowd, and of that size."""

    @property
    def num_images(self) -> int:
        """Images that the table weighs."""
        return len(self.image_ids)

    @cached_property
    def truth_digest(self) -> str:
        """SHA-256 of what detections are compared with; tables of equal digests can be paired."""
        digest = hashlib.sha256(f"{self.kind} {self.max_detections} {self.areas}".encode())
        for column in (self.thresholds, self.image_ids, self.category_ids):
            digest.update(np.ascontiguousarray(column).tobytes())
        for column in (self.gt_images, self.gt_categories, self.gt_counted):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Truth:
    """Instances of one image and category, in the order of the annotations."""

    annotations: list[dict[str, Any]]
    crowd: Bool[np.ndarray, " G"]
    ignored: Bool[np.ndarray, "A G"]


def build_match_table(
    document: Document,
    results: Sequence[Result],
    kind: Kind,
    max_detections: int | None = None,
    *,
    sigmas: Sequence[float] | None = None,
    source: str = "results",
) -> MatchTable:
    """Match the results with the document's annotations as pycocotools does.

    `max_detections`, `sigmas` and `source` mean what they mean in `coco_ap`.

    Raises:
        DataError: results or annotations that `coco_ap` refuses, too.
    """
    limit = STANDARD_LIMIT[kind] if max_detections is None else max_detections
    if limit < 1:
        raise DataError(f"max_detections must be at least 1, got {limit}")
    check_truth(document, kind)
    checked = check_results(document, results, kind, source=source)
    category_ids = np.array(evaluated_categories(document, kind), dtype=np.int64)
    image_ids = np.array(sorted(image["id"] for image in document["images"]), dtype=np.int64)
    areas = tuple(name for name in AREA_RANGES if kind != "keypoints" or name != "small")
    spreads = None
    if kind == "keypoints":
        spreads = np.array(standard_sigmas(document) if sigmas is None else sigmas, dtype=np.float64)

    document_ids = np.array([image["id"] for image in document["images"]], dtype=np.int64)
    images = np.searchsorted(image_ids, document_ids[checked.image_rows]).astype(np.int32)
    categories = np.searchsorted(category_ids, checked.category_ids).astype(np.int32)
    known = np.isin(checked.category_ids, category_ids)
    rows = ranked_rows(images, categories, checked.scores, known, limit)
    truths = gather_truth(document, kind, image_ids, category_ids, areas)

    detection_areas = areas_of(results, kind, source)
    thresholds = np.array(IOU_THRESHOLDS)
    outcomes = unmatched_outcomes(detection_areas[rows], areas, len(thresholds))
    for place in groups_of(images[rows], categories[rows]):
        first = rows[place[0]]
        truth = truths.get((int(categories[first]), int(images[first])))
        if truth is not None:
            found = [results[row] for row in rows[place].tolist()]
            overlap = overlaps(found, truth.annotations, truth.crowd, kind, spreads)
            outcomes[:, :, place] = match(overlap, truth, thresholds, outcomes[:, :, place])

    order = np.lexsort((rows_by_image(images[rows]), -checked.scores[rows], categories[rows]))
    rows, outcomes = rows[order], outcomes[:, :, order]
    pairs = list(truths.items())
    sizes = [len(truth.annotations) for _, truth in pairs]
    names = {category["id"]: str(category.get("name", category["id"])) for category in document["categories"]}
    return MatchTable(
        kind=kind,
        max_detections=limit,
        thresholds=thresholds,
        areas=areas,
        image_ids=image_ids,
        category_ids=category_ids,
        category_names=tuple(names[category] for category in category_ids.tolist()),
        starts=np.searchsorted(categories[rows], np.arange(len(category_ids) + 1)).astype(np.int64),
        images=images[rows],
        scores=checked.scores[rows],
        rows=rows.astype(np.int32),
        outcomes=outcomes,
        gt_images=np.repeat(np.array([pair[1] for pair, _ in pairs], dtype=np.int32), sizes),
        gt_categories=np.repeat(np.array([pair[0] for pair, _ in pairs], dtype=np.int32), sizes),
        gt_counted=~np.concatenate(
            [np.zeros((len(areas), 0), dtype=bool), *(truth.ignored for _, truth in pairs)], axis=1
        ),
    )


def rows_by_image(images: Int32[np.ndarray, " D"]) -> Int64[np.ndarray, " D"]:
    """Ranks that put equal scores in the order of images and, in an image, of the rows given."""
    ranks = np.empty(len(images), dtype=np.int64)
    ranks[np.argsort(images, kind="stable")] = np.arange(len(images))
    return ranks


def ranked_rows(
    images: Int32[np.ndarray, " D"],
    categories: Int32[np.ndarray, " D"],
    scores: Float64[np.ndarray, " D"],
    known: Bool[np.ndarray, " D"],
    limit: int,
) -> Int64[np.ndarray, " M"]:
    """Rows of the results by category, image and falling score, the best `limit` of each pair alone."""
    order = np.lexsort((-scores, images, categories))
    order = order[known[order]]
    firsts = [place[0] for place in groups_of(images[order], categories[order])]
    counts = np.diff([*firsts, len(order)])
    ranks = np.arange(len(order)) - np.repeat(np.array(firsts, dtype=np.int64), counts)
    kept: Int64[np.ndarray, " M"] = order[ranks < limit]
    return kept


def groups_of(
    images: Int32[np.ndarray, " D"], categories: Int32[np.ndarray, " D"]
) -> list[Int64[np.ndarray, " M"]]:
    """Places of each run of one image and category."""
    if not len(images):
        return []
    edges = np.flatnonzero((np.diff(images) != 0) | (np.diff(categories) != 0)) + 1
    return np.split(np.arange(len(images)), edges)


def gather_truth(
    document: Document,
    kind: Kind,
    image_ids: Int64[np.ndarray, " N"],
    category_ids: Int64[np.ndarray, " K"],
    areas: tuple[str, ...],
) -> dict[tuple[int, int], Truth]:
    """The instances by (category row, image row), pairs rising; annotations of no known image are left out.

    An image that is not listed cannot be weighed, and pycocotools does not count it either.
    """
    images = {image: row for row, image in enumerate(image_ids.tolist())}
    categories = {category: row for row, category in enumerate(category_ids.tolist())}
    gathered: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for annotation in document["annotations"]:
        image, category = images.get(annotation["image_id"]), categories.get(annotation["category_id"])
        if image is not None and category is not None:
            gathered.setdefault((category, image), []).append(annotation)
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    ranges = np.array([AREA_RANGES[name] for name in areas])
    truths = {}
    for pair in sorted(gathered):
        annotations = gathered[pair]
        if kind == "segm":
            size = sizes[annotations[0]["image_id"]]
            annotations = [{**a, "segmentation": encode(a["segmentation"], size)} for a in annotations]
        crowd = np.array([bool(a.get("iscrowd", 0)) for a in annotations])
        void = crowd.copy()
        if kind == "keypoints":
            void |= np.array([num_visible(a) == 0 for a in annotations])
        area = np.array([float(a["area"]) for a in annotations])
        truths[pair] = Truth(annotations, crowd, void | (area < ranges[:, :1]) | (area > ranges[:, 1:]))
    return truths


def num_visible(annotation: dict[str, Any]) -> int:
    """Keypoints that were annotated."""
    marked = sum(v > 0 for v in annotation["keypoints"][2::3])
    return int(annotation.get("num_keypoints", marked))


def encode(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Packed run lengths of polygons or runs. Source: pycocotools `COCO.annToRLE`."""
    if isinstance(segmentation, list):
        return dict(coco_mask.merge(coco_mask.frPyObjects(segmentation, *size)))
    if isinstance(segmentation["counts"], list):
        return dict(coco_mask.frPyObjects(segmentation, *size))
    return dict(segmentation)


def areas_of(results: Sequence[Result], kind: Kind, source: str) -> Float64[np.ndarray, " D"]:
    """Area in pixels of each detection: of its box, of its mask, of the box around its keypoints.

    Source: pycocotools `COCO.loadRes`.

    Raises:
        DataError: masks whose runs cannot be read.
    """
    if not results:
        return np.zeros(0)
    if kind == "bbox":
        boxes = np.array([result["bbox"] for result in results], dtype=np.float64)
        return boxes[:, 2] * boxes[:, 3]
    if kind == "segm":
        try:
            # one by one: pycocotools 2.0.11 fails on lists of more than 255
            return np.array([float(coco_mask.area(packed(r["segmentation"]))) for r in results])
        except (TypeError, ValueError) as error:
            raise DataError(f"{source}: masks cannot be read: {error}; write them anew") from None
    points = [np.asarray(result["keypoints"], dtype=np.float64).reshape(-1, 3) for result in results]
    return np.array([np.ptp(p[:, 0]) * np.ptp(p[:, 1]) for p in points])


def packed(mask: dict[str, Any]) -> dict[str, Any]:
    """The mask with packed run lengths."""
    return encode(mask, (mask["size"][0], mask["size"][1]))


def unmatched_outcomes(
    detection_areas: Float64[np.ndarray, " D"], areas: tuple[str, ...], num_thresholds: int
) -> UInt8[np.ndarray, "A T D"]:
    """Outcomes of detections that find nothing: wrong in their own area range, ignored out of it."""
    ranges = np.array([AREA_RANGES[name] for name in areas])
    outside = (detection_areas < ranges[:, :1]) | (detection_areas > ranges[:, 1:])
    outcomes = np.where(outside, IGNORED, FALSE_POSITIVE).astype(np.uint8)
    return np.repeat(outcomes[:, None], num_thresholds, axis=1)


def overlaps(
    found: list[Result],
    annotations: list[dict[str, Any]],
    crowd: Bool[np.ndarray, " G"],
    kind: Kind,
    sigmas: Float64[np.ndarray, " P"] | None,
) -> Float64[np.ndarray, "M G"]:
    """IoU of each detection with each instance (with a crowd: share of the detection inside it), or OKS."""
    if kind == "keypoints":
        assert sigmas is not None, "keypoints come with their spreads"
        columns = [keypoint_similarity(found, annotation, sigmas) for annotation in annotations]
        return np.stack(columns, axis=1)
    if kind == "bbox":
        detected: Any = np.array([result["bbox"] for result in found], dtype=np.float64)
        wanted: Any = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64)
    else:
        detected = [packed(result["segmentation"]) for result in found]
        wanted = [annotation["segmentation"] for annotation in annotations]
    return np.asarray(coco_mask.iou(detected, wanted, crowd.astype(np.uint8).tolist()))


def keypoint_similarity(
    found: list[Result], annotation: dict[str, Any], sigmas: Float64[np.ndarray, " P"]
) -> Float64[np.ndarray, " M"]:
    """OKS of each detection with one instance; without visible keypoints, with the box twice as large.

    Source: pycocotools `COCOeval.computeOks`.
    """
    truth = np.asarray(annotation["keypoints"], dtype=np.float64).reshape(-1, 3)
    points = np.array([result["keypoints"] for result in found], dtype=np.float64)
    points = points.reshape(len(found), -1, 3)
    visible = truth[:, 2] > 0
    if visible.any():
        dx, dy = points[:, :, 0] - truth[:, 0], points[:, :, 1] - truth[:, 1]
    else:
        x, y, width, height = annotation["bbox"]
        left, right, top, foot = x - width, x + width * 2, y - height, y + height * 2
        dx = np.maximum(0, left - points[:, :, 0]) + np.maximum(0, points[:, :, 0] - right)
        dy = np.maximum(0, top - points[:, :, 1]) + np.maximum(0, points[:, :, 1] - foot)
        visible = np.ones_like(visible)
    spread = (sigmas * 2) ** 2
    error = (dx**2 + dy**2) / spread / (annotation["area"] + np.spacing(1)) / 2
    similarity: Float64[np.ndarray, " M"] = np.exp(-np.ascontiguousarray(error[:, visible])).sum(axis=1)
    return similarity / int(visible.sum())


def match(
    overlap: Float64[np.ndarray, "M G"],
    truth: Truth,
    thresholds: Float64[np.ndarray, " T"],
    unmatched: UInt8[np.ndarray, "A T M"],
) -> UInt8[np.ndarray, "A T M"]:
    """Outcomes of one image and category; the detections come by falling score.

    Each takes, at each threshold, the free instance it overlaps most, of equals the last; an instance
    that is ignored only where no other is left; crowds are never used up. Source: pycocotools
    `COCOeval.evaluateImg`.
    """
    outcomes = unmatched.copy()
    limits = np.minimum(thresholds, BEST_IOU)
    count = overlap.shape[1]
    free = np.ones((*outcomes.shape[:2], count), dtype=bool)
    order = np.argsort(overlap, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(count)[None], axis=1)
    bonus = np.where(truth.ignored, 0, count)[:, None]
    for m in np.flatnonzero(overlap.max(axis=1) >= limits[0]).tolist():
        reached = overlap[m] >= limits[:, None]
        keys = np.where(free & reached, ranks[m] + bonus, -1)
        best = keys.argmax(axis=2)
        area, threshold = np.nonzero(keys.max(axis=2) >= 0)
        taken = best[area, threshold]
        outcomes[area, threshold, m] = np.where(truth.ignored[area, taken], IGNORED, TRUE_POSITIVE)
        free[area, threshold, taken] = truth.crowd[taken]
    return outcomes


def write_table(path: Path, table: MatchTable) -> None:
    """Write the table as compressed npz, whole or not at all; equal tables give equal bytes.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    columns: dict[str, Any] = {name: getattr(table, name) for name in COLUMNS}
    heading = {
        "format": np.array(FORMAT),
        "kind": np.array(table.kind),
        "max_detections": np.array(table.max_detections),
        "areas": np.array(table.areas),
        "category_names": np.array(table.category_names, dtype=np.str_),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **heading, **columns)
    write_whole(path, buffer.getvalue())


COLUMNS = (
    *("thresholds", "image_ids", "category_ids", "starts", "images", "scores", "rows", "outcomes"),
    *("gt_images", "gt_categories", "gt_counted"),
)
"""The arrays of a table, as they lie in the file."""


def read_table(path: Path) -> MatchTable:
    """The table that `write_table` wrote.

    Raises:
        DataError: missing, damaged, or of another layout.
    """
    try:
        content = io.BytesIO(path.read_bytes())
        with np.load(content, allow_pickle=False) as file:
            layout = int(file["format"])
            if layout != FORMAT:
                raise DataError(f"{path}: match table of layout {layout}, expected {FORMAT}; evaluate anew")
            return MatchTable(
                kind=str(file["kind"]),  # type: ignore[arg-type]
                max_detections=int(file["max_detections"]),
                areas=tuple(file["areas"].tolist()),
                category_names=tuple(file["category_names"].tolist()),
                **{name: file[name] for name in COLUMNS},
            )
    except OSError as error:
        raise DataError(f"{path}: match table cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged match table: {error}; evaluate anew") from None
