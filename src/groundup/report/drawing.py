"""Figures as lists of marks, written as SVG for the page, SVG for a file, and PDF.

A chart is text: the same marks take their colours from the page's stylesheet when they stand in it
(light and dark), and carry colours of their own in a file. Lengths are in pixels of the page, y downwards.
"""

import io
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from markupsafe import Markup, escape

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
    "arm5": "#2f8fc4",
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
    "arm5": "#9ad2f5",
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
    hollow: bool = False
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
        hollow: bool = False,
        title: str = "",
    ) -> None:
        """A point."""
        mark = Mark(
            kind="dot", points=((x, y),), tone=tone, shape=shape, size=radius, hollow=hollow, title=title
        )
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
    while len(shown) > 1 and text_width(shown + "\u2026", size) > width:
        shown = shown[:-1]
    return shown.rstrip() + "\u2026"


# ---------------------------------------------------------------------------------------------------- SVG

Paint: TypeAlias = Callable[[Mark], Markup]
"""The attributes that give a mark its colours."""


def inline_svg(drawing: Drawing, label: str, kind: str = "") -> Markup:
    """The figure for the page: its colours are classes, `kind` one more class of the whole."""
    head = Markup(
        '<svg class="figure {}" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">'
    ).format(
        kind,
        shown(drawing.width),
        shown(drawing.height),
        shown(drawing.width),
        shown(drawing.height),
        neutral(label),
    )
    return head + Markup("").join(svg_mark(mark, class_paint) for mark in drawing.marks) + Markup("</svg>")


def file_svg(drawing: Drawing, label: str) -> str:
    """The figure for a file: on paper, with colours of its own."""
    head = Markup(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" width="{}" height="{}" role="img" '
        'font-family="{}">\n<title>{}</title>\n'
    ).format(
        shown(drawing.width),
        shown(drawing.height),
        shown(drawing.width),
        shown(drawing.height),
        FONT,
        neutral(label),
    )
    back = Markup('<rect width="100%" height="100%" fill="{}"/>\n').format(LIGHT["paper"])
    marks = Markup("\n").join(svg_mark(mark, colour_paint) for mark in drawing.marks)
    return str(head + back + marks + Markup("\n</svg>\n"))


def shown(value: float) -> str:
    """A length with at most a hundredth, no trailing zeros, never -0."""
    return f"{round(value, 2) + 0.0:g}"


def class_paint(mark: Mark) -> Markup:
    """Colours by class."""
    names = [mark.kind if mark.kind in {"text", "line"} or not (mark.weight or mark.hollow) else "outline"]
    return Markup(' class="{} {}"').format(" ".join(names), mark.tone)


def colour_paint(mark: Mark) -> Markup:
    """Colours by attribute."""
    colour = LIGHT[mark.tone]
    if mark.kind == "line":
        return Markup(' fill="none" stroke="{}" stroke-linejoin="round" stroke-linecap="round"').format(
            colour
        )
    if mark.weight or mark.hollow:
        fill = LIGHT["paper"] if mark.hollow else "none"
        return Markup(' fill="{}" stroke="{}"').format(fill, colour)
    return Markup(' fill="{}"').format(colour)


def svg_mark(mark: Mark, paint: Paint) -> Markup:
    """One element."""
    look = paint(mark)
    if mark.opacity < 1:
        look += Markup(' opacity="{}"').format(shown(mark.opacity))
    if mark.weight or mark.hollow:
        look += Markup(' stroke-width="{}"').format(shown(mark.weight or 1.75))
    if mark.dashed:
        look += Markup(' stroke-dasharray="4 3"')
    if mark.kind == "text":
        ((x, y),) = mark.points
        return Markup('<text x="{}" y="{}" font-size="{}"{}{}{}>{}</text>').format(
            shown(x),
            shown(y + LINE_SHIFT * mark.size),
            shown(mark.size),
            "" if mark.anchor == "start" else Markup(' text-anchor="{}"').format(mark.anchor),
            Markup(' font-weight="600"') if mark.bold else "",
            look,
            mark.text,
        )
    title = Markup("<title>{}</title>").format(neutral(mark.title)) if mark.title else Markup()
    if mark.kind == "dot" and mark.shape == "circle":
        ((x, y),) = mark.points
        return Markup('<circle cx="{}" cy="{}" r="{}"{}>{}</circle>').format(
            shown(x), shown(y), shown(mark.size), look, title
        )
    corners = mark.points if mark.kind != "dot" else outline_of(mark)
    path = "M" + "L".join(f"{shown(x)} {shown(y)}" for x, y in corners) + ("" if mark.kind == "line" else "Z")
    return Markup('<path d="{}"{}>{}</path>').format(path, look, title)


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


# ---------------------------------------------------------------------------------------------------- PDF


def file_pdf(drawing: Drawing, label: str) -> bytes:
    """The figure as PDF, a pixel to a point; equal figures give equal bytes.

    Text is never read as a formula. A letter that the font lacks is drawn as an empty box.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with mpl.rc_context({"font.family": PDF_FONTS, "pdf.fonttype": 3, "text.usetex": False}):
        size = drawing.width / POINTS_PER_INCH, drawing.height / POINTS_PER_INCH
        figure = Figure(figsize=size, dpi=POINTS_PER_INCH, facecolor=LIGHT["paper"])
        for order, mark in enumerate(drawing.marks):
            for artist in pdf_artists(mark, drawing.height, figure.dpi_scale_trans):
                artist.set_zorder(order)
                figure.add_artist(artist)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
            metadata = {
                "Title": neutral(label),
                "CreationDate": None,
                "Producer": None,
                "Creator": "groundup",
            }
            FigureCanvasPdf(figure).print_pdf(buffer, metadata=metadata)
    return buffer.getvalue()


def pdf_artists(mark: Mark, height: float, transform: Any) -> list[Any]:
    """What matplotlib draws for a mark."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle, Polygon
    from matplotlib.text import Text

    def place(point: Point) -> Point:
        return point[0] / POINTS_PER_INCH, (height - point[1]) / POINTS_PER_INCH

    common: dict[str, Any] = {"alpha": mark.opacity, "transform": transform}
    colour = LIGHT[mark.tone]
    if mark.kind == "text":
        x, y = place((mark.points[0][0], mark.points[0][1] + LINE_SHIFT * mark.size))
        where = {"start": "left", "middle": "center", "end": "right"}[mark.anchor]
        return [
            Text(
                x,
                y,
                mark.text,
                color=colour,
                fontsize=mark.size,
                ha=where,
                va="baseline",
                fontweight="bold" if mark.bold else "normal",
                parse_math=False,
                **common,
            )
        ]
    points = [place(p) for p in (outline_of(mark) if mark.kind == "dot" else mark.points)]
    dashes = (0, (4 / max(mark.weight, 1), 3 / max(mark.weight, 1))) if mark.dashed else "solid"
    if mark.kind == "line":
        xs, ys = [x for x, _ in points], [y for _, y in points]
        return [
            Line2D(
                xs,
                ys,
                color=colour,
                linewidth=mark.weight,
                linestyle=dashes,
                solid_capstyle="round",
                **common,
            )
        ]
    outline = bool(mark.weight or mark.hollow)
    common |= {
        "facecolor": (LIGHT["paper"] if mark.hollow else "none") if outline else colour,
        "edgecolor": colour if outline else "none",
        "linewidth": (mark.weight or 1.75) if outline else 0,
        "linestyle": dashes,
    }
    if mark.kind == "dot" and mark.shape == "circle":
        return [Circle(place(mark.points[0]), mark.size / POINTS_PER_INCH, **common)]
    return [Polygon(points, closed=True, **common)]


def stylesheet() -> str:
    """The tones as CSS variables, light and dark, and the classes of marks that use them."""

    def variables(theme: dict[Tone, str]) -> str:
        return "".join(f"--{tone}:{colour};" for tone, colour in theme.items())

    tones = "".join(f".{tone}{{--tone:var(--{tone})}}" for tone in LIGHT)
    return (
        f":root{{{variables(LIGHT)}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{variables(DARK)}}}}}"
        f"{tones}"
        ".figure .line{fill:none;stroke:var(--tone);stroke-linejoin:round;stroke-linecap:round}"
        ".figure .area,.figure .dot,.figure .text{fill:var(--tone)}"
        ".figure .outline{fill:none;stroke:var(--tone)}.figure circle.outline,.figure path.outline.hollow"
        "{fill:var(--paper)}"
    )


def is_escaped(text: str) -> bool:
    """Whether the text is the same after escaping; for asserts about constants."""
    return str(escape(text)) == text
