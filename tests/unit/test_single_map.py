"""Detectors without an FPN, the paper's VGG-16 above all: one map, all anchors on it, everything learns."""

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.vgg import vgg11
from torchvision.ops import MultiScaleRoIAlign

from detector_worlds import NUM_CLASSES, random_batch, tiny_detector, tiny_options
from groundup.errors import UsageError
from groundup.models import presets
from groundup.models.backbone import BackboneOptions, build_backbone
from groundup.models.rcnn import build_detector
from groundup.recipes import RECIPES

NARROW_HEAD = presets.TINY.model_copy(update={"fc_channels": 64})


def vgg(name="vgg16", sizes=NARROW_HEAD):
    torch.manual_seed(0)
    return build_detector(
        presets.paper_faster_rcnn_vgg(name, sizes=sizes),
        num_classes=NUM_CLASSES,
        pixel_mean=(0.485, 0.456, 0.406),
        pixel_std=(0.229, 0.224, 0.225),
    )


def test_every_layer_of_a_vgg_from_scratch_gets_a_gradient():
    # Detectron stops it after pool2, which would leave four random convolutions as they are (paper.md 1.4).
    model = vgg()
    sum(model.losses(random_batch((3, 2), size=(64, 96))).values()).backward()
    convs = [module for module in model.backbone.modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) == 13
    for name, weight in model.named_parameters():
        assert weight.requires_grad, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.any(), name


def test_the_features_of_vgg16_are_those_of_conv5_3_at_stride_16():
    model = vgg()
    assert (model.backbone.strides, model.backbone.channels) == ((16,), (512,))
    layers = [module for stage in model.backbone.stages for child in stage for module in child.modules()]
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in layers) == 4
    assert isinstance(layers[-1], nn.ReLU)


def test_a_vgg_has_neither_norm_nor_dropout():
    names = {type(module).__name__ for module in vgg().modules()}
    assert not [name for name in names if "Norm" in name or "Dropout" in name]


def test_signals_of_a_random_vgg16_neither_vanish_nor_explode():
    torch.manual_seed(0)
    backbone = build_backbone(BackboneOptions(name="vgg16", norm="none", init="msra"), (16,))
    (features,) = backbone(torch.randn(1, 3, 128, 128))
    # Fan-out: each layer scales the mean square by fan-in / fan-out, which telescopes to 3 / 512; the zeros
    # at the border and one draw of the weights take and give the rest.
    assert 3 / 512 / 4 < features.square().mean().item() < 3 / 512 * 4


def test_all_anchors_stand_on_the_one_map_and_rois_are_cut_from_it():
    model = tiny_detector(fpn=None)
    batch = random_batch((3, 2))
    pyramid = model.pyramid(batch)
    assert [tuple(level.shape) for level in pyramid] == [(2, 256, 8, 10)]
    found = model.rpn(pyramid, (128, 160))
    assert found.anchors.counts == (8 * 10 * 3 * 5,)
    sides = (found.anchors.boxes[:15, 2:] - found.anchors.boxes[:15, :2]).prod(dim=1).sqrt()
    assert sides.sort().values.view(5, 3).mean(dim=1).tolist() == pytest.approx([8, 16, 32, 64, 96], rel=0.1)
    assert model.roi_maps(pyramid).strides == (16,)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_what_comes_after_the_map_does_not_exist(stride):
    model = tiny_detector(fpn=None, single_stride=stride)
    blocks = {8: 2, 16: 3, 32: 4}[stride]
    assert [name for name, _ in model.backbone.body.named_children() if "layer" in name] == [
        f"layer{number}" for number in range(1, blocks + 1)
    ]
    sum(model.losses(random_batch((3, 2))).values()).backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert len(model.eval().detect(random_batch((3, 2)))) == 2


def test_no_more_stages_freeze_than_there_are():
    backbone = build_backbone(BackboneOptions(name="resnet18"), (16,))
    assert len(backbone.stages) == 4
    with pytest.raises(UsageError, match=r"has 4 stages that can be told apart") as caught:
        backbone.freeze(5)
    assert "\n" not in str(caught.value)
    assert all(weight.requires_grad for weight in backbone.parameters())


def test_detections_of_a_vgg_equal_those_of_torchvisions_parts():
    """The same weights in a detector of torchvision's own parts; rounding and eps as torchvision's."""
    torch.manual_seed(0)
    plain = presets.torchvision("vgg11", "none", has_masks=False, sizes=presets.VGG)
    head = plain.box_head.model_copy(update={"fc_channels": 64})
    options = plain.model_copy(update={"fpn": None, "box_head": head})
    ours = build_detector(options, num_classes=NUM_CLASSES, pixel_mean=(0.5,) * 3, pixel_std=(0.25,) * 3)
    trunk = vgg11().features[:-1]
    trunk.out_channels = 512
    sizes = ((32.0, 64.0, 128.0, 256.0, 512.0),)
    peer = FasterRCNN(
        trunk,
        num_classes=None,
        min_size=128,
        max_size=160,
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),)),
        rpn_pre_nms_top_n_test=1000,
        rpn_post_nms_top_n_test=1000,
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        box_head=TwoMLPHead(512 * 49, 64),
        box_predictor=Predictor(64, NUM_CLASSES),
        box_score_thresh=0.05,
    ).eval()
    with torch.no_grad():
        for theirs, mine in zip(trunk.parameters(), ours.backbone.parameters(), strict=True):
            theirs.copy_(mine)
        copy(ours.rpn.convs[0][0], peer.rpn.head.conv[0][0], 1)
        copy(ours.rpn.objectness, peer.rpn.head.cls_logits, 30)
        copy(ours.rpn.deltas, peer.rpn.head.bbox_pred, 30)
        copy(ours.box_head.fcs[0], peer.roi_heads.box_head.fc6, 1)
        copy(ours.box_head.fcs[2], peer.roi_heads.box_head.fc7, 1)
        copy(ours.box_head.classes, peer.roi_heads.box_predictor.classes, 30)
        copy(ours.box_head.deltas, peer.roi_heads.box_predictor.deltas, 1)
        batch = random_batch((1,))
        (expected,) = peer([batch.images[0] / 255])
    (found,) = ours.eval().detect(batch)
    assert len(found.boxes) >= 5
    assert torch.equal(found.labels, expected["labels"] - 1)
    torch.testing.assert_close(found.scores, expected["scores"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.boxes, expected["boxes"], rtol=1e-4, atol=1e-3)


class Predictor(nn.Module):
    """Ours in torchvision's order: background first."""

    def __init__(self, width, num_classes):
        super().__init__()
        self.classes = nn.Linear(width, num_classes + 1)
        self.deltas = nn.Linear(width, 4 * num_classes)

    def forward(self, hidden):
        deltas = self.deltas(hidden)
        return self.classes(hidden).roll(1, dims=1), torch.cat([torch.zeros_like(deltas[:, :4]), deltas], 1)


def copy(mine, theirs, factor):
    """Make ours bolder, so that something is found, and theirs the same."""
    mine.weight *= factor
    theirs.load_state_dict(mine.state_dict())


def test_a_feature_pyramid_can_be_switched_off_in_any_recipe():
    options = tiny_options(fpn=None)
    assert options.rpn.anchor_sizes == tiny_options().rpn.anchor_sizes
    assert RECIPES["faster_rcnn_vgg16"]().model.fpn is None
