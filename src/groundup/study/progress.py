"""How far a run has come, read off the end of its log in no time. No torch."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from groundup.records import is_held
from groundup.study.results import LOG, state_of

TAIL_BYTES = 1 << 18
"""Read off the end of a log: hundreds of records, so the last evaluation is among them or the log is long
past it."""

Activity: TypeAlias = Literal["missing", "partial", "running", "done", "failed"]
"""State of a run, and whether a process holds its folder at the moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """How far a run has come."""

    state: Activity
    failure: str | None
    """Why it ended by a fault; None where it did not."""
    images_seen: int
    images_per_second: float | None
    """Of the last record; None where there is none."""
    metrics: dict[str, float]
    """Of the last evaluation, 0 .. 1; empty where there is none."""
    updated: datetime | None
    """When the last record was written."""


def read_progress(folder: Path) -> RunProgress:
    """How far the run in the folder has come; the folder need not exist."""
    state, failure = state_of(folder)
    records = list(last_records(folder / LOG))
    train = next((r for r in reversed(records) if r["kind"] == "train"), None)
    evaluation = next((r for r in reversed(records) if r["kind"] == "evaluation"), None)
    seen = max((int(r["images_seen"]) for r in records), default=0)
    written = next((r["time"] for r in reversed(records) if "time" in r), None)
    activity: Activity = "running" if state != "done" and is_held(folder) else state
    return RunProgress(
        state=activity,
        failure=failure,
        images_seen=seen,
        images_per_second=None if train is None else train["timing"]["images_per_second"],
        metrics={}
        if evaluation is None
        else {name: float(v) for name, v in evaluation["metrics"].items() if v is not None},
        updated=None if written is None else datetime.fromisoformat(written),
    )


def last_records(log: Path) -> Iterator[dict[str, Any]]:
    """The whole records in the last bytes of a log, oldest first."""
    if not log.exists():
        return
    with log.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL_BYTES))
        if size > TAIL_BYTES:
            file.readline()  # the rest of a line that began before
        for line in file:
            if line.endswith(b"\n"):
                with contextlib.suppress(msgspec.DecodeError):
                    yield msgspec.json.decode(line, type=dict[str, Any])
