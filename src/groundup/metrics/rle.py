"""Run-length encoding of masks that fill a small part of their image, without making the whole image.

Runs go down the columns, as in COCO: background first, then mask, and so on in turn.

Legend:
    h, w  size of the crop in pixels
"""

from typing import Any

import numpy as np
from jaxtyping import Bool
from pycocotools import mask as coco_mask


def encode_crop(crop: Bool[np.ndarray, "h w"], x: int, y: int, size: tuple[int, int]) -> dict[str, Any]:
    """COCO's encoding of an image of that (height, width) which is empty but for the crop at (x, y).

    Equal to `pycocotools.mask.encode` of the whole image; the counts are text, as in json. The crop
    must lie inside the image, or be empty.
    """
    height, width = size
    rows = crop.shape[0]
    inside = 0 <= x <= width - crop.shape[1] and 0 <= y <= height - rows
    assert inside or not crop.size, "the crop lies inside the image"
    padded = np.zeros((crop.shape[1], rows + 2), dtype=bool)
    padded[:, 1:-1] = crop.T
    columns, steps = np.divmod(np.flatnonzero(padded[:, 1:] != padded[:, :-1]), rows + 1)
    edges = (columns + x) * height + (steps + y)  # where runs begin and end, in turn
    if edges.size and rows == height:  # runs go on from the foot of a column to the head of the next
        joined = np.flatnonzero(edges[1:-1:2] == edges[2::2]) * 2 + 1
        edges = np.delete(edges, np.concatenate([joined, joined + 1]))
    counts = np.diff(edges, prepend=0, append=height * width).tolist()
    if counts[-1] == 0:  # the mask holds the last pixel
        counts.pop()
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}
