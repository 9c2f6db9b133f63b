"""Sizes, choices and edge cases of the transforms, against worked numbers and peers."""

import itertools

import numpy as np
import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from annotated import draw_truth
from groundup.config import read_tree
from groundup.data.geometry import View, view_truth
from groundup.data.transforms import (
    CropOptions,
    LargeScaleJitterOptions,
    TransformOptions,
    apply_transforms,
    evaluation_view,
    resized_size,
    training_view,
    view_image,
)
from groundup.data.truth import Bitmap, Truth
from groundup.errors import UsageError

NO_TRUTH = Truth(boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int64), masks=[], keypoints=None)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 427), (1199, 800)),
        ((300, 1000), (400, 1333)),
        ((800, 1333), (800, 1333)),
    ],
)
def test_photographs_take_the_sizes_that_detectron2_gives_them(size, expected):
    assert resized_size(size, 800, 1333, "nearest") == expected


def test_rounding_down_gives_the_sizes_of_torchvision():
    resize = GeneralizedRCNNTransform(800, 1333, [0, 0, 0], [1, 1, 1]).eval()
    for height, width in itertools.product((97, 300, 427, 480, 640), (333, 427, 500, 640, 1400)):
        image, _ = resize.resize(torch.zeros(3, height, width), None)
        assert resized_size((height, width), 800, 1333, "down") == tuple(image.shape[1:])


def test_growing_is_the_bilinear_interpolation_of_torchvision():
    image = np.random.default_rng(0).integers(0, 256, (30, 41, 3), np.uint8)
    options = TransformOptions(test_short_side=75)
    view = evaluation_view((30, 41), options)
    expected = v2.functional.resize(
        torch.from_numpy(image).permute(2, 0, 1).float(), list(view.size), antialias=False
    )
    difference = view_image(image, view) - expected.permute(1, 2, 0).numpy()
    assert np.abs(difference).max() <= 1.5  # two roundings to bytes


def test_shrinking_averages_instead_of_skipping():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    view = evaluation_view((64, 64), TransformOptions(test_short_side=32))
    assert (view_image(stripes, view) == 100).all()


def test_a_set_is_chosen_from_evenly_and_a_range_includes_its_limits():
    chosen = TransformOptions(short_side=(40, 50, 60), max_side=1000)
    sides = [min(training_view((100, 120), chosen, seed).size) for seed in range(600)]
    assert {side: sides.count(side) > 150 for side in set(sides)} == {40: True, 50: True, 60: True}
    spread = TransformOptions(short_side=(40, 45), short_side_choice="range", max_side=1000)
    assert {min(training_view((100, 120), spread, seed).size) for seed in range(200)} == set(range(40, 46))


def test_flips_are_as_frequent_as_asked_and_do_not_depend_on_other_options():
    plain = TransformOptions(short_side=(40,))
    jittered = TransformOptions(short_side=(40, 80), short_side_choice="range", crop=CropOptions())
    flips = [training_view((100, 120), plain, seed).flip for seed in range(1000)]
    assert 430 < sum(flips) < 570
    assert flips == [training_view((100, 120), jittered, seed).flip for seed in range(1000)]
    never = TransformOptions(flip=0.0)
    assert not any(training_view((100, 120), never, seed).flip for seed in range(100))


def test_large_scale_jitter_scales_from_a_tenth_to_double_and_cuts_to_the_square():
    options = TransformOptions(large_scale_jitter=LargeScaleJitterOptions(size=100))
    views = [training_view((50, 80), options, seed) for seed in range(500)]
    longer = [max(view.scaled) for view in views]
    assert 10 <= min(longer) < 20
    assert 190 < max(longer) <= 200
    assert all(max(view.size) <= 100 for view in views)
    assert any(view.window[0] > 0 and view.window[1] > 0 for view in views)


def test_evaluation_is_not_random():
    options = TransformOptions(crop=CropOptions(), large_scale_jitter=LargeScaleJitterOptions())
    view = evaluation_view((480, 640), options)
    assert (view.size, view.flip, view.is_cut(480, 640)) == ((800, 1067), False, False)


def test_an_image_without_instances_passes_through_every_view():
    image = np.zeros((40, 60, 3), np.uint8)
    for options in (
        TransformOptions(short_side=(30,)),
        TransformOptions(crop=CropOptions(), mask_format="bitmaps"),
        TransformOptions(large_scale_jitter=LargeScaleJitterOptions(size=64)),
    ):
        _, truth = apply_transforms(image, NO_TRUTH, options, 5)
        assert truth.boxes.shape == (0, 4)
        assert truth.masks == []


def test_one_pixel_images_and_extreme_shapes_keep_a_pixel():
    for size in ((1, 1), (1, 500), (500, 1)):
        image, _ = apply_transforms(np.zeros((*size, 3), np.uint8), NO_TRUTH, TransformOptions(), None)
        assert min(image.shape[:2]) >= 1
        assert max(image.shape[:2]) <= 1333


def test_a_bitmap_too_thin_for_the_new_grid_keeps_one_pixel():
    truth = Truth(
        boxes=np.array([[13, 4, 14, 30]], np.float32),
        labels=np.zeros(1, np.int64),
        masks=[Bitmap(x=13, y=4, pixels=np.ones((26, 1), np.uint8))],
        keypoints=None,
    )
    view = View(cut=(0, 0, 40, 40), scaled=(4, 4), window=(0, 0, 4, 4), flip=False)
    seen = view_truth(truth, view, (40, 40))
    assert isinstance(seen.masks[0], Bitmap)
    assert seen.masks[0].pixels.sum() >= 1


def test_bitmaps_are_drawn_at_the_resolution_of_the_photograph():
    truth = draw_truth(np.random.default_rng(1), 3, 60, 80)
    _, seen = apply_transforms(
        np.zeros((60, 80, 3), np.uint8), truth, TransformOptions(mask_format="bitmaps"), None
    )
    assert all(isinstance(mask, Bitmap) for mask in seen.masks)
    np.testing.assert_allclose(seen.boxes, truth.boxes * (800 / 60), rtol=1e-3)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"short_side": [800, 640], "short_side_choice": "range"}, "least and greatest"),
        ({"short_side": []}, "at least 1 pixel"),
        ({"flip": 1.5}, "probability"),
        ({"crop": {"smallest": 0}}, "crop.smallest"),
        ({"large_scale_jitter": {"smallest": 2, "largest": 1}}, "factors"),
        ({"shortside": [800]}, "did you mean 'short_side'"),
    ],
)
def test_geometry_that_cannot_be_is_refused(values, found):
    with pytest.raises(UsageError, match=found):
        read_tree(TransformOptions, values)
