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
from groundup.pictures import Colour, enlarge, enlargement
from groundup.report.drawing import DARK
from groundup.report.frame import Palette
from groundup.report.instances import Instances, draw_kind, found_instances, true_instances
from groundup.report.tables import OVERLAP_NAMES
from groundup.report.wording import neutral
from groundup.study.results import StudyResults

Row = dict[str, Any]

LONGEST_SIDE = 440
"""Of an embedded picture, in pixels: the letters of tags are still read where three stand in a row."""
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
        has_masks = results.question.table_kind == "segm"
        index = open_index(
            results.val_annotations, results.val_images, masks=has_masks, max_dropped_ratio=1.0
        )
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
    """Predictions of the question's kind at the end of runs, each file read once."""

    def __init__(self, results: StudyResults) -> None:
        """Read nothing yet."""
        self.results, self.kind = results, results.question.table_kind
        self.found: dict[str, dict[int, list[Result]]] = {}

    def of(self, key: str, image_id: int) -> list[Result]:
        """What the run found in the photograph.

        Raises:
            DataError: its last evaluation is gone or damaged.
        """
        if key not in self.found:
            end = self.results.run(key).end
            if end is None or end.folder is None:
                raise DataError(f"the last evaluation of {key} is gone")
            by_image: dict[int, list[Result]] = {}
            for result in read_results(end.folder / f"predictions.{self.kind}.json"):
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
    kind, has_tags = reader.kind, len(index.categories) > 1
    truth = true_instances(index, place, kind)
    pictures = [("Truth", draw_on(image, truth, scale, TRUTH_COLOUR, has_tags=has_tags))]
    for arm, key in zip(names, (row["candidate_run"], row["reference_run"]), strict=True):
        sure = [
            one
            for one in reader.of(key, int(row["image_id"]))
            if one["score"] >= row.get("least_score", LEAST_SCORE)
        ]
        found = found_instances(sure, index.categories, kind)
        colour = rgb_of(DARK[palette.tone(arm)])
        pictures.append((arm, draw_on(image, found, scale, colour, has_tags=has_tags)))
    first, second = row["candidate_found"], row["reference_found"]
    return Trio(
        file=neutral(str(row["file"])),
        caption=f"Found at 0.5 {OVERLAP_NAMES[kind]}: {first} and {second} of {row['gt']}",
        pictures=tuple((title, data_uri(picture)) for title, picture in pictures),
    )


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


def draw_on(
    image: np.ndarray, shown: Instances, scale: float, colour: Colour, *, has_tags: bool
) -> np.ndarray:
    """The picture, of `scale` pixels for one of the photograph, enlarged and with instances of one colour."""
    enlarged = enlarge(image, enlargement(image.shape[0], image.shape[1], LONGEST_SIDE))
    canvas, _ = shrink(enlarged)
    return draw_kind(canvas, shown, scale * canvas.shape[1] / image.shape[1], colour, has_tags=has_tags)


def data_uri(picture: np.ndarray) -> str:
    """The picture as JPEG inside an address."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def path_text(path: Path | None) -> str:
    """A path as the page shows it."""
    return "" if path is None else neutral(str(path))
