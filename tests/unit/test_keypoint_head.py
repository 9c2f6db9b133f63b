"""What the keypoint head learns, finds, and refuses."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from detector_worlds import (
    NUM_CLASSES,
    NUM_KEYPOINTS,
    random_batch,
    random_keypoints,
    tiny_detector,
    tiny_options,
)
from groundup.errors import DataError
from groundup.models import keypoint_presets
from groundup.models.initialisation import init_table
from groundup.models.keypoint_head import KeypointHead, KeypointHeadOptions
from groundup.models.presets import PUBLISHED, TINY
from groundup.models.rcnn import DetectorOptions, build_detector
from groundup.models.rois import PoolOptions, sample_rois
from groundup.ops.keypoints import decode_heatmaps

SMALL = KeypointHeadOptions(pool=PoolOptions(resolution=7), num_convs=1, channels=16)
SIDE = 28


def small_detector(head=SMALL, **changes):
    return tiny_detector(mask_head=None, keypoint_head=head, **changes)


def batch_of(num_objects, **arguments):
    batch = random_batch(num_objects, **arguments)
    return replace(batch, masks=None, keypoints=random_keypoints(batch))


def by_hand(model, batch, image):
    """Cross entropies of every labelled keypoint inside a positive RoI of the image, one by one."""
    pyramid = model.pyramid(batch)
    found = model.rpn(pyramid, (batch.images.shape[2], batch.images.shape[3]))
    proposals = model.rpn.propose(found, batch.sizes, is_training=True, group_size=2)
    rois = sample_rois(proposals, batch, model.options.rois, NUM_CLASSES)
    maps = model.roi_maps(pyramid)
    slots = rois.is_positive[image].nonzero()[:, 0]
    boxes = rois.boxes[image, slots]
    with torch.no_grad():
        heatmaps = model.keypoint_head(maps, boxes, torch.full_like(slots, image))
    losses = []
    for heatmap, slot, box in zip(heatmaps, slots.tolist(), boxes.tolist(), strict=True):
        x1, y1, x2, y2 = box
        points = batch.keypoints[image, rois.gt_index[image, slot]].tolist()
        for logits, (x, y, visibility) in zip(heatmap, points, strict=True):
            if visibility == 0 or not (x1 <= x <= x2 and y1 <= y <= y2):
                continue
            column = min(int((x - x1) * SIDE / (x2 - x1)), SIDE - 1)
            row = min(int((y - y1) * SIDE / (y2 - y1)), SIDE - 1)
            losses.append(logits.logsumexp((0, 1)) - logits[row, column])
    return torch.stack(losses)


def test_the_loss_is_the_mean_over_labelled_keypoints_of_a_group():
    model, batch = small_detector(), batch_of((3, 2))
    values = [by_hand(model, batch, image) for image in (0, 1)]
    loss = model.losses(batch)["loss_keypoint"]
    torch.testing.assert_close(loss, torch.cat(values).mean(), rtol=1e-4, atol=0)
    model.options = model.options.model_copy(update={"loss_images": 1})
    apart = torch.stack([value.mean() for value in values]).mean()
    torch.testing.assert_close(model.losses(batch)["loss_keypoint"], apart, rtol=1e-4, atol=0)


def test_the_alternative_divides_by_the_keypoints_that_slots_could_hold():
    head = SMALL.model_copy(update={"loss": "slots", "loss_weight": 4.0})
    model, batch = small_detector(head), batch_of((3, 2))
    total = torch.cat([by_hand(model, batch, image) for image in (0, 1)]).sum()
    expected = 4 * total / (2 * model.options.rois.max_positives * NUM_KEYPOINTS)
    torch.testing.assert_close(model.losses(batch)["loss_keypoint"], expected, rtol=1e-4, atol=0)


def test_a_group_with_too_few_keypoints_learns_none():
    batch = batch_of((3, 2))
    num_visible = sum(len(by_hand(small_detector(), batch, image)) for image in (0, 1))
    for least, learns in ((num_visible - 1, True), (num_visible, False)):
        head = SMALL.model_copy(update={"min_visible": least})
        assert (small_detector(head).losses(batch)["loss_keypoint"] > 0) == learns


def test_a_batch_of_four_is_the_mean_of_its_groups_of_keypoints():
    model, batch = small_detector(), batch_of((3, 2, 1, 4))
    halves = [part_of(batch, 0, 2), part_of(batch, 2, 4)]
    mean = sum(model.losses(half)["loss_keypoint"] for half in halves) / 2
    torch.testing.assert_close(model.losses(batch)["loss_keypoint"], mean, rtol=1e-5, atol=1e-7)


def part_of(batch, first, last):
    names = ("images", "sizes", "original_sizes", "boxes", "labels", "keypoints", "image_ids", "seeds")
    return replace(batch, **{name: getattr(batch, name)[first:last] for name in names})


def test_empty_slots_change_no_keypoint_loss_and_no_gradient():
    batch, found = batch_of((3, 0, 2)), []
    for slots in ("real", "fixed"):
        model = small_detector(roi_slots=slots)
        loss = model.losses(batch)["loss_keypoint"]
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.keypoint_head.parameters())])
    for real, fixed in zip(*found, strict=True):
        torch.testing.assert_close(real, fixed, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("slots", ["real", "fixed"])
def test_images_without_keypoints_have_no_keypoint_loss_and_reach_every_parameter(slots):
    empty = random_batch((0, 0), slots=2)
    unlabelled = random_batch((3, 2))
    for batch in (empty, unlabelled):
        model = small_detector(roi_slots=slots)
        zeros = torch.zeros(*batch.labels.shape, NUM_KEYPOINTS, 3)
        losses = model.losses(replace(batch, masks=None, keypoints=zeros))
        assert losses["loss_keypoint"] == 0
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_batch_without_any_slot_has_no_keypoint_loss():
    batch = replace(random_batch((0, 0)), masks=None, keypoints=torch.zeros(2, 0, NUM_KEYPOINTS, 3))
    assert small_detector().losses(batch)["loss_keypoint"] == 0


def test_masks_and_keypoints_are_learnt_and_found_together():
    batch = random_batch((3, 2))
    batch = replace(batch, keypoints=random_keypoints(batch))
    model = tiny_detector(keypoint_head=SMALL)
    assert {"loss_mask", "loss_keypoint"} < set(model.losses(batch))
    for detections in model.eval().detect(batch):
        assert len(detections.masks) == len(detections.keypoints) == len(detections.boxes) > 0


def test_keypoints_lie_in_their_boxes_in_pixels_of_the_photograph():
    batch = batch_of((3, 2))
    batch = replace(batch, original_sizes=batch.sizes * 3)
    model = small_detector().eval()
    for detections in model.detect(batch):
        points, boxes = detections.keypoints, detections.boxes[:, None]
        assert points.shape == (len(boxes), NUM_KEYPOINTS, 3)
        assert (points[..., :2] >= boxes[..., :2]).all()
        assert (points[..., :2] <= boxes[..., 2:].clamp(min=3) + 3).all()  # a box is at least one pixel
        assert ((points[..., 2] > 0) & (points[..., 2] <= 1)).all()


def test_heatmaps_of_given_boxes_are_those_that_detection_decodes():
    batch = batch_of((3, 2))
    model = small_detector().eval()
    found = model.detect(batch)[0]
    with torch.no_grad():
        maps = model.roi_maps(model.pyramid(batch))
        images = torch.zeros(len(found.boxes), dtype=torch.int64)
        heatmaps = model.keypoint_head.heatmaps(maps, found.boxes, images)
    assert heatmaps.shape == (len(found.boxes), NUM_KEYPOINTS, SIDE, SIDE)
    torch.testing.assert_close(decode_heatmaps(heatmaps, found.boxes), found.keypoints)


def test_detection_taken_apart_gives_the_same_keypoints():
    batch = batch_of((3, 2))
    model = small_detector().eval()
    whole = model.detect(batch)
    boxes = [replace(found, keypoints=None) for found in whole]
    assert model.has_shapes
    for found, bare, shapes in zip(whole, boxes, model.shapes(batch, boxes), strict=True):
        torch.testing.assert_close(model.with_shapes(bare, shapes).keypoints, found.keypoints)
    assert all(found.keypoints is None for found in model.candidates(batch))


def test_a_keypoint_head_says_what_it_lacks():
    with pytest.raises(DataError, match="keypoint_head=null"):
        small_detector().losses(replace(random_batch((1,)), masks=None))
    with pytest.raises(DataError, match="name none"):
        build_detector(
            tiny_options(keypoint_head=SMALL), num_classes=2, pixel_mean=(0.5,) * 3, pixel_std=(0.25,) * 3
        )


def test_keypoints_are_float32_under_autocast():
    model, batch = small_detector(), batch_of((3, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.losses(batch)["loss_keypoint"].dtype == torch.float32
        assert all(found.keypoints.dtype == torch.float32 for found in model.eval().detect(batch))


PRESETS = {
    "paper": keypoint_presets.paper_keypoint_rcnn,
    "detectron2": keypoint_presets.detectron2_keypoint_rcnn,
    "torchvision": keypoint_presets.torchvision_keypoint_rcnn,
}


@pytest.mark.parametrize("name", PRESETS)
def test_every_keypoint_preset_has_the_published_head(name):
    options = PRESETS[name]()
    head = options.keypoint_head
    assert options.mask_head is None
    assert (head.num_convs, head.channels, head.norm, head.loss, head.loss_weight) == (
        8,
        512,
        "none",
        "visible",
        1,
    )
    head = KeypointHead(head, 256, 17, options.init)
    assert head.side == 56
    # The branch's weights by hand: 256 -> 512, seven of 512 -> 512, the deconvolution, biases everywhere.
    expected = 256 * 512 * 9 + 7 * 512 * 512 * 9 + 8 * 512 + 512 * 17 * 16 + 17
    assert sum(p.numel() for p in head.parameters()) == expected
    rules = {rule for _, rule, _ in init_table(head)}
    assert rules == {f"{options.init}: msra_fill"}
    conv, deconv = head.convs[1][0], head.deconv
    assert conv.weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert deconv.weight.std().item() == pytest.approx((2 / (512 * 16)) ** 0.5, rel=0.02)


def test_systems_differ_where_the_published_ones_do():
    found = {
        name: (o.box_head.smooth_l1_beta, o.rpn.post_nms_train, o.keypoint_head.min_visible)
        for name, o in ((name, build()) for name, build in PRESETS.items())
    }
    assert found == {
        "paper": (1.0, 2000, 20),
        "detectron2": (0.5, 1500, 0),
        "torchvision": (1 / 9, 2000, 0),
    }
    assert PRESETS["detectron2"]().keypoint_head.pool.aligned
    assert PUBLISHED.keypoint_convs == 8


@pytest.mark.parametrize("name", PRESETS)
def test_every_keypoint_preset_trains_and_detects(name):
    options = PRESETS[name]("resnet18", sizes=TINY)
    torch.manual_seed(0)
    model = build_detector(
        options, num_classes=1, pixel_mean=(0.5,) * 3, pixel_std=(0.25,) * 3, num_keypoints=NUM_KEYPOINTS
    )
    batch = batch_of((2, 1))
    batch = replace(batch, labels=batch.labels.clamp(max=0))
    sum(model.losses(batch).values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert len(model.eval().detect(batch)) == 2
    assert DetectorOptions.model_validate(options.model_dump(mode="json")) == options


def test_a_loss_of_uniform_heatmaps_is_that_of_guessing():
    model, batch = small_detector(), batch_of((3, 2))
    torch.nn.init.zeros_(model.keypoint_head.deconv.weight)
    expected = F.cross_entropy(torch.zeros(1, SIDE * SIDE), torch.tensor([5]))
    torch.testing.assert_close(model.losses(batch)["loss_keypoint"], expected)
