"""Every recipe of the paper equals paper.md 1.1 to 1.4 and 4 (column D1), one test for each field."""

import functools

import pytest
import torch
from torch import nn

from groundup.config import differences, vary
from groundup.engine.optimizer import parameter_rules
from groundup.engine.schedule import drop_points, lr_at, total_images, warmup_length
from groundup.models.norm import GroupNorm, SyncBatchNorm
from groundup.models.rcnn import build_detector
from groundup.recipes import RECIPES

COCO = 118_287
NORMS = {
    "mask_rcnn_r50_fpn_gn": "gn",
    "mask_rcnn_r101_fpn_gn": "gn",
    "mask_rcnn_x101_fpn_gn": "gn",
    "mask_rcnn_x152_fpn_gn": "gn",
    "mask_rcnn_r50_fpn_syncbn": "syncbn",
    "mask_rcnn_r101_fpn_syncbn": "syncbn",
    "faster_rcnn_r50_fpn_gn": "gn",
    "faster_rcnn_r101_fpn_gn": "gn",
    "faster_rcnn_vgg16": "none",
}
NETWORKS = {
    "r50": "resnet50",
    "r101": "resnet101",
    "x101": "resnext101_32x8d",
    "x152": "resnext152_32x8d",
    "vgg16": "vgg16",
}
PYRAMIDS = sorted(name for name in NORMS if "fpn" in name)
CLASSES = {"gn": GroupNorm, "syncbn": SyncBatchNorm}

papers = pytest.mark.parametrize("name", sorted(NORMS))
pyramids = pytest.mark.parametrize("name", PYRAMIDS)


@functools.cache
def detector(name):
    """The recipe's detector without memory; tests only read it."""
    with torch.device("meta"):
        return build_detector(
            RECIPES[name]().model, num_classes=80, pixel_mean=(0.5,) * 3, pixel_std=(0.5,) * 3
        )


def rules(name):
    return {
        path: getattr(module, "init_rule", None)
        for path, module in detector(name).named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    }


# 1.1 detector and normalisation


@papers
def test_the_backbone_is_the_one_the_name_says(name):
    assert RECIPES[name]().model.backbone.name == NETWORKS[name.split("_")[2]]


@papers
def test_masks_are_predicted_where_the_name_says(name):
    assert (RECIPES[name]().model.mask_head is not None) == name.startswith("mask")


@pyramids
def test_a_norm_follows_every_convolution_of_the_backbone(name):
    body = detector(name).backbone.body
    convs = [module for module in body.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in body.modules() if isinstance(module, CLASSES[NORMS[name]])]
    assert len(convs) == len(norms)
    assert all(conv.bias is None for conv in convs)


@pyramids
def test_a_norm_follows_every_convolution_of_the_pyramid_whose_bias_is_dropped(name):
    fpn = detector(name).fpn
    for block in [*fpn.laterals, *fpn.outputs]:
        assert [type(layer) for layer in block] == [nn.Conv2d, CLASSES[NORMS[name]]]
        assert block[0].bias is None


@papers
def test_the_rpn_has_no_norm(name):
    layers = [type(module) for module in detector(name).rpn.modules()]
    assert not [layer for layer in layers if "Norm" in layer.__name__]
    assert layers.count(nn.Conv2d) == 3


@pyramids
def test_the_box_head_has_four_convolutions_with_norms_and_one_layer_of_1024_without(name):
    head = detector(name).box_head
    assert [[type(layer) for layer in block] for block in head.convs] == [
        [nn.Conv2d, CLASSES[NORMS[name]]]
    ] * 4
    assert [type(block[1].activation) for block in head.convs] == [nn.ReLU] * 4
    assert {block[0].out_channels for block in head.convs} == {256}
    assert [type(layer) for layer in head.fcs] == [nn.Linear, nn.ReLU]
    assert (head.fcs[0].in_features, head.fcs[0].out_features) == (256 * 49, 1024)


@pytest.mark.parametrize("name", [name for name in PYRAMIDS if name.startswith("mask")])
def test_the_mask_head_has_norms_on_its_four_convolutions_alone(name):
    head = detector(name).mask_head
    assert [[type(layer) for layer in block] for block in head.convs] == [
        [nn.Conv2d, CLASSES[NORMS[name]]]
    ] * 4
    assert [type(block[1].activation) for block in head.convs] == [nn.ReLU] * 4
    assert (head.upsample.kernel_size, head.upsample.stride) == ((2, 2), (2, 2))
    assert head.masks.out_channels == 80


@pyramids
def test_group_norms_have_32_groups_and_eps_1e_5(name):
    for module in detector(name).modules():
        if isinstance(module, GroupNorm):
            assert (module.num_groups, module.eps) == (32, 1e-5)


@pyramids
def test_the_stride_of_a_bottleneck_is_on_its_3x3_convolution(name):
    assert not RECIPES[name]().model.backbone.stride_in_1x1
    block = detector(name).backbone.body.layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize("name", ["mask_rcnn_x101_fpn_gn", "mask_rcnn_x152_fpn_gn"])
def test_resnexts_have_32_groups_of_8(name):
    for stage, layer in enumerate(("layer1", "layer2", "layer3", "layer4")):
        for block in getattr(detector(name).backbone.body, layer):
            assert (block.conv2.groups, block.conv2.out_channels) == (32, 32 * 8 * 2**stage)


# 1.2 initialisation


@pyramids
def test_backbone_and_pyramid_are_drawn_by_xavier_fill(name):
    found = rules(name)
    assert {rule for path, rule in found.items() if path.startswith("backbone")} == {
        "kaiming_uniform(a=1, fan_in), bias 0: Caffe2 XavierFill, Detectron"
    }
    assert {rule for path, rule in found.items() if path.startswith("fpn")} == {"detectron: xavier_fill"}


@papers
def test_the_rpn_is_drawn_with_deviation_001(name):
    drawn = {rule.split(": ")[1] for path, rule in rules(name).items() if path.startswith("rpn")}
    assert drawn == {"normal_0.01"}


@papers
def test_predictors_of_the_box_head_are_drawn_with_deviations_001_and_0001(name):
    found = rules(name)
    assert found["box_head.classes"].endswith("normal_0.01")
    assert found["box_head.deltas"].endswith("normal_0.001")


@pyramids
def test_convolutions_of_heads_are_drawn_by_msra_fill_and_the_fc_by_xavier_fill(name):
    found = rules(name)
    assert {r for p, r in found.items() if "convs" in p and "head" in p} == {"detectron: msra_fill"}
    assert {r for p, r in found.items() if ".fcs." in p} == {"detectron: xavier_fill"}
    assert {r for p, r in found.items() if p.startswith("mask_head")} <= {"detectron: msra_fill"}


@pyramids
def test_every_gamma_begins_at_one_the_last_of_a_block_too(name):
    # Without weights on a device only the rule can be read; `test_trap_laws` reads the numbers.
    norms = [m for m in detector(name).modules() if isinstance(m, CLASSES[NORMS[name]])]
    assert {module.init_rule for module in norms} == {"gamma 1, beta 0"}


def test_vgg16_is_drawn_by_msra_fill_fcs_and_all():
    found = rules("faster_rcnn_vgg16")
    assert {r for p, r in found.items() if p.startswith("backbone")} == {
        "kaiming_normal(fan_out, relu), bias 0: Caffe2 MSRAFill, Detectron2 and torchvision"
    }
    assert {r for p, r in found.items() if ".fcs." in p} == {"detectron_msra: msra_fill"}


# 1.3 optimisation


@papers
def test_a_step_has_16_images_2_a_group(name):
    recipe = RECIPES[name]()
    assert (recipe.training.schedule.batch_size, recipe.model.loss_images) == (16, 2)


@papers
def test_rate_momentum_and_decay_are_002_09_and_1e_4(name):
    recipe = RECIPES[name]()
    optimizer = recipe.training.optimizer
    assert recipe.training.schedule.lr == 0.02
    assert (optimizer.name, optimizer.momentum, optimizer.nesterov) == ("sgd", 0.9, False)
    assert optimizer.weight_decay == 1e-4


@papers
def test_gradients_are_not_clipped_and_weights_not_averaged(name):
    optimizer = RECIPES[name]().training.optimizer
    assert (optimizer.clip, optimizer.ema_decay) == ("none", None)


@papers
@pytest.mark.parametrize("units", [2, 3, 4, 5, 6, 9, 11])
def test_the_rate_falls_60k_and_20k_steps_before_the_end_whatever_the_length(name, units):
    schedule = vary(RECIPES[name]().training.schedule, {"units": float(units)})
    steps = units * 90_000
    assert total_images(schedule, COCO) == steps * 16
    assert drop_points(schedule, COCO) == ((steps - 60_000) * 16, (steps - 20_000) * 16)
    rates = [lr_at(step * 16, schedule, COCO) for step in (steps - 60_001, steps - 60_000, steps - 20_000)]
    assert rates == pytest.approx([0.02, 0.002, 0.0002])


@papers
def test_warm_up_is_linear_from_a_third_over_500_steps(name):
    schedule = RECIPES[name]().training.schedule
    assert warmup_length(schedule, COCO) == 500 * 16
    rates = [lr_at(step * 16, schedule, COCO) for step in (0, 250, 500)]
    assert rates == pytest.approx([0.02 / 3, 0.02 * 2 / 3, 0.02])


@papers
def test_lengths_begin_at_2x_and_vgg16_has_11x(name):
    assert RECIPES[name]().training.schedule.units == (11 if "vgg16" in name else 2)


@papers
def test_images_have_a_short_side_of_800_and_a_long_one_of_1333(name):
    transforms = RECIPES[name]().transforms
    scales = (640, 672, 704, 736, 768, 800) if "vgg16" in name else (800,)
    assert (transforms.short_side, transforms.max_side) == (scales, 1333)
    assert (transforms.test_short_side, transforms.test_max_side) == (800, 1333)


@papers
def test_flips_are_the_only_other_augmentation(name):
    transforms = RECIPES[name]().transforms
    assert transforms.flip == 0.5
    assert (transforms.large_scale_jitter, transforms.crop) == (None, None)


@papers
def test_biases_learn_twice_as_fast_without_decay_and_norms_have_none(name):
    model = detector(name)
    found = parameter_rules(model, RECIPES[name]().training.optimizer)
    norms = {
        f"{path}.{leaf}"
        for path, module in model.named_modules()
        if isinstance(module, GroupNorm | SyncBatchNorm)
        for leaf in ("weight", "bias")
    }
    assert set(found) == {path for path, _ in model.named_parameters()}
    for path, rule in found.items():
        if path.endswith(".bias"):
            assert rule == (2.0, 0.0), path
        else:
            assert rule == (1.0, 0.0 if path in norms else 1e-4), path


# 1.4 frozen layers


@papers
def test_nothing_is_frozen_from_scratch(name):
    start = RECIPES[name]().start
    assert (start.weights, start.frozen_stages) == (None, 0)


def test_arms_of_one_system_differ_in_their_start_alone():
    scratch = RECIPES["mask_rcnn_r50_fpn_gn"]()
    tuned = vary(scratch, {"start.weights": "weights.pth", "start.frozen_stages": 2})
    assert set(differences([scratch, tuned])) == {"start.weights", "start.frozen_stages"}


# 4 column D1


@pyramids
def test_anchors_are_those_of_detectron(name):
    rpn = RECIPES[name]().model.rpn
    assert rpn.anchor_sizes == ((32,), (64,), (128,), (256,), (512,))
    assert rpn.anchor_ratios == (0.5, 1, 2)
    assert (rpn.anchor_rounding, rpn.anchor_straddling, rpn.anchor_stride) == (True, False, "level")
    assert detector(name).rpn.strides == (4, 8, 16, 32, 64)


@papers
def test_anchors_are_matched_and_sampled_as_in_detectron(name):
    rpn = RECIPES[name]().model.rpn
    assert (rpn.fg_iou, rpn.bg_iou) == (0.7, 0.3)
    assert (rpn.anchors_per_image, rpn.positive_fraction, rpn.loss_divisor) == (256, 0.5, "fixed")
    assert (rpn.smooth_l1_beta, rpn.box_weights) == (pytest.approx(1 / 9), (1, 1, 1, 1))


@pyramids
def test_proposals_are_counted_as_in_detectron(name):
    rpn = RECIPES[name]().model.rpn
    assert (rpn.pre_nms_train, rpn.pre_nms_test) == (2000, 1000)
    assert (rpn.post_nms_train, rpn.post_nms_test, rpn.post_nms_scope) == (2000, 1000, "group")
    assert rpn.nms_threshold == 0.7


@papers
def test_rois_are_sampled_as_in_detectron(name):
    rois = RECIPES[name]().model.rois
    assert (rois.rois_per_image, rois.positive_fraction, rois.append_gt) == (512, 0.25, True)
    assert (rois.fg_iou, rois.bg_iou) == (0.5, 0.5)


@papers
def test_boxes_are_coded_and_judged_as_in_detectron(name):
    head = RECIPES[name]().model.box_head
    assert (head.box_weights, head.smooth_l1_beta, head.class_agnostic) == ((10, 10, 5, 5), 1.0, False)


@papers
def test_rois_are_pooled_7_by_7_with_two_samples_and_masks_14_by_14(name):
    model = RECIPES[name]().model
    pools = [model.box_head.pool] + ([model.mask_head.pool] if model.mask_head else [])
    assert [pool.resolution for pool in pools] == [7, 14][: len(pools)]
    assert {(pool.sampling_ratio, pool.aligned) for pool in pools} == {(2, False)}
    assert {(pool.level_eps, pool.level_eps_in_log) for pool in pools} == {(1e-6, True)}


@papers
def test_detections_are_cut_at_005_nms_05_and_the_best_100(name):
    head = RECIPES[name]().model.box_head
    assert (head.score_threshold, head.nms_threshold, head.max_detections) == (0.05, 0.5, 100)


# 1.6 VGG-16


def test_vgg16_has_no_pyramid_and_its_head_two_layers_of_4096_on_7_by_7_cells_of_stride_16():
    recipe = RECIPES["faster_rcnn_vgg16"]()
    model = detector("faster_rcnn_vgg16")
    assert recipe.model.fpn is None
    assert model.rpn.strides == model.backbone.strides == (16,)
    assert [type(layer) for layer in model.box_head.fcs] == [nn.Linear, nn.ReLU] * 2
    widths = [(layer.in_features, layer.out_features) for layer in model.box_head.fcs[::2]]
    assert widths == [(512 * 49, 4096), (4096, 4096)]
    assert not model.box_head.convs
    assert sorted(size for level in recipe.model.rpn.anchor_sizes for size in level) == [
        32,
        64,
        128,
        256,
        512,
    ]


def test_vgg16_proposes_of_each_image_as_detectron_does_without_a_pyramid():
    rpn = RECIPES["faster_rcnn_vgg16"]().model.rpn
    assert (rpn.pre_nms_train, rpn.pre_nms_test) == (12_000, 6000)
    assert (rpn.post_nms_train, rpn.post_nms_test, rpn.post_nms_scope) == (2000, 1000, "image")


def test_vgg16_has_no_norm_and_no_dropout_anywhere():
    for module in detector("faster_rcnn_vgg16").modules():
        assert "Norm" not in type(module).__name__
        assert "Dropout" not in type(module).__name__
