"""The paper's numbers. What the paper shows in a figure but not as a number is None.

Source, unless a line says otherwise: He, Girshick, Dollar 2018, Rethinking ImageNet Pre-training (arXiv
1811.08883), tables 1 to 3 and the text.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from groundup.study.publication import Publication, PublishedValue

TITLE = "He, Girshick, Dollar 2018"
UNITS = "training.schedule.units"
IMAGES = "training.schedule.images"
FRACTION = "data.fraction"

TOLERANCE = 0.5
"""AP points between two trainings of one recipe on COCO that say nothing: seeds spread by 0.1 to 0.3, so the
difference of two by up to 0.4 in one of three cases. Source: this project's design, reliability."""

LENGTHS = (2.0, 3.0, 4.0, 5.0, 6.0)
"""Of table 1, in units of 90k iterations."""

TABLE_1: dict[str, tuple[float, ...]] = {
    "R50 scratch": (36.8, 39.5, 40.6, 40.7, 41.3),
    "R50 pre-trained": (40.3, 40.8, 40.9, 40.9, 41.1),
    "R101 scratch": (38.2, 41.0, 41.8, 42.2, 42.7),
    "R101 pre-trained": (41.8, 42.3, 42.3, 41.9, 42.2),
}
"""Box AP at each of `LENGTHS`."""

METRICS = ("box/AP", "box/AP50", "box/AP75", "mask/AP", "mask/AP50", "mask/AP75")
"""Columns of tables 2 and 3."""

TABLE_2: dict[str, tuple[float, ...]] = {
    "R50 scratch": (41.3, 61.8, 45.6, 36.6, 59.0, 38.9),
    "R50 pre-trained": (41.1, 61.7, 44.6, 36.4, 58.5, 38.7),
    "R101 scratch": (42.7, 62.9, 47.0, 37.6, 59.9, 39.7),
    "R101 pre-trained": (42.3, 62.6, 46.2, 37.2, 59.7, 39.7),
}
"""Each arm at its best schedule."""
BEST_LENGTHS = {"R50 scratch": 6.0, "R50 pre-trained": 6.0, "R101 scratch": 6.0, "R101 pre-trained": 3.0}
"""In units. R101 pre-trained has 42.3 at 3x and at 4x; Detectron's public 3x model has its mask AP too."""

TABLE_3: dict[str, tuple[float, ...]] = {
    "R101, scale augmentation": (45.0, 65.7, 49.3, 39.5, 62.5, 42.1),
    "X152, scale augmentation": (46.4, 67.1, 51.1, 40.5, 63.9, 43.4),
    "X152, cascade": (48.6, 66.8, 52.9, 41.4, 64.2, 44.6),
    "X152, test augmentation": (50.9, 68.7, 55.4, 43.2, 66.1, 46.8),
}
"""From scratch."""
X152_PRETRAINED = (50.3, 42.5)
"""Box and mask AP of the last row, pre-trained (text)."""


def at_lengths(
    arm: str, row: Iterable[float | None], source: str, metric: str = "box/AP"
) -> list[PublishedValue]:
    """One number a length of table 1."""
    return [
        PublishedValue(
            arm=arm, point={UNITS: units}, metric=metric, value=value, tolerance=TOLERANCE, source=source
        )
        for units, value in zip(LENGTHS, row, strict=True)
    ]


def of_arm(
    arm: str,
    numbers: Mapping[str, float | None],
    source: str,
    point: Mapping[str, Any] | None = None,
    tolerance: float | None = TOLERANCE,
) -> list[PublishedValue]:
    """Numbers of one arm by metric."""
    return [
        PublishedValue(
            arm=arm, point=dict(point or {}), metric=metric, value=value, tolerance=tolerance, source=source
        )
        for metric, value in numbers.items()
    ]


def publication(*values: list[PublishedValue]) -> Publication:
    """The paper's numbers for a study at full scale."""
    return Publication(title=TITLE, same_scale=True, values=[one for part in values for one in part])
