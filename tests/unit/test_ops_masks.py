"""Pasting masks: integer against torchvision, aligned against grid sampling."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from groundup.ops.masks import paste_crops, paste_masks

SIZE = (60, 80)
BOXES = torch.tensor(
    [[10.3, 5.7, 40.2, 33.9], [0.0, 0.0, 80.0, 60.0], [-6.0, -4.0, 9.5, 12.0], [70.0, 50.0, 95.0, 71.0],
     [30.0, 30.0, 30.6, 30.4], [12.0, 12.0, 12.0, 12.0]]
)  # fmt: skip


@pytest.fixture
def masks():
    return torch.rand(len(BOXES), 14, 14, generator=torch.Generator().manual_seed(0))


def whole(masks, kind):
    images = torch.zeros(len(masks), *SIZE)
    for image, crop in zip(images, paste_crops(masks, BOXES, SIZE, kind=kind), strict=True):
        height, width = crop.scores.shape
        image[crop.y : crop.y + height, crop.x : crop.x + width] = crop.scores
    return images


def test_integer_paste_equals_torchvisions(masks):
    expected = paste_masks_in_image(masks[:, None], BOXES, SIZE)[:, 0]
    torch.testing.assert_close(whole(masks, "integer"), expected)


def test_aligned_paste_equals_grid_sampling(masks):
    y = (torch.arange(SIZE[0]) + 0.5 - BOXES[:5, 1:2]) / (BOXES[:5, 3:] - BOXES[:5, 1:2]) * 2 - 1
    x = (torch.arange(SIZE[1]) + 0.5 - BOXES[:5, :1]) / (BOXES[:5, 2:3] - BOXES[:5, :1]) * 2 - 1
    grid = torch.stack([x[:, None, :].expand(-1, SIZE[0], -1), y[:, :, None].expand(-1, -1, SIZE[1])], dim=-1)
    expected = F.grid_sample(masks[:5, None], grid, align_corners=False)[:, 0]
    torch.testing.assert_close(whole(masks, "aligned")[:5], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["aligned", "integer"])
def test_a_full_mask_covers_its_box_and_nothing_far_from_it(kind):
    box = torch.tensor([[10.0, 20.0, 30.0, 50.0]])
    (bitmap,) = paste_masks(torch.ones(1, 28, 28), box, SIZE, kind=kind)
    assert bitmap[21:49, 11:29].all()
    assert bitmap.sum() <= 32 * 22


def test_an_aligned_full_mask_is_its_box():
    box = torch.tensor([[10.0, 20.0, 30.0, 50.0]])
    (bitmap,) = paste_masks(torch.ones(1, 28, 28), box, SIZE)
    expected = torch.zeros(SIZE, dtype=torch.bool)
    expected[20:50, 10:30] = True
    assert torch.equal(bitmap, expected)


def test_no_masks_paste_to_no_bitmaps():
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), SIZE).shape == (0, *SIZE)
