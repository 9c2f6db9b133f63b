"""A training small enough to be killed often: a convolution that measures drawn rectangles."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groundup.engine.optimizer import OptimizerOptions
from groundup.engine.schedule import ScheduleOptions
from groundup.engine.stop import StopFlag
from groundup.engine.train import train
from groundup.engine.training import TrainOptions, UpkeepOptions
from groundup.structures import Batch

SIDE = 16
BATCH = 4


class StopAfter(StopFlag):
    """A flag that is raised when it has been asked so many times."""

    def __init__(self, polls):
        super().__init__()
        self.polls = polls

    @property
    def reason(self):
        self.polls -= 1
        return "the test" if self.polls < 0 else None


class SmallModel(nn.Module):
    """Finds the corners of the one rectangle in an image. Its losses are means over images."""

    def __init__(self, *, dropout=0.2, batch_norm=True):
        super().__init__()
        torch.manual_seed(7)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8) if batch_norm else nn.GroupNorm(2, 8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8 * SIDE, 4)

    def forward(self, images):
        hidden = self.norm(self.stem(images.float() / 255)).relu()
        return self.head(self.dropout(hidden.mean(dim=3).flatten(1)))

    def losses(self, batch):
        found, wanted = self(batch.images), batch.boxes[:, 0] / SIDE
        return {
            "loss_corner": (found[:, :2] - wanted[:, :2]).abs().mean(),
            "loss_far": (found[:, 2:] - wanted[:, 2:]).square().mean(),
        }


def draw_batch(positions, seed=0) -> Batch:
    """Images at these positions of the order; a pure function of (seed, position)."""
    images, boxes = [], []
    for position in positions:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + position)
        x, y = torch.randint(0, SIDE // 2, (2,), generator=generator).tolist()
        image = torch.randint(0, 60, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        image[:, y : y + 6, x : x + 6] = 255
        images.append(image)
        boxes.append(torch.tensor([[x, y, x + 6, y + 6]], dtype=torch.float32))
    num = len(images)
    return Batch(
        images=torch.stack(images),
        sizes=torch.full((num, 2), SIDE, dtype=torch.int32),
        original_sizes=torch.full((num, 2), SIDE, dtype=torch.int32),
        boxes=torch.stack(boxes),
        labels=torch.zeros(num, 1, dtype=torch.int64),
        masks=None,
        keypoints=None,
        image_ids=torch.tensor(list(positions), dtype=torch.int64),
        seeds=torch.tensor(list(positions), dtype=torch.int64),
    )


def batches_from(first: int, batch_size=BATCH, pause=0.0) -> Iterator[Batch]:
    """The endless stream from a position on."""
    while True:
        time.sleep(pause)
        yield draw_batch(range(first, first + batch_size))
        first += batch_size


def small_options(**changes: Any) -> TrainOptions:
    """Ten steps of 4 with a warm-up and both drops; sections are given as dictionaries of changes."""
    schedule = {
        "units": None,
        "images": 40,
        "unit_images": 30,
        "batch_size": BATCH,
        "warmup_images": 8,
        "lr": 0.05,
    }
    upkeep = {"log_every": 12, "checkpoint_every": 16, "tensorboard": False}
    return TrainOptions(
        schedule=ScheduleOptions(**{**schedule, **changes.pop("schedule", {})}),
        optimizer=OptimizerOptions(**changes.pop("optimizer", {})),
        upkeep=UpkeepOptions(**{**upkeep, **changes.pop("upkeep", {})}),
        **changes,
    )


def measure(model, images_seen):
    """Mean loss on eight held-out images."""
    losses = model.losses(draw_batch(range(8), seed=99))
    return {"AP": 1 - sum(loss.item() for loss in losses.values())}


def train_small(
    folder: Path, options=None, *, model=None, batches=batches_from, **changes: Any
) -> dict[str, Any]:
    """One small training in the folder."""
    known: dict[str, Any] = {
        "num_images": 30,
        "seed": 3,
        "recipe": "small",
        "evaluate": measure,
        "quiet": True,
    }
    return train(model or SmallModel(), batches, options or small_options(), folder, **{**known, **changes})


def slow_options() -> TrainOptions:
    """Eighty steps, with evaluations and checkpoints, that take some seconds."""
    return small_options(
        schedule={"images": 80 * BATCH, "unit_images": 200},
        upkeep={"log_every": 8, "checkpoint_every": 24},
        evaluate_every=40,
        optimizer={"ema_decay": 0.9},
    )


def train_slowly(folder: str) -> None:
    """The training that the kill tests run in a process of their own; exits as the command line would."""
    from groundup.errors import GroundupError

    torch.set_num_threads(1)
    stop = StopFlag()

    def evaluate(model, images_seen):
        for _ in range(5):
            stop.check()
            time.sleep(0.01)
        return measure(model, images_seen)

    try:
        with stop:
            train_small(
                Path(folder),
                slow_options(),
                batches=lambda first: batches_from(first, pause=0.01),
                evaluate=evaluate,
                stop=stop,
            )
    except GroundupError as error:
        raise SystemExit(error.exit_code) from error


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """What of the log must not depend on interruptions."""
    from groundup.engine.journal import open_log

    return [
        {key: value for key, value in record.items() if key not in ("time", "timing")}
        for record in open_log(folder).read()
        if record["kind"] in ("train", "evaluation", "done")
    ]
