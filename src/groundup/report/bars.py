"""Charts of amounts: the bill with pre-training and training, and errors by arm."""

from collections.abc import Sequence
from typing import Any

from groundup.report.drawing import Drawing, cut_text, text_width
from groundup.report.frame import NARROW, SMALL, Palette, Scale, draw_legend
from groundup.report.wording import is_number, large_text, points_text

Row = dict[str, Any]

QUANTITIES = (("images", "Images", ""), ("instances", "Instances", ""), ("pixels", "Pixels", "px"))
"""What the paper's figure 2 counts. Source: He et al. (2019), figure 2."""
BAR_HEIGHT = 18.0
BAR_GAP = 7.0
PRETRAINING_OPACITY = 0.38
UNKNOWN_WIDTH = 44.0
"""Of the outline that stands for an amount nobody knows."""
NAME_SHARE = 0.24


def draw_bill(width: float, rows: Sequence[Row], *, palette: Palette) -> Drawing:
    """Pre-training and training of one training of each arm, in images, instances and pixels."""
    is_narrow = width < NARROW
    drawing = Drawing(width=width, height=0.0)
    drawing.box(0, 4, 12, 12, "soft", opacity=PRETRAINING_OPACITY)
    drawing.text(18, 10, "pre-training")
    drawing.box(108, 4, 12, 12, "soft")
    drawing.text(126, 10, "training")
    if any(lacks_price(row, name) for row in rows for name, _, _ in QUANTITIES):
        drawing.box(188, 4, 12, 12, "soft", outline=True, dashed=True)
        drawing.text(206, 10, "unknown")
    widest = max((text_width(row["arm"]) for row in rows), default=0.0)
    names = 0.0 if is_narrow else min(widest + 12, NAME_SHARE * width)
    y = 36.0
    for name, title, unit in QUANTITIES:
        drawing.text(0, y, title, bold=True)
        y += 16
        texts = [bill_text(row, name, unit) for row in rows]
        room = max((text_width(text, SMALL) for text in texts), default=0.0) + 10
        if any(lacks_price(row, name) for row in rows):
            room += UNKNOWN_WIDTH
        most = max((known_total(row, name) for row in rows), default=0.0)
        scale = Scale(0.0, most or 1.0, names, width - room)
        for row, text in zip(rows, texts, strict=True):
            if is_narrow:
                drawing.text(0, y + 6, cut_text(row["arm"], width), size=SMALL)
                y += 14
            else:
                drawing.text(0, y + BAR_HEIGHT / 2, cut_text(row["arm"], names - 10))
            end = draw_bill_bar(drawing, row, name, scale, y, palette)
            drawing.text(end + 7, y + BAR_HEIGHT / 2, text, size=SMALL, tone="soft")
            y += BAR_HEIGHT + BAR_GAP
        y += 12
    drawing.height = y - 8
    return drawing


def draw_bill_bar(drawing: Drawing, row: Row, name: str, scale: Scale, y: float, palette: Palette) -> float:
    """The bar of one arm and quantity; the pixel where it ends."""
    tone = palette.tone(row["arm"])
    x = scale.start
    before = pretraining_amount(row, name)
    if lacks_price(row, name):
        drawing.box(
            x, y + 0.5, UNKNOWN_WIDTH, BAR_HEIGHT - 1, tone, outline=True, dashed=True, title="not known"
        )
        drawing.text(x + UNKNOWN_WIDTH / 2, y + BAR_HEIGHT / 2, "?", anchor="middle", tone=tone, bold=True)
        x += UNKNOWN_WIDTH
    elif before:
        length = scale(before) - scale.start
        drawing.box(
            x,
            y,
            length,
            BAR_HEIGHT,
            tone,
            opacity=PRETRAINING_OPACITY,
            title=f"{row['arm']}, pre-training: {large_text(before)}",
        )
        x += length
    own = float(row[name] or 0)
    length = max(scale(own) - scale.start, 1.5 if own else 0.0)
    drawing.box(x, y, length, BAR_HEIGHT, tone, title=f"{row['arm']}, training: {large_text(own)}")
    return x + length


def lacks_price(row: Row, name: str) -> bool:
    """Whether the arm's weights were made with an amount that is not known."""
    return row["pretraining"] is not None and row["pretraining"].get(name) is None


def pretraining_amount(row: Row, name: str) -> float:
    """The amount that pre-training took, 0 where there was none or it is not known."""
    return float((row["pretraining"] or {}).get(name) or 0)


def known_total(row: Row, name: str) -> float:
    """Pre-training and training, as far as known."""
    return pretraining_amount(row, name) + float(row[name] or 0)


def bill_text(row: Row, name: str, unit: str) -> str:
    """The amount in words: in sum and in parts."""
    if row[name] is None:
        return "not measured"
    own = large_text(float(row[name]), unit)
    if row["pretraining"] is None:
        return own
    if lacks_price(row, name):
        return f"unknown + {own}"
    return large_text(known_total(row, name), unit)


def error_name(error: str) -> str:
    """A kind of error as figures and tables call it."""
    return error[:1].upper() + error[1:]


def draw_errors(width: float, rows: Sequence[Row], *, palette: Palette) -> Drawing:
    """AP50 points that each kind of error costs, by arm."""
    arms = [arm for arm in palette.arms if any(row["arm"] == arm for row in rows)]
    kinds = {row["error"]: error_name(row["error"]) for row in rows}
    drawing = Drawing(width=width, height=0.0)
    is_narrow = width < NARROW
    y = draw_legend(drawing, palette, arms, x=0, y=10) + 2
    longest = max((text_width(name) for name in kinds.values()), default=0.0)
    left = 0.0 if is_narrow else min(longest + 12, NAME_SHARE * width)
    most = max((float(row["dAP"]) for row in rows if is_number(row["dAP"])), default=0.0)
    scale = Scale(0.0, most or 1.0, left, width - 44)
    pitch = 13.0
    for kind, name in kinds.items():
        if is_narrow:
            drawing.text(0, y + 4, name, size=SMALL)
            y += 14
        else:
            drawing.text(0, y + pitch * len(arms) / 2, cut_text(name, left - 10))
        for row in rows:
            if row["error"] != kind or not is_number(row["dAP"]):
                continue
            place = y + pitch * arms.index(row["arm"])
            tone = palette.tone(row["arm"])
            length = max(scale(float(row["dAP"])) - left, 1.0)
            drawing.box(
                left, place + 1, length, pitch - 2, tone, title=f"{row['arm']}, {name}: {row['count']}"
            )
            drawing.text(left + length + 6, place + pitch / 2, points_text(row["dAP"]), size=SMALL, tone=tone)
        y += pitch * len(arms) + 10
    drawing.height = y
    return drawing
