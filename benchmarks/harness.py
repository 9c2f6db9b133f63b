"""What all benchmarks share: sides that take turns, each in a process of its own, and one form of result.

A benchmark is a script of rows. A row is the same work done by several sides, ours and its peers, which take
turns, so that a change of the machine's load meets all of them; each side is a process of its own, so that
its peak memory is its own and its settings stay with it. Ratios are taken turn by turn and say how many times
as fast as the peer ours is. No torch here: what starts quickly is measured too.
"""

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Literal

from groundup.metering import peak_memory

Step = Callable[[], Any]
"""One turn of a side; what it returns is kept with the row as what it found."""
Build = Callable[[], Step]
"""Makes a side's turn in its own process; must be picklable: a function of a module, or a partial of one."""
OURS = "groundup"
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pycocotools",
    "faster-coco-eval",
    "hotcoco",
)
HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
"""The committed ones."""
PAGE = HERE.parent / "docs" / "speed.md"
"""Where they stand as tables."""
THREAD_SETTINGS = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Target:
    """What section 8 of the design asks of a row: one of the two."""

    at_least: float | None = None
    """Times as fast as the peer `against`."""
    against: str = ""
    at_most: float | None = None
    """In the row's own unit, for ours."""

    def is_met(self, row: "Row") -> bool | None:
        """Whether the row meets it; None where the row has no such number."""
        if self.at_most is not None:
            return OURS in row.sides and median(row.sides[OURS].values) <= self.at_most
        ratio = row.ratios().get(self.against)
        return None if ratio is None or self.at_least is None else ratio["median"] >= self.at_least


@dataclass(kw_only=True)
class Side:
    """What one side came to."""

    values: list[float] = field(default_factory=list)
    """One a turn, in the row's unit."""
    cpu: list[float] = field(default_factory=list)
    """CPU seconds of each turn."""
    peak_mib: float | None = None
    """Most resident memory of its process and of those it started, in MiB."""
    found: Any = None
    """What its last turn returned."""


@dataclass(kw_only=True)
class Row:
    """One comparison."""

    name: str
    sides: dict[str, Side]
    """By name; ours is `OURS`."""
    unit: str = "s"
    """Of the values: `s` is wall time, `CPU s` the processor's."""
    amount: float = 1.0
    """Things (`per`) that one turn deals with."""
    per: str = "image"
    target: Target | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def ratios(self) -> dict[str, dict[str, float]]:
        """How many times as fast as each peer ours is, turn by turn."""
        if OURS not in self.sides:
            return {}
        ours = self.sides[OURS].values
        return {
            name: spread_of([theirs / own for own, theirs in zip(ours, side.values, strict=False)])
            for name, side in self.sides.items()
            if name != OURS and side.values
        }

    def to_json(self) -> dict[str, Any]:
        """The row as it is kept."""
        target = self.target
        return {
            "name": self.name,
            "unit": self.unit,
            "amount": self.amount,
            "per": self.per,
            "sides": {
                name: {
                    **spread_of(side.values),
                    "values": side.values,
                    "cpu_seconds": median(side.cpu) if side.cpu else None,
                    "peak_mib": side.peak_mib,
                }
                for name, side in self.sides.items()
            },
            "ratios": self.ratios(),
            "target": None if target is None else {k: v for k, v in vars(target).items() if v},
            "met": None if target is None else target.is_met(self),
            "facts": dict(self.facts),
        }


def spread_of(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": median(values), "least": min(values), "most": max(values)}


def race(
    sides: Mapping[str, Build],
    *,
    turns: int,
    warmups: int = 1,
    threads: int | None = None,
    unit: Literal["s", "CPU s"] = "s",
    fresh: bool = False,
) -> dict[str, Side]:
    """Let the sides take turns.

    Args:
        sides: how each is built.
        turns: that count.
        warmups: turns before, which do not.
        threads: of each side; None: as many as its libraries choose.
        unit: what the values are.
        fresh: whether each turn has a new process.
    """
    found = {name: Side() for name in sides}
    with limited_threads(threads):
        if not fresh:
            run_turns(sides, found, turns, warmups, unit)
        else:
            for _ in range(turns):
                run_turns(sides, found, 1, warmups, unit)
    return found


def run_turns(
    sides: Mapping[str, Build], found: dict[str, Side], turns: int, warmups: int, unit: str
) -> None:
    """Start a process for each side, let them take turns, and add what came of it."""
    with contextlib.ExitStack() as stack:
        pipes = {name: stack.enter_context(started(name, build)) for name, build in sides.items()}
        for turn in range(turns + warmups):
            for name, pipe in pipes.items():
                wall, cpu, returned = asked(name, pipe, go_on=True)
                print(f"  {name}: {wall:.3g} s, {cpu:.3g} s CPU", file=sys.stderr, flush=True)
                if turn >= warmups:
                    found[name].values.append(cpu if unit == "CPU s" else wall)
                    found[name].cpu.append(cpu)
                    found[name].found = returned
        for name, pipe in pipes.items():
            peak = asked(name, pipe, go_on=False)
            found[name].peak_mib = max(peak, found[name].peak_mib or 0.0)


@contextlib.contextmanager
def started(name: str, build: Build) -> Iterator[Connection]:
    """A side's process, ready to take turns."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(build, theirs))
    process.start()
    theirs.close()
    try:
        answer(name, ours)
        yield ours
    finally:
        ours.close()
        process.join(timeout=10)
        if process.is_alive():
            process.kill()


def asked(name: str, pipe: Connection, *, go_on: bool) -> Any:
    """What the side answers."""
    pipe.send(go_on)
    return answer(name, pipe)


def answer(name: str, pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except (EOFError, ConnectionResetError):
        raise SystemExit(f"the side {name} ended before its work did; its message stands above") from None


def serve(build: Build, pipe: Connection) -> None:
    """Build a side and take a turn whenever the pipe says so; tell the peak memory at the end."""
    step = build()
    pipe.send(True)
    with contextlib.suppress(EOFError):
        while pipe.recv():
            gc.collect()
            wall, cpu = time.perf_counter(), cpu_seconds()
            found = step()
            pipe.send((time.perf_counter() - wall, cpu_seconds() - cpu, found))
        pipe.send(peak_mib())


def cpu_seconds() -> float:
    """Of this process and of those it waited for."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in both)


def peak_mib() -> float:
    """Most resident memory of this process, or of one it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return max(peak_memory(), children) / 2**20


@contextlib.contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Processes started inside compute with so many threads."""
    if threads is None:
        yield
        return
    before = {name: os.environ.get(name) for name in THREAD_SETTINGS}
    os.environ.update(dict.fromkeys(THREAD_SETTINGS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def machine() -> dict[str, Any]:
    """What the seconds hang on."""
    info = Path("/proc/cpuinfo")
    models = [line.split(":", 1)[1].strip() for line in lines_of(info) if line.startswith("model name")]
    memory = [line for line in lines_of(Path("/proc/meminfo")) if line.startswith("MemTotal")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[0].split()[1]) / 2**20, 1) if memory else None,
        "system": platform.system(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def versions() -> dict[str, str]:
    """Of Python and of all that takes part."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def parser_for(description: str | None) -> argparse.ArgumentParser:
    """What every benchmark is told."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller, in about a minute")
    parser.add_argument("--turns", type=int, help="of each side; the warm-up does not count")
    parser.add_argument("--out", type=Path, help="json of the result")
    return parser


def report(subject: str, rows: Sequence[Row], arguments: argparse.Namespace, **facts: Any) -> None:
    """Print the rows and, if asked to, keep them."""
    written = [row.to_json() for row in rows]
    for row in written:
        print(*lines_for(row), sep="\n", flush=True)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        result = {
            "subject": subject,
            "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *shown(sys.argv[1:])]),
            "quick": arguments.quick,
            "machine": machine(),
            "versions": versions(),
            "rows": written,
            **facts,
        }
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


def shown(words: Sequence[str]) -> list[str]:
    """The command's words but for where its result goes."""
    kept = list(words)
    if "--out" in kept:
        del kept[kept.index("--out") : kept.index("--out") + 2]
    return kept


def lines_for(row: Mapping[str, Any]) -> Iterator[str]:
    """A row of a result as a person reads it."""
    yield f"{row['name']} ({row['unit']})"
    for name, side in row["sides"].items():
        peak = "" if side["peak_mib"] is None else f"  peak {side['peak_mib']:.0f} MiB"
        ratio = row["ratios"].get(name)
        beside = "" if ratio is None else f"  {OURS} is {ratio_text(ratio)} times as fast"
        yield (
            f"  {name:<30} {side['median']:10.4g} ({side['least']:.4g} .. {side['most']:.4g})  "
            f"{rate_text(row, side)}{peak}{beside}"
        )
    if row["target"] is not None:
        yield f"  target {target_text(row)}: {'met' if row['met'] else 'not met'}"


def rate_text(row: Mapping[str, Any], side: Mapping[str, Any]) -> str:
    """Things a second, where the row's unit is time."""
    if row["unit"] not in {"s", "CPU s"}:
        return ""
    return f"{row['amount'] / max(side['median'], 1e-9):.3g} {row['per']}s/s"


def write_part(name: str, lines: Sequence[str], page: Path = PAGE) -> None:
    """Put the lines into the page, in place of what stands between its marks of that name."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = page.read_text().partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise SystemExit(f"{page} has no place for it: write a line {begin} and a line {end}")
    page.write_text("\n".join([before + begin, *lines, end]) + after)


def ratio_text(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['least']:.2f} .. {ratio['most']:.2f})"


def target_text(row: Mapping[str, Any]) -> str:
    """A row's target in words."""
    target = row["target"]
    if "at_most" in target:
        return f"at most {target['at_most']:g} {row['unit']}"
    return f"at least {target['at_least']:.3g} times as fast as {target['against']}"
