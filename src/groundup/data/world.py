"""Drawn pictures without end, written out as data sets: scenes to detect in, single objects to pre-train on.

Each picture is a pure function of (seed, index, options) (`draw_scene`, `draw_object`).

    python -c "from groundup.data.world import *; write_world('world', 2000, 500, 0, WorldOptions())"

The same numbers give the same bytes in any process, on one kind of machine with one set of library
versions; elsewhere the last bit of a sine may differ, and with it a pixel's value.

Legend:
    H, W  height and width in pixels
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from groundup.config import plain
from groundup.data.entries import PIXEL_CENTRE
from groundup.data.forms import FIGURE_KEYPOINTS, FIGURE_SKELETON
from groundup.data.kinds import KindOptions, category_kinds, category_names
from groundup.data.objects import ObjectOptions, ObjectPicture, draw_object
from groundup.data.scenes import Scene, WorldOptions, draw_scene
from groundup.data.stage import Instance
from groundup.errors import UsageError
from groundup.records import read_json, storage_error, write_whole

__all__ = [
    "ObjectFiles",
    "ObjectOptions",
    "ObjectPicture",
    "Scene",
    "WorldFiles",
    "WorldOptions",
    "build_document",
    "category_names",
    "draw_object",
    "draw_scene",
    "encode_jpeg",
    "write_object_world",
    "write_world",
]

WORLD_VERSION = 1
"""Counts up whenever a picture of the same number would look different; written beside the pictures."""
VALIDATION_FIRST = 1 << 31
"""Number of the first validation picture: training sets of any length share no picture with it, and the
validation pictures are the same for all of them."""

Report = Callable[[int, int], None]
"""Is told how many pictures are written, and of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldFiles:
    """Where a written world lies."""

    train_annotations: Path
    train_images: Path
    val_annotations: Path
    val_images: Path


def write_world(
    folder: Path | str,
    num_train: int,
    num_val: int,
    seed: int,
    options: WorldOptions,
    *,
    report: Report | None = None,
) -> WorldFiles:
    """Write scenes as COCO json and JPEG: `annotations/instances_{train,val}.json`, `train/`, `val/`.

    The annotations are written last. Where they and the pictures are there already, nothing is written.

    Raises:
        UsageError: a negative seed or number of scenes.
        CheckpointError: the disk is full or the folder cannot be written.
    """
    folder = Path(folder)
    check_counts(num_train, num_val)
    total = num_train + num_val
    files = WorldFiles(
        train_annotations=folder / "annotations" / "instances_train.json",
        train_images=folder / "train",
        val_annotations=folder / "annotations" / "instances_val.json",
        val_images=folder / "val",
    )
    splits = (
        (files.train_annotations, files.train_images, 0, num_train, 0),
        (files.val_annotations, files.val_images, VALIDATION_FIRST, num_val, num_train),
    )
    for annotations, images, first, count, done in splits:
        info = describe(seed, first, count, options)
        if is_written(annotations, info, [images / picture_name(row) for row in range(count)]):
            continue
        scenes = (draw_scene(seed, first + row, options) for row in range(count))
        document = build_document(save_scenes(scenes, images, done, total, report), options, info)
        write_whole(annotations, json.dumps(document, separators=(",", ":")))
    return files


def save_scenes(
    scenes: Iterable[Scene], images: Path, done: int, total: int, report: Report | None
) -> Iterator[tuple[str, Scene]]:
    """Save each scene's picture and yield its file name with it."""
    for row, scene in enumerate(scenes):
        name = picture_name(row)
        save_picture(images / name, encode_jpeg(scene.image, scene.quality))
        yield name, scene
        if report is not None:
            report(done + row + 1, total)


def build_document(
    scenes: Iterable[tuple[str, Scene]], options: WorldOptions, info: dict[str, Any]
) -> dict[str, Any]:
    """The COCO document of scenes under their file names; ids count from 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, scene) in enumerate(scenes, start=1):
        height, width = scene.image.shape[:2]
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for instance in scene.instances:
            annotation = {"id": len(annotations) + 1, "image_id": image_id}
            annotations.append(annotation | describe_instance(instance))
    categories = [
        {"id": label + 1, "name": name, "supercategory": form}
        | ({"keypoints": FIGURE_KEYPOINTS, "skeleton": FIGURE_SKELETON} if form == "figure" else {})
        for label, (name, (form, _)) in enumerate(
            zip(category_names(options), category_kinds(options), strict=True)
        )
    ]
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def describe_instance(instance: Instance) -> dict[str, Any]:
    """The instance as COCO has it; coordinates are exact but for those of keypoints (hundredths)."""
    x1, y1, x2, y2 = instance.box.tolist()
    segmentation: Any = [ring.ravel().tolist() for ring in instance.polygons]
    if instance.is_crowd:
        segmentation = {"size": list(instance.mask.shape), "counts": run_lengths(instance.mask)}
    described = {
        "category_id": instance.label + 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": instance.area,
        "iscrowd": int(instance.is_crowd),
        "segmentation": segmentation,
    }
    if instance.keypoints is not None:
        points = instance.keypoints.copy()
        # COCO names pixels by column and row; down, or a point could leave the picture.
        points[:, :2] = np.floor((points[:, :2] - PIXEL_CENTRE * (points[:, 2:] > 0)) * 100) / 100
        described["keypoints"] = points.ravel().tolist()
        described["num_keypoints"] = int(np.count_nonzero(points[:, 2]))
    return described


def run_lengths(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """Lengths of the runs of the mask, column by column, the first of zeros, as in COCO."""
    values = np.concatenate([[False], mask.ravel(order="F"), [False]])
    changes = np.flatnonzero(values[1:] != values[:-1])
    if len(changes) and changes[-1] == mask.size:
        changes = changes[:-1]
    lengths: list[int] = np.diff(changes, prepend=0, append=mask.size).tolist()
    return lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectFiles:
    """Where written pictures of single objects lie: a folder for each class in both."""

    train: Path
    val: Path


def write_object_world(
    folder: Path | str,
    num_train: int,
    num_val: int,
    seed: int,
    options: ObjectOptions,
    *,
    report: Report | None = None,
) -> ObjectFiles:
    """Write pictures of single objects in class folders: `{train,val}/<class>/<number>.jpg`.

    `train.json` and `val.json`, written last, say what was drawn; where they say the same already and the
    pictures are there, nothing is written.

    Raises:
        UsageError: a negative seed or number of pictures.
        CheckpointError: the disk is full or the folder cannot be written.
    """
    folder = Path(folder)
    check_counts(num_train, num_val)
    names = category_names(options)
    files = ObjectFiles(train=folder / "train", val=folder / "val")
    splits = ((files.train, 0, num_train, 0), (files.val, VALIDATION_FIRST, num_val, num_train))
    for images, first, count, done in splits:
        info = describe(seed, first, count, options)
        marker = images.with_suffix(".json")
        paths = [images / names[(first + row) % len(names)] / picture_name(row) for row in range(count)]
        if is_written(marker, info, paths):
            continue
        for name in names:
            (images / name).mkdir(parents=True, exist_ok=True)
        for row, path in enumerate(paths):
            picture = draw_object(seed, first + row, options)
            save_picture(path, encode_jpeg(picture.image, picture.quality))
            if report is not None:
                report(done + row + 1, num_train + num_val)
        write_whole(marker, json.dumps({"info": info}))
    return files


def check_counts(num_train: int, num_val: int) -> None:
    """Refuse counts of pictures that cannot be.

    Raises:
        UsageError: as said.
    """
    if not (0 <= num_train <= VALIDATION_FIRST and num_val >= 0):
        raise UsageError(
            f"cannot draw {num_train} training and {num_val} validation pictures; give numbers >= 0"
        )


def picture_name(row: int) -> str:
    """File name of a split's picture."""
    return f"{row:06d}.jpg"


def describe(seed: int, first: int, count: int, options: KindOptions) -> dict[str, Any]:
    """What determines a split's pictures, for the `info` of its document."""
    return {
        "description": "drawn by groundup",
        "version": WORLD_VERSION,
        "seed": seed,
        "first": first,
        "count": count,
        "options": plain(options),
    }


def is_written(document: Path, info: dict[str, Any], pictures: list[Path]) -> bool:
    """Whether the pictures are there, drawn as the info says; a document of other pictures is taken away."""
    if not document.exists():
        return False
    if read_json(document)["info"] == info and all(path.exists() for path in pictures):
        return True
    document.unlink()
    return False


def save_picture(path: Path, data: bytes) -> None:
    """Write a picture's bytes; whether all were written, the document says that follows them.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise storage_error(path, error, len(data)) from error


def encode_jpeg(image: UInt8[np.ndarray, "H W 3"], quality: int) -> bytes:
    """The RGB picture as the bytes of a JPEG file."""
    done, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return data.tobytes()
