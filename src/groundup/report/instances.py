"""Instances of one photograph as a page draws them: boxes, outlines of masks, or keypoints; true or found.

Legend:
    N  instances     P  keypoints an instance     H, W  size of a picture
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from groundup.data.coco import Category, Index
from groundup.data.rle import crop_mask, decode_counts, mask_area
from groundup.data.truth import Bitmap, Polygons
from groundup.metrics.results import FIELD, Kind, Result
from groundup.pictures import (
    Colour,
    clip_boxes,
    draw_instances,
    paint_box,
    paint_keypoints,
    paint_rings,
    paint_tags,
    tag_text,
)
from groundup.report.wording import neutral

STROKE = 2
"""Width of the lines of boxes and outlines, in pixels."""
SEEN = 2
"""Visibility of a keypoint that was found. Source: COCO's data format."""
HALF = 0.5
"""From a pixel's column and row, which COCO's keypoints and a bitmap's contour are, to its middle."""

Rings = list[np.ndarray]
"""Closed lines of one instance: (points, 2) arrays of x, y."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """What is drawn of one photograph, in its pixels."""

    boxes: Float64[np.ndarray, "N 4"]
    """(x1, y1, x2, y2); of outlines and keypoints the box around them, at which names are written."""
    names: list[str]
    scores: list[float] | None
    """None for the truth."""
    outlines: list[Rings] | None = None
    """Drawn in place of boxes."""
    keypoints: Float64[np.ndarray, "N P 3"] | None = None
    """(x, y, visibility); drawn in place of boxes."""
    skeleton: tuple[tuple[int, int], ...] = ()
    """Pairs of keypoints that lines join, counted from 1."""


def true_instances(index: Index, place: int, kind: Kind) -> Instances:
    """What the photograph truly holds; without keypoints or masks where the data have none."""
    truth = index.truth(place)
    names = [index.categories[label].name for label in truth.labels.tolist()]
    return Instances(
        boxes=truth.boxes.astype(np.float64),
        names=names,
        scores=None,
        outlines=[rings_of(mask) for mask in truth.masks] if kind == "segm" and truth.masks else None,
        keypoints=None
        if kind != "keypoints" or truth.keypoints is None
        else truth.keypoints.astype(np.float64),
        skeleton=skeleton_of(index.categories),
    )


def found_instances(results: Sequence[Result], categories: Sequence[Category], kind: Kind) -> Instances:
    """What an arm found in the photograph, from its results of the kind."""
    labels = {category.id: category.name for category in categories}
    names = [labels.get(one["category_id"], "?") for one in results]
    scores = [float(one["score"]) for one in results]
    values = [one[FIELD[kind]] for one in results]
    if kind == "bbox":
        return Instances(boxes=stacked([corners_of(box) for box in values]), names=names, scores=scores)
    if kind == "segm":
        outlines = [rings_of_encoding(one) for one in values]
        boxes = stacked([box_around(np.concatenate(rings or [np.zeros((1, 2))])) for rings in outlines])
        return Instances(boxes=boxes, names=names, scores=scores, outlines=outlines)
    points = [np.asarray(one, np.float64).reshape(-1, 3) for one in values]
    shown = [np.column_stack([one[:, :2] + HALF, np.full(len(one), SEEN)]) for one in points]
    return Instances(
        boxes=stacked([box_around(one[:, :2]) for one in shown]),
        names=names,
        scores=scores,
        keypoints=np.stack(shown) if shown else None,
        # Results may come from elsewhere and name fewer points.
        skeleton=tuple(pair for pair in skeleton_of(categories) if shown and max(pair) <= len(shown[0])),
    )


def skeleton_of(categories: Sequence[Category]) -> tuple[tuple[int, int], ...]:
    """The lines between keypoints, of the first category that has any."""
    return next((category.skeleton for category in categories if category.skeleton), ())


def stacked(boxes: Sequence[Sequence[float]]) -> Float64[np.ndarray, "N 4"]:
    """The boxes as one array, also of none."""
    return np.array(boxes, np.float64).reshape(-1, 4)


def corners_of(box: Sequence[float]) -> tuple[float, float, float, float]:
    """(x1, y1, x2, y2) of COCO's (x, y, width, height)."""
    x, y, width, height = (float(v) for v in box)
    return x, y, x + width, y + height


def box_around(points: np.ndarray) -> tuple[float, float, float, float]:
    """The box that the points just fill."""
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x1, y1, x2, y2


def rings_of(mask: Polygons | Bitmap) -> Rings:
    """The outline of a mask: of polygons themselves, of pixels the lines through their outermost middles."""
    if isinstance(mask, list):
        return [ring.astype(np.float64) for ring in mask]
    contours, _ = cv2.findContours(mask.pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    corner = np.array([mask.x + HALF, mask.y + HALF])
    return [contour[:, 0] + corner for contour in contours]


def rings_of_encoding(encoding: Mapping[str, Any]) -> Rings:
    """The outline of a run-length encoding of the whole image; none of an empty mask."""
    counts = encoding["counts"]
    runs = decode_counts(counts) if isinstance(counts, str) else np.asarray(counts, np.int64)
    return rings_of(crop_mask(runs, int(encoding["size"][0]))) if mask_area(runs) else []


def draw_kind(
    canvas: UInt8[np.ndarray, "H W 3"], shown: Instances, scale: float, colour: Colour, *, has_tags: bool
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with its instances in one colour; names where they tell something.

    Args:
        canvas: is painted on.
        shown: in pixels of the photograph.
        scale: pixels of the canvas for each of them.
        colour: of all lines.
        has_tags: whether outlines and keypoints have names beside them; boxes always do.
    """
    boxes = clip_boxes(shown.boxes * scale, canvas.shape[0], canvas.shape[1])
    names = [neutral(name) for name in shown.names]
    if shown.outlines is None and shown.keypoints is None:
        for box in boxes:
            paint_box(canvas, box, colour, STROKE)
        shades = dict.fromkeys(names, colour)
        return draw_instances(canvas, boxes, names, shown.scores, colours=shades, min_long_side=1)
    for rings in shown.outlines or ():
        paint_rings(canvas, [ring * scale for ring in rings], colour, STROKE)
    for points in shown.keypoints if shown.keypoints is not None else ():
        paint_keypoints(canvas, points * [scale, scale, 1], shown.skeleton, colour, 1)
    if not has_tags:
        return canvas
    scores = shown.scores
    texts = [tag_text(name, None if scores is None else scores[row]) for row, name in enumerate(names)]
    order = np.argsort([0.0] * len(names) if scores is None else [-score for score in scores], kind="stable")
    return paint_tags(canvas, boxes, texts, [colour] * len(names), order.tolist())
