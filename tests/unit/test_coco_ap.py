"""The record of AP, and golden values small enough to work out by hand."""

import json

import pytest

from detections import draw_document, draw_results
from groundup.errors import DataError
from groundup.metrics.coco_ap import COCO_SIGMAS, coco_ap, detection_limits
from groundup.metrics.tables import ap_lines


def one_object(num_keypoints=0):
    return {
        "images": [{"id": 5, "height": 100, "width": 100}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 2, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0}
            | (
                {"keypoints": [20, 20, 2] * num_keypoints, "num_keypoints": num_keypoints}
                if num_keypoints
                else {}
            )
        ],
        "categories": [
            {"id": 2, "name": "thing", "keypoints": [f"k{k}" for k in range(num_keypoints)]},
            {"id": 9, "name": "plain"},
        ],
    }


def found(score, box):
    return {"image_id": 5, "category_id": 2, "score": score, "bbox": box}


def test_an_exact_box_scores_one_and_sizes_without_instances_stay_undefined():
    values = coco_ap(one_object(), [found(0.3, [10, 10, 50, 50])], "bbox")
    names = ["AP", "AP50", "AP75", "APm", "AR@1", "AR@10", "AR@100", "ARm"]
    assert values.values() == pytest.approx(dict.fromkeys(names, 1.0))
    assert (values.APs, values.APl) == (None, None)


def test_a_better_scored_miss_halves_the_precision():
    results = [found(0.9, [80, 80, 10, 10]), found(0.3, [10, 10, 50, 50])]
    values = coco_ap(one_object(), results, "bbox")
    assert pytest.approx(0.5) == values.AP
    assert values.AR == {1: 0.0, 10: 1.0, 100: 1.0}


def test_the_overlap_decides_the_thresholds_that_count():
    # IoU of a box of 40 of 50 columns is 0.8: it counts at 0.50 .. 0.80, 7 of the 10 thresholds
    values = coco_ap(one_object(), [found(0.9, [10, 10, 40, 50])], "bbox")
    assert pytest.approx(0.7) == values.AP
    assert pytest.approx((1.0, 1.0)) == (values.AP50, values.AP75)


def test_the_limit_is_part_of_the_record():
    document = draw_document(1)
    values = coco_ap(document, draw_results(document, 2), "bbox", 400)
    assert values.limits == (1, 10, 400)
    assert list(values.AR) == [1, 10, 400]
    assert any("400" in note for note in values.notes)
    assert detection_limits(7, "bbox") == (1, 7)
    assert detection_limits(20, "keypoints") == (20,)
    with pytest.raises(DataError, match="max_detections"):
        coco_ap(document, [], "bbox", 0)


def test_categories_count_their_instances_and_results():
    values = coco_ap(one_object(), [found(0.9, [10, 10, 50, 50])] * 3, "bbox")
    thing, plain = values.categories
    assert (thing.id, thing.name, thing.num_instances, thing.num_results) == (2, "thing", 1, 3)
    assert pytest.approx(1.0) == thing.AP
    assert (plain.AP, plain.num_instances, plain.num_results) == (None, 0, 0)


def test_the_record_is_plain_json_with_null_for_undefined():
    values = coco_ap(one_object(), [], "bbox")
    record = json.loads(json.dumps(values.to_json(), allow_nan=False))
    assert record["APs"] is None
    assert record["AR"]["100"] == 0.0
    assert record["categories"][1]["AP"] is None


def test_keypoints_without_a_standard_state_their_spreads():
    document = one_object(num_keypoints=4)
    result = {"image_id": 5, "category_id": 2, "score": 0.9, "keypoints": [20.0, 20.0, 1.0] * 4}
    values = coco_ap(document, [result], "keypoints")
    assert pytest.approx(1.0) == values.AP
    assert values.sigmas == (sum(COCO_SIGMAS) / 17,) * 4
    assert any("spreads" in note for note in values.notes)
    assert [category.id for category in values.categories] == [2]


def test_keypoint_evaluation_without_keypoints_is_refused():
    with pytest.raises(DataError, match="no categories with keypoints"):
        coco_ap(one_object(), [], "keypoints")


def test_the_table_names_what_is_undefined_and_aligns():
    document = draw_document(3)
    results = draw_results(document, 4)
    lines = ap_lines([coco_ap(document, results, "bbox"), coco_ap(document, results, "segm", 400)])
    assert any("undefined" in line for line in lines)
    assert all(line == line.rstrip() and line.isascii() for line in lines)
    head = next(line for line in lines if line.startswith("kind"))
    assert head.split() == [
        "kind",
        "AP",
        "AP50",
        "AP75",
        "APs",
        "APm",
        "APl",
        "AR@1",
        "AR@10",
        "AR@max",
        "detections",
    ]
    assert any(line.startswith("mask") and line.endswith("400") for line in lines)
    assert sum(line.startswith("c") for line in lines) >= len(document["categories"])
