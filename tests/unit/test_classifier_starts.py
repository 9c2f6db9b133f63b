"""Classifiers and self-supervised networks as starts: layouts, and a VGG's fc6 and fc7 in the box head."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from groundup.models import presets
from groundup.models.backbone import BackboneOptions, build_backbone, build_timm_classifier
from groundup.models.rcnn import build_detector
from groundup.models.start import StartOptions, load_start
from groundup.models.weights import IMAGENET_MEAN, IMAGENET_STD

WIDTH = 64


def resnet_state(seed=3):
    torch.manual_seed(seed)
    return {
        name: tensor
        for name, tensor in torchvision.models.resnet18().state_dict().items()
        if not name.startswith("fc.")
    }


def doubled(prefix, state):
    return {f"{prefix}{name}": tensor * 2 for name, tensor in state.items()}


def named(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def as_children(state):
    return {".".join([CHILDREN[n.split(".")[0]], *n.split(".")[1:]]): t for n, t in state.items()}


LAYOUTS = {
    "moco v2": lambda s: {
        "arch": "resnet18",
        "state_dict": named("module.encoder_q.", s)
        | doubled("module.encoder_k.", s)
        | {"module.encoder_q.fc.0.weight": torch.ones(2, 2), "module.queue": torch.zeros(2, 2)},
    },
    "moco v3": lambda s: {
        "state_dict": named("module.base_encoder.", s) | doubled("module.momentum_encoder.", s)
    },
    "dino": lambda s: {
        "student": doubled("module.backbone.", s),
        "teacher": named("module.backbone.", s) | {"module.head.mlp.0.weight": torch.ones(2, 2)},
    },
    "dino backbone": lambda s: s,
    "simclr": lambda s: named("encoder.", s) | {"projector.0.weight": torch.ones(2, 2)},
    "simclr, data parallel": lambda s: {"state_dict": named("module.backbone.", s)},
    "byol": lambda s: {
        "online_network_state_dict": named("encoder.", as_children(s))
        | {"projection.net.0.weight": torch.ones(2)},
        "target_network_state_dict": doubled("encoder.", as_children(s)),
    },
    "byol, lightning": lambda s: {
        "state_dict": named("online_network.encoder.", s) | doubled("target_network.encoder.", s)
    },
    "barlow twins": lambda s: {
        "epoch": 1000,
        "model": named("module.backbone.", s) | {"module.projector.0.weight": torch.ones(2, 2)},
    },
    "mmselfsup": lambda s: {
        "meta": {"epoch": 200},
        "state_dict": named("backbone.", s) | {"head.fc.weight": torch.ones(2, 2)},
    },
    "mmselfsup, moco": lambda s: {
        "state_dict": named("encoder_q.0.", s)
        | {"encoder_q.1.mlp.0.weight": torch.ones(2, 2)}
        | doubled("encoder_k.0.", s)
    },
    "lightly": lambda s: {"state_dict": named("backbone.", as_children(s))},
    "vissl": lambda s: {
        "classy_state_dict": {"base_model": {"model": {"trunk": named("_feature_blocks.", s)}}}
    },
    "swav": lambda s: named("module.", s) | {"module.prototypes.weight": torch.ones(2, 2)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_self_supervised_layouts_load_whole(tmp_path, layout):
    state = resnet_state()
    torch.save(LAYOUTS[layout](state), tmp_path / "weights.pth")
    model = build_backbone(BackboneOptions(name="resnet18", norm="bn"))
    report = load_start(model, StartOptions(weights=str(tmp_path / "weights.pth"), frozen_stages=2))
    assert report.percent == 100
    for name, tensor in model.body.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(tensor, state[name], rtol=0, atol=0, msg=name)


def narrow_vgg(seed=0, width=WIDTH):
    torch.manual_seed(seed)
    sizes = presets.TINY.model_copy(update={"fc_channels": width})
    return build_detector(
        presets.paper_faster_rcnn_vgg("vgg11_quarter", sizes=sizes),
        num_classes=3,
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
    )


def classifier_state(form, width=WIDTH):
    """A VGG classifier as timm keeps it (convolutions) or as torchvision does (linear layers)."""
    torch.manual_seed(5)
    features = build_timm_classifier("vgg11_quarter", "none").state_dict()
    state = {name: tensor for name, tensor in features.items() if name.startswith("features.")}
    fc6, fc7 = torch.randn(width, 128, 7, 7), torch.randn(width, width, 1, 1)
    if form == "torchvision":
        fc6, fc7 = fc6.flatten(1), fc7.flatten(1)
    names = {"timm": ("pre_logits.fc1", "pre_logits.fc2"), "torchvision": ("classifier.0", "classifier.3")}
    for name, weight in zip(names[form], (fc6, fc7), strict=True):
        state |= {f"{name}.weight": weight, f"{name}.bias": torch.randn(width)}
    last = {"timm": "head.fc", "torchvision": "classifier.6"}[form]
    return state | {f"{last}.weight": torch.zeros(10, width), f"{last}.bias": torch.zeros(10)}


@pytest.mark.parametrize("form", ["timm", "torchvision"])
def test_fc6_and_fc7_of_a_vgg_go_into_the_box_head(tmp_path, form):
    state = classifier_state(form)
    torch.save(state, tmp_path / "vgg.pth")
    model = narrow_vgg()
    report = load_start(model, StartOptions(weights=str(tmp_path / "vgg.pth"), frozen_stages=1))
    fcs = {
        f"box_head.fcs.{place}.{leaf}": "reshaped" if (form, leaf) == ("timm", "weight") else "loaded"
        for place in (0, 2)
        for leaf in ("weight", "bias")
    }
    assert {t.name: t.outcome for t in report.tensors if t.name.startswith("box_head")} == fcs
    assert report.percent == 100
    assert {t.name.rpartition(".")[0] for t in report.of("unexpected")} == {
        {"timm": "head.fc", "torchvision": "classifier.6"}[form]
    }
    name = {"timm": "pre_logits.fc1", "torchvision": "classifier.0"}[form]
    pooled = torch.randn(2, 128, 7, 7)
    as_convolution = functional.conv2d(pooled, state[f"{name}.weight"].view(WIDTH, 128, 7, 7))
    torch.testing.assert_close(
        functional.linear(pooled.flatten(1), model.box_head.fcs[0].weight),
        as_convolution.flatten(1),
        rtol=1e-4,
        atol=1e-3,
    )


def test_fcs_of_another_width_stay_random_and_are_named(tmp_path):
    torch.save(classifier_state("torchvision"), tmp_path / "vgg.pth")
    model = narrow_vgg(width=32)
    before = model.box_head.fcs[0].weight.clone()
    report = load_start(model, StartOptions(weights=str(tmp_path / "vgg.pth")))
    assert torch.equal(model.box_head.fcs[0].weight, before)
    assert "classifier.0.weight" in {tensor.name for tensor in report.of("unexpected")}


def test_timms_vgg16_fits_the_papers_detector_fcs_and_all():
    with torch.device("meta"):
        classifier = build_timm_classifier("vgg16", "none").state_dict()
        detector = build_detector(
            presets.paper_faster_rcnn_vgg(),
            num_classes=80,
            pixel_mean=IMAGENET_MEAN,
            pixel_std=IMAGENET_STD,
        )
    fcs = [layer for layer in detector.box_head.fcs if isinstance(layer, nn.Linear)]
    for layer, name in zip(fcs, ("pre_logits.fc1", "pre_logits.fc2"), strict=True):
        assert layer.weight.shape == classifier[f"{name}.weight"].flatten(1).shape
    for name, tensor in detector.backbone.body.state_dict().items():
        assert classifier[name.replace("features_", "features.")].shape == tensor.shape
