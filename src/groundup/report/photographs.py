"""Pictures where the arms disagree: the truth and what each arm found, side by side."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from groundup.data.coco import Index, open_index
from groundup.data.images import ImagePolicy, decode_image
from groundup.errors import CheckpointError, DataError, UsageError
from groundup.metrics.results import Result, read_results
from groundup.pictures import Colour, clip_boxes, draw_instances, enlarge, enlargement, paint_box
from groundup.report.drawing import DARK
from groundup.report.frame import Palette
from groundup.report.wording import neutral
from groundup.study.results import StudyResults

Row = dict[str, Any]

LONGEST_SIDE = 440
"""Of an embedded picture, in pixels: the letters of tags are still read where three stand in a row."""
STROKE = 2
"""Width of the lines of boxes, in pixels."""
JPEG_QUALITY = 82
TRUTH_COLOUR: Colour = (240, 196, 25)
"""Away from the arms' colours, seen on dark and light."""
LEAST_SCORE = 0.5
"""Of a detection that is drawn, where the answer does not say at which score it counted."""
MOST_PER_SIDE = 4
"""Photographs shown in each direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trio:
    """One photograph three times: truth, candidate, reference."""

    file: str
    caption: str
    pictures: tuple[tuple[str, str], ...]
    """(title, data URI)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """Photographs where one arm does better, and what could not be shown."""

    ahead: str
    """The arm that does better here."""
    trios: tuple[Trio, ...]


def draw_disagreements(
    results: StudyResults, rows: Sequence[Row], *, palette: Palette
) -> tuple[list[Disagreement], list[str]]:
    """Both directions, the clearest first; and why pictures are missing, where they are."""
    if not rows:
        return [], []
    if results.val_annotations is None:
        return [], ["The recipes name no validation photographs."]
    try:
        index = open_index(results.val_annotations, results.val_images, masks=False, max_dropped_ratio=1.0)
    except DataError as error:
        return [], [f"The photographs are not shown: {neutral(str(error))}"]
    names = (results.question.candidate, results.question.reference)
    reader = PredictionReader(results)
    groups, problems = [], []
    for side, ahead in enumerate(names):
        trios = []
        for row in [row for row in rows if is_ahead(row, side)][:MOST_PER_SIDE]:
            try:
                trios.append(draw_trio(index, row, names, reader, palette))
            except (DataError, UsageError, CheckpointError, KeyError) as error:
                problems.append(f"{neutral(str(row['file']))} is not shown: {neutral(str(error))}")
        if trios:
            groups.append(Disagreement(ahead=ahead, trios=tuple(trios)))
    return groups, problems


def is_ahead(row: Row, side: int) -> bool:
    """Whether the candidate (0) or the reference (1) finds more."""
    found = row["candidate_found"] - row["reference_found"]
    return bool(found > 0 if side == 0 else found < 0)


class PredictionReader:
    """Predictions at the end of runs, each file read once."""

    def __init__(self, results: StudyResults) -> None:
        """Read nothing yet."""
        self.results = results
        self.found: dict[str, dict[int, list[Result]]] = {}

    def of(self, key: str, image_id: int) -> list[Result]:
        """Boxes that the run found in the photograph.

        Raises:
            DataError: its last evaluation is gone or damaged.
        """
        if key not in self.found:
            end = self.results.run(key).end
            if end is None or end.folder is None:
                raise DataError(f"the last evaluation of {key} is gone")
            by_image: dict[int, list[Result]] = {}
            for result in read_results(end.folder / "predictions.bbox.json"):
                by_image.setdefault(int(result["image_id"]), []).append(result)
            self.found[key] = by_image
        return self.found[key].get(image_id, [])


def draw_trio(
    index: Index, row: Row, names: tuple[str, str], reader: PredictionReader, palette: Palette
) -> Trio:
    """One photograph with the truth and with what either arm found.

    Raises:
        DataError: the photograph or the predictions cannot be read.
    """
    place = index.row_of(int(row["image_id"]))
    height, width = (int(v) for v in index.sizes[place])
    image = decode_image(index.path(place), (height, width), ImagePolicy())
    image, scale = shrink(image)
    truth = index.truth(place)
    labels = {category.id: category.name for category in index.categories}
    ordered = [category.name for category in index.categories]
    true_names = [ordered[label] for label in truth.labels.tolist()]
    pictures = [
        ("Truth", draw_boxes(image, truth.boxes.astype(np.float64) * scale, true_names, None, TRUTH_COLOUR))
    ]
    for arm, key in zip(names, (row["candidate_run"], row["reference_run"]), strict=True):
        found = [
            one
            for one in reader.of(key, int(row["image_id"]))
            if one["score"] >= row.get("least_score", LEAST_SCORE)
        ]
        boxes = np.array([corners_of(one["bbox"]) for one in found], np.float64).reshape(-1, 4) * scale
        shown = [labels.get(one["category_id"], "?") for one in found]
        scores = [float(one["score"]) for one in found]
        pictures.append((arm, draw_boxes(image, boxes, shown, scores, rgb_of(DARK[palette.tone(arm)]))))
    counts = f"Found at IoU 0.5: {row['candidate_found']} and {row['reference_found']} of {row['gt']}"
    return Trio(
        file=neutral(str(row["file"])),
        caption=counts,
        pictures=tuple((title, data_uri(picture)) for title, picture in pictures),
    )


def corners_of(box: Sequence[float]) -> tuple[float, float, float, float]:
    """(x1, y1, x2, y2) of COCO's (x, y, width, height)."""
    x, y, width, height = (float(v) for v in box)
    return x, y, x + width, y + height


def rgb_of(colour: str) -> Colour:
    """The parts of #rrggbb."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def shrink(image: np.ndarray) -> tuple[np.ndarray, float]:
    """The photograph no longer than the longest side, and by what it was scaled."""
    scale = min(1.0, LONGEST_SIDE / max(image.shape[:2]))
    if scale == 1.0:
        return image, 1.0
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), scale


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, names: list[str], scores: list[float] | None, colour: Colour
) -> np.ndarray:
    """The photograph with boxes of one colour; tags where names tell something."""
    scale = enlargement(image.shape[0], image.shape[1], LONGEST_SIDE)
    canvas, shown = shrink(enlarge(image, scale))
    boxes = clip_boxes(boxes * scale * shown, canvas.shape[0], canvas.shape[1])
    for box in boxes:
        paint_box(canvas, box, colour, STROKE)
    neutral_names = [neutral(name) for name in names]
    return draw_instances(
        canvas, boxes, neutral_names, scores, colours=dict.fromkeys(neutral_names, colour), min_long_side=1
    )


def data_uri(picture: np.ndarray) -> str:
    """The picture as JPEG inside an address."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def path_text(path: Path | None) -> str:
    """A path as the page shows it."""
    return "" if path is None else neutral(str(path))
