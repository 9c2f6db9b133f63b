import copy
import math

import pytest
import torch
from torch import nn

from groundup.errors import UsageError
from groundup.models.backbone import INIT_RULES, BackboneOptions, build_backbone
from groundup.models.norm import BatchNorm, FrozenBatchNorm, GroupNorm, SyncBatchNorm

CHANNELS = {
    "resnet18": (64, 128, 256, 512),
    "resnet34": (64, 128, 256, 512),
    "resnet10t": (64, 128, 256, 512),
    "mobilenetv2_100": (24, 32, 96, 320),
    "tf_efficientnet_lite0": (24, 40, 112, 320),
    "mobilenetv3_large_100": (24, 40, 112, 960),
    "regnety_004": (48, 104, 208, 440),
}
CLASSES = {"gn": GroupNorm, "syncbn": SyncBatchNorm, "bn": BatchNorm, "frozen_bn": FrozenBatchNorm}


def built(name="resnet18", norm="gn", **changes):
    torch.manual_seed(0)
    return build_backbone(BackboneOptions(name=name, norm=norm, **changes))


def image(height=64, width=96):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CHANNELS)
def test_features_come_at_strides_4_to_32_with_the_channels_told(name):
    backbone = built(name)
    assert backbone.channels == CHANNELS[name]
    assert backbone.strides == (4, 8, 16, 32)
    with torch.no_grad():
        shapes = [tuple(feature.shape) for feature in backbone(image())]
    expected = zip(backbone.channels, backbone.strides, strict=True)
    assert shapes == [(1, channels, 64 // stride, 96 // stride) for channels, stride in expected]


@pytest.mark.parametrize("name", ["resnet50", "resnet101", "resnext101_32x8d"])
def test_the_large_backbones_have_the_channels_of_the_paper(name):
    with torch.device("meta"):
        assert built(name).channels == (256, 512, 1024, 2048)


@pytest.mark.parametrize("name", CHANNELS)
def test_the_stages_hold_every_weight_once(name):
    backbone = built(name)
    staged = [p for stage in backbone.stages for module in stage for p in module.parameters()]
    assert len(backbone.stages) == 5
    assert all(stage for stage in backbone.stages)
    assert [id(p) for p in staged] == [id(p) for p in backbone.parameters()]


@pytest.mark.parametrize("norm", CLASSES)
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100"])
def test_every_norm_is_of_the_kind_asked_for(name, norm):
    norms = [m for m in built(name, norm).modules() if "Norm" in type(m).__name__]
    assert norms
    assert {type(m) for m in norms} == {CLASSES[norm]}


def test_no_norm_leaves_no_norm():
    assert not [m for m in built(norm="none").modules() if "Norm" in type(m).__name__]


def test_group_norms_of_resnets_have_32_groups_and_eps_1e_5():
    norms = [m for m in built("resnet50").modules() if isinstance(m, GroupNorm)]
    assert len(norms) == 53
    assert {(m.num_groups, m.eps) for m in norms} == {(32, 1e-5)}


@pytest.mark.parametrize("norm", ["bn", "frozen_bn", "syncbn"])
def test_the_eps_of_tensorflow_models_survives(norm):
    eps = {m.eps for m in built("tf_efficientnet_lite0", norm).modules() if isinstance(m, CLASSES[norm])}
    assert eps == {1e-3}


@pytest.mark.parametrize("norm", ["bn", "frozen_bn", "syncbn"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100", "tf_efficientnet_lite0", "regnety_004"])
def test_substitution_changes_no_feature(name, norm):
    import timm

    torch.manual_seed(1)
    original = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4)).train()
    with torch.no_grad():
        original(torch.randn(4, 3, 64, 64))
        original.eval()
        backbone = built(name, norm)
        outcome = backbone.body.load_state_dict(original.state_dict(), strict=False)
        assert not outcome.missing_keys
        assert all(key.endswith("num_batches_tracked") for key in outcome.unexpected_keys)
        # In float64: in float32 the channels-last layout of depthwise networks rounds otherwise.
        backbone.eval().double()
        expected = original.double()(image().double())
        torch.testing.assert_close(backbone(image().double()), expected, rtol=1e-9, atol=1e-10)


def test_the_stride_is_on_the_3x3_convolution():
    block = built("resnet50").body.layer2[0]
    assert block.conv1.stride == (1, 1)
    assert (block.conv2.kernel_size, block.conv2.stride) == ((3, 3), (2, 2))


@pytest.mark.parametrize("name", ["resnet18", "resnet50_gn", "mobilenetv2_100"])
def test_every_gamma_is_one_and_every_beta_zero(name):
    for module in built(name).modules():
        if isinstance(module, GroupNorm):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


@pytest.mark.parametrize("rule", ["xavier", "msra"])
def test_convolutions_are_drawn_by_the_rule(rule):
    for module in built("resnet50", init=rule).modules():
        if isinstance(module, nn.Conv2d):
            area = math.prod(module.kernel_size)
            deviation = module.weight.std().item()
            if rule == "xavier":
                bound = math.sqrt(3 / (module.in_channels * area))
                assert module.weight.abs().max() <= bound
                assert deviation == pytest.approx(bound / math.sqrt(3), rel=0.05)
            else:
                assert deviation == pytest.approx(math.sqrt(2 / (module.out_channels * area)), rel=0.05)


@pytest.mark.parametrize("rule", INIT_RULES)
def test_every_module_with_weights_names_its_rule(rule):
    for module in built("regnety_004", init=rule).modules():
        if list(module.parameters(recurse=False)):
            assert isinstance(module.init_rule, str)


def test_frozen_stages_never_learn_and_keep_their_norms_in_evaluation():
    backbone = built("resnet18", "bn")
    backbone.freeze(2)
    backbone.train()
    frozen = [module for stage in backbone.stages[:2] for module in stage]
    assert not any(p.requires_grad for module in frozen for p in module.parameters())
    assert not any(inner.training for module in frozen for inner in module.modules())
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    sum(feature.sum() for feature in backbone(image())).backward()
    after = backbone.state_dict()
    moved = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"layer2", "layer3", "layer4"}
    assert all(p.grad is None for module in frozen for p in module.parameters())
    assert all(p.grad is not None for stage in backbone.stages[2:] for m in stage for p in m.parameters())


def test_dropout_and_stochastic_depth_are_off():
    backbone = built("tf_efficientnet_lite0").train()
    torch.testing.assert_close(backbone(image()), backbone(image()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "norm", "message"),
    [
        ("resnet5", "gn", "did you mean 'resnet"),
        ("vit_tiny_patch16_224", "gn", "strides 4, 8, 16 and 32"),
        ("swin_tiny_patch4_window7_224", "none", "features at strides"),
        ("convnext_atto", "gn", "norm=none"),
    ],
)
def test_a_backbone_that_cannot_be_is_refused_in_one_line(name, norm, message):
    with pytest.raises(UsageError, match=message) as caught:
        built(name, norm)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["convnext_atto", "vgg16"])
def test_models_without_batch_norm_are_backbones_with_norm_none(name):
    with torch.device("meta"):
        backbone = built(name, "none")
        shapes = [feature.shape[-1] for feature in backbone(torch.empty(1, 3, 64, 96))]
    assert shapes == [24, 12, 6, 3]
    assert all(stage for stage in backbone.stages)


def test_a_copy_freezes_its_own_stages():
    original = built("resnet18", "bn")
    copied = copy.deepcopy(original)
    copied.freeze(5)
    assert not any(p.requires_grad for p in copied.parameters())
    assert all(p.requires_grad for p in original.parameters())


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_the_layout_of_a_depthwise_backbone_changes_nothing_but_rounding(norm):
    backbone = built("tf_efficientnet_lite0", norm)
    assert backbone.is_depthwise
    assert not built("resnet18").is_depthwise
    # In float32 a unit may change sides of its threshold by rounding, and gradients jump: not in float64.
    images, found = torch.cat([image(), -image()]).double(), []
    for is_depthwise in (True, False):
        copied = copy.deepcopy(backbone).double()
        copied.is_depthwise = is_depthwise
        maps = copied(images)
        assert all(one.is_contiguous() for one in maps)
        sum(one.square().mean() for one in maps).backward()
        found.append([*maps, *(weight.grad for weight in copied.parameters())])
    for ours, plain in zip(*found, strict=True):
        assert (ours - plain).norm() <= 1e-8 * plain.norm() + 1e-12
    with torch.no_grad():
        ours = backbone.eval()(image())
        backbone.is_depthwise = False
        for one, plain in zip(ours, backbone(image()), strict=True):
            torch.testing.assert_close(one, plain, rtol=1e-4, atol=1e-4)
