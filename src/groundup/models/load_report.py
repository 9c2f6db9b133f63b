"""What a start did to a model, tensor by tensor: as records, as text, as plain data."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

Outcome = Literal["loaded", "reshaped", "by class", "kept", "missing", "wrong shape", "unexpected", "outside"]
"""loaded: taken as it was; reshaped: the same numbers under another shape; by class: the rows of the classes
that both have, by name; kept: left at gamma 1 and beta 0
because the norms differ; missing: the weights lack it, it stays random; wrong shape: likewise; unexpected:
the model has no such tensor (a classifier's layers); outside: not asked for (another part of a detector)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorReport:
    """What became of one tensor."""

    name: str
    outcome: Outcome
    shape: tuple[int, ...] | None
    """In the model; None if it has no such tensor."""
    found: tuple[int, ...] | None
    """In the weights; None if they lack it."""
    in_backbone: bool
    """Whether it is one of the model's backbone."""

    @property
    def numel(self) -> int:
        """Numbers in the tensor, the model's before the weights'."""
        return torch.Size(self.shape if self.shape is not None else self.found or ()).numel()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What a start did to a model, tensor by tensor."""

    source: str
    """`scratch`, or the reference of the weights."""
    digest: str | None
    title: str | None
    """Which network the weights are of, as far as known."""
    top1: float | None
    """Published ImageNet-1k accuracy of the weights in percent, if known."""
    frozen_stages: int
    tensors: tuple[TensorReport, ...]
    notes: tuple[str, ...] = ()
    """What else its reader must know, one line each."""

    @property
    def percent(self) -> float:
        """Share of the backbone's numbers, norms and their statistics included, that the weights gave."""
        inside = [tensor for tensor in self.tensors if tensor.in_backbone]
        loaded = sum(tensor.numel for tensor in inside if tensor.outcome in ("loaded", "reshaped"))
        return 100.0 * loaded / max(1, sum(tensor.numel for tensor in inside))

    def of(self, *outcomes: Outcome) -> list[TensorReport]:
        """The tensors with one of these outcomes."""
        return [tensor for tensor in self.tensors if tensor.outcome in outcomes]

    def lines(self, *, every: bool = False) -> list[str]:
        """The report as text: a summary, then a line for each tensor that was not simply loaded.

        Args:
            every: give the loaded ones a line too.
        """
        if self.digest is None:
            return [f"start: {self.source} (random weights, nothing frozen)"]
        top1 = f", ImageNet top-1 {self.top1:.1f} %" if self.top1 is not None else ""
        frozen = f"{self.frozen_stages} stages frozen" if self.frozen_stages else "nothing frozen"
        counts = {t.outcome: len(self.of(t.outcome)) for t in self.tensors}
        text = [
            f"start: {self.source} ({self.title}{top1}); sha256 {self.digest}",
            f"{self.percent:.1f} % of the backbone loaded, {frozen}; tensors: "
            + ", ".join(f"{count} {outcome}" for outcome, count in counts.items()),
        ]
        rows = [t for t in self.tensors if every or t.outcome not in ("loaded", "outside")]
        width = max((len(row.name) for row in rows), default=0)
        text += [
            f"  {row.outcome:<11} {row.name:<{width}}  {shape_text(row.found)} -> {shape_text(row.shape)}"
            for row in rows
        ]
        return text + [f"  note: {note}" for note in self.notes]

    def to_json(self) -> dict[str, Any]:
        """The report as plain data, every tensor included."""
        return {
            "source": self.source,
            "digest": self.digest,
            "title": self.title,
            "top1": self.top1,
            "frozen_stages": self.frozen_stages,
            "percent": round(self.percent, 3),
            "notes": list(self.notes),
            "tensors": [asdict(tensor) for tensor in self.tensors],
        }


def shape_text(shape: tuple[int, ...] | None) -> str:
    """A shape as 64x3x7x7; a dash where there is no tensor."""
    return "-" if shape is None else "x".join(map(str, shape)) or "1"
