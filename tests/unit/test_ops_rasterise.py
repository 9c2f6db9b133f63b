"""Mask targets: polygons against a point-in-polygon test, bitmaps against RoIAlign on the whole image."""

import pytest
import torch
import torch.nn.functional as F

from detector_worlds import polygon_masks
from groundup.ops.rasterise import fill_polygons, mask_targets
from groundup.ops.roi import roi_align
from groundup.structures import Masks

SIZE = 28


def is_in_polygon(points, x, y):
    """Ray casting, one point and one polygon."""
    inside = False
    for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True):
        if (y1 <= y) != (y2 <= y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
            inside = not inside
    return inside


def star(seed, centre, radius, num=9):
    generator = torch.Generator().manual_seed(seed)
    angles = (torch.rand(num, generator=generator) * 6.28).sort().values
    radii = radius * (0.3 + 0.7 * torch.rand(num, generator=generator))
    return [
        (centre[0] + float(r * a.cos()), centre[1] + float(r * a.sin()))
        for r, a in zip(radii, angles, strict=True)
    ]


INSTANCES = {
    2: [star(0, (30, 40), 20)],
    5: [star(1, (50, 20), 15), star(2, (60, 25), 12)],
    6: [[(10, 10), (40, 40), (40, 10), (10, 40)]],  # crosses itself: even-odd
}
ROIS = torch.tensor(
    [[15.2, 22.1, 48.7, 61.0], [35.0, 5.0, 75.0, 40.0], [10.3, 9.8, 40.1, 40.6], [28.0, 31.0, 33.5, 70.0],
     [0.0, 0.0, 60.0, 60.0]]
)  # fmt: skip
ROWS = torch.tensor([2, 5, 6, 2, 4])  # instance 4 has no mask


def expected_fill(roi, polygons):
    x1, y1, x2, y2 = roi.tolist()
    return torch.tensor(
        [
            [
                any(
                    is_in_polygon(p, x1 + (c + 0.5) * (x2 - x1) / SIZE, y1 + (r + 0.5) * (y2 - y1) / SIZE)
                    for p in polygons
                )
                for c in range(SIZE)
            ]
            for r in range(SIZE)
        ]
    )


def test_polygons_are_filled_even_odd_and_united():
    filled = fill_polygons(polygon_masks(INSTANCES.items()), ROIS, ROWS, SIZE)
    for roi, row, cells in zip(ROIS, ROWS.tolist(), filled, strict=True):
        assert (cells != expected_fill(roi, INSTANCES.get(row, []))).sum() <= 1  # rounding on an edge
    assert not filled[4].any()


def test_bounded_memory_changes_no_target():
    masks = polygon_masks(INSTANCES.items())
    whole = fill_polygons(masks, ROIS, ROWS, SIZE)
    assert torch.equal(fill_polygons(masks, ROIS, ROWS, SIZE, 1), whole)


def test_no_rois_have_no_targets():
    masks = polygon_masks(INSTANCES.items())
    nothing = torch.zeros(0, dtype=torch.int64)
    targets = mask_targets(masks, torch.zeros(0, 4), nothing, SIZE, is_binary=True, is_aligned=True)
    assert targets.shape == (0, SIZE, SIZE)


def test_the_share_of_a_polygon_is_its_area():
    masks = polygon_masks([(0, [[(2.0, 2.0), (12.0, 2.0), (2.0, 12.0)]])])
    roi = torch.tensor([[0.0, 0.0, 14.0, 14.0]])
    share = mask_targets(masks, roi, torch.tensor([0]), 7, is_binary=False, is_aligned=False)
    assert share.sum().item() * 4 == pytest.approx(50, rel=0.08)
    assert ((share > 0) & (share < 1)).any()


def bitmaps_of(images, rows):
    """`Masks` of full-image bitmaps, cut out with their margin."""
    parts, regions = [], []
    for image in images:
        y, x = image.nonzero().unbind(1)
        x1, y1, x2, y2 = int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1
        padded = F.pad(image[None, None].float(), (1, 1, 1, 1), mode="replicate")[0, 0].byte()
        parts.append(padded[y1 : y2 + 2, x1 : x2 + 2].flatten())
        regions.append((x1 - 1, y1 - 1, x2 + 1, y2 + 1))
    empty = polygon_masks([])
    return Masks(
        edges=empty.edges,
        edge_polygon=empty.edge_polygon,
        polygon_instance=empty.polygon_instance,
        pixels=torch.cat(parts),
        bitmap_boxes=torch.tensor(regions),
        bitmap_instance=torch.tensor(rows),
    )


def blobs():
    images = torch.zeros(3, 50, 60, dtype=torch.uint8)
    images[0, 10:30, 5:25] = 1
    images[0, 15:20, 10:15] = 0
    images[1, 0:12, 40:60] = 1  # touches two borders
    images[2, 33:50, 0:60:3] = 1
    return images


@pytest.mark.parametrize("is_aligned", [True, False])
@pytest.mark.parametrize("cells_at_once", [1, 2**20])
def test_a_crop_equals_the_whole_images(is_aligned, cells_at_once):
    images = blobs()
    rois = torch.tensor(
        [[4.0, 8.0, 27.0, 33.0], [38.5, 0.0, 60.0, 14.2], [0.0, 30.0, 60.0, 50.0], [11.0, 14.0, 13.0, 19.0]]
    )
    rows = torch.tensor([1, 4, 9, 1])
    targets = mask_targets(
        bitmaps_of(images, [1, 4, 9]),
        rois,
        rows,
        14,
        is_binary=False,
        is_aligned=is_aligned,
        cells_at_once=cells_at_once,
    )
    expected = roi_align(
        images[:, None].float(),
        rois,
        torch.tensor([0, 1, 2, 0]),
        size=14,
        scale=1.0,
        sampling_ratio=0,
        is_aligned=is_aligned,
    )[:, 0]
    torch.testing.assert_close(targets, expected, rtol=0, atol=1e-5)


def test_instances_without_a_bitmap_have_empty_targets():
    masks = bitmaps_of(blobs(), [1, 4, 9])
    rois = torch.tensor([[4.0, 8.0, 27.0, 33.0]]).repeat(3, 1)
    targets = mask_targets(masks, rois, torch.tensor([0, 5, 12]), 14, is_binary=True, is_aligned=True)
    assert not targets.any()


def test_polygons_and_bitmaps_live_side_by_side():
    vectors, pixels = polygon_masks([(0, [[(5.0, 10.0), (25.0, 10.0), (25.0, 30.0), (5.0, 30.0)]])]), blobs()
    pixels = bitmaps_of((pixels[0] | 0)[None], [1])
    both = Masks(
        edges=vectors.edges,
        edge_polygon=vectors.edge_polygon,
        polygon_instance=vectors.polygon_instance,
        pixels=pixels.pixels,
        bitmap_boxes=pixels.bitmap_boxes,
        bitmap_instance=pixels.bitmap_instance,
    )
    roi = torch.tensor([[5.0, 10.0, 25.0, 30.0]]).repeat(2, 1)
    polygon, bitmap = mask_targets(both, roi, torch.tensor([0, 1]), 20, is_binary=True, is_aligned=True)
    assert polygon.all()
    assert polygon.sum() - bitmap.sum() == 25  # the hole of the bitmap
