"""Backbones: the one door to timm. Features at strides 4, 8, 16 and 32 under a norm of our choice.

Every batch and group norm of the timm model is replaced by ours; its place, its name, its eps and the
activation fused into it stay, so timm's weights load by name. Dropout and stochastic depth are off. In
ResNet bottlenecks the stride is on the 3x3 convolution (timm's and torchvision's way; Detectron's
`STRIDE_1X1: False`, paper.md 1.1). timm is imported when a network is built: reading a recipe needs none of
its seconds. Published networks that timm lacks are built of its classes (`OWN_NETWORKS`).

Legend:
    B  images      H, W  height and width of the padded batch
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundup.config import Options, did_you_mean
from groundup.errors import UsageError
from groundup.metering import part
from groundup.models.norm import BN_EPS, BN_MOMENTUM, INIT_RULE, NormKind, build_norm

STRIDES = (4, 8, 16, 32)
"""Of C2, C3, C4 and C5. Source: Feature Pyramid Networks (Lin et al., 2017), section 3."""
X152_BLOCKS = (3, 8, 36, 3)
"""Blocks of each stage of a ResNe(X)t-152. Source: Deep Residual Learning (He et al., 2016), table 1."""
QUARTER_VGG11 = (16, "M", 32, "M", 64, 64, "M", 128, 128, "M", 128, 128, "M")
"""Widths of configuration A of VGG (Simonyan and Zisserman, 2015, table 1), divided by four; M: max-pooling.
Ours, for two processor cores."""
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
    resnext101_32x8d, vgg16, mobilenetv2_100 or tf_efficientnet_lite0; or resnext152_32x8d or vgg11_quarter,
    which timm lacks."""
    norm: NormKind = "gn"
    """What follows each convolution: gn, syncbn, bn, frozen_bn or none. frozen_bn needs a start with
    weights; bn takes its statistics over the few images of one device."""
    init: ConvInit = "xavier"
    """How random convolutions are drawn: xavier as Detectron (the paper's code), msra as Detectron2 and
    torchvision, timm as timm does for the model."""
    stride_in_1x1: bool = False
    """Whether a bottleneck has its stride on the first 1x1 convolution, as the MSRA weights of Detectron and
    Detectron2 were trained (`STRIDE_1X1`), instead of on the 3x3. Weights of one kind load into the other
    without complaint and detect worse."""


class Backbone(nn.Module):
    """Features of a batch at strides 4, 8, 16 and 32 (C2 to C5), or at some of them.

    The weights keep timm's names under `body.`. What comes after the last of the strides does not exist.
    """

    def __init__(self, options: BackboneOptions, strides: Sequence[int] = STRIDES) -> None:
        """Build with random weights.

        Args:
            options: which network.
            strides: of the features it gives, finest first; some of `STRIDES`.

        Raises:
            UsageError: timm has no such model, it has no features at those strides, or it has no norm that
                could be replaced by the one asked for.
        """
        super().__init__()
        self.options = options
        body = create_features(options.name, strides)
        if not substitute_norms(body, options.norm) and options.norm != "none":
            raise UsageError(
                f"backbone '{options.name}' has no batch norm that norm={options.norm} could replace; "
                "write norm=none (norms of another kind stay as they are), or choose another backbone"
            )
        if options.stride_in_1x1 and not move_strides(body):
            raise UsageError(
                f"backbone '{options.name}' has no bottleneck whose stride could be on the 1x1 convolution; "
                "write stride_in_1x1=false"
            )
        switch_off_dropout(body)
        initialise(body, options.init)
        self.body = body
        self.channels: tuple[int, ...] = tuple(info["num_chs"] for info in outputs_of(body))
        """Of the features."""
        self.strides = tuple(strides)
        """Pixels of the image that one step of each feature covers."""
        self.stages = cut_stages(body)
        """Modules of the stem, of res2, ... and of the last stage, in the order they run. The stem is all
        that comes before stride 4: of a VGG the first four convolutions, where Detectron's stop-gradient of
        fine-tuning stands (paper.md 1.4)."""
        self.num_frozen = 0
        """Stages, stem first, that do not learn."""
        self.is_depthwise = has_depthwise(body)
        """Whether it computes with the channels of a place side by side on a CPU."""

    @part("backbone")
    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """The features of normalised images whose sides are multiples of 32."""
        # oneDNN's depthwise convolutions are faster in channels-last: 1.16 times the speed of the whole
        # backbone forward and 1.3 times with backward (EfficientNet-Lite0, MobileNetV2), to the same bits
        # forward. Dense ones gain little on small images and lose a third on large ones (peers.md 1), so
        # they and the neck stay as they are. Weights stay too: the input's layout decides.
        if self.is_depthwise and images.device.type == "cpu":
            maps = self.body(images.contiguous(memory_format=torch.channels_last))
            return [one.contiguous() for one in maps]
        return list(self.body(images))

    def freeze(self, num_stages: int) -> None:
        """Stop the first stages from learning, the stem first: no gradient, norms always in evaluation.

        Source: Detectron, `FREEZE_AT`: 2 freezes the stem and res2.

        Raises:
            UsageError: there are not so many stages.
        """
        if num_stages > len(self.stages):
            raise UsageError(
                f"start.frozen_stages is {num_stages}, but backbone {self.options.name} has "
                f"{len(self.stages)} stages that can be told apart up to stride {self.strides[-1]}; lower it"
            )
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


def has_depthwise(body: nn.Module) -> bool:
    """Whether some convolution sees each channel by itself."""
    return any(
        isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels for module in body.modules()
    )


def build_backbone(options: BackboneOptions, strides: Sequence[int] = STRIDES) -> Backbone:
    """The backbone with random weights and features at the strides.

    Raises:
        UsageError: as `Backbone`.
    """
    return Backbone(options, strides)


def build_timm_classifier(name: str, norm: NormKind) -> nn.Module:
    """Build the whole network of that name under our norm, with random weights: images in, logits out.

    Raises:
        UsageError: timm has no such model.
    """
    check_name(name)
    network = create_network(name)
    substitute_norms(network, norm)
    switch_off_dropout(network)
    return network


def check_name(name: str) -> None:
    """Refuse a name that timm does not know, before anything is built.

    Raises:
        UsageError: with the nearest known name.
    """
    import timm

    if name not in OWN_NETWORKS and not timm.is_model(name):
        known = [*OWN_NETWORKS, *timm.list_models()]
        raise UsageError(f"timm has no model '{name}'{did_you_mean(name, known)}")


def create_network(name: str, **more: Any) -> nn.Module:
    """Build the network of that name, timm's or one that timm lacks; `more` goes to timm as it is."""
    import timm

    if name in OWN_NETWORKS:
        return OWN_NETWORKS[name](more)
    network: nn.Module = timm.create_model(name, **more)
    return network


def build_x152(more: Mapping[str, Any]) -> nn.Module:
    """ResNeXt-152 32x8d, the largest network of the paper. Source: paper.md 1.1."""
    import timm

    network: nn.Module = timm.create_model("resnext101_32x8d", layers=X152_BLOCKS, **more)
    return network


def build_quarter_vgg11(more: Mapping[str, Any]) -> nn.Module:
    """VGG-11 of a quarter of the widths, without norms as the original."""
    from timm.models import VGG, build_model_with_cfg

    wanted = dict(more)
    indices = wanted.pop("out_indices", range(QUARTER_VGG11.count("M") + 1))
    cut = {"flatten_sequential": True, "out_indices": tuple(indices)}
    network: nn.Module = build_model_with_cfg(
        VGG, "vgg11", pretrained=False, model_cfg=list(QUARTER_VGG11), feature_cfg=cut, **wanted
    )
    return network


OWN_NETWORKS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "resnext152_32x8d": build_x152,
    "vgg11_quarter": build_quarter_vgg11,
}
"""Networks that timm lacks, built of its classes under its names of weights."""


def create_features(name: str, wanted: Sequence[int] = STRIDES) -> nn.Module:
    """Build the network of that name, cut to give features at the wanted strides only.

    Raises:
        UsageError: no such model, or no such features.
    """
    check_name(name)
    return create_network(name, features_only=True, out_indices=features_at(name, tuple(wanted)))


@functools.cache
def features_at(name: str, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """Which of the network's features are the last at the wanted strides.

    Raises:
        UsageError: it has none there, or they are no maps.
    """
    try:
        with torch.device("meta"):  # costs neither time nor memory
            probe: Any = create_network(name, features_only=True)
            strides = probe.feature_info.reduction()
            indices = tuple(max(i for i, s in enumerate(strides) if s == stride) for stride in wanted)
            trial = create_network(name, features_only=True, out_indices=indices)
        usable = str(getattr(trial, "output_fmt", "NCHW")).endswith("NCHW")
    except (RuntimeError, AttributeError, AssertionError, TypeError, ValueError):
        usable = False
    if not usable:
        raise UsageError(
            f"backbone '{name}' does not give (B, C, H, W) features at strides 4, 8, 16 and 32; "
            "choose a convolutional one, such as resnet50"
        )
    return indices


def outputs_of(body: nn.Module) -> list[dict[str, Any]]:
    """What timm says of the features: `num_chs`, `reduction` (stride) and `module` (name) of each."""
    features: Any = body.feature_info
    return list(features.get_dicts())


def ends_of(body: nn.Module, names: Sequence[str], *, early: bool = False) -> list[int]:
    """Of each of C2 to the last feature, how many of the named units it takes to get there.

    Args:
        body: a features-only model of timm.
        names: of its units, in the order they run.
        early: of the features at smaller strides instead, which are not used.
    """
    features: Any = body.feature_info
    last = outputs_of(body)[-1]["reduction"]
    ends: dict[int, int] = {}
    for info in features.info:
        stride = info["reduction"]
        if stride <= last and (stride < STRIDES[0]) == early:
            ends[stride] = names.index(info["module"].replace(".", "_")) + 1
    return list(ends.values())


def cut_stages(body: nn.Module) -> tuple[tuple[nn.Module, ...], ...]:
    """Modules of the stem and of what leads to each output, in the order they run.

    None where an output is not the end of a module of the first or second level: such a network (HRNet, whose
    resolutions run beside each other) trains whole.
    """
    units = list(ordered_units(body))
    names = [name for name, _ in units]
    try:
        ends, early = ends_of(body, names), ends_of(body, names, early=True)
    except ValueError:
        return ()
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


def move_strides(model: nn.Module) -> int:
    """Put the stride of each bottleneck on its first convolution.

    Source: Detectron, `STRIDE_1X1`; Deep Residual Learning (He et al., 2016), table 1.

    Returns:
        How many were moved.
    """
    count = 0
    for block in model.modules():
        first, second = getattr(block, "conv1", None), getattr(block, "conv2", None)
        if not (isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d) and hasattr(block, "conv3")):
            continue
        if first.kernel_size == (1, 1) and second.stride != (1, 1):
            first.stride, second.stride = second.stride, first.stride
            count += 1
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
