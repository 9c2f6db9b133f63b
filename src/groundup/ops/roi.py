"""Regions of interest: NMS and RoIAlign. The one door to `torchvision.ops`.

It is imported when it is needed: it takes seconds, and reading a recipe needs none of it.

Legend:
    B  images     C  channels     H, W  a map's size     N  boxes or RoIs     S  RoIAlign's resolution
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

CANONICAL_SIZE = 224
"""Side in pixels of a RoI that belongs to the canonical level. Source: FPN (Lin et al., 2017), eq. 1."""
CANONICAL_LEVEL = 4
"""Level of a RoI of the canonical size. Source: as above."""
FIRST_LEVEL = 2
"""Level of the finest map. Source: as above."""
FAR_OFF = -1e5
"""Pixels; a box there lies outside every map, by more than a place at any stride up to 1e4."""


def nms(
    boxes: Float[Tensor, "N 4"], scores: Float[Tensor, " N"], groups: Int[Tensor, " N"], threshold: float
) -> Int[Tensor, " K"]:
    """Rows that survive greedy non-maximum suppression within each group, best score first, ties by row.

    The number of survivors depends on the data: on a GPU this waits for the device, once.

    Args:
        boxes: of all groups.
        scores: of each box; higher is better.
        groups: boxes of different groups do not suppress one another.
        threshold: IoU above which the lower score goes.
    """
    import torchvision.ops

    if boxes.is_cuda:
        # All groups in one kernel, moved apart; in float64, for the shifts would cost float32 its precision.
        distance = boxes.max().double() + 1 if len(boxes) else 0.0
        apart = boxes.double() + (groups.double() * distance)[:, None]
        kept_rows: Tensor = torchvision.ops.nms(apart, scores.double(), threshold)
        return kept_rows
    # On the CPU the kernel compares all pairs: group by group is less work.
    order = groups.argsort(stable=True)
    counts = groups.bincount().tolist() if len(groups) else []
    kept = [
        rows[torchvision.ops.nms(boxes[rows], scores[rows], threshold)]
        for rows in order.split(counts)
        if len(rows)
    ]
    survivors = torch.cat(kept).sort().values if kept else order
    return survivors[scores[survivors].argsort(descending=True, stable=True)]


def ranks_within(groups: Int[Tensor, " N"], num_groups: int) -> Int[Tensor, " N"]:
    """Each row's place, from 0, among the rows of its group, in the order given."""
    order = groups.argsort(stable=True)
    counts = torch.zeros(num_groups, dtype=torch.int64, device=groups.device)
    counts.index_add_(0, groups, torch.ones_like(groups))
    firsts = counts.cumsum(0) - counts
    places = torch.arange(len(groups), device=groups.device) - firsts[groups[order]]
    return torch.empty_like(places).scatter_(0, order, places)


def fpn_levels(
    boxes: Float[Tensor, "N 4"], num_levels: int, *, eps: float, is_eps_in_log: bool
) -> Int[Tensor, " N"]:
    """Row of the map, finest first, on which each box is pooled.

    Args:
        boxes: in pixels of the resized image.
        num_levels: maps, from stride 4 on.
        eps: guards whole levels against rounding (and, inside the logarithm, against empty boxes).
        is_eps_in_log: whether it is added to the ratio of sizes or to its logarithm (paper.md 4).

    Source: FPN (Lin et al., 2017), equation 1.
    """
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt() / CANONICAL_SIZE
    logs = torch.log2(sides + eps) if is_eps_in_log else torch.log2(sides) + eps
    levels = torch.floor(CANONICAL_LEVEL + logs).clamp(FIRST_LEVEL, FIRST_LEVEL + num_levels - 1)
    return levels.to(torch.int64) - FIRST_LEVEL


def roi_align(
    features: Float[Tensor, "B C H W"],
    boxes: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    *,
    size: int,
    scale: float,
    sampling_ratio: int,
    is_aligned: bool,
) -> Float[Tensor, "N C {size} {size}"]:
    """Each box's part of its image's map, resampled to a grid by bilinear interpolation.

    Args:
        features: maps of the batch.
        boxes: in pixels.
        images: row of the batch each box belongs to.
        size: grid cells along each side.
        scale: cells a pixel.
        sampling_ratio: samples along each side of a grid cell; 0 takes as many as cells of the map.
        is_aligned: whether pixel centres lie at half-integers, as boxes are half-open (Detectron2), or at
            integers (Detectron, torchvision).

    Maps of lower precision are for the caller to convert, once for all heads.

    Source: Mask R-CNN (He et al., 2017), section 3.
    """
    import torchvision.ops

    # Boxes stay float32: half precision would move corners by a pixel on a large image.
    rois = torch.cat([images[:, None].to(boxes.dtype), boxes], dim=1)
    pooled: Tensor = torchvision.ops.roi_align(features, rois, size, scale, sampling_ratio, is_aligned)
    return pooled


def roi_align_levels(
    maps: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    levels: Int[Tensor, " N"],
    *,
    size: int,
    scales: Sequence[float],
    sampling_ratio: int,
    is_aligned: bool,
) -> Float[Tensor, "N C {size} {size}"]:
    """`roi_align` of each box on the map of its level, without asking the device how many each level has.

    Every map is given all boxes, those of other levels far outside of it. Samples there are 0 and touch no
    memory, forward or backward, so beside one kernel's work each further map costs the writing of zeros.

    Args:
        maps: finest first.
        boxes: in pixels.
        images: row of the batch each box belongs to.
        levels: row of `maps` each box is pooled from.
        size: grid cells along each side.
        scales: cells a pixel, of each map.
        sampling_ratio: as of `roi_align`.
        is_aligned: as of `roi_align`.
    """
    pooled: Tensor | None = None
    for level, (features, scale) in enumerate(zip(maps, scales, strict=True)):
        is_own = levels == level
        part = roi_align(
            features,
            torch.where(is_own[:, None], boxes, FAR_OFF),
            images,
            size=size,
            scale=scale,
            sampling_ratio=sampling_ratio,
            is_aligned=is_aligned,
        )
        if torch.are_deterministic_algorithms_enabled():
            # torchvision's form with a deterministic gradient has no outside: it repeats the map's border.
            part = torch.where(is_own[:, None, None, None], part, 0.0)
        pooled = part if pooled is None else pooled + part
    assert pooled is not None, "there is at least one map"
    return pooled
