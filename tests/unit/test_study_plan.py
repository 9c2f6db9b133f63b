"""A plan says what is shared and what it comes to, and refuses what could not be compared."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from groundup.config import read_tree
from groundup.engine.schedule import ScheduleOptions, late_point
from groundup.errors import DataError, UsageError
from groundup.study.expansion import arm_differences
from groundup.study.forecast import Forecast, Hours, estimate_hours, late_from, seconds_of
from groundup.study.plan import build_plan, count_evaluations, read_plan, write_plan
from groundup.study.probe import Clocks, ImageSeconds, Speed, probe_plan, read_speeds
from groundup.study.runner import threads_each
from small_study import small_study, small_world

THREE_LENGTHS = {"training.schedule.units": [1.0, 2.0, 3.0]}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def plan(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nothing") / "study"
    built = build_plan(small_study(world, axes=THREE_LENGTHS, seeds=[0, 1]), folder)
    assert not folder.exists(), "planning writes nothing"
    return built


def test_lengths_of_one_arm_and_seed_share_the_longest_ones_trunk(plan):
    for run in plan.runs:
        units = run.point["training.schedule.units"]
        assert run.total_images == 8 * units
        assert run.unit_images == 8
        assert run.drops == (run.total_images - 4, run.total_images - 2)
        if units == 3.0:
            assert (run.parent, run.branch_images) == (None, 0)
            assert run.recipe["training"]["upkeep"]["keep_at"] == [4, 12]
        else:
            parent = plan.run(run.parent)
            assert (parent.arm, parent.seed, parent.total_images) == (run.arm, run.seed, 24)
            assert run.branch_images == run.total_images - 4
        assert run.own_images == run.total_images - run.branch_images
    assert plan.unshared_images == 4 * (8 + 16 + 24)
    assert plan.shared_images == 4 * (4 + 4 + 24)


def test_all_lengths_have_the_warm_up_of_the_shortest(plan):
    assert {run.warmup for run in plan.runs} == {1}
    assert {run.recipe["training"]["schedule"]["warmup_images"] for run in plan.runs} == {1}


def test_a_warm_up_that_is_given_is_left(world, tmp_path):
    study = small_study(world)
    study = study.model_copy(update={"set": {**study.set, "training.schedule.warmup_images": 2}})
    assert {run.warmup for run in build_plan(study, tmp_path).runs} == {2}


def test_keys_are_names_of_folders_and_follow_contents(plan, world, tmp_path):
    keys = [run.key for run in plan.runs]
    assert len(set(keys)) == len(keys)
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for key in keys)
    again = build_plan(small_study(world, axes=THREE_LENGTHS, seeds=[0, 1]), tmp_path)
    assert [run.key for run in again.runs] == keys
    hostile = {"../<b>é": {"training.schedule.lr": 0.5}, "fast": {}}
    study = small_study(
        world, arms=hostile, question={"candidate": "../<b>é", "reference": "fast", "margin": 1.0}
    )
    assert all("/" not in run.key and run.key.isascii() for run in build_plan(study, tmp_path).runs)


def test_a_plan_reads_back_equal_and_refuses_other_data(plan, world, tmp_path):
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan
    other = build_plan(small_study(world, axes=THREE_LENGTHS, seeds=[0, 2]), tmp_path / "other")
    with pytest.raises(UsageError, match="data or weights have changed"):
        write_plan(tmp_path, other)


def test_shares_of_the_data_have_trunks_of_their_own(world, tmp_path):
    axes = {"data.fraction": [1.0, 0.5], "training.schedule.units": [1.0, 2.0]}
    plan = build_plan(small_study(world, axes=axes), tmp_path)
    for run in plan.runs:
        assert run.num_train == 8 * run.point["data.fraction"]
        if run.parent is not None:
            assert plan.run(run.parent).point["data.fraction"] == run.point["data.fraction"]
    assert sum(run.parent is not None for run in plan.runs) == 4


def test_arms_judged_on_different_pictures_are_refused(world, tmp_path):
    arms = {
        "slow": {},
        "fast": {
            "data.val.annotations": world["data.train.annotations"],
            "data.val.images": world["data.train.images"],
        },
    }
    study = small_study(world, arms=arms)
    kept = {path: value for path, value in study.set.items() if not path.startswith("data.val")}
    arms["slow"] = {path: world[path] for path in world if path.startswith("data.val")}
    with pytest.raises(UsageError, match="evaluated on different sets"):
        build_plan(study.model_copy(update={"set": kept, "arms": arms}), tmp_path)


def test_missing_weights_and_schedules_that_cannot_be_name_the_arm(world, tmp_path):
    arms = {"slow": {}, "fast": {"start": "no/such.pth"}}
    with pytest.raises(DataError, match=r"arms.fast.*no/such.pth"):
        build_plan(small_study(world, arms=arms), tmp_path)
    with pytest.raises(UsageError, match=r"arms.slow, training.schedule.units=0.25: schedule"):
        build_plan(small_study(world, axes={"training.schedule.units": [0.25]}), tmp_path)


@pytest.mark.parametrize("begin", [0, 4, 6])
@pytest.mark.parametrize(("end", "every"), [(16, 4), (16, None), (18, 4), (16, 5), (16, 16), (16, 100)])
def test_evaluations_are_counted_as_the_loop_makes_them(begin, end, every):
    steps = range(begin + 2, end + 1, 2)
    due = {images for images in steps if every and images // every > (images - 2) // every}
    assert count_evaluations(begin, end, every, 2) == len(due | {end})


def forecast_of(plan, world, folder, hours=None):
    study = small_study(world, axes=THREE_LENGTHS, seeds=[0, 1])
    differences = arm_differences(study, folder)
    return Forecast(study=study, folder=folder, plan=plan, differences=differences, hours=hours)


def test_the_forecast_prints_tree_totals_and_what_the_seeds_can_show(plan, world, tmp_path):
    text = "\n".join(forecast_of(plan, world, tmp_path).lines())
    assert "training.schedule.lr: slow=0.001, fast=0.002" in text
    assert "0 -> 4  shared by units=1.0, units=2.0, units=3.0" in text
    assert "4 -> 12  shared by units=2.0, units=3.0" in text
    assert "12 -> 24  units=3.0" in text
    assert "128 in 12 runs with shared trunks; 192 run by run (1.50 times as many)" in text
    assert "2 seeds can show equivalence within" in text
    assert "NOT enough" in text
    values = forecast_of(plan, world, tmp_path).to_json()
    assert json.loads(json.dumps(values))["smallest_margin"] > 0.5


def test_hours_count_the_work_once_and_no_less_than_the_longest_chain(plan, tmp_path):
    speed = Speed(training=3600.0, evaluation=0.0, device="cpu", threads=1)
    speeds = {run.key: speed for run in plan.runs}
    one = estimate_hours(plan, speeds, tmp_path, processes=1)
    assert one == Hours(work=plan.shared_images, wall=plan.shared_images, processes=1)
    assert estimate_hours(plan, speeds, tmp_path, processes=100).wall == 24
    assert estimate_hours(plan, {}, tmp_path, processes=1) is None


def test_hours_before_late_parts_are_counted_at_their_own_pace(world, tmp_path):
    study = small_study(world, recipe="tiny_cascade_rcnn")
    study = study.model_copy(update={"set": {**study.set, "training.schedule.late_units": 0.5}})
    plan = build_plan(study, tmp_path)
    pace = {"training": 3600.0, "evaluation": 0.0, "early_training": 1800.0, "early_evaluation": 0.0}
    speed = Speed(**pace, device="cpu", threads=1)
    for run in plan.runs:
        options = read_tree(ScheduleOptions, run.recipe["training"]["schedule"])
        assert late_from(run) == late_point(options, run.num_train) == run.total_images - 4
    hours = estimate_hours(plan, {run.key: speed for run in plan.runs}, tmp_path, processes=1)
    # Of either arm: a trunk of 16 images, 4 of them late; a tail of 4, late all of them.
    assert hours.work == 2 * (12 / 2 + 4 + 4)
    assert seconds_of(plan.runs[0], 3, speed) == 3 * 3600


def test_late_parts_are_probed_both_ways_and_cost_time(world, tmp_path):
    study = small_study(world, recipe="tiny_cascade_rcnn", axes={})
    study = study.model_copy(update={"set": {**study.set, "training.schedule.late_units": 0.5}})
    speeds = probe_plan(build_plan(study, tmp_path), tmp_path, threads=1)
    for speed in speeds.values():
        assert 0 < speed.free.early_training < speed.free.training
        assert speed.early_training > 0
        assert speed.early_evaluation > 0
    assert read_speeds(build_plan(study, tmp_path), tmp_path, threads=1) == speeds


def test_a_busy_machine_is_said_and_both_hours_are_printed(plan, world, tmp_path):
    free = ImageSeconds(training=36.0, evaluation=0.0)
    speed = Speed(training=3600.0, evaluation=0.0, device="cpu", threads=1, free=free, load=3.0)
    quiet = replace(speed, load=0.1)
    hours = estimate_hours(plan, {run.key: speed for run in plan.runs}, tmp_path, processes=1)
    assert hours.free == Hours(work=hours.work / 100, wall=hours.wall / 100, processes=1)
    text = "\n".join(forecast_of(plan, world, tmp_path, hours).lines())
    assert f"about {hours.wall:.2g} with 1 at a time" in text
    assert f"busy with other work then: about {hours.free.wall:.2g}" in text
    assert json.loads(json.dumps(forecast_of(plan, world, tmp_path, hours).to_json()))["hours"]["free"]
    alone = estimate_hours(plan, {run.key: quiet for run in plan.runs}, tmp_path, processes=1)
    assert alone.free is None
    assert "the machine was busy" not in "\n".join(forecast_of(plan, world, tmp_path, alone).lines())


def test_the_processors_clock_does_not_count_other_work():
    def work():
        clocks = Clocks()
        sum(number * number for number in range(3_000_000))
        return clocks.read()

    alone = work()
    spin = "while True: pass"
    others = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(4 * os.cpu_count())]
    try:
        beside = work()
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert beside[1] < 2 * alone[1]
    assert beside[0] >= beside[1] * 0.9


@pytest.mark.parametrize(
    ("told", "processes", "threads", "each"),
    [
        (None, 1, 3, 3),
        ("5", 1, None, 5),
        ("5,2", 4, None, 5),
        ("5", 1, 2, 2),
        ("", 10**6, None, 1),
        ("x", 10**6, None, 1),
    ],
)
def test_threads_of_a_run_are_those_asked_for_then_those_of_openmp(
    told, processes, threads, each, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert threads_each(processes, threads) == each


def test_a_probe_measures_each_kind_of_run_once_and_keeps_it(world, tmp_path, monkeypatch):
    plan = build_plan(small_study(world), tmp_path)
    said = []
    speeds = probe_plan(plan, tmp_path, threads=1, note=said.append)
    assert len(said) == 1, "the arms differ in their rate, on which no speed hangs"
    assert set(speeds) == {run.key for run in plan.runs}
    assert all(speed.training > 0 and speed.evaluation > 0 for speed in speeds.values())
    monkeypatch.setattr("groundup.study.probe.measure", None)
    assert probe_plan(plan, tmp_path, threads=1) == read_speeds(plan, tmp_path, threads=1) == speeds
    assert read_speeds(plan, tmp_path, threads=2) == {}
    assert estimate_hours(plan, speeds, tmp_path, processes=1).work > 0
