r"""Kill a training again and again at random; what comes out must be the straight run, byte for byte.

    python benchmarks/kills.py --kills 20 --folder runs/kills -- \
        groundup train tiny data.train.annotations=... --out {out}

The command runs once undisturbed (`{out}` becomes FOLDER/straight) and then, in FOLDER/killed, as often
as it takes: each life but the last ends by SIGKILL or SIGTERM, some while it starts, most at a random
instant after a random point of progress. After every death the run must be readable, a SIGTERM that was
heard must end with status 75, and at the end weights, optimizer and log must be those of the straight run.
Set the log and checkpoint periods short enough that the training has many of them. Exit status 1 when a
promise was broken.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from groundup.engine.checkpoint import newest_checkpoint
from groundup.engine.journal import open_log
from groundup.errors import EXIT_RESUMABLE, CheckpointError

POLL_SECONDS = 0.005
DEATH_SECONDS = 120.0
"""How long a process may take to write its checkpoint and leave after SIGTERM."""
EARLY_RATIO = 0.2
"""Part of the kills that come at a random time after the start instead of after some progress."""


class Life(Protocol):
    """One process of the training."""

    pid: int

    def poll(self) -> int | None:
        """Its exit status, or None while it lives; -N when signal N ended it."""
        ...

    def end_by(self, number: int) -> None:
        """Send it a signal."""
        ...


Launch = Callable[[Path], Life]


@dataclass
class Report:
    """What the kills did."""

    deaths: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    straight_seconds: float = 0.0
    killed_seconds: float = 0.0


def progress_of(folder: Path) -> int:
    """Images seen by the last record of the log."""
    seen = [record["images_seen"] for record in open_log(folder).read() if record["kind"] == "train"]
    return max(seen, default=0)


def total_of(folder: Path) -> int:
    """Images of the whole run."""
    return int(json.loads((folder / "result.json").read_bytes())["images_seen"])


def await_end(life: Life, seconds: float) -> int | None:
    """The exit status, waiting so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        status = life.poll()
        if status is not None:
            return status
        time.sleep(POLL_SECONDS)
    return life.poll()


def await_progress(life: Life, folder: Path, images: int) -> bool:
    """Wait until so many images are logged; False when the process ended before."""
    while life.poll() is None:
        if progress_of(folder) >= images:
            return True
        time.sleep(POLL_SECONDS)
    return False


def drive(launch: Launch, folder: Path, *, kills: int, seed: int, term_ratio: float = 0.5) -> Report:
    """Run straight, run killed, compare."""
    chance, report = random.Random(seed), Report()
    straight, killed = folder / "straight", folder / "killed"
    began = time.monotonic()
    life = launch(straight)
    await_progress(life, straight, 1)
    startup = time.monotonic() - began
    while life.poll() is None:
        time.sleep(POLL_SECONDS)
    report.straight_seconds = time.monotonic() - began
    if life.poll() != 0:
        report.faults.append(f"the straight run ended with status {life.poll()}")
        return report
    total, rest = total_of(straight), report.straight_seconds - startup
    began = time.monotonic()
    goals = sorted(chance.uniform(0, 0.95 * total) for _ in range(kills))
    for goal in goals:
        number = signal.SIGTERM if chance.random() < term_ratio else signal.SIGKILL
        life = launch(killed)
        if chance.random() < EARLY_RATIO:
            time.sleep(chance.uniform(0, startup))
        elif await_progress(life, killed, int(goal)):
            time.sleep(chance.uniform(0, rest / kills))
        if life.poll() is None:
            life.end_by(number)
        judge_death(life, number, killed, report)
    status = await_end(launch(killed), 10 * report.straight_seconds + DEATH_SECONDS)
    report.killed_seconds = time.monotonic() - began
    if status != 0:
        report.faults.append(f"the last life ended with status {status}")
    else:
        report.faults += compare(straight, killed)
    return report


def judge_death(life: Life, number: int, folder: Path, report: Report) -> None:
    """Wait for the end of a life and check what it left."""
    status = await_end(life, DEATH_SECONDS)
    name = signal.Signals(number).name
    allowed = {-number, EXIT_RESUMABLE} if number == signal.SIGTERM else {-number}
    if status == 0:
        name = "none: it finished first"
    elif status not in allowed:
        report.faults.append(f"{name} ended with status {status}")
    try:
        checkpoint = newest_checkpoint(folder)
        where = "no checkpoint" if checkpoint is None else checkpoint.path.name
        if checkpoint is not None and checkpoint.skipped:
            report.faults.append(f"{name} left damage: {'; '.join(checkpoint.skipped)}")
    except CheckpointError as error:
        where = "unreadable"
        report.faults.append(f"{name}: {error}")
    report.deaths.append(f"{name} (status {status}) after {progress_of(folder)} logged images; {where}")


def compare(straight: Path, killed: Path) -> list[str]:
    """Every way in which two finished runs differ that should not."""
    ours, theirs = newest_checkpoint(straight), newest_checkpoint(killed)
    assert ours is not None
    assert theirs is not None
    faults = [
        f"{file.name} differs"
        for file in sorted(ours.path.glob("*.safetensors"))
        if file.read_bytes() != (theirs.path / file.name).read_bytes()
    ]
    if lasting_records(straight) != lasting_records(killed):
        faults.append("the log differs")
    return faults


def lasting_records(folder: Path) -> list[dict[str, object]]:
    """What of the log must not depend on interruptions."""
    return [
        {key: value for key, value in record.items() if key not in ("time", "timing")}
        for record in open_log(folder).read()
        if record["kind"] in ("train", "evaluation", "done")
    ]


class Command:
    """A life that is a command of its own."""

    def __init__(self, words: list[str], folder: Path) -> None:
        """Start it; `{out}` in its words becomes the folder."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".stderr").open("ab") as errors:
            self._process = subprocess.Popen(
                [word.replace("{out}", str(folder)) for word in words],
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """See `Life`."""
        return self._process.poll()

    def end_by(self, number: int) -> None:
        """See `Life`."""
        self._process.send_signal(number)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="new folder for the two runs")
    parser.add_argument("command", nargs="+", help="after --: the training, with {out} for its run folder")
    wanted = parser.parse_args()
    if wanted.folder.exists():
        parser.error(f"{wanted.folder} exists; name a new one")
    if not any("{out}" in word for word in wanted.command):
        parser.error("the command must hold {out}, which becomes the run folder")
    report = drive(
        lambda folder: Command(wanted.command, folder), wanted.folder, kills=wanted.kills, seed=wanted.seed
    )
    for death in report.deaths:
        print(death)
    print(f"straight {report.straight_seconds:.1f} s, killed {report.killed_seconds:.1f} s")
    for fault in report.faults:
        print(f"FAULT: {fault}")
    print("byte-identical" if not report.faults else f"{len(report.faults)} faults")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
