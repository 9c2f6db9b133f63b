"""A study on Slurm and on Ray: jobs that can be stopped, with the runner's own answers. Both are extras."""

import importlib.util
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from groundup.engine.journal import open_log
from groundup.errors import EXIT_INTERNAL, EXIT_RESUMABLE, UsageError
from groundup.records import is_held, write_json
from groundup.study.launch import Attendant, RayCluster, SlurmCluster, attend, crew_of, refuse_silence
from groundup.study.results import RESULT
from groundup.study.runner import CHECKPOINT, CHECKPOINTS, MAX_TAKEN_BACK, begin_study, run_study
from groundup.study.status import read_status
from groundup.study.worker import run_path
from groundup.study.workers import STDERR, TAKEN_BACK
from processes import free_port
from small_study import small_study, small_world

SLEEPER = (
    "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); print('up', flush=True); "
    "time.sleep(60)"
)


def test_an_attendant_keeps_what_a_command_says_and_passes_signals_on(tmp_path):
    said = tmp_path / "run" / "stderr.txt"
    command = [sys.executable, "-c", "import sys; print('fault', file=sys.stderr); sys.exit(3)"]
    assert Attendant().run(command, str(said), {}) == 3
    attendant, statuses = Attendant(), []
    thread = threading.Thread(
        target=lambda: statuses.append(attendant.run([sys.executable, "-c", SLEEPER], str(said), {}))
    )
    thread.start()
    until = time.monotonic() + 30
    while "up" not in said.read_text() and time.monotonic() < until:
        time.sleep(0.05)
    attendant.stop(signal.SIGTERM)
    thread.join(30)
    assert statuses == [EXIT_RESUMABLE]
    assert said.read_text() == "fault\nup\n"
    # One that was told to stop before it began does not begin.
    assert attendant.run([sys.executable, "-c", "raise SystemExit(9)"], str(said), {}) == EXIT_RESUMABLE


def test_options_of_a_cluster_are_refused_where_there_is_none(tmp_path):
    with pytest.raises(UsageError, match="--on slurm"), crew_of("local", tmp_path, 1, ["num_gpus=1"]):
        pass


@pytest.mark.parametrize(("place", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_extra_is_one_line(place, package, tmp_path):
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with (
        pytest.raises(UsageError, match=rf"pip install groundup\[{place}\]"),
        crew_of(place, tmp_path, 1, []),
    ):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "127.0.0.1:99999"])
def test_an_address_of_ray_at_which_nobody_listens_is_one_line(address):
    address = address.format(free_port())
    with pytest.raises(UsageError, match=f"nothing answers at {address}") as caught:
        refuse_silence(address)
    assert "\n" not in str(caught.value)


def test_addresses_of_ray_that_answer_or_name_no_port_are_taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        refuse_silence(f"127.0.0.1:{server.getsockname()[1]}")
    refuse_silence("auto")
    refuse_silence("")


def test_an_unknown_option_of_ray_is_one_line():
    pytest.importorskip("ray")
    with pytest.raises(UsageError, match="num_gpu") as caught:
        RayCluster(1, {"num_gpu": 1})
    assert "\n" not in str(caught.value)


GOLDEN_SCRIPT = Path(__file__).resolve().parents[1] / "golden" / "slurm_job.sh"
SLURM_PROGRAMS = {
    "srun": "",
    "sbatch": 'cp "$1" "{folder}/submitted.sh"; echo "$$" > "{folder}/job"; echo "Submitted batch job $$"',
    "scancel": 'echo "$@" >> "{folder}/cancelled.txt"',
    "sacct": 'echo "JobID|State"; echo "$(cat "{folder}/job")|$(cat "{folder}/state.txt")"',
}
"""What this machine answers in Slurm's place: scripts that keep what they are given."""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder whose programs stand first in PATH under the names of Slurm's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in SLURM_PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/sh\n{text.format(folder=folder)}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_the_script_that_is_handed_to_sbatch_is_the_golden_one(slurm, tmp_path):
    pytest.importorskip("submitit")
    options = {"slurm_partition": "gpu", "timeout_min": 90, "gpus_per_node": 1, "mem_gb": 16}
    cluster = SlurmCluster(tmp_path / "study", 3, options)
    cluster.start(tmp_path / "study", "fast-s0")
    script = (slurm / "submitted.sh").read_text()
    for found, name in ((str(tmp_path), "FOLDER"), (sys.executable, "PYTHON")):
        script = script.replace(found, name)
    assert script == GOLDEN_SCRIPT.read_text()
    (job,) = cluster._jobs.values()
    task = job.submission()
    assert task.function is attend
    command, stderr, environment = task.args
    assert command[1:5] == ["-m", "groundup", "study", "work"]
    assert command[5:] == [str(tmp_path / "study"), "fast-s0", "--tied"]
    assert stderr == str(tmp_path / "study" / "runs" / "fast-s0" / STDERR)
    assert environment == {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("NODE_FAIL", TAKEN_BACK),
        ("TIMEOUT", TAKEN_BACK),
        ("CANCELLED by 0", EXIT_RESUMABLE),
        ("FAILED", EXIT_INTERNAL),
    ],
)
def test_a_job_that_slurm_ends_says_why(state, status, slurm, tmp_path):
    pytest.importorskip("submitit")
    cluster = SlurmCluster(tmp_path / "study", 1, {})
    cluster.start(tmp_path / "study", "fast-s0")
    cluster.stop(signal.SIGTERM)
    said = (slurm / "cancelled.txt").read_text().splitlines()
    number = (slurm / "job").read_text().strip()
    assert said == [f"--quiet --state=PENDING {number}", f"--quiet --signal=15 {number}"]
    (slurm / "state.txt").write_text(state)
    assert cluster.ended() == [("fast-s0", status)]
    assert cluster.ended() == []


def test_an_unknown_option_of_slurm_is_one_line(tmp_path):
    pytest.importorskip("submitit")
    with pytest.raises(UsageError, match="no_such_option"):
        SlurmCluster(tmp_path, 1, {"no_such_option": 1}, kind="local")


class Fickle:
    """A crew that loses a run's machine a number of times, with or without a checkpoint before it."""

    def __init__(self, folder, times, saves):
        self.folder, self.times, self.saves = folder, times, saves
        self.started, self.active = [], []

    def start(self, folder, key):
        self.started.append(key)
        self.active.append(key)

    def stop(self, number=signal.SIGTERM):
        raise AssertionError("nobody asked")

    def ended(self):
        ended, self.active = self.active, []
        return [(key, self.end(key)) for key in ended]

    def end(self, key):
        tries = self.started.count(key)
        run = run_path(self.folder, key)
        if tries > self.times:
            write_json(run / RESULT, {})
            return 0
        if self.saves:
            (run / CHECKPOINT.format(tries)).parent.mkdir(parents=True)
            (run / CHECKPOINT.format(tries)).touch()
        return TAKEN_BACK


@pytest.mark.parametrize(
    ("times", "saves", "tries"),
    [(MAX_TAKEN_BACK, False, MAX_TAKEN_BACK + 1), (MAX_TAKEN_BACK + 1, False, None), (9, True, 10)],
)
def test_a_run_that_loses_its_machine_begins_again_while_it_gets_on(times, saves, tries, tmp_path):
    folder = tmp_path / "study"
    plan = begin_study(small_study(small_world(tmp_path / "world"), axes={}), folder)
    crew = Fickle(folder, times, saves)
    outcome = run_study(folder, processes=2, quiet=True, workers=crew)
    assert not outcome.failed
    if tries is None:
        assert set(outcome.interrupted) == {run.key for run in plan.runs}
    else:
        assert all(crew.started.count(run.key) == tries for run in plan.runs)
        assert set(outcome.done) == {run.key for run in plan.runs}


@pytest.mark.slow
def test_jobs_of_submitit_carry_a_study_out(tmp_path):
    pytest.importorskip("submitit")
    study = small_study(small_world(tmp_path / "world"), axes={})
    begin_study(study, tmp_path / "study")
    with SlurmCluster(tmp_path / "study", 1, {}, kind="local") as cluster:
        outcome = run_study(tmp_path / "study", processes=1, quiet=True, workers=cluster)
    assert not outcome.failed
    assert all(run.state == "done" for run in read_status(tmp_path / "study").rows)


@pytest.mark.slow
def test_tasks_of_ray_carry_a_study_out_and_are_stopped(tmp_path):
    ray = pytest.importorskip("ray")
    study = small_study(small_world(tmp_path / "world"), axes={})
    folder = tmp_path / "study"
    plan = begin_study(study, folder)
    try:
        with RayCluster(1, {}) as cluster:
            first = plan.runs[0].key
            cluster.start(folder, first)
            path = folder / "runs" / first / STDERR
            until = time.monotonic() + 60
            while not path.exists() and time.monotonic() < until:
                time.sleep(0.1)
            cluster.stop(signal.SIGTERM)
            while not (ended := cluster.ended()) and time.monotonic() < until:
                time.sleep(0.1)
            assert ended[0][0] == first
            assert ended[0][1] in {EXIT_RESUMABLE, -signal.SIGTERM, 0}
            outcome = run_study(folder, processes=2, quiet=True, workers=cluster)
        assert not outcome.failed
        assert all(run.state == "done" for run in read_status(folder).rows)
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_a_study_on_two_machines_of_ray_goes_on_when_one_of_them_dies(tmp_path):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    changes = {
        "training.schedule.unit_images": 160,
        "training.evaluate_every": 160,
        "training.upkeep.checkpoint_every": 8,
    }
    study = small_study(small_world(tmp_path / "world"), axes={})
    study = study.model_copy(update={"set": {**study.set, **changes}})
    folder = tmp_path / "study"
    plan = begin_study(study, folder)
    runs = [folder / "runs" / run.key for run in plan.runs]
    machine = {"num_cpus": 1, "object_store_memory": 80_000_000}
    # Two machines of one processor each, on 127.0.0.1.
    cluster = Cluster(initialize_head=True, head_node_args=machine)
    second = cluster.add_node(**machine)
    held_together = []

    def kill_the_second():
        until = time.monotonic() + 240
        while time.monotonic() < until and not all(any(run.glob(CHECKPOINTS)) for run in runs):
            time.sleep(0.05)
        held_together.append(all(map(is_held, runs)))
        cluster.remove_node(second, allow_graceful=False)

    killer = threading.Thread(target=kill_the_second)
    try:
        with RayCluster(1, {"address": cluster.address}) as crew:
            assert sum(node["Alive"] for node in ray.nodes()) == 2
            killer.start()
            outcome = run_study(folder, processes=2, quiet=True, workers=crew)
            assert sum(node["Alive"] for node in ray.nodes()) == 1
    finally:
        killer.join()
        ray.shutdown()
        cluster.shutdown()
    assert held_together == [True], "both machines were at work"
    assert set(outcome.done) == {run.key for run in plan.runs}
    starts = [[line for line in open_log(run).read() if line["kind"] == "start"] for run in runs]
    # One run lost its machine and went on from a checkpoint; the other never noticed.
    assert sorted(map(len, starts)) == [1, 2]
    assert max(starts, key=len)[1]["images_seen"] > 0
    assert all(run.state == "done" for run in read_status(folder).rows)
