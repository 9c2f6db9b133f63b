"""Greedy non-maximum suppression that answers with a mask: as many answers as boxes, whatever they are.

`ops.roi.nms` gives the rows that survive, and how many they are must be known before anything can follow: a
GPU is waited for. Here shapes never depend on the data, so a step can be compiled, captured and repeated. The
same boxes survive.

On a GPU this is one kernel (`ops.suppression_kernel`), where Triton is at hand; without it, and on the CPU,
it is torchvision's, group by group, behind the same operator.

Legend:
    G  groups     N  boxes a group
"""

import importlib.util
import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from groundup.ops.roi import nms


def survivors(
    boxes: Float[Tensor, "G N 4"], is_candidate: Bool[Tensor, "G N"], threshold: float
) -> Bool[Tensor, "G N"]:
    """Which boxes survive greedy suppression within each group.

    Args:
        boxes: best first.
        is_candidate: boxes that count; the others neither survive nor suppress.
        threshold: IoU above which the later box goes.

    Source: as torchvision's `nms`, whose survivors these are, bit for bit.
    """
    kept: Tensor = torch.ops.groundup.survivors(boxes, is_candidate, threshold)
    return kept


@torch.library.custom_op("groundup::survivors", mutates_args=())
def _survivors(boxes: Tensor, is_candidate: Tensor, threshold: float) -> Tensor:
    if boxes.is_cuda and has_kernel():
        from groundup.ops.suppression_kernel import launch

        return launch(boxes.contiguous(), is_candidate.contiguous(), floor_to_single(threshold))
    flat = is_candidate.flatten().nonzero()[:, 0]
    num_groups, num = is_candidate.shape
    ranks = -(flat % num).to(boxes.dtype)  # the order that the boxes are given in
    kept = nms(boxes.flatten(0, 1)[flat], ranks, flat // num, threshold)
    mask = torch.zeros(num_groups * num, dtype=torch.bool, device=boxes.device)
    mask[flat[kept]] = True
    return mask.view(num_groups, num)


@_survivors.register_fake
def _(boxes: Tensor, is_candidate: Tensor, threshold: float) -> Tensor:  # noqa: ARG001
    return torch.empty_like(is_candidate)


def has_kernel() -> bool:
    """Whether suppression on a GPU is one kernel that nothing waits for; it is written in Triton."""
    return importlib.util.find_spec("triton") is not None


def floor_to_single(threshold: float) -> float:
    """The largest float32 that is not above the number.

    torchvision compares a float32 IoU with a double; with this number both comparisons come out alike.
    """
    single = np.float32(threshold)
    return float(np.nextafter(single, np.float32(-math.inf)) if float(single) > threshold else single)
