import math

import numpy as np
import pytest

from groundup.errors import DataError
from groundup.metrics.top_k import places_of, top_k, wilson_interval


def some_scores(num_images, num_classes, seed=0):
    generator = np.random.default_rng(seed)
    scores = generator.random((num_images, num_classes)).astype(np.float32)
    return scores / scores.sum(axis=1, keepdims=True), generator.integers(0, num_classes, num_images)


def test_places_are_those_of_a_sorting():
    scores, labels = some_scores(50, 9)
    order = np.argsort(-scores, axis=1, kind="stable")
    expected = [row.tolist().index(label) for row, label in zip(order, labels, strict=True)]
    assert places_of(scores, labels).tolist() == expected


def test_of_equal_scores_the_lower_label_leads_so_a_constant_classifier_is_right_once():
    scores = np.full((4, 4), 0.25, np.float32)
    assert top_k(scores, np.arange(4), list("abcd"), source="test").top1.count == 1


def test_counts_add_up_over_classes():
    scores, labels = some_scores(200, 8)
    found = top_k(scores, labels, [f"c{k}" for k in range(8)], source="test")
    assert found.top1.total == 200
    assert sum(share.count for share in found.classes.values()) == found.top1.count
    assert found.top5 is not None
    assert found.top5.count >= found.top1.count
    chosen = scores[np.arange(200), labels].astype(np.float64)
    assert found.loss == pytest.approx(-np.log(chosen).mean())
    assert found.metrics.keys() == {"class/top1", "class/top5", "class/loss"}


def test_top_5_of_two_classes_is_not_claimed_and_an_unseen_class_has_no_share():
    found = top_k(np.array([[0.9, 0.1]], np.float32), np.array([0]), ["a", "b"], source="test")
    assert found.top5 is None
    assert math.isnan(found.classes["b"].value)
    assert found.to_json()["classes"]["b"]["value"] is None


@pytest.mark.parametrize(
    ("count", "total", "expected"),
    # Source: Newcombe (1998), table I, method 3.
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilsons_interval_is_the_published_one(count, total, expected):
    assert wilson_interval(count, total) == pytest.approx(expected, abs=5e-5)


def test_scores_that_are_not_finite_and_no_images_are_refused():
    with pytest.raises(DataError, match="not finite"):
        top_k(np.array([[np.nan, 1.0]], np.float32), np.array([0]), ["a", "b"], source="test")
    with pytest.raises(DataError, match="no images"):
        top_k(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), ["a", "b"], source="test")
