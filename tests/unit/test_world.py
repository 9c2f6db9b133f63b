"""What drawn worlds are made of, and what they refuse."""

import json

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from groundup.data.forms import FORMS, draw_outline
from groundup.data.outlines import SAMPLES, crosses_itself, signed_area, trace_polygons
from groundup.data.stage import build_stage, put_up
from groundup.data.textures import TEXTURES, draw_texture
from groundup.data.world import (
    ObjectOptions,
    WorldOptions,
    category_names,
    draw_object,
    draw_scene,
    run_lengths,
    write_object_world,
    write_world,
)
from groundup.errors import UsageError


@pytest.mark.parametrize("name", list(FORMS))
def test_a_form_fills_its_circle_and_stays_inside(name):
    for seed in range(20):
        outline = draw_outline(name, np.random.default_rng(seed))
        radii = np.concatenate([np.hypot(*ring.T) for part in outline.parts for ring in part])
        assert 0.85 < radii.max() < 1.1


def test_named_points_of_a_figure_lie_inside_it():
    for seed in range(20):
        outline = draw_outline("figure", np.random.default_rng(seed))
        for point in outline.keypoints:
            parts = [ring.astype(np.float32) for (ring,) in outline.parts]
            assert max(cv2.pointPolygonTest(part, point.tolist(), measureDist=True) for part in parts) > 0.05


@pytest.mark.parametrize("name", list(TEXTURES))
def test_a_texture_mixes_two_colours_and_repeats_at_its_period(name):
    v, u = np.mgrid[0:64, 0:64].astype(np.float32)
    ratio = draw_texture(name, u, v, 9.0, np.random.default_rng(0))
    assert ratio.dtype == np.float32
    assert 0 <= ratio.min() <= ratio.max() <= 1
    if name != "plain":
        assert ratio.min() == 0
        assert ratio.max() == 1
        assert 0.15 < ratio.mean() < 0.85


def test_a_ring_round_a_hole_leaves_the_hole_out():
    samples = np.zeros((40, 40), bool)
    samples[4:36, 4:36] = True
    samples[12:20, 12:24] = False
    samples[28:32, 8:12] = False
    (ring,) = trace_polygons(samples, 0, 0)
    assert abs(signed_area(ring)) == pytest.approx(samples.sum() / SAMPLES**2)
    assert ring.min() == 1
    assert ring.max() == 9


def test_crossing_is_seen_and_touching_is_not():
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]])
    assert not crosses_itself(square)
    assert crosses_itself(square[[0, 2, 1, 3]])
    assert not crosses_itself(np.array([[0, 0], [4, 0], [2, 2], [4, 4], [0, 4], [2, 2]]))


def test_what_would_hardly_be_seen_is_not_put_up():
    stage = build_stage(64, 64)
    disc = draw_outline("blob", np.random.default_rng(0))
    kind = {"texture": "plain", "period": 8.0, "label": 0, "min_visible": 0.3}
    centre = np.array([32.0, 32.0])
    assert put_up(stage, disc, centre=centre, basis=20 * np.eye(2), **kind) is not None
    before = stage.owners.copy()
    assert put_up(stage, disc, centre=centre, basis=18 * np.eye(2), **kind) is None
    assert put_up(stage, disc, centre=centre + 60, basis=18 * np.eye(2), **kind) is None
    assert len(stage.things) == 1
    np.testing.assert_array_equal(stage.owners, before)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_run_lengths_fill_the_picture_and_begin_with_zeros(first, last):
    mask = np.random.default_rng(0).random((7, 5)) < 0.5
    mask[0, 0], mask[-1, -1] = first, last
    runs = run_lengths(mask)
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    np.testing.assert_array_equal(values.reshape(5, 7).T, mask)
    assert run_lengths(np.zeros((3, 2), bool)) == [6]


@pytest.mark.parametrize(
    "change",
    [
        {"forms": ()},
        {"textures": ("dots", "dots")},
        {"min_side": 200},
        {"min_objects": 13},
        {"min_size": 0.7},
        {"forms": tuple(FORMS), "textures": TEXTURES},
        {"form": ("star",)},
    ],
)
def test_options_that_cannot_be_are_refused(change):
    with pytest.raises(ValidationError):
        WorldOptions(**change)


def test_numbers_below_zero_are_refused(tmp_path):
    with pytest.raises(UsageError, match="from 0"):
        draw_scene(-1, 0, WorldOptions())
    with pytest.raises(UsageError, match="from 0"):
        draw_object(0, -1, ObjectOptions())
    with pytest.raises(UsageError, match="numbers >= 0"):
        write_world(tmp_path, -1, 1, 0, WorldOptions())


def test_sides_lie_in_their_range():
    options = WorldOptions(min_side=64, max_side=96, max_objects=2)
    sizes = np.array([draw_scene(0, index, options).image.shape[:2] for index in range(40)])
    assert sizes.min() >= 64
    assert sizes.max() <= 96
    assert len(np.unique(sizes)) > 10


def test_a_world_is_written_once_and_again_where_it_differs(tmp_path):
    options = WorldOptions(max_objects=3, min_side=64, max_side=64)
    reports = []
    files = write_world(tmp_path, 3, 2, 0, options, report=lambda done, total: reports.append((done, total)))
    assert reports == [(done, 5) for done in range(1, 6)]
    assert len(list(files.train_images.iterdir())) == 3
    assert len(list(files.val_images.iterdir())) == 2
    first = files.train_annotations.read_bytes()
    write_world(tmp_path, 3, 2, 0, options, report=lambda *_: pytest.fail("written twice"))
    next(files.val_images.iterdir()).unlink()
    write_world(tmp_path, 3, 2, 0, options)
    assert len(list(files.val_images.iterdir())) == 2
    assert files.train_annotations.read_bytes() == first
    write_world(tmp_path, 3, 2, 1, options)
    assert files.train_annotations.read_bytes() != first


def test_a_longer_world_begins_as_a_shorter_one_and_keeps_its_validation(tmp_path):
    options = WorldOptions(max_objects=3, min_side=64, max_side=64)
    short = write_world(tmp_path / "short", 2, 2, 0, options)
    long = write_world(tmp_path / "long", 4, 2, 0, options)
    for name in ("000000.jpg", "000001.jpg"):
        assert (short.train_images / name).read_bytes() == (long.train_images / name).read_bytes()
        assert (short.val_images / name).read_bytes() == (long.val_images / name).read_bytes()
        assert (short.train_images / name).read_bytes() != (short.val_images / name).read_bytes()
    assert short.val_annotations.read_bytes() == long.val_annotations.read_bytes()
    document = json.loads(long.train_annotations.read_text())
    assert document["info"]["options"]["max_objects"] == 3
    assert len(document["images"]) == 4


def test_single_objects_fill_a_folder_a_class(tmp_path):
    options = ObjectOptions(side=48)
    names = category_names(options)
    files = write_object_world(tmp_path, 2 * len(names), len(names), 0, options)
    for folder, count in ((files.train, 2), (files.val, 1)):
        assert sorted(path.name for path in folder.iterdir()) == sorted(names)
        assert all(len(list(path.iterdir())) == count for path in folder.iterdir())
    write_object_world(
        tmp_path, 2 * len(names), len(names), 0, options, report=lambda *_: pytest.fail("twice")
    )


def test_objects_to_pretrain_on_are_other_categories_with_shared_textures():
    scenes, objects = WorldOptions(), ObjectOptions()
    assert not set(category_names(scenes)) & set(category_names(objects))
    assert set(scenes.textures) & set(objects.textures)
    assert len(category_names(scenes)) >= 12
