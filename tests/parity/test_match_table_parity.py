"""The match table gives the evaluator's AP with unit weights, and that of repeated images with others."""

import numpy as np
import pytest

from coco_documents import packed, runs, sound_document
from detections import draw_document, draw_results
from groundup.metrics.bootstrap import ENDPOINTS, summarise_endpoint, weighted_ap
from groundup.metrics.coco_ap import coco_ap
from groundup.metrics.match_table import build_match_table
from match_tables import repeat_images, untie_within_images

TOLERANCE = 1e-9
KINDS = ["bbox", "segm", "keypoints"]


def endpoints_of(table, weights):
    """All endpoints that the table has, 0 .. 1, by name; None where undefined."""
    values = {}
    for endpoint, (area, _) in ENDPOINTS.items():
        if area in table.areas:
            found = summarise_endpoint(weighted_ap(table, weights[:, None], area), table.thresholds, endpoint)
            values[endpoint] = None if np.isnan(found[0]) else found[0] / 100
    return values


def assert_equal_to_evaluator(document, results, kind, table=None, weights=None, max_detections=None):
    table = build_match_table(document, results, kind, max_detections) if table is None else table
    weights = np.ones(table.num_images, dtype=np.int32) if weights is None else weights
    ours = endpoints_of(table, weights)
    found = coco_ap(document, results, kind, max_detections)
    theirs = {name: getattr(found, name) for name in ours}
    assert ours == pytest.approx(theirs, abs=TOLERANCE)
    return ours


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_unit_weights_give_the_evaluators_ap(kind, seed):
    document = draw_document(seed)
    ours = assert_equal_to_evaluator(document, draw_results(document, seed + 50, tied=seed % 2 == 0), kind)
    assert ours["AP"] > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_detections", [1, 10, 100])
def test_unit_weights_give_the_evaluators_ap_at_every_detection_limit(kind, max_detections):
    document = draw_document(3, num_images=4, num_categories=2, num_instances=30, empty_images=1)
    results = draw_results(document, 4, num_noise=260)
    assert_equal_to_evaluator(document, results, kind, max_detections=max_detections)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_scores_everywhere_give_the_evaluators_ap(kind):
    document = draw_document(7)
    results = [{**result, "score": 0.5} for result in draw_results(document, 8)]
    assert_equal_to_evaluator(document, results, kind)


@pytest.mark.parametrize("num_instances", [7, 29, 50, 100, 200])
def test_recalls_that_equal_a_threshold_count_as_in_the_evaluator(num_instances):
    """Perfect detections in falling order with misses between: every recall r / n occurs."""
    images = [{"id": i + 1, "height": 100, "width": 100} for i in range(num_instances)]
    box = [10.0, 10.0, 30.0, 30.0]
    annotations = [
        {"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": box, "area": 900.0, "iscrowd": 0}
        for i in range(num_instances)
    ]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    results = []
    for i in range(num_instances):
        score = 1 - i / num_instances
        results.append({"image_id": i + 1, "category_id": 1, "score": score, "bbox": box})
        results.append({"image_id": i + 1, "category_id": 1, "score": score - 1e-6, "bbox": [60, 60, 30, 30]})
    for kept in (len(results), len(results) // 2, len(results) // 3):
        assert_equal_to_evaluator(document, results[:kept], "bbox")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_integer_weights_give_the_ap_of_repeated_and_removed_images(kind, seed):
    document = draw_document(seed, num_images=8, empty_images=1)
    results = untie_within_images(draw_results(document, seed + 9, num_noise=6))
    table = build_match_table(document, results, kind)
    weights = np.random.default_rng(seed).integers(0, 4, table.num_images).astype(np.int32)
    named = dict(zip(table.image_ids.tolist(), weights.tolist(), strict=True))
    repeated = repeat_images(document, results, named)
    assert_equal_to_evaluator(*repeated, kind, table=table, weights=weights)


def test_polygons_and_both_codes_of_runs_are_masks_as_in_the_evaluator():
    document = sound_document()
    results = [
        {"image_id": image, "category_id": category, "score": score, "segmentation": packed(runs(*columns))}
        for image, category, score, columns in [
            (3, 5, 0.9, (10, 20, 30)),
            (7, 90, 0.8, (0, 5, 4)),
            (7, 90, 0.7, (1, 2, 40)),
            (7, 5, 0.6, (11, 19, 29)),
            (3, 90, 0.5, (2, 3, 20)),
        ]
    ]
    ours = assert_equal_to_evaluator(document, results, "segm")
    assert 0 < ours["AP"] < 1
