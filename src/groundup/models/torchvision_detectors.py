"""torchvision's R-CNN weights under our names, so that a detector of theirs can be a start of ours.

They count background as class 0 and predict a box and a mask for it; ours is the last class and has neither.
The presets `torchvision` and `torchvision_v2` of `models.presets` build the detectors these weights fit.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from groundup.errors import DataError

OLD_NAMES = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
)
OLD_MASK_NAME = r"roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)"
"""Names of before torchvision 0.12, and what they became; layers of the mask head were counted from 1. The
published weights of the plain detectors still have them."""

NAMES = (
    (r"backbone\.body\.(.+)", r"backbone.body.\1"),
    (r"backbone\.fpn\.inner_blocks\.(.+)", r"fpn.laterals.\1"),
    (r"backbone\.fpn\.layer_blocks\.(.+)", r"fpn.outputs.\1"),
    (r"rpn\.head\.conv\.(.+)", r"rpn.convs.\1"),
    (r"rpn\.head\.cls_logits\.(.+)", r"rpn.objectness.\1"),
    (r"rpn\.head\.bbox_pred\.(.+)", r"rpn.deltas.\1"),
    (r"roi_heads\.box_head\.fc6\.(.+)", r"box_head.fcs.0.\1"),
    (r"roi_heads\.box_head\.fc7\.(.+)", r"box_head.fcs.2.\1"),
    (r"roi_heads\.box_head\.(\d\.\d\..+)", r"box_head.convs.\1"),
    (r"roi_heads\.box_head\.5\.(.+)", r"box_head.fcs.0.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(.+)", r"box_head.classes.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(.+)", r"box_head.deltas.\1"),
    (r"roi_heads\.mask_head\.(.+)", r"mask_head.convs.\1"),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(.+)", r"mask_head.upsample.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(.+)", r"mask_head.masks.\1"),
    (r"roi_heads\.keypoint_predictor\.kps_score_lowres\.(.+)", r"keypoint_head.deconv.\1"),
)
"""Their names and ours, as patterns of whole names. Layer 5 of a 4conv1fc box head is the
fully connected one. Source: torchvision 0.29, `models/detection/{faster_rcnn,mask_rcnn,keypoint_rcnn}.py`."""
KEYPOINT_CONV = re.compile(r"roi_heads\.keypoint_head\.(\d+)\.(.+)")
"""Convolutions of its keypoint head, which counts the ReLU after each as a layer too."""


def detector_from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dictionary of ours that makes the same detector.

    Raises:
        DataError: a name that no R-CNN of torchvision has.
    """
    converted = {}
    for name, values in state.items():
        ours = rename(name)
        if ours.startswith("box_head.classes."):
            converted[ours] = torch.cat([values[1:], values[:1]])
        elif ours.startswith("box_head.deltas."):
            converted[ours] = values[4:]
        elif ours.startswith("mask_head.masks."):
            converted[ours] = values[1:]
        else:
            converted[ours] = values
    return converted


def is_torchvision_detector(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are tensors of an R-CNN of torchvision."""
    return "roi_heads.box_predictor.cls_score.weight" in tensors and any(
        name.startswith(("backbone.body.", "backbone.fpn.")) for name in tensors
    )


def renewed(name: str) -> str:
    """The name that torchvision gives the tensor today."""
    for pattern, replacement in OLD_NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    if match := re.fullmatch(OLD_MASK_NAME, name):
        return f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}"
    return name


def our_name(name: str) -> str | None:
    """Our name of one of torchvision's tensors; None where ours have no such part."""
    if conv := KEYPOINT_CONV.fullmatch(name):
        return f"keypoint_head.convs.{int(conv[1]) // 2}.0.{conv[2]}"
    name = renewed(name)
    for pattern, replacement in NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return None


def rename(name: str) -> str:
    """Our name of one of torchvision's tensors.

    Raises:
        DataError: no R-CNN of torchvision has it.
    """
    ours = our_name(name)
    if ours is not None:
        return ours
    raise DataError(
        f"tensor '{name}' belongs to no Faster, Mask or Keypoint R-CNN of torchvision; give the state "
        "dictionary of one, such as maskrcnn_resnet50_fpn"
    )
