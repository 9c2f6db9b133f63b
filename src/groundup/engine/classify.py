"""From a classifier and batches to top-1 and top-5 on disk.

The model is anything with `classify(batch)`; the batches come from anywhere.

Legend:
    B  images of a batch      N  of all batches      K  classes
"""

import io
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import nn

from groundup.config import Options
from groundup.engine.numerics import Precision, autocast
from groundup.engine.stop import StopFlag
from groundup.metrics.top_k import TopK, top_k
from groundup.records import write_json, write_whole
from groundup.structures import Batch

PREDICTIONS = "predictions.npz"
"""Every image of an evaluation: arrays `image_ids`, `files`, `labels` and `scores`."""


class ClassEvaluationOptions(Options):
    """How a classifier is judged."""

    batch_size: int = Field(default=16, ge=1)
    """Images a batch; changes speed, and nothing else but rounding."""
    precision: Precision = "fp32"
    """Autocast of the forward pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassEvaluation:
    """How well a classifier does."""

    value: TopK
    seconds: float
    """Wall clock."""
    folder: Path | None
    """Where metrics.json and predictions.npz were written; None: nowhere."""

    @property
    def metrics(self) -> dict[str, float]:
        """Flat names for a log: class/top1, class/top5, class/loss."""
        return self.value.metrics

    def lines(self) -> list[str]:
        """A table for reading."""
        return self.value.lines()

    def to_json(self) -> dict[str, Any]:
        """The scores as JSON values."""
        return {"metrics": self.metrics, "seconds": self.seconds, "class": self.value.to_json()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """What a classifier says of every image."""

    image_ids: Int64[np.ndarray, " N"]
    labels: Int64[np.ndarray, " N"]
    """True classes."""
    scores: Float[np.ndarray, "N K"]
    """Probability of each class."""


def evaluate_classes(
    model: nn.Module,
    batches: Iterable[Batch],
    options: ClassEvaluationOptions,
    *,
    names: Sequence[str],
    files: Sequence[str],
    folder: Path | None = None,
    stop: StopFlag | None = None,
    progress: Callable[[int], None] | None = None,
) -> ClassEvaluation:
    """Top-1 and top-5 of a model with `classify(batch)` on batches that hold each image once.

    `names` are those of the labels, `files` those of the images, in the order of the batches. `progress`
    is called with the number of images done. `folder` gets predictions.npz and metrics.json.

    Raises:
        Interrupted: `stop` is set; nothing is written.
        DataError: no images, or scores that are not finite.
    """
    began = time.monotonic()
    found = class_scores(model, batches, options.precision, stop, progress)
    value = top_k(found.scores, found.labels, names, source="the model")
    evaluation = ClassEvaluation(value=value, seconds=time.monotonic() - began, folder=folder)
    if folder is not None:
        content = io.BytesIO()
        np.savez_compressed(
            content,
            image_ids=found.image_ids,
            files=np.array(files),
            labels=found.labels,
            scores=found.scores,
        )
        write_whole(folder / PREDICTIONS, content.getvalue())
        write_json(folder / "metrics.json", evaluation.to_json())
    return evaluation


def class_scores(
    model: nn.Module,
    batches: Iterable[Batch],
    precision: Precision = "fp32",
    stop: StopFlag | None = None,
    progress: Callable[[int], None] | None = None,
) -> ClassScores:
    """What the model says of every image of at least one batch; it is in evaluation mode meanwhile.

    Raises:
        Interrupted: `stop` is set; it is asked before each batch.
    """
    device, was_training = next(model.parameters()).device, model.training
    ids, labels, scores = [], [], []
    model.eval()
    try:
        for batch in batches:
            if stop is not None:
                stop.check()
            with torch.no_grad(), autocast(device, precision):
                scores.append(model.classify(batch.to(device)).cpu().numpy())  # type: ignore[operator]
            ids.append(batch.image_ids.numpy())
            labels.append(batch.labels[:, 0].numpy())
            if progress is not None:
                progress(sum(map(len, ids)))
    finally:
        model.train(was_training)
    return ClassScores(
        image_ids=np.concatenate(ids), labels=np.concatenate(labels), scores=np.concatenate(scores)
    )
