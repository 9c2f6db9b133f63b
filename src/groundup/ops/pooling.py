"""RoIAlign over a pyramid: each box from the map of its level.

On a GPU this is torchvision's kernel, level by level, and nothing waits for it. Its CPU kernel runs on one
thread, one channel at a time, and its backward pass scatters single numbers. There, RoIAlign is instead what
it mathematically is: every cell a weighted sum of a few rows (places) of one table that holds all levels,
each row one place's channels. That is a small C kernel (`ops.roi_kernel`); where it cannot be compiled,
torch's `embedding_bag`, whose sums are vectorised over channels too. `benchmarks/roi_align.py` measures all
three.

Legend:
    B  images     C  channels     N  boxes     S  RoIAlign's resolution
    R  rows of the table: places of all images on all levels
    T  taps along one side of a cell: two for each sample
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name the field uses
from jaxtyping import Float, Int
from torch import Tensor

from groundup.ops.precision import in_full_precision
from groundup.ops.roi import roi_align, roi_align_levels
from groundup.ops.roi_kernel import align_rois, build_table, has_kernel


@dataclass(frozen=True, slots=True)
class RoIMaps:
    """The maps that RoIs are pooled from, ready for all heads."""

    maps: tuple[Tensor, ...]
    """(B, C, rows, columns) in float32, finest first."""
    strides: tuple[int, ...]
    """Pixels a cell, of each map."""
    table: Tensor | None
    """(R, C): all maps' places one after the other, level by level, image by image; None off the CPU. The
    compiled kernel's has its rows filled up to whole vectors."""
    is_compiled: bool = False
    """Whether the table is the compiled kernel's."""

    @property
    def num_levels(self) -> int:
        """How many maps there are."""
        return len(self.maps)


def build_roi_maps(maps: Sequence[Float[Tensor, "B C _ _"]], strides: Sequence[int]) -> RoIMaps:
    """The maps in float32, laid out once for all heads: RoIAlign knows no bfloat16."""
    exact = tuple(in_full_precision(level) for level in maps)
    table = None
    if exact[0].device.type == "cpu":
        if has_kernel(exact[0].dtype):
            return RoIMaps(exact, tuple(strides), build_table(exact), is_compiled=True)
        table = torch.cat([level.permute(0, 2, 3, 1).flatten(0, 2) for level in exact])
    return RoIMaps(exact, tuple(strides), table)


def pool_levels(
    maps: RoIMaps,
    boxes: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    levels: Int[Tensor, " N"],
    *,
    size: int,
    sampling_ratio: int,
    is_aligned: bool,
) -> Float[Tensor, "N C {size} {size}"]:
    """RoIAlign of each box on the map of its level; see `ops.roi.roi_align`.

    On a CPU a box that is not finite gives NaN, and no gradient.
    """
    if maps.is_compiled:
        assert maps.table is not None
        pooled: Tensor = align_rois(
            maps.table,
            boxes.detach(),
            images,
            levels,
            [level.shape[2] for level in maps.maps],
            [level.shape[3] for level in maps.maps],
            [float(stride) for stride in maps.strides],
            maps.maps[0].shape[0],
            maps.maps[0].shape[1],
            size,
            sampling_ratio,
            is_aligned,
        )
        return pooled
    # With an adaptive number of samples the bags differ in size; that is left to the kernel.
    if maps.table is not None and sampling_ratio > 0 and len(boxes):
        return pool_from_table(
            maps, boxes, images, levels, size=size, sampling_ratio=sampling_ratio, is_aligned=is_aligned
        )
    if boxes.device.type != "cpu":
        return roi_align_levels(
            maps.maps,
            boxes,
            images,
            levels,
            size=size,
            scales=[1 / stride for stride in maps.strides],
            sampling_ratio=sampling_ratio,
            is_aligned=is_aligned,
        )
    # The kernel takes one map at a time; sorted by level no box is computed on a map that is not its own.
    order = levels.argsort(stable=True)
    counts = levels.bincount(minlength=maps.num_levels).tolist()
    by_level = [
        roi_align(
            level,
            boxes[rows],
            images[rows],
            size=size,
            scale=1 / stride,
            sampling_ratio=sampling_ratio,
            is_aligned=is_aligned,
        )
        for level, stride, rows in zip(maps.maps, maps.strides, order.split(counts), strict=True)
    ]
    return torch.cat(by_level)[order.argsort()]


def pool_from_table(
    maps: RoIMaps,
    boxes: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    levels: Int[Tensor, " N"],
    *,
    size: int,
    sampling_ratio: int,
    is_aligned: bool,
) -> Float[Tensor, "N C {size} {size}"]:
    """RoIAlign as weighted sums of the table's rows."""
    assert maps.table is not None
    is_finite = (boxes.isfinite() & (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2).isfinite()).all(dim=1)
    boxes, levels = torch.where(is_finite[:, None], boxes.detach(), 0.0), torch.where(is_finite, levels, 0)
    heights = torch.tensor([level.shape[2] for level in maps.maps])
    widths = torch.tensor([level.shape[3] for level in maps.maps])
    places = heights * widths * len(maps.maps[0])
    firsts = places.cumsum(0) - places

    scale = (1 / torch.tensor(maps.strides, dtype=boxes.dtype))[levels, None]
    corners = boxes * scale - (0.5 if is_aligned else 0.0)
    sides = corners[:, 2:] - corners[:, :2]
    if not is_aligned:
        sides = sides.clamp(min=1)  # Source: Detectron; a malformed box is one cell of the map.
    height, width = heights[levels], widths[levels]
    y, y_weight = taps_along(corners[:, 1], sides[:, 1], height, size, sampling_ratio)
    x, x_weight = taps_along(corners[:, 0], sides[:, 0], width, size, sampling_ratio)
    first = firsts[levels] + images * height * width
    rows = first[:, None, None] + y * width[:, None, None]

    index = rows[:, :, None, :, None] + x[:, None, :, None, :]
    weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    num_bags = len(boxes) * size * size
    pooled = F.embedding_bag(
        index.reshape(num_bags, -1),
        maps.table,
        per_sample_weights=weight.reshape(num_bags, -1),
        mode="sum",
    )
    # Norms and convolutions are no faster in channels-last on a CPU (peers.md 1 and 7).
    rois = pooled.view(len(boxes), size, size, -1).permute(0, 3, 1, 2).contiguous()
    return rois if is_finite.all() else rois.masked_fill(~is_finite[:, None, None, None], torch.nan)


def taps_along(
    start: Float[Tensor, " N"],
    side: Float[Tensor, " N"],
    limit: Int[Tensor, " N"],
    size: int,
    sampling_ratio: int,
) -> tuple[Int[Tensor, "N {size} T"], Float[Tensor, "N {size} T"]]:
    """Places along one side that make each cell, and their weights, which sum to 1 inside the map.

    Args:
        start: where each box begins, in places.
        side: how long it is.
        limit: places the map has.
        size: cells along the side.
        sampling_ratio: samples in a cell.

    Source: Mask R-CNN (He et al., 2017), section 3; at the border as torchvision's kernel: samples up to one
    place outside repeat the border, samples farther off are 0.
    """
    cell = (side / size)[:, None, None]
    cells = torch.arange(size)[:, None]
    samples = (torch.arange(sampling_ratio) + 0.5) / sampling_ratio
    at = start[:, None, None] + cells * cell + samples * cell
    last = (limit - 1).to(at.dtype)[:, None, None]
    is_near = (at >= -1) & (at <= last + 1)
    at = torch.minimum(at.clamp(min=0), last)
    low = at.floor()
    high = torch.minimum(low + 1, last)
    share = at - low
    weight = torch.stack([1 - share, share], dim=-1) * is_near[..., None] / sampling_ratio
    index = torch.stack([low, high], dim=-1).to(torch.int64)
    return index.flatten(2), weight.flatten(2)
