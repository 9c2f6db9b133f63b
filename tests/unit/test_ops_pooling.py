"""RoIAlign over a pyramid against torchvision's, values and gradients."""

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align

from groundup.ops.pooling import build_roi_maps, pool_levels
from groundup.ops.roi import fpn_levels, roi_align_levels

STRIDES = (4, 8, 16, 32)


def some_boxes(num, seed, extent=250.0):
    generator = torch.Generator().manual_seed(seed)
    starts = torch.rand(num, 2, generator=generator) * extent
    sides = 1 + torch.rand(num, 2, generator=generator) ** 3 * extent
    return torch.cat([starts, (starts + sides).clamp(max=256)], dim=1)


def some_maps(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, 3, 64 // 2**k, 48 // 2**k, generator=generator, requires_grad=True) for k in range(4)
    ]


def pool(maps, boxes, images, **options):
    levels = fpn_levels(boxes, 4, eps=1e-6, is_eps_in_log=False)
    return pool_levels(build_roi_maps(maps, STRIDES), boxes, images, levels, **options)


@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [1, 7])
def test_pooling_equals_torchvisions_in_values_and_gradients(sampling_ratio, size):
    boxes, images = [some_boxes(20, 5), some_boxes(10, 6)], torch.tensor([0] * 20 + [1] * 10)
    theirs, ours = some_maps(), some_maps()
    expected = MultiScaleRoIAlign(["0", "1", "2", "3"], size, sampling_ratio)(
        {str(k): level for k, level in enumerate(theirs)}, boxes, [(256, 192)] * 2
    )
    pooled = pool(ours, torch.cat(boxes), images, size=size, sampling_ratio=sampling_ratio, is_aligned=False)
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1))
    (pooled * weights).sum().backward()
    (expected * weights).sum().backward()
    for our_map, their_map in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our_map.grad, their_map.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_aligned", [True, False])
def test_boxes_at_and_beyond_the_border_are_pooled_as_torchvision_does(is_aligned):
    boxes = torch.tensor(
        [[-40.0, -40.0, 60.0, 50.0], [180.0, 240.0, 230.0, 300.0], [0.0, 0.0, 192.0, 256.0],
         [5.0, 5.0, 5.0, 5.0], [191.0, 255.0, 192.0, 256.0]]
    )  # fmt: skip
    images = torch.tensor([0, 1, 0, 1, 1])
    maps = some_maps()
    pooled = pool(maps, boxes, images, size=7, sampling_ratio=2, is_aligned=is_aligned)
    levels = fpn_levels(boxes, 4, eps=1e-6, is_eps_in_log=False).tolist()
    for row, level in enumerate(levels):
        roi = torch.cat([images[row : row + 1].float(), boxes[row]])[None]
        expected = roi_align(maps[level], roi, 7, 1 / STRIDES[level], 2, is_aligned)[0]
        torch.testing.assert_close(pooled[row], expected, rtol=1e-5, atol=1e-5)


def test_no_boxes_pool_to_nothing():
    nothing = torch.zeros(0, dtype=torch.int64)
    pooled = pool(some_maps(), torch.zeros(0, 4), nothing, size=7, sampling_ratio=2, is_aligned=False)
    assert pooled.shape == (0, 3, 7, 7)


def test_maps_of_lower_precision_are_pooled_in_float32():
    maps = build_roi_maps([level.detach().bfloat16() for level in some_maps()], STRIDES)
    assert maps.table.dtype == torch.float32


@pytest.mark.parametrize("is_aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_all_boxes_on_every_map_give_each_box_its_own_map(sampling_ratio, is_aligned):
    boxes, images = torch.cat([some_boxes(20, 5), some_boxes(10, 6)]), torch.tensor([0] * 20 + [1] * 10)
    levels = torch.arange(len(boxes)) % 4
    options = {"size": 7, "sampling_ratio": sampling_ratio, "is_aligned": is_aligned}
    ones, others = some_maps(), some_maps()
    scales = [1 / stride for stride in STRIDES]
    pooled = roi_align_levels(ones, boxes, images, levels, scales=scales, **options)
    expected = pool_levels(build_roi_maps(others, STRIDES), boxes, images, levels, **options)
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1))
    (pooled * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(ones, others, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-5)
