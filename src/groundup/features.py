"""Bottleneck features: what a frozen backbone says of each photograph, computed once and kept on disk.

A file of features is named by all that its numbers hang on (weights, photographs, geometry, backbone), so
runs that differ in their head alone share it, and nothing stale is ever read.

Legend:
    N  photographs      D  channels of the backbone's last stage
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from groundup.config import fingerprint, plain
from groundup.data.folder import ClassIndex
from groundup.data.images import ImagePolicy
from groundup.data.loader import LoaderOptions, evaluation_batches
from groundup.data.order import image_order, sample_seed
from groundup.data.store import cache_folders, is_writable
from groundup.data.transforms import TransformOptions
from groundup.engine.stop import StopFlag
from groundup.errors import CheckpointError
from groundup.metrics.exposure import Exposure
from groundup.metrics.flops import count_flops, exposure_of
from groundup.models.classifier import Classifier, FeatureBatch
from groundup.records import write_whole

FEATURES_VERSION = 1
"""Counts up whenever the same photographs would give other numbers."""
FEATURE_BATCH = 16
"""Photographs that pass through the backbone at once. A constant, since padding to the largest of a batch
shows in the last digits of the others' features."""
GEOMETRY = ("test_short_side", "test_max_side", "rounding")
"""The options of `TransformOptions` that an evaluation's pictures hang on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSource:
    """All that features are made with."""

    model: Classifier
    """Its backbone holds the weights, which never change."""
    weights: str
    """SHA-256 of them."""
    transforms: TransformOptions
    """Of which the evaluation's geometry is taken: features have no augmentation."""
    loader: LoaderOptions
    policy: ImagePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureTable:
    """The features of an index, by row."""

    features: Float[Tensor, "N D"]
    exposure: Exposure
    """What computing them cost, whenever that was."""
    path: Path

    def to_json(self) -> dict[str, Any]:
        """Where they lie and what they cost, for the record of a run."""
        return {
            "path": str(self.path),
            "shape": list(self.features.shape),
            "exposure": self.exposure.to_json(),
        }


def feature_key(source: FeatureSource, index: ClassIndex) -> str:
    """Name of the features: equal for all that must give equal numbers."""
    geometry = plain(source.transforms)
    return fingerprint(
        {
            "version": FEATURES_VERSION,
            "weights": source.weights,
            "data": index.digest,
            "backbone": plain(source.model.options.backbone),
            "pixel_mean": source.model.pixel_mean.flatten().tolist(),
            "pixel_std": source.model.pixel_std.flatten().tolist(),
            "policy": plain(source.policy),
            "geometry": {name: geometry[name] for name in GEOMETRY},
        }
    )


def open_features(source: FeatureSource, index: ClassIndex, stop: StopFlag | None = None) -> FeatureTable:
    """The features of every photograph of the index: read where they are known, else computed and kept.

    They lie in `.groundup` beside the folder or, where that cannot be written, in $GROUNDUP_CACHE or
    ~/.cache/groundup, as indexes do.

    Raises:
        Interrupted: asked to stop; what was computed is lost.
        DataError: a photograph that cannot be used.
        CheckpointError: no folder to keep them in.
    """
    name = f"features-{feature_key(source, index)}.safetensors"
    folders = cache_folders(index.root, None)
    for folder in folders:
        if (folder / name).is_file():
            return read_features(folder / name)
    home = next((folder for folder in folders if is_writable(folder)), None)
    if home is None:
        raise CheckpointError(
            f"{name}: no place for it: cannot write {' or '.join(map(str, folders))}; set GROUNDUP_CACHE"
        )
    features, exposure = compute_features(source, index, stop)
    content = safetensors.torch.save(
        {"features": features.contiguous()}, metadata={"exposure": json.dumps(exposure.to_json())}
    )
    write_whole(home / name, content)
    return read_features(home / name)


def read_features(path: Path) -> FeatureTable:
    """What `open_features` kept.

    Raises:
        CheckpointError: a damaged file.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata, features = file.metadata(), file.get_tensor("features")
        exposure = Exposure.from_json(json.loads(metadata["exposure"]))
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged features ({error}); delete the file") from None
    return FeatureTable(features=features, exposure=exposure, path=path)


@torch.no_grad()
def compute_features(
    source: FeatureSource, index: ClassIndex, stop: StopFlag | None
) -> tuple[Float[Tensor, "N D"], Exposure]:
    """Features by row, and their bill; operations in proportion to padded pixels, as in training."""
    model = source.model
    device, was_training = model.pixel_mean.device, model.training
    batches = evaluation_batches(
        index, source.transforms, source.loader, batch_size=FEATURE_BATCH, policy=source.policy
    )
    parts: list[Tensor] = []
    exposure, flops_per_pixel = Exposure(), 0.0
    model.eval()
    began = time.monotonic()
    for batch in batches:
        if stop is not None:
            stop.check()
        there, pixels = batch.to(device), batch.images[:, 0].numel()
        if not parts:
            flops_per_pixel = count_flops(lambda: model.features(there)) / pixels  # noqa: B023
        parts.append(model.features(there).float().cpu())
        exposure = exposure + exposure_of(batch, flops=round(flops_per_pixel * pixels))
    model.train(was_training)
    return torch.cat(parts), exposure + Exposure(seconds=time.monotonic() - began)


def feature_batches(
    index: ClassIndex, table: FeatureTable, *, batch_size: int, seed: int, first_position: int
) -> Iterator[FeatureBatch]:
    """Training batches of features without end, in the order and with the seeds the loader would give."""
    order = image_order(index.num_images, seed, first_position)
    while True:
        rows = np.array([next(order) for _ in range(batch_size)], np.int64)
        seeds = [sample_seed(seed, first_position + place) for place in range(batch_size)]
        yield build_feature_batch(index, table, rows, seeds)
        first_position += batch_size


def feature_evaluation_batches(
    index: ClassIndex, table: FeatureTable, *, batch_size: int
) -> Iterator[FeatureBatch]:
    """Every photograph's features once, in order of row."""
    for start in range(0, index.num_images, batch_size):
        rows = np.arange(start, min(start + batch_size, index.num_images))
        yield build_feature_batch(index, table, rows, [0] * len(rows))


def build_feature_batch(
    index: ClassIndex, table: FeatureTable, rows: Int64[np.ndarray, " B"], seeds: list[int]
) -> FeatureBatch:
    """The batch of these rows. It shows one empty pixel an image, of which none counts as seen."""
    labels = torch.from_numpy(index.labels[rows])[:, None]
    original_sizes = torch.from_numpy(index.sizes[rows].astype(np.int64))
    return FeatureBatch(
        images=torch.zeros(len(rows), 3, 1, 1, dtype=torch.uint8),
        sizes=torch.zeros(len(rows), 2, dtype=torch.int64),
        original_sizes=original_sizes,
        boxes=torch.zeros(len(rows), 1, 4),
        labels=labels,
        masks=None,
        keypoints=None,
        image_ids=torch.from_numpy(index.image_ids[rows]),
        seeds=torch.tensor(seeds, dtype=torch.int64),
        features=table.features[torch.from_numpy(rows)],
    )
