"""First weights of the detector's own parts, by named rules, and the table that says which module got which.

Published systems differ here in silence (paper.md 1.2): a system is a row of `RULES`, and every module keeps
the name of the rule it was made by in its attribute `init_rule`.
"""

from typing import Literal

import torch
from torch import nn

InitKind = Literal["detectron", "detectron_msra", "detectron2", "torchvision"]
"""Whose first weights: the paper's system is Detectron; detectron_msra: the paper's VGG-16, in which fully
connected layers are drawn as convolutions are."""

Rule = Literal["xavier_fill", "msra_fill", "normal_0.01", "normal_0.001", "torch", "msra_fill_torch_bias"]
"""xavier_fill: uniform of variance 1 / fan-in, bias 0 (Caffe2's XavierFill); msra_fill: normal of variance
2 / fan-out, bias 0 (Caffe2's MSRAFill); normal_x: normal of deviation x, bias 0; torch: torch's own rule for
the layer, uniform of variance 1 / (3 fan-in) for weight and bias; msra_fill_torch_bias: MSRA weights with
torch's own bias."""

Part = Literal[
    "fpn", "rpn", "head_conv", "head_fc", "box_class", "box_delta", "mask_conv", "mask_deconv", "mask_class",
    "mask_agnostic", "keypoint_conv", "keypoint_deconv",
]  # fmt: skip
"""A kind of layer for which a system has one rule."""

RULES: dict[InitKind, dict[Part, Rule]] = {
    # Source: Detectron, modeling/{FPN,fast_rcnn_heads,rpn_heads,mask_rcnn_heads,keypoint_rcnn_heads}.py, as
    # in paper.md 1.2.
    "detectron": {
        "fpn": "xavier_fill",
        "rpn": "normal_0.01",
        "head_conv": "msra_fill",
        "head_fc": "xavier_fill",
        "box_class": "normal_0.01",
        "box_delta": "normal_0.001",
        "mask_conv": "msra_fill",
        "mask_deconv": "msra_fill",
        "mask_class": "msra_fill",
        "mask_agnostic": "normal_0.001",
        "keypoint_conv": "msra_fill",
        "keypoint_deconv": "msra_fill",
    },
    # Source: paper.md 1.2: of VGG-16 the paper names the MSRA rule, and no other change.
    "detectron_msra": {
        "fpn": "xavier_fill",
        "rpn": "normal_0.01",
        "head_conv": "msra_fill",
        "head_fc": "msra_fill",
        "box_class": "normal_0.01",
        "box_delta": "normal_0.001",
        "mask_conv": "msra_fill",
        "mask_deconv": "msra_fill",
        "mask_class": "msra_fill",
        "mask_agnostic": "normal_0.001",
    },
    # Source: detectron2, modeling/{backbone/fpn,proposal_generator/rpn,roi_heads/*}.py.
    "detectron2": {
        "fpn": "xavier_fill",
        "rpn": "normal_0.01",
        "head_conv": "msra_fill",
        "head_fc": "xavier_fill",
        "box_class": "normal_0.01",
        "box_delta": "normal_0.001",
        "mask_conv": "msra_fill",
        "mask_deconv": "msra_fill",
        "mask_class": "normal_0.001",
        "mask_agnostic": "normal_0.001",
        "keypoint_conv": "msra_fill",
        "keypoint_deconv": "msra_fill",
    },
    # Source: torchvision 0.29, models/detection/{rpn,faster_rcnn,mask_rcnn,keypoint_rcnn}.py, FPN of ops.
    "torchvision": {
        "fpn": "xavier_fill",
        "rpn": "normal_0.01",
        "head_conv": "msra_fill",
        "head_fc": "torch",
        "box_class": "torch",
        "box_delta": "torch",
        "mask_conv": "msra_fill",
        "mask_deconv": "msra_fill_torch_bias",
        "mask_class": "msra_fill_torch_bias",
        "mask_agnostic": "msra_fill_torch_bias",
        "keypoint_conv": "msra_fill",
        "keypoint_deconv": "msra_fill",
    },
}


def initialise(module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, kind: InitKind, part: Part) -> None:
    """Give a fresh layer the first weights its system gives to layers of its part."""
    rule = RULES[kind][part]
    with torch.no_grad():
        match rule:
            case "xavier_fill":
                nn.init.kaiming_uniform_(module.weight, a=1)
            case "msra_fill" | "msra_fill_torch_bias":
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            case "normal_0.01":
                nn.init.normal_(module.weight, std=0.01)
            case "normal_0.001":
                nn.init.normal_(module.weight, std=0.001)
            case "torch":
                module.reset_parameters()
        if module.bias is not None and rule not in {"torch", "msra_fill_torch_bias"}:
            nn.init.zeros_(module.bias)
    # nn.Module declares its attributes as tensors and modules only.
    object.__setattr__(module, "init_rule", f"{kind}: {rule}")


def init_table(model: nn.Module) -> list[tuple[str, str, tuple[int, ...]]]:
    """(module, rule, shape of its weight) of every module with parameters of its own, in order."""
    table = []
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own:
            rule = getattr(module, "init_rule", "timm default")
            table.append((name, str(rule), tuple(own[0].shape)))
    return table
