"""Numbers that others have published about a study's arms, set down with it. No torch.

They are set beside what is measured and decide nothing: the verdict is of the study's own runs.
"""

from typing import Any

from pydantic import Field, model_validator

from groundup.config import Options

Point = dict[str, Any]
"""Value of each axis under its dotted path."""


class PublishedValue(Options):
    """What was published of one arm."""

    arm: str
    """Name of the study's arm."""
    point: Point = Field(default_factory=dict)
    """Values of axes at which the number stands; axes that are not named may have any value."""
    metric: str
    """Name in a log: box/AP, mask/AP75, keypoints/AP."""
    value: float | None
    """AP points, 0 .. 100; None: the publication shows it, but no number is known."""
    tolerance: float | None = None
    """AP points within which a training of the same recipe and data may end by chance; None: unknown."""
    source: str
    """Table or section."""


class Publication(Options):
    """A paper's numbers for a study."""

    title: str
    """Who published."""
    same_scale: bool
    """Whether the study's data, recipes and lengths are the publication's. Elsewhere the numbers stand beside
    what is measured for orientation, and differences between them mean nothing."""
    values: list[PublishedValue]
    """In the order in which they are shown."""

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> "Publication":
        """Refuse numbers that are no AP points and tolerances that are none."""
        for one in self.values:
            if one.value is not None and not 0 <= one.value <= 100:
                raise ValueError(f"values: {one.arm} {one.metric} is {one.value}, but AP points are 0 .. 100")
            if one.tolerance is not None and one.tolerance <= 0:
                raise ValueError(f"values: {one.arm} {one.metric}: a tolerance is above 0, or null")
        return self


def stands_at(value: PublishedValue, point: Point) -> bool:
    """Whether a number is of this point of the axes."""
    return all(point.get(path) == wanted for path, wanted in value.point.items())
