"""A search chooses fairly: equal budgets, photographs of its own, ties towards the recipe as it stands."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from groundup.config import fingerprint, plain
from groundup.data.coco import open_index
from groundup.errors import CheckpointError, UsageError
from groundup.records import write_json
from groundup.study.forecast import Forecast, estimate_hours
from groundup.study.plan import build_plan, read_plan, write_plan
from groundup.study.probe import Speed
from groundup.study.search import write_trial_data
from groundup.study.search_options import SearchOptions, trial_point
from groundup.study.search_results import (
    SearchResult,
    TrialResult,
    choose_winner,
    conclude_search,
    read_searches,
    read_winners,
    search_notes,
)
from groundup.study.search_space import draw_values, grid_points, import_optuna
from groundup.study.study import Study, register_study
from small_study import small_study, small_world

DROP = "training.schedule.drop_factor"
DECAY = "training.optimizer.weight_decay"
GRID = {
    "space": {DROP: [0.1, 0.02], "transforms.short_side": [[64], [48, 64]]},
    "protocol": "carry_over",
    "arm": "slow",
    "images": 8,
    "holdout": 0.25,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return small_world(tmp_path_factory.mktemp("world"))


def searching(world, **changes) -> Study:
    return small_study(world, search={**GRID, **changes})


def result(values, score, state="done"):
    key = f"search:slow/{fingerprint(values)}"
    return TrialResult(key=key, values=values, state=state, score=score, images=8, failure=None)


def search_of(trials, base):
    return SearchResult(
        arm="slow",
        place={},
        base=base,
        num_trials=len(trials),
        num_train=6,
        num_val=2,
        trials=tuple(trials),
        winner=None,
        why="",
    )


def settle(folder: Path, key: str, score: float | None, *, metric: str = "box/AP") -> None:
    """Write what a trial leaves behind: its last evaluation, or a loss that left the finite numbers."""
    path = folder / "search" / key.removeprefix("search:")
    path.mkdir(parents=True)
    if score is None:
        record = {"message": "loss is not finite", "exit_code": 4, "time": ""}
        (path / "failure.json").write_text(json.dumps(record))
        return
    record = {"kind": "evaluation", "images_seen": 8, "metrics": {metric: score}}
    (path / "log.jsonl").write_text(json.dumps(record) + "\n")
    (path / "result.json").write_text("{}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {}}, "space is empty"),
        ({"space": {"start.frozen_stages": [0, 1]}}, "cannot be searched"),
        ({"space": {"training.schedule.units": [1.0]}}, "cannot be searched"),
        ({"space": {DROP: []}}, "is empty or has a value twice"),
        ({"space": {DROP: [0.1, 0.1]}}, "is empty or has a value twice"),
        ({"space": {DROP: {"low": 0.01, "high": 0.1}}}, "a range needs method: optuna"),
        ({"space": {DROP: {"low": 0.2, "high": 0.1}}, "method": "optuna"}, "low must be below high"),
        ({"space": {DROP: {"low": 0, "high": 1, "log": True}}, "method": "optuna"}, "begins above 0"),
        ({"units": 1.0}, "length of a trial once"),
        ({"images": 0}, "has no length"),
        ({"method": "optuna"}, "num_trials goes with"),
        ({"num_trials": 3}, "num_trials goes with"),
        ({"metric": "loss"}, "must be an AP or AR"),
        ({"holdout": 1.0}, "holdout is 1.0"),
        ({"arm": None}, "carry_over names the arm"),
        ({"protocol": "each_arm"}, "each_arm names none"),
        ({"arm": "slo"}, "no arm; did you mean 'slow'"),
        ({"space": {"training.schedule.lr": [0.1]}}, "arms.slow sets it too"),
        ({"repeat_for": ["training.schedule.units"]}, "trials have a length of their own"),
        ({"point": {"data.fraction": 0.5}}, "data.fraction is no axis"),
    ],
)
def test_searches_that_cannot_be_are_refused(world, changes, message):
    with pytest.raises(ValidationError, match=message):
        searching(world, **changes)


def test_a_study_without_a_search_is_named_as_before_there_were_any(world):
    study = small_study(world)
    assert "search" not in plain(study)
    assert plain(searching(world))["search"]["protocol"] == "carry_over"
    assert Study.model_validate(plain(searching(world))) == searching(world)


def test_a_grid_is_every_combination():
    points = grid_points({"a": [1, 2], "b": [[3], [4, 5]]})
    assert points == [{"a": 1, "b": [3]}, {"a": 1, "b": [4, 5]}, {"a": 2, "b": [3]}, {"a": 2, "b": [4, 5]}]


def test_trials_stand_at_named_points_and_else_at_the_first_values():
    axes = {"data.fraction": [1.0, 0.5], "data.fraction_seed": [0, 1], "training.schedule.units": [1.0]}
    options = SearchOptions.model_validate({**GRID, "repeat_for": ["data.fraction"]})
    assert trial_point(options, axes, {"data.fraction": 0.5}) == {
        "data.fraction": 0.5,
        "data.fraction_seed": 0,
    }


def test_the_highest_score_wins_and_ties_go_to_the_base_recipe_then_to_the_first():
    base = {"a": 1, "b": 1}
    far, near, own = {"a": 2, "b": 2}, {"a": 2, "b": 1}, dict(base)
    best = search_of([result(far, 0.3), result(near, 0.2), result(own, 0.2)], base)
    assert choose_winner(best, "box/AP")[0].values == far
    tied = search_of([result(far, 0.2), result(near, 0.2), result(own, 0.2)], base)
    winner, why = choose_winner(tied, "box/AP")
    assert winner.values == own
    assert "3 trials are equal, and it is the base recipe" in why
    assert choose_winner(search_of(tied.trials[:2], base), "box/AP")[0].values == near
    lost = search_of([result(own, None, "diverged"), result(far, 0.0)], base)
    assert choose_winner(lost, "box/AP")[0].values == far
    with pytest.raises(UsageError, match="no trial of slow has a box/AP"):
        choose_winner(search_of([result(own, None, "diverged")], base), "box/AP")


def test_a_plan_before_the_search_is_open_and_writes_nothing(world, tmp_path):
    folder = tmp_path / "study"
    plan = build_plan(searching(world), folder)
    assert not folder.exists()
    assert plan.is_open
    (search,) = plan.searches
    assert (search.arm, search.num_trials, search.num_train, search.num_val) == ("slow", 4, 6, 2)
    assert search.base == {DROP: 0.1, "transforms.short_side": [64]}
    for trial in search.trials:
        assert trial.total_images == 8
        assert trial.key.startswith("search:slow/trial-")
        assert trial.recipe["training"]["schedule"]["drop_factor"] == trial.point[DROP]
        assert trial.recipe["training"]["schedule"]["lr"] == 0.001
        assert trial.num_evaluations == 1
    assert len({trial.key for trial in search.trials}) == 4
    text = "\n".join(
        Forecast(study=searching(world), folder=folder, plan=plan, differences={}, hours=None).lines()
    )
    assert "slow: 4 trials, 6 images to learn from, judged on 2" in text
    assert f"unknown until it ends: {DROP}, transforms.short_side" in text
    assert "32 more in the search" in text
    assert "carried over to fast" in text


def test_hours_of_a_search_come_before_those_of_the_runs(world, tmp_path):
    plan = build_plan(searching(world), tmp_path)
    speed = Speed(training=3600.0, evaluation=0.0, device="cpu", threads=1)
    speeds = {run.key: speed for run in plan.runs}
    one = estimate_hours(plan, speeds, tmp_path, processes=1)
    assert one.work == one.wall == plan.shared_images + 4 * 8
    many = estimate_hours(plan, speeds, tmp_path, processes=100)
    assert many.wall == max(run.total_images for run in plan.runs) + 8


def test_held_out_photographs_are_a_seeded_share_that_trials_never_learn_from(world, tmp_path):
    study = searching(world)
    plan = build_plan(study, tmp_path)
    data = plan.trials[0].recipe["data"]
    assert not Path(data["train"]["annotations"]).exists()
    write_trial_data(study, tmp_path)
    parts = [
        open_index(Path(data[split]["annotations"]), Path(data[split]["images"]))
        for split in ("train", "val")
    ]
    ids = [set(part.image_ids.tolist()) for part in parts]
    whole = open_index(Path(world["data.train.annotations"]), Path(world["data.train.images"]))
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == set(whole.image_ids.tolist())
    assert [len(part) for part in parts] == [6, 2]
    other = build_plan(searching(world, holdout_seed=1), tmp_path).trials[0].recipe["data"]
    assert other["train"]["annotations"] != data["train"]["annotations"]
    assert {run.num_train for run in plan.runs} == {8}, "the study's own runs learn from all"


def test_judging_on_the_verdicts_photographs_is_said(world, tmp_path):
    study = searching(world, judged_on="validation")
    plan = build_plan(study, tmp_path)
    assert plan.trials[0].recipe["data"]["val"]["annotations"] == world["data.val.annotations"]
    assert plan.searches[0].num_train == 8
    assert any("validation photographs that the verdict is of" in note for note in search_notes(study))
    assert not any("validation" in note for note in search_notes(searching(world)))
    assert search_notes(small_study(world)) == []


def test_each_arm_is_searched_under_the_same_budget_or_not_at_all(world, tmp_path):
    each = searching(world, protocol="each_arm", arm=None)
    plan = build_plan(each, tmp_path)
    assert [search.arm for search in plan.searches] == ["slow", "fast"]
    points = [[trial.point for trial in search.trials] for search in plan.searches]
    assert points[0] == points[1]
    unit = {"training.schedule.unit_images": 16}
    arms = {"slow": unit, "fast": {"training.schedule.lr": 0.002}}
    kept = {path: value for path, value in each.set.items() if path not in unit}
    longer = {**GRID, "protocol": "each_arm", "arm": None, "images": None, "units": 1.0}
    uneven = small_study(world, arms=arms, search=longer, set=kept | {"training.schedule.drops": []})
    with pytest.raises(UsageError, match=r"give both the same budget by search\.images"):
        build_plan(uneven, tmp_path)


def test_values_that_a_recipe_cannot_have_name_the_search(world, tmp_path):
    with pytest.raises(UsageError, match=r"search.space: no option 'training.schedule.decay'"):
        build_plan(searching(world, space={"training.schedule.decay": [1, 2]}), tmp_path)
    with pytest.raises(UsageError, match=r"search.space, arms.slow: .*drop_factor"):
        build_plan(searching(world, space={DROP: [-1.0, 0.1]}), tmp_path)


def begun(study: Study, folder: Path):
    plan = build_plan(study, folder)
    register_study(folder, study)
    write_plan(folder, plan)
    return plan


def test_what_wins_is_in_every_run_of_every_arm_and_cannot_be_lost(world, tmp_path):
    study = searching(world)
    plan = begun(study, tmp_path)
    assert not conclude_search(tmp_path)
    for trial, score in zip(plan.trials, (0.1, 0.2, 0.5, None), strict=True):
        settle(tmp_path, trial.key, score)
    assert conclude_search(tmp_path)
    record = json.loads((tmp_path / "search.json").read_text())
    assert record["searches"][0]["values"] == plan.trials[2].point
    assert [one["state"] for one in record["searches"][0]["trials"]] == ["done", "done", "done", "diverged"]
    closed = build_plan(study, tmp_path)
    assert not closed.is_open
    assert [trial.key for trial in closed.trials] == [trial.key for trial in plan.trials]
    assert {run.recipe["training"]["schedule"]["drop_factor"] for run in closed.runs} == {0.02}
    assert {run.arm for run in closed.runs} == {"slow", "fast"}
    write_plan(tmp_path, closed)
    assert read_plan(tmp_path) == closed
    (search,) = read_searches(tmp_path)
    assert search.winner == plan.trials[2].key
    assert search.trials[3].score is None
    (tmp_path / "search.json").unlink()
    with pytest.raises(UsageError, match=r"search.json: is gone"):
        write_plan(tmp_path, build_plan(study, tmp_path))


def test_a_search_for_each_arm_and_size_gives_each_its_own(world, tmp_path):
    axes = {"data.fraction": [1.0, 0.5], "training.schedule.units": [1.0]}
    options = {**GRID, "protocol": "each_arm", "arm": None, "space": {DROP: [0.1, 0.02]}}
    study = small_study(world, axes=axes, search={**options, "repeat_for": ["data.fraction"]})
    plan = begun(study, tmp_path)
    assert [(one.arm, one.place["data.fraction"], one.num_train) for one in plan.searches] == [
        ("slow", 1.0, 6),
        ("fast", 1.0, 6),
        ("slow", 0.5, 3),
        ("fast", 0.5, 3),
    ]
    winning = {("slow", 1.0): 0, ("fast", 1.0): 1, ("slow", 0.5): 1, ("fast", 0.5): 0}
    for search in plan.searches:
        for number, trial in enumerate(search.trials):
            won = winning[search.arm, search.place["data.fraction"]] == number
            settle(tmp_path, trial.key, 0.5 if won else 0.25)
    assert conclude_search(tmp_path)
    for run in build_plan(study, tmp_path).runs:
        place = winning[run.arm, run.point["data.fraction"]]
        assert run.recipe["training"]["schedule"]["drop_factor"] == [0.1, 0.02][place]


def test_a_record_of_another_study_and_a_metric_that_is_none_are_refused(world, tmp_path):
    study = searching(world)
    plan = begun(study, tmp_path)
    for trial in plan.trials:
        settle(tmp_path, trial.key, 0.5, metric="mask/AP")
    with pytest.raises(UsageError, match=r"search.metric: box/AP is no metric"):
        conclude_search(tmp_path)
    write_json(tmp_path / "search.json", {"fingerprint": "other", "searches": []})
    with pytest.raises(CheckpointError, match="belongs to another study"):
        read_winners(tmp_path, study)


def test_optuna_begins_with_the_recipe_and_draws_as_if_it_had_never_been_stopped():
    pytest.importorskip("optuna")
    options = SearchOptions.model_validate(
        {
            **GRID,
            "method": "optuna",
            "num_trials": 5,
            "space": {
                "a": {"low": 1e-4, "high": 1e-1, "log": True},
                "b": [[1, 2], [3]],
                "c": {"low": 1, "high": 8, "whole": True},
            },
        }
    )
    base = {"a": 0.01, "b": [3], "c": 2}

    def drawn(length):
        history = []
        for _ in range(length):
            values = draw_values(options.space, history, base=base, seed=3)
            history.append((values, None if len(history) == 1 else values["a"]))
        return history

    history = drawn(4)
    assert history[0][0] == base
    for values, _ in history:
        assert 1e-4 <= values["a"] <= 1e-1
        assert values["b"] in ([1, 2], [3])
        assert values["c"] in range(1, 9)
    assert draw_values(options.space, history, base=base, seed=3) == drawn(5)[4][0]
    assert json.loads(json.dumps(history[3][0])) == history[3][0]
    outside = draw_values(options.space, [], base={**base, "c": 9}, seed=3)
    assert outside["c"] <= 8


def test_optuna_trials_follow_from_those_before(world, tmp_path):
    pytest.importorskip("optuna")
    space = {DECAY: {"low": 1e-5, "high": 1e-2, "log": True}}
    study = searching(world, method="optuna", num_trials=3, space=space)
    plan = begun(study, tmp_path)
    keys = []
    for number in range(3):
        assert [trial.key for trial in plan.trials][:number] == keys
        assert len(plan.trials) == number + 1
        keys = [trial.key for trial in plan.trials]
        assert not conclude_search(tmp_path)
        settle(tmp_path, keys[-1], 0.1 * number)
        if number < 2:
            plan = build_plan(study, tmp_path)
            write_plan(tmp_path, plan)
    assert conclude_search(tmp_path)
    assert read_searches(tmp_path)[0].winner == keys[-1]


def test_without_optuna_one_line_says_what_to_install(monkeypatch):
    import importlib

    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UsageError, match=r"pip install groundup\[search\]"):
        import_optuna()


LR = "training.schedule.lr"
ALONE = {"slow": {LR: 0.001}, "fast": {LR: 0.002}, "fast, own": {LR: 0.002}}


def test_an_arm_may_be_searched_alone_beside_one_that_carries_over(world, tmp_path):
    options = {**GRID, "space": {"training.schedule.drop_factor": [0.1, 0.02]}, "also": ["fast, own"]}
    study = small_study(world, arms=ALONE, search=options)
    plan = begun(study, tmp_path)
    assert [search.arm for search in plan.searches] == ["slow", "fast, own"]
    assert [len(search.trials) for search in plan.searches] == [2, 2]
    for search, best in zip(plan.searches, (0, 1), strict=True):
        for number, trial in enumerate(search.trials):
            settle(tmp_path, trial.key, 0.5 if number == best else 0.25)
    assert conclude_search(tmp_path)
    closed = build_plan(study, tmp_path)
    won = {run.arm: run.recipe["training"]["schedule"]["drop_factor"] for run in closed.runs}
    assert won == {"slow": 0.1, "fast": 0.1, "fast, own": 0.02}
    assert [search.arm for search in read_searches(tmp_path)] == ["slow", "fast, own"]
    carried, alone = search_notes(study)
    assert "carried over to fast, which" in carried
    assert alone.startswith("fast, own had a search alone, under the same budget")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"also": ["nobody"]}, "search.also: 'nobody' is no arm"),
        ({"also": ["slow"]}, "different arms besides 'slow'"),
        ({"also": ["fast"], "protocol": "each_arm", "arm": None}, "each_arm has all"),
    ],
)
def test_searches_alone_that_cannot_be_are_refused(world, changes, message):
    with pytest.raises(ValueError, match=message):
        small_study(world, search={**GRID, **changes})


def test_a_search_without_further_arms_is_named_as_before_there_were_any():
    assert "also" not in SearchOptions.model_validate(GRID).model_dump()
