"""YOLO folders as COCO json: boxes and polygons.

    root/data.yaml                 names, and where train and val lie
    root/images/train/a.jpg        or root/train/images/a.jpg
    root/labels/train/a.txt        or root/train/labels/a.txt

A line is `class cx cy width height` or `class x1 y1 x2 y2 x3 y3 ...`, in parts of the width and height of
the photograph as viewers show it (turned upright). No label file means no objects. Source: Ultralytics
documentation, "Object Detection Datasets Overview" and "Instance Segmentation Datasets Overview".
"""

import os
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml

from groundup.config import Options, one_line
from groundup.data.formats import Conversion, Draft, finite_number, image_size, pictures_below
from groundup.data.images import Size
from groundup.errors import DataError

YAML_NAME = "data.yaml"
MAX_YAML_BYTES = 1 << 20
"""Largest data.yaml read; the names of LVIS's 1,203 classes take 30 kB."""
MAX_LABEL_BYTES = 64 << 20
"""Largest label file read; a line of 500 points takes 9 kB."""
IMAGES = "images"
LABELS = "labels"
NO_LABELS = frozenset({"classes.txt"})
"""Text that labelling tools keep among the labels. Source: LabelImg, YOLO writer."""

BOX_NUMBERS = 4
"""Numbers of a box behind the class."""
MIN_POLYGON_NUMBERS = 6
"""Numbers of a triangle behind the class."""
TOLERANCE = 0.01
"""How far a coordinate may leave 0..1 as a slip of rounding; beyond it the line is not in parts of the
side. Source: Ultralytics, `verify_image_label`."""
DECIMALS = 2
"""Decimals of a pixel that are kept, as in COCO: finer than six decimals of a side of 10,000 pixels, and
what a slip in the last of these put outside the photograph comes back in."""


class YoloOptions(Options):
    """How the labels are read."""

    polygons: Literal["keep", "boxes"] = "keep"
    """Lines with polygons become masks, or only the boxes around them."""


def convert_yolo(root: Path, split: str, options: YoloOptions) -> Conversion:
    """The split's boxes and polygons as a COCO document, with every problem on the way.

    Category ids are class numbers plus one.

    Args:
        root: the data set's folder, which holds data.yaml, or its yaml file.
        split: train, val or test: an entry of the yaml, or a folder below `images`.
        options: how the labels are read.

    Raises:
        DataError: no usable yaml, or no photographs in the split.
    """
    path = root / YAML_NAME if root.is_dir() else root
    settings = read_settings(path)
    draft = Draft(names=class_names(path, settings))
    base = path.parent / str(settings.get("path") or "")
    entry = settings.get(split) or f"{IMAGES}/{split}"
    entries = entry if isinstance(entry, list) else [entry]
    sources = [locate(draft, path, base, str(each)) for each in entries]
    tops = (normal(path.parent), normal(base))
    labels = {picture: label_of(picture, tops) for source in sources for picture in pictures_of(path, source)}
    if not labels:
        raise DataError(f"{path}: {split} holds no photographs; looked in {', '.join(map(str, sources))}")
    folder = sources[0] if len(sources) == 1 and sources[0].is_dir() else common_folder(path, list(labels))
    plain = [
        (label, add_photograph(draft, folder, picture, label, options)) for picture, label in labels.items()
    ]
    if any("segmentation" in annotation for annotation in draft.annotations):
        for label, num_boxes in plain:
            if num_boxes:
                draft.note("mask-missing", label, "", f"{num_boxes} lines")
    list_orphans(draft, sources, tops, set(labels.values()))
    return draft.finish(folder, f"YOLO, {split}; polygons={options.polygons}")


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping that the yaml file holds.

    Raises:
        DataError: unreadable, too large, not plain YAML, no mapping, or labels of a kind not converted.
    """
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise DataError(
                f"{path}: more than {MAX_YAML_BYTES} bytes; a data.yaml only names classes and folders"
            )
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror}; it names the classes (names: [cat, dog])"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not plain YAML: {one_line(error)}") from None
    if not isinstance(settings, dict):
        raise DataError(f"{path}: a data.yaml is a mapping with names, found {type(settings).__name__}")
    if "kpt_shape" in settings:
        raise DataError(
            f"{path}: kpt_shape says that these are keypoints; only boxes and polygons are converted"
        )
    return settings


def class_names(path: Path, settings: dict[str, Any]) -> list[str]:
    """Names of the classes 0, 1, ..., given as a list or as a mapping from numbers.

    Raises:
        DataError: no names, a gap in the numbers, a name that is no text, or another number than `nc`.
    """
    names = settings.get("names")
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise DataError(f"{path}: names must number the classes 0 to {len(names) - 1} without a gap")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: names must list the classes, found {type(names).__name__}")
    for number, name in enumerate(names):
        if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
            raise DataError(
                f"{path}: names[{number}] is no text but {type(name).__name__}; put it between quotes"
            )
    if settings.get("nc", len(names)) != len(names):
        raise DataError(f"{path}: nc is {settings['nc']!r:.20} but there are {len(names)} names; correct one")
    return [str(name) for name in names]


def locate(draft: Draft, path: Path, base: Path, entry: str) -> Path:
    """The folder or list that the yaml's entry means; noted where it is not where the yaml says.

    Data sets are moved, and Roboflow writes `../train/images` for a folder beside the yaml: the yaml's own
    folder is looked in too.
    """
    tail = PurePosixPath(entry.removeprefix("../"))
    candidates = [normal(place) for place in (base / entry, path.parent / entry, path.parent / tail)]
    found = next((place for place in candidates if place.exists()), candidates[0])
    if found != candidates[0]:
        draft.note("folder-elsewhere", path, entry, found)
    return found


def normal(path: Path) -> Path:
    """The path without steps up and down again, so that names below a folder can be compared."""
    return Path(os.path.normpath(path))


def pictures_of(path: Path, source: Path) -> list[Path]:
    """The photographs of a folder by name, or of a text file that lists them in its order.

    Raises:
        DataError: neither a folder nor a readable list.
    """
    if source.is_dir():
        return pictures_below(source)
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: {source} is neither a folder nor a list of photographs: {one_line(error)}"
        ) from None
    return [normal(source.parent / line.strip()) for line in lines if line.strip()]


def common_folder(path: Path, pictures: list[Path]) -> Path:
    """The deepest folder that holds all the photographs."""
    folder = pictures[0].parent
    while not all(picture.is_relative_to(folder) for picture in pictures):
        if folder == folder.parent:
            raise DataError(f"{path}: its photographs share no folder; give relative paths")
        folder = folder.parent
    return folder


def label_of(picture: Path, tops: tuple[Path, ...]) -> Path:
    """Where the photograph's labels are: the last `images` of its path below a top becomes `labels`.

    Where there is no such folder they lie beside the photograph. Source: Ultralytics, `img2label_paths`;
    Darknet for the second.
    """
    top = next((top for top in tops if picture.is_relative_to(top)), None)
    parts = list(picture.parts)
    for position in range(len(parts) - 2, len(top.parts) - 1 if top else -1, -1):
        if parts[position] == IMAGES:
            parts[position] = LABELS
            break
    return Path(*parts).with_suffix(".txt")


def add_photograph(draft: Draft, folder: Path, picture: Path, label: Path, options: YoloOptions) -> int:
    """Append the photograph and its objects, or say why not; returns how many were boxes only."""
    if not picture.exists():
        draft.note("image-missing", picture)
        return 0
    size = image_size(draft, picture, None)
    if size is None:
        return 0
    draft.add_image(picture.relative_to(folder).as_posix(), size)
    if not label.exists():
        draft.note("label-missing", label)
        return 0
    try:
        if label.stat().st_size > MAX_LABEL_BYTES:
            raise ValueError(f"more than {MAX_LABEL_BYTES} bytes")
        lines = label.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        draft.note("label-damaged", label, "", one_line(error))
        return 0
    num_boxes = 0
    for number, line in enumerate(lines, start=1):
        parsed = read_line(draft, label, f"line {number}", line)
        if parsed is None:
            continue
        number_of_class, parts = parsed
        polygon = pixels_of(parts, size) if len(parts) > BOX_NUMBERS else None
        box = box_around(polygon if polygon is not None else corners_of(parts, size))
        area = box[2] * box[3] if polygon is None else polygon_area(polygon)
        if area <= 0 or (polygon is None and min(parts[2:]) <= 0):
            rule = "box-no-area" if polygon is None else "mask-empty"
            draft.note(rule, label, f"line {number}", line)
        elif polygon is not None and options.polygons == "keep":
            draft.add_annotation(number_of_class + 1, box, area, segmentation=[polygon])
        else:
            num_boxes += 1
            draft.add_annotation(number_of_class + 1, box, box[2] * box[3])
    return num_boxes


def read_line(draft: Draft, label: Path, where: str, line: str) -> tuple[int, list[float]] | None:
    """Class number and coordinates, in parts of the side; None for an empty line, or, noted, a wrong one."""
    words = line.split()
    if not words:
        return None
    values = [value for word in words if (value := finite_number(word)) is not None]
    rest = values[1:]
    is_polygon = len(rest) >= MIN_POLYGON_NUMBERS and len(rest) % 2 == 0
    if len(values) != len(words) or not (len(rest) == BOX_NUMBERS or is_polygon):
        draft.note("line-form", label, where, line)
        return None
    number = values[0]
    if number % 1 or not 0 <= number < len(draft.names):
        draft.note("class-unknown", label, where, f"class {words[0]} of {len(draft.names)}")
        return None
    if min(rest) < -TOLERANCE or max(rest) > 1 + TOLERANCE:
        draft.note("line-not-normalised", label, where, line)
        return None
    return int(number), rest


def pixels_of(parts: list[float], size: Size) -> list[float]:
    """x, y, x, y, ... in pixels from the same in parts of width and height."""
    height, width = size
    # Adding 0 turns the -0.0 that rounding leaves into 0.
    return [round(part * (height if odd % 2 else width), DECIMALS) + 0.0 for odd, part in enumerate(parts)]


def corners_of(parts: list[float], size: Size) -> list[float]:
    """x1, y1, x2, y2 in pixels from centre, width and height in parts; the order of corners as computed."""
    x, y, width, height = parts
    return pixels_of([x - width / 2, y - height / 2, x + width / 2, y + height / 2], size)


def box_around(points: list[float]) -> list[float]:
    """x, y, width, height of the points x, y, x, y, ..."""
    xs, ys = points[::2], points[1::2]
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    return [min(xs), min(ys), round(width, DECIMALS), round(height, DECIMALS)]


def polygon_area(points: list[float]) -> float:
    """Area that the ring x, y, x, y, ... encloses. Source: the shoelace formula."""
    ring = [*zip(points[::2], points[1::2], strict=True)]
    twice = sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise([*ring, ring[0]]))
    return abs(twice) / 2


def list_orphans(draft: Draft, sources: list[Path], tops: tuple[Path, ...], expected: set[Path]) -> None:
    """Note label files to which no photograph of the split belongs."""
    for source in sources:
        if not source.is_dir():
            continue
        folder = label_of(source / "any.jpg", tops).parent
        for path in sorted(folder.rglob("*.txt")):
            if path not in expected and path.name not in NO_LABELS:
                draft.note("label-orphan", path)
