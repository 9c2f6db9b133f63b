"""Several processes of one run, forked: torch is imported already, which saves seconds each.

They are forked from the test itself, or from a server that has only imported: what is to be scored needs
that, since the scorer's threads do not survive a fork, and any earlier test may have begun them.
"""

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import signal
import socket
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from typing import Any

import timm  # noqa: F401 - this and the next two are imported late, each child would need seconds for them
import torch
import torch._dynamo  # the optimizer imports it when first made
import torchvision.ops  # noqa: F401

from groundup.errors import GroundupError

PATIENCE = 400
"""Seconds after which processes that do not end are a failure."""


PRELOADED = ["small_training", "torch._dynamo", "detector_process", "command_line", "timm", "torchvision.ops"]
"""What the server imports once, which takes seconds."""


def fresh_context():
    """The context whose processes are forked from the server, which is started when it is not there.

    It finds the modules to preload by PYTHONPATH alone; work given to it must lie in such a module.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    with contextlib.ExitStack() as stack:
        if before is None:
            stack.callback(os.environ.pop, "PYTHONPATH")
        else:
            stack.callback(os.environ.update, {"PYTHONPATH": before})
        multiprocessing.forkserver.ensure_running()
    return context


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass(frozen=True)
class Ending:
    """How a process ended."""

    status: int
    """Exit status, as the command line would leave with; minus the number of a signal that killed it."""
    value: Any
    message: str | None
    """What it said of its fault; None where another process has said it, or there is none."""


def act(place, work, arguments, pipe) -> None:
    """What a forked process does."""
    torch.set_num_threads(1)
    os.environ.update(place)
    value, message, status = None, None, 0
    try:
        value = work(*arguments)
    except GroundupError as error:
        status, message = error.exit_code, None if error.is_told else str(error)
    except BaseException:
        status, message = 1, traceback.format_exc()
    pipe.send_bytes(pickle.dumps((value, message)))
    os._exit(status)


class Processes:
    """Processes at work."""

    def __init__(self, size, work, *arguments, port=None, only=None, fresh=False):
        """Start `work(*arguments)` in `size` processes, or in those of the ranks `only`.

        With `fresh` they are forked from the server.
        """
        context = fresh_context() if fresh else multiprocessing.get_context("fork")
        place = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port or free_port())}
        self.members = []
        for rank in range(size) if only is None else only:
            inner, outer = context.Pipe(duplex=False)
            own = {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = context.Process(target=act, args=(own, work, arguments, outer))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
                process.start()
            outer.close()
            self.members.append((process, inner))

    def send(self, rank, number) -> None:
        """Send a signal to one of them."""
        os.kill(self.members[rank][0].pid, number)

    def endings(self, patience=PATIENCE) -> list[Ending]:
        """Wait for all of them; those that do not end in time are killed and fail the test."""
        until = time.monotonic() + patience
        found = []
        for process, pipe in self.members:
            value = message = None
            try:
                if pipe.poll(max(0.0, until - time.monotonic())):
                    value, message = pickle.loads(pipe.recv_bytes())
            except EOFError:
                pass
            process.join(max(0.0, until - time.monotonic()))
            late = process.exitcode is None
            if late:
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
                process.join()
            found.append(Ending(-100 if late else process.exitcode, value, message))
        return found


def in_processes(size, work, *arguments, **options: Any) -> list[Any]:
    """What each of the processes gives; all of them must end well."""
    endings = Processes(size, work, *arguments, **options).endings()
    assert [ending.status for ending in endings] == [0] * size, [ending.message for ending in endings]
    return [ending.value for ending in endings]
