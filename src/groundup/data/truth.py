"""What a photograph truly holds, in numpy, as the annotation says and as the transforms move it.

Legend:
    G  instances of the image     P  keypoints an instance
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

Polygons = list[np.ndarray]
"""Rings of one instance: float32 (points, 2) arrays of x, y; the instance is their union."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bitmap:
    """A mask given as pixels: uint8 0 or 1 (h, w), placed at (x, y) of the image, cropped to the mask."""

    x: int
    y: int
    pixels: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The instances of one image that may be learnt from: no crowds, no degenerate boxes."""

    boxes: Float32[np.ndarray, "G 4"]
    """(x1, y1, x2, y2) in pixels."""
    labels: Int64[np.ndarray, " G"]
    """0 .. K-1."""
    masks: list[Polygons | Bitmap] | None
    """One per instance, or None where the data set has no masks."""
    keypoints: Float32[np.ndarray, "G P 3"] | None
    """(x, y, visibility), or None where the data set has no keypoints."""

    def __post_init__(self) -> None:
        """Refuse a truth whose parts disagree."""
        counts = {
            len(part) for part in (self.boxes, self.labels, self.masks, self.keypoints) if part is not None
        }
        if len(counts) > 1:
            raise ValueError(f"parts of one image's truth count differently: {sorted(counts)}")


def no_truth() -> Truth:
    """The truth of a photograph that nobody has annotated."""
    return Truth(boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int64), masks=None, keypoints=None)
