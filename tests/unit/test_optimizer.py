"""Which parameters decay and how fast they learn, clipping, averaging, state by name."""

import pytest
import torch
from torch import nn

from asks import NoCopies
from groundup.engine.optimizer import (
    OptimizerOptions,
    apply_lr,
    build_average,
    build_optimizer,
    clip_gradients,
    gradient_norm,
    load_optimizer_state,
    optimizer_state,
    parameter_rules,
    update_average,
)
from groundup.errors import CheckpointError, UsageError


def some_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2))


def backward(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model.zero_grad()
    model(torch.rand(2, 3, 8, 8, generator=generator)).square().mean().backward()


@pytest.mark.parametrize(
    ("preset", "weight", "bias", "norm_weight", "norm_bias"),
    [
        ("detectron", (1.0, 1e-4), (2.0, 0.0), (1.0, 0.0), (2.0, 0.0)),
        ("detectron2", (1.0, 1e-4), (1.0, 1e-4), (1.0, 0.0), (1.0, 0.0)),
        ("torchvision", (1.0, 1e-4), (1.0, 1e-4), (1.0, 1e-4), (1.0, 1e-4)),
    ],
)
def test_presets_treat_biases_and_norms_as_the_published_systems(
    preset, weight, bias, norm_weight, norm_bias
):
    rules = parameter_rules(some_model(), OptimizerOptions(preset=preset))
    assert rules["0.weight"] == weight
    assert rules["0.bias"] == bias
    assert rules["1.weight"] == rules["3.weight"] == norm_weight
    assert rules["1.bias"] == norm_bias


def test_sgd_is_torchs_own_with_everything_alike():
    ours, theirs = some_model(), some_model()
    optimizer = build_optimizer(ours, OptimizerOptions(preset="torchvision"))
    peer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for seed in range(3):
        apply_lr(optimizer, 0.1)
        for model, one in ((ours, optimizer), (theirs, peer)):
            backward(model, seed)
            one.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_frozen_parameters_stay_as_they_are():
    model = some_model()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    optimizer = build_optimizer(model, OptimizerOptions())
    apply_lr(optimizer, 0.1)
    backward(model, 0)
    optimizer.step()
    assert torch.equal(model[0].weight, before)
    model.requires_grad_(False)
    with pytest.raises(UsageError, match="all are frozen"):
        build_optimizer(model, OptimizerOptions())


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_state_put_back_by_name_goes_on_as_if_nothing_happened(name):
    options = OptimizerOptions(name=name)
    straight, broken = some_model(), some_model()
    optimizers = [build_optimizer(model, options) for model in (straight, broken)]
    for step in range(4):
        if step == 2:
            tensors = {key: value.clone() for key, value in optimizer_state(broken, optimizers[1]).items()}
            optimizers[1] = build_optimizer(broken, options)
            load_optimizer_state(broken, optimizers[1], tensors)
        for model, optimizer in zip((straight, broken), optimizers, strict=True):
            apply_lr(optimizer, 0.01)
            backward(model, step)
            optimizer.step()
    for a, b in zip(straight.parameters(), broken.parameters(), strict=True):
        assert torch.equal(a, b)


def test_state_is_named_after_parameters():
    model = some_model()
    optimizer = build_optimizer(model, OptimizerOptions())
    apply_lr(optimizer, 0.01)
    backward(model, 0)
    optimizer.step()
    names = optimizer_state(model, optimizer)
    assert set(names) == {f"{name}.momentum_buffer" for name, _ in model.named_parameters()}
    with pytest.raises(CheckpointError, match="no such trained parameter"):
        load_optimizer_state(model, optimizer, {"5.weight.momentum_buffer": torch.zeros(1)})


def test_clipping_bounds_the_norm_and_the_values():
    model = some_model()
    parameters = list(model.parameters())
    backward(model, 0)
    norm = gradient_norm(parameters)
    clip_gradients(parameters, norm, OptimizerOptions(clip="norm", clip_at=norm.item() / 2))
    assert gradient_norm(parameters).item() == pytest.approx(norm.item() / 2, rel=1e-4)
    clip_gradients(parameters, norm, OptimizerOptions(clip="value", clip_at=1e-3))
    assert max(p.grad.abs().max().item() for p in parameters) <= 1.001e-3
    with pytest.raises(ValueError, match="both or neither"):
        OptimizerOptions(clip="norm")


def test_averaged_weights_follow_the_formula():
    model = some_model()
    average = build_average(model, OptimizerOptions(ema_decay=0.75))
    average.update_parameters(model)
    expected = model[0].weight.detach().clone()
    for _ in range(3):
        with torch.no_grad():
            model[0].weight.add_(1.0)
        average.update_parameters(model)
        expected = 0.75 * expected + 0.25 * model[0].weight.detach()
    torch.testing.assert_close(average.module[0].weight, expected)
    assert build_average(model, OptimizerOptions()) is None


def test_averaged_weights_are_torchs_to_the_bit():
    model = some_model()
    ours, torchs = (build_average(model, OptimizerOptions(ema_decay=0.9)) for _ in range(2))
    for seed in range(4):
        backward(model, seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad)
        update_average(ours, model)
        torchs.update_parameters(model)
        for name, value in torchs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name


def test_averaging_moves_nothing_between_host_and_device():
    with torch.device("meta"):  # stands for a GPU
        model = some_model()
    average = build_average(model, OptimizerOptions(ema_decay=0.9))
    for _ in range(2):
        with NoCopies():
            update_average(average, model)
    with NoCopies(), pytest.raises(AssertionError, match="between host and device"):
        average.update_parameters(model)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_state_put_back_lies_in_memory_as_its_parameter_does(name):
    """A fused kernel walks weights, gradients and state in one order; on a GPU it refuses another."""
    models = [some_model().to(memory_format=torch.channels_last) for _ in range(2)]
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]
    extra = {"momentum": 0.9} if name == "sgd" else {}
    optimizers = [kind(model.parameters(), lr=0.1, fused=True, **extra) for model in models]
    backward(models[0], 0)
    optimizers[0].step()
    models[1].load_state_dict(models[0].state_dict())
    saved = {key: value.contiguous() for key, value in optimizer_state(models[0], optimizers[0]).items()}
    load_optimizer_state(models[1], optimizers[1], saved)
    for parameter, state in optimizers[1].state.items():
        assert all(value.stride() == parameter.stride() for value in state.values() if value.dim())
    for model, optimizer in zip(models, optimizers, strict=True):
        backward(model, 1)
        optimizer.step()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)
