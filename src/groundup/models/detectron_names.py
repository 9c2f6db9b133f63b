"""Detectron's and Detectron2's weights under our names: backbones, and detectors on a feature pyramid.

What differs besides names, and is undone here:

- both trained on BGR: the first convolution's input channels are turned round;
- Detectron counts background as class 0 and predicts a box and a mask for it; Detectron2 has it last, as
  ours;
- Detectron folds batch norm into a scale and a shift, which become statistics of mean 0 and variance 1;
- Detectron2 counts several anchors of one map with sizes slowest; Detectron and ours with ratios slowest.

What a file does not say: the deviation of its pixels, and whether the stride of a bottleneck is on the 1x1
convolution (`NOTES`). Deltas are (dx, dy, dw, dh) in all of them.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from groundup.models.norm import BN_EPS

DETECTRON_MARK = "res2_0_branch2a_w"
DETECTRON2_MARK = r"(backbone\.)?(bottom_up\.)?res2\.0\.conv1\.weight"
"""A tensor that every network of the layout has."""
NUM_RATIOS = 3
"""Height to width 0.5, 1 and 2. Source: both, `RPN.ASPECT_RATIOS`, `ANCHOR_GENERATOR.ASPECT_RATIOS`."""
FIRST_LEVEL = 2
"""Level of the finest map of a pyramid, and stage after the stem."""
BIAS_AND_WEIGHT = {"w": "weight", "b": "bias", "s": "weight"}

NOTES = (
    "trained on BGR: the first convolution's channels were turned round, start.pixel_mean and pixel_std are "
    "of RGB",
    "the file does not say its PIXEL_STD: Detectron's own and Detectron2's R-50 and R-101 of MSRA have 1 "
    "(start.pixel_std=[0.0039216,0.0039216,0.0039216]), its 32x8d and torchvision's have ImageNet's",
    "the file does not say STRIDE_IN_1X1: it is true of the MSRA R-50 and R-101 "
    "(model.backbone.stride_in_1x1=true), false of GN, 32x8d and torchvision's",
)
"""What the user of such a file must know."""

# Their names after `backbone.bottom_up.`, to timm's.
BACKBONE_NAMES = (
    (r"stem\.conv1\.norm\.(\w+)", r"bn1.\1"),
    (r"stem\.conv1\.(weight)", r"conv1.\1"),
    (r"res(\d)\.(\d+)\.shortcut\.norm\.(\w+)", r"layer\1.\2.downsample.1.\3"),
    (r"res(\d)\.(\d+)\.shortcut\.(weight)", r"layer\1.\2.downsample.0.\3"),
    (r"res(\d)\.(\d+)\.conv(\d)\.norm\.(\w+)", r"layer\1.\2.bn\3.\4"),
    (r"res(\d)\.(\d+)\.conv(\d)\.(weight)", r"layer\1.\2.conv\3.\4"),
)
# Detectron2's other names to ours; numbers of levels and of layers are counted down afterwards.
HEAD_NAMES = (
    (r"backbone\.fpn_lateral(\d)\.norm\.(\w+)", r"fpn.laterals.<\1>.1.\2"),
    (r"backbone\.fpn_lateral(\d)\.(\w+)", r"fpn.laterals.<\1>.0.\2"),
    (r"backbone\.fpn_output(\d)\.norm\.(\w+)", r"fpn.outputs.<\1>.1.\2"),
    (r"backbone\.fpn_output(\d)\.(\w+)", r"fpn.outputs.<\1>.0.\2"),
    (r"proposal_generator\.rpn_head\.conv\.conv(\d)\.(\w+)", r"rpn.convs.\1.0.\2"),
    (r"proposal_generator\.rpn_head\.conv\.(weight|bias)", r"rpn.convs.0.0.\1"),
    (r"proposal_generator\.rpn_head\.objectness_logits\.(\w+)", r"rpn.objectness.\1"),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.(\w+)", r"rpn.deltas.\1"),
    (r"roi_heads\.box_head\.conv(\d)\.norm\.(\w+)", r"box_head.convs.{\1}.1.\2"),
    (r"roi_heads\.box_head\.conv(\d)\.(\w+)", r"box_head.convs.{\1}.0.\2"),
    (r"roi_heads\.box_head\.fc1\.(\w+)", r"box_head.fcs.0.\1"),
    (r"roi_heads\.box_head\.fc2\.(\w+)", r"box_head.fcs.2.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(\w+)", r"box_head.classes.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(\w+)", r"box_head.deltas.\1"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.norm\.(\w+)", r"mask_head.convs.{\1}.1.\2"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.(\w+)", r"mask_head.convs.{\1}.0.\2"),
    (r"roi_heads\.mask_head\.deconv\.(\w+)", r"mask_head.upsample.\1"),
    (r"roi_heads\.mask_head\.predictor\.(\w+)", r"mask_head.masks.\1"),
    (r"roi_heads\.keypoint_head\.conv_fcn(\d)\.(\w+)", r"keypoint_head.convs.{\1}.0.\2"),
    (r"roi_heads\.keypoint_head\.score_lowres\.(\w+)", r"keypoint_head.deconv.\1"),
)
"""Source: detectron2, `modeling/{backbone/fpn,backbone/resnet,proposal_generator/rpn,roi_heads/*}.py`."""

CASCADE_NAME = re.compile(r"roi_heads\.box_(head|predictor)\.(\d)\.(.+)")
"""Of a tensor of a cascade's stage, which stands between the part and the layer. Stage 0 is our box head, the
others those of our cascade. Source: detectron2, `modeling/roi_heads/cascade_rcnn.py`."""

# Detectron's blobs to Detectron2's names, without their last part (w, b, s).
BLOB_NAMES = (
    (r"conv1(_gn)?", r"backbone.bottom_up.stem.conv1\1"),
    (r"res_conv1(_bn)", r"backbone.bottom_up.stem.conv1\1"),
    (r"res(\d)_(\d+)_branch1(_bn|_gn)?", r"backbone.bottom_up.res\1.\2.shortcut\3"),
    (r"res(\d)_(\d+)_branch2a(_bn|_gn)?", r"backbone.bottom_up.res\1.\2.conv1\3"),
    (r"res(\d)_(\d+)_branch2b(_bn|_gn)?", r"backbone.bottom_up.res\1.\2.conv2\3"),
    (r"res(\d)_(\d+)_branch2c(_bn|_gn)?", r"backbone.bottom_up.res\1.\2.conv3\3"),
    (r"fpn_inner_res(\d)_\d+_sum(?:_lateral)?(_gn)?", r"backbone.fpn_lateral\1\2"),
    (r"fpn_res(\d)_\d+_sum(_gn)?", r"backbone.fpn_output\1\2"),
    (r"conv_rpn(?:_fpn2)?", r"proposal_generator.rpn_head.conv"),
    (r"rpn_cls_logits(?:_fpn2)?", r"proposal_generator.rpn_head.objectness_logits"),
    (r"rpn_bbox_pred(?:_fpn2)?", r"proposal_generator.rpn_head.anchor_deltas"),
    (r"head_conv(\d)(_gn)?", r"roi_heads.box_head.conv\1\2"),
    (r"fc6", r"roi_heads.box_head.fc1"),
    (r"fc7", r"roi_heads.box_head.fc2"),
    (r"cls_score", r"roi_heads.box_predictor.cls_score"),
    (r"bbox_pred", r"roi_heads.box_predictor.bbox_pred"),
    (r"_(?:\[mask\]|mask)_fcn(\d)(_gn)?", r"roi_heads.mask_head.mask_fcn\1\2"),
    (r"conv5_mask", r"roi_heads.mask_head.deconv"),
    (r"mask_fcn_logits", r"roi_heads.mask_head.predictor"),
    (r"conv_fcn(\d)", r"roi_heads.keypoint_head.conv_fcn\1"),
    (r"kps_score_lowres", r"roi_heads.keypoint_head.score_lowres"),
)
"""Source: Detectron, `modeling/{ResNet,FPN}.py` and `modeling/*_heads.py`."""


def is_detectron(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are blobs of Detectron."""
    return DETECTRON_MARK in tensors


def is_detectron2(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are tensors of Detectron2."""
    return any(re.fullmatch(DETECTRON2_MARK, name) for name in tensors)


def detectron2_from_detectron(blobs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as Detectron2 would keep them; what has no place there keeps its name."""
    converted: dict[str, Tensor] = {}
    for blob, values in blobs.items():
        name = blob_name(blob)
        if name.startswith("roi_heads.box_predictor.cls_score."):
            converted[name] = torch.cat([values[1:], values[:1]])
        elif name.startswith("roi_heads.box_predictor.bbox_pred."):
            converted[name] = values[4:]
        elif name.startswith("roi_heads.mask_head.predictor."):
            converted[name] = values[1:]
        else:
            converted[name] = values
        if blob.endswith("_bn_s"):
            norm = name.removesuffix("weight")
            # A folded norm divides by 1: its variance and the eps that is added make 1 together.
            converted[f"{norm}running_mean"] = torch.zeros_like(values)
            converted[f"{norm}running_var"] = torch.full_like(values, 1 - BN_EPS)
    return converted


def blob_name(blob: str) -> str:
    """Detectron2's name of one of Detectron's blobs, or the blob's own where it has none."""
    stem, _, leaf = blob.rpartition("_")
    for pattern, replacement in BLOB_NAMES:
        match = re.fullmatch(pattern, stem)
        if match and leaf in BIAS_AND_WEIGHT:
            name = re.sub(r"_[bg]n$", ".norm", match.expand(replacement))
            return f"{name}.{BIAS_AND_WEIGHT[leaf]}"
    return blob


def detector_from_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under our names, a bare backbone's too; what has no place in ours keeps its name."""
    converted = {}
    for name, values in state.items():
        ours = our_name(name)
        if ours == "backbone.body.conv1.weight":
            converted[ours] = values.flip(1)
        elif ours.startswith("rpn."):
            converted[ours] = ratios_slowest(ours, values)
        else:
            converted[ours] = values
    return converted


def our_name(name: str) -> str:
    """Our name of one of Detectron2's tensors, or its own where ours has none."""
    if stage := CASCADE_NAME.fullmatch(name):
        ours = our_name(f"roi_heads.box_{stage[1]}.{stage[3]}")
        number = int(stage[2])
        if not ours.startswith("box_head."):
            return name
        return ours if number == 0 else f"cascade.heads.{number - 1}.{ours.removeprefix('box_head.')}"
    inner = re.sub(r"^(backbone\.)?(bottom_up\.)?", "", name)
    for pattern, replacement in BACKBONE_NAMES:
        if match := re.fullmatch(pattern, inner):
            timm_name = match.expand(replacement)
            return "backbone.body." + re.sub(
                r"^layer(\d)", lambda stage: f"layer{int(stage[1]) - FIRST_LEVEL + 1}", timm_name
            )
    for pattern, replacement in HEAD_NAMES:
        if match := re.fullmatch(pattern, name):
            ours = match.expand(replacement)
            ours = re.sub(r"<(\d)>", lambda level: str(int(level[1]) - FIRST_LEVEL), ours)
            return re.sub(r"\{(\d)\}", lambda layer: str(int(layer[1]) - 1), ours)
    return name


def ratios_slowest(name: str, values: Tensor) -> Tensor:
    """A predictor's rows, sizes slowest, in our order of anchors; nothing changes with one size a level."""
    width = {"rpn.objectness": 1, "rpn.deltas": 4}.get(name.rpartition(".")[0])
    if width is None or len(values) <= NUM_RATIOS * width or len(values) % (NUM_RATIOS * width):
        return values
    rows = values.view(-1, NUM_RATIOS, width, *values.shape[1:])
    return rows.transpose(0, 1).reshape(values.shape)
