"""Keypoints of boxes: cells of a grid over each box, and from heatmaps on such grids back to pixels.

Legend:
    N  boxes          P  keypoints a box          S  side of a heatmap
    A  cells of a heatmap with its border         L  pixels along one side of the largest box of a part
    *b any leading axes
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name the field uses
from jaxtyping import Bool, Float, Int
from torch import Tensor

CUBIC_SHARPNESS = -0.75
"""Parameter of the cubic kernel. Source: Keys (1981); OpenCV and torch, whose resizing peers decode by."""
CUBIC_REACH = 2
"""Cells the kernel reaches to each side."""
MAX_PIXELS = 2**23
"""Pixels of resized heatmaps that are held at a time, which bounds the memory of decoding (32 MiB a copy)."""


def encode_keypoints(
    keypoints: Float[Tensor, "*b P 3"], boxes: Float[Tensor, "*b 4"], side: int
) -> tuple[Int[Tensor, "*b P"], Bool[Tensor, "*b P"]]:
    """The cell of each keypoint, row by row from 0, and whether it is labelled and inside its box.

    A keypoint on the far edge of the box belongs to the last cell; the cell of one outside means nothing.

    Args:
        keypoints: (x, y, visibility) in pixels.
        boxes: the grids lie over.
        side: cells along each side of a grid.

    Source: Detectron, `keypoints_to_heatmap_labels`; paper.md 4.
    """
    starts, ends = boxes[..., None, :2], boxes[..., None, 2:]
    points = keypoints[..., :2]
    is_inside = ((points >= starts) & (points <= ends) & (ends > starts)).all(dim=-1)
    places = ((points - starts) * (side / (ends - starts))).floor()
    # Of boxes without area, places are not numbers.
    columns, rows = torch.where(is_inside[..., None], places, 0.0).clamp(0, side - 1).long().unbind(-1)
    return rows * side + columns, is_inside & (keypoints[..., 2] > 0)


def decode_heatmaps(
    heatmaps: Float[Tensor, "N P S S"], boxes: Float[Tensor, "N 4"]
) -> Float[Tensor, "N P 3"]:
    """(x, y, score) of each keypoint: the highest pixel of its heatmap resized to the box.

    Heatmaps are resized by cubic interpolation to the box's whole pixels, at least one, and the place is the
    middle of the pixel. The score is the probability there: exp(highest) over the sum of exp over the
    heatmap's own cells, so that boxes of different sizes compare; at most 1.

    Args:
        heatmaps: logits on a grid over each box.
        boxes: in pixels of the image that the places are asked in.

    Source: Detectron, `heatmaps_to_keypoints`; Detectron2, of the same name, for the score.
    """
    heatmaps = heatmaps.float()
    sizes = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    whole = sizes.ceil()
    order = whole.amax(dim=1).argsort(descending=True)  # boxes of like size share a part
    bordered = F.pad(heatmaps, (CUBIC_REACH,) * 4, mode="replicate")
    found = [heatmaps.new_zeros((0, heatmaps.shape[1], 3))]
    start, counts = 0, whole[order].long().tolist()
    while start < len(boxes):
        width, height = largest(counts[start:])
        end = start + max(1, MAX_PIXELS // (width * height * heatmaps.shape[1]))
        rows = order[start:end]
        found.append(peaks(bordered[rows], whole[rows].long(), *largest(counts[start:end])))
        start = end
    columns, lines, highest = torch.cat(found)[order.argsort()].unbind(dim=2)
    places = torch.stack([columns, lines], dim=2) + 0.5
    places = boxes[:, None, :2] + places * (sizes / whole)[:, None]
    scores = (highest - heatmaps.flatten(2).logsumexp(dim=2)).exp().clamp(max=1)
    return torch.cat([places, scores[..., None]], dim=2)


def largest(sizes: Sequence[Sequence[int]]) -> tuple[int, int]:
    """The greatest width and the greatest height of (width, height) pairs."""
    return max(width for width, _ in sizes), max(height for _, height in sizes)


def peaks(
    bordered: Float[Tensor, "N P A A"], sizes: Int[Tensor, "N 2"], width: int, height: int
) -> Float[Tensor, "N P 3"]:
    """(column, row, value) of the highest pixel of each heatmap, resized to the (width, height) of its box.

    Args:
        bordered: heatmaps with `CUBIC_REACH` cells round them that repeat their border.
        sizes: (width, height) of each box in whole pixels.
        width: of the widest.
        height: of the tallest.
    """
    num_cells = bordered.shape[-1] - 2 * CUBIC_REACH
    across = cubic_rows(sizes[:, 0], width, num_cells)
    down = cubic_rows(sizes[:, 1], height, num_cells)
    line = torch.arange(height, device=sizes.device) < sizes[:, 1:]
    column = torch.arange(width, device=sizes.device) < sizes[:, :1]
    is_outside = ~(line[:, None, :, None] & column[:, None, None, :])
    found = []
    # Of a box as large as a photograph, not even all keypoints are resized at a time.
    for part in bordered.split(max(1, MAX_PIXELS // is_outside.numel()), dim=1):
        # Cubic interpolation is separable: two thin products for all boxes at once.
        with torch.autocast(bordered.device.type, enabled=False):
            fine = down[:, None] @ part @ across[:, None].mT
        highest, place = fine.masked_fill_(is_outside, -torch.inf).flatten(2).max(dim=2)
        found.append(torch.stack([place % width, place // width, highest], dim=2))
    return torch.cat(found, dim=1)


def cubic_rows(sizes: Int[Tensor, " N"], length: int, num_cells: int) -> Float[Tensor, "N {length} A"]:
    """How much each cell, border included, weighs in each pixel of a side resized to so many pixels.

    Source: Keys (1981), equation 4; cells as in torch's `interpolate` without aligned corners.
    """
    pixels = torch.arange(length, device=sizes.device) + 0.5
    at = pixels * (num_cells / sizes[:, None]) - 0.5
    cells = torch.arange(-CUBIC_REACH, num_cells + CUBIC_REACH, device=sizes.device)
    distance = (at[..., None] - cells).abs()
    a = CUBIC_SHARPNESS
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < CUBIC_REACH, far, 0.0))


def scale_keypoints(
    keypoints: Float[Tensor, "N P 3"], sizes: Int[Tensor, "N 2"], new_sizes: Int[Tensor, "N 2"]
) -> Float[Tensor, "N P 3"]:
    """Keypoints of images of the sizes, in pixels of the same images at the new sizes (height, width)."""
    ratios = (new_sizes.to(keypoints.dtype) / sizes.to(keypoints.dtype)).flip(-1)
    return torch.cat([keypoints[..., :2] * ratios[:, None], keypoints[..., 2:]], dim=2)
