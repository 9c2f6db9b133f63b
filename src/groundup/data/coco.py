"""The data set as an index: annotations of any number of images, opened at once by every process.

The json is read once into columns that all processes map (`store`), so workers share its pages
and hold next to nothing of their own. Training and evaluation take their truth from the same
columns, so what is dropped in one is dropped in the other.

Legend:
    N  images               G  usable instances of one image
    K  classes              P  keypoints an instance
"""

import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from groundup.data.columns import (
    RUNS,
    Table,
    build_table,
    clip_boxes,
    rings_of,
    runs_of,
    segmentation_of,
)
from groundup.data.document import find_document, read_document
from groundup.data.entries import PIXEL_CENTRE, Category
from groundup.data.rle import crop_mask
from groundup.data.rules import RULES, Findings
from groundup.data.store import load_table, table_folder
from groundup.data.truth import Bitmap, Polygons, Truth
from groundup.errors import DataError

__all__ = ["Category", "Difficult", "Index", "open_index"]

MAX_DROPPED_RATIO = 0.01
"""Share of annotations that may be dropped before a data set is refused (promise P5: above 1 % the
experiment is another)."""
Difficult: TypeAlias = Literal["keep", "drop"]
"""Whether objects that bear VOC's mark `difficult` are learnt from, crowds or not. Evaluation does not hang
on it. Sources: Detectron2's loader of VOC keeps them; Detectron's drops what its json says to `ignore`."""
BOXES_ONLY = "-boxes"
"""Name of the table that was read without segmentations."""


class Index:
    """Images and what they truly hold, by row. Pickles as paths and is mapped anew where it lands."""

    def __init__(
        self,
        annotations: Path,
        images: Path,
        folder: Path,
        rows: Int64[np.ndarray, " N"] | None = None,
        difficult: Difficult | None = None,
    ) -> None:
        """Map the table in that folder; `open_index` finds or builds it.

        Args:
            annotations: the json the table was made from.
            images: folder of the photographs.
            folder: the table.
            rows: of the table, those this index has; None for all.
            difficult: whether objects that are marked so are learnt from; None: those that are no crowds.
        """
        table, self._digest = load_table(folder)
        self.annotations = annotations
        """The COCO json."""
        self.images = images
        """Folder of the photographs."""
        self._folder = folder
        self._table = table
        self._columns = table.columns
        self._rows = rows
        self._difficult = difficult

    def __reduce__(self) -> tuple[type["Index"], tuple[Any, ...]]:
        """Paths and rows; the arrays stay where they are."""
        return Index, (self.annotations, self.images, self._folder, self._rows, self._difficult)

    def __len__(self) -> int:
        """Images."""
        return self.num_images

    @property
    def digest(self) -> str:
        """SHA-256 of the json; of a subset, of the json's digest and the image ids chosen."""
        if self._rows is None:
            return self._digest
        return hashlib.sha256(self._digest.encode() + self.image_ids.tobytes()).hexdigest()

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes; the place of each is its label."""
        return self._table.categories

    @property
    def num_images(self) -> int:
        """Images of the index."""
        return len(self._columns.image_ids) if self._rows is None else len(self._rows)

    @functools.cached_property
    def num_instances(self) -> int:
        """Annotations of these images: usable, crowds and dropped."""
        lengths = np.diff(self._columns.instance_offsets)
        return int(lengths.sum() if self._rows is None else lengths[self._rows].sum())

    @functools.cached_property
    def image_ids(self) -> Int64[np.ndarray, " N"]:
        """Ids in the user's file, by row."""
        return self._for_rows(self._columns.image_ids)

    @functools.cached_property
    def sizes(self) -> Int32[np.ndarray, "N 2"]:
        """(height, width) the json states, by row."""
        return self._for_rows(self._columns.sizes)

    @functools.cached_property
    def num_usable(self) -> Int32[np.ndarray, " N"]:
        """Instances of each image that may be learnt from."""
        if self._usable is self._columns.usable:
            return self._for_rows(self._columns.num_usable)
        sums = np.concatenate([[0], np.cumsum(self._usable)])
        offsets = self._columns.instance_offsets
        return self._for_rows((sums[offsets[1:]] - sums[offsets[:-1]]).astype(np.int32))

    @functools.cached_property
    def _usable(self) -> Bool[np.ndarray, " _"]:
        """Which annotations of the table may be learnt from."""
        columns = self._columns
        usable: Bool[np.ndarray, " _"] = columns.usable
        if self._difficult is None or not columns.difficult.any():
            return usable
        marked: Bool[np.ndarray, " _"] = columns.kept & columns.difficult
        chosen: Bool[np.ndarray, " _"] = usable & ~marked if self._difficult == "drop" else usable | marked
        return chosen

    @property
    def num_difficult(self) -> tuple[int, int]:
        """Instances of these images that are marked difficult, and how many of them are learnt from."""
        if not self._columns.difficult.any():
            return 0, 0
        marked = self._columns.difficult & self._columns.kept
        here = np.concatenate(
            [np.arange(span.start, span.stop) for span in map(self._span, range(len(self)))]
        )
        return int(marked[here].sum()), int((marked & self._usable)[here].sum())

    @property
    def has_masks(self) -> bool:
        """Whether instances have masks; then every usable instance has one."""
        return self._table.has_masks

    @property
    def num_keypoints(self) -> int:
        """Keypoints an instance, 0 without; of the category with most where they differ."""
        return int(self._columns.keypoints.shape[1])

    @functools.cached_property
    def num_labelled_keypoints(self) -> Int64[np.ndarray, " N"]:
        """Labelled keypoints of each image's usable instances, hidden ones included."""
        labelled = (self._columns.keypoints[:, :, 2] > 0).sum(axis=1) * self._columns.usable
        before = np.concatenate([[0], np.cumsum(labelled)])
        return self._for_rows(np.diff(before[self._columns.instance_offsets]))

    @functools.cached_property
    def dropped(self) -> dict[str, list[int]]:
        """Ids of the annotations that take no part in training or evaluation, under their rule."""
        if self._rows is None:
            return {rule: list(ids) for rule, ids in self._table.dropped.items()}
        here: set[int] = set()
        for row in range(self.num_images):
            here.update(self._columns.annotation_ids[self._span(row)].tolist())
        found = {rule: [i for i in ids if i in here] for rule, ids in self._table.dropped.items()}
        return {rule: ids for rule, ids in found.items() if ids}

    @property
    def counts(self) -> dict[str, int]:
        """Times each rule was broken in the whole json, down to notes such as filled areas."""
        return dict(self._table.counts)

    def _for_rows(self, column: np.ndarray) -> np.ndarray:
        """A column of the table for the rows of this index."""
        return column if self._rows is None else np.asarray(column[self._rows])

    def _table_row(self, row: int) -> int:
        """Row of the table."""
        if not 0 <= row < self.num_images:
            raise IndexError(f"row {row} of an index of {self.num_images} images")
        return int(row if self._rows is None else self._rows[row])

    def _span(self, row: int) -> slice:
        """Annotations of one image."""
        first, last = self._columns.instance_offsets[self._table_row(row) :][:2]
        return slice(int(first), int(last))

    def file_name(self, row: int) -> str:
        """The photograph's name relative to the image folder."""
        first, last = self._columns.name_offsets[self._table_row(row) :][:2]
        return self._columns.names[first:last].tobytes().decode()

    def path(self, row: int) -> Path:
        """The photograph's path.

        Raises:
            DataError: a link leads out of the image folder.
        """
        return locate(self.images, self.file_name(row))

    @functools.cached_property
    def _row_of(self) -> dict[int, int]:
        """Row of each image id."""
        return {number: row for row, number in enumerate(self.image_ids.tolist())}

    def row_of(self, image_id: int) -> int:
        """Row of the image with that id.

        Raises:
            DataError: no such image.
        """
        try:
            return self._row_of[image_id]
        except KeyError:
            raise DataError(
                f"{self.annotations}: none of the {self.num_images} images has the id {image_id!r}"
            ) from None

    def truth(self, row: int) -> Truth:
        """The usable instances of one image, boxes clipped to it, in the file's order."""
        columns, span = self._columns, self._span(row)
        places = np.flatnonzero(self._usable[span]) + span.start
        sizes = np.broadcast_to(columns.sizes[self._table_row(row)], (len(places), 2))
        return Truth(
            boxes=clip_boxes(columns.boxes[places], sizes),
            labels=columns.labels[places].astype(np.int64),
            masks=[self._mask(place, int(sizes[0, 0])) for place in places.tolist()]
            if self.has_masks
            else None,
            keypoints=centred(columns.keypoints[places]) if self.num_keypoints else None,
        )

    def _mask(self, place: int, height: int) -> Polygons | Bitmap:
        """One instance's mask."""
        if self._columns.mask_kinds[place] == RUNS:
            return crop_mask(runs_of(self._columns, place), height)
        return [ring.astype(np.float32) for ring in rings_of(self._columns, place)]

    def subset(self, rows: Sequence[int] | Int64[np.ndarray, " _"]) -> "Index":
        """An index of these rows, in this order, on the same arrays."""
        chosen = np.array([self._table_row(int(row)) for row in rows], np.int64)
        return Index(self.annotations, self.images, self._folder, chosen, self._difficult)

    def with_difficult(self, difficult: Difficult | None) -> "Index":
        """The same index that learns from difficult objects or not."""
        return Index(self.annotations, self.images, self._folder, self._rows, difficult)

    def document(self, rows: Iterable[int] | None = None) -> dict[str, Any]:
        """A clean COCO document of these rows, or all, to measure against.

        Image and category ids are the user's. Annotations are numbered from 1: an id of 0 makes
        evaluators lose the object. Crowds stay; dropped instances are not in it; area and
        iscrowd are always there.
        """
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for row in range(self.num_images) if rows is None else rows:
            height, width = self._columns.sizes[self._table_row(row)].tolist()
            image_id = int(self._columns.image_ids[self._table_row(row)])
            images.append(
                {"id": image_id, "file_name": self.file_name(row), "height": height, "width": width}
            )
            span = self._span(row)
            for place in (np.flatnonzero(self._columns.kept[span]) + span.start).tolist():
                record = self._record(place, height, width)
                annotations.append({"id": len(annotations) + 1, "image_id": image_id, **record})
        return {
            "images": images,
            "annotations": annotations,
            "categories": [category_record(category) for category in self.categories],
        }

    def _record(self, place: int, height: int, width: int) -> dict[str, Any]:
        """One annotation as COCO writes it, without its id and image."""
        columns = self._columns
        category = self.categories[columns.labels[place]]
        record: dict[str, Any] = {
            "category_id": category.id,
            "bbox": columns.boxes[place].tolist(),
            "area": float(columns.areas[place]),
            "iscrowd": int(columns.crowd[place]),
        }
        for mark, marked in (("difficult", columns.difficult), ("truncated", columns.truncated)):
            if marked[place]:
                record[mark] = 1
        if self.has_masks:
            record["segmentation"] = segmentation_of(columns, place, height, width)
        if category.keypoints:
            points = columns.keypoints[place, : len(category.keypoints)]
            record["keypoints"] = [round(value, 4) for value in points.astype(np.float64).ravel().tolist()]
            record["num_keypoints"] = int((points[:, 2] > 0).sum())
        return record


def centred(keypoints: Float32[np.ndarray, "G P 3"]) -> Float32[np.ndarray, "G P 3"]:
    """COCO's keypoints, which name pixels by column and row, at the middles of their pixels.

    Source: Detectron2, `load_coco_json`. COCO's boxes and polygons are continuous already.
    """
    moved = keypoints.copy()
    moved[:, :, :2] += PIXEL_CENTRE * (keypoints[:, :, 2:] > 0)
    return moved


def category_record(category: Category) -> dict[str, Any]:
    """A category as COCO writes it."""
    record: dict[str, Any] = {
        "id": category.id,
        "name": category.name,
        "supercategory": category.supercategory,
    }
    if category.keypoints:
        record["keypoints"] = list(category.keypoints)
        record["skeleton"] = [list(pair) for pair in category.skeleton]
    return record


def locate(images: Path, name: str) -> Path:
    """Path of a photograph inside the image folder, links followed.

    Raises:
        DataError: it lies outside, or its links go in circles.
    """
    path = images / name
    try:
        inside = path.resolve(strict=False).is_relative_to(images.resolve())
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{path}: file-escapes: {error}; {RULES['file-escapes'].advice}") from None
    if not inside:
        raise DataError(f"{path}: file-escapes: it leads to {path.resolve()}; {RULES['file-escapes'].advice}")
    return path


def open_index(
    annotations: Path,
    images: Path | None = None,
    *,
    cache: Path | None = None,
    masks: bool = True,
    max_dropped_ratio: float = MAX_DROPPED_RATIO,
) -> Index:
    """The data set's index, built if this json was never opened before.

    Args:
        annotations: COCO json, or a folder with Roboflow's `_annotations.coco.json`.
        images: folder of the photographs; None for the folder of the json, as Roboflow has it.
        cache: folder for the built table; None for `.groundup` beside the json or, where that
            cannot be written, $GROUNDUP_CACHE or ~/.cache/groundup.
        masks: read segmentations; without them nothing is dropped for lack of a mask.
        max_dropped_ratio: share of annotations that may be dropped, 0..1.

    Raises:
        DataError: the json breaks a rule that is an error, or too much would be dropped.
    """
    document = find_document(Path(annotations)).absolute()
    folder = Path(images).absolute() if images is not None else document.parent
    missing = Findings(str(document), max_listed=1)
    if not document.is_file():
        missing.add("document-missing", "", "a folder" if document.is_dir() else "no such file")
        missing.refuse()
    if not folder.is_dir():
        raise DataError(f"{folder}: folder-missing: no such folder; {RULES['folder-missing'].advice}")

    def build() -> Table:
        """Read the json, or refuse it."""
        findings = Findings(str(document), max_listed=1)
        table = build_table(read_document(document, findings), findings, masks=masks)
        findings.refuse()
        return table

    try:
        place = table_folder(document, cache, build, variant="" if masks else BOXES_ONLY)
    except OSError as error:
        raise DataError(f"{document}: cannot be read: {error.strerror or error}") from None
    index = Index(document, folder, place)
    refuse_dropping(index, max_dropped_ratio)
    return index


def refuse_dropping(index: Index, max_dropped_ratio: float) -> None:
    """Go on only if no more than this share of the annotations is dropped."""
    dropped = {rule: len(ids) for rule, ids in index.dropped.items()}
    total = sum(dropped.values())
    if total > max_dropped_ratio * index.num_instances:
        rules = ", ".join(f"{count} by {rule}" for rule, count in dropped.items())
        raise DataError(
            f"{index.annotations}: {total} of {index.num_instances} annotations would be dropped ({rules}), "
            f"more than {max_dropped_ratio:.2%}; run `groundup data check` for the list, "
            "mend them, or allow more with data.max_dropped_ratio"
        )
