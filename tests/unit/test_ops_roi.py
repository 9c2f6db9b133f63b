"""NMS and levels against torchvision."""

import sys

import pytest
import torch
import torchvision
from torchvision.ops import batched_nms
from torchvision.ops.poolers import LevelMapper

from groundup.ops.roi import fpn_levels, nms, ranks_within, roi_align, roi_align_levels


def some_boxes(num, seed, extent=200.0):
    generator = torch.Generator().manual_seed(seed)
    starts = torch.rand(num, 2, generator=generator) * extent
    return torch.cat([starts, starts + 4 + torch.rand(num, 2, generator=generator) * extent / 2], dim=1)


def test_nms_equals_torchvisions():
    boxes = some_boxes(500, 0)
    scores = torch.rand(500, generator=torch.Generator().manual_seed(1))
    groups = torch.arange(500) % 7
    assert torch.equal(nms(boxes, scores, groups, 0.5), batched_nms(boxes, scores, groups, 0.5))


def test_nms_of_nothing_is_nothing():
    nothing = torch.zeros(0)
    assert len(nms(torch.zeros(0, 4), nothing, nothing.long(), 0.5)) == 0


def test_equal_scores_survive_in_their_order():
    boxes = torch.tensor([[0.0, 0.0, 5.0, 5.0], [20.0, 0.0, 25.0, 5.0], [40.0, 0.0, 45.0, 5.0]])
    groups = torch.tensor([2, 0, 1])
    assert nms(boxes, torch.ones(3), groups, 0.5).tolist() == [0, 1, 2]


def test_ranks_count_within_groups():
    assert ranks_within(torch.tensor([1, 0, 1, 1, 0]), 3).tolist() == [0, 0, 1, 2, 1]
    assert ranks_within(torch.zeros(0, dtype=torch.int64), 3).tolist() == []


def test_levels_equal_torchvisions_also_at_the_bounds():
    sides = torch.tensor([1.0, 55.9, 56.0, 111.99, 112.0, 223.999, 224.0, 448.0, 896.0, 5000.0])
    boxes = torch.cat([torch.zeros(10, 2), sides[:, None].repeat(1, 2)], dim=1)
    expected = LevelMapper(2, 5)([boxes])
    assert torch.equal(fpn_levels(boxes, 4, eps=1e-6, is_eps_in_log=False), expected)
    assert fpn_levels(torch.zeros(1, 4), 4, eps=1e-8, is_eps_in_log=True).tolist() == [0]


@pytest.fixture
def deterministic_roi_align(monkeypatch):
    """torchvision's RoIAlign as a GPU has it where kernels must be deterministic: written in Python."""
    form = sys.modules["torchvision.ops.roi_align"]._roi_align.__wrapped__

    def align(features, rois, size, scale, sampling_ratio, is_aligned):
        return form(features, rois, scale, size, size, sampling_ratio, is_aligned)

    monkeypatch.setattr(torchvision.ops, "roi_align", align)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("is_aligned", [False, True])
def test_levels_do_not_mix_where_a_gpu_must_be_deterministic(is_aligned, deterministic_roi_align):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 3, side, side, generator=generator, requires_grad=True) for side in (32, 16)]
    boxes, images = some_boxes(6, 2, extent=50.0), torch.arange(6) % 2
    levels, options = (
        torch.tensor([0, 1, 0, 1, 1, 0]),
        {"size": 3, "sampling_ratio": 2, "is_aligned": is_aligned},
    )
    pooled = roi_align_levels(maps, boxes, images, levels, scales=[1 / 4, 1 / 8], **options)
    for row, level in enumerate(levels.tolist()):
        one = slice(row, row + 1)
        alone = roi_align(maps[level], boxes[one], images[one], scale=1 / (4, 8)[level], **options)
        torch.testing.assert_close(pooled[one], alone)
    rows = images == 0
    pooled[rows].sum().backward()
    assert not maps[0].grad[1].any()
