"""AP equals pycocotools, the field's reference, to 1e-9 on random and adversarial detections."""

import contextlib
import copy
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detections import draw_document, draw_results
from groundup.metrics.coco_ap import coco_ap
from groundup.metrics.results import FIELD

TOLERANCE = 1e-9
KINDS = ["bbox", "segm", "keypoints"]


def oracle(document, results, kind, limits, category_ids=None):
    """The values of CocoAP by pycocotools, from its tables (`summarize` fixes the limit at 100)."""
    field = FIELD[kind]
    kept = [{k: r[k] for k in ("image_id", "category_id", "score", field)} for r in results]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(document)
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(copy.deepcopy(kept)), kind)
        evaluator.params.maxDets = list(limits)
        evaluator.evaluate()
        evaluator.accumulate()
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    area = {name: row for row, name in enumerate(evaluator.params.areaRngLbl)}

    def mean(table):
        return float(np.mean(table[table > -1])) if (table > -1).any() else None

    values = {
        "AP": mean(precision[:, :, :, 0, -1]),
        "AP50": mean(precision[0, :, :, 0, -1]),
        "AP75": mean(precision[5, :, :, 0, -1]),
        **{f"AR@{limit}": mean(recall[:, :, 0, m]) for m, limit in enumerate(limits)},
    }
    for name, letter in (("small", "s"), ("medium", "m"), ("large", "l")):
        values[f"AP{letter}"] = mean(precision[:, :, :, area[name], -1]) if name in area else None
        values[f"AR{letter}"] = mean(recall[:, :, area[name], -1]) if name in area else None
    each = {c: mean(precision[:, :, k, 0, -1]) for k, c in enumerate(evaluator.params.catIds)}
    return values, each


def assert_equal_to_oracle(document, results, kind, max_detections=None):
    ours = coco_ap(document, results, kind, max_detections)
    values, each = oracle(document, results, kind, ours.limits)
    defined = {name: value for name, value in values.items() if value is not None}
    assert ours.values() == pytest.approx(defined, abs=TOLERANCE)
    assert {c.id: c.AP for c in ours.categories} == pytest.approx(each, abs=TOLERANCE)
    return ours


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_random_detections_score_as_in_pycocotools(kind, seed):
    document = draw_document(seed)
    ours = assert_equal_to_oracle(document, draw_results(document, seed + 100, tied=seed % 2 == 0), kind)
    assert ours.AP > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_detections", [1, 5, 10, 100, 400])
def test_every_detection_limit_scores_as_in_pycocotools(kind, max_detections):
    document = draw_document(3, num_images=4, num_categories=2, num_instances=30, empty_images=1)
    results = draw_results(document, 4, num_noise=260)
    ours = assert_equal_to_oracle(document, results, kind, max_detections)
    assert ours.max_detections == max_detections


@pytest.mark.parametrize("kind", KINDS)
def test_more_than_100_detections_an_image_are_cut_as_in_pycocotools(kind):
    document = draw_document(5, num_images=2, num_categories=2, num_instances=40, empty_images=0)
    results = draw_results(document, 6, num_noise=500)
    cut = assert_equal_to_oracle(document, results, kind, 100)
    whole = assert_equal_to_oracle(document, results, kind, 400)
    assert whole.AR[400] > cut.AR[100]


@pytest.mark.parametrize("kind", KINDS)
def test_equal_scores_everywhere_score_as_in_pycocotools(kind):
    document = draw_document(7)
    results = [{**result, "score": 0.5} for result in draw_results(document, 8)]
    assert_equal_to_oracle(document, results, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_crowds_alone_leave_everything_undefined(kind):
    document = draw_document(9)
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 1
    ours = assert_equal_to_oracle(document, draw_results(document, 10), kind)
    assert ours.AP is None
    assert ours.values() == {}


@pytest.mark.parametrize("kind", KINDS)
def test_images_without_instances_count_against_precision_as_in_pycocotools(kind):
    document = draw_document(11, empty_images=9)
    assert_equal_to_oracle(document, draw_results(document, 12, num_noise=30), kind)


@pytest.mark.parametrize(("kind", "side"), [("bbox", 32), ("bbox", 96), ("segm", 32), ("segm", 96)])
def test_areas_on_the_border_of_two_ranges_belong_to_both_as_in_pycocotools(kind, side):
    document = draw_document(13, num_instances=3)
    for annotation in document["annotations"]:
        annotation["area"] = float(side * side)
    assert_equal_to_oracle(document, draw_results(document, 14), kind)


def test_masks_are_sized_by_their_pixels_though_the_results_hold_boxes_too():
    document = draw_document(15)
    results = draw_results(document, 16)
    bare = [{name: value for name, value in result.items() if name != "bbox"} for result in results]
    assert coco_ap(document, results, "segm") == coco_ap(document, bare, "segm")
