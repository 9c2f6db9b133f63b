"""One image, category or annotation of a COCO json: read, judged, and made typed.

What is wrong goes to the findings; an entry with an error is left out. Nothing here raises for
what a file holds.
"""

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from groundup.data.rle import decode_counts, mask_area
from groundup.data.rules import MAX_COORDINATE, Findings

MAX_ID = 2**63 - 1
MAX_SIDE = 2**31 - 1
"""Ids are kept in 64 and sizes in 32 bits."""
MAX_ID_DIGITS = 18
"""Digits of a number written as text that surely fit 64 bits."""
RING_POINTS = 3
"""Fewest points of a polygon."""
PIXEL_CENTRE = 0.5
"""From a pixel's column or row, which COCO's keypoints are, to its middle, which everything else is."""
KEYPOINT_VALUES = 3
"""x, y and visibility."""
VISIBILITIES = (0, 1, 2)
"""Not labelled, hidden, seen. Source: COCO, keypoint format."""

Note = Callable[[str, str, object], None]
"""Reports (rule, field within the entry, found)."""


@dataclass(slots=True)
class Entry:
    """The entry being read, to which what is wrong belongs."""

    findings: Findings
    where: str
    """As in `annotations[3]`."""
    id: int | None

    def note(self, rule: str, name: str, found: object) -> None:
        """Report a broken rule in one of its fields."""
        self.findings.add(rule, f"{self.where}.{name}", found, whose=self.id)


@dataclass(frozen=True, slots=True)
class Category:
    """One class of the data set; its label is its place among all, ordered by id."""

    id: int
    """As the annotation file has it."""
    name: str
    supercategory: str = ""
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    """Pairs of keypoints that are joined, counted from 1 as in COCO."""

    @property
    def flip_pairs(self) -> tuple[tuple[int, int], ...]:
        """Keypoints, from 0, that a mirror swaps: those whose names differ by left and right."""
        place = {name: index for index, name in enumerate(self.keypoints)}
        pairs = []
        for name, index in place.items():
            other = place.get(name.replace("left", "right").replace("Left", "Right"), index)
            if other != index:
                pairs.append((index, other))
        return tuple(pairs)


@dataclass(frozen=True, slots=True)
class Photograph:
    """One image of the data set."""

    id: int
    file_name: str
    height: int
    width: int


@dataclass(slots=True)
class Instance:
    """One annotation as it stands, before it is decided whether it can be used."""

    id: int
    row: int
    """Row of its image."""
    label: int
    box: "array[float]"
    """x, y, width, height."""
    area: float
    """NaN where the file gives none."""
    is_crowd: bool
    is_difficult: bool = False
    is_truncated: bool = False
    """Pascal VOC's marks, which COCO has none of."""
    rings: "list[array[float]]" = field(default_factory=list)
    """Polygons as x, y, x, y, ..."""
    runs: np.ndarray | None = None
    keypoints: "array[float] | None" = None
    gives_mask: bool = False
    """The file gives some segmentation, usable or not."""
    mask_rule: str = ""
    """The rule for which it has no usable mask; empty if it has one."""


class EntryReader:
    """Reads entries in the order categories, images, annotations; each refers to those before."""

    def __init__(self, findings: Findings) -> None:
        """Start with nothing known."""
        self.findings = findings
        self.categories: dict[int, Category] = {}
        self.photographs: list[Photograph] = []
        self.row_of: dict[int, int] = {}
        self._files: dict[str, int] = {}
        self._names: set[str] = set()
        self._labels: dict[int, int] = {}

    def read_categories(self, records: Any) -> list[Category]:
        """The categories in order of id: the order of labels."""
        for position, record in enumerate(records):
            self._read_category(f"categories[{position}]", record)
        ordered = sorted(self.categories.values(), key=lambda category: category.id)
        self._labels = {category.id: label for label, category in enumerate(ordered)}
        return ordered

    def _read_category(self, where: str, record: object) -> None:
        """Keep the category, or report why not."""
        if not isinstance(record, dict):
            self.findings.add("record-type", where, record)
            return
        number = self._read_id(where, record, "id")
        if number is None:
            return
        note = Entry(self.findings, where, number).note
        if number in self.categories:
            note("category-id-duplicate", "id", number)
            return
        name = record.get("name")
        if not is_text(name) or not name:
            note("category-name", "name", record.get("name", "nothing"))
            return
        if name in self._names:
            note("category-name-twice", "name", name)
        self._names.add(str(name))
        parent = record.get("supercategory")
        points = record.get("keypoints") or []
        if not isinstance(points, list) or not all(is_text(point) for point in points):
            note("category-keypoints", "keypoints", points)
            return
        self.categories[number] = Category(
            id=number,
            name=str(name),
            supercategory=parent if isinstance(parent, str) and is_text(parent) else "",
            keypoints=tuple(points),
            skeleton=read_skeleton(record.get("skeleton") or [], len(points), note),
        )

    def read_photograph(self, position: int, record: object) -> None:
        """Keep the image, or report why not."""
        where = f"images[{position}]"
        if not isinstance(record, dict):
            self.findings.add("record-type", where, record)
            return
        number = self._read_id(where, record, "id")
        if number is None:
            return
        note = Entry(self.findings, where, number).note
        if number in self.row_of:
            note("image-id-duplicate", "id", number)
            return
        name = read_file_name(record.get("file_name"), note)
        sides = [record.get("height"), record.get("width")]
        if not all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
            note("image-size", "height", f"height {sides[0]!r}, width {sides[1]!r}")
            return
        if name is None:
            return
        # The same file again is an error, but its annotations still have an image to belong to.
        plain_name = str(PurePosixPath(name))
        if plain_name in self._files:
            note("file-twice", "file_name", f"{name}, also of image {self._files[plain_name]}")
        self._files.setdefault(plain_name, number)
        self.row_of[number] = len(self.photographs)
        self.photographs.append(Photograph(number, name, int(sides[0] or 0), int(sides[1] or 0)))

    def read_instance(self, position: int, record: object) -> Instance | None:
        """The annotation, or None with the reasons reported."""
        where = f"annotations[{position}]"
        if not isinstance(record, dict):
            self.findings.add("record-type", where, record)
            return None
        number = self._read_id(where, record, "id")
        note = Entry(self.findings, where, number).note
        image = self._read_id(where, record, "image_id")
        row = self.row_of.get(image) if image is not None else None
        if row is None and image is not None:
            note("image-unknown", "image_id", image)
        category = self._read_id(where, record, "category_id")
        label = self._labels.get(category) if category is not None else None
        if label is None and category is not None:
            note("category-unknown", "category_id", category)
        box = read_box(record.get("bbox"), note)
        area = read_area(record.get("area"), note)
        is_crowd = read_crowd(record.get("iscrowd"), note)
        broken = None in (number, row, label, box, area, is_crowd)
        kept = Instance(
            id=number or 0,
            row=row or 0,
            label=label or 0,
            box=box or array("d"),
            area=area or 0.0,
            is_crowd=bool(is_crowd),
            is_difficult=read_flag(record, "difficult", note),
            is_truncated=read_flag(record, "truncated", note),
        )
        size = self._size(row)
        sound = read_mask(record.get("segmentation"), kept, size, note)
        names = self.categories[category].keypoints if category is not None and label is not None else ()
        sound &= read_keypoints(record, kept, len(names), note) if label is not None else True
        return kept if sound and not broken else None

    def _size(self, row: int | None) -> tuple[int, int] | None:
        """(height, width) of the image in that row."""
        return None if row is None else (self.photographs[row].height, self.photographs[row].width)

    def _read_id(self, where: str, record: dict[str, Any], name: str) -> int | None:
        """The id under that name, also where it is written as text."""
        value = record.get(name)
        if type(value) is int and -MAX_ID <= value <= MAX_ID:
            return value
        if isinstance(value, str):
            digits = value.removeprefix("-")
            if digits.isascii() and digits.isdigit() and len(digits) <= MAX_ID_DIGITS:
                self.findings.add("id-is-text", f"{where}.{name}", value, whose=value)
                return int(value)
        self.findings.add("id-type", f"{where}.{name}", value if name in record else "nothing")
        return None


def is_text(value: object) -> bool:
    """Whether the value is text that can be written to a file."""
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value))


def read_file_name(value: object, note: Note) -> str | None:
    """A file's name relative to the image folder, which it does not leave by its spelling."""
    if not isinstance(value, str) or not value or not is_text(value) or "\0" in value:
        note("file-name", "file_name", "nothing" if value is None else value)
        return None
    plain = "/" not in value and "\\" not in value and value != ".."
    if not plain and leaves_folder(value):
        note("file-escapes", "file_name", value)
        return None
    return value


def leaves_folder(name: str) -> bool:
    """Whether the name, read by the rules of any system, is absolute or climbs up."""
    return any(
        path.is_absolute() or ".." in path.parts for path in (PurePosixPath(name), PureWindowsPath(name))
    )


def read_skeleton(value: object, num_points: int, note: Note) -> tuple[tuple[int, int], ...]:
    """Pairs of joined keypoints; nothing, with a warning, where they are no such pairs."""
    pairs: list[Any] = value if isinstance(value, list) else [value]
    for pair in pairs:
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(type(end) is int and 1 <= end <= num_points for end in pair)
        ):
            note("category-skeleton", "skeleton", pair)
            return ()
    return tuple((pair[0], pair[1]) for pair in pairs)


def numbers(values: object) -> "array[float] | None":
    """The list as floats, or None if it is no list of numbers."""
    if not isinstance(values, list):
        return None
    try:
        return array("d", values)
    except (TypeError, OverflowError):
        return None


def in_range(values: "array[float]") -> bool:
    """Whether every number is finite and can be a coordinate."""
    if len(values) <= 8:  # faster than numpy for so few
        return all(-MAX_COORDINATE <= value <= MAX_COORDINATE for value in values)
    return bool((np.abs(np.frombuffer(values)) <= MAX_COORDINATE).all())


def read_box(value: object, note: Note) -> "array[float] | None":
    """x, y, width, height."""
    box = numbers(value)
    if box is None or len(box) != 4:
        note("box-type", "bbox", "nothing" if value is None else value)
        return None
    if not in_range(box):
        note("box-not-finite", "bbox", value)
        return None
    return box


def read_area(value: object, note: Note) -> float | None:
    """The area, NaN where none is given, None where it is no area."""
    if value is None:
        note("area-missing", "area", "nothing")
        return math.nan
    found = numbers([value])
    if found is None or not 0 <= found[0] < math.inf:
        note("area-invalid", "area", value)
        return None
    return found[0]


def read_crowd(value: object, note: Note) -> bool | None:
    """Whether the annotation is a crowd; None where it does not say so plainly."""
    if value is None:
        note("crowd-missing", "iscrowd", "nothing")
        return False
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    note("crowd-invalid", "iscrowd", value)
    return None


def read_flag(record: dict[str, Any], name: str, note: Note) -> bool:
    """Whether the annotation bears one of VOC's marks; False, noted, where it does not say so plainly."""
    value = record.get(name)
    if value is None or (isinstance(value, int | float) and value in (0, 1)):
        return bool(value)
    note("flag-unclear", name, value)
    return False


def read_mask(value: object, instance: Instance, size: tuple[int, int] | None, note: Note) -> bool:
    """Put polygons or run lengths into the instance; False where the mask is an error."""
    if value is None or value in ([], {}):
        instance.mask_rule = "mask-missing"
        return True
    instance.gives_mask = True
    if isinstance(value, dict):
        return size is None or read_runs(value, instance, size, note)
    if not isinstance(value, list) or not all(isinstance(ring, list) for ring in value):
        note("mask-type", "segmentation", value)
        return False
    return read_rings(value, instance, note)


def read_rings(rings: list[Any], instance: Instance, note: Note) -> bool:
    """Put the polygons that can be drawn into the instance."""
    sound = True
    for index, ring in enumerate(rings):
        rule = ""
        points = numbers(ring)
        if points is None:
            note("mask-type", f"segmentation[{index}]", ring)
            sound = False
        elif not in_range(points):
            note("polygon-not-finite", f"segmentation[{index}]", ring)
            sound = False
        elif len(points) % 2:
            rule = "polygon-odd-coordinates"
        elif len(points) < 2 * RING_POINTS:
            rule = "polygon-too-few-points"
        else:
            instance.rings.append(points)
        if rule:
            note(rule, f"segmentation[{index}]", f"{len(ring)} numbers")
            instance.mask_rule = instance.mask_rule or rule
    if instance.rings:
        instance.mask_rule = ""
    return sound


def read_runs(value: dict[str, Any], instance: Instance, size: tuple[int, int], note: Note) -> bool:
    """Put run lengths that fill the image exactly into the instance."""
    found = value.get("size")
    if not isinstance(found, list) or found != list(size):
        note("rle-size", "segmentation.size", f"{found!r} in an image of {list(size)}")
        return False
    counts = value.get("counts")
    try:
        runs = decode_counts(counts) if isinstance(counts, str) else np.array(counts)
    except (ValueError, OverflowError) as error:
        note("rle-counts", "segmentation.counts", f"no run lengths: {error}")
        return False
    if not isinstance(counts, str | list) or runs.ndim != 1 or (len(runs) and runs.dtype.kind not in "iu"):
        note("rle-counts", "segmentation.counts", "nothing" if counts is None else counts)
        return False
    total = int(runs.sum(dtype=np.float64)) if len(runs) else 0  # floats cannot wrap round
    if total != size[0] * size[1] or int(runs.min()) < 0:
        note("rle-counts", "segmentation.counts", f"{total} pixels in an image of {size[0] * size[1]}")
        return False
    if not mask_area(runs):
        instance.mask_rule = "mask-empty"
        return True
    instance.runs = runs.astype(np.uint32)
    return True


def read_keypoints(record: dict[str, Any], instance: Instance, num_points: int, note: Note) -> bool:
    """Put x, y, visibility of each keypoint into the instance; False where they are an error."""
    value = record.get("keypoints")
    if not num_points:
        if value:
            note("keypoints-unnamed", "keypoints", value)
        return True
    if value is None or value == []:
        note("keypoints-missing", "keypoints", "nothing")
        return True
    points = numbers(value)
    if points is None or len(points) != num_points * KEYPOINT_VALUES:
        length = f"{len(value)} numbers" if isinstance(value, list) else value
        note("keypoints-count", "keypoints", f"{length} for {num_points} keypoints")
        return False
    if not in_range(points):
        note("keypoints-not-finite", "keypoints", value)
        return False
    labelled = 0
    for place in range(2, len(points), KEYPOINT_VALUES):
        if points[place] not in VISIBILITIES:
            note("keypoint-visibility", f"keypoints[{place}]", points[place])
            points[place] = 0.0
        labelled += points[place] > 0
    stated = record.get("num_keypoints")
    if stated is not None and stated != labelled:
        note("keypoints-num", "num_keypoints", f"{stated!r}, {labelled} labelled")
    instance.keypoints = points
    return True
