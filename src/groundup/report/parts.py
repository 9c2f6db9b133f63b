"""What the page is built of: figures, sections, and the material that all sections are made from."""

from collections.abc import Callable
from dataclasses import dataclass, field

from markupsafe import Markup

from groundup.report.cells import Row, Table
from groundup.report.drawing import Drawing
from groundup.report.frame import NARROW_WIDTH, WIDE_WIDTH, Palette
from groundup.report.photographs import Disagreement
from groundup.report.svg import inline_svg
from groundup.report.tables import (
    KIND_NAMES,
)
from groundup.study.answer import Answer
from groundup.study.results import StudyResults


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure for the page and for files."""

    name: str
    title: str
    """What it shows, for those who cannot see it."""
    caption: str
    draw: Callable[[float], Drawing]
    records: tuple[Row, ...] = ()
    """Its numbers, where no table of the page has them."""
    is_folded: bool = False

    @property
    def wide(self) -> Markup:
        """For a page."""
        return inline_svg(self.draw(WIDE_WIDTH), self.title, "wide")

    @property
    def narrow(self) -> Markup:
        """For a phone."""
        return inline_svg(self.draw(NARROW_WIDTH), self.title, "narrow")


@dataclass(kw_only=True)
class Section:
    """One part of the page."""

    name: str
    """Its anchor."""
    title: str
    lead: list[str] = field(default_factory=list)
    """Paragraphs."""
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    disagreements: list[Disagreement] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    """A list after the paragraphs."""
    commands: list[str] = field(default_factory=list)
    """Lines to be typed."""
    note: str = ""
    """Small print at the end."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing stands in it."""
        return not (
            self.lead or self.figures or self.tables or self.disagreements or self.items or self.commands
        )


@dataclass(frozen=True, kw_only=True)
class Material:
    """What every section is made from."""

    results: StudyResults
    answer: Answer
    palette: Palette

    @property
    def names(self) -> tuple[str, str]:
        """Candidate and reference."""
        return self.results.question.candidate, self.results.question.reference

    @property
    def kinds(self) -> list[str]:
        """Kinds of AP that the answer speaks of, the question's first, then boxes, masks, keypoints."""
        main = self.results.question.table_kind
        found = {row["kind"] for rows in (self.answer.curves, self.answer.endpoints) for row in rows}
        return [kind for kind in dict.fromkeys([main, *KIND_NAMES]) if kind in found]

    @property
    def endpoint(self) -> str:
        """The primary endpoint."""
        return self.results.question.endpoint

    @property
    def measure(self) -> str:
        """The primary endpoint with what is judged: AP of boxes, mask AP, keypoint AP."""
        return self.results.question.measure

    @property
    def num_done(self) -> int:
        """Runs that have ended."""
        return sum(run.state == "done" for run in self.results.runs)


def build_palette(results: StudyResults) -> Palette:
    """Colours of the arms: the candidate first, the reference second."""
    names = (results.question.candidate, results.question.reference)
    return Palette((*names, *(arm for arm in results.study.arms if arm not in names)))
