"""Anchors: the boxes that the region proposal network starts from.

Legend:
    A  anchor shapes at one place      N  anchors of all levels
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

CODE_BITS_X = 20
"""Bits for a column in an anchor's code: maps up to a million cells wide."""
CODE_BITS_SHAPE = 8
"""Bits for the shape in an anchor's code: up to 256 shapes at one place."""
CODE_BITS_LEVEL = 4
"""Bits for the level in an anchor's code: up to 16 levels."""


def base_anchors(
    sizes: Sequence[float], ratios: Sequence[float], *, is_rounded: bool
) -> Float[Tensor, "A 4"]:
    """Anchors round the origin, ratios slowest: area size**2, height / width = ratio.

    Args:
        sizes: sides in pixels of square anchors.
        ratios: height / width.
        is_rounded: corners at whole pixels, as Detectron and torchvision have them (paper.md 4).
    """
    scale = torch.tensor(sizes, dtype=torch.float32)
    heights = torch.tensor(ratios, dtype=torch.float32).sqrt()
    widths = 1 / heights
    halves = torch.stack([torch.outer(widths, scale).flatten(), torch.outer(heights, scale).flatten()], dim=1)
    anchors = torch.cat([-halves, halves], dim=1) / 2
    return anchors.round() if is_rounded else anchors


def grid_anchors(
    base: Float[Tensor, "A 4"], grid: tuple[int, int], stride: tuple[float, float]
) -> Float[Tensor, "N 4"]:
    """The base anchors at every place of a map: rows, then columns, then shapes.

    Args:
        base: anchors round the origin.
        grid: (rows, columns) of the map.
        stride: pixels from one row and one column to the next.
    """
    y = torch.arange(grid[0], device=base.device, dtype=base.dtype) * stride[0]
    x = torch.arange(grid[1], device=base.device, dtype=base.dtype) * stride[1]
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([columns, rows, columns, rows], dim=-1).reshape(-1, 1, 4)
    return (shifts + base).reshape(-1, 4)


def anchor_codes(
    num_shapes: int, grid: tuple[int, int], level: int, device: torch.device | str = "cpu"
) -> Int[Tensor, " N"]:
    """A number per anchor of one level that names its level, place and shape.

    Unlike an anchor's row it does not change with the padding of the batch, so what is drawn at random by
    code does not depend on how images are grouped.
    """
    rows, columns, shapes = torch.meshgrid(
        *(torch.arange(count, device=device) for count in (*grid, num_shapes)), indexing="ij"
    )
    codes = ((rows << CODE_BITS_X) + columns << CODE_BITS_SHAPE) + shapes
    return ((codes << CODE_BITS_LEVEL) + level).flatten()
