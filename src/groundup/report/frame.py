"""Axes: scales, ticks, grids, legends and labels that keep apart. What all charts share."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from groundup.report.drawing import NUM_ARM_TONES, SHAPES, Drawing, Shape, Tone, cut_text, text_width
from groundup.report.wording import MINUS, short_count

NARROW = 500.0
"""Figures of less width are for a phone: names stand above their rows, not beside them."""
WIDE_WIDTH, NARROW_WIDTH = 760.0, 340.0
"""Widths in pixels that every figure is laid out for."""
SMALL = 11.0
LABEL_GAP = 14.0
"""Least distance of two labels' middles."""
HEADROOM = 0.06
"""Share of the range that an axis leaves free beyond its values."""
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    """Pixel of the lowest value."""
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value; values outside stay outside."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def clamped(self, value: float) -> float:
        """The pixel of the value, or of the nearest end."""
        return self(min(max(value, self.low), self.high))


def nice_step(span: float, count: int) -> float:
    """The round step that cuts the span into about so many parts."""
    rough = span / max(count, 1)
    size = 10.0 ** math.floor(math.log10(rough))
    return next(step * size for step in STEPS if step * size >= rough * (1 - 1e-9))


def ticks_of(low: float, high: float, count: int) -> list[float]:
    """Round values from low to high, both ends allowed."""
    step = nice_step(high - low, count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(row * step, 10) + 0.0 for row in range(first, last + 1)]


def padded(values: Sequence[float], *, floor: float | None = None, least: float = 1.0) -> tuple[float, float]:
    """A range with some room around the values, at least so long, not below the floor."""
    low, high = min(values), max(values)
    missing = max(0.0, least - (high - low)) / 2
    room = HEADROOM * max(high - low, least)
    low, high = low - missing - room, high + missing + room
    return (low if floor is None else max(low, floor)), high


def tick_text(value: float) -> str:
    """A tick of AP or of a difference: 0.5, 20."""
    return f"{value:g}".replace("-", MINUS)


@dataclass(frozen=True)
class Palette:
    """The colour and mark of every arm, the same in all figures; the candidate comes first."""

    arms: tuple[str, ...]

    @cached_property
    def places(self) -> dict[str, int]:
        """Row of each arm."""
        return {arm: row for row, arm in enumerate(self.arms)}

    def tone(self, arm: str) -> Tone:
        """Its colour."""
        return f"arm{self.places.get(arm, NUM_ARM_TONES - 1) % NUM_ARM_TONES}"

    def shape(self, arm: str) -> Shape:
        """Its mark."""
        return SHAPES[self.places.get(arm, 0) % len(SHAPES)]

    def is_dashed(self, arm: str) -> bool:
        """Whether its lines are dashed, for those that share a colour."""
        return self.places.get(arm, 0) >= NUM_ARM_TONES


def draw_legend(drawing: Drawing, palette: Palette, arms: Sequence[str], *, x: float, y: float) -> float:
    """Marks and names in rows from (x, y) on; the y below them."""
    left = x
    for arm in arms:
        name = cut_text(arm, min(220.0, drawing.width - left - 24))
        width = 16 + text_width(name) + 18
        if x + width > drawing.width + 12 and x > left:
            x, y = left, y + 18
        drawing.dot(x + 5, y, palette.tone(arm), shape=palette.shape(arm), radius=4.5)
        drawing.text(x + 15, y, name)
        x += width
    return y + 18


def draw_horizontal_grid(
    drawing: Drawing, scale: Scale, left: float, right: float, count: int, write: Callable[[float], str]
) -> None:
    """Lines across at round values, named on the left."""
    for value in ticks_of(scale.low, scale.high, count):
        y = scale(value)
        drawing.line([(left, y), (right, y)], "grid", weight=1)
        drawing.text(left - 7, y, write(value), anchor="end", tone="soft", size=SMALL)


def draw_vertical_axis_marks(
    drawing: Drawing,
    scale: Scale,
    top: float,
    bottom: float,
    values: Sequence[float],
    write: Callable[[float], str],
    *,
    grid: bool = True,
) -> None:
    """Round values along the foot, with lines up from them; names that would touch are left out."""
    taken = -math.inf
    for value in values:
        x = scale(value)
        if grid:
            drawing.line([(x, top), (x, bottom)], "grid", weight=1)
        name = write(value)
        half = text_width(name, SMALL) / 2
        if x - half < taken + 6:
            continue
        drawing.text(x, bottom + 13, name, anchor="middle", tone="soft", size=SMALL)
        taken = x + half


def draw_images_axis(drawing: Drawing, scale: Scale, foot: float, title: str) -> None:
    """An axis of images seen."""
    count = max(3, round(abs(scale.end - scale.start) / 110))
    ticks = ticks_of(scale.low, scale.high, count)
    drawing.line([(scale.start, foot), (scale.end, foot)], "soft", weight=1)
    for value in ticks:
        drawing.line([(scale(value), foot), (scale(value), foot + 4)], "soft", weight=1)
    draw_vertical_axis_marks(drawing, scale, foot, foot + 2, ticks, short_count, grid=False)
    drawing.text(scale.end, foot + 30, title, anchor="end", tone="soft", size=SMALL)


def spread_labels(places: Sequence[float], low: float, high: float, gap: float = LABEL_GAP) -> list[float]:
    """Places for labels near those wished for, at least a gap apart, in the range where it is long enough."""
    order = sorted(range(len(places)), key=lambda row: places[row])
    spread = [min(max(places[row], low), high) for row in order]
    for row in range(1, len(spread)):
        spread[row] = max(spread[row], spread[row - 1] + gap)
    if spread:
        spread[-1] = min(spread[-1], max(high, low + gap * (len(spread) - 1)))
    for row in range(len(spread) - 2, -1, -1):
        spread[row] = min(spread[row], spread[row + 1] - gap)
    found = [0.0] * len(places)
    for row, place in zip(order, spread, strict=True):
        found[row] = place
    return found
