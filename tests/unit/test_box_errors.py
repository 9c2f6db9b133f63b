"""Error types of boxes: each mistake made by hand is of its type, and mending it wins back what it cost."""

import pytest

from detections import draw_document, draw_results
from groundup.errors import DataError
from groundup.metrics.box_errors import TIDE_ERRORS, box_errors
from groundup.metrics.coco_ap import coco_ap

TRUTH = [(1, (10, 10, 40, 40)), (2, (100, 100, 40, 40)), (2, (10, 100, 40, 40))]
"""(category, box) of the one photograph's instances."""


def document(truth=TRUTH):
    annotations = [
        {"id": row, "image_id": 7, "category_id": c, "bbox": list(b), "area": b[2] * b[3], "iscrowd": 0}
        for row, (c, b) in enumerate(truth, 1)
    ]
    image = {"id": 7, "height": 200, "width": 200, "file_name": "a.jpg"}
    return {
        "images": [image],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }


def errors_of(*detections):
    """Error types of (category, box, score) in the photograph, the first instance found besides."""
    found = [(1, (10, 10, 40, 40), 0.9), *detections]
    results = [{"image_id": 7, "category_id": c, "bbox": list(b), "score": s} for c, b, s in found]
    return box_errors(document(), results)


BOTH_FOUND = [(2, (100, 100, 40, 40), 0.8), (2, (10, 100, 40, 40), 0.7)]
CASES = {
    "classification": [(1, (100, 100, 40, 40), 0.8), BOTH_FOUND[1]],
    "localisation": [(2, (122, 100, 40, 40), 0.8), BOTH_FOUND[1]],
    "both": [(1, (122, 100, 40, 40), 0.95), *BOTH_FOUND],
    "duplicate": [*BOTH_FOUND, (2, (102, 100, 40, 40), 0.75)],
    "background": [*BOTH_FOUND, (2, (150, 10, 40, 40), 0.95)],
    "missed": [BOTH_FOUND[1]],
}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_of_its_type_and_mending_it_restores_all(name):
    found = errors_of(*CASES[name])
    assert found.counts == {other: int(other == name) for other in TIDE_ERRORS.values()}
    assert found.AP50 < 1
    assert found.AP50 + found.lost[name] == pytest.approx(1.0)
    assert all(lost == 0 for other, lost in found.lost.items() if other != name)


def test_a_perfect_detector_makes_no_errors():
    found = errors_of(*BOTH_FOUND)
    assert pytest.approx(1.0) == found.AP50
    assert not any(found.counts.values())


def test_its_ap50_is_that_of_the_evaluator():
    for seed in range(3):
        truth = draw_document(seed)
        results = [
            {k: r[k] for k in ("image_id", "category_id", "score", "bbox")} for r in draw_results(truth, seed)
        ]
        assert (
            pytest.approx(coco_ap(truth, results, "bbox").AP50, abs=1e-9) == box_errors(truth, results).AP50
        )


def test_annotations_without_an_instance_are_refused():
    with pytest.raises(DataError, match="no instance"):
        box_errors(document(()), [])


AUTHORS = {
    1: ((2.726, 11.7, 1.866, 2.044, 5.249, 6.392), (12, 56, 38, 48, 58, 29)),
    2: ((1.471, 12.281, 1.115, 2.19, 3.736, 5.717), (15, 82, 49, 81, 72, 26)),
}
"""What the authors' program finds, in the order of `TIDE_ERRORS`: tidecv 1.0.1, on these very detections."""


@pytest.mark.parametrize("seed", AUTHORS)
def test_types_and_losses_are_those_of_the_authors_program(seed):
    truth = draw_document(seed, num_images=30)
    truth["annotations"] = [a for a in truth["annotations"] if not a["iscrowd"]]
    drawn = draw_results(truth, seed, tied=False)
    results = [{k: r[k] for k in ("image_id", "category_id", "score", "bbox")} for r in drawn]
    found = box_errors(truth, results)
    lost, counts = AUTHORS[seed]
    assert tuple(found.counts.values()) == counts
    # one of the four categories has no instance: theirs is a mean over four, COCO's over three
    theirs = [value * 4 / 3 for value in lost]
    assert [100 * value for value in found.lost.values()] == pytest.approx(theirs, abs=0.01)
