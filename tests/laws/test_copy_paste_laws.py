"""Pasting instances of one photograph into another keeps image, boxes, masks and keypoints true."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from annotated import draw_index, draw_truth
from groundup.config import override
from groundup.data.coco import open_index
from groundup.data.copy_paste import (
    GREY,
    CopyPasteOptions,
    Picture,
    choose_instances,
    composed,
    draw_donor,
    paste_instances,
)
from groundup.data.geometry import rasterise_polygons, view_truth
from groundup.data.images import ImagePolicy
from groundup.data.loader import BatchSource, LoaderOptions, train_batches
from groundup.data.transforms import (
    PAPER_SCALES,
    LargeScaleJitterOptions,
    TransformOptions,
    training_view,
    view_image,
    whole_view,
    with_bitmaps,
)
from groundup.data.truth import Bitmap, Truth
from groundup.errors import DataError

SIZES = st.tuples(st.integers(24, 90), st.integers(24, 90))
SEEDS = st.integers(0, 2**62)
HARD = CopyPasteOptions()
LSJ = TransformOptions(
    large_scale_jitter=LargeScaleJitterOptions(size=64, smallest=0.3), copy_paste=CopyPasteOptions()
)


def drawn_picture(size, seed, num_instances=5, *, bitmaps=False):
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (*size, 3), np.uint8)
    truth = draw_truth(generator, num_instances, *size)
    # No keypoint lies on the border between two pixels, which a mirror would put on the other one.
    truth.keypoints[:, :, :2] += 0.3
    return Picture(image=image, truth=in_bitmaps(truth, size) if bitmaps else truth)


def in_bitmaps(truth, size):
    """The truth with masks that a mirror and a doubling move to the pixel, and their boxes."""
    drawn = with_bitmaps(truth, size)
    boxes = [[m.x, m.y, m.x + m.pixels.shape[1], m.y + m.pixels.shape[0]] for m in drawn.masks]
    return replace(drawn, boxes=np.array(boxes, np.float32).reshape(-1, 4))


def canvas_of(mask, size):
    canvas = np.zeros(size, bool)
    bitmap = mask if isinstance(mask, Bitmap) else rasterise_polygons(mask, *size)
    if bitmap is not None:
        tall, wide = bitmap.pixels.shape
        canvas[bitmap.y : bitmap.y + tall, bitmap.x : bitmap.x + wide] = bitmap.pixels > 0
    return canvas


def cover_of(donor, rows, size):
    """What the donor's instances of the rows hide, drawn in full and cut to the donor's own picture."""
    cover = np.zeros(size, bool)
    for row in rows:
        own = canvas_of(donor.truth.masks[row], donor.size)
        height, width = (min(a, b) for a, b in zip(size, donor.size, strict=True))
        cover[:height, :width] |= own[:height, :width]
    return cover


def pasted(size, other, seed, options=HARD, *, bitmaps=False):
    scene, donor = drawn_picture(size, seed, bitmaps=bitmaps), drawn_picture(other, seed + 1, bitmaps=bitmaps)
    rows = choose_instances(len(donor.truth.boxes), seed, options)
    return scene, donor, rows, paste_instances(scene, donor, rows, options)


@given(size=SIZES, other=SIZES, seed=SEEDS)
@settings(max_examples=60)
def test_boxes_bound_the_masks(size, other, seed):
    _, _, _, result = pasted(size, other, seed)
    height, width = result.picture.size
    for box, mask in zip(result.picture.truth.boxes, result.picture.truth.masks, strict=True):
        assert (box >= 0).all()
        assert (box <= [width, height, width, height]).all()
        if isinstance(mask, Bitmap):
            tall, wide = mask.pixels.shape
            assert box.tolist() == [mask.x, mask.y, mask.x + wide, mask.y + tall]
            assert mask.pixels.any(axis=1)[[0, -1]].all()
            assert mask.pixels.any(axis=0)[[0, -1]].all()
        else:
            points = np.concatenate(mask)
            np.testing.assert_allclose([*points.min(0), *points.max(0)], box, atol=1e-3)


@given(size=SIZES, other=SIZES, seed=SEEDS)
@settings(max_examples=60)
def test_what_was_there_loses_what_is_covered_and_nothing_else(size, other, seed):
    scene, donor, rows, result = pasted(size, other, seed)
    cover = cover_of(donor, rows, result.picture.size)
    expected = []
    for row, mask in enumerate(scene.truth.masks):
        own = np.zeros_like(cover)
        own[: size[0], : size[1]] = canvas_of(mask, size)
        if not own.any() or (own & ~cover).any():
            expected.append((scene.truth.labels[row], own & ~cover))
    truth = result.picture.truth
    kept = len(truth.boxes) - result.num_pasted
    assert kept == len(expected)
    assert result.num_hidden == len(scene.truth.boxes) - kept
    for (label, own), found, mask in zip(expected, truth.labels, truth.masks, strict=False):
        assert label == found
        np.testing.assert_array_equal(canvas_of(mask, cover.shape), own)


@given(size=SIZES, other=SIZES, seed=SEEDS)
@settings(max_examples=60)
def test_what_is_pasted_is_what_the_donor_shows(size, other, seed):
    _, donor, rows, result = pasted(size, other, seed)
    shown = [row for row in rows if canvas_of(donor.truth.masks[row], other).any()]
    truth, first = result.picture.truth, len(result.picture.truth.boxes) - result.num_pasted
    assert truth.labels[first:].tolist() == donor.truth.labels[shown].tolist()
    np.testing.assert_array_equal(truth.keypoints[first:], donor.truth.keypoints[shown])
    for row, mask in zip(shown, truth.masks[first:], strict=True):
        own = np.zeros(result.picture.size, bool)
        drawn = canvas_of(donor.truth.masks[row], other)
        height, width = (min(a, b) for a, b in zip(own.shape, other, strict=True))
        own[:height, :width] = drawn[:height, :width]
        np.testing.assert_array_equal(canvas_of(mask, own.shape), own)
        assert not drawn[height:].any()
        assert not drawn[:, width:].any()


@given(size=SIZES, other=SIZES, seed=SEEDS)
@settings(max_examples=40)
def test_no_pixel_is_invented(size, other, seed):
    scene, donor, rows, result = pasted(size, other, seed)
    before = scene.image.copy()
    image, cover = result.picture.image, cover_of(donor, rows, result.picture.size)
    expected = np.full(image.shape, GREY, np.uint8)
    expected[: size[0], : size[1]] = scene.image
    places = np.nonzero(cover)
    expected[places] = donor.image[places]
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(scene.image, before)


def test_what_is_not_touched_stays_the_polygon_it_was():
    ring = np.array([[1, 1], [9, 2], [5, 8]], np.float32)
    scene = Picture(
        image=np.zeros((40, 40, 3), np.uint8),
        truth=Truth(
            boxes=np.array([[1, 1, 9, 8], [20, 20, 36, 36]], np.float32),
            labels=np.array([1, 0]),
            masks=[[ring], [np.array([[20, 20], [36, 20], [36, 36], [20, 36]], np.float32)]],
            keypoints=np.array([[[3, 3, 2], [5, 5, 2]], [[22, 22, 2], [35, 35, 1]]], np.float32),
        ),
    )
    donor = Picture(
        image=np.full((30, 30, 3), 255, np.uint8),
        truth=Truth(
            boxes=np.array([[20, 20, 30, 30]], np.float32),
            labels=np.array([1]),
            masks=[Bitmap(x=20, y=20, pixels=np.ones((10, 10), np.uint8))],
            keypoints=np.array([[[25, 25, 2], [0, 0, 0]]], np.float32),
        ),
    )
    result = paste_instances(scene, donor, [0], HARD)
    truth = result.picture.truth
    assert truth.masks[0][0] is ring
    assert isinstance(truth.masks[1], Bitmap)
    assert truth.boxes.tolist() == [[1, 1, 9, 8], [20, 20, 36, 36], [20, 20, 30, 30]]
    assert truth.masks[1].pixels.sum() == 16 * 16 - 100
    # Hidden where something lies over it; absent stays absent; what is pasted keeps its own.
    assert truth.keypoints[:, :, 2].tolist() == [[2, 2], [1, 1], [2, 0]]
    np.testing.assert_array_equal(truth.keypoints[:2, :, :2], scene.truth.keypoints[:, :, :2])
    assert (result.num_pasted, result.num_hidden) == (1, 0)


@pytest.mark.parametrize(("least", "num_hidden"), [(1.0, 0), (60.0, 0), (61.0, 1), (1000.0, 1)])
def test_an_instance_of_which_too_little_remains_is_taken_out_and_counted(least, num_hidden):
    square = Bitmap(x=0, y=0, pixels=np.ones((10, 10), np.uint8))
    part = Bitmap(x=0, y=0, pixels=np.ones((4, 10), np.uint8))
    picture = [
        Picture(
            image=np.zeros((12, 12, 3), np.uint8),
            truth=Truth(boxes=np.array([box], np.float32), labels=np.zeros(1, np.int64), masks=[mask],
                        keypoints=None),
        )
        for box, mask in (([0, 0, 10, 10], square), ([0, 0, 10, 4], part))
    ]  # fmt: skip
    result = paste_instances(*picture, [0], CopyPasteOptions(min_visible_area=least))
    assert result.num_hidden == num_hidden
    assert len(result.picture.truth.boxes) == 2 - num_hidden
    if not num_hidden:
        assert result.picture.truth.boxes[0].tolist() == [0, 4, 10, 10]
    gone = paste_instances(picture[1], picture[0], [0], HARD)
    assert (gone.num_hidden, gone.picture.truth.boxes.tolist()) == (1, [[0, 0, 10, 10]])


def test_an_instance_without_a_mask_loses_covered_pixels_of_its_box_and_is_never_pasted():
    boxless = Truth(
        boxes=np.array([[2.5, 2.5, 9.5, 9.5]], np.float32),
        labels=np.zeros(1, np.int64),
        masks=[[]],
        keypoints=None,
    )
    scene = Picture(image=np.zeros((20, 20, 3), np.uint8), truth=boxless)
    cut = Bitmap(x=0, y=0, pixels=np.ones((6, 20), np.uint8))
    donor = Picture(
        image=np.zeros((20, 20, 3), np.uint8),
        truth=Truth(boxes=np.array([[0, 0, 20, 6]], np.float32), labels=np.ones(1, np.int64), masks=[cut],
                    keypoints=None),
    )  # fmt: skip
    truth = paste_instances(scene, donor, [0], HARD).picture.truth
    assert truth.boxes.tolist() == [[2.5, 6, 9.5, 9.5], [0, 0, 20, 6]]
    assert truth.masks[0] == []
    assert paste_instances(donor, scene, [0], HARD).num_pasted == 0


@given(size=SIZES, seed=SEEDS)
@settings(max_examples=30)
def test_mirroring_both_pictures_mirrors_the_result(size, seed):
    scene, donor, rows, straight = pasted(size, size, seed, bitmaps=True)
    mirror = whole_view(size, size, flip=True)

    def turned(picture):
        return Picture(image=view_image(picture.image, mirror), truth=view_truth(picture.truth, mirror, size))

    result = paste_instances(turned(scene), turned(donor), rows, HARD)
    assert_same(result.picture, turned(straight.picture))
    assert (result.num_pasted, result.num_hidden) == (straight.num_pasted, straight.num_hidden)


@given(size=SIZES, other=SIZES, seed=SEEDS)
@settings(max_examples=30)
def test_enlarging_both_pictures_enlarges_the_result(size, other, seed):
    scene, donor, rows, small = pasted(size, other, seed, bitmaps=True)

    def doubled(picture):
        tall, wide = picture.size
        view = whole_view(picture.size, (2 * tall, 2 * wide))
        image = picture.image.repeat(2, axis=0).repeat(2, axis=1)
        return Picture(image=image, truth=view_truth(picture.truth, view, picture.size))

    assert_same(paste_instances(doubled(scene), doubled(donor), rows, HARD).picture, doubled(small.picture))


def assert_same(first, second):
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_allclose(first.truth.boxes, second.truth.boxes, atol=1e-4)
    np.testing.assert_array_equal(first.truth.labels, second.truth.labels)
    np.testing.assert_array_equal(first.truth.keypoints[:, :, 2], second.truth.keypoints[:, :, 2])
    for one, other in zip(first.truth.masks, second.truth.masks, strict=True):
        assert (one.x, one.y) == (other.x, other.y)
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_a_soft_edge_is_a_mixture_and_leaves_the_truth_as_a_hard_one():
    soft = CopyPasteOptions(blend_sigma=1.5)
    scene, donor, rows, hard = pasted((60, 60), (60, 60), 11)
    blended = paste_instances(scene, donor, rows, soft).picture
    assert_same(
        Picture(image=hard.picture.image, truth=with_bitmaps(blended.truth, (60, 60))),
        Picture(image=hard.picture.image, truth=with_bitmaps(hard.picture.truth, (60, 60))),
    )
    low = np.minimum(scene.image, donor.image).astype(int)
    high = np.maximum(scene.image, donor.image).astype(int)
    assert ((blended.image >= low - 1) & (blended.image <= high + 1)).all()
    cover = np.zeros((60, 60), bool)
    cover[20:40, 20:40] = True
    mixed = composed(scene.image, donor.image, cover, 1.5)
    np.testing.assert_array_equal(mixed[28:32, 28:32], donor.image[28:32, 28:32])
    np.testing.assert_array_equal(mixed[:10, :10], scene.image[:10, :10])
    assert (mixed != composed(scene.image, donor.image, cover, None)).any()


def test_every_size_of_subset_is_as_likely_and_every_photograph_may_be_the_donor():
    counts = np.bincount([len(choose_instances(4, seed, HARD)) for seed in range(5000)], minlength=5)
    assert (np.abs(counts / 5000 - 0.2) < 0.02).all()
    members = np.bincount(
        list(itertools.chain.from_iterable(choose_instances(4, seed, HARD) for seed in range(5000)))
    )
    assert (np.abs(members / 5000 - 0.5) < 0.03).all()
    assert max(len(choose_instances(9, s, CopyPasteOptions(max_pasted=3))) for s in range(200)) == 3
    donors = [draw_donor(7, seed, CopyPasteOptions(probability=0.5)) for seed in range(4000)]
    places = np.bincount([donor[0] for donor in donors if donor is not None], minlength=7)
    assert abs(places.sum() / 4000 - 0.5) < 0.03
    assert (np.abs(places / places.sum() - 1 / 7) < 0.03).all()
    assert draw_donor(7, 3, CopyPasteOptions(probability=0.0)) is None


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return draw_index(tmp_path_factory.mktemp("drawn"))


def taken(index, workers, first=0, count=4, batch_size=3):
    loader = LoaderOptions(num_workers=workers)
    batches = train_batches(
        index, LSJ, loader, batch_size=batch_size, seed=5, first_position=first, group_size=1
    )
    return list(itertools.islice(batches, count))


def test_a_pasted_sample_hangs_on_its_seed_and_position_and_on_nothing_else(index):
    alone, helped = taken(index, 0), taken(index, 2)
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.masks.pixels, other.masks.pixels)
        assert torch.equal(one.masks.edges, other.masks.edges)
    later = taken(index, 0, first=6, count=2)
    assert all(torch.equal(one.images, other.images) for one, other in zip(alone[2:], later, strict=True))
    single = taken(index, 0, first=4, count=1, batch_size=1)[0]
    assert torch.equal(single.images[0], alone[1].images[1])


def test_pasting_does_not_change_how_the_photograph_itself_is_seen(index):
    plain = BatchSource(index, LSJ.model_copy(update={"copy_paste": None}), ImagePolicy())
    source = BatchSource(index, LSJ, ImagePolicy())
    num_pasted = 0
    for seed in range(12):
        scene, result = plain.picture(3, seed), source.pasted(3, seed)
        num_pasted += result.num_pasted
        if result.num_pasted == 0:
            np.testing.assert_array_equal(result.picture.image, scene.image)
        kept = len(result.picture.truth.boxes) - result.num_pasted
        assert kept + result.num_hidden == len(scene.truth.boxes)
    assert num_pasted > 5


def test_evaluation_pastes_nothing(index):
    with_paste, without = (
        BatchSource(index, options, ImagePolicy()).sample(2, 9, train=False)
        for options in (LSJ, LSJ.model_copy(update={"copy_paste": None}))
    )
    assert torch.equal(with_paste.image, without.image)


def test_masks_are_needed(index):
    picture = drawn_picture((30, 30), 0)
    bare = Picture(image=picture.image, truth=replace(picture.truth, masks=None))
    with pytest.raises(DataError, match="copy_paste=null"):
        paste_instances(bare, picture, [0], HARD)


@given(seed=SEEDS)
@settings(max_examples=60)
def test_keypoints_stay_on_what_they_mark_under_jitter(seed):
    image = np.zeros((60, 90, 3), np.uint8)
    places = np.array([[20, 30], [70, 15], [45, 50]], np.float32)
    for x, y in places.astype(int):
        image[y - 4 : y + 4, x - 4 : x + 4] = 255
    truth = Truth(
        boxes=np.array([[10, 5, 80, 58]], np.float32),
        labels=np.zeros(1, np.int64),
        masks=None,
        keypoints=np.concatenate([places, np.full((3, 1), 2, np.float32)], axis=1)[None],
    )
    options = TransformOptions(large_scale_jitter=LargeScaleJitterOptions(size=64, smallest=0.6))
    view = training_view((60, 90), options, seed)
    seen, shown = view_truth(truth, view, (60, 90)), view_image(image, view)
    for x, y, visibility in seen.keypoints.reshape(-1, 3):
        inside = 0.5 <= x < shown.shape[1] - 0.5 and 0.5 <= y < shown.shape[0] - 0.5
        if visibility > 0 and inside:
            assert shown[int(y), int(x), 0] > 127


def test_the_papers_scale_augmentation_has_a_name():
    options = override(TransformOptions(), ["short_side=paper"])
    assert options.short_side == PAPER_SCALES
    assert (min(PAPER_SCALES), max(PAPER_SCALES)) == (640, 800)
    seen = {min(training_view((480, 640), options, seed).size) for seed in range(200)}
    assert seen == set(PAPER_SCALES)


@pytest.mark.shared
def test_real_photographs_keep_the_laws(shared_data):
    folder = shared_data / "coco_mini"
    index = open_index(folder / "annotations" / "instances_val2017.json", folder / "val2017")
    options = TransformOptions(
        large_scale_jitter=LargeScaleJitterOptions(size=256), copy_paste=CopyPasteOptions()
    )
    source = BatchSource(index, options, ImagePolicy())
    rows = np.flatnonzero(index.num_usable)[:12]
    num_pasted = 0
    for seed, row in enumerate(rows.tolist()):
        result = source.pasted(row, seed)
        num_pasted += result.num_pasted
        height, width = result.picture.size
        assert max(height, width) <= 256
        for box, mask in zip(result.picture.truth.boxes, result.picture.truth.masks, strict=True):
            assert (box[2:] > box[:2]).all()
            drawn = canvas_of(mask, (height, width)) if isinstance(mask, Bitmap) or mask else None
            if drawn is not None and drawn.any():
                rows_of, columns_of = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
                tight = [columns_of[0], rows_of[0], columns_of[-1] + 1, rows_of[-1] + 1]
                assert np.abs(np.array(tight) - box).max() <= 2
    assert num_pasted > 10
