"""Proposals: which of the first stage's boxes the second one looks at, after suppression.

Two ways that give the same: one works on real boxes only and must know how many there are, the other on a
fixed number of slots, in shapes that never depend on the boxes.

Legend:
    B  images     L  levels     C  best-scored boxes a level     K  proposals an image
    N  boxes of all levels
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name the field uses
from jaxtyping import Bool, Float
from torch import Tensor

from groundup.ops.roi import nms, ranks_within
from groundup.ops.suppression import survivors

SlotKind = Literal["real", "fixed"]
"""real: heads see only RoIs that exist, which saves work and on a GPU waits for the device; fixed: heads see
every slot, empty ones with weight 0, so shapes never change and a step can be captured. Equal losses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """A fixed number of slots of each image, best first; what fills them carries no gradient."""

    boxes: Float[Tensor, "B K 4"]
    scores: Float[Tensor, "B K"]
    is_filled: Bool[Tensor, "B K"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tops:
    """The best-scored boxes of each level, best first; levels with fewer places are filled up."""

    boxes: Float[Tensor, "B L C 4"]
    scores: Float[Tensor, "B L C"]
    """Probabilities."""
    ranks: Float[Tensor, "B L C"]
    """What boxes are ranked by."""
    is_candidate: Bool[Tensor, "B L C"]


def choose_real(tops: Tops, threshold: float, num: int, shared: int | None) -> Proposals:
    """So many of the best boxes of each image after suppression within each level.

    Only real boxes are worked on, and on a GPU their number is waited for.

    Args:
        tops: of each level.
        threshold: IoU above which the lower-scored box goes.
        num: slots of an image.
        shared: consecutive images that share that number; None: each image has it for itself.
    """
    num_images, num_levels, num_boxes = tops.scores.shape
    rows = tops.is_candidate.flatten().nonzero()[:, 0]
    boxes, scores = tops.boxes.flatten(0, 2)[rows], tops.scores.flatten()[rows]
    best = nms(boxes, tops.ranks.flatten()[rows], rows // num_boxes, threshold)
    image_of = rows // (num_levels * num_boxes)
    if shared is not None:
        best = best[ranks_within(image_of[best] // shared, num_images) < num]
    # The kernel's output has as many rows as boxes survive: it is spread over fixed slots again, with
    # one slot more for the surplus.
    slot = ranks_within(image_of[best], num_images).clamp(max=num)
    place = image_of[best] * (num + 1) + slot
    num_places = num_images * (num + 1)
    spread = boxes.new_zeros((num_places, 5))
    spread[place] = torch.cat([boxes[best], scores[best, None]], dim=1)
    is_filled = torch.zeros(num_places, dtype=torch.bool, device=boxes.device)
    is_filled[place] = True
    spread = spread.view(-1, num + 1, 5)[:, :-1]
    return Proposals(
        boxes=spread[..., :4], scores=spread[..., 4], is_filled=is_filled.view(-1, num + 1)[:, :-1]
    )


def choose_fixed(tops: Tops, threshold: float, num: int, shared: int | None) -> Proposals:
    """The same proposals as `choose_real`, by steps whose shapes never depend on the boxes."""
    # Levels are ranked again: rounding may let a probability's order differ from its logit's.
    ranks = tops.ranks.masked_fill(~tops.is_candidate, -torch.inf)
    ranks, order = ranks.sort(dim=2, descending=True, stable=True)
    boxes = tops.boxes.gather(2, order[..., None].expand(-1, -1, -1, 4))
    scores, is_candidate = tops.scores.gather(2, order), tops.is_candidate.gather(2, order)
    is_kept = survivors(boxes.flatten(0, 1), is_candidate.flatten(0, 1), threshold).view_as(is_candidate)
    ranks = ranks.masked_fill(~is_kept, -torch.inf).flatten(1)
    if shared is not None:
        ranks = ranks.masked_fill(~is_among_best(ranks, num, shared), -torch.inf)
    best, order = ranks.sort(dim=1, descending=True, stable=True)
    best, order = best[:, :num], order[:, :num]
    missing = num - order.shape[1]
    best, order = F.pad(best, (0, missing), value=-torch.inf), F.pad(order, (0, missing))
    is_filled = best > -torch.inf
    chosen = boxes.flatten(1, 2).gather(1, order[..., None].expand(-1, -1, 4))
    return Proposals(
        boxes=torch.where(is_filled[..., None], chosen, 0.0),
        scores=torch.where(is_filled, scores.flatten(1).gather(1, order), 0.0),
        is_filled=is_filled,
    )


def is_among_best(ranks: Float[Tensor, "B N"], num: int, shared: int) -> Bool[Tensor, "B N"]:
    """Whether each is among the `num` best of its `shared` consecutive images, the first of equals."""
    num_images = len(ranks)
    joined = F.pad(ranks, (0, 0, 0, -num_images % shared), value=-torch.inf).view(-1, shared * ranks.shape[1])
    order = joined.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    place = torch.empty_like(order).scatter_(1, order, places)
    return (place < num).view(-1, ranks.shape[1])[:num_images]
