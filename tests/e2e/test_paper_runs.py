"""The paper's studies in miniature are carried out: one of each kind for a few steps, by its own name."""

import json
from dataclasses import replace

import pytest

from groundup.config import read_tree
from groundup.data.world import write_object_world, write_world
from groundup.metrics.tables import TRAINING
from groundup.recipe import Recipe
from groundup.report.page import write_report
from groundup.run import train_run
from groundup.study.answer import read_answer
from groundup.study.paper.catalogue import built_in
from groundup.study.paper.drawn import OBJECTS, scenes_with
from groundup.study.paper.miniature import Miniature, reduced
from groundup.study.paper.setting import Sources
from groundup.study.plan import build_plan
from groundup.study.runner import begin_study, run_study
from groundup.study.worker import run_path

UNIT = 6
FEW = {
    "loader.num_workers": 0,
    "training.upkeep.tensorboard": False,
    "training.upkeep.log_every": 2,
    "training.evaluate_every": None,
    "model.rpn.post_nms_test": 30,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Drawn scenes of both kinds, by whether they have keypoints, and objects to pre-train on."""
    folder = tmp_path_factory.mktemp("worlds")
    objects = write_object_world(folder / "objects", 12, 6, 0, OBJECTS)

    def draw(keypoints):
        options = scenes_with(keypoints=keypoints)
        scenes = write_world(folder / f"scenes_{keypoints}", 12, 4, 0, options)
        return Miniature(
            data={
                "data.train.annotations": str(scenes.train_annotations),
                "data.train.images": str(scenes.train_images),
                "data.val.annotations": str(scenes.val_annotations),
                "data.val.images": str(scenes.val_images),
            },
            num_val=4,
            side=64,
            longest=64,
            unit_images=UNIT,
            objects=objects,
        )

    return {keypoints: draw(keypoints) for keypoints in (False, True)}


def few_steps(study):
    """The study with what makes a test quick; units stay, so that drops fall where they should."""
    return study.model_copy(update={"set": {**study.set, **FEW}})


def short_axes(study):
    """The shortest length of a study with several."""
    return {path: values[:1] for path, values in study.axes.items()}


@pytest.mark.parametrize(
    ("name", "arm"),
    [
        pytest.param("figure1", "scratch", id="mask"),
        pytest.param("syncbn", "scratch", id="syncbn"),
        pytest.param("vgg", "scratch", id="vgg"),
        pytest.param("figure5", "R50 scratch, test augmentation", id="cascade and test augmentation"),
        pytest.param("keypoints", "scratch", id="keypoints"),
        pytest.param("voc", "scratch", id="box and voc"),
    ],
)
def test_one_arm_of_each_kind_is_trained_and_judged(name, arm, small, tmp_path):
    study = few_steps(reduced(built_in(name, Sources()), small["keypoint" in name]))
    study = study.model_copy(update={"axes": short_axes(study), "pretraining": {}})
    arms = {
        one: {**changes, "start": "scratch", "start.frozen_stages": 0} for one, changes in study.arms.items()
    }
    study = study.model_copy(update={"arms": arms, "allow_equal_arms": True})
    run = next(one for one in build_plan(study, tmp_path).runs if one.arm == arm)
    result = train_run(read_tree(Recipe, run.recipe), tmp_path / "run", quiet=True)
    assert result["images_seen"] == run.total_images
    metrics = {number.metric for number in study.published.values if number.arm == arm}
    assert metrics <= set(result["metrics"]), "every published metric is measured"


@pytest.mark.slow
def test_a_study_goes_from_its_name_to_its_page(small, tmp_path):
    study = few_steps(reduced(built_in("figure7", Sources()), small[False]))
    made = {**study.pretraining["objects-resnet10t"].set, "loader.num_workers": 0}
    made["training.schedule.unit_images"] = 16
    kept = {arm: study.arms[arm] for arm in ("scratch", "pre-trained")}
    study = read_tree(
        type(study),
        {
            **study.model_dump(mode="json"),
            "arms": kept,
            "question": {**study.question.model_dump(mode="json"), "num_replicates": 100},
            "axes": short_axes(study),
            "pretraining": {"objects-resnet10t": {"recipe": "tiny_classifier", "set": made}},
            "set": {**study.set, "data.fraction": 0.5},
            "published": {
                **study.published.model_dump(mode="json"),
                "values": [
                    one.model_dump(mode="json") | {"point": {}}
                    for one in study.published.values
                    if one.arm in kept
                ],
            },
        },
    )
    folder = tmp_path / "figure7"
    plan = begin_study(study, folder, commands=["groundup study run figure7 --world"])
    run_study(folder, quiet=True).refuse_failures()
    log = [
        json.loads(line)
        for line in (run_path(folder, plan.runs[0].key) / "log.jsonl").read_text().splitlines()
    ]
    last = [record["metrics"] for record in log if record["kind"] == "evaluation"][-1]
    assert f"{TRAINING}/box/AP" in last
    page = write_report(folder).read_text()
    answer = read_answer(folder)
    assert [row["published"] for row in answer.published] == [36.3, 36.3]
    assert all(row["measured"] is not None and row["difference"] is None for row in answer.published)
    assert "Published (other data, other scale)" in page
    assert {row["gap"] is None for row in answer.overfitting} == {False}
    assert "On photographs it has learnt from" in page


def test_what_is_learnt_from_is_evaluated_without_changing_what_is_learnt(small, tmp_path):
    study = few_steps(
        reduced(built_in("figure1", Sources()), replace(small[False], weights="x", objects=None))
    )
    results = []
    for number, images in enumerate((0, 3)):
        base = study.model_copy(
            update={
                "axes": short_axes(study),
                "arms": {"scratch": {"start": "scratch"}, "pre-trained": {"start": "scratch"}},
                "allow_equal_arms": True,
                "set": {**study.set, "evaluation.train_images": images},
            }
        )
        run = build_plan(base, tmp_path).runs[0]
        results.append(train_run(read_tree(Recipe, run.recipe), tmp_path / str(number), quiet=True))
    plain, watched = results
    assert plain["loss"] == watched["loss"]
    assert plain["metrics"].items() <= watched["metrics"].items()
