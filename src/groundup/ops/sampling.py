"""Random choice without a random state: a hash of who asks, so restarts and batch grouping change nothing.

Legend:
    B  images     N  candidates an image     R  slots an image
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name the field uses
from jaxtyping import Bool, Int
from torch import Tensor

ANCHOR_STREAM = 1
"""Stream of the choice of anchors for the RPN's losses."""
ROI_STREAM = 2
"""Stream of the choice of RoIs for the heads' losses."""

GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - 2**64
"""Increment of SplitMix64, as a signed number. Source: Steele, Lea and Flood (2014)."""
FIRST_FACTOR = 0xBF58476D1CE4E5B9 - 2**64
SECOND_FACTOR = 0x94D049BB133111EB - 2**64
"""Multipliers of SplitMix64's finaliser (Stafford's variant 13). Source: as above."""
SHIFTS = (30, 27, 31)
"""Shifts of SplitMix64's finaliser. Source: as above."""
KEY_MASK = 2**62 - 1
"""Keys keep 62 bits: not negative, and with room for a flag above them."""


def mix_bits(values: Int[Tensor, "*b"]) -> Int[Tensor, "*b"]:
    """A one-to-one scrambling of 64-bit integers; products wrap round.

    Source: finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    for shift, factor in zip(SHIFTS, (FIRST_FACTOR, SECOND_FACTOR, None), strict=True):
        # The shift of a signed number repeats its sign; the mask makes it the unsigned one.
        values = values ^ ((values >> shift) & ((1 << (64 - shift)) - 1))
        if factor is not None:
            values = values * factor
    return values


def random_keys(seeds: Int[Tensor, " B"], codes: Int[Tensor, "#B N"], stream: int) -> Int[Tensor, "B N"]:
    """Uniform 62-bit keys, a pure function of (seed, stream, code).

    Args:
        seeds: of each image.
        codes: names of the candidates, different from one another within an image.
        stream: one number for each use, so that uses are independent.
    """
    starts = mix_bits(mix_bits(seeds.to(torch.int64)) + stream)
    return mix_bits(starts[:, None] + codes * GOLDEN_GAMMA) & KEY_MASK


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A fixed number of candidates of each image, positives first."""

    index: Int[Tensor, "B R"]
    """Rows of the candidates; 0 in slots that are not filled."""
    is_filled: Bool[Tensor, "B R"]
    is_positive: Bool[Tensor, "B R"]


def choose_balanced(
    is_positive: Bool[Tensor, "B N"],
    is_negative: Bool[Tensor, "B N"],
    keys: Int[Tensor, "B N"],
    *,
    num_slots: int,
    max_positives: int,
) -> Chosen:
    """At random up to `max_positives` positives of each image, and negatives until the slots are full.

    Too few positives are made up for by negatives; too few negatives leave slots empty.

    Source: Fast R-CNN (Girshick, 2015), section 2.3; torchvision's BalancedPositiveNegativeSampler.
    """
    positives, positive_count = choose_highest(keys, is_positive, max_positives)
    negatives, negative_count = choose_highest(keys, is_negative, num_slots)
    slot = torch.arange(num_slots, device=keys.device).expand(len(keys), -1)
    is_first = slot < positive_count
    is_filled = slot < positive_count + negative_count
    rank = (slot - positive_count).clamp(min=0)
    index = negatives.gather(1, rank)
    if max_positives:
        chosen = positives.gather(1, slot.clamp(max=max_positives - 1))
        index = torch.where(is_first, chosen, index)
    return Chosen(index=index.masked_fill(~is_filled, 0), is_filled=is_filled, is_positive=is_first)


def choose_highest(
    keys: Int[Tensor, "B N"], is_eligible: Bool[Tensor, "B N"], num: int
) -> tuple[Int[Tensor, "B R"], Int[Tensor, "B 1"]]:
    """Rows of the eligible candidates with the highest keys, and how many there are (at most `num`)."""
    values, index = keys.masked_fill(~is_eligible, -1).topk(min(num, keys.shape[1]), dim=1)
    count = (values >= 0).sum(dim=1, keepdim=True)
    return F.pad(index, (0, num - index.shape[1])), count
