"""Matching against torchvision's Matcher, with ties, padding and candidates."""

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from groundup.ops.matching import match_boxes


def grid_boxes(num, seed):
    """Boxes with corners on a coarse grid, so that many IoUs tie."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, 6, (num, 2), generator=generator) * 8
    return torch.cat([starts, starts + 8 * torch.randint(1, 4, (num, 2), generator=generator)], 1).float()


def match(gt, labels, references, **options):
    defaults = {"fg_iou": 0.7, "bg_iou": 0.3, "keeps_best": True}
    return match_boxes(gt, labels, references, **(defaults | options))


@pytest.mark.parametrize("keeps_best", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_matches_equal_torchvisions(seed, keeps_best):
    gt, references = grid_boxes(6, seed), grid_boxes(200, seed + 100)
    found = match(gt[None], torch.zeros(1, 6, dtype=torch.int64), references[None], keeps_best=keeps_best)
    expected = Matcher(0.7, 0.3, allow_low_quality_matches=keeps_best)(box_iou(gt, references))
    assert torch.equal(found.is_positive[0], expected >= 0)
    assert torch.equal(found.is_negative[0], expected == Matcher.BELOW_LOW_THRESHOLD)
    positive = expected >= 0
    assert torch.equal(found.gt_index[0][positive], expected[positive])


def test_chunks_change_nothing():
    gt, references = grid_boxes(40, 0).view(2, 20, 4), grid_boxes(300, 1)[None]
    labels = torch.zeros(2, 20, dtype=torch.int64)
    whole = match(gt, labels, references)
    parts = match(gt, labels, references, pairs_at_once=1)
    for name in ("gt_index", "is_positive", "is_negative"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))


def test_padding_never_matches():
    gt = grid_boxes(3, 0)[None].repeat(2, 1, 1)
    labels = torch.tensor([[0, -1, -1], [-1, -1, -1]])
    found = match(gt, labels, gt, keeps_best=False)
    assert (found.gt_index[0][found.is_positive[0]] == 0).all()
    assert not found.is_positive[1].any()
    assert found.is_negative[1].all()


def test_no_slots_at_all_makes_all_negative():
    found = match(torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64), grid_boxes(4, 0)[None])
    assert found.is_negative.all()


def test_boxes_that_are_no_candidates_take_no_part():
    gt, references = grid_boxes(5, 0)[None], grid_boxes(50, 1)[None]
    is_candidate = torch.arange(50)[None] % 2 == 0
    labels = torch.zeros(1, 5, dtype=torch.int64)
    found = match(gt, labels, references, is_candidate=is_candidate)
    assert not (found.is_positive | found.is_negative)[~is_candidate].any()
    alone = match(gt, labels, references[:, ::2])
    assert torch.equal(found.is_positive[:, ::2], alone.is_positive)


def test_a_true_box_nothing_touches_keeps_no_reference():
    gt = torch.tensor([[[500.0, 500.0, 510.0, 510.0]]])
    found = match(gt, torch.zeros(1, 1, dtype=torch.int64), grid_boxes(9, 0)[None])
    assert found.is_negative.all()
