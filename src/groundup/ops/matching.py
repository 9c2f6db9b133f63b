"""Which true box each reference box (anchor or proposal) answers for.

Legend:
    B  images     G  instance slots an image     N  reference boxes an image
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from groundup.ops.boxes import box_iou

PAIRS_AT_ONCE = 2**21
"""Pairs (true box, reference) compared at a time: about 8 MB for each intermediate of the IoU, so 2,000
boxes against 240,000 anchors stay within about 50 megabytes (measured; larger chunks are not faster)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """The best true box of each reference, and what the thresholds make of it."""

    gt_index: Int[Tensor, "B N"]
    """Slot of the true box with the highest IoU, the first of equals; 0 where an image has none."""
    is_positive: Bool[Tensor, "B N"]
    is_negative: Bool[Tensor, "B N"]
    """Neither positive nor negative: between the thresholds, or no candidate; takes part in no loss."""


def match_boxes(
    gt_boxes: Float[Tensor, "B G 4"],
    gt_labels: Int[Tensor, "B G"],
    references: Float[Tensor, "#B N 4"],
    *,
    fg_iou: float,
    bg_iou: float,
    keeps_best: bool,
    is_candidate: Bool[Tensor, "B N"] | None = None,
    pairs_at_once: int = PAIRS_AT_ONCE,
) -> Matches:
    """Match references to true boxes by IoU.

    Args:
        gt_boxes: true boxes, in slots.
        gt_labels: rows with a negative label are padding and never match.
        references: one set for each image, or one for all.
        fg_iou: positive from this IoU on.
        bg_iou: negative below this IoU.
        keeps_best: a reference with the highest IoU of some true box (ties included) is positive whatever
            its IoU, and answers for its own best box. A true box that no reference touches keeps none.
        is_candidate: references that count; the others are neither positive nor negative.
        pairs_at_once: bound of memory.

    Source: Faster R-CNN (Ren et al., 2015), section 3.1.2; torchvision's Matcher.
    """
    num_images, num_slots = gt_labels.shape
    num_references = references.shape[1]
    shape = (num_images, num_references)
    best_iou = references.new_full(shape, -1.0)
    best_index = gt_labels.new_zeros(shape)
    is_best = gt_labels.new_zeros(shape, dtype=torch.bool)
    slots = max(1, pairs_at_once // max(1, num_images * num_references))
    for first in range(0, num_slots, slots):
        is_real = gt_labels[:, first : first + slots, None] >= 0
        iou = box_iou(gt_boxes[:, first : first + slots], references.expand(num_images, -1, -1))
        iou.masked_fill_(~is_real, -1.0)
        values, index = iou.max(dim=1)
        is_better = values > best_iou
        best_iou = torch.where(is_better, values, best_iou)
        best_index = torch.where(is_better, index + first, best_index)
        if keeps_best and num_references:
            if is_candidate is not None:
                iou.masked_fill_(~is_candidate[:, None, :], -1.0)
            highest = iou.amax(dim=2, keepdim=True)
            is_best |= ((iou == highest) & (highest > 0)).any(dim=1)
    is_positive = (best_iou >= fg_iou) | is_best
    is_negative = (best_iou < bg_iou) & ~is_positive
    if is_candidate is not None:
        is_positive, is_negative = is_positive & is_candidate, is_negative & is_candidate
    return Matches(gt_index=best_index, is_positive=is_positive, is_negative=is_negative)
