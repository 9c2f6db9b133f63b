"""Box arithmetic against its definitions."""

import pytest
import torch

from groundup.ops.boxes import (
    box_iou,
    clip_boxes,
    decode_deltas,
    encode_deltas,
    has_min_side,
    is_inside,
    scale_boxes,
)


def some_boxes(num, seed):
    generator = torch.Generator().manual_seed(seed)
    starts = torch.rand(num, 2, generator=generator) * 100
    return torch.cat([starts, starts + 1 + torch.rand(num, 2, generator=generator) * 50], dim=1)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_decoding_undoes_encoding(weights):
    boxes, references = some_boxes(50, seed=0), some_boxes(50, seed=1)
    deltas = encode_deltas(boxes, references, weights)
    torch.testing.assert_close(decode_deltas(deltas, references, weights), boxes, rtol=0, atol=1e-3)


def test_decoding_of_huge_deltas_stays_finite():
    deltas = torch.full((1, 4), 1e4)
    assert decode_deltas(deltas, some_boxes(1, seed=0), (1.0, 1.0, 1.0, 1.0)).isfinite().all()


def pixels(box):
    x1, y1, x2, y2 = (int(v) for v in box)
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


def test_iou_counts_shared_pixels():
    first, second = some_boxes(8, seed=2).round() / 4, some_boxes(9, seed=3).round() / 4
    first, second = first.round(), second.round()
    iou = box_iou(first[None], second[None])[0]
    for row, a in enumerate(first):
        for column, b in enumerate(second):
            union = len(pixels(a) | pixels(b))
            expected = len(pixels(a) & pixels(b)) / union if union else 0.0
            assert iou[row, column].item() == pytest.approx(expected, abs=1e-6)


def test_iou_of_boxes_without_area_is_zero():
    assert torch.equal(box_iou(torch.zeros(1, 2, 4), torch.zeros(1, 3, 4)), torch.zeros(1, 2, 3))


def test_clipped_boxes_lie_in_their_image():
    boxes = torch.tensor([[[-5.0, -5.0, 300.0, 300.0]], [[10.0, 20.0, 30.0, 40.0]]])
    sizes = torch.tensor([[100, 200], [100, 200]], dtype=torch.int32)
    clipped = clip_boxes(boxes, sizes)
    assert clipped[:, 0].tolist() == [[0.0, 0.0, 200.0, 100.0], [10.0, 20.0, 30.0, 40.0]]
    assert is_inside(clipped[0], sizes)[0].all()
    assert not is_inside(boxes[0], sizes)[0].any()


def test_a_box_that_is_not_a_number_has_no_side():
    boxes = torch.tensor([[0.0, 0.0, torch.nan, 5.0], [0.0, 0.0, 5.0, 5.0], [0.0, 0.0, 5.0, 0.5]])
    assert has_min_side(boxes, 1.0).tolist() == [False, True, False]


def test_scaling_there_and_back_changes_nothing():
    boxes = some_boxes(6, seed=4)
    small, large = torch.tensor([[100, 150]] * 6), torch.tensor([[423, 640]] * 6)
    there = scale_boxes(boxes, small, large)
    torch.testing.assert_close(scale_boxes(there, large, small), boxes)
    assert there[0, 0].item() == pytest.approx(boxes[0, 0].item() * 640 / 150)
