"""Box arithmetic, on whole batches.

Boxes are (x1, y1, x2, y2) in pixels, half-open. The order of operations follows torchvision's, so that
results agree with it to the last bits.

Legend:
    B  images          N, M  boxes
    *b any leading axes
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)
"""Largest log width or height change a delta may ask for. Source: Detectron, `BBOX_XFORM_CLIP`."""

BoxWeights = tuple[float, float, float, float]
"""What each of (dx, dy, dw, dh) is multiplied by when encoded, so that targets have unit variance."""


def box_area(boxes: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b"]:
    """Areas in square pixels; negative sides are the caller's."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(first: Float[Tensor, "*b N 4"], second: Float[Tensor, "*#b M 4"]) -> Float[Tensor, "*b N M"]:
    """Intersection over union of every pair; 0 where neither box has area."""
    x1, y1, x2, y2 = first[..., :, None, :].unbind(-1)
    u1, v1, u2, v2 = second[..., None, :, :].unbind(-1)
    overlap = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp_(min=0)
    overlap *= (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp_(min=0)
    union = box_area(first)[..., :, None] + box_area(second)[..., None, :]
    union -= overlap
    # Padding has no area: a tiny denominator makes 0 of 0/0 and changes no box of a real size.
    return overlap.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def encode_deltas(
    boxes: Float[Tensor, "*b 4"], references: Float[Tensor, "*b 4"], weights: BoxWeights
) -> Float[Tensor, "*b 4"]:
    """(dx, dy, dw, dh) that move the references onto the boxes; the inverse of `decode_deltas`.

    Boxes and references need positive sides, otherwise the deltas are not finite.

    Source: R-CNN (Girshick et al., 2014), appendix C.
    """
    sizes = references[..., 2:] - references[..., :2]
    box_sizes = boxes[..., 2:] - boxes[..., :2]
    shifts = (boxes[..., :2] + 0.5 * box_sizes) - (references[..., :2] + 0.5 * sizes)
    wx, wy, ww, wh = weights
    shifts, logs = times(shifts, wx, wy) / sizes, times(torch.log(box_sizes / sizes), ww, wh)
    return torch.cat([shifts, logs], dim=-1)


def times(pairs: Float[Tensor, "*b 2"], first: float, second: float) -> Float[Tensor, "*b 2"]:
    """Pairs with each part multiplied by its number, without a copy from the host to a GPU."""
    return torch.stack([pairs[..., 0] * first, pairs[..., 1] * second], dim=-1)


def decode_deltas(
    deltas: Float[Tensor, "*b 4"], references: Float[Tensor, "*b 4"], weights: BoxWeights
) -> Float[Tensor, "*b 4"]:
    """Boxes that the deltas make of their references; the inverse of `encode_deltas`.

    Changes of size are limited to `MAX_LOG_SCALE`, so that an untrained network cannot overflow.

    Source: R-CNN (Girshick et al., 2014), appendix C.
    """
    sizes = references[..., 2:] - references[..., :2]
    centres = references[..., :2] + 0.5 * sizes
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas.unbind(-1), weights, strict=True))
    centres = torch.stack([dx, dy], dim=-1) * sizes + centres
    halves = 0.5 * (torch.stack([dw, dh], dim=-1).clamp(max=MAX_LOG_SCALE).exp() * sizes)
    return torch.cat([centres - halves, centres + halves], dim=-1)


def clip_boxes(boxes: Float[Tensor, "B N 4"], sizes: Int[Tensor, "B 2"]) -> Float[Tensor, "B N 4"]:
    """The parts of the boxes that lie inside each image; sizes are (height, width)."""
    limits = sizes.flip(-1).repeat(1, 2)[:, None, :].to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limits)


def has_min_side(boxes: Float[Tensor, "*b 4"], min_side: float) -> Bool[Tensor, "*b"]:
    """Whether both sides are at least so many pixels; NaN boxes have none."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= min_side).all(dim=-1)


def is_inside(boxes: Float[Tensor, "N 4"], sizes: Int[Tensor, "B 2"]) -> Bool[Tensor, "B N"]:
    """Whether each box lies wholly inside each image."""
    limits = sizes.flip(-1)[:, None, :].to(boxes.dtype)
    return (boxes[:, :2] >= 0).all(dim=-1) & (boxes[:, 2:] <= limits).all(dim=-1)


def scale_boxes(
    boxes: Float[Tensor, "N 4"], sizes: Int[Tensor, "N 2"], new_sizes: Int[Tensor, "N 2"]
) -> Float[Tensor, "N 4"]:
    """Boxes of images of the sizes, in the pixels of the same images at the new sizes (height, width)."""
    ratios = new_sizes.to(boxes.dtype) / sizes.to(boxes.dtype)
    return boxes * ratios.flip(-1).repeat(1, 2)
