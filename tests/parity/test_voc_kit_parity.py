"""VOC's development kit, `VOCevaldet.m` and `VOCap.m`, in plain loops on its own pixels, beside ours."""

import math

import numpy as np
import pytest

from groundup.metrics.voc_ap import voc_ap

NUM_CLASSES = 3


def kit_ap(truths, detections, metric, min_overlap):
    """`truths`: [(image, [x1, y1, x2, y2], difficult)]; `detections`: [(image, box, score)]."""
    taken = [False] * len(truths)
    num_positive = sum(not difficult for _, _, difficult in truths)
    marks = []
    for image, box, _ in sorted(detections, key=lambda one: -one[2]):
        best, best_row = -math.inf, None
        for row, (other_image, other, _) in enumerate(truths):
            if other_image != image:
                continue
            width = min(box[2], other[2]) - max(box[0], other[0]) + 1
            height = min(box[3], other[3]) - max(box[1], other[1]) + 1
            if width > 0 and height > 0:
                areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, other)]
                overlap = width * height / (sum(areas) - width * height)
                if overlap > best:
                    best, best_row = overlap, row
        if best < min_overlap:
            marks.append((0, 1))
        elif truths[best_row][2]:
            marks.append((0, 0))
        else:
            marks.append((0, 1) if taken[best_row] else (1, 0))
            taken[best_row] = True
    if not num_positive:
        return None
    right = wrong = 0
    curve = []
    for is_right, is_wrong in marks:
        right, wrong = right + is_right, wrong + is_wrong
        curve.append((right / num_positive, right / (right + wrong) if right + wrong else math.nan))
    return eleven_points(curve) if metric == "voc2007" else area(curve)


def eleven_points(curve):
    grid = [step * 0.1 for step in range(6)] + [1 - step * 0.1 for step in range(4, -1, -1)]
    best = [[p for r, p in curve if r >= least and not math.isnan(p)] for least in grid]
    return sum(max(values, default=0.0) / 11 for values in best)


def area(curve):
    recalls = [0.0, *(r for r, _ in curve), 1.0]
    precisions = [0.0, *(0.0 if math.isnan(p) else p for _, p in curve), 0.0]
    for row in range(len(precisions) - 2, -1, -1):
        precisions[row] = max(precisions[row], precisions[row + 1])
    return sum(
        (recalls[row] - recalls[row - 1]) * precisions[row]
        for row in range(1, len(recalls))
        if recalls[row] != recalls[row - 1]
    )


def drawn_scene(seed):
    """Truths and detections by class in VOC's pixels, and the same as a COCO document and results."""
    rng = np.random.default_rng(seed)
    num_images = int(rng.integers(1, 7))
    truths, detections = ([[] for _ in range(NUM_CLASSES)] for _ in range(2))
    document = {
        "images": [{"id": i, "height": 200, "width": 200} for i in range(num_images)],
        "annotations": [],
        "categories": [{"id": c, "name": str(c)} for c in range(NUM_CLASSES)],
    }
    results = []
    for image in range(num_images):
        boxes = [draw_box(rng) for _ in range(rng.integers(0, 9))]
        for box in boxes:
            label, difficult = int(rng.integers(NUM_CLASSES)), bool(rng.random() < 0.3)
            truths[label].append((image, box, difficult))
            document["annotations"].append(
                {"id": len(document["annotations"]) + 1, "image_id": image, "category_id": label}
                | {"bbox": as_edges(box), "area": 1.0, "iscrowd": 0, "difficult": int(difficult)}
            )
        for _ in range(rng.integers(0, 14)):
            box = draw_box(rng, boxes[int(rng.integers(len(boxes)))] if boxes else None)
            label, score = int(rng.integers(NUM_CLASSES)), float(rng.integers(12)) / 12  # ties are common
            detections[label].append((image, box, score))
            results.append({"image_id": image, "category_id": label, "bbox": as_edges(box), "score": score})
    return truths, detections, document, results


def draw_box(rng, near=None):
    corner, side = rng.integers(1, 60, 2), rng.integers(3, 40, 2)
    if near is not None:
        corner = np.maximum(1, np.array(near[:2]) + rng.integers(-3, 4, 2))
        side = np.maximum(1, np.array(near[2:]) - near[:2] + rng.integers(-3, 4, 2))
    return [*corner.tolist(), *(corner + side).tolist()]


def as_edges(box):
    x1, y1, x2, y2 = box
    return [float(x1 - 1), float(y1 - 1), float(x2 - x1 + 1), float(y2 - y1 + 1)]


@pytest.mark.parametrize("metric", ["voc2007", "voc2012"])
def test_every_class_has_the_kits_ap_to_the_last_digits(metric):
    counts = {"defined": 0, "undefined": 0}
    for seed in range(120):
        truths, detections, document, results = drawn_scene(seed)
        thresholds = (0.3, 0.5, 0.75)
        ours = voc_ap(document, results, metric, thresholds=thresholds)
        for category in ours.categories:
            for threshold in thresholds:
                wanted = kit_ap(truths[category.id], detections[category.id], metric, threshold)
                found = category.AP[f"{threshold:.2f}"]
                assert (found is None) == (wanted is None)
                assert found is None or found == pytest.approx(wanted, abs=1e-12)
                counts["undefined" if found is None else "defined"] += 1
    assert counts["defined"] > 800
    assert counts["undefined"] > 10


def test_pixels_carried_over_as_they_stand_need_the_kits_one_more():
    for seed in range(40):
        truths, detections, document, results = drawn_scene(seed)
        for entry in (*document["annotations"], *results):
            x, y, width, height = entry["bbox"]
            entry["bbox"] = [x + 1, y + 1, width - 1, height - 1]
        ours = voc_ap(document, results, "voc2012", thresholds=(0.5,), pixels="inclusive")
        for category in ours.categories:
            wanted = kit_ap(truths[category.id], detections[category.id], "voc2012", 0.5)
            assert category.AP["0.50"] == pytest.approx(wanted, abs=1e-12)
