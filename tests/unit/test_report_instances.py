"""What a page draws of a photograph's instances lies where they lie."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from groundup.data.coco import Category
from groundup.data.truth import Bitmap
from groundup.report.instances import Instances, draw_kind, found_instances, rings_of, rings_of_encoding

CELLS = (Category(id=7, name="cell"),)
FIGURES = (Category(id=7, name="figure", keypoints=("head", "foot"), skeleton=((1, 2),)),)
RED = (255, 0, 0)
SIDE = 64


def disc(x, y, radius):
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def encoded(mask):
    encoding = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoding["size"], "counts": encoding["counts"].decode()}


def test_the_outline_of_an_encoding_runs_round_its_mask_and_its_holes():
    mask = disc(30, 20, 12) & ~disc(30, 20, 4)
    rings = rings_of_encoding(encoded(mask))
    assert len(rings) == 2
    for ring in rings:
        away = np.hypot(ring[:, 0] - 30.5, ring[:, 1] - 20.5)
        assert (abs(away - 12) < 1.5).all() or (abs(away - 5) < 1.5).all()
    assert rings_of_encoding(encoded(np.zeros((SIDE, SIDE), bool))) == []


def test_counts_that_are_not_packed_are_read_too():
    rings = rings_of_encoding({"size": [SIDE, SIDE], "counts": [SIDE * 3 + 5, 4, SIDE * SIDE - SIDE * 3 - 9]})
    (ring,) = rings
    assert ring[:, 0].tolist() == [3.5, 3.5]
    assert sorted(ring[:, 1].tolist()) == [5.5, 8.5]


def test_outlines_of_polygons_and_of_their_pixels_agree():
    square = np.array([[10, 12], [30, 12], [30, 40], [10, 40]], np.float32)
    (polygon,) = rings_of([square])
    (pixels,) = rings_of(Bitmap(x=10, y=12, pixels=np.ones((28, 20), np.uint8)))
    assert abs(polygon.min(0) - pixels.min(0)).max() <= 0.5
    assert abs(polygon.max(0) - pixels.max(0)).max() <= 0.5


def test_a_mask_that_was_found_is_drawn_where_it_lies():
    mask = disc(30, 20, 12)
    result = {"image_id": 1, "category_id": 7, "score": 0.9, "segmentation": encoded(mask)}
    shown = found_instances([result], CELLS, "segm")
    np.testing.assert_allclose(shown.boxes[0], [18.5, 8.5, 42.5, 32.5])
    canvas = np.zeros((2 * SIDE, 2 * SIDE, 3), np.uint8)
    drawn = draw_kind(canvas, shown, 2.0, RED, has_tags=False)
    rows, columns = np.nonzero(drawn[..., 0] > 128)
    away = np.hypot(columns + 0.5 - 61, rows + 0.5 - 41)
    assert len(away) > 100
    assert (abs(away - 24) < 4).all()


@pytest.mark.parametrize("has_tags", [True, False])
def test_keypoints_that_were_found_are_drawn_at_the_middle_of_their_pixels(has_tags):
    result = {"image_id": 1, "category_id": 7, "score": 0.9, "keypoints": [10, 10, 0.3, 50, 40, 0.9]}
    shown = found_instances([result], FIGURES, "keypoints")
    assert shown.keypoints.tolist() == [[[10.5, 10.5, 2], [50.5, 40.5, 2]]]
    canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
    drawn = draw_kind(canvas, shown, 1.0, RED, has_tags=has_tags)
    assert drawn[10, 10].any()
    assert drawn[25, 30].any(), "the line between them"


@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
def test_nothing_found_draws_nothing(kind):
    canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
    shown = found_instances([], CELLS, kind)
    assert isinstance(shown, Instances)
    assert not draw_kind(canvas, shown, 1.0, RED, has_tags=True).any()
