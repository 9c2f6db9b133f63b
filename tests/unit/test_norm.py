import pytest
import torch
from torch import nn

from groundup.models.norm import BatchNorm, build_norm, num_groups

KINDS = ("gn", "syncbn", "bn", "frozen_bn", "none")


def features(channels=64, seed=0):
    return torch.randn(3, channels, 5, 7, generator=torch.Generator().manual_seed(seed)) * 3 + 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_the_shape_and_begins_with_gamma_one_and_beta_zero(kind):
    norm = build_norm(kind, 64)
    assert norm(features()).shape == (3, 64, 5, 7)
    state = norm.state_dict()
    for name, value in (("weight", 1.0), ("bias", 0.0)):
        if kind != "none":
            assert (state[name] == value).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_activation_comes_after_the_norm(kind):
    torch.testing.assert_close(
        build_norm(kind, 64, activation=nn.ReLU())(features()), build_norm(kind, 64)(features()).relu()
    )


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(64, 32), (256, 32), (2048, 32), (96, 32), (16, 8), (24, 12), (40, 20), (1, 1), (7, 1)],
)
def test_groups_are_32_where_the_channels_allow(channels, groups):
    assert num_groups(channels) == groups
    assert build_norm("gn", channels).eps == 1e-5


def test_group_norm_equals_its_formula():
    x = features()
    grouped = x.view(3, 32, -1)
    mean, variance = grouped.mean(2, keepdim=True), grouped.var(2, unbiased=False, keepdim=True)
    expected = ((grouped - mean) / (variance + 1e-5).sqrt()).view_as(x)
    torch.testing.assert_close(build_norm("gn", 64)(x), expected)


@pytest.mark.parametrize("training", [True, False])
def test_sync_batch_norm_is_batch_norm_in_one_process(training):
    sync, plain = build_norm("syncbn", 64, eps=1e-3), nn.BatchNorm2d(64, eps=1e-3)
    sync.train(training)
    plain.train(training)
    torch.testing.assert_close(sync(features()), plain(features()), rtol=0, atol=0)
    torch.testing.assert_close(sync.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_frozen_batch_norm_equals_batch_norm_in_evaluation_and_never_moves():
    plain = BatchNorm(64, eps=1e-3)
    for seed in range(3):
        plain(features(seed=seed))
    with torch.no_grad():
        plain.weight.uniform_(0.5, 2)
        plain.bias.normal_()
    frozen = build_norm("frozen_bn", 64, eps=1e-3)
    frozen.load_state_dict(plain.state_dict(), strict=False)
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    frozen.train()
    torch.testing.assert_close(frozen(features(seed=9)), plain.eval()(features(seed=9)))
    assert not list(frozen.parameters())
    torch.testing.assert_close(frozen.state_dict(), before, rtol=0, atol=0)


def test_frozen_batch_norm_keeps_the_dtype_and_the_memory_format():
    norm = build_norm("frozen_bn", 64)
    x = features().to(torch.bfloat16).to(memory_format=torch.channels_last)
    assert norm(x).dtype == torch.bfloat16
    assert norm(x).is_contiguous(memory_format=torch.channels_last)
