"""Batch norm over processes: the numbers of one process, however images and RoIs are dealt."""

import pytest
import torch
from torch import nn

from groundup.engine.distributed import joined
from groundup.models.norm import build_norm
from processes import in_processes

CHANNELS = 6


def batch_of(num, dtype):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(num, CHANNELS, 4, 5, generator=generator, dtype=torch.float64) * 3 + 50
    weights = torch.randn(num, CHANNELS, 4, 5, generator=generator, dtype=torch.float64)
    return images.to(dtype), weights.to(dtype)


def two_steps(norm, images, weights):
    """Output, gradients and running statistics after two passes; the second batch is the first, halved."""
    outputs, gradients = [], []
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(2))
    for factor in (1.0, 0.5):
        seen = (images * factor).requires_grad_()
        output = norm(seen)
        (output * weights).square().sum().backward()
        outputs.append(output.detach())
        gradients.append(seen.grad)
    return outputs + gradients, [norm.weight.grad, norm.bias.grad], norm.state_dict()


def part_of(counts, dtype, memory_format, momentum):
    with joined(30.0) as world:
        first = sum(counts[: world.rank])
        images, weights = (
            values[first : first + counts[world.rank]].to(memory_format=memory_format)
            for values in batch_of(sum(counts), dtype)
        )
        norm = build_norm("syncbn", CHANNELS, momentum=momentum).to(dtype)
        return two_steps(norm, images, weights)


@pytest.mark.parametrize(
    ("counts", "dtype", "momentum"),
    [
        ((3, 3), torch.float64, 0.1),
        ((5, 1), torch.float32, 0.1),
        ((0, 4), torch.float32, None),
        ((2, 0, 3, 1), torch.float64, 0.1),
    ],
)
def test_processes_equal_one_process_with_the_whole_batch(counts, dtype, momentum):
    plain = nn.BatchNorm2d(CHANNELS, momentum=momentum).to(dtype)
    rows, parameters, state = two_steps(plain, *batch_of(sum(counts), dtype))
    parts = in_processes(len(counts), part_of, counts, dtype, torch.channels_last, momentum)
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 2e-4}
    for number, whole in enumerate(rows):
        joined_rows = torch.cat([part[0][number] for part in parts])
        torch.testing.assert_close(joined_rows, whole, **tolerance)
    for number, whole in enumerate(parameters):
        torch.testing.assert_close(sum(part[1][number] for part in parts), whole, rtol=1e-4, atol=1e-2)
    for _, _, their_state in parts:
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(their_state[name], state[name], rtol=1e-6, atol=1e-6)


def empty_everywhere():
    with joined(30.0):
        norm = build_norm("syncbn", CHANNELS)
        output = norm(torch.zeros(0, CHANNELS, 3, 3, requires_grad=True))
        output.sum().backward()
        return tuple(output.shape), norm.state_dict(), norm.weight.grad


@pytest.mark.parametrize("size", [1, 2])
def test_a_batch_without_anything_changes_nothing(size):
    untouched = build_norm("syncbn", CHANNELS).state_dict()
    for shape, state, gradient in in_processes(size, empty_everywhere):
        assert shape == (0, CHANNELS, 3, 3)
        torch.testing.assert_close(state, untouched, rtol=0, atol=0)
        assert not gradient.any()


def test_the_gradient_is_that_of_the_function():
    norm = build_norm("syncbn", 2).double()
    images = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    from groundup.models.norm import JointBatchNorm

    def normed(images, weight, bias):
        return JointBatchNorm.apply(images, weight, bias, norm.eps)[0]

    assert torch.autograd.gradcheck(normed, (images, norm.weight, norm.bias))


def test_lower_precision_is_kept():
    from groundup.models.norm import joint_batch_norm

    norm = build_norm("syncbn", CHANNELS)
    images = batch_of(3, torch.bfloat16)[0].to(memory_format=torch.channels_last).requires_grad_()
    output = joint_batch_norm(images, norm)
    assert output.dtype == torch.bfloat16
    assert output.is_contiguous(memory_format=torch.channels_last)
    output.float().sum().backward()
    assert images.grad.dtype == torch.bfloat16
