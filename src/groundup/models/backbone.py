"""Backbones: the one door to timm. Features at strides 4, 8, 16 and 32 under a norm of our choice.

Every batch and group norm of the timm model is replaced by ours; its place, its name, its eps and the
activation fused into it stay, so timm's weights load by name. Dropout and stochastic depth are off. In
ResNet bottlenecks the stride is on the 3x3 convolution (timm's and torchvision's way; Detectron's
`STRIDE_1X1: False`, paper.md 1.1). timm is imported when a network is built: reading a recipe needs none of
its seconds.

Legend:
    B  images      H, W  height and width of the padded batch
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundup.config import Options, did_you_mean
from groundup.errors import UsageError
from groundup.models.norm import BN_EPS, BN_MOMENTUM, INIT_RULE, NormKind, build_norm

STRIDES = (4, 8, 16, 32)
"""Of C2, C3, C4 and C5. Source: Feature Pyramid Networks (Lin et al., 2017), section 3."""
NUM_STAGES = 1 + len(STRIDES)
"""The stem, and what leads to each of C2 to C5 (res2 to res5)."""

ConvInit = Literal["xavier", "msra", "timm"]
"""xavier: Detectron's backbone convolutions; msra: Detectron2's and torchvision's; timm: left as timm made
them."""

INIT_RULES: dict[str, str] = {
    "xavier": "kaiming_uniform(a=1, fan_in), bias 0: Caffe2 XavierFill, Detectron",
    "msra": "kaiming_normal(fan_out, relu), bias 0: Caffe2 MSRAFill, Detectron2 and torchvision",
    "timm": "timm's own for this model",
}


class BackboneOptions(Options):
    """Which features the detector stands on."""

    name: str = "resnet50"
    """A timm model with features at strides 4, 8, 16 and 32, for example resnet18, resnet50, resnet101,
    resnext101_32x8d, mobilenetv2_100 or tf_efficientnet_lite0."""
    norm: NormKind = "gn"
    """What follows each convolution: gn, syncbn, bn, frozen_bn or none. frozen_bn needs a start with
    weights; bn takes its statistics over the few images of one device."""
    init: ConvInit = "xavier"
    """How random convolutions are drawn: xavier as Detectron (the paper's code), msra as Detectron2 and
    torchvision, timm as timm does for the model."""


class Backbone(nn.Module):
    """Features of a batch at strides 4, 8, 16 and 32 (C2 to C5).

    The weights keep timm's names under `body.`.
    """

    def __init__(self, options: BackboneOptions) -> None:
        """Build with random weights.

        Raises:
            UsageError: timm has no such model, it has no features at those strides, or it has no norm that
                could be replaced by the one asked for.
        """
        super().__init__()
        self.options = options
        body = create_features(options.name)
        if not substitute_norms(body, options.norm) and options.norm != "none":
            raise UsageError(
                f"backbone '{options.name}' has no batch norm that norm={options.norm} could replace; "
                "write norm=none (norms of another kind stay as they are), or choose another backbone"
            )
        switch_off_dropout(body)
        initialise(body, options.init)
        self.body = body
        self.channels: tuple[int, ...] = tuple(info["num_chs"] for info in outputs_of(body))
        """Of C2 to C5."""
        self.strides = STRIDES
        """Pixels of the image that one step of C2 to C5 covers."""
        self.stages = cut_stages(body)
        """Modules of the stem, of res2, ... and of res5, in the order they run. The stem is all that comes
        before stride 4."""
        self.num_frozen = 0
        """Stages, stem first, that do not learn."""

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """C2 to C5 of normalised images whose sides are multiples of 32."""
        return list(self.body(images))

    def freeze(self, num_stages: int) -> None:
        """Stop the first stages from learning, the stem first: no gradient, norms always in evaluation.

        Source: Detectron, `FREEZE_AT`: 2 freezes the stem and res2.
        """
        self.num_frozen = num_stages
        for stage in self.stages[:num_stages]:
            for module in stage:
                module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Backbone":
        """Switch between training and evaluation; frozen stages stay in evaluation."""
        super().train(mode)
        for stage in self.stages[: self.num_frozen]:
            for module in stage:
                module.eval()
        return self


def build_backbone(options: BackboneOptions) -> Backbone:
    """The backbone with random weights.

    Raises:
        UsageError: as `Backbone`.
    """
    return Backbone(options)


def build_timm_classifier(name: str, norm: NormKind) -> nn.Module:
    """Build the whole network of that name under our norm, with random weights: images in, logits out.

    Raises:
        UsageError: timm has no such model.
    """
    import timm

    check_name(name)
    network: nn.Module = timm.create_model(name)
    substitute_norms(network, norm)
    switch_off_dropout(network)
    return network


def check_name(name: str) -> None:
    """Refuse a name that timm does not know, before anything is built.

    Raises:
        UsageError: with the nearest known name.
    """
    import timm

    if not timm.is_model(name):
        raise UsageError(f"timm has no model '{name}'{did_you_mean(name, timm.list_models())}")


def create_features(name: str) -> nn.Module:
    """Build the timm model of that name, cut to give features at strides 4, 8, 16 and 32 only.

    Raises:
        UsageError: no such model, or no such features.
    """
    import timm

    check_name(name)
    try:
        with torch.device("meta"):  # costs neither time nor memory
            probe: Any = timm.create_model(name, features_only=True)
            strides = probe.feature_info.reduction()
            indices = tuple(max(i for i, s in enumerate(strides) if s == stride) for stride in STRIDES)
            trial = timm.create_model(name, features_only=True, out_indices=indices)
        usable = str(getattr(trial, "output_fmt", "NCHW")).endswith("NCHW") and cut_stages(trial)
    except (RuntimeError, AttributeError, AssertionError, TypeError, ValueError):
        usable = False
    if not usable:
        raise UsageError(
            f"backbone '{name}' does not give (B, C, H, W) features at strides 4, 8, 16 and 32; "
            "choose a convolutional one, such as resnet50"
        )
    body: nn.Module = timm.create_model(name, features_only=True, out_indices=indices)
    return body


def outputs_of(body: nn.Module, *, early: bool = False) -> list[dict[str, Any]]:
    """What timm says of C2 to C5: `num_chs`, `reduction` (stride) and `module` (name) of each.

    Args:
        body: a features-only model of timm.
        early: describe the outputs at smaller strides instead, which are not used.
    """
    features: Any = body.feature_info
    if early:
        return [info for info in features.info if info["reduction"] < STRIDES[0]]
    return list(features.get_dicts())


def cut_stages(body: nn.Module) -> tuple[tuple[nn.Module, ...], ...]:
    """Modules of the stem and of what leads to each output, in the order they run.

    Raises:
        ValueError: an output is not the end of a module of the first or second level.
    """
    units = list(ordered_units(body))
    names = [name for name, _ in units]
    ends = [names.index(info["module"].replace(".", "_")) + 1 for info in outputs_of(body)]
    early = [names.index(info["module"].replace(".", "_")) + 1 for info in outputs_of(body, early=True)]
    # A model without an output at stride 2 (ConvNeXt) has its stem before the module that ends at C2.
    starts = [0, max(early) if early else ends[0] - 1, *ends[:-1]]
    ends = [starts[1], *ends]
    return tuple(tuple(module for _, module in units[a:b]) for a, b in zip(starts, ends, strict=True))


def ordered_units(body: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules in the order they run, small enough to be cut between; dots of names become underscores."""
    for name, child in body.named_children():
        if name == "blocks" and isinstance(child, nn.Sequential):  # the EfficientNet family
            yield from ((f"{name}_{inner}", block) for inner, block in child.named_children())
        else:
            yield name, child


def substitute_norms(model: nn.Module, kind: NormKind) -> int:
    """Replace every batch and group norm by one of the kind, random statistics and all.

    Each keeps its name, its eps, its momentum and the activation timm fused into it.

    Returns:
        How many were replaced.
    """
    count = 0
    for name, child in list(model.named_children()):
        if isinstance(child, nn.BatchNorm2d | nn.GroupNorm):
            activation = getattr(child, "act", None)
            norm = build_norm(
                kind,
                child.num_features if isinstance(child, nn.BatchNorm2d) else child.num_channels,
                activation=None if isinstance(activation, nn.Identity) else activation,
                eps=child.eps if isinstance(child, nn.BatchNorm2d) else BN_EPS,
                momentum=child.momentum if isinstance(child, nn.BatchNorm2d) else BN_MOMENTUM,
            )
            setattr(model, name, norm)
            count += 1
        else:
            count += substitute_norms(child, kind)
    return count


def switch_off_dropout(model: nn.Module) -> None:
    """Set the rate of every dropout and stochastic depth to zero: detectors train without."""
    from timm.layers.drop import DropPath

    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0


def initialise(model: nn.Module, rule: ConvInit) -> None:
    """Draw convolutions and linear layers anew by the rule; norms begin with gamma 1 and beta 0.

    Every module with weights says how it was drawn in its attribute `init_rule`.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if rule != "timm":
                draw_weights(module, rule)
            module.init_rule = INIT_RULES[rule]  # type: ignore[assignment]
        elif isinstance(module, nn.LayerNorm) and module.weight is not None:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
            module.init_rule = INIT_RULE  # type: ignore[assignment]


def draw_weights(layer: nn.Conv2d | nn.Linear, rule: ConvInit) -> None:
    """Random weights and zero bias. Source: paper.md 1.2."""
    if rule == "xavier":
        nn.init.kaiming_uniform_(layer.weight, a=1)
    else:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
