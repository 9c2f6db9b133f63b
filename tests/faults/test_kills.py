"""A training that is killed at random ends with the bytes of one that was not."""

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from groundup.engine.checkpoint import newest_checkpoint
from groundup.engine.journal import open_log
from groundup.engine.run import run_state
from groundup.errors import EXIT_INTERRUPTED, EXIT_RESUMABLE
from processes import fresh_context
from small_training import lines_of, train_slowly

KILLS = Path(__file__).resolve().parents[2] / "benchmarks" / "kills.py"


@pytest.fixture(scope="module")
def kills():
    """The script that can also kill a real training."""
    specification = importlib.util.spec_from_file_location("kills", KILLS)
    module = importlib.util.module_from_spec(specification)
    sys.modules["kills"] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def launch():
    """Starts the slow training in a process of its own, which has torch imported already."""
    context = fresh_context()

    class Forked:
        def __init__(self, folder):
            folder.mkdir(parents=True, exist_ok=True)
            self.process = context.Process(target=train_slowly, args=(str(folder),))
            self.process.start()
            self.pid = self.process.pid

        def poll(self):
            return self.process.exitcode

        def end_by(self, number):
            os.kill(self.pid, number)

    return Forked


def await_record(folder, kind, count=1):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if sum(record["kind"] == kind for record in open_log(folder).read()) >= count:
            return
        time.sleep(0.002)
    raise AssertionError(f"no {kind} in the log of {folder}")


def test_twenty_random_kills_leave_no_trace(kills, launch, tmp_path):
    report = kills.drive(launch, tmp_path, kills=20, seed=int(os.environ.get("KILLS_SEED", "0")))
    assert report.faults == [], report.deaths
    assert len(report.deaths) == 20
    assert sum("SIG" in death for death in report.deaths) >= 18


def test_sigterm_while_evaluating_saves_and_goes_on_with_the_evaluation(kills, launch, tmp_path):
    life = launch(tmp_path / "run")
    # Ten steps to the first evaluation, which takes 50 ms: the signal falls into it or close by.
    await_record(tmp_path / "run", "train", 5)
    life.end_by(signal.SIGTERM)
    assert kills.await_end(life, 60) == EXIT_RESUMABLE
    assert run_state(tmp_path / "run") == "partial"
    assert newest_checkpoint(tmp_path / "run").images_seen == 40
    assert kills.await_end(launch(tmp_path / "run"), 60) == 0
    evaluations = [line["images_seen"] for line in lines_of(tmp_path / "run") if line["kind"] == "evaluation"]
    assert evaluations == list(range(40, 321, 40))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_while_a_checkpoint_is_written_costs_nothing(number, kills, launch, tmp_path):
    life = launch(tmp_path)
    until = time.monotonic() + 60
    while not list(tmp_path.glob("checkpoints/.*.draft")) and time.monotonic() < until:
        pass
    life.end_by(number)
    assert kills.await_end(life, 60) in {EXIT_RESUMABLE, -number}
    assert kills.await_end(launch(tmp_path), 60) == 0
    assert newest_checkpoint(tmp_path).skipped == ()
    assert not list(tmp_path.glob("checkpoints/.*"))


def test_the_second_interrupt_ends_at_once(kills, launch, tmp_path):
    life = launch(tmp_path)
    await_record(tmp_path, "train")
    life.end_by(signal.SIGSTOP)
    # Both arrive while it is stopped; SIGINT cannot queue twice, so the second follows the first.
    life.end_by(signal.SIGINT)
    life.end_by(signal.SIGCONT)
    deadline = time.monotonic() + 60
    while life.poll() is None and time.monotonic() < deadline:
        life.end_by(signal.SIGINT)
        time.sleep(0.0005)
    assert life.poll() in {EXIT_INTERRUPTED, EXIT_RESUMABLE}
    assert kills.await_end(launch(tmp_path), 60) == 0


def test_one_interrupt_saves_and_leaves(kills, launch, tmp_path):
    life = launch(tmp_path)
    await_record(tmp_path, "train")
    life.end_by(signal.SIGINT)
    assert kills.await_end(life, 60) == EXIT_RESUMABLE


def test_two_processes_cannot_train_in_one_folder(kills, launch, tmp_path):
    first = launch(tmp_path)
    await_record(tmp_path, "train")
    first.end_by(signal.SIGSTOP)
    second = launch(tmp_path)
    assert kills.await_end(second, 60) == 5
    first.end_by(signal.SIGCONT)
    assert kills.await_end(first, 60) == 0
