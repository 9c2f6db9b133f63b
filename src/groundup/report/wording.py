"""Numbers and names as the page says them. Names come from users: nothing in them may act or mislead."""

import math
import re
from typing import Any

MINUS = "\u2212"
NO_VALUE = "\u2013"
"""Where a table has nothing to say."""
UNPRINTABLE = re.compile(
    "[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\ufff0-\ufffb\ud800-\udfff\ufffe\uffff\U000e0000-\U000e0fff]"
)
"""Control characters, marks of zero width, half pairs, and what turns the direction of writing: a name could
look like another. Source: Unicode Technical Report 36, sections 2.5 and 3.1; Unicode Standard Annex 9."""
SHOWN_INSTEAD = "\ufffd"
FORMULA_HEADS = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""A cell of a spreadsheet that begins so is run. Source: OWASP, CSV injection."""
SI_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
THOUSANDS = 10_000
"""From here on counts are grouped; smaller ones read well without."""
MAX_SHOWN = 160
"""Characters of a value in a table."""


def neutral(text: str) -> str:
    """The text on one line, without characters that cannot be seen or that turn the direction of writing."""
    return UNPRINTABLE.sub(SHOWN_INSTEAD, " ".join(text.split()))


def typeset(text: str) -> str:
    """The text with true minus signs before numbers."""
    return re.sub(r"(?<![\w-])-(?=\d)", MINUS, neutral(text))


def cell_text(text: str) -> str:
    """The text as a cell of a CSV file that no spreadsheet runs."""
    shown = neutral(text)
    return "'" + shown if text.lstrip(" ").startswith(FORMULA_HEADS) else shown


def is_number(value: Any) -> bool:
    """Whether the value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def points_text(value: float | None, digits: int = 1) -> str:
    """AP points: 41.3."""
    return NO_VALUE if value is None or not is_number(value) else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 2) -> str:
    """A difference: +0.42."""
    return NO_VALUE if value is None or not is_number(value) else f"{value:+.{digits}f}".replace("-", MINUS)


def interval_text(low: float | None, high: float | None, digits: int = 2, *, sign: bool = True) -> str:
    """An interval: [-0.30, +1.15]; empty where an end is unknown."""
    if low is None or high is None:
        return ""
    write = signed if sign else points_text
    return f"[{write(low, digits)}, {write(high, digits)}]"


def count_text(value: float | None) -> str:
    """A whole number with its thousands set apart: 1,440,000."""
    return "unknown" if value is None else f"{value:,.0f}"


def short_count(value: float) -> str:
    """A count for an axis: 1.5 M, 8,000."""
    if abs(value) < THOUSANDS:
        return f"{value:,.0f}"
    size, prefix = next((size, prefix) for size, prefix in SI_UNITS if abs(value) >= 0.9995 * size)
    return f"{value / size:.3g} {prefix}"


def large_text(value: float | None, unit: str = "", digits: int = 3) -> str:
    """A large number with an SI prefix: 1.44 Tpx; unknown where None."""
    if value is None:
        return "unknown"
    if not unit and abs(value) < THOUSANDS:
        return f"{value:,.0f}"
    for size, prefix in (*SI_UNITS, (1.0, "")):
        if abs(value) >= size * (1 - 0.5 * 10**-digits) or size == 1.0:
            return f"{significant(value / size, digits)} {prefix}{unit}".rstrip()
    raise AssertionError("the last size takes all")


def significant(value: float, digits: int) -> str:
    """The value with so many digits that count: 9.50, 864."""
    return f"{value:#.{digits}g}".rstrip(".") if value else "0"


def duration_text(seconds: float | None) -> str:
    """A time: 42 s, 12 min, 3.4 h, 5.1 d."""
    if seconds is None:
        return "unknown"
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            shown = seconds / size
            return f"{significant(shown, 2)} {unit}" if shown < 9.95 else f"{shown:.0f} {unit}"
    return f"{significant(seconds / 86400, 2 if seconds < 9.95 * 86400 else 3)} d"


def share_text(part: float, whole: float) -> str:
    """A share: 12 %."""
    return NO_VALUE if not whole else f"{100 * part / whole:.0f} %"


def value_text(value: Any) -> str:
    """A value of a recipe as a table shows it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return f"{value}"
    if isinstance(value, list | tuple):
        text = "[" + ", ".join(value_text(item) for item in value) + "]"
    elif isinstance(value, dict):
        text = ", ".join(f"{name}: {value_text(item)}" for name, item in value.items()) or "none"
    else:
        text = str(value)
    return shortened(text)


def shortened(text: str) -> str:
    """The text, cut where it is too long for a table; its file has all of it."""
    shown = neutral(text)
    return shown if len(shown) <= MAX_SHOWN else shown[: MAX_SHOWN - 1] + "\u2026"


UNIT_AXES = ("schedule.units",)
FRACTION_AXES = ("data.fraction", "data.train.fraction", "fraction")


def axis_text(path: str, value: Any) -> str:
    """A value of an axis in words: `2x schedule`, `10 % of the data`, else `norm = gn`."""
    if path.endswith(UNIT_AXES) and is_number(value):
        return f"{value:g}x schedule"
    if path.endswith("fraction") and is_number(value):
        return "all data" if value == 1 else f"{100 * value:.3g} % of data"
    if path.endswith("data.images"):
        return "all data" if value is None else f"{count_text(value)} training images"
    if path.endswith("fraction_seed"):
        return f"draw {value_text(value)}"
    return f"{path.rsplit('.', 1)[-1]} = {value_text(value)}"


def place_text(point: dict[str, Any]) -> str:
    """The values of all axes in words; empty without axes."""
    return ", ".join(axis_text(path, value) for path, value in point.items())
