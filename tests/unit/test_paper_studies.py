"""The paper's studies by name: its lengths, its numbers, and the same studies in miniature."""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from groundup.cli.study_commands import app
from groundup.data.world import ObjectFiles, write_world
from groundup.engine.schedule import UNIT_BATCH, UNIT_STEPS
from groundup.errors import UsageError
from groundup.recipes import RECIPES
from groundup.study.expansion import arm_differences
from groundup.study.keys import Counted
from groundup.study.paper.catalogue import BUILT_IN, built_in, summary
from groundup.study.paper.choice import Choice, choose
from groundup.study.paper.drawn import scenes_with
from groundup.study.paper.miniature import BACKBONES, Miniature, reduced
from groundup.study.paper.miniature import RECIPES as SMALL_RECIPES
from groundup.study.paper.setting import NUM_TRAIN, NUM_VAL, Sources
from groundup.study.paper.values import BEST_LENGTHS, LENGTHS, METRICS, TABLE_1, TABLE_2
from groundup.study.plan import build_plan
from small_study import NUM_TRAIN as NUM_SMALL
from small_study import NUM_VAL as NUM_SMALL_VAL
from small_study import small_world

COCO = Counted(num_train=NUM_TRAIN, num_val=NUM_VAL)
UNIT = UNIT_STEPS * UNIT_BATCH


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """Every study planned at full scale by number: no photograph and no weights are here."""
    folder = tmp_path_factory.mktemp("nothing") / "study"
    found = {name: build_plan(built_in(name, Sources()), folder, counted=COCO) for name in BUILT_IN}
    assert not folder.exists(), "planning writes nothing"
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """What tests reduce studies to; its objects are never opened."""
    folder = tmp_path_factory.mktemp("small")
    return Miniature(
        data=small_world(folder),
        num_val=NUM_SMALL_VAL,
        side=64,
        longest=64,
        unit_images=90,
        objects=ObjectFiles(train=folder / "train", val=folder / "val"),
    )


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """Changes that point a recipe at scenes of figures, which have keypoints."""
    files = write_world(
        tmp_path_factory.mktemp("figures"), NUM_SMALL, NUM_SMALL_VAL, 0, scenes_with(keypoints=True)
    )
    return {
        "data.train.annotations": str(files.train_annotations),
        "data.train.images": str(files.train_images),
        "data.val.annotations": str(files.val_annotations),
        "data.val.images": str(files.val_images),
    }


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_study_is_planned_at_full_scale_without_a_photograph(name, plans):
    study, plan = built_in(name, Sources()), plans[name]
    assert study.name == name
    assert summary(name).endswith(".")
    points = 1
    for values in study.axes.values():
        points *= len(values)
    assert len(plan.runs) == len(study.arms) * points * len(study.seeds)
    for run in plan.runs:
        schedule = run.recipe["training"]["schedule"]
        assert (schedule["batch_size"], run.num_val) == (16, NUM_VAL)
        if schedule["units"] is not None:
            assert run.total_images == schedule["units"] * UNIT
            assert run.drops == (run.total_images - 60_000 * 16, run.total_images - 20_000 * 16)
        assert run.recipe["start"]["frozen_stages"] == (2 if run.recipe["start"]["weights"] else 0)


def test_table_1_by_name_is_3_12_instead_of_7_2_million_iterations(plans):
    for name in ("table1", "table2"):
        assert plans[name].unshared_images == 7_200_000 * UNIT_BATCH
        assert plans[name].shared_images == 3_120_000 * UNIT_BATCH
    for name in ("figure1", "figure3", "figure4", "syncbn"):
        assert 2 * plans[name].shared_images == 3_120_000 * UNIT_BATCH


def test_less_data_is_so_many_photographs_and_so_many_iterations(plans):
    assert {run.num_train for run in plans["figure7"].runs} == {35_000}
    assert {run.num_train for run in plans["figure7_10k"].runs} == {10_000}
    assert {run.num_train for run in plans["figure8"].runs} == {1_000, 3_500}
    assert {run.num_train for run in plans["figure8_own"].runs} == {1_000}
    lengths = {run.arm: run.total_images // 16 for run in plans["figure7_10k"].runs}
    assert lengths == {"scratch": 220_000, "pre-trained": 60_000}
    tuned = next(run for run in plans["figure7"].runs if run.arm == "scratch")
    schedule = tuned.recipe["training"]["schedule"]
    assert tuned.recipe["transforms"]["short_side"] == [512, 800]
    assert (schedule["lr"], schedule["drop_factor"]) == (0.04, 0.02)


def test_searches_are_the_papers_protocols(plans):
    carried, own = plans["figure8"], plans["figure8_own"]
    assert [search.arm for search in carried.searches] == ["pre-trained"] * 2
    assert [search.num_train + search.num_val for search in carried.searches] == [1_000, 3_500]
    assert [search.arm for search in own.searches] == ["pre-trained", "scratch, own search"]


def test_arms_differ_in_their_start_alone(tmp_path):
    differences = arm_differences(built_in("figure1", Sources()), tmp_path)
    assert set(differences) == {"start.weights", "start.frozen_stages"}


def test_the_numbers_of_the_tables_agree_with_what_the_paper_says_of_them():
    gaps = {
        name: [
            round(a - b, 1)
            for a, b in zip(TABLE_1[f"{name} scratch"], TABLE_1[f"{name} pre-trained"], strict=True)
        ]
        for name in ("R50", "R101")
    }
    assert gaps == {"R50": [-3.5, -1.3, -0.3, -0.2, 0.2], "R101": [-3.6, -1.3, -0.5, 0.3, 0.5]}
    for name, (loose, tight) in {"R50": (0.1, 1.0), "R101": (0.3, 0.8)}.items():
        scratch, tuned = (
            dict(zip(METRICS, TABLE_2[f"{name} {arm}"], strict=True)) for arm in ("scratch", "pre-trained")
        )
        assert round(scratch["box/AP50"] - tuned["box/AP50"], 1) == loose
        assert round(scratch["box/AP75"] - tuned["box/AP75"], 1) == tight
    for arm, units in BEST_LENGTHS.items():
        assert TABLE_1[arm][LENGTHS.index(units)] == TABLE_2[arm][0] == max(TABLE_1[arm])


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_number_is_of_a_run_of_its_study(name, plans):
    study = built_in(name, Sources())
    assert study.published.same_scale
    for number in study.published.values:
        runs = [run for run in plans[name].runs if run.arm == number.arm]
        assert any(number.point.items() <= run.point.items() for run in runs), number
        assert number.source


def test_every_recipe_and_backbone_has_a_small_counterpart():
    for name in BUILT_IN:
        study = built_in(name, Sources())
        assert study.recipe in SMALL_RECIPES
        for arm in study.arms.values():
            assert arm.get("model.backbone.name", "resnet50") in BACKBONES
    assert {small for small, _ in SMALL_RECIPES.values()} <= set(RECIPES)
    assert set(SMALL_RECIPES) <= set(RECIPES)


@pytest.mark.parametrize("name", BUILT_IN)
def test_in_miniature_arms_axes_and_lengths_in_units_stay(name, small, figures, plans, tmp_path):
    full = built_in(name, Sources())
    if "keypoint" in full.recipe:
        small = replace(small, data=figures)
    study = reduced(full, small)
    assert list(study.arms) == list(full.arms)
    assert study.axes == full.axes
    assert not study.published.same_scale
    assert study.published.values == full.published.values
    if study.search is not None:
        return  # so few photographs cannot be divided
    own = {**study.model_dump(), "arms": {arm: {**v, "start": "scratch"} for arm, v in study.arms.items()}}
    own["arms"] = {
        arm: {p: v for p, v in changes.items() if p != "start.frozen_stages"}
        for arm, changes in own["arms"].items()
    }
    own |= {"pretraining": {}, "allow_equal_arms": True, "search": None}
    plan = build_plan(type(study).model_validate(own), tmp_path)
    for run, large in zip(plan.runs, plans[name].runs, strict=True):
        assert run.total_images * UNIT == large.total_images * small.unit_images
        assert [drop * UNIT for drop in run.drops] == [drop * small.unit_images for drop in large.drops]
        assert run.num_train == max(1, round(NUM_SMALL * large.num_train / NUM_TRAIN))


def test_in_miniature_searches_are_as_many_trials_of_smaller_sides_and_lengths(small, plans, tmp_path):
    study = reduced(built_in("figure7_10k", Sources()), small)
    arms = {
        arm: {path: value for path, value in changes.items() if not path.startswith("start")}
        for arm, changes in study.arms.items()
    }
    study = study.model_copy(
        update={"arms": arms, "pretraining": {}, "set": {**study.set, "data.fraction": 1.0}}
    )
    assert study.search.space["transforms.short_side"] == [[64, 64], [51, 64], [41, 64]]
    (search,), (full,) = build_plan(study, tmp_path).searches, plans["figure7_10k"].searches
    assert search.num_trials == full.num_trials == 12
    lengths = {trial.total_images for trial in search.trials}
    assert lengths == {full.trials[0].total_images * small.unit_images // UNIT}


def test_in_miniature_the_start_is_pre_trained_by_the_study_one_for_each_backbone(small):
    study = reduced(built_in("table1", Sources()), small)
    assert {arm["start"] for arm in study.arms.values()} == {
        "scratch",
        "pretraining:objects-resnet10t",
        "pretraining:objects-resnet14t",
    }
    assert study.pretraining["objects-resnet14t"].set["model.backbone.name"] == "resnet14t"
    weighted = reduced(built_in("figure1", Sources()), replace(small, objects=None, weights="mine.pth"))
    assert weighted.arms["pre-trained"]["start"] == "mine.pth"
    assert not weighted.pretraining


def test_annotations_without_masks_leave_mask_heads_out(small):
    study = reduced(built_in("syncbn", Sources()), replace(small, has_masks=False))
    assert study.set["model.mask_head"] is None
    assert not any(path.startswith("model.mask_head.") for path in study.set)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world": True, "coco": Path("coco")}, "choose one of"),
        ({"full": True}, "--full is of --data"),
        ({"images": Path("photos")}, "--images"),
        ({"unit_images": 9}, "--unit-images"),
        ({"weights": ("file.pth",)}, "resnet101-gn="),
        ({"changes": ("seed",)}, "is not an assignment"),
    ],
)
def test_a_choice_that_contradicts_itself_is_one_line(changes, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        choose("figure1", tmp_path, replace(Choice(), **changes))


def test_the_command_line_knows_the_studies_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = CliRunner().invoke(app, ["list"])
    assert "figure1 " in listed.stdout
    planned = CliRunner().invoke(app, ["plan", "table1"])
    assert planned.exit_code == 0, planned.output
    assert "49,920,000 in 20 runs with shared trunks" in planned.stdout
    for words, message in (
        (["figure1"], "say what to train on"),
        (["figure1", "--seeds", "x"], "whole numbers"),
    ):
        refused = CliRunner().invoke(app, ["run", *words])
        assert message in str(refused.exception)
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_any_set_is_planned_in_miniature_by_name(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("groundup.study.paper.choice.draw_objects", lambda folder, report: small.objects)
    splits = tuple(Path(small.data[f"data.{split}.annotations"]) for split in ("train", "val"))
    images = Path(small.data["data.train.images"])
    choice = Choice(data=splits, images=images, seeds=(4, 5), side=64)
    study, counted = choose("figure3", tmp_path / "study", choice)
    assert counted is None
    assert (study.seeds, study.question.num_seeds, study.recipe) == ([4, 5], 2, "tiny_mask_rcnn")
    assert study.question.margin == 1.0
    assert study.set["transforms.max_side"] == 107
