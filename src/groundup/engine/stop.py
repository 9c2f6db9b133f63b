"""Asking a run to stop: signals and a time limit set a flag, every loop polls it."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from groundup.errors import EXIT_INTERRUPTED, Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What schedulers and people send: Slurm's warning is often SIGUSR1, its end SIGTERM, Ctrl-C SIGINT."""
SHOW_CURSOR = "\x1b[?25h"
"""Terminal sequence that undoes the progress bar's hiding of the cursor."""


class StopFlag:
    """Set by SIGTERM, SIGINT, SIGUSR1 or when the time is up; a second SIGINT ends the process at once.

    A context manager: inside, the signals only set the flag; afterwards they mean what they meant before.
    May be entered again while open, which changes nothing. Outside the main thread, where Python
    cannot listen to signals, only the time limit works. A child process that inherits the handlers
    (a loader's worker) ignores SIGINT, which a terminal sends to all, and dies of the others as ever.
    """

    def __init__(self, time_limit: float | None = None) -> None:
        """Stop after `time_limit` seconds from now; None: no limit."""
        self._deadline = None if time_limit is None else time.monotonic() + time_limit
        self._limit = time_limit
        self._signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._depth = 0
        self._process = os.getpid()

    def __enter__(self) -> "StopFlag":
        """Begin to listen."""
        self._depth += 1
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            self._process = os.getpid()
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        self._depth -= 1
        if self._depth == 0:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before = {}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if number == signal.SIGINT and self._signal == signal.SIGINT:
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), SHOW_CURSOR.encode())
            os._exit(EXIT_INTERRUPTED)
        self._signal = signal.Signals(number)

    @property
    def reason(self) -> str | None:
        """Why the run should stop, or None while it should go on."""
        if self._signal is not None:
            return self._signal.name
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return f"time limit of {self._limit:g} s"
        return None

    def check(self) -> None:
        """Leave a loop that has nothing of its own to save, such as an evaluation.

        Raises:
            Interrupted: the flag is set.
        """
        if self.reason is not None:
            raise Interrupted(f"stopped by {self.reason}")


@contextmanager
def listening(stop: StopFlag | None, time_limit: float | None) -> Iterator[StopFlag]:
    """The caller's flag, or one of its own with the time limit."""
    with stop or StopFlag(time_limit) as flag:
        yield flag
