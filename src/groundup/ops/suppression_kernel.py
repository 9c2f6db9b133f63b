"""Greedy suppression as one Triton kernel: a program for each group, with all its boxes in registers.

Imported where there is a GPU and Triton; with `TRITON_INTERPRET=1` it runs on a CPU, as in tests.
A program reads memory that none writes, and writes its own answers once at the end: there is nothing to
race for. Boxes of a group take turns; each turn is one comparison of all boxes with one.

Legend:
    G  groups     N  boxes a group
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

WARP_BOXES = 512
"""Boxes that one warp of 32 threads holds: 16 a thread, some 100 registers."""
MOST_WARPS = 16
"""Warps of a program at most; Triton allows 32."""


@triton.jit  # type: ignore[untyped-decorator]
def suppress(boxes, candidates, kept, num, threshold, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write 1 for each box of this program's group that survives, 0 for the others.

    Sides, areas and quotients are rounded one by one, as torchvision's CPU kernel rounds them.
    """
    group = tl.program_id(0)
    place = tl.arange(0, width)
    is_real = place < num
    first = boxes + group.to(tl.int64) * num * 4
    x1 = tl.load(first + place * 4, mask=is_real, other=0.0)
    y1 = tl.load(first + place * 4 + 1, mask=is_real, other=0.0)
    x2 = tl.load(first + place * 4 + 2, mask=is_real, other=0.0)
    y2 = tl.load(first + place * 4 + 3, mask=is_real, other=0.0)
    area = (x2 - x1) * (y2 - y1)
    own = group.to(tl.int64) * num
    alive = tl.load(candidates + own + place, mask=is_real, other=0).to(tl.int32)
    for turn in range(num):
        if tl.sum(tl.where(place == turn, alive, 0), axis=0) > 0:
            u1 = tl.load(first + turn * 4)
            v1 = tl.load(first + turn * 4 + 1)
            u2 = tl.load(first + turn * 4 + 2)
            v2 = tl.load(first + turn * 4 + 3)
            across = tl.maximum(tl.minimum(x2, u2) - tl.maximum(x1, u1), 0.0)
            down = tl.maximum(tl.minimum(y2, v2) - tl.maximum(y1, v1), 0.0)
            overlap = across * down
            union = (u2 - u1) * (v2 - v1) + area - overlap
            is_covered = (place > turn) & (tl.div_rn(overlap, union) > threshold)
            alive = tl.where(is_covered, 0, alive)
    tl.store(kept + own + place, alive.to(tl.int8), mask=is_real)


def launch(boxes: Tensor, is_candidate: Tensor, threshold: float) -> Tensor:
    """The mask (G, N) of the boxes (G, N, 4) that survive among the candidates (G, N), best first."""
    num_groups, num = is_candidate.shape
    kept = torch.zeros((num_groups, num), dtype=torch.int8, device=boxes.device)
    if num_groups and num:
        width = triton.next_power_of_2(num)
        suppress[(num_groups,)](
            boxes.float(),
            is_candidate.to(torch.int8),
            kept,
            num,
            threshold,
            width=width,
            num_warps=max(1, min(MOST_WARPS, width // WARP_BOXES)),
            enable_fp_fusion=False,
        )
    return kept.bool()
