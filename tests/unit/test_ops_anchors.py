"""Anchors against torchvision's generator, and their names."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator

from groundup.ops.anchors import anchor_codes, base_anchors, grid_anchors


@pytest.mark.parametrize("sizes", [(32.0,), (16.0, 24.0)])
def test_anchors_equal_torchvisions(sizes):
    ratios = (0.5, 1.0, 2.0)
    generator = AnchorGenerator(sizes=(sizes,), aspect_ratios=(ratios,))
    base = base_anchors(sizes, ratios, is_rounded=True)
    assert torch.equal(base, generator.cell_anchors[0])
    (expected,) = generator.grid_anchors([[5, 7]], [[torch.tensor(8), torch.tensor(8)]])
    assert torch.equal(grid_anchors(base, (5, 7), (8, 8)), expected)


def test_unrounded_anchors_have_the_area_and_ratio_asked_for():
    anchors = base_anchors((32.0,), (0.5, 2.0), is_rounded=False)
    sides = anchors[:, 2:] - anchors[:, :2]
    torch.testing.assert_close(sides.prod(dim=1), torch.full((2,), 1024.0))
    torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 2.0]))


def test_codes_are_unique_and_do_not_change_with_padding():
    small = torch.cat([anchor_codes(3, (4, 5), 0), anchor_codes(3, (2, 3), 1)])
    assert small.unique().numel() == small.numel()
    large = anchor_codes(3, (6, 9), 0).view(6, 9, 3)
    assert torch.equal(large[:4, :5].flatten(), anchor_codes(3, (4, 5), 0))
