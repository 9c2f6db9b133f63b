"""What a person sees of a run: a bar on a terminal, plain lines elsewhere. Nothing here is a record."""

import os
import re
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

LINE_SECONDS = 10.0
"""Seconds between plain lines where there is no terminal."""
SMOOTHING = 0.9
"""Weight of the past in the shown speed, a step."""
HEADLINE = re.compile(r"(.*[^A-Za-z])?(AP|top1|accuracy)")
"""Metrics shown while training (`AP`, `box.AP`, `mask/AP` ...), the first three; others only in the log."""


class Progress:
    """Shows images seen, loss, speed, waiting for data, time left and the last AP, on stderr.

    A bar on a terminal; plain lines, now and then, when it is not one or `NO_COLOR` is set; with
    `quiet` only what happens (evaluations, checkpoints, the end).
    """

    def __init__(
        self, total: int, images_seen: int, *, quiet: bool = False, console: Console | None = None
    ) -> None:
        """Prepare to show a run of `total` images of which some are seen."""
        self._console = console or Console(stderr=True, highlight=False)
        self._total, self._quiet, self._seen = total, quiet, images_seen
        self._speed: float | None = None
        self._waiting = 0.0
        self._headline = ""
        self._loss = float("nan")
        self._last_line = time.monotonic() - LINE_SECONDS
        self._bar: Bar | None = None
        self._task = TaskID(0)
        if self._console.is_terminal and not quiet and "NO_COLOR" not in os.environ:
            self._bar = Bar(
                TextColumn("train"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
                TimeRemainingColumn(),
                console=self._console,
            )

    def __enter__(self) -> "Progress":
        """Show the bar."""
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("train", total=self._total, completed=self._seen, facts="")
        return self

    def __exit__(self, *_: object) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()

    def step(self, images_seen: int, *, loss: float, seconds: float, waited: float) -> None:
        """Show a step that took so many seconds, of which `waited` were spent waiting for data."""
        speed = (images_seen - self._seen) / max(seconds, 1e-9)
        weight = SMOOTHING if self._speed is not None else 0.0
        self._speed = weight * (self._speed or 0.0) + (1 - weight) * speed
        self._waiting = weight * self._waiting + (1 - weight) * waited / max(seconds, 1e-9)
        self._seen, self._loss = images_seen, loss
        if self._bar is not None:
            self._bar.update(self._task, completed=images_seen, facts=self.facts())
        elif not self._quiet and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            left = (self._total - images_seen) / self._speed
            self._print(f"{images_seen}/{self._total} images  {self.facts()}  {clock(left)} left")

    def facts(self) -> str:
        """The numbers beside the bar."""
        return (
            f"loss {self._loss:.3f}  {self._speed or 0:.3g} images/s  "
            f"{100 * self._waiting:.0f}% waiting for data{self._headline}"
        )

    def metrics(self, values: Mapping[str, float | None]) -> None:
        """Keep the headline metrics of an evaluation in sight."""
        shown = [name for name, v in values.items() if v is not None and HEADLINE.fullmatch(name)][:3]
        self._headline = "".join(f"  {name} {values[name]:.3f}" for name in shown)
        self.note(f"evaluated after {self._seen} images:{self._headline or ' see the log'}")

    def note(self, text: str) -> None:
        """Say that something happened."""
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
