"""Charts of differences: the verdict against its margin, comparisons at every point, categories."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from groundup.report.drawing import TEXT_SIZE, Drawing, Tone, cut_text, text_width
from groundup.report.frame import (
    NARROW,
    SMALL,
    Palette,
    Scale,
    draw_vertical_axis_marks,
    padded,
    tick_text,
    ticks_of,
)
from groundup.report.wording import interval_text, neutral, signed

THIN, THICK = 2.0, 7.0
"""Widths of the lines of the interval and of the narrower one inside it."""
ROW_HEIGHT = 24.0
TALL_ROW = 40.0
"""Of a row whose name stands above its interval."""
BOLD = 1.2
"""How much wider bold letters are."""
NAME_SHARE = 0.3
"""Share of the width that names beside their rows may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A difference with its interval, in AP points."""

    name: str
    delta: float
    low: float
    high: float
    narrow: tuple[float, float] | None = None
    """The interval that equivalence is judged by."""
    strong: bool = False
    """Whether its name is set in bold."""


def estimate_of(comparison: dict[str, Any], name: str, *, strong: bool = False) -> Estimate:
    """The primary difference of a comparison as JSON."""
    verdict = comparison["verdict"]
    low, high = verdict["interval"]
    inner = verdict["equivalence_interval"]
    return Estimate(
        name=name,
        delta=float(verdict["delta"]),
        low=float(low),
        high=float(high),
        narrow=(float(inner[0]), float(inner[1])),
        strong=strong,
    )


def difference_range(estimates: Sequence[Estimate], margin: float) -> tuple[float, float]:
    """A range that holds all intervals, the margin on both sides and nothing."""
    values = [-1.25 * margin, 1.25 * margin, 0.0]
    for one in estimates:
        values += [one.low, one.high, one.delta]
    return padded(values)


def draw_strip(
    width: float,
    estimate: Estimate,
    *,
    margin: float,
    names: tuple[str, str],
    palette: Palette,
    endpoint: str,
) -> Drawing:
    """The answer: one interval over the band of differences that would not matter."""
    candidate, reference = names
    drawing = Drawing(width=width, height=148.0)
    side = 14.0
    scale = Scale(*difference_range([estimate], margin), side, width - side)
    top, foot, row = 28.0, 98.0, 56.0
    left, right = scale(-margin), scale(margin)
    drawing.box(left, top, right - left, foot - top, "band")
    note = f"margin \u00b1{margin:g} {endpoint}: too small to matter"
    if text_width(note, SMALL) > right - left - 12:
        note = f"\u00b1{margin:g}"
    drawing.text((left + right) / 2, foot - 11, note, anchor="middle", tone="soft", size=SMALL)
    draw_vertical_axis_marks(
        drawing,
        scale,
        foot,
        foot + 2,
        ticks_of(scale.low, scale.high, round(width / 70)),
        tick_text,
        grid=False,
    )
    drawing.line([(side, foot), (width - side, foot)], "soft", weight=1)
    drawing.line([(scale(0), top), (scale(0), foot - 22)], "soft", weight=1, dashed=True)
    tone = ahead_tone(estimate, palette, names)
    draw_interval(drawing, scale, estimate, row, tone, radius=7.0)
    value = f"{signed(estimate.delta)}  {interval_text(estimate.low, estimate.high)}"
    half = text_width(value, 14.0) / 2
    x = min(max(scale(estimate.delta), half + 4), width - half - 4)
    drawing.text(x, 14.0, value, anchor="middle", size=14.0, bold=True)
    room = width / 2 - side
    left_name = f"\u2190 {cut_name(reference, room, ' ahead', TEXT_SIZE)} ahead"
    right_name = f"{cut_name(candidate, room, ' ahead', TEXT_SIZE)} ahead \u2192"
    drawing.text(side, 136.0, left_name, tone=palette.tone(reference), bold=True)
    drawing.text(width - side, 136.0, right_name, anchor="end", tone=palette.tone(candidate), bold=True)
    return drawing


def cut_name(name: str, room: float, words: str, size: float) -> str:
    """The name of an arm in bold, cut so that it fits the room together with an arrow and the words."""
    return cut_text(name, max(room - BOLD * text_width(f"\u2190 {words}", size), 2 * size) / BOLD, size)


def ahead_tone(estimate: Estimate, palette: Palette, names: tuple[str, str]) -> Tone:
    """The colour of the arm that is shown to be ahead, else that of text."""
    if estimate.low > 0:
        return palette.tone(names[0])
    return palette.tone(names[1]) if estimate.high < 0 else "ink"


def draw_interval(
    drawing: Drawing, scale: Scale, estimate: Estimate, y: float, tone: Tone, *, radius: float = 4.5
) -> None:
    """A thin line for the interval, a thick one for the narrower, a dot for the difference."""
    low, high = scale.clamped(estimate.low), scale.clamped(estimate.high)
    drawing.line([(low, y), (high, y)], tone, weight=THIN)
    for x in (low, high):
        drawing.line([(x, y - 4), (x, y + 4)], tone, weight=THIN)
    if estimate.narrow is not None:
        ends = [(scale.clamped(end), y) for end in estimate.narrow]
        drawing.line(ends, tone, weight=THICK, opacity=0.4)
    title = f"{estimate.name} {signed(estimate.delta)} {interval_text(estimate.low, estimate.high)}"
    drawing.dot(scale.clamped(estimate.delta), y, tone, radius=radius, title=title)


def draw_forest(
    width: float,
    estimates: Sequence[Estimate],
    *,
    margin: float | None,
    names: tuple[str, str],
    palette: Palette,
    digits: int = 2,
) -> Drawing:
    """One interval a row over a common axis."""
    is_narrow = width < NARROW
    row_height = TALL_ROW if is_narrow else ROW_HEIGHT
    values = [f"{signed(e.delta, digits)} {interval_text(e.low, e.high, digits)}" for e in estimates]
    value_width = max((text_width(v, SMALL) for v in values), default=0.0) * 0.94
    widest = max((text_width(neutral(e.name)) for e in estimates), default=0.0)
    name_width = 0.0 if is_narrow else min(NAME_SHARE * width, widest + 4)
    left = 8.0 if is_narrow else name_width + 14
    right = width - 8 if is_narrow else width - value_width - 14
    top = 26.0
    foot = top + row_height * len(estimates) + 4
    drawing = Drawing(width=width, height=foot + 26)
    scale = Scale(*difference_range(estimates, margin or 0.5), left, right)
    ticks = ticks_of(scale.low, scale.high, max(3, round((right - left) / 70)))
    draw_vertical_axis_marks(drawing, scale, top, foot, ticks, tick_text, grid=margin is None)
    drawing.line([(left, foot), (right, foot)], "soft", weight=1)
    draw_heads(drawing, scale, names, palette)
    # Names stand between the rows of a narrow figure: there the band is behind the intervals alone.
    spans = [(top, foot)]
    if is_narrow:
        spans = [(top + row_height * row + 20, top + row_height * row + 40) for row in range(len(estimates))]
    for start, end in spans:
        if margin is not None:
            drawing.box(scale(-margin), start, scale(margin) - scale(-margin), end - start, "band")
        drawing.line([(scale(0), start), (scale(0), end)], "soft", weight=1)
    for row, (one, value) in enumerate(zip(estimates, values, strict=True)):
        y = top + row_height * (row + (0.72 if is_narrow else 0.5)) + 2
        line = y - 18 if is_narrow else y
        room = width - value_width - 12 if is_narrow else name_width
        drawing.text(0, line, cut_text(one.name, room), bold=one.strong)
        drawing.text(width, line, value, anchor="end", tone="soft", size=SMALL)
        draw_interval(drawing, scale, one, y, ahead_tone(one, palette, names), radius=4.0)
    return drawing


def draw_heads(drawing: Drawing, scale: Scale, names: tuple[str, str], palette: Palette) -> None:
    """Over the axis: which side is whose."""
    candidate, reference = names
    zero, gap = scale(0), 8.0
    left = f"\u2190 {cut_name(reference, zero - gap, '', SMALL)}"
    right = f"{cut_name(candidate, drawing.width - zero - gap, '', SMALL)} \u2192"
    drawing.text(
        max(zero - gap, text_width(left, SMALL)),
        12,
        left,
        anchor="end",
        tone=palette.tone(reference),
        size=SMALL,
        bold=True,
    )
    start = min(zero + gap, drawing.width - text_width(right, SMALL))
    drawing.text(start, 12, right, tone=palette.tone(candidate), size=SMALL, bold=True)
