"""The runner's hold on the processes that train: started at once from one that has torch imported."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from groundup.errors import GroundupError
from groundup.study.worker import run_path

STDERR = "stderr.txt"
"""What a run's process wrote, in the run's folder; of all its tries."""
CLOSE_SECONDS = 300.0
"""How long trainings that were asked to stop may take to write their checkpoints."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""What torch's libraries read their number of threads from when they are loaded."""
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""numpy's library would start its threads when it is imported, and a process with threads must not fork."""


TAKEN_BACK = 256
"""In place of an exit status, of a run whose machine died or was taken away; no process can leave with it."""


@runtime_checkable
class Crew(Protocol):
    """Whoever carries runs out: processes of this machine (`Workers`), or a cluster (`launch`)."""

    def start(self, folder: Path, key: str) -> None:
        """Begin or go on with a run of the study in that folder."""

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to every training."""

    def ended(self) -> list[tuple[str, int]]:
        """The runs that have ended since the last call, each with its exit status or `TAKEN_BACK`."""


class WorkersLostError(GroundupError):
    """The process that starts the trainings ended by itself."""


class Workers:
    """Processes of runs, by key. A context manager: at its end they are asked to stop and waited for.

    One may serve several studies, one after the other: that it is ready to train took seconds.
    """

    def __init__(self, *, threads: int, devices: Sequence[str] = ()) -> None:
        """Every run with so many threads.

        `devices` are values of CUDA_VISIBLE_DEVICES that runs take in turn; none leaves it as it is.
        """
        self._threads, self._devices = threads, list(devices)
        self._in_use: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def __enter__(self) -> "Workers":
        """Start the process that starts others; it gets ready by itself."""
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(self._threads)) | ONE_THREAD
        self._process = subprocess.Popen(
            [sys.executable, "-m", "groundup.study.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            # A terminal's Ctrl-C reaches the runner alone, which passes it on.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ask every training to stop and wait."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def start(self, folder: Path, key: str) -> None:
        """Begin or go on with a run of the study in that folder."""
        folder = folder.absolute()
        environment = {}
        if self._devices:
            used = list(self._in_use.values())
            self._in_use[key] = min(self._devices, key=used.count)
            environment["CUDA_VISIBLE_DEVICES"] = self._in_use[key]
        self._send(
            {
                "start": {
                    "folder": str(folder),
                    "key": key,
                    "threads": self._threads,
                    "environment": environment,
                    "stderr": str(run_path(folder, key) / STDERR),
                }
            }
        )

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to every training."""
        self._send({"stop": number})

    def ended(self) -> list[tuple[str, int]]:
        """The runs whose processes have ended since the last call, each with its exit status.

        Raises:
            WorkersLostError: the process that starts them ended.
        """
        result = [(m["ended"], int(m["exit_code"])) for m in self._messages() if "ended" in m]
        for key, _ in result:
            self._in_use.pop(key, None)
        assert self._process is not None
        if not result and self._process.poll() is not None:
            raise WorkersLostError(
                f"the process that starts trainings ended with status {self._process.returncode}; "
                "the same command goes on from the last checkpoints"
            )
        return result

    def _messages(self) -> list[dict[str, Any]]:
        assert self._process is not None
        assert self._process.stdout is not None
        while chunk := self._process.stdout.read(1 << 16) or b"":
            self._rest += chunk
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in lines]

    def _send(self, command: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkersLostError(
                "the process that starts trainings ended; the same command goes on from the last checkpoints"
            ) from None
