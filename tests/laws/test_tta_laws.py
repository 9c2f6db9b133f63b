"""What must hold of test-time augmentation whatever the detector has learnt."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from annotated import draw_index
from detector_worlds import NUM_CLASSES, tiny_detector, tiny_options
from groundup.config import override, read_tree
from groundup.data.coco import Category
from groundup.data.loader import LoaderOptions, evaluation_batches
from groundup.data.transforms import TransformOptions
from groundup.data.views import evaluation_views, photograph_views, plan_looks
from groundup.engine.evaluate import EvaluationOptions, detect_results
from groundup.engine.tta import (
    DETECTRON_SCALES,
    PRESETS,
    TTAOptions,
    ViewDetector,
    add_shapes,
    detect_in_views,
    mean_shapes,
    mirrored,
    unflipped,
    view_weights,
)
from groundup.errors import UsageError
from groundup.models.cascade import CascadeOptions
from groundup.models.keypoint_head import KeypointHeadOptions
from groundup.models.rois import PoolOptions
from groundup.ops.boxes import box_iou
from groundup.ops.voting import vote_boxes
from groundup.structures import BatchView, Shapes

CPU = torch.device("cpu")
BOLD = 5.0
"""By how much first weights of the box predictors are multiplied, so that a cascade's stages move boxes."""
TRANSFORMS = TransformOptions(test_short_side=96, test_max_side=160)
SIDES = ("left eye", "nose", "right eye")
CATEGORIES = [Category(id=label + 1, name=f"kind {label}", keypoints=SIDES) for label in range(NUM_CLASSES)]


def photographs(*sizes, seed=0):
    generator = np.random.default_rng(seed)
    return [
        np.kron(generator.integers(0, 256, (h // 8, w // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        for h, w in sizes
    ]


def views_of(pictures, scales=(), *, flip=True):
    looks = plan_looks(TRANSFORMS, scales, 200, flip=flip)
    return photograph_views(pictures, range(len(pictures)), looks, TRANSFORMS, CATEGORIES)


def detect(model, views, **options):
    with torch.inference_mode():
        return detect_in_views(model, views, TTAOptions(**options), CPU)


def assert_same_detections(first, second, atol=1e-4):
    for one, other in zip(first, second, strict=True):
        assert len(one.boxes) > 0
        torch.testing.assert_close(one.boxes, other.boxes, atol=atol, rtol=0)
        torch.testing.assert_close(one.scores, other.scores, atol=1e-6, rtol=0)
        assert torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.masks, other.masks, atol=atol, rtol=0)
        assert (one.image_id, one.size) == (other.image_id, other.size)


def cascade_detector():
    head = tiny_options().box_head.model_copy(update={"class_agnostic": True})
    model = tiny_detector(box_head=head, cascade=CascadeOptions()).eval()
    with torch.no_grad():
        for stage in (model.box_head, *model.cascade.heads):
            stage.deltas.weight.mul_(BOLD)
    return model


DETECTORS = {"plain": lambda: tiny_detector().eval(), "cascade": cascade_detector}


@pytest.mark.parametrize("kind", DETECTORS)
def test_one_view_without_its_mirror_image_is_plain_detection(kind):
    model = DETECTORS[kind]()
    pictures = photographs((96, 128), (120, 96))
    views = views_of(pictures, flip=False)
    assert isinstance(model, ViewDetector)
    assert_same_detections(detect(model, views), model.detect(next(iter(views)).batch))


@pytest.mark.parametrize("kind", DETECTORS)
def test_what_is_found_in_a_mirrored_photograph_is_mirrored(kind):
    # Sizes that need no rounding when resized: what is shown is then mirrored to the bit.
    model = DETECTORS[kind]()
    (picture,) = photographs((96, 128))
    straight = detect(model, views_of([picture], (48, 192)))
    turned = detect(model, views_of([np.ascontiguousarray(picture[:, ::-1])], (48, 192)))
    expected = [replace(mirrored(one), masks=one.masks.flip(-1)) for one in straight]
    assert_same_detections(turned, expected)


def keypoint_detector():
    head = KeypointHeadOptions(num_convs=1, channels=32, pool=PoolOptions(resolution=7))
    return tiny_detector(mask_head=None, keypoint_head=head).eval()


def test_keypoints_of_one_view_are_those_of_plain_detection():
    model = keypoint_detector()
    views = views_of(photographs((96, 128)), flip=False)
    (once,), (plain,) = detect(model, views), model.detect(next(iter(views)).batch)
    torch.testing.assert_close(once.keypoints, plain.keypoints, atol=1e-3, rtol=0)


def test_keypoints_of_a_mirrored_photograph_are_mirrored_and_change_sides():
    model = keypoint_detector()
    (picture,) = photographs((96, 128))
    options = {"keypoint_area": 30.0**2}
    (straight,) = detect(model, views_of([picture], (48, 192)), **options)
    (turned,) = detect(model, views_of([np.ascontiguousarray(picture[:, ::-1])], (48, 192)), **options)
    expected = straight.keypoints[:, [2, 1, 0]]
    torch.testing.assert_close(turned.keypoints[..., 2], expected[..., 2], atol=1e-4, rtol=0)
    near = ((turned.keypoints[..., 0] - (128 - expected[..., 0])).abs() < 1e-2) & (
        (turned.keypoints[..., 1] - expected[..., 1]).abs() < 1e-2
    )
    # Peaks that are equal to rounding may fall either way.
    assert near.float().mean() > 0.97
    (plain,) = model.detect(next(iter(views_of([picture]))).batch)
    assert plain.keypoints.shape[1:] == straight.keypoints.shape[1:] == (3, 3)


def test_the_order_of_views_changes_nothing():
    model = tiny_detector().eval()
    views = list(views_of(photographs((96, 128), (120, 96)), (64, 128)))
    first, turned = detect(model, views), detect(model, views[::-1])
    assert all(torch.equal(one.boxes, other.boxes) for one, other in zip(first, turned, strict=True))
    assert_same_detections(first, turned, atol=1e-6)


def test_detections_are_candidates_of_the_views_and_none_overlap_within_a_class():
    model = tiny_detector().eval()
    views = list(views_of(photographs((96, 128)), (64,)))
    (found,) = detect(model, views)
    pool = []
    for view in views:
        (one,) = model.candidates(view.batch)
        pool.append(mirrored(one) if view.is_flipped else one)
    boxes = torch.cat([one.boxes for one in pool])
    assert (box_iou(found.boxes, boxes).max(dim=1).values > 0.999).all()
    same = (found.labels[:, None] == found.labels) & ~torch.eye(len(found.labels), dtype=torch.bool)
    assert (box_iou(found.boxes, found.boxes)[same] <= 0.5 + 1e-5).all()
    assert len({len(one.boxes) for one in pool}) >= 1
    assert found.scores[0] == max(one.scores.max() for one in pool)


def test_masks_are_the_mean_of_what_the_views_see_in_the_final_boxes():
    model = tiny_detector().eval()
    views = list(views_of(photographs((96, 128)), (64,)))
    (found,) = detect(model, views)
    seen = []
    for view in views:
        boxes = mirrored(found) if view.is_flipped else found
        with torch.inference_mode():
            (shapes,) = model.shapes(view.batch, [boxes])
        seen.append(shapes.masks.flip(-1) if view.is_flipped else shapes.masks)
    torch.testing.assert_close(found.masks, torch.stack(seen).mean(0), atol=1e-6, rtol=0)


def test_a_detector_without_masks_looks_once_at_each_view():
    model = tiny_detector(mask_head=None).eval()
    views = iter(list(views_of(photographs((96, 128)))))
    (found,) = detect(model, views)
    assert found.masks is None
    assert len(found.boxes) > 0


def test_photographs_in_which_nothing_is_found_have_empty_detections():
    head = tiny_options().box_head.model_copy(update={"score_threshold": 0.99})
    model = tiny_detector(box_head=head).eval()
    for found in detect(model, views_of(photographs((96, 128), (120, 96))), vote_iou=0.9):
        assert found.boxes.shape == (0, 4)
        assert found.masks.shape[0] == 0


def test_voting_is_the_mean_of_agreeing_boxes_weighted_by_score():
    generator = torch.Generator().manual_seed(1)
    starts = torch.rand(60, 2, generator=generator) * 12
    voters = torch.cat([starts, starts + 30 + torch.rand(60, 2, generator=generator) * 6], dim=1)
    scores = torch.rand(60, generator=generator) + 0.05
    labels = torch.randint(0, 2, (60,), generator=generator)
    moved = vote_boxes(voters[:9], labels[:9], voters, scores, labels, 0.6)
    for row in range(9):
        agree = (box_iou(voters[row : row + 1], voters)[0] >= 0.6) & (labels == labels[row])
        mean = np.average(voters[agree].double().numpy(), axis=0, weights=scores[agree].double().numpy())
        np.testing.assert_allclose(moved[row].numpy(), mean, rtol=1e-5)
    assert int((moved != voters[:9]).any(dim=1).sum()) > 0


def test_a_box_that_no_voter_overlaps_stays():
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    far = torch.tensor([[50.0, 50.0, 60.0, 60.0], [0.0, 0.0, 10.0, 11.0]])
    labels = torch.tensor([0])
    assert torch.equal(vote_boxes(box, labels, far, torch.ones(2), torch.tensor([0, 1]), 0.5), box)


def test_voting_moves_boxes_and_nothing_else():
    model = tiny_detector().eval()
    views = views_of(photographs((96, 128)), (64,))
    (plain,), (voted,) = detect(model, views), detect(model, views, vote_iou=0.7)
    assert torch.equal(plain.scores, voted.scores)
    assert torch.equal(plain.labels, voted.labels)
    assert not torch.equal(plain.boxes, voted.boxes)
    assert (box_iou(plain.boxes, voted.boxes).diagonal() > 0.5).all()


def test_small_boxes_do_not_ask_smaller_views_nor_large_boxes_larger_ones():
    boxes = torch.tensor([[0.0, 0.0, 100.0, 100.0], [0.0, 0.0, 150.0, 150.0]])
    assert view_weights(boxes, -1, 150.0**2).tolist() == [0, 1]
    assert view_weights(boxes, 0, 150.0**2).tolist() == [1, 1]
    assert view_weights(boxes, 1, 150.0**2).tolist() == [1, 0]
    assert view_weights(boxes, 1, None).tolist() == [1, 1]


def test_heatmaps_are_the_mean_over_the_views_that_a_box_asks_and_masks_over_all():
    maps = torch.randn(3, 2, 4, 5, 5)
    masks = torch.rand(3, 2, 6, 6)
    weights = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    total = None
    for one, mask, weight in zip(maps, masks, weights, strict=True):
        total = add_shapes(total, Shapes(masks=mask, heatmaps=one), weight)
    mean = mean_shapes(total)
    torch.testing.assert_close(mean.heatmaps[0], maps[[0, 2], 0].mean(0))
    torch.testing.assert_close(mean.heatmaps[1], maps[:, 1].mean(0))
    torch.testing.assert_close(mean.masks, masks.mean(0))


def test_a_mirrored_heatmap_is_named_by_the_other_side():
    (picture,) = photographs((96, 128))
    eyes = Category(id=1, name="face", keypoints=("left eye", "nose", "right eye"))
    looks = plan_looks(TRANSFORMS, (), 200, flip=True)
    view = list(photograph_views([picture], [0], looks, TRANSFORMS, [eyes]))[1]
    assert isinstance(view, BatchView)
    heatmaps = torch.randn(2, 3, 4, 4)
    labels = torch.zeros(2, dtype=torch.int64)
    seen = unflipped(Shapes(masks=None, heatmaps=heatmaps), view, labels).heatmaps
    torch.testing.assert_close(seen, heatmaps.flip(-1)[:, [2, 1, 0]])
    twice = unflipped(Shapes(masks=None, heatmaps=seen), view, labels).heatmaps
    torch.testing.assert_close(twice, heatmaps)


def test_looks_do_not_hang_on_how_their_scales_are_written():
    looks = plan_looks(TRANSFORMS, (128, 64), 200, flip=True)
    assert looks == plan_looks(TRANSFORMS, (64, 96, 128, 64), 200, flip=True)
    assert [(look.short_side, look.max_side, look.flip, look.size_change) for look in looks] == [
        (64, 200, False, -1), (64, 200, True, -1), (96, 160, False, 0),
        (96, 160, True, 0), (128, 200, False, 1), (128, 200, True, 1),
    ]  # fmt: skip


def test_a_view_is_made_when_it_is_asked_for_and_the_photograph_stays_as_it_was():
    pictures = photographs((96, 128), (120, 96))
    before = [picture.copy() for picture in pictures]
    views = views_of(pictures, (48,))
    sizes = [view.batch.sizes.tolist() for view in views]
    assert sizes == [[[48, 64], [60, 48]]] * 2 + [[[96, 128], [120, 96]]] * 2
    assert all((one == other).all() for one, other in zip(pictures, before, strict=True))
    first, second = (next(iter(views)).batch.images for _ in range(2))
    assert torch.equal(first, second)


def test_every_photograph_is_loaded_once_and_seen_as_plain_evaluation_sees_it(tmp_path):
    index = draw_index(tmp_path)
    options = TransformOptions(test_short_side=40)
    looks = plan_looks(options, (24,), 100, flip=True)
    for workers in (0, 2):
        loader = LoaderOptions(num_workers=workers)
        plain = evaluation_batches(index, options, loader, batch_size=1)
        shown = [
            list(views)[2].batch for views in evaluation_views(index, options, loader, looks, batch_size=4)
        ]
        assert max(own.num_images for own in shown) > 1
        places = {int(i): (own, row) for own in shown for row, i in enumerate(own.image_ids)}
        assert len(places) == index.num_images == sum(own.num_images for own in shown)
        for batch in plain:
            own, row = places[int(batch.image_ids[0])]
            assert torch.equal(own.images[row], batch.images[0])
            assert torch.equal(own.original_sizes[row], batch.original_sizes[0])


def test_evaluation_takes_views_where_it_takes_batches(tmp_path):
    index = draw_index(tmp_path)
    options = EvaluationOptions(tta=TTAOptions(scales=(24,), max_side=100))
    transforms = TransformOptions(test_short_side=40)
    looks = plan_looks(transforms, options.tta.scales, options.tta.max_side, flip=True)
    shown = evaluation_views(index, transforms, LoaderOptions(num_workers=0), looks, batch_size=5)
    seen = []
    found = detect_results(
        tiny_detector(), shown, category_ids=range(NUM_CLASSES), options=options, seen=seen
    )
    assert sorted(seen) == sorted(index.image_ids.tolist())
    assert len(found["bbox"]) == len(found["segm"]) > 0


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_name_stands_for_its_options(name):
    options = override(EvaluationOptions(), [f"evaluation.tta={name}".removeprefix("evaluation.")])
    assert options.tta == PRESETS[name]
    assert read_tree(EvaluationOptions, options.model_dump(mode="json")) == options


def test_the_preset_is_detectrons_list():
    looks = plan_looks(TransformOptions(), PRESETS["detectron"].scales, 2000, flip=True)
    assert sorted({look.short_side for look in looks}) == list(range(400, 1201, 100))
    assert len(looks) == 2 * (len(DETECTRON_SCALES) + 1) == 18
    assert {look.max_side for look in looks if look.size_change} == {2000}
    assert {look.max_side for look in looks if not look.size_change} == {1333}
    assert PRESETS["detectron_x152"].vote_iou == 0.9
    assert PRESETS["detectron"].vote_iou is None


@pytest.mark.parametrize(
    ("value", "words"),
    [("detectro", "flip, detectron"), ("{scales: [0]}", "at least 1"), ("{vote_iou: 2}", "vote_iou")],
)
def test_what_cannot_be_is_refused_in_one_line(value, words):
    with pytest.raises(UsageError, match="tta") as caught:
        override(EvaluationOptions(), [f"tta={value}"])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
