"""All that changes while a run trains: what a checkpoint holds, and nothing else."""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import groundup
from groundup.engine.checkpoint import Checkpoint, save_checkpoint
from groundup.engine.optimizer import load_optimizer_state, optimizer_state
from groundup.errors import CheckpointError
from groundup.metrics.exposure import Exposure


@dataclass
class Window:
    """Sums over the steps since the last `train` record."""

    steps: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """Steps that had each loss: late parts of a model bring theirs along."""
    gradient_norm: float = 0.0
    moved: int = 0
    """Steps that moved the weights; the others overflowed in fp16 and have no norm."""
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds of `seconds` spent waiting for data."""

    def add(
        self, losses: Mapping[str, float], norm: float, *, images: int, seconds: float, waited: float
    ) -> None:
        """Count a step."""
        self.steps += 1
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        if math.isfinite(norm):
            self.gradient_norm += norm
            self.moved += 1
        self.images += images
        self.seconds += seconds
        self.waited += waited

    def mean_losses(self) -> dict[str, float]:
        """Mean of each loss a step that had it."""
        return {name: value / self.counts[name] for name, value in self.losses.items()}

    def mean_norm(self) -> float | None:
        """Mean norm of the gradient a step that moved the weights; None where none did."""
        return self.gradient_norm / self.moved if self.moved else None

    def timing(self) -> dict[str, float]:
        """Speed, and the part of the time spent waiting for data."""
        return {
            "seconds": self.seconds,
            "images_per_second": self.images / max(self.seconds, 1e-9),
            "data_wait": self.waited / max(self.seconds, 1e-9),
        }


@dataclass
class TrainingState:
    """Weights, optimizer, counters."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    scaler: torch.amp.GradScaler
    images_seen: int = 0
    exposure: Exposure = field(default_factory=Exposure)
    window: Window = field(default_factory=Window)
    flops_per_pixel: float | None = None
    """Operations of forward and backward a padded pixel, counted on the run's first batch, and again
    where late parts of the model join in; None before."""
    skipped_steps: int = 0
    """Steps in which fp16 gradients overflowed: the loss scale was halved and the weights stayed."""

    @property
    def judged(self) -> nn.Module:
        """The weights that evaluations look at: the averaged ones where there are any."""
        return self.model if self.average is None else self.average.module

    def save(self, run: Path, *, recipe: str, keep: int, keep_at: Collection[int] = ()) -> Path:
        """Commit a checkpoint; of the older ones the newest and those of `keep_at` stay.

        Raises:
            CheckpointError: see `save_checkpoint`.
        """
        tensors = {
            "model": self.model.state_dict(),
            "optim": optimizer_state(self.model, self.optimizer),
        }
        if self.average is not None:
            tensors["ema"] = self.average.module.state_dict()
        facts = {
            "recipe": recipe,
            "exposure": self.exposure.to_json(),
            "window": asdict(self.window),
            "scaler": self.scaler.state_dict(),
            "flops_per_pixel": self.flops_per_pixel,
            "skipped_steps": self.skipped_steps,
            "num_averaged": 0 if self.average is None else int(self.average.n_averaged),
            "versions": versions(),
        }
        return save_checkpoint(run, self.images_seen, tensors, facts, keep=keep, keep_at=keep_at)

    def load(self, checkpoint: Checkpoint, *, recipe: str) -> None:
        """Become what `save` saved.

        Raises:
            CheckpointError: it is another recipe's, or its tensors do not fit the model.
        """
        facts = checkpoint.state
        if facts["recipe"] != recipe:
            raise CheckpointError(
                f"{checkpoint.path}: made by recipe {facts['recipe']}, but this is {recipe}; "
                "choose another --out, or go on with the options it was started with"
            )
        if checkpoint.has("ema") != (self.average is not None):
            raise CheckpointError(f"{checkpoint.path}: averaged weights are kept here or there, not in both")
        try:
            self.model.load_state_dict(checkpoint.tensors("model"))
            if self.average is not None:
                self.average.module.load_state_dict(checkpoint.tensors("ema"))
                self.average.n_averaged.fill_(facts["num_averaged"])
        except RuntimeError as error:
            raise CheckpointError(
                f"{checkpoint.path}: does not fit the model: {' '.join(str(error).split())}"
            ) from None
        load_optimizer_state(self.model, self.optimizer, checkpoint.tensors("optim"))
        self.scaler.load_state_dict(facts["scaler"])
        self.images_seen = checkpoint.images_seen
        self.exposure = Exposure.from_json(facts["exposure"])
        self.window = Window(**facts["window"])
        self.flops_per_pixel = facts["flops_per_pixel"]
        self.skipped_steps = facts["skipped_steps"]


def versions() -> dict[str, Any]:
    """What the numbers hang on besides the recipe."""
    return {
        "groundup": groundup.__version__,
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
    }
