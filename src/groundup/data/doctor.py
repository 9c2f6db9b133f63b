"""The doctor: every problem of a data set, listed; nothing repaired.

It reads by the rules that the index reads by (`entries`, `columns`), so what it calls an error is
what keeps the index from opening, and what it says is dropped is what the index drops.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundup.data.anomalies import find_anomalies
from groundup.data.coco import MAX_DROPPED_RATIO
from groundup.data.columns import Table, build_table
from groundup.data.document import MAX_DOCUMENT_BYTES, find_document, read_document
from groundup.data.images import ImagePolicy
from groundup.data.photographs import (
    Progress,
    Stated,
    examine_photographs,
    find_copies,
    find_overlap,
)
from groundup.data.rules import RULES, Findings, Problem, Severity
from groundup.errors import EXIT_OK, DataError

MAX_LISTED = 100_000
"""Problems of one rule that are listed; beyond it they are only counted, or a file of a gigabyte of
nonsense would fill the memory with descriptions of itself."""
SHOWN_IN_TEXT = 10
"""Problems of one rule that the text shows."""
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What the doctor found."""

    annotations: Path
    images: Path
    problems: tuple[Problem, ...]
    """In the order of the examination, at most `MAX_LISTED` a rule."""
    counts: dict[str, int]
    """How often each rule is broken, all counted."""
    num_images: int
    num_annotations: int
    num_categories: int
    """Entries without an error."""
    num_dropped: int
    """Annotations that training and evaluation leave out."""

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Problems that keep the data set from being used."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def exit_code(self) -> int:
        """Status for the command line: that of a data error if there is any."""
        return DataError.exit_code if self.errors else EXIT_OK

    def num_of(self, severity: Severity) -> int:
        """How many problems are that grave."""
        return sum(count for rule, count in self.counts.items() if RULES[rule].severity == severity)

    def to_json(self) -> dict[str, Any]:
        """The whole examination as JSON values."""
        return {
            "annotations": str(self.annotations),
            "images": str(self.images),
            "num_images": self.num_images,
            "num_annotations": self.num_annotations,
            "num_categories": self.num_categories,
            "num_dropped": self.num_dropped,
            "totals": {severity: self.num_of(severity) for severity in SEVERITIES},
            "counts": self.counts,
            "problems": [problem.as_json() for problem in self.problems],
        }

    def lines(self, max_shown: int = SHOWN_IN_TEXT) -> list[str]:
        """Text for a terminal: rules from grave to slight, each with its first problems, and a sum."""
        lines = []
        for severity in SEVERITIES:
            for rule, count in self.counts.items():
                if RULES[rule].severity != severity:
                    continue
                lines.append(f"{severity}: {rule} ({count}): {RULES[rule].advice}")
                shown = [problem for problem in self.problems if problem.rule == rule][:max_shown]
                lines += [f"  {self.describe(problem)}" for problem in shown]
                if count > len(shown):
                    lines.append(f"  ... and {count - len(shown)} more")
        totals = ", ".join(plural(self.num_of(severity), severity) for severity in SEVERITIES)
        sizes = (
            f"{plural(self.num_images, 'image')}, {plural(self.num_annotations, 'annotation')} "
            f"({self.num_dropped} dropped), {self.num_categories} categories"
        )
        lines.append(f"{sizes}: {totals}")
        return lines

    def describe(self, problem: Problem) -> str:
        """One problem without its rule and advice, which stand above it, nor the json, which is known."""
        known = problem.file == str(self.annotations) and problem.field
        whose = f" (id {problem.id})" if problem.id is not None else ""
        place = (
            problem.field if known else f"{problem.file}: {problem.field}" if problem.field else problem.file
        )
        return f"{place}{whose}: {problem.found}".removesuffix(": ")


def plural(count: int, noun: str) -> str:
    """A number with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def examine(
    annotations: Path,
    images: Path | None = None,
    *,
    policy: ImagePolicy | None = None,
    other: Path | None = None,
    other_images: Path | None = None,
    decode: bool = True,
    masks: bool = True,
    max_document_bytes: int = MAX_DOCUMENT_BYTES,
    max_dropped_ratio: float = MAX_DROPPED_RATIO,
    max_listed: int = MAX_LISTED,
    progress: Progress | None = None,
) -> Examination:
    """Every problem of the data set. Never raises for what the files hold.

    Args:
        annotations: COCO json, or a folder with Roboflow's `_annotations.coco.json`.
        images: folder of the photographs; None for the folder of the json.
        policy: what photographs are let in; None for the usual.
        other: training json against which this one, for validation, is examined too: its classes
            must be trained, its photographs must not.
        other_images: folder of the other's photographs; None for the folder of its json.
        decode: decode every photograph; else only its header is read.
        masks: read segmentations, as `open_index` does.
        max_document_bytes: larger json files are refused unread.
        max_dropped_ratio: share of the annotations that may be dropped, as for `open_index`.
        max_listed: problems of one rule that are listed; all are counted.
        progress: called with (photographs examined, photographs in all).
    """
    document_path = find_document(Path(annotations)).absolute()
    folder = Path(images).absolute() if images is not None else document_path.parent
    findings = Findings(str(document_path), max_listed)
    table = build_table(read_document(document_path, findings, max_document_bytes), findings, masks=masks)
    find_anomalies(table, findings)
    find_structure(table, findings)
    num_dropped = sum(len(ids) for ids in table.dropped.values())
    if num_dropped > max_dropped_ratio * len(table.columns.kept):
        findings.add("dropped-too-many", "annotations", f"{num_dropped} of {len(table.columns.kept)}")
    stated = stated_photographs(table)
    policy = policy if policy is not None else ImagePolicy()
    lengths = examine_photographs(folder, stated, findings, policy=policy, decode=decode, progress=progress)
    find_copies(folder, stated, lengths, findings)
    if other is not None:
        training = read_training(Path(other), findings, max_document_bytes)
        home = (
            Path(other_images).absolute() if other_images is not None else find_document(Path(other)).parent
        )
        if training is not None:
            compare_classes(table, training, findings)
            find_overlap(folder, stated, lengths, lengths_of(home, training), findings)
    return Examination(
        annotations=document_path,
        images=folder,
        problems=tuple(findings.problems),
        counts=dict(findings.counts),
        num_images=len(table.columns.image_ids),
        num_annotations=len(table.columns.annotation_ids),
        num_categories=len(table.categories),
        num_dropped=num_dropped,
    )


def stated_photographs(table: Table) -> list[Stated]:
    """What the annotation file says of each photograph, by row."""
    columns = table.columns
    names = columns.names.tobytes()
    offsets = columns.name_offsets.tolist()
    return [
        Stated(int(number), names[offsets[row] : offsets[row + 1]].decode(), (int(size[0]), int(size[1])))
        for row, (number, size) in enumerate(zip(columns.image_ids, columns.sizes, strict=True))
    ]


def find_structure(table: Table, findings: Findings) -> None:
    """Report categories with holes or without instances, and images without anything to learn."""
    columns = table.columns
    ids = [category.id for category in table.categories]
    if ids and ids[-1] - ids[0] + 1 != len(ids):
        findings.add("category-ids-with-holes", "categories", f"{len(ids)} ids from {ids[0]} to {ids[-1]}")
    num_of_label = np.bincount(columns.labels[columns.kept], minlength=len(ids))
    for label in np.flatnonzero(num_of_label == 0):
        category = table.categories[label]
        findings.add("category-empty", "categories", category.name, whose=category.id)
    for place in np.flatnonzero(columns.difficult & columns.kept):
        where, whose = f"annotations[{columns.positions[place]}]", int(columns.annotation_ids[place])
        found = "a crowd" if columns.crowd[place] else "no crowd"
        findings.add("object-difficult", where, found, whose=whose)
    rows = np.repeat(np.arange(len(columns.image_ids)), np.diff(columns.instance_offsets))
    num_kept = np.bincount(rows[columns.kept], minlength=len(columns.image_ids))
    for row in np.flatnonzero(columns.num_usable == 0):
        rule = "image-crowd-only" if num_kept[row] else "image-without-instances"
        found = f"{num_kept[row]} crowds" if num_kept[row] else ""
        findings.add(rule, "images", found, whose=int(columns.image_ids[row]))


def read_training(other: Path, findings: Findings, max_document_bytes: int) -> Table | None:
    """The training set's table, or None where it cannot be read, which is reported.

    Its own faults belong to its own examination.
    """
    document_path = find_document(other).absolute()
    silent = Findings(str(document_path), max_listed=1)
    training = build_table(read_document(document_path, silent, max_document_bytes), silent, masks=False)
    if training.categories:
        return training
    for problem in silent.problems[:1]:
        findings.add(problem.rule, problem.field, problem.found, file=str(document_path))
    return None


def compare_classes(table: Table, training: Table, findings: Findings) -> None:
    """Report classes with instances here that training does not have under the same id and name."""
    known = {category.id: category.name for category in training.categories}
    used = set(table.columns.labels.tolist())
    for label, category in enumerate(table.categories):
        there = known.get(category.id, "unknown")
        if label in used and there != category.name:
            found = f"{category.name}; in the training set this id is {there}"
            findings.add("class-not-in-train", "categories", found, whose=category.id)


def lengths_of(folder: Path, table: Table) -> dict[Path, int]:
    """Bytes of each photograph that can be found."""
    lengths = {}
    for one in stated_photographs(table):
        with contextlib.suppress(OSError):
            lengths[folder / one.name] = (folder / one.name).stat().st_size
    return lengths
