"""A study is carried out by processes, survives faults and kills, and shares trunks bit for bit."""

import io
import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from groundup.cli.study_commands import app
from groundup.config import read_tree
from groundup.engine.journal import open_log
from groundup.errors import CheckpointError, Interrupted, UsageError
from groundup.recipe import Recipe
from groundup.records import is_held, lock_folder
from groundup.run import train_run
from groundup.run_folder import LOAD_REPORT
from groundup.study import worker
from groundup.study.display import Display
from groundup.study.runner import FailedRunsError, begin_study, run_study
from groundup.study.status import find_studies, read_status
from groundup.study.workers import STDERR, Workers, WorkersLostError
from small_study import small_pretraining, small_study, small_world
from small_training import lines_of

LONG = {"training.schedule.units": [1.0, 12.0]}
"""Long enough to be stopped in the middle."""


def long_study(world):
    study = small_study(world, axes=LONG)
    return study.model_copy(update={"set": {**study.set, "training.evaluate_every": None}})


@pytest.fixture(scope="module")
def workers():
    """One process that has torch imported serves all tests of this file."""
    with Workers(threads=1) as ready:
        yield ready


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def carried_out(world, workers, tmp_path_factory):
    """Both starts, pre-training included, and an arm that cannot be trained; its folder, plan and outcome."""
    folder = tmp_path_factory.mktemp("studies") / "small"
    study = small_study(
        world,
        question={"candidate": "scratch", "reference": "fine-tuned", "margin": 1.0},
        arms={
            "scratch": {"start": "scratch"},
            "fine-tuned": {"start": "pretraining:stars"},
            "broken": {"training.schedule.lr": 1e30},
        },
        pretraining=small_pretraining(folder.parent / "objects"),
    )
    plan = begin_study(study, folder, commands=["groundup study run small.yaml"])
    return folder, plan, run_study(folder, processes=2, quiet=True, workers=workers)


def run_of(plan, arm, units):
    return next(r for r in plan.runs if r.arm == arm and r.point["training.schedule.units"] == units)


@pytest.mark.parametrize("arm", ["scratch", "fine-tuned"])
def test_a_branch_equals_the_straight_run_in_weights_records_and_metrics(arm, carried_out, tmp_path):
    folder, plan, _ = carried_out
    run = run_of(plan, arm, 1.0)
    assert run.branch_images > 0
    recipe = read_tree(Recipe, worker.with_own_weights(run.recipe, folder))
    straight = train_run(recipe, tmp_path / "straight", quiet=True)
    branch = folder / "runs" / run.key
    result = json.loads((branch / "result.json").read_text())
    assert (branch / straight["checkpoint"] / "model.safetensors").read_bytes() == (
        tmp_path / "straight" / straight["checkpoint"] / "model.safetensors"
    ).read_bytes()
    assert result["metrics"] == straight["metrics"]
    assert lines_of(branch) == lines_of(tmp_path / "straight")
    for name in ("predictions.bbox.json", "metrics.json", "matches.bbox.npz"):
        kept = [path.relative_to(branch) for path in branch.glob(f"evaluations/*/{name}")]
        assert sorted(kept) == sorted(
            path.relative_to(tmp_path / "straight")
            for path in (tmp_path / "straight").glob(f"evaluations/*/{name}")
        )
        assert len(kept) == 2
    records = [json.loads((where / "record.json").read_text()) for where in (branch, tmp_path / "straight")]
    assert records[0]["identity"] == records[1]["identity"]
    assert records[0]["fingerprint"] == records[1]["fingerprint"]
    if sys.platform == "linux" and "GROUNDUP_ALLOCATOR" not in os.environ:
        # The ready process of a study sets the allocator as the command line does.
        assert "keeps freed memory" in records[0]["environment"]["allocator"]


def test_a_failed_run_is_reported_and_stops_only_what_begins_from_it(carried_out):
    folder, plan, outcome = carried_out
    broken, child = run_of(plan, "broken", 2.0), run_of(plan, "broken", 1.0)
    assert set(outcome.failed) == {broken.key}
    assert "not finite" in outcome.failed[broken.key]
    assert set(outcome.skipped) == {child.key}
    assert broken.key in outcome.skipped[child.key]
    assert len(outcome.done) == 5
    failure = json.loads((folder / "runs" / broken.key / "failure.json").read_text())
    assert failure["exit_code"] == 4
    assert failure["message"] == outcome.failed[broken.key]
    assert "groundup: " in (folder / "runs" / broken.key / STDERR).read_text()
    with pytest.raises(FailedRunsError, match=r"1 runs failed .*1 skipped"):
        outcome.refuse_failures()


def test_status_says_what_is_done_and_what_failed(carried_out):
    folder, plan, _ = carried_out
    status = read_status(folder)
    assert [row.key for row in status.rows] == ["pretraining:stars", *(run.key for run in plan.runs)]
    assert (status.count("done"), status.count("failed"), status.count("missing")) == (5, 1, 1)
    done = next(row for row in status.rows if row.arm == "scratch")
    assert done.metric == "box/AP"
    assert done.score is not None
    text = "\n".join(status.lines())
    assert "failed: broken, units=2.0, seed 0: " in text
    assert status.trained_images < status.shared_images
    assert [one.name for one in find_studies(folder.parent)] == ["small"]


def test_the_command_line_plans_and_shows_without_starting_anything(carried_out):
    folder, _, outcome = carried_out
    call = CliRunner()
    shown = call.invoke(app, ["status", str(folder), "--json"])
    assert shown.exit_code == 0
    assert len(json.loads(shown.stdout)["runs"]) == 7
    planned = call.invoke(app, ["plan", str(folder), "--no-probe", "--json"])
    assert planned.exit_code == 0, planned.output
    values = json.loads(planned.stdout)
    assert values["hours"] is None
    assert values["differences"]["start.weights"] == [None, "pretraining:stars", None]
    assert [one["total_images"] for one in values["pretraining"]] == [16]
    listed = call.invoke(app, ["list", str(folder.parent)])
    assert "7 runs (5 done, 1 missing, 1 failed)" in listed.stdout
    assert len(outcome.done) == 5


def test_a_second_runner_says_that_there_is_one(carried_out):
    folder, *_ = carried_out
    with lock_folder(folder), pytest.raises(CheckpointError, match="another `groundup study run` is at work"):
        run_study(folder, quiet=True)
    assert not is_held(folder)


def test_a_signal_stops_all_runs_with_checkpoints_and_the_same_call_goes_on(world, workers, tmp_path):
    folder = tmp_path / "long"
    plan = begin_study(long_study(world), folder)
    logs = [folder / "runs" / run.key / "log.jsonl" for run in plan.runs if run.parent is None]

    def interrupt():
        until = time.monotonic() + 60
        while not all(log.exists() and '"train"' in log.read_text() for log in logs):
            assert time.monotonic() < until
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        run_study(folder, processes=2, quiet=True, workers=workers)
    watcher.join()
    for log in logs:
        assert list(log.parent.glob("checkpoints/images_*/COMMIT"))
        assert not (log.parent / "failure.json").exists()
        assert not is_held(log.parent)
    outcome = run_study(folder, processes=2, quiet=True, workers=workers)
    assert len(outcome.done) == 4
    assert not outcome.failed
    starts = [r["images_seen"] for r in open_log(logs[0].parent).read() if r["kind"] == "start"]
    assert len(starts) == 2
    assert starts[1] > 0


def test_a_time_limit_stops_a_study_before_it_begins_as_well(world, workers, tmp_path):
    begin_study(small_study(world), tmp_path / "late")
    with pytest.raises(Interrupted, match=r"stopped by time limit of 0.001 s; 0 runs are done"):
        run_study(tmp_path / "late", quiet=True, workers=workers, time_limit=0.001)


def test_trainings_stop_by_themselves_when_those_who_started_them_are_killed(world, tmp_path):
    folder = tmp_path / "orphans"
    plan = begin_study(long_study(world), folder)
    key = next(run.key for run in plan.runs if run.parent is None)
    log = folder / "runs" / key / "log.jsonl"
    with Workers(threads=1) as own:
        own.start(folder, key)
        until = time.monotonic() + 90
        while not (log.exists() and '"train"' in log.read_text()):
            assert time.monotonic() < until
            time.sleep(0.05)
        os.kill(own._process.pid, signal.SIGKILL)
        own._process.wait()
        with pytest.raises(WorkersLostError, match="goes on from the last checkpoints"):
            own.ended()
    until = time.monotonic() + 30
    while is_held(log.parent):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert list(log.parent.glob("checkpoints/images_*/COMMIT"))


def test_a_changed_study_is_refused_before_anything_is_trained(world, tmp_path):
    begin_study(small_study(world), tmp_path)
    begin_study(small_study(world), tmp_path)
    with pytest.raises(UsageError, match=r"is not changed: seeds is \[0\], now \[1\]"):
        begin_study(small_study(world, seeds=[1]), tmp_path)


def test_the_table_fits_the_terminal_and_shows_names_as_they_are(carried_out):
    folder, *_ = carried_out
    console = Console(force_terminal=True, width=100, height=8, record=True, file=io.StringIO())
    status = read_status(folder)
    rows = (replace(status.rows[0], arm="[red]not markup[/red]"), *status.rows[1:])
    with Display(console=console) as display:
        console.print(display.table(replace(status, rows=rows, shared_images=1000)))
    text = console.export_text()
    assert "(5 runs are not shown)" in text
    assert "broken, units=2.0" in text
    large = Console(force_terminal=True, width=100, height=50, record=True, file=io.StringIO())
    large.print(Display(console=large).table(replace(status, rows=rows)))
    assert "[red]not markup[/red]" in large.export_text()


def test_names_of_files_are_those_that_runs_write():
    assert worker.START_REPORT == LOAD_REPORT
