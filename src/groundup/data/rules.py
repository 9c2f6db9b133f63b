"""The rules about a data set, and what breaking each of them means.

One table for the index, which refuses errors and drops what must be dropped, and for the doctor,
which lists everything: both therefore decide alike, in training and in evaluation. Groups are
those of the project's fault table: A files, B modes, C sizes, D boxes, E masks and keypoints,
F ids and structure.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from groundup.errors import DataError

Severity = Literal["error", "warning", "note"]

MAX_COORDINATE = 1e6
"""Largest coordinate believed, in pixels. Beyond it an annotation is damaged, and a rasteriser,
whose memory grows with the length of an edge, must not see it."""
MAX_FOUND_LENGTH = 80
"""Characters of a found value that a problem repeats."""
SHOWN_ERRORS = 3
"""Errors named in the one line with which opening a data set fails."""


class Rule(NamedTuple):
    """What a rule is about, how grave it is, and what the user can do."""

    group: str
    severity: Severity
    advice: str


RULES: dict[str, Rule] = {
    # The document.
    "document-missing": Rule("F", "error", "give the path of a readable COCO json file"),
    "document-compressed": Rule("C", "error", "unpack it and give the json file itself"),
    "document-too-large": Rule("C", "error", "split the data set, or allow larger documents"),
    "document-not-json": Rule("F", "error", "mend the syntax, or export the file again"),
    "document-trailing-comma": Rule("F", "error", "remove the comma before the closing bracket"),
    "document-nan-literal": Rule("F", "error", "NaN and Infinity are not JSON: remove these records"),
    "document-not-utf8": Rule("F", "error", "save the file as UTF-8"),
    "document-top-level": Rule("F", "error", "a COCO json is an object with images, annotations, categories"),
    "document-section": Rule("F", "error", "images, annotations and categories must each be a list"),
    "record-type": Rule("F", "error", "every record is an object; remove this one"),
    "no-images": Rule("F", "error", "list at least one image"),
    "no-annotations": Rule("F", "warning", "nothing can be learnt or measured without instances"),
    "no-categories": Rule("F", "error", "list the categories that annotations refer to"),
    # Ids and structure.
    "id-type": Rule("F", "error", "ids are whole numbers of at most 63 bits"),
    "id-is-text": Rule("F", "note", "read as the number it spells; write ids as numbers"),
    "image-id-duplicate": Rule("F", "error", "give each image its own id"),
    "annotation-id-duplicate": Rule("F", "error", "give each annotation its own id"),
    "annotation-id-zero": Rule("F", "note", "renumbered for evaluation, where other tools lose it"),
    "category-id-duplicate": Rule("F", "error", "give each category its own id"),
    "category-ids-with-holes": Rule("F", "note", "labels are 0..K-1 by order of id; results use your ids"),
    "category-name": Rule("F", "error", "give the category a name"),
    "category-name-twice": Rule("F", "warning", "two categories share a name: merge or rename them"),
    "category-keypoints": Rule("F", "error", "keypoints is a list of names"),
    "category-skeleton": Rule("F", "warning", "ignored; skeleton is a list of pairs of keypoints, from 1"),
    "category-empty": Rule("F", "note", "no instance of it here, so its AP is undefined"),
    "image-unknown": Rule("F", "error", "list the image, or remove the annotation"),
    "category-unknown": Rule("F", "error", "list the category, or remove the annotation"),
    "image-size": Rule("F", "error", "give height and width as whole numbers above 0"),
    "file-name": Rule("F", "error", "give the file's name, relative to the image folder"),
    "file-escapes": Rule("F", "error", "name files inside the image folder, without .. or links out of it"),
    "file-twice": Rule("F", "error", "merge the records of one photograph into one image"),
    "area-missing": Rule("F", "note", "filled from the mask, else from the box"),
    "area-invalid": Rule("F", "error", "area is a finite number of pixels, not negative"),
    "crowd-missing": Rule("F", "note", "taken as 0"),
    "crowd-invalid": Rule("F", "error", "iscrowd is 0 or 1"),
    "flag-unclear": Rule("F", "warning", "taken as 0; difficult and truncated are 0 or 1"),
    "object-difficult": Rule("F", "note", "data.difficult says if it is learnt from; VOC's AP ignores it"),
    "image-crowd-only": Rule("F", "note", "left out in training, kept in evaluation"),
    "image-without-instances": Rule("F", "note", "left out in training, kept in evaluation"),
    "class-not-in-train": Rule("F", "error", "never trained, it scores 0: add it there or remove it here"),
    "split-overlap": Rule("F", "error", "take the photograph out of one of the two splits"),
    "dropped-too-many": Rule("F", "error", "mend what is dropped, or allow more with data.max_dropped_ratio"),
    # Boxes.
    "box-type": Rule("D", "error", "bbox is [x, y, width, height] in numbers"),
    "box-not-finite": Rule("D", "error", "give finite pixels, or remove the annotation"),
    "box-no-area": Rule("D", "warning", "dropped: width and height must be above 0"),
    "box-outside": Rule("D", "warning", "dropped: the box does not touch its image"),
    "box-beyond-image": Rule("D", "warning", "clipped in training; measured as annotated"),
    "box-reads-as-corners": Rule("D", "warning", "these look like x1 y1 x2 y2; COCO wants x y width height"),
    "box-duplicate": Rule("D", "warning", "the same object twice lowers every score: remove one"),
    "boxes-many": Rule("D", "warning", "raise the limit of detections an image, or split the photograph"),
    # Masks and keypoints.
    "mask-type": Rule("E", "error", "segmentation is a list of polygons [x, y, ...] or an RLE object"),
    "mask-missing": Rule("E", "warning", "dropped, since the data set has masks; or open it without masks"),
    "mask-empty": Rule("E", "warning", "dropped: the mask covers no pixel"),
    "mask-outside-box": Rule("E", "warning", "box and mask disagree: check the annotation"),
    "polygon-too-few-points": Rule("E", "warning", "polygon dropped, and the instance if it has no other"),
    "polygon-odd-coordinates": Rule("E", "warning", "polygon dropped, and the instance if it has no other"),
    "polygon-not-finite": Rule("E", "error", "give finite pixels, or remove the polygon"),
    "polygon-no-area": Rule("E", "note", "kept; it covers next to no pixel"),
    "polygon-self-intersects": Rule("E", "note", "kept; where it overlaps itself, inside is ambiguous"),
    "rle-size": Rule("E", "error", "the mask belongs to an image of another size: export it again"),
    "rle-counts": Rule("E", "error", "run lengths must fill height times width: export the mask again"),
    "keypoints-count": Rule("E", "error", "give x, y, visibility for each keypoint of the category"),
    "keypoints-not-finite": Rule("E", "error", "give finite pixels"),
    "keypoints-missing": Rule("E", "note", "taken as not labelled"),
    "keypoints-unnamed": Rule("E", "warning", "ignored: the category lists no keypoints"),
    "keypoint-visibility": Rule("E", "warning", "the keypoint is taken as not labelled; use 0, 1 or 2"),
    "keypoints-num": Rule("E", "note", "counted anew from the visibilities"),
    # Photographs.
    "image-missing": Rule("A", "error", "put the file there, or remove the image from the json"),
    "image-not-a-file": Rule("A", "error", "replace it by the photograph"),
    "image-unreadable": Rule("A", "error", "allow reading it, or replace it"),
    "image-empty": Rule("A", "error", "the file has no bytes: copy it again"),
    "image-header": Rule("A", "error", "replace the photograph"),
    "image-bytes": Rule("A", "error", "replace the photograph, or change the image policy"),
    "image-extension": Rule("A", "warning", "rename the file after what it holds"),
    "image-size-differs": Rule("B", "error", "height and width of the json must be those of the file"),
    "image-copies": Rule("F", "warning", "the same photograph under two names: remove one"),
    "folder-missing": Rule("A", "error", "give the folder that holds the photographs"),
}  # fmt: skip
"""Every rule by its name. A warning that says `dropped` removes the instance, counted, everywhere."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken rule at one place."""

    rule: str
    severity: Severity
    file: str
    """The annotation file or photograph."""
    id: int | str | None
    """Id of the image, annotation or category as the user's file has it; None for the whole file."""
    field: str
    """Where in the file, as in `annotations[3].bbox`; empty for the whole file."""
    found: str
    advice: str

    def line(self) -> str:
        """The problem as one line of text."""
        whose = f" (id {self.id})" if self.id is not None else ""
        where = f": {self.field}{whose}" if self.field else whose
        found = f", found {self.found}" if self.found else ""
        return f"{self.file}{where}: {self.rule}{found}; {self.advice}"

    def as_json(self) -> dict[str, Any]:
        """The problem as JSON values."""
        return asdict(self)


def short_text(value: object) -> str:
    """A found value on one line, escaped so that no terminal or page obeys it."""
    try:
        text = value if isinstance(value, str) and value.isprintable() else repr(value)
    except (RecursionError, ValueError) as error:  # too deep, or an integer too long to print
        text = f"{type(value).__name__} ({type(error).__name__})"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_FOUND_LENGTH else text[: MAX_FOUND_LENGTH - 3] + "..."


class Findings:
    """Problems as they are found: every one counted, the first so many of each rule kept."""

    def __init__(self, file: str, max_listed: int) -> None:
        """Start empty; problems are in `file` unless said otherwise."""
        self.file = file
        self.max_listed = max_listed
        self.counts: Counter[str] = Counter()
        self.problems: list[Problem] = []

    def add(
        self, rule: str, field: str, found: object, *, whose: int | str | None = None, file: str | None = None
    ) -> None:
        """Note one broken rule."""
        self.counts[rule] += 1
        if self.counts[rule] <= self.max_listed:
            _, severity, advice = RULES[rule]
            whose = short_text(whose) if isinstance(whose, str) else whose
            problem = Problem(
                rule, severity, short_text_path(file or self.file), whose, field, short_text(found), advice
            )
            self.problems.append(problem)

    @property
    def num_errors(self) -> int:
        """Broken rules that make the data set unusable."""
        return sum(count for rule, count in self.counts.items() if RULES[rule].severity == "error")

    def refuse(self) -> None:
        """Go on only if there is no error.

        Raises:
            DataError: one line with the first errors, their number, and how to see them all.
        """
        if not self.num_errors:
            return
        errors = [problem for problem in self.problems if problem.severity == "error"]
        errors.sort(key=lambda problem: problem.rule != "document-missing")
        firsts: dict[str, Problem] = {}
        for problem in errors:
            firsts.setdefault(problem.rule, problem)
        shown = [*firsts.values()][:SHOWN_ERRORS]
        texts = " | ".join(problem.line() for problem in shown)
        more = self.num_errors - len(shown)
        rest = f" | and {more} more" if more else ""
        noun = "error" if self.num_errors == 1 else "errors"
        raise DataError(
            f"{self.num_errors} {noun}: {texts}{rest}; run `groundup data check` for the whole list"
        )


def short_text_path(path: str) -> str:
    """A path for a message: whole, on one line, with what does not print escaped."""
    text = path if path.isprintable() else repr(path)
    return text.encode("utf-8", "backslashreplace").decode()
