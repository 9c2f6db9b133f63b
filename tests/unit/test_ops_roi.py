"""NMS and levels against torchvision."""

import torch
from torchvision.ops import batched_nms
from torchvision.ops.poolers import LevelMapper

from groundup.ops.roi import fpn_levels, nms, ranks_within


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
