"""Regions of interest: which proposals the heads learn from, and how their features are pooled.

Legend:
    B  images     G  instance slots an image     K  proposals an image
    R  RoI slots an image                        N  RoIs a head really sees
    D  channels of the pyramid                   S  RoIAlign's resolution
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from groundup.config import Options
from groundup.metering import part
from groundup.models.norm import NormKind
from groundup.models.proposals import Proposals, SlotKind
from groundup.ops.boxes import has_min_side
from groundup.ops.matching import match_boxes
from groundup.ops.pooling import RoIMaps, pool_levels
from groundup.ops.roi import fpn_levels
from groundup.ops.sampling import ROI_STREAM, choose_balanced, random_keys
from groundup.structures import Batch

GT_CODES = 2**32
"""First code of true boxes among the candidates, above every proposal's rank."""


class RoIOptions(Options):
    """Which proposals the heads learn from."""

    fg_iou: float = Field(0.5, gt=0, le=1)
    """IoU from which a proposal shows its true box's class."""
    bg_iou: float = Field(0.5, ge=0, le=1)
    """IoU below which it shows background; between the two it takes no part."""
    rois_per_image: int = Field(512, ge=1)
    """RoIs an image that enter the box head's losses."""
    positive_fraction: float = Field(0.25, gt=0, le=1)
    """Share of them that may be positive."""
    append_gt: bool = True
    """Whether true boxes are proposals too: without them an untrained RPN gives the heads no positives."""

    @property
    def max_positives(self) -> int:
        """Positive RoIs an image at most; the first so many slots hold them."""
        return int(self.rois_per_image * self.positive_fraction)


class PoolOptions(Options):
    """How a head's features are cut out of the pyramid."""

    resolution: int = Field(7, ge=1)
    """Cells along each side."""
    sampling_ratio: int = Field(2, ge=0)
    """Samples along each side of a cell; 0 takes as many as there are cells of the map."""
    aligned: bool = False
    """Whether pixel centres lie at half-integers (Detectron2) or at integers (Detectron, torchvision)."""
    level_eps: float = Field(1e-6, ge=0)
    """Guard of the level formula against rounding."""
    level_eps_in_log: bool = True
    """Whether it is added inside the logarithm (Detectron, Detectron2) or outside (torchvision)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoIs:
    """The sampled proposals of each image, positives first, in a fixed number of slots."""

    boxes: Float[Tensor, "B R 4"]
    gt_index: Int[Tensor, "B R"]
    """Slot of the true box a positive answers for; any slot elsewhere."""
    labels: Int[Tensor, "B R"]
    """Class of a positive; `num_classes` for background and empty slots."""
    is_filled: Bool[Tensor, "B R"]
    is_positive: Bool[Tensor, "B R"]


@torch.no_grad()
@part("proposals")
def sample_rois(proposals: Proposals, batch: Batch, options: RoIOptions, num_classes: int) -> RoIs:
    """A balanced random sample of proposals and, where asked for, true boxes.

    Source: Fast R-CNN (Girshick, 2015), section 2.3.
    """
    boxes, is_candidate = proposals.boxes, proposals.is_filled
    codes = torch.arange(boxes.shape[1], device=boxes.device)
    if options.append_gt:
        boxes = torch.cat([boxes, batch.boxes], dim=1)
        is_candidate = torch.cat([is_candidate, batch.labels >= 0], dim=1)
        # True boxes are counted apart, so that their codes do not change with the number of proposals.
        slots = torch.arange(batch.labels.shape[1], device=boxes.device)
        codes = torch.cat([codes, slots + GT_CODES])
    matches = match_boxes(
        batch.boxes,
        batch.labels,
        boxes,
        fg_iou=options.fg_iou,
        bg_iou=options.bg_iou,
        keeps_best=False,
        is_candidate=is_candidate,
    )
    chosen = choose_balanced(
        matches.is_positive,
        matches.is_negative,
        random_keys(batch.seeds, codes[None], ROI_STREAM),
        num_slots=options.rois_per_image,
        max_positives=options.max_positives,
    )
    gt_index = matches.gt_index.gather(1, chosen.index)
    labels = roi_labels(gt_index, chosen.is_positive, batch, num_classes)
    chosen_boxes = boxes.gather(1, chosen.index[..., None].expand(-1, -1, 4))
    return RoIs(
        boxes=chosen_boxes * chosen.is_filled[..., None],
        gt_index=gt_index,
        labels=labels,
        is_filled=chosen.is_filled,
        is_positive=chosen.is_positive,
    )


@torch.no_grad()
def rematch_rois(
    boxes: Float[Tensor, "B R 4"],
    is_filled: Bool[Tensor, "B R"],
    batch: Batch,
    *,
    fg_iou: float,
    num_classes: int,
) -> RoIs:
    """The same slots with boxes that have moved, each matched to true boxes anew and none left out.

    Positive from `fg_iou` on, background below. Boxes that have lost their area are RoIs no longer.
    Positives stand anywhere.

    Source: Detectron2, `CascadeROIHeads._match_and_label_boxes`.
    """
    is_filled = is_filled & has_min_side(boxes, torch.finfo(boxes.dtype).tiny)
    boxes = torch.where(is_filled[..., None], boxes, 0.0)
    matches = match_boxes(
        batch.boxes,
        batch.labels,
        boxes,
        fg_iou=fg_iou,
        bg_iou=fg_iou,
        keeps_best=False,
        is_candidate=is_filled,
    )
    return RoIs(
        boxes=boxes,
        gt_index=matches.gt_index,
        labels=roi_labels(matches.gt_index, matches.is_positive, batch, num_classes),
        is_filled=is_filled,
        is_positive=matches.is_positive,
    )


def roi_labels(
    gt_index: Int[Tensor, "B R"], is_positive: Bool[Tensor, "B R"], batch: Batch, num_classes: int
) -> Int[Tensor, "B R"]:
    """Class of the true box of each positive; `num_classes` elsewhere."""
    labels = torch.full_like(gt_index, num_classes)
    if batch.labels.shape[1] == 0:
        return labels
    return torch.where(is_positive, batch.labels.gather(1, gt_index), labels)


def rows_seen(is_needed: Bool[Tensor, "B R"], kind: SlotKind, norm: NormKind) -> Int[Tensor, " N"]:
    """Flat rows of the slots a head with the norm sees; at least one, but for a batch norm.

    Where no slot is needed the first one stands in, with weight 0, since other layers want something to work
    on. Before a batch norm it would count in statistics that nothing was seen for; those norms take nothing
    for an answer, the joint one with a count of zero.
    """
    flat = is_needed.flatten()
    if kind == "fixed":
        return torch.arange(len(flat), device=flat.device)
    rows = flat.nonzero()[:, 0]
    return (
        rows
        if len(rows) or norm in {"bn", "syncbn"}
        else torch.zeros(1, dtype=torch.int64, device=flat.device)
    )


def sums_of_images(
    values: Float[Tensor, " N"], rows: Int[Tensor, " N"], is_needed: Bool[Tensor, "B R"]
) -> Float[Tensor, " B"]:
    """Sum over each image's needed slots of values given at flat rows.

    The values are first put back into their slots, for sums that do not depend on the order of atomics.
    """
    slots = values.new_zeros(is_needed.numel()).index_copy(0, rows, values)
    return torch.where(is_needed, slots.view(is_needed.shape), 0.0).sum(dim=1)


@part("RoIAlign")
def pool_rois(
    maps: RoIMaps,
    boxes: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    options: PoolOptions,
) -> Float[Tensor, "N D S S"]:
    """Features of each RoI from the level its size belongs to."""
    levels = fpn_levels(boxes, maps.num_levels, eps=options.level_eps, is_eps_in_log=options.level_eps_in_log)
    return pool_levels(
        maps,
        boxes,
        images,
        levels,
        size=options.resolution,
        sampling_ratio=options.sampling_ratio,
        is_aligned=options.aligned,
    )
