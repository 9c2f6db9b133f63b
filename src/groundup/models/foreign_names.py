"""Foreign names of weights, turned into timm's.

Known by their look: timm's own and torchvision's ResNets, ResNeXts and VGGs (alike), ResNets as a list of
children, torchvision's MobileNetV2 (whole, or its `features` alone), the PyTorch port of EfficientNet-Lite0,
and each of them behind the prefixes that trainers put in front; detectors of torchvision, Detectron and
Detectron2 (`torchvision_detectors`, `detectron_names`).
"""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from groundup.models.detectron_names import (
    detector_from_detectron2,
    detectron2_from_detectron,
    is_detectron,
    is_detectron2,
)
from groundup.models.torchvision_detectors import (
    detector_from_torchvision,
    is_torchvision_detector,
    our_name,
)

PREFIXES = (
    "module.", "_orig_mod.", "encoder_q.", "base_encoder.", "online_network.", "online_encoder.",
    "online_net.", "encoder.", "_feature_blocks.", "backbone.", "body.", "model.",
)  # fmt: skip
"""What trainers put before a backbone's names: DataParallel, torch.compile, MoCo v1/v2, MoCo v3, BYOL (three
of its kinds), SimCLR, VISSL, DINO and Barlow Twins and MMSelfSup and detectors, torchvision's detectors and
ours, Lightning."""
FIRST_CHILD = "0."
"""Before a backbone's names where it is the first of a list, and its projection the second: MMSelfSup."""
RESNET_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""Names of a ResNet's layers where it is the list of its children, without the last: BYOL, lightly."""
MOBILENET_V2_REPEATS = (1, 2, 3, 4, 3, 3, 1)
"""Blocks in each stage. Source: MobileNetV2 (Sandler et al., 2018), table 2."""
EFFICIENTNET_LITE0_REPEATS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks in each stage. Source: EfficientNet (Tan & Le, 2019), table 1; Lite0 keeps them."""

# Inner names of a block, theirs to timm's; the first block has no expansion.
MOBILENET_V2_FIRST = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
MOBILENET_V2_BLOCK = {
    "0.0": "conv_pw",
    "0.1": "bn1",
    "1.0": "conv_dw",
    "1.1": "bn2",
    "2": "conv_pwl",
    "3": "bn3",
}
LITE0_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
LITE0_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
LITE0_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def named_as_timm(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors under timm's names, and apart those that stood beside the backbone.

    Of detectors, what stands beside the backbone has our names where there is a place for it.
    """
    inside, aside = without_prefixes(as_our_detector(tensors))
    if "0.weight" in inside and any(re.match(r"4\.0\.conv1\.", name) for name in inside):
        rename = resnet_child_name
    elif any(name.startswith("_blocks.") for name in inside):
        rename = lite0_name
    elif any(re.match(r"(features\.)?\d+\.conv\.\d", name) for name in inside):
        rename = mobilenet_v2_name
    else:
        return inside, aside  # timm's own, torchvision's ResNets, ResNeXts and VGGs: the same names
    return {rename(name): tensor for name, tensor in inside.items()}, aside


def as_our_detector(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A foreign detector's tensors under our names; anything else as it is."""
    if is_torchvision_detector(tensors):
        known = {name: tensor for name, tensor in tensors.items() if our_name(name) is not None}
        return detector_from_torchvision(known) | {n: t for n, t in tensors.items() if n not in known}
    if is_detectron(tensors):
        return detector_from_detectron2(detectron2_from_detectron(tensors))
    return detector_from_detectron2(tensors) if is_detectron2(tensors) else tensors


def resnet_child_name(name: str) -> str:
    """Give timm's name for one of a ResNet that is the list of its children."""
    number, _, rest = name.partition(".")
    return f"{RESNET_CHILDREN.get(number, number)}.{rest}"


def without_prefixes(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors that share the prefixes of trainers, without them; and apart those that do not."""
    inside: dict[str, Tensor] = dict(tensors)
    aside: dict[str, Tensor] = {}
    while prefix := next((p for p in prefixes_of(inside) if any(n.startswith(p) for n in inside)), None):
        aside |= {name: tensor for name, tensor in inside.items() if not name.startswith(prefix)}
        inside = {n.removeprefix(prefix): tensor for n, tensor in inside.items() if n.startswith(prefix)}
    return inside, aside


def prefixes_of(tensors: Mapping[str, Tensor]) -> Sequence[str]:
    """What may stand before the backbone's names; `0.` only before names that are a whole backbone's."""
    return (FIRST_CHILD, *PREFIXES) if f"{FIRST_CHILD}conv1.weight" in tensors else PREFIXES


def lite0_name(name: str) -> str:
    """Give timm's name for one of the PyTorch port of EfficientNet-Lite0."""
    if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
        number = int(match[1])
        inner = (LITE0_FIRST if number == 0 else LITE0_BLOCK).get(match[2], match[2])
        return f"blocks.{stage_and_block(number, EFFICIENTNET_LITE0_REPEATS)}.{inner}.{match[3]}"
    outer, _, leaf = name.partition(".")
    return f"{LITE0_OUTER.get(outer, outer)}.{leaf}"


def mobilenet_v2_name(name: str) -> str:
    """Give timm's name for one of torchvision's MobileNetV2, whole or its `features` alone."""
    name = name.removeprefix("features.").replace("classifier.1.", "classifier.")
    if match := re.fullmatch(r"(\d+)\.conv\.([\d.]+)\.(\w+)", name):
        number = int(match[1]) - 1
        inner = (MOBILENET_V2_FIRST if number == 0 else MOBILENET_V2_BLOCK).get(match[2], match[2])
        return f"blocks.{stage_and_block(number, MOBILENET_V2_REPEATS)}.{inner}.{match[3]}"
    outer = {"0.0.": "conv_stem.", "0.1.": "bn1.", "18.0.": "conv_head.", "18.1.": "bn2."}
    for theirs, ours in outer.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def stage_and_block(number: int, repeats: Sequence[int]) -> str:
    """`stage.block` of a block counted through the network; beyond the last stage, the last one's."""
    for stage, count in enumerate(repeats):
        if number < count:
            return f"{stage}.{number}"
        number -= count
    return f"{len(repeats) - 1}.{number + repeats[-1]}"
