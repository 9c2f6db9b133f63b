"""Masks of detections: from a grid over each box to pixels of the image.

Targets of the mask head are made in `ops.rasterise`.

Legend:
    N  detections        S  side of a mask's grid        h, w  a crop's size in pixels
    H, W  the image's size
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name the field uses
from jaxtyping import Bool, Float
from torch import Tensor

PasteKind = Literal["aligned", "integer"]
"""aligned: bilinear at pixel centres, the box at its exact place (Detectron2); integer: the box grown by one
grid cell and cut to whole pixels (Detectron, torchvision). The first is worth about half a mask AP."""
INTEGER_PADDING = 1
"""Grid cells of zeros round a mask before an integer paste. Source: Detectron, `segm_results`."""
MASK_THRESHOLD = 0.5
"""Probability from which a pixel belongs to a mask. Source: Detectron, `MRCNN.THRESH_BINARIZE`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """The part of an image one mask can touch."""

    x: int
    y: int
    """Column and row of the first pixel."""
    scores: Float[Tensor, "h w"]
    """Probability of each pixel; an empty box gives an empty crop."""


def paste_masks(
    masks: Float[Tensor, "N S S"],
    boxes: Float[Tensor, "N 4"],
    size: tuple[int, int],
    *,
    kind: PasteKind = "aligned",
    threshold: float = MASK_THRESHOLD,
) -> Bool[Tensor, "N H W"]:
    """Bitmaps of the whole image, one byte a pixel; `paste_crops` needs no such room.

    Args:
        masks: probabilities on a grid over each box.
        boxes: in pixels of the image.
        size: (height, width) of the image.
        kind: how; see `PasteKind`.
        threshold: probability from which a pixel belongs to the mask.
    """
    bitmaps = torch.zeros((len(masks), *size), dtype=torch.bool)
    for bitmap, crop in zip(bitmaps, paste_crops(masks, boxes, size, kind=kind), strict=True):
        height, width = crop.scores.shape
        bitmap[crop.y : crop.y + height, crop.x : crop.x + width] = crop.scores >= threshold
    return bitmaps.to(masks.device)


def paste_crops(
    masks: Float[Tensor, "N S S"],
    boxes: Float[Tensor, "N 4"],
    size: tuple[int, int],
    *,
    kind: PasteKind = "aligned",
) -> Iterator[Crop]:
    """Each mask at the image's resolution, one at a time and only where its box lies, on the CPU.

    Args:
        masks: probabilities on a grid over each box.
        boxes: in pixels of the image.
        size: (height, width) of the image.
        kind: how; see `PasteKind`.
    """
    grids, corners = masks.detach().float().cpu(), boxes.detach().float().cpu()
    if kind == "integer":
        grids = F.pad(grids, (INTEGER_PADDING,) * 4)
        corners = grow_boxes(corners, grids.shape[-1] / masks.shape[-1])
    for grid, (x1, y1, x2, y2) in zip(grids, corners.tolist(), strict=True):
        y, rows = resampling_rows(y1, y2, size[0], grid.shape[-1], kind)
        x, columns = resampling_rows(x1, x2, size[1], grid.shape[-1], kind)
        # Bilinear interpolation is separable: two thin products instead of a gather.
        with torch.autocast("cpu", enabled=False):
            scores = rows @ grid @ columns.T
        yield Crop(x=x, y=y, scores=scores)


def grow_boxes(boxes: Float[Tensor, "N 4"], factor: float) -> Float[Tensor, "N 4"]:
    """Boxes grown about their centres, cut to whole pixels towards zero.

    Source: Detectron, `expand_boxes`.
    """
    halves = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * factor
    centres = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    return torch.cat([centres - halves, centres + halves], dim=1).trunc()


def resampling_rows(
    low: float, high: float, limit: int, num_cells: int, kind: PasteKind
) -> tuple[int, Float[Tensor, "h S"]]:
    """First pixel of a span of the image, and how much each grid cell weighs in each of its pixels.

    Args:
        low: where the grid begins, in pixels.
        high: where it ends; of an integer paste the last pixel it covers.
        limit: pixels of the image along this side.
        num_cells: cells of the grid along this side.
        kind: how; see `PasteKind`.
    """
    if kind == "integer":
        first, last = max(int(low), 0), min(int(high) + 1, limit)
        length = max(int(high) - int(low) + 1, 1)
        pixels = torch.arange(first, max(last, first), dtype=torch.float32)
        # Weights as of F.interpolate(mode="bilinear", align_corners=False), which repeats the border.
        at = ((pixels - int(low) + 0.5) * (num_cells / length) - 0.5).clamp(0, num_cells - 1)
    else:
        # A pixel beyond the box by less than half a cell still feels the mask's border fall to zero.
        reach = 0.5 * (high - low) / num_cells
        first, last = max(int(low - reach), 0), min(int(high + reach) + 1, limit)
        pixels = torch.arange(first, max(last, first), dtype=torch.float32)
        at = (pixels + 0.5 - low) * (num_cells / max(high - low, torch.finfo(torch.float32).eps)) - 0.5
    distance = (at[:, None] - torch.arange(num_cells)).abs()
    return first, (1 - distance).clamp(min=0)
