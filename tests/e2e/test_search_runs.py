"""A search is carried out before the runs, survives kills and divergence, and is billed and shown."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from groundup.cli.study_commands import app
from groundup.errors import Interrupted
from groundup.report.page import write_report
from groundup.study.answer import answer_study
from groundup.study.plan import read_plan
from groundup.study.results import read_study_results
from groundup.study.runner import begin_study, run_study
from groundup.study.search_results import read_searches
from groundup.study.status import read_status
from groundup.study.workers import Workers
from small_study import small_study, small_world

LR = "training.schedule.lr"
OWN_LR = 0.02
"""Of the recipe `tiny_faster_rcnn`."""
LENGTH = 8
"""Images of a trial and of a run: four steps."""
ARMS = {
    "slow": {"training.optimizer.weight_decay": 1e-4},
    "<b>fast": {"training.optimizer.weight_decay": 1e-3},
}


@pytest.fixture(scope="module")
def workers():
    """One process that has torch imported serves all tests of this file."""
    with Workers(threads=1) as ready:
        yield ready


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return small_world(tmp_path_factory.mktemp("world"))


def searching(world, **search):
    options = {"space": {LR: [0.001, OWN_LR, 1e30]}, "images": LENGTH, "holdout": 0.25, **search}
    return small_study(
        world,
        arms=ARMS,
        axes={},
        search=options,
        question={"candidate": "slow", "reference": "<b>fast", "margin": 1.0, "num_replicates": 100},
    )


@pytest.fixture(scope="module")
def carried_out(world, workers, tmp_path_factory):
    """A search on one arm that was stopped during its first trial and went on."""
    folder = tmp_path_factory.mktemp("studies") / "searching"
    plan = begin_study(searching(world, protocol="carry_over", arm="slow"), folder)
    log = folder / "search" / plan.trials[0].key.removeprefix("search:") / "log.jsonl"

    def interrupt():
        until = time.monotonic() + 240
        while not (log.exists() and '"train"' in log.read_text()):
            assert time.monotonic() < until
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        run_study(folder, quiet=True, workers=workers)
    watcher.join()
    assert not (folder / "search.json").exists()
    assert not (folder / "runs").exists()
    assert read_plan(folder).is_open
    begin_study(searching(world, protocol="carry_over", arm="slow"), folder)
    return folder, plan, run_study(folder, processes=2, quiet=True, workers=workers)


def test_the_winner_is_recorded_with_all_trials_and_every_run_has_it(carried_out):
    folder, before, outcome = carried_out
    assert not outcome.failed
    assert len(outcome.done) == 3 + 2
    record = json.loads((folder / "search.json").read_text())["searches"][0]
    assert [trial["values"][LR] for trial in record["trials"]] == [0.001, OWN_LR, 1e30]
    assert [trial["state"] for trial in record["trials"]] == ["done", "done", "diverged"]
    scores = [trial["score"] for trial in record["trials"]]
    assert scores[2] is None
    assert record["values"][LR] == (0.001 if scores[0] > scores[1] else OWN_LR)
    plan = read_plan(folder)
    assert not plan.is_open
    assert [trial.key for trial in plan.trials] == [trial.key for trial in before.trials]
    for run in plan.runs:
        kept = json.loads((folder / "runs" / run.key / "recipe.json").read_text())
        assert kept["training"]["schedule"]["lr"] == record["values"][LR]
        assert kept["data"]["train"]["annotations"].endswith("train.json")
        assert "search" not in kept["data"]["train"]["annotations"].split("/")[-2]


def test_trials_are_ordinary_runs_on_photographs_that_were_held_out(carried_out):
    folder, plan, _ = carried_out
    trial = plan.trials[1]
    path = folder / "search" / trial.key.removeprefix("search:")
    held = json.loads((path / "recipe.json").read_text())["data"]["val"]["annotations"]
    images = {image["id"] for image in json.loads(Path(held).read_text())["images"]}
    (evaluated,) = path.glob("evaluations/*/predictions.bbox.json")
    assert {found["image_id"] for found in json.loads(evaluated.read_text())} <= images
    assert len(images) == 2
    assert json.loads((path / "result.json").read_text())["exposure"]["images"] == LENGTH


def test_the_same_call_again_finds_nothing_to_do(carried_out, world):
    folder, *_ = carried_out
    begin_study(searching(world, protocol="carry_over", arm="slow"), folder)
    assert len(run_study(folder, quiet=True).done) == 5
    status = read_status(folder)
    assert [row.arm for row in status.rows] == ["trial: slow"] * 3 + ["slow", "<b>fast"]
    assert status.count("done") == 5
    assert "diverged" in "\n".join(status.lines())
    assert status.trained_images == status.shared_images == 2 * LENGTH
    shown = CliRunner().invoke(app, ["plan", str(folder), "--no-probe"])
    assert shown.exit_code == 0, shown.output
    assert "slow: 3 trials, 6 images to learn from, judged on 2  done 3" in shown.stdout
    assert "left       0 images" in shown.stdout
    assert "unknown until it ends" not in shown.stdout


def test_the_search_is_on_the_bill_in_the_notes_and_on_the_page(carried_out):
    folder, *_ = carried_out
    answer = answer_study(read_study_results(folder))
    (search,) = read_searches(folder)
    trained = [trial for trial in search.trials if trial.state == "done"]
    assert answer.bill["study_total"]["search"]["images"] >= sum(trial.images for trial in trained)
    assert answer.bill["study_total"]["images"] > 2 * LENGTH
    assert any("searched on slow alone" in note for note in answer.notes)
    page = write_report(folder).read_text()
    assert "What was searched" in page
    assert "lr = 1e+30" in page
    assert "diverged" in page
    assert search.why.split(" (")[0] in page
    assert "<b>fast" not in page
    rows = (folder / "report" / "tables" / "search.csv").read_text().splitlines()
    assert rows[0] == "arm,trial,training.schedule.lr,box/AP,images,state,winner,failure"
    assert len(rows) == 4


def test_each_arm_has_what_won_there_and_trials_may_follow_one_another(world, workers, tmp_path):
    pytest.importorskip("optuna")
    space = {LR: {"low": 1e-4, "high": 1e-2, "log": True}}
    study = searching(world, protocol="each_arm", method="optuna", num_trials=2, space=space)
    begin_study(study, tmp_path)
    outcome = run_study(tmp_path, processes=2, quiet=True, workers=workers)
    assert not outcome.failed
    searches = {search.arm: search for search in read_searches(tmp_path)}
    assert [len(search.trials) for search in searches.values()] == [2, 2]
    for run in read_plan(tmp_path).runs:
        won = next(one for one in searches[run.arm].trials if one.key == searches[run.arm].winner)
        assert run.recipe["training"]["schedule"]["lr"] == won.values[LR]
