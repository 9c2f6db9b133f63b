"""What is odd about boxes and masks that can nevertheless be used.

Works on columns, so it is quick on any number of annotations; everything here is a warning or a
note, never a reason to drop.

Legend:
    A  annotations      R  polygons
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Int64

from groundup.data.columns import POLYGONS, RUNS, Columns, Table, clip_boxes, runs_of
from groundup.data.rle import crop_mask
from groundup.data.rules import Findings

BOX_SLACK = 1.0
"""Pixels a box may reach beyond its image without a word: annotation tools round."""
MASK_SLACK = 2.0
MASK_SLACK_RATIO = 0.1
"""Pixels, and share of the box's longer side, that a mask may leave its box. COCO's own differ by up to
1 or 2 pixels, from rounding."""
MANY_BOXES = 1000
"""Annotations of one image above which they are reported: ten times the evaluation protocol's limit."""
CORNERS_FIT_RATIO = 0.99
CORNERS_LEAVE_RATIO = 0.1
"""Boxes are taken for corners if nearly all could be corners inside their image, and so many of them
leave it when read as x, y, width, height."""
MAX_CROSSING_POINTS = 2000
"""Points of a polygon up to which every pair of edges is compared; longer ones are not judged."""


@dataclass(frozen=True, slots=True)
class Places:
    """Reports annotations by their place in the columns."""

    columns: Columns
    findings: Findings

    def add(self, rule: str, place: int, field: str, found: object) -> None:
        """Report one annotation."""
        position, whose = int(self.columns.positions[place]), int(self.columns.annotation_ids[place])
        self.findings.add(rule, f"annotations[{position}].{field}", found, whose=whose)


def find_anomalies(table: Table, findings: Findings) -> None:
    """Report every oddity of the table's boxes and masks."""
    columns = table.columns
    places = Places(columns, findings)
    rows = np.repeat(np.arange(len(columns.image_ids)), np.diff(columns.instance_offsets))
    find_odd_boxes(columns, rows, places)
    find_duplicate_boxes(columns, rows, places)
    for row in np.flatnonzero(np.diff(columns.instance_offsets) > MANY_BOXES):
        count = int(np.diff(columns.instance_offsets)[row])
        findings.add("boxes-many", "images", f"{count} annotations", whose=int(columns.image_ids[row]))
    find_odd_polygons(columns, places)
    find_masks_outside_boxes(columns, rows, places)


def find_odd_boxes(columns: Columns, rows: np.ndarray, places: Places) -> None:
    """Boxes that leave their image, one by one, and boxes that seem to be corners, as a whole."""
    boxes, sizes = columns.boxes, columns.sizes[rows]
    far = boxes[:, :2] + boxes[:, 2:]
    limits = sizes[:, ::-1]
    leaves = (boxes[:, :2] < -BOX_SLACK).any(axis=1) | (far > limits + BOX_SLACK).any(axis=1)
    for place in np.flatnonzero(leaves & columns.kept):
        height, width = sizes[place].tolist()
        places.add(
            "box-beyond-image", int(place), "bbox", f"{boxes[place].tolist()} in {width} x {height} pixels"
        )
    corners = (boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= limits + BOX_SLACK) & (boxes[:, :2] >= 0)
    num_corners, num_leaving = int(corners.all(axis=1).sum()), int(leaves.sum())
    num_boxes = len(boxes)
    if num_corners >= CORNERS_FIT_RATIO * num_boxes and num_leaving > CORNERS_LEAVE_RATIO * num_boxes:
        found = f"{num_leaving} of {num_boxes} boxes leave their image, {num_corners} fit it as corners"
        places.findings.add("box-reads-as-corners", "annotations[].bbox", found)


def find_duplicate_boxes(columns: Columns, rows: np.ndarray, places: Places) -> None:
    """Annotations that repeat the box and category of another in their image."""
    keys = np.concatenate([rows[:, None], columns.labels[:, None], columns.boxes], axis=1)
    order = np.lexsort(keys.T[::-1])
    same = (keys[order][1:] == keys[order][:-1]).all(axis=1)
    for first, place in pairwise_where(order, same):
        found = f"the box of annotation {int(columns.annotation_ids[first])}"
        places.add("box-duplicate", place, "bbox", found)


def pairwise_where(order: np.ndarray, same: np.ndarray) -> list[tuple[int, int]]:
    """Each item that equals the one before it, with that one."""
    again = np.flatnonzero(same)
    return list(zip(order[again].tolist(), order[again + 1].tolist(), strict=True))


def polygon_areas(columns: Columns) -> Float64[np.ndarray, " R"]:
    """Area of each polygon by the shoelace formula, without sign."""
    if len(columns.ring_offsets) == 1:
        return np.zeros(0)
    starts = columns.ring_offsets[:-1]
    following = np.arange(1, len(columns.points) + 1)
    following[columns.ring_offsets[1:] - 1] = starts
    x, y = columns.points[:, 0], columns.points[:, 1]
    crosses = x * y[following] - x[following] * y
    return np.abs(np.add.reduceat(crosses, starts)) / 2


def find_odd_polygons(columns: Columns, places: Places) -> None:
    """Polygons without area, and polygons that cross themselves."""
    owners = np.repeat(np.arange(len(columns.labels)), np.diff(columns.instance_rings))
    areas = polygon_areas(columns)
    bounds = pairwise(columns.ring_offsets.tolist())
    for ring, (first, last) in enumerate(bounds):
        place = int(owners[ring])
        field = f"segmentation[{ring - int(columns.instance_rings[place])}]"
        if crosses_itself(columns.points[first:last]):
            places.add("polygon-self-intersects", place, field, f"{last - first} points")
        elif areas[ring] == 0:
            places.add("polygon-no-area", place, field, f"{last - first} points on one line")


def crosses_itself(points: Float64[np.ndarray, "n 2"]) -> bool:
    """Whether two edges of the closed polygon cross inside both; touching does not count."""
    if not 3 < len(points) <= MAX_CROSSING_POINTS:
        return False
    ends = np.roll(points, -1, axis=0)
    edges = ends - points
    # side[i, j]: on which side of edge i the start of edge j lies; its end is the next start.
    offsets = points[None] - points[:, None]
    side = np.sign(edges[:, None, 0] * offsets[..., 1] - edges[:, None, 1] * offsets[..., 0])
    splits = side * np.roll(side, -1, axis=1) < 0
    return bool((splits & splits.T).any())


def mask_bounds(
    columns: Columns, rows: np.ndarray
) -> tuple[Int64[np.ndarray, " M"], Float64[np.ndarray, "M 4"]]:
    """Places of the annotations with masks, and the corners of each mask's tight box."""
    drawn = np.flatnonzero(columns.mask_kinds == POLYGONS)
    corners = np.zeros((len(columns.labels), 4))
    if len(drawn):
        # Polygons of one annotation are neighbours, and so are their points.
        starts = columns.ring_offsets[columns.instance_rings[drawn]]
        corners[drawn, :2] = np.minimum.reduceat(columns.points, starts)
        corners[drawn, 2:] = np.maximum.reduceat(columns.points, starts)
    for place in np.flatnonzero(columns.mask_kinds == RUNS):
        bitmap = crop_mask(runs_of(columns, int(place)), int(columns.sizes[rows[place], 0]))
        height, width = bitmap.pixels.shape
        corners[place] = (bitmap.x, bitmap.y, bitmap.x + width, bitmap.y + height)
    masked = np.flatnonzero(columns.mask_kinds)
    return masked, corners[masked]


def find_masks_outside_boxes(columns: Columns, rows: np.ndarray, places: Places) -> None:
    """Instances whose mask leaves their box by more than rounding; both are clipped to the image first."""
    masked, corners = mask_bounds(columns, rows)
    keep = columns.usable[masked]
    masked, corners = masked[keep], corners[keep]
    sizes = columns.sizes[rows[masked]]
    clipped = np.clip(corners, 0, sizes[:, [1, 0, 1, 0]])
    boxes = clip_boxes(columns.boxes[masked], sizes).astype(np.float64)
    slack = np.maximum(MASK_SLACK, MASK_SLACK_RATIO * (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0))
    beyond = np.concatenate([boxes[:, :2] - clipped[:, :2], clipped[:, 2:] - boxes[:, 2:]], axis=1)
    for index in np.flatnonzero((beyond > slack[:, None]).any(axis=1)):
        found = f"the mask reaches {beyond[index].max():.1f} pixels beyond the box"
        places.add("mask-outside-box", int(masked[index]), "segmentation", found)
