"""A COCO json as columns: one array a field, annotations in order of their image.

Legend:
    N  images               A  annotations of all images
    K  keypoints of the category with most
"""

from array import array
from collections import defaultdict
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8, UInt32

from groundup.data.document import Document
from groundup.data.entries import KEYPOINT_VALUES, Category, EntryReader, Instance
from groundup.data.rle import encode_counts, mask_area
from groundup.data.rules import Findings

NO_MASK, POLYGONS, RUNS = 0, 1, 2
"""How an annotation gives its mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The arrays. Offsets have one entry more than what they count: part i is offsets[i] : offsets[i + 1]."""

    image_ids: Int64[np.ndarray, " N"]
    sizes: Int32[np.ndarray, "N 2"]
    """(height, width)."""
    names: UInt8[np.ndarray, " name_bytes"]
    name_offsets: Int64[np.ndarray, " N+1"]
    """File names in UTF-8."""
    instance_offsets: Int64[np.ndarray, " N+1"]
    """Annotations of each image; within an image in the file's order."""
    annotation_ids: Int64[np.ndarray, " A"]
    positions: Int64[np.ndarray, " A"]
    """Place in the file's list."""
    labels: Int32[np.ndarray, " A"]
    boxes: Float64[np.ndarray, "A 4"]
    """(x, y, width, height) as annotated."""
    areas: Float64[np.ndarray, " A"]
    """As annotated; filled from the mask, else the box, where the file gives none."""
    crowd: Bool[np.ndarray, " A"]
    difficult: Bool[np.ndarray, " A"]
    truncated: Bool[np.ndarray, " A"]
    """Pascal VOC's marks; nowhere in other data sets."""
    kept: Bool[np.ndarray, " A"]
    """Not dropped: takes part in evaluation."""
    usable: Bool[np.ndarray, " A"]
    """Kept and no crowd: takes part in training, unless `Index` is told otherwise of difficult ones."""
    num_usable: Int32[np.ndarray, " N"]
    mask_kinds: UInt8[np.ndarray, " A"]
    instance_rings: Int64[np.ndarray, " A+1"]
    ring_offsets: Int64[np.ndarray, " ring_bounds"]
    points: Float64[np.ndarray, "points 2"]
    """(x, y) of the polygons."""
    run_offsets: Int64[np.ndarray, " A+1"]
    runs: UInt32[np.ndarray, " runs"]
    keypoints: Float32[np.ndarray, "A K 3"]
    """(x, y, visibility); zeros where an instance has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns with what is said once for the whole data set."""

    columns: Columns
    categories: tuple[Category, ...]
    """In order of label."""
    has_masks: bool
    dropped: dict[str, list[int]]
    """Ids of dropped annotations under the rule that dropped them."""
    counts: dict[str, int]
    """Times each rule was broken."""


@dataclass(slots=True)
class Gathering:
    """Growing flat buffers, in the file's order."""

    rows: "array[int]" = field(default_factory=lambda: array("q"))
    annotation_ids: "array[int]" = field(default_factory=lambda: array("q"))
    positions: "array[int]" = field(default_factory=lambda: array("q"))
    labels: "array[int]" = field(default_factory=lambda: array("i"))
    boxes: "array[float]" = field(default_factory=lambda: array("d"))
    areas: "array[float]" = field(default_factory=lambda: array("d"))
    crowd: bytearray = field(default_factory=bytearray)
    difficult: bytearray = field(default_factory=bytearray)
    truncated: bytearray = field(default_factory=bytearray)
    gives_mask: bytearray = field(default_factory=bytearray)
    mask_rules: dict[int, str] = field(default_factory=dict)
    num_rings: "array[int]" = field(default_factory=lambda: array("q"))
    ring_points: "array[int]" = field(default_factory=lambda: array("q"))
    points: "array[float]" = field(default_factory=lambda: array("d"))
    num_runs: "array[int]" = field(default_factory=lambda: array("q"))
    runs: bytearray = field(default_factory=bytearray)
    keypoints: dict[int, "array[float]"] = field(default_factory=dict)

    def add(self, position: int, instance: Instance) -> None:
        """Append one annotation."""
        place = len(self.rows)
        self.rows.append(instance.row)
        self.annotation_ids.append(instance.id)
        self.positions.append(position)
        self.labels.append(instance.label)
        self.boxes.extend(instance.box)
        self.areas.append(instance.area)
        self.crowd.append(instance.is_crowd)
        self.difficult.append(instance.is_difficult)
        self.truncated.append(instance.is_truncated)
        self.gives_mask.append(instance.gives_mask)
        if instance.mask_rule:
            self.mask_rules[place] = instance.mask_rule
        self.num_rings.append(len(instance.rings))
        for ring in instance.rings:
            self.ring_points.append(len(ring) // 2)
            self.points.extend(ring)
        self.num_runs.append(0 if instance.runs is None else len(instance.runs))
        if instance.runs is not None:
            self.runs += instance.runs.tobytes()
        if instance.keypoints is not None:
            self.keypoints[place] = instance.keypoints


def build_table(document: Document, findings: Findings, *, masks: bool) -> Table:
    """The document as columns. Never raises for what it holds; entries with errors are left out.

    Without `masks` segmentations are not read, and no annotation is judged by its mask.
    """
    reader = EntryReader(findings)
    categories = reader.read_categories(document.categories)
    if not findings.num_errors and not categories:
        findings.add("no-categories", "categories", "an empty list")
    for position, record in enumerate(document.images):
        reader.read_photograph(position, record)
    if not findings.num_errors and not reader.photographs:
        findings.add("no-images", "images", "an empty list")
    gathering = Gathering()
    for position, record in enumerate(document.annotations):
        if not masks and isinstance(record, dict):
            record.pop("segmentation", None)
        instance = reader.read_instance(position, record)
        if instance is not None:
            gathering.add(position, instance)
    if not findings.num_errors and not gathering.rows:
        findings.add("no-annotations", "annotations", "an empty list")
    return settle(gathering, reader, tuple(categories), findings)


def settle(
    gathering: Gathering, reader: EntryReader, categories: tuple[Category, ...], findings: Findings
) -> Table:
    """Sort the annotations by image and decide which are dropped."""
    rows = np.array(gathering.rows, np.int64)
    order = np.argsort(rows, kind="stable")
    num_images = len(reader.photographs)
    sizes = np.array([(p.height, p.width) for p in reader.photographs], np.int32).reshape(-1, 2)
    names = [photograph.file_name.encode() for photograph in reader.photographs]
    ring_offsets = offsets_of(np.array(gathering.ring_points, np.int64))
    instance_rings = offsets_of(np.array(gathering.num_rings, np.int64))
    ring_order, instance_rings = take_parts(instance_rings, order)
    point_order, ring_offsets = take_parts(ring_offsets, ring_order)
    run_order, run_offsets = take_parts(offsets_of(np.array(gathering.num_runs, np.int64)), order)
    mask_kinds = np.zeros(len(order), np.uint8)
    mask_kinds[np.diff(instance_rings) > 0] = POLYGONS
    mask_kinds[np.diff(run_offsets) > 0] = RUNS
    arrays: dict[str, Any] = {
        "image_ids": np.array([photograph.id for photograph in reader.photographs], np.int64),
        "sizes": sizes,
        "names": np.frombuffer(b"".join(names), np.uint8),
        "name_offsets": offsets_of(np.array([len(name) for name in names], np.int64)),
        "instance_offsets": offsets_of(np.bincount(rows, minlength=num_images)),
        "annotation_ids": np.array(gathering.annotation_ids, np.int64)[order],
        "positions": np.array(gathering.positions, np.int64)[order],
        "labels": np.array(gathering.labels, np.int32)[order],
        "boxes": np.array(gathering.boxes, np.float64).reshape(-1, 4)[order],
        "areas": np.array(gathering.areas, np.float64)[order],
        "crowd": np.frombuffer(bytes(gathering.crowd), np.bool_)[order],
        "difficult": np.frombuffer(bytes(gathering.difficult), np.bool_)[order],
        "truncated": np.frombuffer(bytes(gathering.truncated), np.bool_)[order],
        "mask_kinds": mask_kinds,
        "instance_rings": instance_rings,
        "ring_offsets": ring_offsets,
        "points": np.array(gathering.points, np.float64).reshape(-1, 2)[point_order],
        "run_offsets": run_offsets,
        "runs": np.frombuffer(bytes(gathering.runs), np.uint32)[run_order],
        "keypoints": gather_keypoints(gathering, categories, order),
    }
    find_duplicate_ids(arrays, findings)
    has_masks = any(gathering.gives_mask)
    mask_rules = np.array([gathering.mask_rules.get(int(place), "") for place in order], dtype=object)
    if not has_masks:
        mask_rules[:] = ""
    reasons = drop_reasons(arrays, sizes[rows[order]], mask_rules, findings)
    arrays["kept"] = reasons == ""
    arrays["usable"] = arrays["kept"] & ~arrays["crowd"]
    arrays["num_usable"] = np.bincount(rows[order][arrays["usable"]], minlength=num_images).astype(np.int32)
    dropped: dict[str, list[int]] = defaultdict(list)
    for place in np.flatnonzero(reasons != ""):
        dropped[str(reasons[place])].append(int(arrays["annotation_ids"][place]))
    columns = Columns(**{field.name: arrays[field.name] for field in fields(Columns)})
    fill_areas(columns, sizes[rows[order]])
    return Table(
        columns=columns,
        categories=categories,
        has_masks=has_masks,
        dropped=dict(dropped),
        counts=dict(findings.counts),
    )


def offsets_of(lengths: np.ndarray) -> Int64[np.ndarray, " offsets"]:
    """Where parts of these lengths begin and end when laid one after the other."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def take_parts(
    offsets: np.ndarray, order: np.ndarray
) -> tuple[Int64[np.ndarray, " items"], Int64[np.ndarray, " offsets"]]:
    """Where the items of the parts lie when the parts are put in that order, and the new offsets."""
    lengths = np.diff(offsets)[order]
    moved = offsets_of(lengths)
    items = np.repeat(offsets[:-1][order] - moved[:-1], lengths) + np.arange(moved[-1])
    return items, moved


def gather_keypoints(
    gathering: Gathering, categories: tuple[Category, ...], order: np.ndarray
) -> Float32[np.ndarray, "A K 3"]:
    """Keypoints of every annotation, zero where there are none."""
    most = max((len(category.keypoints) for category in categories), default=0)
    keypoints = np.zeros((len(order), most * KEYPOINT_VALUES), np.float32)
    for place, points in gathering.keypoints.items():
        keypoints[place, : len(points)] = points
    return np.asarray(keypoints.reshape(len(order), most, KEYPOINT_VALUES)[order])


def find_duplicate_ids(arrays: dict[str, Any], findings: Findings) -> None:
    """Report annotation ids given twice, and the id 0."""
    ids, positions = arrays["annotation_ids"], arrays["positions"]
    in_file = np.argsort(positions)
    by_id = in_file[np.argsort(ids[in_file], kind="stable")]
    again = by_id[1:][ids[by_id[1:]] == ids[by_id[:-1]]]
    for place in np.sort(again):
        number = int(ids[place])
        findings.add("annotation-id-duplicate", f"annotations[{positions[place]}].id", number, whose=number)
    for place in np.flatnonzero(ids == 0):
        findings.add("annotation-id-zero", f"annotations[{positions[place]}].id", 0, whose=0)


def clip_boxes(boxes: np.ndarray, sizes: np.ndarray) -> Float32[np.ndarray, "A 4"]:
    """(x, y, width, height) as corners clipped to images of these (height, width)."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    limits = sizes[:, [1, 0, 1, 0]]
    clipped: np.ndarray = np.clip(corners, 0, limits).astype(np.float32)
    return clipped


def drop_reasons(
    arrays: dict[str, Any], sizes: np.ndarray, mask_rules: np.ndarray, findings: Findings
) -> np.ndarray:
    """The rule that drops each annotation, or empty text.

    A box is judged as training will see it: clipped, in 32 bits.
    """
    boxes = arrays["boxes"]
    clipped = clip_boxes(boxes, sizes)
    no_area = (boxes[:, 2:] <= 0).any(axis=1)
    outside = ~no_area & (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    reasons = mask_rules.copy()
    for rule, broken in (("box-no-area", no_area), ("box-outside", outside)):
        reasons[broken] = rule
        for place in np.flatnonzero(broken):
            where = f"annotations[{arrays['positions'][place]}].bbox"
            findings.add(rule, where, boxes[place].tolist(), whose=int(arrays["annotation_ids"][place]))
    for rule in ("mask-missing", "mask-empty"):  # polygons without use are reported one by one
        for place in np.flatnonzero(mask_rules == rule):
            where = f"annotations[{arrays['positions'][place]}].segmentation"
            found = "nothing" if rule == "mask-missing" else "no pixel"
            findings.add(rule, where, found, whose=int(arrays["annotation_ids"][place]))
    return reasons


def fill_areas(columns: Columns, sizes: np.ndarray) -> None:
    """Put areas where the file gives none: pixels of the mask, else width times height."""
    for place in np.flatnonzero(np.isnan(columns.areas)):
        height, width = (int(side) for side in sizes[place])
        segmentation = segmentation_of(columns, int(place), height, width)
        if columns.mask_kinds[place] == RUNS:
            columns.areas[place] = mask_area(runs_of(columns, int(place)))
        elif isinstance(segmentation, list):
            columns.areas[place] = polygon_area(segmentation, height, width)
        else:
            columns.areas[place] = max(0.0, columns.boxes[place, 2]) * max(0.0, columns.boxes[place, 3])


def polygon_area(rings: list[list[float]], height: int, width: int) -> int:
    """Pixels inside the union of polygons, as the reference library counts them."""
    from pycocotools import mask as reference

    return int(reference.area(reference.merge(reference.frPyObjects(rings, height, width))))


def rings_of(columns: Columns, place: int) -> list[Float64[np.ndarray, "_ 2"]]:
    """The polygons of one annotation, as annotated."""
    first, last = columns.instance_rings[place : place + 2]
    bounds = columns.ring_offsets[first : last + 1].tolist()
    return [columns.points[a:b] for a, b in pairwise(bounds)]


def runs_of(columns: Columns, place: int) -> UInt32[np.ndarray, " _"]:
    """The run lengths of one annotation."""
    first, last = columns.run_offsets[place : place + 2]
    return columns.runs[first:last]


def segmentation_of(
    columns: Columns, place: int, height: int, width: int
) -> list[list[float]] | dict[str, Any] | None:
    """The mask of one annotation as COCO writes it; None without a mask."""
    kind = columns.mask_kinds[place]
    if kind == POLYGONS:
        return [ring.ravel().tolist() for ring in rings_of(columns, place)]
    if kind == RUNS:
        return {"size": [height, width], "counts": encode_counts(runs_of(columns, place), height, width)}
    return None
