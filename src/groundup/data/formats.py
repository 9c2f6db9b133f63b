"""What the conversions to COCO json share: their rules, their result, the photograph's size.

The converters are `groundup.data.voc` and `groundup.data.yolo`. A conversion never stops at the first
fault: it goes on, lists every one in the doctor's own words, and is refused as a whole when it is
written while an error is among them. What is left out of the document is in the list.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundup.data.images import SUFFIXES, Size, read_header
from groundup.data.rules import SHOWN_ERRORS, Problem, Rule, short_text, short_text_path
from groundup.errors import DataError
from groundup.records import write_json

CONVERSION_RULES: dict[str, Rule] = {
    "list-twice": Rule("F", "warning", "converted once; remove the second line"),
    "image-in-two-parts": Rule("F", "warning", "converted once, with the annotation of the earlier folder"),
    "list-line": Rule("F", "error", "one name a line; lists with a second column are of one class"),
    "xml-missing": Rule("F", "error", "put the xml there, or take the name out of the list"),
    "xml-damaged": Rule("F", "error", "export the annotation again"),
    "image-missing": Rule("A", "error", "put the photograph there, or remove its annotation"),
    "image-unclear": Rule("F", "error", "several photographs share the name; keep the annotated one"),
    "image-other-name": Rule("F", "note", "taken, since none has the annotation's own name"),
    "image-damaged": Rule("A", "error", "replace the photograph"),
    "image-size-missing": Rule("F", "note", "filled from the photograph"),
    "image-size-differs": Rule("B", "error", "correct the stated size, or restore the annotated photograph"),
    "masks-left-out": Rule("E", "note", "only boxes are read; SegmentationObject is not"),
    "object-name": Rule("F", "error", "name the object's class"),
    "class-unknown": Rule("F", "error", "add the class to the list of classes, or remove the object"),
    "flag-invalid": Rule("F", "error", "difficult, truncated and occluded are 0 or 1"),
    "box-missing": Rule("D", "error", "give the object a box, or remove it"),
    "box-type": Rule("D", "error", "give finite pixels, or remove the object"),
    "box-no-area": Rule("D", "warning", "dropped: width and height must be above 0"),
    "box-from-zero": Rule("D", "warning", "VOC counts pixels from 1; set voc_offset=0 if these do not"),
    "folder-elsewhere": Rule("F", "note", "taken, since the folder that the yaml names is not there"),
    "label-missing": Rule("F", "note", "taken as a photograph without objects"),
    "label-damaged": Rule("F", "error", "a label file is UTF-8 text; export it again"),
    "label-orphan": Rule("F", "warning", "not converted: no photograph has this name"),
    "line-form": Rule("D", "error", "write: class cx cy width height, or class x1 y1 x2 y2 x3 y3 ..."),
    "line-not-normalised": Rule("D", "error", "divide by the photograph's width and height"),
    "mask-missing": Rule("E", "warning", "boxes among polygons; give them polygons, or set polygons=boxes"),
    "mask-empty": Rule("E", "warning", "dropped: the polygon encloses nothing"),
}  # fmt: skip
"""What a conversion can find. Groups and severities are those of `groundup.data.rules`."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """A COCO document made from another format, and everything that was odd on the way."""

    document: dict[str, Any]
    """`info`, `images`, `annotations`, `categories`; ids count from 1 in a fixed order."""
    images: Path
    """The folder to which the document's file names are relative."""
    problems: list[Problem]
    """Everything found, in the order of the files."""

    @property
    def counts(self) -> dict[str, int]:
        """How often each rule was broken, by the rule's name."""
        return dict(sorted(Counter(problem.rule for problem in self.problems).items()))


@dataclass(slots=True)
class Draft:
    """A conversion in the making."""

    names: list[str] = field(default_factory=list)
    """Classes in the order of their category ids 1, 2, ..."""
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def note(self, rule: str, file: Path, where: str = "", found: object = "") -> None:
        """List one broken rule."""
        _, severity, advice = CONVERSION_RULES[rule]
        self.problems.append(
            Problem(rule, severity, short_text_path(str(file)), None, where, short_text(found), advice)
        )

    def add_image(self, file_name: str, size: Size) -> None:
        """Append an image; annotations that follow belong to it."""
        height, width = size
        self.images.append(
            {"id": len(self.images) + 1, "file_name": file_name, "width": width, "height": height}
        )

    def add_annotation(self, category: int, box: list[float], area: float, **rest: Any) -> None:
        """Append an instance of the last image; `box` is x, y, width, height in pixels."""
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "image_id": len(self.images),
                "category_id": category,
                "bbox": box,
                "area": area,
                "iscrowd": 0,
                **rest,
            }
        )

    def finish(self, images: Path, description: str) -> Conversion:
        """The conversion."""
        categories = [
            {"id": number, "name": name, "supercategory": "object"}
            for number, name in enumerate(self.names, start=1)
        ]
        document = {
            "info": {"description": description},
            "images": self.images,
            "annotations": self.annotations,
            "categories": categories,
        }
        return Conversion(document, images, self.problems)


def write_conversion(conversion: Conversion, path: Path) -> None:
    """Write the document as COCO json, whole or not at all.

    Raises:
        DataError: an error is among the problems; nothing is written.
        CheckpointError: the path cannot be written.
    """
    errors = [problem for problem in conversion.problems if problem.severity == "error"]
    if errors:
        shown = " | ".join(problem.line() for problem in errors[:SHOWN_ERRORS])
        more = f" | and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
        noun = "error" if len(errors) == 1 else "errors"
        raise DataError(f"nothing converted, {len(errors)} {noun}: {shown}{more}")
    write_json(path, conversion.document)


def image_size(draft: Draft, path: Path, stated: Size | None) -> Size | None:
    """The size on which the photograph's boxes were drawn, or None where the photograph is unusable.

    It is the stated one if the photograph, as stored or turned upright, has it; the upright one if none is
    stated, as viewers and annotation tools show it.
    """
    try:
        header = read_header(path)
    except DataError as error:
        draft.note("image-damaged", path, "", str(error).removeprefix(f"{path}: "))
        return None
    if stated is None:
        return header.upright_size
    if stated in (header.size, header.upright_size):
        return stated
    height, width = header.size
    draft.note("image-size-differs", path, "", f"{width} x {height}, annotated as {stated[1]} x {stated[0]}")
    return None


def pictures_below(folder: Path) -> list[Path]:
    """Every picture of the folder and its subfolders, by name, in a fixed order.

    Names that begin with a dot are the system's, not the data set's.
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def finite_number(text: str) -> float | None:
    """The finite number that the text spells, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None
