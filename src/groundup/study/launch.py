"""A study's trainings on other machines: jobs of Slurm (through submitit), or tasks of Ray.

Each run is one job that carries out `groundup study work FOLDER KEY`, on storage that all machines see; the
runner decides what can begin and what a status means, as it does with processes of its own (`workers`). Both
libraries are extras, imported when they are asked for.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import yaml

from groundup.errors import EXIT_INTERNAL, EXIT_RESUMABLE, UsageError
from groundup.study.worker import run_path
from groundup.study.workers import CLOSE_SECONDS, STDERR, TAKEN_BACK, THREAD_VARIABLES, Crew

SLURM_FOLDER = "slurm"
"""Where scripts and outputs of Slurm's jobs lie in a study's folder."""
CANCELLED = "CANCELLED"
"""State of a job of Slurm that somebody stopped: it goes on when the command is given again."""
LOST_STATES = ("BOOT_FAIL", "NODE_FAIL", "TIMEOUT")
"""States of Slurm's jobs that ended without fault of the run: it goes on from its newest checkpoint. One that
was PREEMPTED has not ended: Slurm queues it again by itself."""
POLL_SECONDS = 1.0
MEETING_SECONDS = 5.0
"""How long a task of Ray may take to answer before it counts as not begun."""


class Attendant:
    """Carries out one command where it is asked to, and passes signals on to it. Ray makes an actor of it."""

    def __init__(self) -> None:
        """Nothing is carried out yet."""
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def is_there(self) -> bool:
        """True: that it answers says that it began."""
        return True

    def run(self, command: list[str], stderr: str, environment: dict[str, str]) -> int:
        """The command's exit status, after it; what it says is appended to the file."""
        path = Path(stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._is_stopped:
            return EXIT_RESUMABLE
        with path.open("ab") as said:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=os.environ | environment
            )
        return self._process.wait()

    def stop(self, number: int) -> None:
        """Send the signal to the command, or let it not begin."""
        self._is_stopped = True
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


def attend(command: list[str], stderr: str, environment: dict[str, str]) -> int:
    """What a job of Slurm does; the signals of `scancel` reach the command by themselves."""
    return Attendant().run(command, stderr, environment)


class Cluster:
    """What both have in common: a context manager that asks its jobs to stop at its end, and waits."""

    def __init__(self, threads: int) -> None:
        """Every run with so many threads."""
        self._environment = dict.fromkeys(THREAD_VARIABLES, str(threads))
        self._jobs: dict[str, Any] = {}

    def __enter__(self) -> "Cluster":
        """Nothing to start."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what is under way; its checkpoints are written."""
        until = time.monotonic() + CLOSE_SECONDS
        if self._jobs:
            self.stop(signal.SIGTERM)
        while self._jobs and time.monotonic() < until:
            self.ended()
            time.sleep(POLL_SECONDS)

    def start(self, folder: Path, key: str) -> None:
        """Begin or go on with a run of the study in that folder."""
        folder = folder.absolute()
        command = [sys.executable, "-m", "groundup", "study", "work", str(folder), key, "--tied"]
        self._jobs[key] = self._submit(command, str(run_path(folder, key) / STDERR), self._environment)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to every training; what has not begun does not begin."""
        for job in self._jobs.values():
            self._signal(job, number)

    def ended(self) -> list[tuple[str, int]]:
        """The runs that have ended since the last call, each with its exit status or `TAKEN_BACK`."""
        found = [(key, self._status(job)) for key, job in self._jobs.items()]
        ended = [(key, status) for key, status in found if status is not None]
        for key, _ in ended:
            del self._jobs[key]
        return ended

    def _submit(self, command: list[str], stderr: str, environment: dict[str, str]) -> Any:
        raise NotImplementedError

    def _signal(self, job: Any, number: int) -> None:
        raise NotImplementedError

    def _status(self, job: Any) -> int | None:
        raise NotImplementedError


class SlurmCluster(Cluster):
    """Jobs of Slurm; `options` are submitit's: slurm_partition, timeout_min, gpus_per_node, mem_gb ...

    Raises:
        UsageError: submitit is not installed, this machine has no Slurm, or an option is unknown.
    """

    def __init__(self, folder: Path, threads: int, options: Mapping[str, Any], kind: str = "slurm") -> None:
        """Jobs whose scripts lie in the study's folder; `kind` local starts processes here instead."""
        super().__init__(threads)
        try:
            import submitit
        except ImportError:
            raise missing("submitit", "slurm") from None
        try:
            self.executor = submitit.AutoExecutor(folder=folder.absolute() / SLURM_FOLDER, cluster=kind)
            self.executor.update_parameters(name="groundup", cpus_per_task=threads, **options)
        except (RuntimeError, ValueError, TypeError, NameError) as error:
            raise UsageError(f"Slurm through submitit: {' '.join(str(error).split())}") from None

    def _submit(self, command: list[str], stderr: str, environment: dict[str, str]) -> Any:
        return self.executor.submit(attend, command, stderr, environment)

    def _signal(self, job: Any, number: int) -> None:
        scancel = ["scancel", "--quiet"]
        subprocess.run([*scancel, "--state=PENDING", job.job_id], check=False)
        subprocess.run([*scancel, f"--signal={number}", job.job_id], check=False)

    def _status(self, job: Any) -> int | None:
        if not job.done():
            return None
        if job.exception() is None:
            return int(job.result())
        state = str(job.state).split()[0] if job.state else ""
        if state in LOST_STATES:
            return TAKEN_BACK
        return EXIT_RESUMABLE if state == CANCELLED else EXIT_INTERNAL


class RayCluster(Cluster):
    """Tasks of Ray; `options` are those of its resources: num_gpus, memory, resources ..., and `address`.

    Without an address Ray takes the cluster that RAY_ADDRESS names, or makes one of this machine.

    Raises:
        UsageError: Ray is not installed, the cluster does not answer, or an option is unknown.
    """

    def __init__(self, threads: int, options: Mapping[str, Any]) -> None:
        """Join the cluster."""
        super().__init__(threads)
        try:
            import ray
        except ImportError:
            raise missing("ray", "ray") from None
        self._ray = ray
        resources = dict(options)
        address = resources.pop("address", None)
        refuse_silence(address or os.environ.get("RAY_ADDRESS", ""))
        try:
            kind = ray.remote(Attendant).options(**{"num_cpus": threads, "max_concurrency": 2, **resources})
            if not ray.is_initialized():
                own = {} if address else {"include_dashboard": False}
                ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **own)
        except (ConnectionError, RuntimeError, ValueError, TypeError) as error:
            raise UsageError(f"Ray: {' '.join(str(error).split())}") from None
        self._build: Callable[[], Any] = kind.remote

    def _submit(self, command: list[str], stderr: str, environment: dict[str, str]) -> Any:
        actor = self._build()
        return actor, actor.run.remote(command, stderr, environment)

    def _signal(self, job: Any, number: int) -> None:
        actor, _ = job
        has_begun, _ = self._ray.wait([actor.is_there.remote()], timeout=MEETING_SECONDS)
        if has_begun:
            actor.stop.remote(number)
        else:
            self._ray.kill(actor)

    def _status(self, job: Any) -> int | None:
        _, result = job
        done, _ = self._ray.wait([result], timeout=0)
        if not done:
            return None
        try:
            return int(self._ray.get(result))
        except self._ray.exceptions.RayActorError:
            # Its machine is gone, or it was taken back before it began.
            return TAKEN_BACK


def refuse_silence(address: str) -> None:
    """Refuse a HOST:PORT of Ray at which nobody listens: Ray itself would try for minutes.

    Raises:
        UsageError: nothing answers.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=MEETING_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"Ray: nothing answers at {address} ({error}); give --cluster-option address=HOST:PORT as "
            "`ray start --head` printed it"
        ) from None


@contextmanager
def crew_of(
    place: Literal["local", "slurm", "ray"], folder: Path, threads: int, options: Sequence[str]
) -> Iterator[Crew | None]:
    """Who carries runs out at the place, until it is left; None for the runner's own processes.

    `options` are KEY=VALUE of the cluster, values as in YAML.

    Raises:
        UsageError: options that no cluster takes, or a cluster that is not there.
    """
    named = dict(option.partition("=")[::2] for option in options)
    if place == "local":
        if named:
            raise UsageError("--cluster-option is of --on slurm or --on ray; runs here take none")
        yield None
        return
    values = {name: yaml.safe_load(text) for name, text in named.items()}
    with (
        SlurmCluster(folder, threads, values) if place == "slurm" else RayCluster(threads, values) as cluster
    ):
        yield cluster


def missing(package: str, extra: str) -> UsageError:
    """That an optional package is not there."""
    return UsageError(f"{package} is not installed: pip install groundup[{extra}]")
