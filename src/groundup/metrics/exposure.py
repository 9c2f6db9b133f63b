"""What a model has seen, and what that cost: the bill of a run. No torch; `metrics.flops` counts."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from groundup.errors import DataError

LARGE_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
"""SI prefixes of the sizes a bill reaches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """A bill that adds up: over steps, over runs, and over pre-training and training."""

    images: int = 0
    """Images seen, each as often as it was seen."""
    instances: int = 0
    """Annotated instances in them, after the transforms."""
    pixels: int = 0
    """Pixels of the images as the model saw them, padding left out."""
    flops: int = 0
    """Floating point operations of forward and backward passes, a multiply-add as two."""
    seconds: float = 0.0
    """Wall clock, start to end of the work counted."""
    joules: float | None = None
    """Energy, None where it was not measured; a sum with a part that was not measured is None."""

    def __add__(self, other: "Exposure") -> "Exposure":
        """The bill of both."""
        measured = self.joules is not None and other.joules is not None
        return Exposure(
            images=self.images + other.images,
            instances=self.instances + other.instances,
            pixels=self.pixels + other.pixels,
            flops=self.flops + other.flops,
            seconds=self.seconds + other.seconds,
            joules=(self.joules or 0.0) + (other.joules or 0.0) if measured else None,
        )

    def to_json(self) -> dict[str, Any]:
        """The bill as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Exposure":
        """The bill that `to_json` wrote.

        Raises:
            DataError: fields that a bill does not have.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise DataError(f"exposure: no field {', '.join(map(repr, sorted(unknown)))}")
        return cls(**values)

    def lines(self) -> list[str]:
        """The bill for reading, one line a quantity."""
        quantities = [
            ("images", f"{self.images:,}"),
            ("instances", f"{self.instances:,}"),
            ("pixels", in_units(self.pixels, "pixels")),
            ("compute", in_units(self.flops, "FLOP")),
            ("time", f"{self.seconds / 3600:.2f} h" if self.seconds >= 3600 else f"{self.seconds:.1f} s"),
            ("energy", "not measured" if self.joules is None else in_units(self.joules, "J")),
        ]
        width = max(len(name) for name, _ in quantities)
        return [f"{name.ljust(width)}  {text}" for name, text in quantities]


def in_units(value: float, unit: str) -> str:
    """The value with three digits and an SI prefix: 1.44 Tpixels."""
    for size, prefix in LARGE_UNITS:
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
