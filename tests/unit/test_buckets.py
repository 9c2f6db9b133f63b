"""Batches in few shapes: which, that no loss hangs on the padding of truth, and what is refused."""

import itertools
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from annotated import draw_index
from detector_worlds import polygon_masks, random_batch, random_keypoints, tiny_detector
from groundup.data.buckets import BucketOptions, bucket_of, pad_truth
from groundup.data.loader import LoaderOptions, train_batches
from groundup.data.transforms import LargeScaleJitterOptions, TransformOptions
from groundup.errors import DataError
from groundup.models.keypoint_head import KeypointHeadOptions
from groundup.models.rois import PoolOptions

SIZES = ((64, 96), (96, 64), (96, 96))
SMALL = BucketOptions(sizes=SIZES, instances=2, polygons=2, edges=8, instance_edges=4, instance_polygons=1)
TRANSFORMS = TransformOptions(short_side=(32, 48), short_side_choice="range", max_side=90, buckets=SMALL)


def shapes_of(batch):
    masks = batch.masks
    tensors = (
        batch.images,
        batch.labels,
        *((masks.edges, masks.polygon_instance, masks.pixels) if masks else ()),
    )
    return (*(tuple(tensor.shape) for tensor in tensors), masks and masks.bounds)


def test_a_batch_goes_to_the_least_size_that_holds_it():
    assert bucket_of((64, 90), SMALL) == (64, 96)
    assert bucket_of((65, 60), SMALL) == (96, 64)
    assert bucket_of((65, 65), SMALL) == (96, 96)
    with pytest.raises(DataError, match=r"97 x 60 .* add one"):
        bucket_of((97, 60), SMALL)


def test_training_batches_have_few_shapes_and_the_same_content(tmp_path):
    index = draw_index(tmp_path)

    def drawn(transforms):
        stream = train_batches(index, transforms, LoaderOptions(num_workers=0), batch_size=2, seed=3)
        return list(itertools.islice(stream, 12))

    plain, padded = drawn(TRANSFORMS.model_copy(update={"buckets": None})), drawn(TRANSFORMS)
    assert {tuple(batch.images.shape[2:]) for batch in padded} <= set(SIZES)
    assert len({shapes_of(batch) for batch in padded}) < len({shapes_of(batch) for batch in plain})
    for one, other in zip(plain, padded, strict=True):
        high, wide = one.images.shape[2:]
        slots = one.labels.shape[1]
        assert torch.equal(one.images, other.images[:, :, :high, :wide])
        assert not other.images[:, :, high:].any()
        assert not other.images[:, :, :, wide:].any()
        assert torch.equal(one.boxes, other.boxes[:, :slots])
        assert torch.equal(one.labels, other.labels[:, :slots])
        assert (other.labels[:, slots:] == -1).all()


def test_padded_truth_changes_no_loss():
    batch = random_batch((3, 0, 5))
    batch = replace(batch, keypoints=random_keypoints(batch))
    head = KeypointHeadOptions(pool=PoolOptions(resolution=7), num_convs=1, channels=16)
    model = tiny_detector(keypoint_head=head)
    padded = pad_truth(batch, SMALL)
    assert padded.labels.shape == (3, 8)
    assert padded.masks.bounds.edges == 8
    plain = model.losses(batch)
    for name, loss in model.losses(padded).items():
        torch.testing.assert_close(loss, plain[name], rtol=1e-5, atol=1e-7, msg=name)


def test_truth_grows_by_doubling_and_never_fails():
    for num in (1, 2, 3, 9):
        padded = pad_truth(random_batch((num, 1)), SMALL)
        assert padded.labels.shape[1] in (2, 4, 8, 16)
        assert padded.labels.shape[1] >= num
        assert len(padded.masks.edges) in (16, 32, 64)
    round_one = torch.rand(37, 2).tolist()
    masks = polygon_masks([(0, [round_one, round_one])])
    grown = pad_truth(replace(random_batch((1,)), masks=masks), SMALL).masks
    assert grown.bounds.edges == 4 * 32
    assert grown.bounds.polygons == 32


def test_photographs_without_truth_have_the_shape_of_others():
    empty, full = (pad_truth(random_batch(num), SMALL) for num in ((0, 0), (2, 1)))
    assert shapes_of(empty) == shapes_of(full)


def test_sizes_that_cannot_hold_every_batch_are_refused():
    with pytest.raises(ValidationError, match="add a size that holds them"):
        TransformOptions(buckets=SMALL)
    jitter = LargeScaleJitterOptions(size=96)
    assert TransformOptions(buckets=SMALL, large_scale_jitter=jitter).buckets == SMALL
    assert TransformOptions(buckets=BucketOptions()).buckets.holds((1333, 1333))
    for sizes in ((), ((100, 96),)):
        with pytest.raises(ValidationError, match="multiples of 32"):
            BucketOptions(sizes=sizes)
