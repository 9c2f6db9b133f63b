"""Where the time of a step goes and how much memory a process took. No torch.

Functions that are a part of a step say so with `@part("...")`. That costs nothing worth speaking of until a
`Stopwatch` runs, and never changes what they compute.
"""

import contextlib
import functools
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
STATUS = Path("/proc/self/status")
"""Where Linux says the most memory that this program held.

`getrusage` counts that of its parent, too, from before it became a program of its own."""
PEAK = "VmHWM:"
KIB = 1024
PART = "part/"
"""Before the name of each part in the `timing` of a record."""
PEAK_MEMORY = "peak_memory"
"""Name of the process's most memory there, in bytes."""
OTHER = "other"
"""The time of a step that no part says it took."""


class Stopwatch:
    """Adds up the seconds of each part; a part inside a part takes its time from it."""

    def __init__(self, wait: Callable[[], object] | None = None) -> None:
        """Begin at zero.

        Args:
            wait: called where a part begins and ends: on a device that works by itself, until it has done
                what it was asked, so that its time falls to the part that asked.
        """
        self.seconds: dict[str, float] = {}
        self._wait = wait
        self._inside: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count the parts that run inside, in this process."""
        global _running  # noqa: PLW0603 - parts are anywhere in the program and know of no stopwatch
        before, _running = _running, self
        try:
            yield
        finally:
            _running = before

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs inside as the part."""
        self._turn()
        self._inside.append(name)
        try:
            yield
        finally:
            self._turn()
            self._inside.pop()

    def _turn(self) -> None:
        """Give the time since the last turn to the innermost part."""
        if self._wait is not None:
            self._wait()
        now = time.perf_counter()
        if self._inside:
            name = self._inside[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    def take(self, total: float) -> dict[str, float]:
        """Seconds of each part, longest first, and of what is left of the total; then begin anew."""
        taken = dict(sorted(self.seconds.items(), key=lambda item: -item[1]))
        self.seconds = {}
        return {**taken, OTHER: max(total - sum(taken.values()), 0.0)}


_running: Stopwatch | None = None


def part(
    name: str, *, is_whole: bool = False
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Marks a function as a part of a step, which a running stopwatch counts by this name.

    Of a part that is whole no parts inside are counted.
    """

    def mark(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @functools.wraps(function)
        def marked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            if _running is None:
                return function(*args, **kwargs)
            with _running.part(name), stopped() if is_whole else contextlib.nullcontext():
                return function(*args, **kwargs)

        return marked

    return mark


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    """No parts are counted inside."""
    global _running  # noqa: PLW0603
    before, _running = _running, None
    try:
        yield
    finally:
        _running = before


def peak_memory() -> int:
    """Bytes of memory that this process held at most since it began."""
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith(PEAK):
                return int(line.split()[1]) * KIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a run went, by its log."""

    images_per_second: float
    """Of steps, waiting for data included, evaluations left out."""
    data_wait: float
    """Share of the steps' time that was spent waiting for data."""
    peak_memory: int | None
    """Bytes that the process held at most; None in logs that do not say."""
    parts: Mapping[str, float]
    """Share of the steps' time that each part took, longest first; empty without `profile`."""

    def lines(self) -> Iterator[str]:
        """For a person."""
        memory = "" if self.peak_memory is None else f", {self.peak_memory / KIB**3:.2f} GiB at most"
        yield f"{self.images_per_second:.3g} images/s, {self.data_wait:.1%} waiting for data{memory}"
        if self.parts:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in self.parts.items())
            yield f"where a step's time went: {shares}"


def pace_of(records: Iterable[Mapping[str, Any]]) -> Pace | None:
    """How a run went by the records of its log; None where it has logged no step.

    The first record is left out if there are others: in its first step operations are counted, which is slow.
    """
    timings = [record["timing"] for record in records if record["kind"] == "train"]
    timings = timings[1:] or timings
    seconds = sum(timing["seconds"] for timing in timings)
    if not seconds:
        return None
    parts: dict[str, float] = {}
    for timing in timings:
        for name, value in timing.items():
            if name.startswith(PART):
                parts[name.removeprefix(PART)] = parts.get(name.removeprefix(PART), 0.0) + value / seconds
    return Pace(
        images_per_second=sum(t["images_per_second"] * t["seconds"] for t in timings) / seconds,
        data_wait=sum(t["data_wait"] * t["seconds"] for t in timings) / seconds,
        peak_memory=max((int(t[PEAK_MEMORY]) for t in timings if PEAK_MEMORY in t), default=None),
        parts=dict(sorted(parts.items(), key=lambda item: -item[1])),
    )
