"""Charts of AP: over images seen, by endpoint, over training-set sizes."""

import itertools
from collections.abc import Sequence
from typing import Any

from groundup.report.drawing import Drawing, Point, cut_text
from groundup.report.frame import (
    NARROW,
    SMALL,
    Palette,
    Scale,
    draw_horizontal_grid,
    draw_images_axis,
    draw_legend,
    draw_vertical_axis_marks,
    padded,
    spread_labels,
    tick_text,
    ticks_of,
)
from groundup.report.wording import count_text, interval_text, is_number, points_text, short_count

Row = dict[str, Any]

BAND_OPACITY = 0.16
SHAPE_OF_PLOT = 0.5
"""Height of a plot as a share of a wide figure's width."""
SHAPE_OF_NARROW_PLOT = 0.72
LEFT_MARGIN, RIGHT_MARGIN = 38.0, 50.0
FOOT_HEIGHT = 42.0
ENDPOINT_NAMES = {"APs": "AP small", "APm": "AP medium", "APl": "AP large"}
"""The rest are called what they are."""


def known_points(images: Sequence[Any], values: Sequence[Any]) -> list[Point]:
    """The pairs that are both known."""
    return [
        (float(x), float(y)) for x, y in zip(images, values, strict=True) if is_number(x) and is_number(y)
    ]


def value_at(points: Sequence[Point], x: float) -> float | None:
    """The value at x on the straight lines between the points; None outside."""
    for (x1, y1), (x2, y2) in itertools.pairwise(points):
        if x1 <= x <= x2:
            return y1 if x1 == x2 else y1 + (y2 - y1) * (x - x1) / (x2 - x1)
    return None


def plot_height(width: float) -> float:
    """Height of the plot of a figure of that width."""
    return width * (SHAPE_OF_NARROW_PLOT if width < NARROW else SHAPE_OF_PLOT)


def draw_curves(
    width: float, curves: Sequence[Row], *, palette: Palette, title: str, crossover: Row | None = None
) -> Drawing:
    """AP over images seen, one line an arm and schedule length.

    The longest schedule of an arm has its band; shorter ones leave it at their first drop.
    """
    arms = [arm for arm in palette.arms if any(curve["arm"] == arm for curve in curves)]
    drawing = Drawing(width=width, height=0.0)
    top = draw_legend(drawing, palette, arms, x=0, y=10)
    drawing.text(0, top, title, tone="soft", size=SMALL)
    top += 14
    foot = top + plot_height(width)
    drawing.height = foot + FOOT_HEIGHT
    values = [v for c in curves for part in ("mean", "low", "high") for v in c[part] if is_number(v)]
    furthest = max((x for c in curves for x in c["images"] if is_number(x)), default=1)
    x_scale = Scale(0.0, float(furthest) or 1.0, LEFT_MARGIN, width - RIGHT_MARGIN)
    y_scale = Scale(*padded(values or [0.0], floor=0.0, least=4.0), foot, top)
    draw_horizontal_grid(drawing, y_scale, LEFT_MARGIN, width - RIGHT_MARGIN, 5, tick_text)
    draw_images_axis(drawing, x_scale, foot, "training images seen")
    if crossover is not None:
        draw_crossover(drawing, crossover, x_scale, top, foot)
    ends: list[tuple[Point, str, str]] = []
    for arm in arms:
        mine = sorted((c for c in curves if c["arm"] == arm), key=lambda c: max(c["images"], default=0))
        for row, curve in enumerate(mine):
            end = draw_curve(drawing, curve, x_scale, y_scale, palette, is_longest=row == len(mine) - 1)
            if end is not None and row == len(mine) - 1:
                ends.append((end, points_text(curve_end(curve)), palette.tone(arm)))
    for y, (end, text, tone) in zip(
        spread_labels([point[1] for point, _, _ in ends], top, foot), ends, strict=True
    ):
        drawing.text(end[0] + 10, y, text, tone=tone, bold=True)
    return drawing


def curve_end(curve: Row) -> float | None:
    """Its last known mean."""
    known = known_points(curve["images"], curve["mean"])
    return known[-1][1] if known else None


def draw_curve(
    drawing: Drawing, curve: Row, x: Scale, y: Scale, palette: Palette, *, is_longest: bool
) -> Point | None:
    """One line with its drops; the pixel of its end, None where it has no point."""
    tone = palette.tone(curve["arm"])
    points = known_points(curve["images"], curve["mean"])
    if not points:
        return None
    drops = [float(drop) for drop in curve["drops"]]
    if is_longest:
        upper = known_points(curve["images"], curve["high"])
        lower = known_points(curve["images"], curve["low"])
        if len(upper) > 1 and len(upper) == len(lower):
            corners = [(x(a), y(b)) for a, b in [*upper, *reversed(lower)]]
            drawing.area(corners, tone, opacity=BAND_OPACITY)
    elif drops:
        trunk = [point for point in points if point[0] <= min(drops)]
        points = [*trunk[-1:], *points[len(trunk) :]]
    drawing.line(
        [(x(a), y(b)) for a, b in points],
        tone,
        weight=2.25 if is_longest else 1.5,
        dashed=palette.is_dashed(curve["arm"]),
        opacity=1.0 if is_longest else 0.8,
    )
    for drop in drops:
        at = value_at(points, drop)
        if at is not None:
            drawing.line([(x(drop), y(at) - 7), (x(drop), y(at) + 7)], tone, weight=1.5)
    end = x(points[-1][0]), y(points[-1][1])
    low, high = last_known(curve["low"]), last_known(curve["high"])
    if not is_longest and low is not None and high is not None:
        drawing.line([(end[0], y(low)), (end[0], y(high))], tone, weight=1.25, opacity=0.8)
    label = (
        f"{curve['arm']}: {points_text(points[-1][1])} {interval_text(low, high, 1, sign=False)} after "
        f"{count_text(points[-1][0])} images"
    )
    radius = 4.0 if is_longest else 3.0
    drawing.dot(*end, tone, shape=palette.shape(curve["arm"]), radius=radius, title=label)
    return end


def last_known(values: Sequence[Any]) -> float | None:
    """The last value that is one."""
    return next((float(v) for v in reversed(values) if is_number(v)), None)


def draw_crossover(drawing: Drawing, crossover: Row, x: Scale, top: float, foot: float) -> None:
    """Where the candidate has caught up, and the interval of that along the foot."""
    point = crossover.get("point")
    if not is_number(point) or not x.low <= float(point or 0) <= x.high:
        return
    place = x(float(point or 0))
    drawing.line([(place, top), (place, foot)], "ink", weight=1.25, dashed=True)
    low, high = crossover.get("low"), crossover.get("high")
    if low is not None:
        end = x.high if high is None else float(high)
        drawing.line([(x.clamped(float(low)), foot - 5), (x.clamped(end), foot - 5)], "ink", weight=3)
    text = f"caught up: {count_text(float(point or 0))}"
    is_right = place > (x.start + x.end) / 2
    drawing.text(
        place + (-7 if is_right else 7), foot - 18, text, anchor="end" if is_right else "start", size=SMALL
    )


def draw_endpoints(width: float, rows: Sequence[Row], *, palette: Palette, kind: str) -> Drawing:
    """Every endpoint of the arms at one place, with intervals; all over one axis of AP."""
    arms = [arm for arm in palette.arms if any(row["arm"] == arm for row in rows)]
    endpoints = list(dict.fromkeys(row["endpoint"] for row in rows if is_number(row["mean"])))
    drawing = Drawing(width=width, height=0.0)
    top = draw_legend(drawing, palette, arms, x=0, y=10) + 2
    pitch = 13.0
    row_height = pitch * len(arms) + 12
    foot = top + row_height * len(endpoints)
    drawing.height = foot + 40
    left, right = 76.0, width - (104.0 if width >= NARROW else 38.0)
    shown = [row for row in rows if is_number(row["mean"])]
    values = [v for row in shown for v in (row["mean"], row["low"], row["high"]) if is_number(v)]
    scale = Scale(*padded(values or [0.0], floor=0.0, least=4.0), left, right)
    ticks = ticks_of(scale.low, scale.high, max(3, round((right - left) / 80)))
    draw_vertical_axis_marks(drawing, scale, top, foot, ticks, tick_text)
    drawing.text(right, foot + 30, kind, anchor="end", tone="soft", size=SMALL)
    for place, endpoint in enumerate(endpoints):
        middle = top + row_height * (place + 0.5)
        if place:
            edge = top + row_height * place
            drawing.line([(0, edge), (width, edge)], "grid", weight=1)
        drawing.text(0, middle, ENDPOINT_NAMES.get(endpoint, endpoint))
        for row in shown:
            if row["endpoint"] != endpoint:
                continue
            y = middle + pitch * (arms.index(row["arm"]) - (len(arms) - 1) / 2)
            draw_endpoint(drawing, row, scale, y, palette)
    return drawing


def draw_endpoint(drawing: Drawing, row: Row, scale: Scale, y: float, palette: Palette) -> None:
    """One value with its interval, and the number on the right."""
    tone = palette.tone(row["arm"])
    if is_number(row["low"]) and is_number(row["high"]):
        drawing.line([(scale(row["low"]), y), (scale(row["high"]), y)], tone, weight=2)
    interval = interval_text(row["low"], row["high"], 1, sign=False)
    value = points_text(row["mean"])
    label = f"{row['arm']} {row['endpoint']} {value} {interval}"
    drawing.dot(scale(row["mean"]), y, tone, shape=palette.shape(row["arm"]), radius=4.0, title=label)
    is_wide = drawing.width >= NARROW
    drawing.text(scale.end + 32, y, value, anchor="end", tone=tone, size=SMALL, bold=True)
    if is_wide and interval:
        drawing.text(scale.end + 38, y, interval, tone="soft", size=10.0)


def draw_data_sizes(width: float, data_size: Row, *, palette: Palette, title: str) -> Drawing:
    """AP over the size of the training set, a logarithmic axis, with what pre-training is worth."""
    arms = [arm for arm in palette.arms if arm in data_size["arms"]]
    sizes = [float(size) for size in data_size["sizes"]]
    drawing = Drawing(width=width, height=0.0)
    top = draw_legend(drawing, palette, arms, x=0, y=10)
    drawing.text(0, top, title, tone="soft", size=SMALL)
    top += 14
    foot = top + plot_height(width)
    drawing.height = foot + FOOT_HEIGHT
    parts = [data_size["arms"][arm] for arm in arms]
    values = [v for part in parts for name in ("mean", "low", "high") for v in part[name] if is_number(v)]
    left, right = LEFT_MARGIN, width - RIGHT_MARGIN
    spread = 1.12 if len(sizes) > 1 else 2.0
    x = Scale(min(sizes) / spread, max(sizes) * spread, left, right, logarithmic=True)
    y = Scale(*padded(values or [0.0], floor=0.0, least=4.0), foot, top)
    draw_horizontal_grid(drawing, y, left, right, 5, tick_text)
    drawing.line([(left, foot), (right, foot)], "soft", weight=1)
    draw_vertical_axis_marks(drawing, x, foot, foot + 2, sizes, short_count, grid=False)
    drawing.text(right, foot + 30, "images in the training set", anchor="end", tone="soft", size=SMALL)
    ends = []
    for arm, part in zip(arms, parts, strict=True):
        tone = palette.tone(arm)
        upper, lower = known_points(sizes, part["high"]), known_points(sizes, part["low"])
        if len(upper) > 1 and len(upper) == len(lower):
            drawing.area([(x(a), y(b)) for a, b in [*upper, *reversed(lower)]], tone, opacity=BAND_OPACITY)
        points = known_points(sizes, part["mean"])
        drawing.line([(x(a), y(b)) for a, b in points], tone, weight=2.25)
        for size, ap in points:
            label = f"{arm}: {points_text(ap)} AP with {count_text(size)} images"
            drawing.dot(x(size), y(ap), tone, shape=palette.shape(arm), title=label)
        if points:
            ends.append((y(points[-1][1]), points_text(points[-1][1]), tone))
    places = spread_labels([place for place, _, _ in ends], top, foot)
    for place, (_, text, tone) in zip(places, ends, strict=True):
        drawing.text(right + 8, place, text, tone=tone, bold=True)
    draw_worth(drawing, data_size, x, y, palette)
    return drawing


def draw_worth(drawing: Drawing, data_size: Row, x: Scale, y: Scale, palette: Palette) -> None:
    """From the reference at a size along to where the candidate has the same AP."""
    factor, size = (data_size.get("factor") or {}).get("value"), data_size.get("size")
    if not is_number(factor) or not is_number(size) or len(palette.arms) < 2:
        return
    reference = data_size["arms"].get(palette.arms[1])
    known = known_points(data_size["sizes"], reference["mean"]) if reference else []
    height = value_at(known, float(size or 0)) if len(known) > 1 else None
    if height is None or float(factor or 0) <= 1:
        return
    start, end = x(float(size or 0)), x.clamped(float(size or 0) * float(factor or 0))
    if end - start < 12:
        return
    drawing.line([(start, y(height)), (end, y(height))], "ink", weight=1.25, dashed=True)
    drawing.line([(end - 6, y(height) - 4), (end, y(height)), (end - 6, y(height) + 4)], "ink", weight=1.25)
    text = cut_text(f"worth {float(factor or 0):.2g} times the data", drawing.width - start)
    drawing.text((start + end) / 2, y(height) + 12, text, anchor="middle", size=SMALL)
