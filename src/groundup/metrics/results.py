"""Detections as COCO results json: read, check, write.

A result is one detection: `{"image_id", "category_id", "score"}` and `bbox` (x, y, width, height),
`segmentation` (run-length encoding of the whole image) or `keypoints` (x, y, score of each), all in
pixels of the photograph, with the ids of the user's annotation file. The shape is that of
https://cocodataset.org/#format-results, which Detectron2, MMDetection and Ultralytics write too.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
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
LIST_FIELDS = ("annotations", "predictions", "results")
"""Fields under which a foreign file may hold its list of results."""
NUM_NAMED = 5
"""Faulty results named one by one in a message; the rest are counted."""

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
    """(x, y, width, height) or (x, y, score) per keypoint, flat; no columns for masks."""


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
    faults.add("are not objects", [not isinstance(result, dict) for result in results])
    faults.stop()
    for field in ("image_id", "category_id", "score", FIELD[kind]):
        faults.add(f"have no '{field}'", [field not in result for result in results])
    faults.stop()

    row_of = {image["id"]: row for row, image in enumerate(document["images"])}
    category_of = {category["id"]: category["id"] for category in document["categories"]}
    image_rows = np.array([lookup(row_of, result["image_id"]) for result in results], dtype=np.int64)
    categories = [lookup(category_of, result["category_id"], None) for result in results]
    faults.add("name an image the annotations do not have", image_rows < 0, "image_id")
    faults.add("name a category the annotations do not have", [c is None for c in categories], "category_id")
    scores = column([result["score"] for result in results])
    faults.add("have a score that is not a finite number", ~np.isfinite(scores), "score")
    if kind == "segm":
        values = np.zeros((len(results), 0))
        faults.stop()
        check_masks(document, results, image_rows, faults)
    else:
        values = check_values(results, kind, faults)
    faults.stop()
    return CheckedResults(
        kind=kind,
        image_rows=image_rows,
        category_ids=np.array(categories, dtype=np.int64),
        scores=scores,
        values=values,
    )


class Faults:
    """Faulty results gathered rule by rule, raised together as one line."""

    def __init__(self, results: Sequence[Any], source: str) -> None:
        """Start with no faults."""
        self.results = results
        self.source = source
        self.sentences: list[str] = []

    def add(self, rule: str, faulty: Iterable[bool] | np.ndarray, field: str | None = None) -> None:
        """Note the results for which `faulty` is true; `field` is shown with each."""
        rows = np.flatnonzero(np.fromiter(faulty, dtype=bool, count=len(self.results))).tolist()
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


def lookup(table: Mapping[Any, Any], key: Any, missing: Any = -1) -> Any:
    """The table's value, or `missing`, also for keys that no table can have, such as lists."""
    try:
        return table.get(key, missing)
    except TypeError:
        return missing


def column(values: Sequence[Any]) -> Float64[np.ndarray, " N"]:
    """The values as floats; NaN where a value is not a number."""
    try:
        return np.array(values, dtype=np.float64).reshape(len(values))
    except (TypeError, ValueError):
        return np.array([number(value) for value in values])


def number(value: Any) -> float:
    """The value as a float; NaN where it is not a number."""
    return float(value) if isinstance(value, int | float | np.number) else float("nan")


def check_values(results: Sequence[Result], kind: Kind, faults: Faults) -> Float64[np.ndarray, "N _"]:
    """The boxes or keypoints as one table, faults noted; an empty table where it has no shape."""
    field = FIELD[kind]
    rows = [result[field] for result in results]
    wanted = 4 if kind == "bbox" else 3
    if kind == "bbox":
        wrong = [not is_sequence(row) or len(row) != wanted for row in rows]
        faults.add("have a bbox that is not (x, y, width, height)", wrong, field)
    else:
        wrong = [not is_sequence(row) or not len(row) or len(row) % wanted != 0 for row in rows]
        faults.add("have keypoints that are not (x, y, score) each", wrong, field)
    width = len(rows[0]) if rows and not wrong[0] else wanted
    if any(wrong):
        return np.zeros((0, width))
    if kind == "keypoints" and any(len(row) != width for row in rows):  # categories differ in keypoints
        finite = [bool(np.isfinite(column(row)).all()) for row in rows]
        faults.add(f"have {field} that are not finite", [not f for f in finite], field)
        return np.zeros((len(rows), 0))
    table = column(list(chain.from_iterable(rows))).reshape(len(rows), width)
    finite_rows = np.isfinite(table).all(axis=1)
    faults.add(f"have a {field} that is not finite", ~finite_rows, field)
    if kind == "bbox":
        faults.add("have a bbox of negative size", finite_rows & (table[:, 2:] < 0).any(axis=1), field)
    return table


def is_sequence(value: Any) -> bool:
    """Whether the value is a list of numbers or can stand for one."""
    return isinstance(value, list | tuple | np.ndarray)


def check_masks(
    document: Document, results: Sequence[Result], image_rows: Int64[np.ndarray, " N"], faults: Faults
) -> None:
    """Note masks that are no run-length encoding or have another size than their image.

    Whether the runs fit the image is seen where they are decoded, in `coco_ap`.
    """
    sizes = [[image["height"], image["width"]] for image in document["images"]]
    masks = [result["segmentation"] for result in results]
    shapeless = [not isinstance(m, dict) or "counts" not in m or "size" not in m for m in masks]
    faults.add("have a segmentation that is no run-length encoding", shapeless)
    if any(shapeless):
        return
    differs = [list(m["size"]) != sizes[row] for m, row in zip(masks, image_rows.tolist(), strict=True)]
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
