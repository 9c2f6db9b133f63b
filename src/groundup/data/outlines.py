"""Outlines of regions of samples, as polygons.

Legend:
    R  points of a ring
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float

SAMPLES = 4
"""Samples a pixel, each way: outlines are true to a quarter of a pixel."""
SIMPLIFY_SAMPLES = 1.0
"""How far a simplified outline may leave the traced one, in samples: the stairs that samples make of a
slanting line stay below it, so a quarter of a pixel halves the points and costs no truth."""
MIN_PIECE_PIXELS = 0.5
"""Pieces and holes of a region no larger than this own no pixel by majority and get no ring."""

Ring = Float[np.ndarray, "R 2"]


def trace_polygons(samples: Bool[np.ndarray, "rows columns"], x: int, y: int) -> list[np.ndarray]:
    """Rings of a region of samples, in pixels; float64 (R, 2), the window beginning at pixel (x, y).

    One ring for each piece. A ring goes round the holes of its piece too, there and back along one line
    to each, so that the even-odd rule and the winding rule both leave the holes out.
    """
    rings = []
    for outlines in trace_outlines(samples):
        simple = [cv2.approxPolyDP(o[:, None], SIMPLIFY_SAMPLES, closed=True)[:, 0] for o in outlines]
        ring = join_rings(simple)
        if len(ring) < 3 or crosses_itself(ring):
            ring = join_rings(outlines)  # Thinner than what simplifying may move.
        rings.append(ring / SAMPLES + np.array([x, y]))
    return rings


def trace_outlines(samples: Bool[np.ndarray, "rows columns"]) -> list[list[np.ndarray]]:
    """For each piece of the region its outline, and those of its holes, along the edges of samples."""
    # Not through the centres of samples: the corners of samples are what is traced.
    corners = np.zeros((samples.shape[0] + 1, samples.shape[1] + 1), np.uint8)
    for down in (0, 1):
        for right in (0, 1):
            corners[down : down + samples.shape[0], right : right + samples.shape[1]] |= samples
    contours, tree = cv2.findContours(corners, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outer: dict[int, list[np.ndarray]] = {}
    holes: list[tuple[int, np.ndarray]] = []
    for row, contour in enumerate(contours):
        outline = follow_edges(contour[:, 0])
        if ring_area(outline / SAMPLES) <= MIN_PIECE_PIXELS:
            continue
        parent = int(tree[0, row, 3])
        if parent < 0:
            outer[row] = [outline]
        else:
            holes.append((parent, outline))
    for parent, hole in holes:
        if parent in outer:
            outer[parent].append(hole)
    return list(outer.values())


def follow_edges(chain: np.ndarray) -> np.ndarray:
    """The chain of corners without diagonal steps: each is led over the corner on the region's side.

    OpenCV keeps the region on the same hand along outer contours and along holes. Diagonal steps would cut
    across samples that are not of the region: on slanting outlines, a third of a sample too much.
    """
    step = np.diff(chain, axis=0, append=chain[:1])
    between = chain.copy()
    across = step[:, 0] * step[:, 1]
    between[across > 0, 0] += step[across > 0, 0]
    between[across < 0, 1] += step[across < 0, 1]
    both = np.stack([chain, between], axis=1).reshape(-1, 2)
    keep = np.ones(len(both), bool)
    keep[1::2] = across != 0
    return both[keep]


def join_rings(rings: list[np.ndarray]) -> np.ndarray:
    """The first ring led round all others, which are its holes, by the shortest way between their points."""
    ring = rings[0]
    for inner in rings[1:]:
        turns_alike = signed_area(ring) * signed_area(inner) > 0
        hole = inner[::-1] if turns_alike else inner
        distances = np.square(ring[:, None] - hole[None]).sum(axis=2)
        leave, enter = np.unravel_index(int(distances.argmin()), distances.shape)
        ring = np.concatenate([ring[: leave + 1], hole[enter:], hole[: enter + 1], ring[leave:]])
    return ring


def crosses_itself(ring: np.ndarray) -> bool:
    """Whether two edges of the ring cross inside both; touching does not count."""
    points = ring.astype(np.float32)
    edges = np.diff(points, axis=0, append=points[:1])
    offsets = points[None] - points[:, None]
    # On which side of an edge (row) each point (column) lies; an edge's end is the next one's start.
    side = np.sign(edges[:, :1] * offsets[..., 1] - edges[:, 1:] * offsets[..., 0])
    splits = side * np.concatenate([side[:, 1:], side[:, :1]], axis=1) < 0
    return bool((splits & splits.T).any())


def signed_area(ring: np.ndarray) -> float:
    """Area inside the ring; the sign says which way it turns."""
    return float(cv2.contourArea(ring.astype(np.float32), oriented=True))


def ring_area(ring: Ring) -> float:
    """Area inside the ring."""
    return abs(signed_area(ring))
