"""What benchmarks look at: photographs of COCO where they are at hand, drawn scenes elsewhere.

The photographs are those of the tests (`GROUNDUP_SHARED`, or the folder `shared/data` beside the project).
"""

import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from groundup.data.coco import Index, open_index
from groundup.data.collate import build_batch as batch_of
from groundup.data.collate import build_sample
from groundup.data.geometry import View, view_truth
from groundup.data.images import ImagePolicy, decode_image
from groundup.data.transforms import view_image, whole_view, with_bitmaps
from groundup.data.truth import Bitmap, Truth
from groundup.data.world import WorldOptions, write_world
from groundup.structures import Batch

NUM_CLASSES = 80
NUM_OBJECTS = 7
"""An image. Source: COCO's mean."""
NUM_SCENES = 64
SCENES = WorldOptions(min_side=480, max_side=640, min_objects=NUM_OBJECTS, max_size=0.5)
"""About COCO's sides and counts."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """An annotated set."""

    annotations: Path
    images: Path
    name: str


@cache
def pictures() -> Pictures:
    """The photographs, or scenes that are drawn once and kept in the folder of temporary files."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    coco = Path(os.environ.get("GROUNDUP_SHARED", default)) / "coco_mini"
    if coco.is_dir():
        annotations = coco / "annotations" / "instances_train2017.json"
        return Pictures(annotations=annotations, images=coco / "train2017", name="photographs of COCO")
    files = write_world(scratch_folder() / "scenes", NUM_SCENES, 1, 0, SCENES)
    return Pictures(annotations=files.train_annotations, images=files.train_images, name="drawn scenes")


def scratch_folder() -> Path:
    """Where drawn pictures and indexes wait for the next benchmark."""
    folder = Path(tempfile.gettempdir()) / f"groundup-benchmarks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def open_pictures() -> Index:
    """Their index."""
    chosen = pictures()
    return open_index(chosen.annotations, chosen.images, cache=scratch_folder() / "cache")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Pictures as a detector is shown them."""

    batch: Batch
    truths: list[Truth]
    """Of each image, in its pixels."""


def build_shown(height: int, width: int, num_images: int, num_objects: int = NUM_OBJECTS) -> Shown:
    """So many pictures scaled to one size, each with its largest objects.

    Pictures with too few repeat theirs, which is how images of any number of objects come about.
    """
    index = open_pictures()
    usable = index.num_usable.astype(np.int64)
    wide = (index.sizes[:, 1] >= index.sizes[:, 0]) == (width >= height)
    order = np.lexsort((np.arange(len(usable)), ~(wide & (usable >= NUM_OBJECTS))))
    rows = [int(order[place % len(order)]) for place in range(num_images)]
    samples, truths = [], []
    for place, row in enumerate(rows):
        size = (int(index.sizes[row, 0]), int(index.sizes[row, 1]))
        view: View = whole_view(size, (height, width))
        image = view_image(decode_image(index.path(row), size, ImagePolicy()), view)
        truth = largest(view_truth(index.truth(row), view, size), num_objects)
        samples.append(build_sample(image, truth, size, place, place))
        truths.append(truth)
    return Shown(batch=batch_of(samples), truths=truths)


def build_batch(height: int, width: int, num_images: int, num_objects: int = NUM_OBJECTS) -> Batch:
    """The batch alone."""
    return build_shown(height, width, num_images, num_objects).batch


def largest(truth: Truth, count: int) -> Truth:
    """The so many largest objects of a truth, repeated where it has fewer."""
    areas = (truth.boxes[:, 2] - truth.boxes[:, 0]) * (truth.boxes[:, 3] - truth.boxes[:, 1])
    rows = np.resize(np.argsort(-areas, kind="stable")[:count], count)
    masks = truth.masks
    return Truth(
        boxes=truth.boxes[rows],
        labels=truth.labels[rows] % NUM_CLASSES,
        masks=None if masks is None else [masks[row] for row in rows],
        keypoints=None,
    )


def full_bitmaps(truth: Truth, height: int, width: int) -> torch.Tensor:
    """The masks as torchvision's data pipeline makes them: (objects, height, width) of 0 and 1."""
    drawn = with_bitmaps(truth, (height, width)).masks or []
    bitmaps = torch.zeros((len(drawn), height, width), dtype=torch.uint8)
    for row, mask in enumerate(drawn):
        assert isinstance(mask, Bitmap)
        rows, columns = mask.pixels.shape
        place = (slice(mask.y, mask.y + rows), slice(mask.x, mask.x + columns))
        bitmaps[row][place] = torch.from_numpy(np.ascontiguousarray(mask.pixels))
    return bitmaps
