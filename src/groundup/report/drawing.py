"""Figures as lists of marks, which `svg` and `pdf` write.

A chart is text: the same marks take their colours from the page's stylesheet when they stand in it
(light and dark), and carry colours of their own in a file. Lengths are in pixels of the page, y downwards.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from markupsafe import Markup

from groundup.report.wording import neutral

Tone: TypeAlias = str
"""Name of a colour: `ink`, `soft`, `grid`, `band`, `paper`, or `arm0` .. `arm7`."""
Point: TypeAlias = tuple[float, float]
Anchor: TypeAlias = Literal["start", "middle", "end"]
Shape: TypeAlias = Literal["circle", "square", "triangle", "diamond"]

LIGHT: dict[Tone, str] = {
    "ink": "#1c2127",
    "soft": "#5c6670",
    "grid": "#dde2e7",
    "band": "#e7ebef",
    "paper": "#ffffff",
    "arm0": "#0072b2",
    "arm1": "#c84e00",
    "arm2": "#00845f",
    "arm3": "#a8518a",
    "arm4": "#8a6a00",
    "arm5": "#1b7d8f",
    "arm6": "#6a51a3",
    "arm7": "#666666",
}
"""Colours on white paper; the first two arms differ for every kind of colour vision.

Source: Okabe and Ito (2008), darkened where needed to a contrast of 4.5 for text (WCAG 2.1, 1.4.3).
"""
DARK: dict[Tone, str] = {
    "ink": "#e8ebee",
    "soft": "#a3adb7",
    "grid": "#343c45",
    "band": "#2a323a",
    "paper": "#14181c",
    "arm0": "#5cb8f0",
    "arm1": "#ff9552",
    "arm2": "#3ccfa4",
    "arm3": "#e29cc8",
    "arm4": "#e0bf4a",
    "arm5": "#7fd6e4",
    "arm6": "#b9a5e8",
    "arm7": "#b5b5b5",
}
"""The same on dark paper."""
NUM_ARM_TONES = 8
SHAPES: tuple[Shape, ...] = ("circle", "square", "triangle", "diamond")
"""Marks of arms, so that they differ in grey print too."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
TEXT_SIZE = 12.0
CHARACTER_WIDTH = 0.56
"""Width of a usual letter as a share of the size of its font; a little more than system fonts have."""
POINTS_PER_INCH = 72
PDF_FONTS = ["DejaVu Sans"]
"""What matplotlib brings along."""
LINE_SHIFT = 0.35
"""Share of the size of a font by which a baseline lies under the middle of its letters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One mark of a figure."""

    kind: Literal["line", "area", "dot", "text"]
    points: tuple[Point, ...]
    tone: Tone
    opacity: float = 1.0
    weight: float = 0.0
    """Width of a line or outline; 0 fills."""
    dashed: bool = False
    shape: Shape = "circle"
    size: float = TEXT_SIZE
    """Of text, or the radius of a dot."""
    text: str = ""
    anchor: Anchor = "start"
    bold: bool = False
    title: str = ""
    """Shown when a pointer rests on the mark."""


@dataclass(kw_only=True)
class Drawing:
    """A figure under construction."""

    width: float
    height: float
    marks: list[Mark] = field(default_factory=list)

    def line(
        self,
        points: Sequence[Point],
        tone: Tone,
        *,
        weight: float = 2.0,
        dashed: bool = False,
        opacity: float = 1.0,
    ) -> None:
        """A line through the points."""
        if len(points) > 1:
            mark = Mark(
                kind="line",
                points=tuple(points),
                tone=tone,
                weight=weight,
                dashed=dashed,
                opacity=opacity,
            )
            self.marks.append(mark)

    def area(
        self,
        points: Sequence[Point],
        tone: Tone,
        *,
        opacity: float = 1.0,
        outline: bool = False,
        dashed: bool = False,
        title: str = "",
    ) -> None:
        """A filled polygon, or its outline alone."""
        mark = Mark(
            kind="area",
            points=tuple(points),
            tone=tone,
            opacity=opacity,
            weight=1.25 if outline else 0.0,
            dashed=dashed,
            title=title,
        )
        self.marks.append(mark)

    def box(self, x: float, y: float, width: float, height: float, tone: Tone, **options: Any) -> None:
        """A rectangle; options as in `area`."""
        corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        self.area(corners, tone, **options)

    def dot(
        self,
        x: float,
        y: float,
        tone: Tone,
        *,
        shape: Shape = "circle",
        radius: float = 4.0,
        title: str = "",
    ) -> None:
        """A point."""
        mark = Mark(kind="dot", points=((x, y),), tone=tone, shape=shape, size=radius, title=title)
        self.marks.append(mark)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: Anchor = "start",
        tone: Tone = "ink",
        size: float = TEXT_SIZE,
        bold: bool = False,
    ) -> None:
        """A line of text whose letters have their middle at y."""
        mark = Mark(
            kind="text",
            points=((x, y),),
            tone=tone,
            text=neutral(text),
            anchor=anchor,
            size=size,
            bold=bold,
        )
        self.marks.append(mark)


def text_width(text: str, size: float = TEXT_SIZE) -> float:
    """About how wide a line of text is; letters of East Asia are as wide as high."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return size * (wide + CHARACTER_WIDTH * (len(text) - wide))


def cut_text(text: str, width: float, size: float = TEXT_SIZE) -> str:
    """The text, cut with an ellipsis so that it is about no wider than the width."""
    shown = neutral(text)
    if text_width(shown, size) <= width:
        return shown
    shown = shown[: max(1, int(width / (CHARACTER_WIDTH * size)))]
    while len(shown) > 1 and text_width(shown + "\u2026", size) > width:
        shown = shown[:-1]
    return shown.rstrip() + "\u2026"


Paint: TypeAlias = Callable[[Mark], Markup]
"""The attributes that give a mark its colours."""


def outline_of(mark: Mark) -> tuple[Point, ...]:
    """Corners of a dot that is no circle, of about a circle's area."""
    ((x, y),) = mark.points
    r = mark.size
    if mark.shape == "square":
        s = 0.89 * r
        return ((x - s, y - s), (x + s, y - s), (x + s, y + s), (x - s, y + s))
    if mark.shape == "triangle":
        return ((x, y - 1.3 * r), (x + 1.2 * r, y + 0.85 * r), (x - 1.2 * r, y + 0.85 * r))
    return ((x, y - 1.3 * r), (x + 1.3 * r, y), (x, y + 1.3 * r), (x - 1.3 * r, y))
