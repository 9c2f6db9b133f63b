"""AP as aligned lines of text, for terminals and logs."""

from collections.abc import Sequence

from groundup.metrics.coco_ap import CocoAP
from groundup.metrics.results import Kind
from groundup.metrics.voc_ap import VocAP

NAMES: dict[Kind, str] = {"bbox": "box", "segm": "mask", "keypoints": "keypoints"}
"""What the kinds are called in tables and in the names of logged values."""
TRAINING = "train"
"""Stands before the names of values that are of training photographs: train/box/AP."""
UNDEFINED = "undefined"
GAP = "  "
MAX_NAME_LENGTH = 40
"""Characters of a category's name that are shown."""


def ap_lines(values: Sequence[CocoAP]) -> list[str]:
    """One table over all categories, one row a kind, then one table by category, then the notes.

    Values are given in percent with one decimal, as papers print them.
    """
    rows = [["kind", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR@1", "AR@10", "AR@max", "detections"]]
    for one in values:
        recalls = [one.AR.get(1), one.AR.get(10), one.AR[one.max_detections]]
        means = [one.AP, one.AP50, one.AP75, one.APs, one.APm, one.APl, *recalls]
        rows.append([NAMES[one.kind], *(percent(value) for value in means), str(one.max_detections)])
    lines = align(rows)
    lines += ["", *align(category_rows(values))]
    notes = dict.fromkeys(f"note: {NAMES[one.kind]}: {note}" for one in values for note in one.notes)
    return [*lines, "", *notes] if notes else lines


def voc_lines(value: VocAP) -> list[str]:
    """Pascal VOC's values: one row over all classes, then one a class, then the notes."""
    named = value.values()
    rows = [["", "objects", "difficult", "AP50", "AP75"]]
    counts = [str(value.num_instances), str(value.num_difficult)]
    rows.append([value.metric, *counts, *(percent(named.get(name)) for name in ("AP50", "AP75"))])
    for one in value.categories:
        found = [percent(one.AP.get(threshold)) for threshold in ("0.50", "0.75")]
        rows.append([short_name(one.name), str(one.num_instances), str(one.num_difficult), *found])
    return [*align(rows), *(f"note: {value.metric}: {note}" for note in value.notes)]


def short_name(name: str) -> str:
    """A category's name, cut where it would widen the table."""
    return name if len(name) <= MAX_NAME_LENGTH else name[: MAX_NAME_LENGTH - 3] + "..."


def category_rows(values: Sequence[CocoAP]) -> list[list[str]]:
    """The table by category: AP and AP50 of each kind beside one another."""
    kinds = [NAMES[one.kind] for one in values]
    head = ["category", "instances", *(f"{kind} {name}" for kind in kinds for name in ("AP", "AP50"))]
    names = {c.id: (c.name, c.num_instances) for one in values for c in one.categories}
    tables = [{c.id: c for c in one.categories} for one in values]
    rows = [head]
    for key, (name, count) in names.items():
        cells = [short_name(name), str(count)]
        for table in tables:
            category = table.get(key)
            cells += [UNDEFINED] * 2 if category is None else [percent(category.AP), percent(category.AP50)]
        rows.append(cells)
    return rows


def percent(value: float | None) -> str:
    """A value of 0 .. 1 in percent; undefined values are named, never shown as a number."""
    return UNDEFINED if value is None else f"{100 * value:.1f}"


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, the first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append(GAP.join(cells).rstrip())
    return lines
