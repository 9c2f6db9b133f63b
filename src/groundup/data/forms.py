"""Outlines of drawn objects: what the eye may call a star, a gear, a figure, each never twice alike.

A form is drawn in its own frame: centre (0, 0), inside the circle of radius 1, y downwards. No form
knows left from right: the mirror image of every outline is as likely as the outline, so that a
horizontal flip of a picture keeps every category.

Legend:
    P  keypoints of the form     R  points of a ring
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

FormName = Literal[
    "star", "gear", "crescent", "figure", "heart", "flower", "arrow", "ring", "cross", "leaf", "drop", "blob"
]

FIGURE_KEYPOINTS = ("head", "chest", "hips", "left_hand", "right_hand", "left_foot", "right_foot")
"""Names of the points of a figure. It faces us: its own left is on the right of the picture."""
FIGURE_SKELETON = ((1, 2), (2, 3), (2, 4), (2, 5), (3, 6), (3, 7))
"""Lines between the points of a figure, counted from 1 as in COCO."""
FIGURE_TILT = 0.6
"""Largest rotation of a figure from upright, in radians; the other forms turn freely."""

ARC_POINTS = 40
"""Points of a full circle: at 100 pixels across, the chord is 0.15 pixels from the arc."""
CAP_POINTS = 14
"""Points of a limb's outline round one end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """One drawn form: the union of its parts; within a part, rings inside rings are holes."""

    parts: list[list[np.ndarray]]
    """Rings of each part: float64 (R, 2) arrays of x, y."""
    keypoints: Float64[np.ndarray, "P 2"] | None = None
    """Points that have names (`FIGURE_KEYPOINTS`), or None for a form without."""


def draw_outline(name: FormName, rng: np.random.Generator) -> Outline:
    """One outline of the form, of all that bear its name."""
    outline = FORMS[name](rng)
    return outline if isinstance(outline, Outline) else Outline(parts=[outline])


def polar(radii: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Points at the radii and angles."""
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def circle(radius: float, centre: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """A circle as a ring."""
    return polar(np.full(ARC_POINTS, radius), turn(ARC_POINTS)) + centre


def turn(count: int) -> np.ndarray:
    """So many angles round the full turn."""
    return np.arange(count) * (2 * np.pi / count)


def draw_star(rng: np.random.Generator) -> list[np.ndarray]:
    """Four to seven straight points."""
    points = int(rng.integers(4, 8))
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, rng.uniform(0.34, 0.52))
    return [polar(radii, turn(2 * points))]


def draw_gear(rng: np.random.Generator) -> list[np.ndarray]:
    """Seven to twelve blunt teeth, most often round a hole."""
    teeth = int(rng.integers(7, 13))
    root = rng.uniform(0.70, 0.82)
    flank, top = rng.uniform(0.05, 0.15), rng.uniform(0.28, 0.42)
    profile = np.array([-top / 2 - flank, -top / 2, top / 2, top / 2 + flank])
    angles = (np.arange(teeth)[:, None] + profile) * (2 * np.pi / teeth)
    radii = np.tile([root, 1.0, 1.0, root], teeth)
    rings = [polar(radii, angles.ravel())]
    if rng.random() < 0.7:
        rings.append(circle(rng.uniform(0.2, 0.4)))
    return rings


def draw_crescent(rng: np.random.Generator) -> list[np.ndarray]:
    """A disc out of which another disc has bitten."""
    tip, thickness = rng.uniform(0.5, 1.0), rng.uniform(0.35, 1.1)
    disc = polar(np.ones(ARC_POINTS), np.linspace(tip, 2 * np.pi - tip, ARC_POINTS))
    # The bite's circle passes through both tips and leaves the thickness at the back.
    back = thickness - 1
    centre = (1 - back**2) / (2 * (np.cos(tip) - back))
    reach = np.arctan2(np.sin(tip), np.cos(tip) - centre)
    bite = polar(np.full(ARC_POINTS, centre - back), np.linspace(2 * np.pi - reach, reach, ARC_POINTS))
    return [np.concatenate([disc, bite[1:-1] + np.array([centre, 0.0])])]


def draw_heart(rng: np.random.Generator) -> list[np.ndarray]:
    """Two lobes over a point."""
    angles = turn(ARC_POINTS)
    depth = rng.uniform(0.85, 1.15)
    x = np.sin(angles) ** 3
    y = -(13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles) - np.cos(4 * angles)) / 16
    ring = np.stack([x, y * depth], axis=1)
    return [ring / np.hypot(*ring.T).max()]


def draw_flower(rng: np.random.Generator) -> list[np.ndarray]:
    """Four to eight round petals."""
    petals = int(rng.integers(4, 9))
    angles = turn(3 * ARC_POINTS)
    depth = rng.uniform(0.18, 0.32)
    radii = 1 - 2 * depth + 2 * depth * np.abs(np.cos(petals * angles / 2)) ** rng.uniform(0.6, 1.2)
    return [polar(radii, angles)]


def draw_arrow(rng: np.random.Generator) -> list[np.ndarray]:
    """A shaft with a head."""
    shaft, head, neck = rng.uniform(0.16, 0.3), rng.uniform(0.5, 0.75), rng.uniform(-0.15, 0.3)
    barb = neck - rng.uniform(0.0, 0.25)
    upper = np.array([[1.0, 0.0], [barb, head], [neck, shaft], [-0.95, shaft]])
    return [np.concatenate([upper, upper[:0:-1] * [1, -1]])]


def draw_ring(rng: np.random.Generator) -> list[np.ndarray]:
    """A round or angular band."""
    inner = rng.uniform(0.4, 0.65)
    if rng.random() < 0.5:
        return [circle(1.0), circle(inner)]
    corners = polar(np.ones(6), turn(6))
    return [corners, corners * inner]


def draw_cross(rng: np.random.Generator) -> list[np.ndarray]:
    """Four equal arms."""
    arm = rng.uniform(0.22, 0.36)
    quarter = np.array([[arm, -arm], [1.0, -arm], [1.0, arm]]) / np.hypot(1.0, arm)
    turns = [quarter, quarter[:, ::-1] * [-1, 1], -quarter, quarter[:, ::-1] * [1, -1]]
    return [np.concatenate(turns)]


def draw_leaf(rng: np.random.Generator) -> list[np.ndarray]:
    """A lens with two points, widest off its middle."""
    width, skew = rng.uniform(0.35, 0.6), rng.uniform(0.7, 1.4)
    s = np.linspace(0, 1, ARC_POINTS // 2)
    upper = np.stack([2 * s - 1, width * np.sin(np.pi * s**skew)], axis=1)
    return [np.concatenate([upper, upper[-2:0:-1] * [1, -1]])]


def draw_drop(rng: np.random.Generator) -> list[np.ndarray]:
    """Round below, pointed above."""
    angles = turn(ARC_POINTS)
    width = rng.uniform(0.6, 0.9)
    ring = np.stack([width * np.sin(angles) * np.sin(angles / 2) ** 1.5, -np.cos(angles)], axis=1)
    return [ring / np.hypot(*ring.T).max()]


def draw_blob(rng: np.random.Generator) -> list[np.ndarray]:
    """A closed line without corners and without a name."""
    angles = turn(2 * ARC_POINTS)
    orders = np.arange(2, 7)
    sizes = rng.normal(0, 0.35, len(orders)) / orders
    waves = np.cos(orders[:, None] * angles + rng.uniform(0, 2 * np.pi, (len(orders), 1)))
    radii = np.exp(sizes @ waves)
    return [polar(radii / radii.max(), angles)]


def draw_figure(rng: np.random.Generator) -> Outline:
    """A rounded little person facing us, arms and legs as they happen to be."""
    limb, trunk, head = rng.uniform(0.115, 0.165), rng.uniform(0.17, 0.25), rng.uniform(0.21, 0.28)
    chest, hips = np.array([0.0, -0.30]), np.array([0.0, 0.18])
    crown = np.array([rng.uniform(-0.06, 0.06), -0.98 + head])
    hands, feet = [], []
    for side in (1.0, -1.0):
        raised = rng.uniform(-0.9, 1.0)
        hands.append(chest + 0.68 * np.array([side * np.cos(raised), np.sin(raised)]))
        spread = rng.uniform(0.12, 0.75)
        feet.append(hips + 0.72 * np.array([side * np.sin(spread), np.cos(spread)]))
    shoulder, hip = np.array([0.5 * trunk, 0.0]), np.array([0.45 * trunk, 0.0])
    parts = [
        [circle(head, (float(crown[0]), float(crown[1])))],
        [limb_ring(chest, hips, trunk)],
        [limb_ring(chest, crown, 0.8 * limb)],
    ]
    for side, hand, foot in zip((1.0, -1.0), hands, feet, strict=True):
        parts += [
            [limb_ring(chest + side * shoulder, hand, limb)],
            [limb_ring(hips + side * hip, foot, limb)],
        ]
    points = np.stack([crown, chest, hips, *hands, *feet])
    return Outline(parts=parts, keypoints=points)


def limb_ring(start: np.ndarray, end: np.ndarray, radius: float) -> np.ndarray:
    """A round-ended stroke between two points."""
    along = np.arctan2(end[1] - start[1], end[0] - start[0])
    half = np.linspace(-np.pi / 2, np.pi / 2, CAP_POINTS)
    caps = [polar(np.full(CAP_POINTS, radius), along + half) + end]
    caps.append(polar(np.full(CAP_POINTS, radius), along + np.pi + half) + start)
    return np.concatenate(caps)


FORMS: dict[FormName, Callable[[np.random.Generator], Outline | list[np.ndarray]]] = {
    "star": draw_star,
    "gear": draw_gear,
    "crescent": draw_crescent,
    "figure": draw_figure,
    "heart": draw_heart,
    "flower": draw_flower,
    "arrow": draw_arrow,
    "ring": draw_ring,
    "cross": draw_cross,
    "leaf": draw_leaf,
    "drop": draw_drop,
    "blob": draw_blob,
}
