"""A cascade against a second computation of it, in numpy and double precision, one RoI at a time.

No library at hand has a cascade to compare with. Taken from ours is only what each head says of given boxes
(its logits and deltas); which boxes those are, whose truth each answers for, what it costs and how scores
become one are computed here, from the description in Detectron2's `CascadeROIHeads`.
"""

import math

import numpy as np
import pytest
import torch

from detector_worlds import NUM_CLASSES, random_batch, tiny_detector, tiny_options
from groundup.models.cascade import CascadeOptions
from groundup.models.presets import paper_mask_rcnn, with_cascade
from groundup.models.rcnn import build_detector
from groundup.models.rois import sample_rois

IOUS = (0.5, 0.6, 0.7)
WEIGHTS = ((10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15))
HEIGHT, WIDTH = 128, 160
BETA = 1.0


def iou(first, second):
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def moved(box, delta, weights):
    """Where a delta moves a box, cut off at the image's edge."""
    dx, dy, dw, dh = (value / weight for value, weight in zip(delta, weights, strict=True))
    width, height = box[2] - box[0], box[3] - box[1]
    x, y = box[0] + width / 2 + dx * width, box[1] + height / 2 + dy * height
    limit = math.log(1000 / 16)
    width, height = width * math.exp(min(dw, limit)), height * math.exp(min(dh, limit))
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return [min(max(value, 0), side) for value, side in zip(corners, (WIDTH, HEIGHT) * 2, strict=True)]


def wanted_delta(true, box, weights):
    sizes = [(b[2] - b[0], b[3] - b[1]) for b in (true, box)]
    shift = [(true[k] + true[k + 2] - box[k] - box[k + 2]) / 2 / sizes[1][k] for k in (0, 1)]
    logs = [math.log(sizes[0][k] / sizes[1][k]) for k in (0, 1)]
    return [value * weight for value, weight in zip((*shift, *logs), weights, strict=True)]


def smooth_l1(error):
    return 0.5 * error * error / BETA if abs(error) < BETA else abs(error) - BETA / 2


def softmax(logits):
    values = np.exp(logits - logits.max())
    return values / values.sum()


def says(head, maps, image, box):
    """Logits and deltas of one head for one box, in double precision."""
    logits, deltas = head(maps, torch.tensor([box], dtype=torch.float32), torch.tensor([image]))
    return logits[0].double().numpy(), deltas[0, 0].double().numpy()


def bold_cascade():
    """Predictors far from their first weights: boxes move, classes differ, many RoIs are positive."""
    head = tiny_options().box_head.model_copy(update={"class_agnostic": True})
    model = tiny_detector(box_head=head, cascade=CascadeOptions(), mask_head=None)
    with torch.no_grad():
        for stage in (model.box_head, *model.cascade.heads):
            stage.deltas.weight.mul_(60)
            stage.classes.weight.mul_(20)
    return model


@pytest.fixture(scope="module")
def model():
    return bold_cascade()


@torch.no_grad()
def test_targets_and_losses_of_every_stage_are_those_of_the_second_computation(model):
    batch = random_batch((6, 1, 3), seed=4)
    pyramid = model.pyramid(batch)
    maps = model.roi_maps(pyramid)
    found = model.rpn(pyramid, (HEIGHT, WIDTH))
    proposals = model.rpn.propose(found, batch.sizes, is_training=True, group_size=2)
    rois = sample_rois(proposals, batch, model.options.rois, NUM_CLASSES)
    losses = model.cascade.losses(model.box_head, maps, rois, batch, slots="real", group_size=2)

    boxes = [rois.boxes[image][rois.is_filled[image]].double().tolist() for image in range(3)]
    truth = [
        [(box, label) for box, label in zip(batch.boxes[image].double().tolist(), labels, strict=True)]
        for image, labels in enumerate(batch.labels.tolist())
    ]
    truth = [[one for one in ones if one[1] >= 0] for ones in truth]
    for stage, head in enumerate((model.box_head, *model.cascade.heads)):
        sums, counts, positives = np.zeros((3, 2)), np.zeros(3), 0
        for image in range(3):
            next_boxes = []
            for box in boxes[image]:
                logits, delta = says(head, maps, image, box)
                overlaps = [iou(true, box) for true, _ in truth[image]]
                best = int(np.argmax(overlaps))
                is_positive = overlaps[best] >= IOUS[stage]
                true, label = truth[image][best] if is_positive else (None, NUM_CLASSES)
                sums[image, 0] -= math.log(softmax(logits)[label])
                if is_positive:
                    positives += 1
                    wanted = wanted_delta(true, box, WEIGHTS[stage])
                    sums[image, 1] += sum(smooth_l1(a - b) for a, b in zip(delta, wanted, strict=True))
                counts[image] += 1
                after = moved(box, delta, WEIGHTS[stage])
                if after[2] > after[0] and after[3] > after[1]:
                    next_boxes.append(after)
            boxes[image] = next_boxes
        # Two images of a device are divided by their common count, then devices are averaged.
        expected = (sums[:2].sum(0) / counts[:2].sum() + sums[2] / counts[2]) / 2
        suffix = "" if stage == 0 else f"_{stage + 1}"
        assert positives > 0
        assert losses[f"loss_box_class{suffix}"].item() == pytest.approx(expected[0], rel=1e-4)
        assert losses[f"loss_box_delta{suffix}"].item() == pytest.approx(expected[1], rel=1e-3)


@torch.no_grad()
def test_detections_are_the_last_boxes_with_the_mean_of_three_scores(model):
    batch = random_batch((2, 2), seed=5)
    pyramid = model.pyramid(batch)
    maps = model.roi_maps(pyramid)
    found = model.rpn(pyramid, (HEIGHT, WIDTH))
    proposals = model.rpn.propose(found, batch.sizes, is_training=False, group_size=2)
    candidates = model.cascade.candidates(model.box_head, maps, proposals, batch.sizes)

    expected = []
    for image in range(2):
        for box in proposals.boxes[image][proposals.is_filled[image]].double().tolist():
            scores, place = np.zeros(NUM_CLASSES), box
            for stage, head in enumerate((model.box_head, *model.cascade.heads)):
                logits, delta = says(head, maps, image, place)
                scores += softmax(logits)[:-1] / 3
                place = moved(place, delta, WEIGHTS[stage])
            labels = np.flatnonzero(scores > model.options.box_head.score_threshold).tolist()
            expected += [(image, label, scores[label], *place) for label in labels]
    assert len(candidates.boxes) == len(expected) > 50
    assert candidates.images.tolist() == [row[0] for row in expected]
    assert candidates.labels.tolist() == [row[1] for row in expected]
    np.testing.assert_allclose(candidates.scores.numpy(), [row[2] for row in expected], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(candidates.boxes.numpy(), [row[3:] for row in expected], atol=5e-2)


def test_a_cascade_has_the_parameters_of_published_ones():
    """82 M: Cascade Mask R-CNN R50, 4conv1fc heads with norm, 80 classes. Source: Liu et al. (2021), Swin
    Transformer, table 2. That one predicts a box a class in each stage and has a mask head in each."""
    options = with_cascade(paper_mask_rcnn("resnet50", "gn"))
    model = build_detector(options, num_classes=80, pixel_mean=(0.5,) * 3, pixel_std=(0.25,) * 3)

    def count(module):
        return sum(p.numel() for p in module.parameters())

    convs = 4 * (256 * 256 * 9 + 2 * 256)
    head = convs + (256 * 49 * 1024 + 1024) + (1024 * 81 + 81) + (1024 * 4 + 4)
    assert [count(stage) for stage in (model.box_head, *model.cascade.heads)] == [head] * 3
    boxes_of_classes = 3 * 79 * (4 * 1024 + 4)
    assert round((count(model) + boxes_of_classes + 2 * count(model.mask_head)) / 1e6) == 82
    plain = build_detector(
        options.model_copy(update={"cascade": None}),
        num_classes=80,
        pixel_mean=(0.5,) * 3,
        pixel_std=(0.25,) * 3,
    )
    assert count(model) - count(plain) == 2 * head
