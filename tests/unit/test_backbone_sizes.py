"""Backbones against published sizes, and a handful of timm's families forward and backward."""

import pytest
import torch
import torchvision

from detector_worlds import random_batch, tiny_detector
from groundup.errors import UsageError
from groundup.models.backbone import BackboneOptions, build_backbone, build_timm_classifier
from groundup.models.rcnn import build_detector
from groundup.recipes import RECIPES

PUBLISHED = {
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnext101_32x8d": 88_791_336,
    "vgg16": 138_357_544,
}
"""Parameters of the ImageNet classifiers. Source: torchvision 0.29, `meta["num_params"]` of their weights."""
PEERS = {
    "resnet50": torchvision.models.resnet50,
    "resnet101": torchvision.models.resnet101,
    "resnext101_32x8d": torchvision.models.resnext101_32x8d,
    "resnext152_32x8d": lambda: torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, [3, 8, 36, 3], groups=32, width_per_group=8
    ),
    "vgg16": torchvision.models.vgg16,
}
DETECTORS = {
    "faster_rcnn_r50_fpn_gn": 43_066_848,
    "faster_rcnn_r101_fpn_gn": 62_058_976,
    "mask_rcnn_r50_fpn_gn": 45_711_152,
    "mask_rcnn_r101_fpn_gn": 64_703_280,
    "mask_rcnn_r101_fpn_syncbn": 64_703_280,
    "mask_rcnn_x101_fpn_gn": 108_945_456,
    "mask_rcnn_x152_fpn_gn": 142_526_512,
    "faster_rcnn_vgg16": 138_301_724,
}
"""Of our detectors with 80 classes."""


def num_parameters(model):
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("name", PEERS)
def test_classifiers_have_as_many_parameters_as_published(name):
    with torch.device("meta"):
        ours = num_parameters(build_timm_classifier(name, "none" if name == "vgg16" else "bn"))
        assert ours == num_parameters(PEERS[name]())
    assert ours == PUBLISHED.get(name, ours)


@pytest.mark.parametrize("name", ["resnet50", "resnet101", "resnext101_32x8d", "resnext152_32x8d"])
@pytest.mark.parametrize("norm", ["gn", "syncbn"])
def test_backbones_have_the_parameters_of_their_classifiers_without_its_last_layer(name, norm):
    with torch.device("meta"):
        assert num_parameters(build_backbone(BackboneOptions(name=name, norm=norm))) == (
            num_parameters(PEERS[name]()) - 2048 * 1000 - 1000
        )


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_of_the_paper_have_the_parameters_documented(name):
    with torch.device("meta"):
        model = build_detector(
            RECIPES[name]().model, num_classes=80, pixel_mean=(0.5,) * 3, pixel_std=(0.5,) * 3
        )
    assert num_parameters(model) == DETECTORS[name]


def test_a_detector_differs_from_torchvisions_in_the_background_it_predicts_nothing_for():
    with torch.device("meta"):
        peer = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        options = RECIPES["mask_rcnn_r50_fpn_torchvision"]().model
        ours = build_detector(options, num_classes=90, pixel_mean=(0.5,) * 3, pixel_std=(0.5,) * 3)
    boxes_of_background, mask_of_background = 4 * (1024 + 1), 256 + 1
    assert num_parameters(peer) == 44_454_513
    assert num_parameters(ours) == num_parameters(peer) - boxes_of_background - mask_of_background


FAMILIES = {
    "resnext50_32x4d": "gn",
    "resnet18d": "syncbn",
    "seresnet18": "bn",
    "convnext_atto": "none",
    "mobilenetv2_035": "gn",
    "mobilenetv3_small_050": "bn",
    "tf_efficientnet_lite0": "bn",
    "efficientnet_b0": "gn",
    "regnetx_002": "gn",
    "ghostnet_050": "bn",
    "vgg11_bn": "gn",
    "vgg11_quarter": "none",
    "hrnet_w18_small": "bn",
    "dla34": "bn",
    "res2net50_26w_4s": "bn",
    "densenet121": "bn",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_timm_reach_every_weight_of_a_detector(name):
    model = tiny_detector(backbone=BackboneOptions(name=name, norm=FAMILIES[name], init="msra"))
    sum(model.losses(random_batch((2, 1), size=(64, 64))).values()).backward()
    without = [n for n, weight in model.named_parameters() if weight.grad is None]
    assert not without
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s32_224", "beit_base_patch16_224"]
)
def test_networks_without_a_pyramid_of_maps_are_refused_in_one_line(name):
    with pytest.raises(UsageError, match="features at strides 4, 8, 16 and 32") as caught:
        build_backbone(BackboneOptions(name=name, norm="none"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["resnet101", "resnext152_32x8d"])
def test_the_large_backbones_of_the_paper_go_forward_and_backward(name):
    model = tiny_detector(backbone=BackboneOptions(name=name, norm="gn"))
    losses = model.losses(random_batch((2, 1), size=(64, 64)))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(weight.grad.isfinite().all() for weight in model.parameters())
