"""Batches: what they hold, that workers and restarts change nothing, and how faults come home."""

import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import time
from dataclasses import fields

import numpy as np
import pytest
import torch

from annotated import draw_index, draw_truth
from groundup.data.coco import open_index
from groundup.data.collate import build_batch, build_sample, with_margin
from groundup.data.loader import Annotated, LoaderOptions, evaluation_batches, train_batches, usable_rows
from groundup.data.transforms import LargeScaleJitterOptions, TransformOptions
from groundup.data.truth import Bitmap
from groundup.errors import DataError, UsageError
from groundup.structures import Record

HERE = LoaderOptions(num_workers=0)
SMALL = TransformOptions(short_side=(32, 48), short_side_choice="range", max_side=90, test_short_side=40)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return draw_index(tmp_path_factory.mktemp("drawn"))


def same(a, b):
    """Whether two records hold equal tensors of equal types."""
    for field in fields(a):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, Record):
            if not same(one, other):
                return False
        elif isinstance(one, torch.Tensor):
            if one.dtype != other.dtype or not torch.equal(one, other):
                return False
        elif one != other:
            return False
    return True


def take(count, index, options=HERE, transforms=SMALL, **kwargs):
    defaults = {"batch_size": 3, "seed": 7, "first_position": 0}
    return list(itertools.islice(train_batches(index, transforms, options, **(defaults | kwargs)), count))


def started_workers(batches):
    """The worker processes that the first batch starts."""
    before = {child.pid for child in multiprocessing.active_children()}
    next(batches)
    return [child for child in multiprocessing.active_children() if child.pid not in before]


def test_a_drawn_index_is_annotated(index):
    assert isinstance(index, Annotated)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_change_nothing(index, num_workers):
    alone = take(7, index)
    helped = take(7, index, LoaderOptions(num_workers=num_workers, prefetch=2))
    assert all(same(one, other) for one, other in zip(alone, helped, strict=True))


def test_a_restart_goes_on_with_the_rest(index):
    whole = take(9, index)
    assert all(
        same(one, other) for one, other in zip(whole[4:], take(5, index, first_position=12), strict=True)
    )


def test_ranks_share_the_order_of_one_process(index):
    whole = take(8, index, batch_size=7, group_size=2)
    ranks = [take(8, index, batch_size=7, rank=r, world_size=3, group_size=2) for r in range(3)]
    assert {tuple(batch.num_images for batch in step) for step in zip(*ranks, strict=True)} == {(2, 2, 3)}
    for step, batch in zip(zip(*ranks, strict=True), whole, strict=True):
        assert torch.cat([part.seeds for part in step]).equal(batch.seeds)
        assert torch.cat([part.image_ids for part in step]).equal(batch.image_ids)
        # Padded alike, or a norm over the padding would differ.
        assert torch.cat([part.images for part in step]).equal(batch.images)


def test_more_ranks_than_groups_are_refused_in_one_line(index):
    with pytest.raises(UsageError, match=r"6 images .* 2 groups .* 3 processes; start at most 2") as caught:
        take(1, index, batch_size=6, group_size=3, rank=0, world_size=3)
    assert "\n" not in str(caught.value)


def test_a_sample_does_not_depend_on_the_batch_it_is_in(index):
    by_two = take(6, index, batch_size=2, group_size=4)
    by_four = take(3, index, batch_size=4, group_size=4)
    assert torch.cat([batch.seeds for batch in by_two]).equal(torch.cat([batch.seeds for batch in by_four]))
    sizes = torch.cat([batch.sizes for batch in by_four])
    assert torch.cat([batch.sizes for batch in by_two]).equal(sizes)
    height, width = sizes[5].tolist()
    assert by_two[2].images[1, :, :height, :width].equal(by_four[1].images[1, :, :height, :width])


def test_an_epoch_shows_each_usable_image_once_and_batches_share_orientation(index):
    assert len(usable_rows(index)) == 12
    batches = take(12, index, batch_size=4)
    for epoch in range(4):
        ids = torch.cat([batch.image_ids for batch in batches[epoch * 3 : epoch * 3 + 3]]).tolist()
        assert sorted(ids) == [int(i) for i in index.image_ids[usable_rows(index)]]
    mixed = [len({bool(wide >= high) for high, wide in batch.sizes.tolist()}) > 1 for batch in batches]
    assert sum(mixed) <= 4


def test_evaluation_shows_every_image_once_in_row_order(index):
    batches = list(evaluation_batches(index, SMALL, HERE, batch_size=4))
    assert [len(batch.image_ids) for batch in batches] == [4, 4, 4, 1]
    assert torch.cat([batch.image_ids for batch in batches]).tolist() == index.image_ids.tolist()
    assert torch.cat([batch.original_sizes for batch in batches]).tolist() == index.sizes.tolist()
    assert all(min(size) == 40 for batch in batches for size in batch.sizes.tolist())
    shared = [evaluation_batches(index, SMALL, HERE, batch_size=4, rank=r, world_size=2) for r in range(2)]
    assert [i for part in shared for batch in part for i in batch.image_ids] == index.image_ids.tolist()
    many = [evaluation_batches(index, SMALL, HERE, batch_size=4, rank=r, world_size=6) for r in range(6)]
    assert [len(list(part)) for part in many] == [0, 1, 1, 0, 1, 1]


def test_batches_are_padded_with_nothing(index):
    for batch in take(6, index, batch_size=5):
        assert batch.images.shape[2] % 32 == 0
        assert batch.images.shape[3] % 32 == 0
        assert batch.images.is_contiguous()
        for row, (height, width) in enumerate(batch.sizes.tolist()):
            assert not batch.images[row, :, height:].any()
            assert not batch.images[row, :, :, width:].any()
            assert batch.images[row, :, height - 1, width - 1].any()
        padding = batch.labels == -1
        assert not batch.boxes[padding].any()
        assert not batch.keypoints[padding].any()
        assert (batch.boxes[~padding][:, 2:] > batch.boxes[~padding][:, :2]).all()


def test_instance_rows_are_flat_over_the_batch(index):
    batch = take(1, index, batch_size=5)[0]
    num_slots = batch.labels.shape[1]
    masks = batch.masks
    real = (batch.labels.flatten() >= 0).nonzero().flatten().tolist()
    assert sorted({*masks.polygon_instance.tolist(), *masks.bitmap_instance.tolist()}) == real
    assert (masks.polygon_instance.diff() >= 0).all()
    assert (masks.bitmap_instance.diff() > 0).all()
    assert (masks.edge_polygon.diff() >= 0).all()
    # The edges of each polygon lie in its own instance's box, and close.
    for polygon, row in enumerate(masks.polygon_instance.tolist()):
        edges = masks.edges[masks.edge_polygon == polygon]
        assert edges[:, 2:].equal(edges[:, :2].roll(-1, 0))
        box = batch.boxes[row // num_slots, row % num_slots]
        torch.testing.assert_close(edges[:, :2].amin(0), box[:2], atol=1e-3, rtol=0)
        torch.testing.assert_close(edges[:, :2].amax(0), box[2:], atol=1e-3, rtol=0)
    areas = (masks.bitmap_boxes[:, 2:] - masks.bitmap_boxes[:, :2]).prod(dim=1)
    assert int(areas.sum()) == len(masks.pixels)


def test_large_scale_jitter_gives_batches_of_one_shape(index):
    transforms = TransformOptions(large_scale_jitter=LargeScaleJitterOptions(size=96))
    assert {batch.images.shape for batch in take(6, index, transforms=transforms)} == {(3, 3, 96, 96)}


def test_an_image_without_instances_still_has_a_slot():
    truth = draw_truth(np.random.default_rng(0), 0, 20, 30)
    sample = build_sample(np.ones((20, 30, 3), np.uint8), truth, (20, 30), 5, 9)
    batch = build_batch([sample, sample])
    assert batch.boxes.shape == (2, 1, 4)
    assert (batch.labels == -1).all()
    assert batch.masks.edges.shape == (0, 4)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (2, 3, [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]),
        (0, 3, [[0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]),
        (0, 0, [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]),
        (8, 6, [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 0, 0], [0, 1, 0, 0]]),
    ],
)
def test_a_bitmaps_margin_is_empty_inside_the_image_and_repeats_the_border_outside(x, y, expected):
    pixels = np.array([[1, 1], [1, 0]], np.uint8)
    box, padded = with_margin(Bitmap(x=x, y=y, pixels=pixels), (8, 10))
    assert box == (x - 1, y - 1, x + 3, y + 3)
    np.testing.assert_array_equal(padded, expected)


def test_unreadable_photographs_are_all_named_in_one_line(tmp_path):
    broken = draw_index(tmp_path, 3)
    for row in (0, 2):
        (tmp_path / f"{row}.png").write_bytes(b"no picture")
    for options in (HERE, LoaderOptions(num_workers=1)):
        with pytest.raises(DataError, match=r"0\.png.*2\.png|2\.png.*0\.png") as caught:
            take(1, broken, options)
        assert "\n" not in str(caught.value)


def test_a_data_set_without_usable_instances_is_refused(index, tmp_path):
    empty = draw_index(tmp_path, 3)
    empty.num_usable[:] = 0
    with pytest.raises(DataError, match="none of the 3 images"):
        take(1, empty)


@pytest.mark.parametrize("seconds_alive", [0.0, 0.02, 0.2])
def test_a_dead_worker_is_an_error_and_not_a_hang(index, seconds_alive):
    batches = train_batches(
        index, SMALL, LoaderOptions(num_workers=2, prefetch=1), batch_size=2, seed=0, first_position=0
    )
    workers = started_workers(batches)
    time.sleep(seconds_alive)  # killed while reading, sending, or waiting
    os.kill(workers[0].pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(DataError, match=f"worker died.*{workers[0].pid}"):
        list(itertools.islice(batches, 20))
    assert time.monotonic() - started < 20


def test_a_signal_to_the_whole_group_leaves_workers_working(index):
    batches = train_batches(
        index, SMALL, LoaderOptions(num_workers=1, prefetch=1), batch_size=2, seed=0, first_position=0
    )
    (worker,) = started_workers(batches)
    os.kill(worker.pid, signal.SIGTERM)
    os.kill(worker.pid, signal.SIGINT)
    for _ in range(6):
        next(batches)


def test_a_batch_that_never_comes_is_an_error(index):
    batches = train_batches(
        index,
        SMALL,
        LoaderOptions(num_workers=1, prefetch=1, timeout=0.5),
        batch_size=2,
        seed=0,
        first_position=0,
    )
    (worker,) = started_workers(batches)
    os.kill(worker.pid, signal.SIGSTOP)
    threading.Timer(2.5, os.kill, (worker.pid, signal.SIGCONT)).start()  # so that the test ends soon
    with pytest.raises(DataError, match=r"no batch in 0\.5 s"):
        list(itertools.islice(batches, 6))


@pytest.mark.shared
def test_real_photographs_make_equal_batches_with_and_without_workers(shared_data, tmp_path):
    folder = shared_data / "coco_mini"
    annotations = folder / "annotations" / "instances_val2017.json"
    real = open_index(annotations, folder / "val2017", cache=tmp_path)
    assert isinstance(real, Annotated)
    assert len(pickle.dumps(real)) < 2000
    transforms = TransformOptions(short_side=(160, 200), max_side=300)
    alone = take(4, real, transforms=transforms)
    helped = take(4, real, LoaderOptions(num_workers=1), transforms=transforms)
    assert all(same(one, other) for one, other in zip(alone, helped, strict=True))
    assert all((batch.labels >= 0).any(dim=1).all() for batch in alone)
