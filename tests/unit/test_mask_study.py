"""A study that asks about masks: its errors, words and pictures are of masks."""

import json

import pytest

from groundup.metrics.error_types import TIDE_ERRORS, tell_errors_apart
from groundup.metrics.results import read_results
from groundup.report.page import write_report
from groundup.study.answer import answer_study, write_answer
from groundup.study.results import read_study_results
from simulated_study import CANDIDATE, REFERENCE, write_simulated_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks") / "study"
    question = {"candidate": CANDIDATE, "reference": REFERENCE, "margin": 2.0, "num_replicates": 100}
    write_simulated_study(
        folder,
        units=(1, 2),
        seeds=(0,),
        num_val=8,
        masks=True,
        study={"question": {**question, "kind": "mask"}},
    )
    plan = json.loads((folder / "plan.json").read_text())
    for entry in plan["runs"]:
        entry["recipe"]["model"]["mask_head"] = {}
        (folder / "runs" / entry["key"] / "recipe.json").write_text(json.dumps(entry["recipe"]))
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


def test_errors_findings_and_the_page_are_of_masks(study, tmp_path):
    results = read_study_results(study)
    answer = answer_study(results)
    document = json.loads(results.val_annotations.read_text())
    for arm in (CANDIDATE, REFERENCE):
        (run,) = (run for run in results.runs_of(arm) if run.point == answer.point)
        by_kind = {
            kind: tell_errors_apart(document, read_results(run.end.folder / f"predictions.{kind}.json"), kind)
            for kind in ("segm", "bbox")
        }
        counts = {row["error"]: row["count"] for row in answer.errors if row["arm"] == arm}
        assert counts == {name: by_kind["segm"].counts[name] for name in TIDE_ERRORS.values()}
        assert by_kind["segm"].counts != by_kind["bbox"].counts
    assert all(" mask AP" in row["sentence"] for row in answer.findings if row["measures"])
    assert " mask AP" in answer.crossover["sentence"]
    write_answer(study, answer)
    page = write_report(study, tmp_path).read_text()
    for words in (
        "Mask AP50 points that mending",
        "TIDE, by IoU of masks",
        "They are judged here by mask AP; the paper&#39;s numbers beside them are of boxes.",
        "Found at 0.5 IoU of masks",
        "in Mask AP, by category",
    ):
        assert words in page, words
