"""How losses are summed: per image first, then over the group of images that one device would hold.

A loss is kept as per-image sums and per-image counts and divided within groups of consecutive images, so
that gradient accumulation and several processes give exactly the big batch's loss.

Legend:
    B  images     *s  any axes of a target
"""

import torch.nn.functional as F  # noqa: N812 - the name the field uses
from jaxtyping import Float
from torch import Tensor

from groundup.ops.precision import in_full_precision


def normalise_loss(
    sums: Float[Tensor, " B"], counts: Float[Tensor, " B"], group_size: int
) -> Float[Tensor, ""]:
    """Mean over groups of (sum of the group's sums) / (sum of its counts); a group without counts gives 0.

    Args:
        sums: of each image's losses.
        counts: by which they are divided, of each image.
        group_size: consecutive images that are divided by one count; the last group may be smaller.
    """
    return (group_sums(sums, group_size) / group_sums(counts, group_size).clamp(min=1)).mean()


def group_sums(values: Float[Tensor, " B"], group_size: int) -> Float[Tensor, " groups"]:
    """Sum over each group of so many consecutive images; the last group may be smaller."""
    group_size = min(group_size, len(values))
    return F.pad(values, (0, -len(values) % group_size)).view(-1, group_size).sum(dim=1)


def smooth_l1(
    predicted: Float[Tensor, "*s"], target: Float[Tensor, "*s"], beta: float
) -> Float[Tensor, "*s"]:
    """Quadratic up to `beta`, linear beyond; beta 0 is L1. Source: Fast R-CNN (Girshick, 2015), eq. 3."""
    return F.smooth_l1_loss(in_full_precision(predicted), target, reduction="none", beta=beta)
