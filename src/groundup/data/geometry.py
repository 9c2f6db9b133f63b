"""Views: how a photograph is cut, scaled and mirrored, and what that does to its truth.

Everything the transforms do to positions is one axis-aligned affine map, so boxes, polygons,
bitmaps and keypoints are moved once each, whatever a recipe combines.

Polygons are moved but not cut at the view's border: mask targets are drawn inside regions of the
image, which never reach beyond it, so the part outside is never seen, and no polygon changes its
form. Only the box of what remains visible needs the cut, and `visible_box` computes it exactly.

Legend:
    G  instances of the image     P  keypoints an instance     K  classes
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from pycocotools import mask as coco_mask

from groundup.data.rle import crop_mask, decode_counts, mask_area
from groundup.data.truth import Bitmap, Polygons, Truth

MIN_VISIBLE_SIDE = 1.0
"""An instance of which a cut leaves less than so many pixels in width or height has left the view.

Source: Detectron keeps ground truth of more than one pixel a side (`json_dataset.py`); Detectron2's
bitmaps, which its large-scale jitter uses, cannot hold less."""
NO_LENGTH = 1e-12
"""Stands for the zero length of an edge parallel to an axis, to divide by."""
BORDER = 1e-3
"""Pixels at the border of the image in which nothing counts as visible, so that a polygon which only
touches the border from outside does not."""

Mirrors = Int64[np.ndarray, "K P"]
"""For each class and keypoint, the keypoint that takes its place in a mirror (left and right eye)."""


def mirror_table(pairs: Sequence[Sequence[tuple[int, int]]], num_keypoints: int) -> Mirrors:
    """The mirror places of all classes, from each class's pairs (left, right) of keypoints."""
    table = np.tile(np.arange(num_keypoints), (len(pairs), 1))
    for label, swaps in enumerate(pairs):
        for left, right in swaps:
            table[label, [left, right]] = right, left
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A way to look at a photograph: cut it, scale the cut, cut the result, mirror it."""

    cut: tuple[int, int, int, int]
    """(x1, y1, x2, y2) kept of the photograph."""
    scaled: tuple[int, int]
    """(height, width) to which the cut is scaled."""
    window: tuple[int, int, int, int]
    """(x1, y1, x2, y2) kept of the scaled cut."""
    flip: bool
    """Whether left and right change places, last."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what is seen."""
        x1, y1, x2, y2 = self.window
        return y2 - y1, x2 - x1

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y) growth: the exact ratio of the integer sizes, axis by axis."""
        x1, y1, x2, y2 = self.cut
        return self.scaled[1] / (x2 - x1), self.scaled[0] / (y2 - y1)

    @property
    def affine(self) -> tuple[Float32[np.ndarray, "2"], Float32[np.ndarray, "2"]]:
        """Factor and shift of (x, y) positions: seen = factor * position + shift."""
        scale_x, scale_y = self.scale
        shift_x = -self.cut[0] * scale_x - self.window[0]
        shift_y = -self.cut[1] * scale_y - self.window[1]
        if self.flip:
            scale_x, shift_x = -scale_x, self.size[1] - shift_x
        return np.array([scale_x, scale_y], np.float32), np.array([shift_x, shift_y], np.float32)

    def is_cut(self, height: int, width: int) -> bool:
        """Whether part of a photograph of the size is left out."""
        return self.cut != (0, 0, width, height) or self.size != self.scaled


def view_truth(truth: Truth, view: View, size: tuple[int, int], mirrors: Mirrors | None = None) -> Truth:
    """What the view shows of the truth of a photograph of the size (height, width).

    Where the view leaves a part out, boxes become those of the visible part of the masks, or the
    visible part of the boxes where there is no mask, and instances that left the view are left out
    of it. Keypoints outside become absent (all zero).
    """
    boxes = view_boxes(truth.boxes, view)
    masks = None if truth.masks is None else [view_mask(mask, view) for mask in truth.masks]
    keypoints = view_keypoints(truth, view, mirrors)
    if not view.is_cut(*size):
        if masks is not None:
            thin = [
                one_pixel(box, view.size) if m is None else m for m, box in zip(masks, boxes, strict=True)
            ]
            return Truth(boxes=boxes, labels=truth.labels, masks=thin, keypoints=keypoints)
        return Truth(boxes=boxes, labels=truth.labels, masks=None, keypoints=keypoints)
    if masks is not None:
        visible = [mask_box(m, box, view) for m, box in zip(masks, boxes, strict=True)]
        boxes = np.array(visible, np.float32).reshape(-1, 4)
    rows = np.flatnonzero(((boxes[:, 2:] - boxes[:, :2]) >= MIN_VISIBLE_SIDE).all(axis=1))
    return Truth(
        boxes=boxes[rows],
        labels=truth.labels[rows],
        masks=None if masks is None else [mask for row in rows if (mask := masks[row]) is not None],
        keypoints=None if keypoints is None else keypoints[rows],
    )


def view_boxes(boxes: Float32[np.ndarray, "G 4"], view: View) -> Float32[np.ndarray, "G 4"]:
    """The boxes as the view shows them, limited to it."""
    factor, shift = view.affine
    corners: np.ndarray = boxes.reshape(-1, 2, 2) * factor + shift
    if view.flip:
        corners[:, :, 0] = corners[:, ::-1, 0]
    height, width = view.size
    limits = np.array([width, height], np.float32)
    return np.asarray(corners.clip(0, limits).reshape(-1, 4))


def view_keypoints(truth: Truth, view: View, mirrors: Mirrors | None) -> Float32[np.ndarray, "G P 3"] | None:
    """The keypoints as the view shows them; in a mirror, left and right change places."""
    if truth.keypoints is None:
        return None
    factor, shift = view.affine
    moved = truth.keypoints.copy()
    moved[:, :, :2] = truth.keypoints[:, :, :2] * factor + shift
    if view.flip and mirrors is not None:
        moved = np.take_along_axis(moved, mirrors[truth.labels][:, :, None], axis=1)
    height, width = view.size
    inside = ((moved[:, :, :2] >= 0) & (moved[:, :, :2] <= np.array([width, height]))).all(axis=2)
    moved[~(inside & (moved[:, :, 2] > 0))] = 0
    return moved


def view_mask(mask: Polygons | Bitmap, view: View) -> Polygons | Bitmap | None:
    """The mask as the view shows it; None for a bitmap of which no pixel is seen."""
    if isinstance(mask, Bitmap):
        return view_bitmap(mask, view)
    factor, shift = view.affine
    return [ring * factor + shift for ring in mask]


def view_bitmap(mask: Bitmap, view: View) -> Bitmap | None:
    """The bitmap as the view shows it: each seen pixel is the one that its centre falls on."""
    height, width = mask.pixels.shape
    rows, top = seen_pixels(mask.y, height, view, axis=1)
    columns, left = seen_pixels(mask.x, width, view, axis=0)
    if not len(rows) or not len(columns):
        return None
    pixels = mask.pixels[np.ix_(rows, columns)]
    if view.flip:
        pixels, left = pixels[:, ::-1], view.size[1] - left - len(columns)
    return tight_bitmap(left, top, pixels)


def seen_pixels(place: int, length: int, view: View, axis: int) -> tuple[np.ndarray, int]:
    """Which pixels of a bitmap are seen along an axis, in order, and the first one's place unmirrored.

    Args:
        place: of the bitmap's first pixel in the photograph.
        length: pixels of the bitmap.
        view: how the photograph is looked at.
        axis: 0 for x, 1 for y.
    """
    cut, scale = view.cut[axis], view.scale[axis]
    window_start, window_end = view.window[axis], view.window[axis + 2]
    first = max(math.floor((place - cut) * scale) - 1, window_start)
    last = min(math.ceil((place + length - cut) * scale) + 1, window_end)
    seen = np.arange(first, max(last, first))
    sources = np.floor((seen + 0.5) / scale).astype(np.int64) + cut - place
    inside = (sources >= 0) & (sources < length)
    return sources[inside], int(seen[inside][0]) - window_start if inside.any() else 0


def tight_bitmap(x: int, y: int, pixels: UInt8[np.ndarray, "h w"]) -> Bitmap | None:
    """The bitmap cropped to its mask; None if it has no pixel."""
    rows = np.flatnonzero(pixels.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(pixels.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return Bitmap(x=x + left, y=y + top, pixels=pixels[top : rows[-1] + 1, left : columns[-1] + 1])


def one_pixel(box: Float32[np.ndarray, "4"], size: tuple[int, int]) -> Bitmap:
    """The pixel at the middle of the box: an instance too thin for the pixel grid keeps a mask."""
    height, width = size
    x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
    return Bitmap(x=min(x, width - 1), y=min(y, height - 1), pixels=np.ones((1, 1), np.uint8))


def mask_box(mask: Polygons | Bitmap | None, box: Any, view: View) -> Any:
    """The box of what is seen of an instance: of its mask, or `box` where its mask is empty."""
    if mask is None:
        return (0.0, 0.0, 0.0, 0.0)
    if isinstance(mask, Bitmap):
        return (mask.x, mask.y, mask.x + mask.pixels.shape[1], mask.y + mask.pixels.shape[0])
    return visible_box(mask, *view.size) if mask else box


def visible_box(polygons: Polygons, height: int, width: int) -> tuple[float, float, float, float]:
    """The box of the polygons' part inside the image, exactly; zeros if nothing is inside.

    The extremes of that part are ends of cut edges or corners of the image that a polygon covers.
    (Clipping ring by ring, as Sutherland and Hodgman do, would join the parts of a concave ring
    along the border and make boxes too large.)
    """
    limits = np.array([width, height], np.float64)
    points = np.concatenate(polygons).astype(np.float64)
    if (points < 0).any() or (points > limits).any():
        low, high = np.full(2, BORDER), limits - BORDER
        points = np.concatenate([part for ring in polygons for part in cut_ring(ring, low, high)])
        # What reaches the inner rectangle's sides reaches the image's.
        points = np.where(points <= low, 0.0, np.where(points >= high, limits, points))
    if not len(points):
        return (0.0, 0.0, 0.0, 0.0)
    (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
    return (float(x1), float(y1), float(x2), float(y2))


def cut_ring(ring: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the ring's edges as cut at the rectangle low .. high, and its corners inside the ring.

    Source: Liang and Barsky (1984) for the edges; the even-odd rule for the corners, as in
    pycocotools' rasteriser.
    """
    starts = ring.astype(np.float64)
    ends = np.roll(starts, -1, axis=0)
    steps = ends - starts
    steps[steps == 0] = NO_LENGTH
    to_low, to_high = (low - starts) / steps, (high - starts) / steps
    enter = np.minimum(to_low, to_high).max(axis=1).clip(min=0)[:, None]
    leave = np.maximum(to_low, to_high).min(axis=1).clip(max=1)[:, None]
    inside = (enter <= leave)[:, 0]
    cut = np.concatenate([starts + enter * steps, starts + leave * steps])[np.tile(inside, 2)]
    corners = np.array([[low[0], low[1]], [high[0], low[1]], [low[0], high[1]], [high[0], high[1]]])
    spans = (starts[:, 1] > corners[:, 1:]) != (ends[:, 1] > corners[:, 1:])
    crossings = starts[:, 0] + (corners[:, 1:] - starts[:, 1]) / steps[:, 1] * steps[:, 0]
    covered = (spans & (corners[:, :1] < crossings)).sum(axis=1) % 2 == 1
    # Rounding may leave the ends of a cut edge a hair outside.
    return cut.clip(low, high), corners[covered]


def rasterise_polygons(polygons: Polygons, height: int, width: int) -> Bitmap | None:
    """The polygons as pycocotools draws them on an image of the size; None if no pixel is covered.

    Only the polygons' own box is drawn: the drawing does not change when shifted by whole pixels.
    """
    points = np.concatenate(polygons)
    x1, y1 = np.floor(points.min(axis=0)).astype(int) - 1
    x2, y2 = np.ceil(points.max(axis=0)).astype(int) + 1
    x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    if x1 >= x2 or y1 >= y2:
        return None
    rings = [(ring.astype(np.float64) - (x1, y1)).ravel() for ring in polygons]
    packed = coco_mask.merge(coco_mask.frPyObjects(rings, int(y2 - y1), int(x2 - x1)))
    runs = decode_counts(packed["counts"].decode("ascii"))
    if not mask_area(runs):
        return None
    drawn = crop_mask(runs, int(y2 - y1))
    return Bitmap(x=int(x1) + drawn.x, y=int(y1) + drawn.y, pixels=drawn.pixels)
