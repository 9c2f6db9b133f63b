"""Detections as COCO results json: read, check, write.

A result is one detection: `{"image_id", "category_id", "score"}` and `bbox` (x, y, width, height),
`segmentation` (run-length encoding of the whole image) or `keypoints` (column, row, score of each), all in
pixels of the photograph, with the ids of the user's annotation file. The shape is that of
https://cocodataset.org/#format-results, which Detectron2, MMDetection and Ultralytics write too.
"""

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from operator import is_, itemgetter
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
from jaxtyping import Float64, Int64

from groundup.errors import DataError
from groundup.records import write_whole

Kind: TypeAlias = Literal["bbox", "segm", "keypoints"]
"""What is compared with the truth: boxes, masks or keypoints. Source: pycocotools' `iouType`."""
KINDS: tuple[Kind, ...] = ("bbox", "segm", "keypoints")
FIELD: dict[Kind, str] = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
"""Field of a result that holds the detection of each kind."""
PIXEL_CENTRE = 0.5
"""From a pixel's column or row, which COCO's keypoints are, to its middle."""
LIST_FIELDS = ("annotations", "predictions", "results")
"""Fields under which a foreign file may hold its list of results."""
NUM_NAMED = 5
"""Faulty results named one by one in a message; the rest are counted."""
AT_ONCE = 2_048
"""Results whose fields are read before the next ones are looked at: as many as a processor's cache holds."""

Document: TypeAlias = dict[str, Any]
"""A COCO annotation file as Python values: `images`, `annotations`, `categories`."""
Result: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedResults:
    """Results without fault, with their numbers in columns. N counts them."""

    kind: Kind
    image_rows: Int64[np.ndarray, " N"]
    """Row of each result's image in the document's `images`."""
    category_ids: Int64[np.ndarray, " N"]
    scores: Float64[np.ndarray, " N"]
    values: Float64[np.ndarray, "N _"]
    """(x, y, width, height) of boxes; no columns for masks and keypoints."""


def check_results(
    document: Document, results: Sequence[Result], kind: Kind, *, source: str = "results"
) -> CheckedResults:
    """Refuse results that an evaluator would count wrongly or drop in silence.

    `source` names the results in messages. No results at all are no fault.

    Raises:
        DataError: a missing field, an image or category that the annotations do not have, a score
            that is not finite, a box that is not finite or has a negative size, a mask of another
            size than its image, keypoints that are not finite or not three numbers each. The message
            lists every rule broken with its count and the first rows and image ids.
    """
    faults = Faults(results, source)
    if not set(map(type, results)) <= {dict}:
        faults.add("are not objects", [not isinstance(result, dict) for result in results])
    faults.stop()
    image_ids, categories, scores, found = field_values(
        results, ("image_id", "category_id", "score", FIELD[kind]), faults
    )
    faults.stop()

    image_rows = rows_of(image_ids, [image["id"] for image in document["images"]])
    known = np.array([category["id"] for category in document["categories"]], dtype=np.int64)
    category_rows = rows_of(categories, known.tolist())
    score_column = column(scores)
    faults.add("name an image the annotations do not have", image_rows < 0, "image_id")
    faults.add("name a category the annotations do not have", category_rows < 0, "category_id")
    faults.add("have a score that is not a finite number", ~np.isfinite(score_column), "score")
    if kind == "segm":
        faults.stop()
        check_masks(document, found, image_rows, faults)
        values = np.zeros((len(results), 0))
    else:
        values = check_boxes(found, faults) if kind == "bbox" else check_keypoints(found, faults)
    faults.stop()
    return CheckedResults(
        kind=kind,
        image_rows=image_rows,
        category_ids=known[category_rows],
        scores=score_column,
        values=values,
    )


class Faults:
    """Faulty results gathered rule by rule, raised together as one line."""

    def __init__(self, results: Sequence[Any], source: str) -> None:
        """Start with no faults."""
        self.results = results
        self.source = source
        self.sentences: list[str] = []

    def add(self, rule: str, faulty: list[bool] | np.ndarray, field: str | None = None) -> None:
        """Note the results for which `faulty` is true; `field` is shown with each."""
        rows = np.flatnonzero(faulty).tolist()
        if rows:
            named = ", ".join(self.name(row, field) for row in rows[:NUM_NAMED])
            more = f" and {len(rows) - NUM_NAMED} more" if len(rows) > NUM_NAMED else ""
            self.sentences.append(f"{len(rows)} of {len(self.results)} results {rule}: {named}{more}")

    def name(self, row: int, field: str | None) -> str:
        """One faulty result: its row in the file, its image, the value that is wrong."""
        result = self.results[row]
        if not isinstance(result, dict):
            return f"row {row}"
        where = f"row {row} (image {result.get('image_id', 'unknown')!r}"
        return f"{where}, {field} {result.get(field)!r})" if field not in (None, "image_id") else f"{where})"

    def stop(self) -> None:
        """Raise what was noted, if anything was."""
        if self.sentences:
            raise DataError(
                f"{self.source}: {'; '.join(self.sentences)}; mend the program that wrote them, "
                "or evaluate with the annotations they were made for"
            )


def field_values(results: Sequence[Result], names: Sequence[str], faults: Faults) -> list[list[Any]]:
    """The fields of every result, one list a field; a fault where a result has none."""
    columns: list[list[Any]] = [[] for _ in names]
    getters = [itemgetter(name) for name in names]
    try:
        for first in range(0, len(results), AT_ONCE):
            block = results[first : first + AT_ONCE]
            for column, getter in zip(columns, getters, strict=True):
                column.extend(map(getter, block))
    except KeyError:
        for name in names:
            faults.add(f"have no '{name}'", [name not in result for result in results])
    return columns


def rows_of(keys: list[Any], known: list[Any]) -> Int64[np.ndarray, " N"]:
    """The place of each key among the known ones; -1 where it is none of them."""
    rows = {key: row for row, key in enumerate(known)}
    try:
        return np.fromiter(map(rows.get, keys, repeat(-1)), np.int64, len(keys))
    except TypeError:  # keys that cannot be ids at all, such as lists
        return np.array([rows.get(key, -1) if isinstance(key, Hashable) else -1 for key in keys])


def column(values: Sequence[Any]) -> Float64[np.ndarray, " N"]:
    """The values as floats; NaN where a value is not a number."""
    try:
        return np.fromiter(values, np.float64, len(values))
    except (TypeError, ValueError):
        return np.array([number(value) for value in values])


def number(value: Any) -> float:
    """The value as a float; NaN where it is not a number."""
    return float(value) if isinstance(value, int | float | np.number) else float("nan")


def check_boxes(boxes: list[Any], faults: Faults) -> Float64[np.ndarray, "N _"]:
    """The boxes as one table; faults noted, and then the table may be empty."""
    if not are_sequences(boxes) or not set(map(len, boxes)) <= {4}:
        wrong = [not are_sequences([box]) or len(box) != 4 for box in boxes]
        faults.add("have a bbox that is not (x, y, width, height)", wrong, "bbox")
        return np.zeros((0, 4))
    try:
        table = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes)).reshape(-1, 4)
    except (TypeError, ValueError):
        table = np.array([column(box) for box in boxes])
    if not np.isfinite(table).all():
        faults.add("have a bbox that is not finite", [not np.isfinite(row).all() for row in table], "bbox")
    elif (table[:, 2:] < 0).any():
        faults.add("have a bbox of negative size", [bool((row[2:] < 0).any()) for row in table], "bbox")
    return table


def check_keypoints(keypoints: list[Any], faults: Faults) -> Float64[np.ndarray, "N _"]:
    """Note keypoints that cannot be; categories may differ in their number, so there is no table."""
    wrong = [not are_sequences([points]) or not len(points) or len(points) % 3 != 0 for points in keypoints]
    faults.add("have keypoints that are not (x, y, score) each", wrong, "keypoints")
    if not any(wrong):
        infinite = [not np.isfinite(column(points)).all() for points in keypoints]
        faults.add("have keypoints that are not finite", infinite, "keypoints")
    return np.zeros((len(keypoints), 0))


def are_sequences(values: list[Any]) -> bool:
    """Whether every value is a list of numbers or can stand for one."""
    return set(map(type, values)) <= {list, tuple, np.ndarray}


def check_masks(
    document: Document, masks: list[Any], image_rows: Int64[np.ndarray, " N"], faults: Faults
) -> None:
    """Note masks that are no run-length encoding or have another size than their image.

    Whether the runs fit the image is seen where they are decoded, in `coco_ap`.
    """
    sizes = [[image["height"], image["width"]] for image in document["images"]]
    try:
        found = list(map(itemgetter("size"), masks))
        shapeless = any(map(is_, map(itemgetter("counts"), masks), repeat(None)))
    except (TypeError, KeyError, IndexError):
        shapeless = True
    if shapeless:
        wrong = [not isinstance(m, dict) or m.get("counts") is None or "size" not in m for m in masks]
        faults.add("have a segmentation that is no run-length encoding", wrong)
        return
    wanted = [sizes[row] for row in image_rows.tolist()]
    if found != wanted:
        differs = [list(size) != want for size, want in zip(found, wanted, strict=True)]
        faults.add("have a mask of another size than their image", differs)


def kinds_of(results: Sequence[Result]) -> tuple[Kind, ...]:
    """The kinds every result can be evaluated as; all of them where there is no result."""
    return tuple(kind for kind in KINDS if all(FIELD[kind] in result for result in results))


def read_results(path: Path) -> list[Result]:
    """The results a json file holds: a list, or an object with the list under `annotations`.

    `image_id`s that are file names (Ultralytics writes the stem where it is no number) stay as they
    are; see `resolve_names`.

    Raises:
        DataError: missing, not JSON, or no list of results.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: results cannot be read: {error.strerror}") from None
    try:
        value = msgspec.json.decode(data)
    except msgspec.DecodeError:
        try:  # Python writes NaN and Infinity, which are not JSON; they are named by check_results
            value = json.loads(data)
        except ValueError as error:
            raise DataError(f"{path}: results are not JSON: {error}") from None
    if isinstance(value, dict):
        value = next((value[field] for field in LIST_FIELDS if field in value), value)
    if not isinstance(value, list):
        raise DataError(
            f"{path}: expected a list of results [{{image_id, category_id, score, bbox}}, ...], "
            f"found {type(value).__name__}"
        )
    return value


def resolve_names(document: Document, results: Sequence[Result]) -> tuple[list[Result], int]:
    """The results with image ids given as file name or stem replaced by ids, and how many were.

    A name that several images share is left as it is, and `check_results` refuses it.
    """
    ids: dict[str, Any] = {}
    for image in document["images"]:
        path = Path(str(image.get("file_name", "")))
        for key in {str(path), path.name, path.stem} - {"", "."}:
            ids[key] = None if key in ids else image["id"]
    known = {image["id"] for image in document["images"]}
    resolved, count = [], 0
    for result in results:
        name = result.get("image_id") if isinstance(result, dict) else None
        found = ids.get(name) if isinstance(name, str) and name not in known else None
        resolved.append(result if found is None else {**result, "image_id": found})
        count += found is not None
    return resolved, count


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write the results as one JSON list, whole or not at all; byte counts of masks become text.

    Raises:
        DataError: a score that is not finite, which JSON cannot hold.
        CheckpointError: the disk is full or the folder cannot be written.
    """
    faults = Faults(results, str(path))
    scores = column([result["score"] for result in results])
    faults.add("have a score that is not a finite number", ~np.isfinite(scores), "score")
    faults.stop()
    write_whole(path, msgspec.json.encode([with_text_counts(result) for result in results]) + b"\n")


def with_text_counts(result: Result) -> Result:
    """The result with the counts of its mask as text, as JSON needs them."""
    mask = result.get("segmentation")
    if isinstance(mask, dict) and isinstance(mask.get("counts"), bytes):
        return {**result, "segmentation": {**mask, "counts": mask["counts"].decode("ascii")}}
    return result
