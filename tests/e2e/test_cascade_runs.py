"""A cascade that joins in late, in whole runs: shared trunks, resuming, evaluation, starts."""

import shutil

import pytest
import torch

from groundup.config import read_tree, vary
from groundup.detector import load_detector
from groundup.engine.checkpoint import checkpoint_path, checkpoint_paths
from groundup.models.start import load_start
from groundup.recipe import Recipe
from groundup.run import build_model, train_run
from groundup.splits import open_splits
from groundup.study import worker
from groundup.study.plan import build_plan
from small_study import UNIT, small_study, small_world
from small_training import lines_of

LATE = {"training.schedule.late_units": 0.75}
"""Of 8 images the shorter run drops after 4 and has its cascade after 2; the longer after 12 and 10."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A study's folder with its longer run carried out, the plan of both, and the shorter run's recipe."""
    world = small_world(tmp_path_factory.mktemp("world"))
    study = small_study(
        world,
        recipe="tiny_cascade_rcnn",
        question={"candidate": "cascade", "reference": "single", "margin": 1.0},
        arms={"cascade": {}, "single": {"model.cascade": None, "training.schedule.late_units": None}},
    )
    # Networks that have seen sixteen pictures find little; without a threshold they find something.
    study = study.model_copy(update={"set": study.set | LATE | {"model.box_head.score_threshold": 0.01}})
    folder = tmp_path_factory.mktemp("studies") / "cascade"
    plan = build_plan(study, folder)
    runs = {(run.arm, run.total_images): run for run in plan.runs}
    long = runs["cascade", 2 * UNIT]
    train_run(read_tree(Recipe, long.recipe), folder / "runs" / long.key, quiet=True)
    return folder, runs


def final_bytes(folder):
    return {path.name: path.read_bytes() for path in checkpoint_paths(folder)[0].glob("*.safetensors")}


def test_runs_share_what_comes_before_the_cascade_of_the_shorter(trained):
    _, runs = trained
    assert runs["cascade", UNIT].branch_images == 2
    assert runs["cascade", UNIT].parent == runs["cascade", 2 * UNIT].key
    assert runs["single", UNIT].branch_images == 4


def test_a_branch_where_the_cascade_joins_in_equals_the_straight_run(trained, tmp_path):
    folder, runs = trained
    run = runs["cascade", UNIT]
    recipe = read_tree(Recipe, run.recipe)
    worker.take_over_trunk(folder, run, recipe)
    branch = folder / "runs" / run.key
    assert not load_detector(branch).model.cascade.is_on
    result = train_run(recipe, branch, quiet=True)
    assert load_detector(branch).model.cascade.is_on
    straight = train_run(recipe, tmp_path / "straight", quiet=True)
    assert final_bytes(branch) == final_bytes(tmp_path / "straight")
    assert lines_of(branch) == lines_of(tmp_path / "straight")
    assert result["exposure"]["flops"] == straight["exposure"]["flops"]


@pytest.mark.parametrize("cut", [8, 12])
def test_a_run_resumed_before_or_after_the_switch_equals_the_straight_run(cut, trained, tmp_path):
    folder, runs = trained
    run = runs["cascade", 2 * UNIT]
    often = {"training.upkeep.checkpoint_every": 4, "training.upkeep.keep_checkpoints": 99}
    recipe = vary(read_tree(Recipe, run.recipe), often)
    train_run(recipe, tmp_path / "cut", quiet=True)
    (tmp_path / "cut" / "result.json").unlink()
    for path in checkpoint_paths(tmp_path / "cut"):
        if path != checkpoint_path(tmp_path / "cut", cut):
            shutil.rmtree(path)
    train_run(recipe, tmp_path / "cut", quiet=True)
    straight = folder / "runs" / run.key
    assert final_bytes(tmp_path / "cut") == final_bytes(straight)
    assert lines_of(tmp_path / "cut") == lines_of(straight)


def test_until_the_switch_a_run_is_the_plain_detectors(trained, tmp_path):
    folder, runs = trained
    late = folder / "runs" / runs["cascade", 2 * UNIT].key
    plain = vary(
        read_tree(Recipe, runs["cascade", 2 * UNIT].recipe),
        {"model.cascade": None, "training.schedule.late_units": None},
    )
    train_run(plain, tmp_path, quiet=True)
    for images_seen, is_equal in ((4, True), (8, True), (12, False)):
        found = [
            (run / "evaluations" / f"images_{images_seen:09d}" / "predictions.bbox.json").read_bytes()
            for run in (late, tmp_path)
        ]
        assert b"score" in found[1]
        assert (found[0] == found[1]) == is_equal


def test_a_cascade_can_begin_from_a_plain_run_and_from_a_cascade(trained, tmp_path):
    folder, runs = trained
    cascade_run = folder / "runs" / runs["cascade", 2 * UNIT].key
    recipe = read_tree(Recipe, runs["cascade", 2 * UNIT].recipe)
    start = {"start.weights": str(cascade_run), "start.part": "all"}
    recipe = vary(recipe, start)
    model = build_model(recipe, open_splits(recipe).train.categories)
    report = load_start(model, recipe.start)
    assert not report.of("missing", "unexpected", "wrong shape")
    trained_state = load_detector(cascade_run).model.state_dict()
    assert all(torch.equal(tensor, trained_state[name]) for name, tensor in model.state_dict().items())
