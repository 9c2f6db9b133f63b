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
from groundup.engine.distributed import World
from groundup.engine.numerics import Precision, autocast
from groundup.engine.stop import StopFlag
from groundup.errors import DataError
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
    world: World | None = None,
) -> ClassEvaluation:
    """Top-1 and top-5 of a model with `classify(batch)` on batches that hold each image once.

    `names` are those of the labels, `files` those of the images, in the order of the batches. `progress`
    is called with the number of images done. `folder` gets predictions.npz and metrics.json. Of several
    processes each brings batches of its own, and all get the scores of the images of all.

    Raises:
        Interrupted: `stop` is set; nothing is written.
        DataError: no images, or scores that are not finite.
    """
    began, place = time.monotonic(), world or World()
    parts = place.gather(lambda: class_scores(model, batches, options.precision, stop, progress))

    def score() -> ClassEvaluation:
        found = join_scores([part for part in parts if part is not None])
        value = top_k(found.scores, found.labels, names, source="the model")
        evaluation = ClassEvaluation(value=value, seconds=time.monotonic() - began, folder=folder)
        if folder is not None:
            write_predictions(folder, found, files)
            write_json(folder / "metrics.json", evaluation.to_json())
        return evaluation

    return place.lead(score)


def write_predictions(folder: Path, found: ClassScores, files: Sequence[str]) -> None:
    """Keep what the classifier said of every image."""
    content = io.BytesIO()
    np.savez_compressed(
        content, image_ids=found.image_ids, files=np.array(files), labels=found.labels, scores=found.scores
    )
    write_whole(folder / PREDICTIONS, content.getvalue())


def join_scores(parts: Sequence[ClassScores]) -> ClassScores:
    """What was said of the images of all parts, one part after the other.

    Raises:
        DataError: no part, so no images.
    """
    if not parts:
        raise DataError("no images to judge the classifier by")
    return ClassScores(
        image_ids=np.concatenate([part.image_ids for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
    )


def class_scores(
    model: nn.Module,
    batches: Iterable[Batch],
    precision: Precision = "fp32",
    stop: StopFlag | None = None,
    progress: Callable[[int], None] | None = None,
) -> ClassScores | None:
    """What the model says of every image, None where there is none; it is in evaluation mode meanwhile.

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
    if not ids:
        return None
    return ClassScores(
        image_ids=np.concatenate(ids), labels=np.concatenate(labels), scores=np.concatenate(scores)
    )
