"""Where drawn objects stand: who hides whom, what stays visible of each, and how it is painted.

Objects are put up from front to back, so that what is visible of an object is final when it is put up; one
that would hardly be seen is not put up at all. Everything true (polygon, box, mask, keypoints) is read from
one map of owners, four samples a pixel each way, and the picture is painted from the same samples.

Legend:
    H, W  height and width in pixels      h, w  of an object's window
    P     keypoints of an object          R     points of a ring
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from groundup.data.forms import Outline
from groundup.data.outlines import SAMPLES, ring_area, trace_polygons
from groundup.data.textures import TextureName

FIXED_POINT_BITS = 4
"""Fraction bits of the coordinates given to OpenCV's polygon filler."""
MAX_OWNERS = 255
"""Objects that one stage can tell apart: owners are bytes, 0 is the backdrop."""
MIN_VISIBLE_PIXELS = 20
"""Fewest visible pixels of an object that is put up: about 4 x 5, the least a form needs to be one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One object as it was put up."""

    owner: int
    """Its value in the map of owners, from 1, front to back."""
    label: int | None
    """Category from 0, or None for a distractor."""
    in_crowd: bool
    """Whether it is one of a crowd, annotated together."""
    texture: TextureName
    period: float
    """Of the texture, in pixels."""
    centre: Float64[np.ndarray, " 2"]
    basis: Float64[np.ndarray, "2 2"]
    """Takes points of the form's own frame to pixels (then the centre is added)."""
    x: int
    """First column of the object's window; may lie left of the picture."""
    y: int
    coverage: Float32[np.ndarray, "h w"]
    """Share 0..1 of each pixel of the window that the object covers, hidden parts and those outside
    the picture included."""
    visible_ratio: float
    """Share 0..1 of the whole object, parts outside the picture included, that is seen."""
    polygons: list[np.ndarray]
    """What is seen of it, as `trace_polygons` says; none for what is not annotated by polygons."""
    keypoints: Float64[np.ndarray, "P 2"] | None


@dataclass(slots=True, kw_only=True)
class Stage:
    """A scene under construction."""

    owners: UInt8[np.ndarray, "rows columns"]
    """Which thing is seen at each sample; 0 is the backdrop."""
    things: list[Thing] = field(default_factory=list)
    """Front to back."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture in pixels."""
        return self.owners.shape[0] // SAMPLES, self.owners.shape[1] // SAMPLES


def build_stage(height: int, width: int) -> Stage:
    """An empty stage of so many pixels."""
    return Stage(owners=np.zeros((height * SAMPLES, width * SAMPLES), np.uint8))


def put_up(
    stage: Stage,
    outline: Outline,
    *,
    centre: np.ndarray,
    basis: np.ndarray,
    texture: TextureName,
    period: float,
    label: int | None,
    in_crowd: bool = False,
    min_visible: float = 0.0,
) -> Thing | None:
    """Put an object behind all others, or leave the stage as it is if too little of it would be seen.

    `min_visible` is the least share of the whole object, parts outside the picture included, that must be
    seen; `centre` and `basis` take the outline to pixels; the period of the texture is in pixels.
    """
    if len(stage.things) >= MAX_OWNERS:
        return None
    parts = [[ring @ basis.T + centre for ring in part] for part in outline.parts]
    points = np.concatenate([ring for part in parts for ring in part])
    x, y = (int(v) for v in np.floor(points.min(axis=0)) - 1)
    x_end, y_end = (int(v) for v in np.ceil(points.max(axis=0)) + 1)
    samples = np.zeros(((y_end - y) * SAMPLES, (x_end - x) * SAMPLES), np.uint8)
    for part in parts:
        rings = [fixed_point(ring - (x, y)) for ring in part]
        cv2.fillPoly(samples, rings, 1, shift=FIXED_POINT_BITS)
    whole = int(np.count_nonzero(samples))

    window, inside = overlap(stage, x, y, samples)
    seen = inside.astype(bool) & (window == 0)
    visible = int(np.count_nonzero(seen))
    if visible < max(min_visible * whole, MIN_VISIBLE_PIXELS * SAMPLES**2):
        return None
    polygons: list[np.ndarray] = []
    if label is not None and not in_crowd:
        polygons = trace_polygons(seen, max(0, x), max(0, y))
        if sum(map(ring_area, polygons)) < MIN_VISIBLE_PIXELS:  # It shows in slivers only.
            return None
    thing = Thing(
        owner=len(stage.things) + 1,
        label=label,
        in_crowd=in_crowd,
        texture=texture,
        period=period,
        centre=np.asarray(centre, np.float64),
        basis=basis,
        x=x,
        y=y,
        coverage=share_covered(samples),
        visible_ratio=visible / whole,
        polygons=polygons,
        keypoints=None if outline.keypoints is None else outline.keypoints @ basis.T + centre,
    )
    window[seen] = thing.owner
    stage.things.append(thing)
    return thing


def fixed_point(ring: np.ndarray) -> np.ndarray:
    """Pixel coordinates as OpenCV's filler takes them: whole samples are its sample centres."""
    scaled: np.ndarray = np.round((ring * SAMPLES - 0.5) * (1 << FIXED_POINT_BITS))
    return scaled.astype(np.int32)


def overlap(stage: Stage, x: int, y: int, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parts (views) of the map of owners and of a window's samples that lie over each other."""
    rows, columns = stage.owners.shape
    top, left = max(0, y * SAMPLES), max(0, x * SAMPLES)
    bottom = min(rows, y * SAMPLES + samples.shape[0])
    right = min(columns, x * SAMPLES + samples.shape[1])
    if bottom <= top or right <= left:
        return stage.owners[:0, :0], samples[:0, :0]
    own = samples[top - y * SAMPLES : bottom - y * SAMPLES, left - x * SAMPLES : right - x * SAMPLES]
    return stage.owners[top:bottom, left:right], own


def share_covered(samples: np.ndarray) -> Float32[np.ndarray, "h w"]:
    """Share of the samples of each pixel that are set; samples are 0 or 1."""
    height, width = samples.shape[0] // SAMPLES, samples.shape[1] // SAMPLES
    return cv2.resize(samples.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)


def visible_mask(stage: Stage, things: list[Thing]) -> Bool[np.ndarray, "H W"]:
    """The pixels of which these things together show in more than half."""
    height, width = stage.size
    mask = np.zeros((height, width), bool)
    if not things:
        return mask
    top, left = (max(0, min(getattr(t, axis) for t in things)) for axis in ("y", "x"))
    bottom = min(height, max(t.y + t.coverage.shape[0] for t in things))
    right = min(width, max(t.x + t.coverage.shape[1] for t in things))
    window = stage.owners[top * SAMPLES : bottom * SAMPLES, left * SAMPLES : right * SAMPLES]
    seen = window == things[0].owner
    for thing in things[1:]:
        seen |= window == thing.owner
    mask[top:bottom, left:right] = share_covered(seen) > 0.5
    return mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """What is annotated: one object, or one crowd."""

    label: int
    """Category from 0, in the order of `category_names`."""
    is_crowd: bool
    polygons: list[np.ndarray]
    """Rings (R, 2) of the visible region, one for each piece; a ring also leads round the holes of its
    piece. Empty for a crowd."""
    box: Float64[np.ndarray, " 4"]
    """(x1, y1, x2, y2) exactly round the polygons, or round the mask of a crowd, in pixels."""
    area: float
    """Of the visible region, in square pixels."""
    mask: Bool[np.ndarray, "H W"]
    """The pixels of which the visible region covers more than half."""
    visible_ratio: float
    """Share 0..1 of the object that is seen; 1 for a crowd."""
    keypoints: Float64[np.ndarray, "P 3"] | None
    """(x, y, visibility) as in COCO: 2 seen, 1 hidden, 0 outside the picture (then x = y = 0). None for a
    form without named points."""


def annotate(stage: Stage) -> list[Instance]:
    """The truth of all objects of a category, front to back, and of the crowd."""
    singles = [t for t in stage.things if t.label is not None and not t.in_crowd]
    instances = [annotate_thing(stage, thing) for thing in singles]
    crowd = [t for t in stage.things if t.in_crowd]
    if crowd:
        mask = visible_mask(stage, crowd)
        if mask.any():
            instances.append(annotate_crowd(mask, crowd[0]))
    return instances


def annotate_thing(stage: Stage, thing: Thing) -> Instance:
    """The truth of one object, from the map of owners."""
    points = np.concatenate(thing.polygons)
    assert thing.label is not None
    return Instance(
        label=thing.label,
        is_crowd=False,
        polygons=thing.polygons,
        box=np.concatenate([points.min(axis=0), points.max(axis=0)]),
        area=sum(ring_area(ring) for ring in thing.polygons),
        mask=visible_mask(stage, [thing]),
        visible_ratio=thing.visible_ratio,
        keypoints=None if thing.keypoints is None else see_keypoints(stage, thing.keypoints, thing.owner),
    )


def annotate_crowd(mask: np.ndarray, member: Thing) -> Instance:
    """The truth of a crowd whose members together are seen in the mask."""
    assert member.label is not None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    points = member.keypoints
    return Instance(
        label=member.label,
        is_crowd=True,
        polygons=[],
        box=np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64),
        area=float(mask.sum()),
        mask=mask,
        visible_ratio=1.0,
        keypoints=None if points is None else np.zeros((len(points), 3)),
    )


def see_keypoints(stage: Stage, points: np.ndarray, owner: int) -> Float64[np.ndarray, "P 3"]:
    """The points with their visibility."""
    rows, columns = stage.owners.shape
    seen = np.zeros((len(points), 3))
    for row, (x, y) in enumerate(points):
        column, line = int(np.floor(x * SAMPLES)), int(np.floor(y * SAMPLES))
        if 0 <= column < columns and 0 <= line < rows:
            seen[row] = (x, y, 2 if stage.owners[line, column] == owner else 1)
    return seen
