"""Boxes that agree vote on where the object ends.

Legend:
    N  boxes     M  voters
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.ops.boxes import box_iou


def vote_boxes(
    boxes: Float[Tensor, "N 4"],
    labels: Int[Tensor, " N"],
    voters: Float[Tensor, "M 4"],
    voter_scores: Float[Tensor, " M"],
    voter_labels: Int[Tensor, " M"],
    iou: float,
) -> Float[Tensor, "N 4"]:
    """Each box moved to the mean of its class's voters that overlap it enough, weighted by their scores.

    A box that no voter overlaps stays where it is.

    Args:
        boxes: what survived suppression; their scores do not change.
        labels: of the boxes.
        voters: what suppression chose from.
        voter_scores: above 0.
        voter_labels: of the voters.
        iou: least overlap of a voter.

    Source: Gidaris and Komodakis (2015), section 4; Detectron, `box_voting` with scoring method ID.
    """
    agrees = (box_iou(boxes, voters) >= iou) & (labels[:, None] == voter_labels)
    weights = torch.where(agrees, voter_scores, 0.0).double()
    total = weights.sum(dim=1, keepdim=True)
    means = (weights @ voters.double() / total.clamp(min=torch.finfo(torch.float64).tiny)).to(boxes.dtype)
    return torch.where(total > 0, means, boxes)
