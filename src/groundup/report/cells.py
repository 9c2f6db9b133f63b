"""What tables are made of, and how they become CSV."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from groundup.report.wording import cell_text, interval_text, is_number, points_text, shortened

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands at one place of a table."""

    text: str
    note: str = ""
    """A second, smaller line."""
    arm: str = ""
    """The arm whose mark stands before the text."""
    is_number: bool = True
    is_strong: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of the page, and the rows of its file."""

    name: str
    """Of its file, without the ending."""
    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    records: tuple[Row, ...]
    """Flat rows with every value in full."""
    is_folded: bool = False
    note: str = ""


def words(text: str, **options: Any) -> Cell:
    """A cell of words."""
    return Cell(shortened(text), is_number=False, **options)


def estimate(mean: float | None, low: float | None, high: float | None, digits: int = 1) -> Cell:
    """A cell of AP with its interval."""
    return Cell(points_text(mean, digits), interval_text(low, high, digits, sign=False))


def csv_text(records: Iterable[Mapping[str, Any]]) -> str:
    """The rows as CSV. Numbers in full; no text of a user becomes a formula."""
    rows = list(records)
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([cell_text(name) for name in names])
    for row in rows:
        writer.writerow([csv_value(row.get(name)) for name in names])
    return buffer.getvalue()


def csv_value(value: Any) -> Any:
    """A value as a cell: an empty one for None."""
    if value is None:
        return ""
    return value if is_number(value) else cell_text(value_in_full(value))


def value_in_full(value: Any) -> str:
    """The value's text, never cut."""
    if isinstance(value, list | tuple):
        return " ".join(value_in_full(item) for item in value)
    return str(value)
