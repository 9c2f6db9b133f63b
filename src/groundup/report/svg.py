"""Figures as SVG: for the page, in the page's colours, and for files, in colours of their own."""

from collections.abc import Callable
from typing import TypeAlias

from markupsafe import Markup

from groundup.report.drawing import DARK, FONT, LIGHT, LINE_SHIFT, Drawing, Mark, Tone, outline_of
from groundup.report.wording import neutral

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
    kind = "outline" if mark.weight and mark.kind != "line" else mark.kind
    return Markup(' class="{} {}"').format(kind, mark.tone)


def colour_paint(mark: Mark) -> Markup:
    """Colours by attribute."""
    colour = LIGHT[mark.tone]
    if mark.kind == "line":
        return Markup(' fill="none" stroke="{}" stroke-linejoin="round" stroke-linecap="round"').format(
            colour
        )
    if mark.weight:
        return Markup(' fill="none" stroke="{}"').format(colour)
    return Markup(' fill="{}"').format(colour)


def svg_mark(mark: Mark, paint: Paint) -> Markup:
    """One element."""
    look = paint(mark)
    if mark.opacity < 1:
        look += Markup(' opacity="{}"').format(shown(mark.opacity))
    if mark.weight:
        look += Markup(' stroke-width="{}"').format(shown(mark.weight))
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
        ".figure .outline{fill:none;stroke:var(--tone)}"
    )
