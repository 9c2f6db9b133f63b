"""A study whose runs were scored in keypoints too: answer and page show them beside boxes."""

import json

import pytest

from groundup.metrics.match_table import build_match_table, write_table
from groundup.report.page import write_report
from groundup.study.answer import answer_study, write_answer
from groundup.study.results import read_study_results
from simulated_study import write_simulated_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Of every box, true or found, the corners are keypoints."""
    folder = tmp_path_factory.mktemp("keypoints")
    study = write_simulated_study(
        folder / "study", units=(1,), seeds=(0, 1), num_val=20, num_replicates=100, world=folder / "world"
    )
    document = json.loads(next((folder / "world").rglob("instances_val.json")).read_text())
    for category in document["categories"]:
        category["keypoints"] = ["start", "end"]
    for annotation in document["annotations"]:
        annotation["keypoints"] = corners(annotation["bbox"], 2)
        annotation["num_keypoints"] = 2
    for predictions in (study / "runs").rglob("predictions.bbox.json"):
        results = [
            {**{name: one[name] for name in ("image_id", "category_id", "score")},
             "keypoints": corners(one["bbox"], 1)}
            for one in json.loads(predictions.read_text())
        ]  # fmt: skip
        table = build_match_table(document, results, "keypoints")
        write_table(predictions.parent / "matches.keypoints.npz", table)
    return study


def corners(box, last):
    x, y, width, height = box
    return [x, y, last, x + width, y + height, last]


def test_keypoints_are_answered_beside_boxes(study, tmp_path):
    answer = answer_study(read_study_results(study))
    assert {row["kind"] for row in answer.comparisons} == {"bbox", "keypoints"}
    endpoints = {row["endpoint"] for row in answer.endpoints if row["kind"] == "keypoints"}
    assert endpoints == {"AP", "AP50", "AP75", "APm", "APl"}  # COCO has no small keypoints
    write_answer(study, answer)
    page = write_report(study, tmp_path).read_text()
    assert "Keypoint AP" in page
