"""A study whose runs were scored in keypoints too: shown beside boxes, or asked about in place of them."""

import json
import shutil

import pytest
from pydantic import ValidationError

from groundup.config import fingerprint, plain
from groundup.errors import UsageError
from groundup.metrics.match_table import build_match_table, write_table
from groundup.report.page import write_report
from groundup.report.parts import build_palette
from groundup.report.photographs import draw_disagreements
from groundup.study.answer import answer_study, write_answer
from groundup.study.compare import Question
from groundup.study.plan import build_plan
from groundup.study.results import read_study_results
from groundup.study.study import Study, register_study
from simulated_study import write_simulated_study
from small_study import small_study, small_world


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


def asked_about(study, folder, kind):
    """A copy of the study that asks about another kind."""
    shutil.copytree(study, folder)
    values = json.loads((folder / "study.json").read_text())["study"]
    values["question"]["kind"] = kind
    for name in ("study.json", "question.json"):
        (folder / name).unlink()
    register_study(folder, Study.model_validate(values))
    return folder


def test_a_question_about_keypoints_is_answered_by_them(study, tmp_path):
    of_boxes = answer_study(read_study_results(study))
    folder = asked_about(study, tmp_path / "asked", "keypoints")
    results = read_study_results(folder)
    assert results.question.table_kind == "keypoints"
    answer = answer_study(results)
    kept = {row["kind"]: row["comparison"] for row in of_boxes.comparisons}
    assert answer.primary["delta"] == kept["keypoints"]["verdict"]["delta"] != of_boxes.primary["delta"]
    assert " keypoint AP" in answer.sentence
    assert " keypoint AP" not in of_boxes.sentence
    assert kept["keypoints"]["verdict"]["sentence"] == answer.sentence
    about_boxes = next(row["comparison"] for row in answer.comparisons if row["kind"] == "bbox")
    assert " box AP" in about_boxes["verdict"]["sentence"]
    assert any("and of boxes and masks are secondary" in note for note in answer.notes)
    write_answer(folder, answer)
    page = write_report(folder, tmp_path / "page").read_text()
    assert "primary endpoint keypoint AP" in page
    # Both are shown, the question's first.
    assert page.index("endpoints_keypoints") < page.index("endpoints_bbox")


def test_pictures_of_disagreement_show_the_keypoints_that_were_found(study, tmp_path):
    folder = asked_about(study, tmp_path / "asked", "keypoints")
    for predictions in (folder / "runs").rglob("predictions.bbox.json"):
        results = [
            {**{name: one[name] for name in ("image_id", "category_id", "score")},
             "keypoints": corners(one["bbox"], 1)}
            for one in json.loads(predictions.read_text())
        ]  # fmt: skip
        (predictions.parent / "predictions.keypoints.json").write_text(json.dumps(results))
        predictions.unlink()
    results = read_study_results(folder)
    rows = answer_study(results).disagreements
    assert rows
    groups, problems = draw_disagreements(results, rows, palette=build_palette(results))
    assert not problems
    assert all(len(trio.pictures) == 3 for group in groups for trio in group.trios)


def test_no_endpoint_of_small_keypoints_is_asked_for():
    with pytest.raises(ValidationError, match="no small keypoints"):
        Question(margin=1.0, kind="keypoints", endpoint="APs", secondary=())


def test_a_question_about_boxes_is_named_as_before_there_were_others():
    question = Question(margin=1.0)
    assert "kind" not in plain(question)
    assert fingerprint(question) == fingerprint(Question(margin=1.0, kind="box"))
    assert plain(Question(margin=1.0, kind="mask"))["kind"] == "mask"
    measures = [Question(margin=1.0, kind=kind).measure for kind in ("box", "mask", "keypoints")]
    assert measures == ["AP", "mask AP", "keypoint AP"]


def test_a_question_about_what_no_arm_finds_is_refused(tmp_path):
    study = small_study(small_world(tmp_path / "world"))
    question = study.question.model_copy(update={"kind": "mask"})
    with pytest.raises(UsageError, match=r"question.kind is mask.*arm slow.*mask_head=null") as caught:
        build_plan(study.model_copy(update={"question": question}), tmp_path / "study")
    assert "\n" not in str(caught.value)
