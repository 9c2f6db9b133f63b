"""What a run writes down: log.jsonl is the truth, TensorBoard and the screen repeat it.

Kinds of records: start, train, evaluation, checkpoint, stop, diverged, done. Every record has
`images_seen` and `step`. What depends on the clock or on restarts is under `timing`, `time` or in the
kinds start, checkpoint and stop; all else of a resumed run equals the straight run.
"""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from groundup.engine.progress import Progress
from groundup.records import Log

LOG = "log.jsonl"


def open_log(run: Path) -> Log:
    """The log of a run folder."""
    return Log(run / LOG)


class Journal:
    """Appends to the log and repeats it for TensorBoard; a resumed run goes on without duplicates."""

    def __init__(
        self, run: Path, images_seen: int, batch_size: int, progress: Progress, *, tensorboard: bool
    ) -> None:
        """Go on after so many images; what was logged beyond them is taken back."""
        self.log = open_log(run)
        self.progress = progress
        self._batch_size = batch_size
        self._stack = ExitStack()
        self._board: SummaryWriter | None = None
        self._where = (run / "tensorboard", images_seen + 1) if tensorboard else None
        # A run that is opened again is not done, though it may have been killed just after saying so.
        self.log.keep(lambda record: record["images_seen"] <= images_seen and record["kind"] != "done")

    def __enter__(self) -> "Journal":
        """Open the screen and the TensorBoard file."""
        self._stack.enter_context(self.progress)
        if self._where is not None:
            folder, first_new = self._where
            # TensorBoard hides whatever earlier files hold from this point on.
            self._board = SummaryWriter(str(folder), purge_step=first_new)
            self._stack.callback(self._board.close)
        return self

    def __exit__(self, *_: object) -> None:
        """Close both."""
        self._stack.close()

    def append(self, kind: str, images_seen: int, **facts: Any) -> None:
        """Add a record to the log."""
        step = images_seen // self._batch_size
        time = datetime.now(UTC).isoformat(timespec="seconds")
        self.log.append({"kind": kind, "images_seen": images_seen, "step": step, **facts, "time": time})

    def train(
        self,
        images_seen: int,
        losses: Mapping[str, float],
        facts: Mapping[str, Any],
        timing: Mapping[str, float],
    ) -> None:
        """Record the mean losses since the last such record, the state they came from, and the speed."""
        loss = sum(losses.values())
        self.append("train", images_seen, loss=loss, losses=dict(losses), **facts, timing=dict(timing))
        scalars = {"train/loss": loss, **{f"train/{name}": value for name, value in losses.items()}}
        scalars |= {f"train/{name}": v for name, v in facts.items() if isinstance(v, float)}
        self._draw(scalars | {f"timing/{name}": v for name, v in timing.items()}, images_seen)

    def evaluation(self, images_seen: int, metrics: Mapping[str, float | None], seconds: float) -> None:
        """Record an evaluation."""
        self.append("evaluation", images_seen, metrics=dict(metrics), timing={"seconds": seconds})
        self._draw(
            {f"evaluation/{name}": v for name, v in metrics.items() if v is not None},
            images_seen,
        )
        self.progress.metrics(metrics)

    def evaluated(self, images_seen: int) -> dict[str, float | None] | None:
        """The metrics recorded after so many images, or None where there is no such evaluation."""
        for record in self.log.read():
            if record["kind"] == "evaluation" and record["images_seen"] == images_seen:
                found: dict[str, float | None] = record["metrics"]
                return found
        return None

    def flush(self) -> None:
        """Put all that was written on the disk, so that no checkpoint is newer than its log."""
        if self._board is not None:
            self._board.flush()
        if self.log.path.exists():
            with self.log.path.open("rb") as file:
                os.fsync(file.fileno())

    def _draw(self, scalars: Mapping[str, float], images_seen: int) -> None:
        if self._board is not None:
            for tag, value in scalars.items():
                self._board.add_scalar(tag, value, images_seen)
