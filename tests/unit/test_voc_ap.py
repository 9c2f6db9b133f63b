import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.errors import DataError
from groundup.metrics.voc_ap import RECALLS, area_ap, eleven_point_ap, voc_ap


def truth(boxes, *, num_categories=1, num_images=1):
    """`boxes` are (image, category, (x, y, w, h), marks)."""
    annotations = [
        {"id": number, "image_id": image, "category_id": category, "bbox": list(box), "area": 1.0, **marks}
        for number, (image, category, box, marks) in enumerate(boxes, start=1)
    ]
    return {
        "images": [{"id": i + 1, "height": 100, "width": 100} for i in range(num_images)],
        "annotations": annotations,
        "categories": [{"id": c + 1, "name": f"class {c}"} for c in range(num_categories)],
    }


def found(*detections):
    """(image, category, (x, y, w, h), score)."""
    return [
        {"image_id": image, "category_id": category, "bbox": list(box), "score": score}
        for image, category, box, score in detections
    ]


ONE, OTHER = (0, 0, 10, 10), (50, 50, 10, 10)


def test_ap_by_hand():
    document = truth([(1, 1, ONE, {}), (1, 1, OTHER, {}), (2, 1, ONE, {}), (2, 1, OTHER, {})], num_images=2)
    results = found(
        (1, 1, ONE, 0.9), (1, 1, (80, 80, 9, 9), 0.8), (2, 1, ONE, 0.7), (2, 1, (0, 0, 10, 9), 0.6)
    )
    # right, wrong, right, wrong (found before): recall .25 .25 .5 .5, precision 1 .5 2/3 .5
    eleven = voc_ap(document, results, "voc2007")
    assert eleven.AP["0.50"] == pytest.approx((3 * 1 + 3 * 2 / 3) / 11)
    area = voc_ap(document, results, "voc2012")
    assert area.AP["0.50"] == pytest.approx(0.25 * 1 + 0.25 * 2 / 3)
    assert (area.num_instances, area.num_difficult, area.num_results) == (4, 0, 4)


def test_a_detection_belongs_to_the_object_it_overlaps_most_even_if_that_was_found_before():
    near, second = (0, 0, 10, 10), (4, 0, 10, 10)
    document = truth([(1, 1, near, {}), (1, 1, second, {})])
    results = found((1, 1, near, 0.9), (1, 1, (1, 0, 10, 10), 0.8))
    # The second overlaps `near` by 9/11 and `second` by 7/13: both would do, but there is no second choice.
    assert voc_ap(document, results, "voc2012").AP["0.50"] == pytest.approx(0.5)


def test_an_overlap_of_exactly_the_threshold_is_enough():
    document = truth([(1, 1, ONE, {})])
    half = voc_ap(document, found((1, 1, (0, 0, 10, 5), 0.5)), "voc2007")
    assert (half.AP["0.50"], half.AP["0.55"]) == (1.0, 0.0)


def test_difficult_objects_are_neither_asked_for_nor_wrong():
    marks = {"difficult": 1}
    document = truth([(1, 1, ONE, {}), (1, 1, OTHER, marks)])
    certain = found((1, 1, OTHER, 0.9), (1, 1, OTHER, 0.8), (1, 1, ONE, 0.7))
    value = voc_ap(document, certain, "voc2012")
    assert value.AP["0.50"] == 1.0
    assert (value.num_instances, value.num_difficult) == (1, 1)
    assert "1 difficult objects" in value.notes[0]
    assert voc_ap(truth([(1, 1, ONE, {}), (1, 1, OTHER, {})]), certain, "voc2012").AP["0.50"] < 1
    crowd = truth([(1, 1, ONE, {}), (1, 1, OTHER, {"iscrowd": 1, **marks})])
    assert voc_ap(crowd, certain, "voc2012").AP == value.AP


def test_a_class_without_objects_is_undefined_and_enters_no_mean():
    document = truth([(1, 1, ONE, {}), (1, 3, OTHER, {"difficult": 1})], num_categories=3)
    value = voc_ap(document, found((1, 1, ONE, 0.9), (1, 2, ONE, 0.8), (1, 3, OTHER, 0.7)), "voc2007")
    assert [category.AP["0.50"] for category in value.categories] == [1.0, None, None]
    assert value.AP["0.50"] == 1.0
    assert "no object to find of class 1, class 2" in value.notes[0]
    assert voc_ap(truth([(1, 1, ONE, {"difficult": 1})]), [], "voc2007").values() == {}


def test_only_the_rounding_of_the_kit_separates_three_tenths_from_the_recall_asked_for():
    assert [step for step, recall in enumerate(RECALLS) if recall != step / 10] == [3]
    assert RECALLS[3] == np.nextafter(0.3, 1)
    recall, precision = np.array([3 / 10]), np.array([1.0])
    assert eleven_point_ap(recall, precision) == pytest.approx(3 / 11)


def test_inclusive_pixels_count_one_more_and_edges_of_converted_pixels_are_the_same():
    # Pixels 1 to 10 against 1 to 5: ten columns against five, so half.
    pixels = truth([(1, 1, (1, 1, 9, 9), {})])
    detection = found((1, 1, (1, 1, 9, 4), 0.9))
    assert voc_ap(pixels, detection, "voc2012", thresholds=(0.5,), pixels="inclusive").at(0.5) == 1.0
    assert voc_ap(pixels, detection, "voc2012", thresholds=(0.5,)).at(0.5) == 0.0
    edges = truth([(1, 1, (0, 0, 10, 10), {})])
    assert voc_ap(edges, found((1, 1, (0, 0, 10, 5), 0.9)), "voc2012", thresholds=(0.5,)).at(0.5) == 1.0


def test_values_are_named_as_a_log_names_them():
    document = truth([(1, 1, ONE, {})])
    value = voc_ap(document, found((1, 1, ONE, 0.9)), "voc2012")
    assert value.values() == {"AP50": 1.0, "AP75": 1.0, "AP": 1.0}
    assert voc_ap(document, found((1, 1, ONE, 0.9)), "voc2012", thresholds=(0.5,)).values() == {"AP50": 1.0}
    assert voc_ap(document, [], "voc2012").values() == {"AP50": 0.0, "AP75": 0.0, "AP": 0.0}


@pytest.mark.parametrize("thresholds", [(), (0.0,), (1.5,)])
def test_thresholds_that_are_none_are_refused(thresholds):
    with pytest.raises(DataError, match="thresholds must lie in 0"):
        voc_ap(truth([(1, 1, ONE, {})]), [], "voc2007", thresholds=thresholds)


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 5))
@settings(deadline=None)
def test_the_two_metrics_are_bounded_and_agree_on_perfect_curves(is_right, num_missed):
    right = np.cumsum(np.array(is_right, float))
    recall = right / max(1.0, right[-1] + num_missed)
    precision = right / np.arange(1, len(right) + 1)
    for average in (area_ap, eleven_point_ap):
        assert 0 <= average(recall, precision) <= 1 + 1e-12
    if all(is_right) and not num_missed:
        assert area_ap(recall, precision) == pytest.approx(eleven_point_ap(recall, precision))
