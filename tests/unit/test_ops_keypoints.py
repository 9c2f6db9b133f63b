"""Cells of keypoints, and places from heatmaps."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.ops import keypoints
from groundup.ops.keypoints import decode_heatmaps, encode_keypoints, scale_keypoints

SIDE = 8


def encode_one(x, y, visibility=2, box=(10, 20, 26, 36)):
    cells, is_visible = encode_keypoints(
        torch.tensor([[[x, y, visibility]]], dtype=torch.float32),
        torch.tensor([box], dtype=torch.float32),
        SIDE,
    )
    return divmod(int(cells), SIDE), bool(is_visible)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (10, 20, (0, 0)),
        (11.99, 20, (0, 0)),
        (12, 20, (0, 1)),
        (10, 25, (2, 0)),
        (25.9, 35.9, (7, 7)),
        (26, 36, (7, 7)),
        (26, 20, (0, 7)),
    ],
)
def test_a_keypoint_has_the_cell_it_lies_in_and_the_far_edge_the_last_one(x, y, expected):
    assert encode_one(x, y) == (expected, True)


@pytest.mark.parametrize(("x", "y"), [(9.99, 25), (26.01, 25), (15, 19.99), (15, 36.01)])
def test_a_keypoint_outside_its_box_is_ignored(x, y):
    assert not encode_one(x, y)[1]


@pytest.mark.parametrize(("visibility", "expected"), [(0, False), (1, True), (2, True)])
def test_hidden_keypoints_count_and_absent_ones_do_not(visibility, expected):
    assert encode_one(15, 25, visibility)[1] is expected


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (10, 20, 10, 36), (26, 20, 10, 36)])
def test_a_box_without_area_holds_no_keypoint(box):
    (row, column), is_visible = encode_one(10, 20, box=box)
    assert not is_visible
    assert 0 <= row < SIDE
    assert 0 <= column < SIDE


def by_interpolate(heatmaps, boxes):
    """Place and value of each highest pixel, box by box, as torch resizes."""
    places = []
    for heatmap, (x1, y1, x2, y2) in zip(heatmaps, boxes.tolist(), strict=True):
        width, height = max(x2 - x1, 1), max(y2 - y1, 1)
        size = (-(-height // 1), -(-width // 1))
        fine = F.interpolate(heatmap[None], [int(side) for side in size], mode="bicubic")[0]
        highest, place = fine.flatten(1).max(dim=1)
        column, row = place % fine.shape[2], place // fine.shape[2]
        x, y = (column + 0.5) * width / fine.shape[2] + x1, (row + 0.5) * height / fine.shape[1] + y1
        places.append(torch.stack([x, y, highest], dim=1))
    return torch.stack(places)


def random_boxes(num, generator):
    starts = torch.rand(num, 2, generator=generator) * 100 - 10
    sides = torch.rand(num, 2, generator=generator) ** 2 * 200
    sides[:2] = torch.tensor([[0.3, 5.0], [0.0, 0.0]])
    return torch.cat([starts, starts + sides], dim=1)


@pytest.mark.parametrize("max_pixels", [1, 40_000, keypoints.MAX_PIXELS])
def test_decoding_is_the_highest_pixel_of_torchs_bicubic_resize_in_parts_of_any_size(monkeypatch, max_pixels):
    monkeypatch.setattr(keypoints, "MAX_PIXELS", max_pixels)
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(30, generator)
    heatmaps = torch.randn(30, 3, 14, 14, generator=generator)
    expected = by_interpolate(heatmaps, boxes)
    found = decode_heatmaps(heatmaps, boxes)
    torch.testing.assert_close(found[..., :2], expected[..., :2], rtol=1e-5, atol=1e-3)
    probability = (expected[..., 2] - heatmaps.flatten(2).logsumexp(2)).exp()
    torch.testing.assert_close(found[..., 2], probability.clamp(max=1), rtol=1e-4, atol=1e-6)


@given(
    cell=st.integers(0, SIDE * SIDE - 1),
    corner=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
    sides=st.tuples(st.floats(2 * SIDE, 200), st.floats(2 * SIDE, 200)),
)
@settings(max_examples=60)
def test_encoding_undoes_decoding(cell, corner, sides):
    heatmaps = torch.zeros(1, 1, SIDE * SIDE)
    heatmaps[0, 0, cell] = 30.0
    box = torch.tensor([[*corner, corner[0] + sides[0], corner[1] + sides[1]]])
    found = decode_heatmaps(heatmaps.view(1, 1, SIDE, SIDE), box)
    assert 0 < found[0, 0, 2] <= 1
    visible = torch.cat([found[..., :2], torch.full((1, 1, 1), 2.0)], dim=2)
    cells, is_visible = encode_keypoints(visible, box, SIDE)
    assert int(cells) == cell
    assert is_visible.all()


def test_no_boxes_have_no_keypoints():
    assert decode_heatmaps(torch.zeros(0, 5, SIDE, SIDE), torch.zeros(0, 4)).shape == (0, 5, 3)


def test_keypoints_grow_with_their_image_and_keep_their_scores():
    points = torch.tensor([[[10.0, 20.0, 0.7]]])
    scaled = scale_keypoints(points, torch.tensor([[100, 50]]), torch.tensor([[300, 100]]))
    assert scaled[0, 0, :2].tolist() == [20.0, 60.0]
    assert scaled[0, 0, 2] == points[0, 0, 2]
