"""A study on Slurm and on Ray: jobs that can be stopped, with the runner's own answers. Both are extras."""

import importlib.util
import os
import signal
import sys
import threading
import time

import pytest

from groundup.errors import EXIT_RESUMABLE, UsageError
from groundup.study.launch import Attendant, RayCluster, SlurmCluster, crew_of
from groundup.study.runner import begin_study, run_study
from groundup.study.status import read_status
from groundup.study.workers import STDERR
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


def test_the_script_of_a_slurm_job_says_what_was_asked_for(tmp_path):
    pytest.importorskip("submitit")
    from submitit.slurm.slurm import SlurmExecutor

    options = {"slurm_partition": "gpu", "timeout_min": 90, "gpus_per_node": 1}
    with pytest.MonkeyPatch.context() as patch:
        # submitit asks whether there is an srun before it writes a script.
        (tmp_path / "srun").touch(0o755)
        patch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        cluster = SlurmCluster(tmp_path, 3, options)
    executor = cluster.executor._executor
    assert isinstance(executor, SlurmExecutor)
    script = executor._make_submission_file_text("command", "1")
    for line in ("partition=gpu", "time=90", "gpus-per-node=1", "cpus-per-task=3", "job-name=groundup"):
        assert f"#SBATCH --{line}" in script
    with pytest.raises(UsageError, match="no_such_option"):
        SlurmCluster(tmp_path, 1, {"no_such_option": 1}, kind="local")


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
