"""The largest study that fits the hours: how many lengths, shares of the data and seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from groundup.config import plain, read_tree
from groundup.errors import UsageError
from groundup.study.forecast import Hours, estimate_hours
from groundup.study.plan import Plan, build_plan
from groundup.study.probe import Speed, probe_plan
from groundup.study.study import Study

UNITS = "training.schedule.units"
"""Axis of lengths. Source: He et al. (2019), figure 1: the longer the run, the smaller the gap."""
FRACTION = "data.fraction"
"""Axis of shares of the training set. Source: He et al. (2019), figure 7."""
RESERVE = 1.25
"""Ours: hours are reckoned as so many times what the probe says, since runs side by side slow each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large a study is."""

    units: tuple[float, ...]
    fractions: tuple[float, ...]
    num_seeds: int

    def words(self) -> str:
        """For reading."""
        lengths = ", ".join(f"{units:g}x" for units in self.units)
        shares = (
            ""
            if self.fractions == (1.0,)
            else f" on {', '.join(f'{f:g}' for f in self.fractions)} of the data"
        )
        return f"{lengths}{shares}, {self.num_seeds} seed{'s' if self.num_seeds > 1 else ''}"


SHAPES = (
    Shape(units=(1, 3, 6), fractions=(1.0, 0.3, 0.1), num_seeds=5),
    Shape(units=(1, 3, 6), fractions=(1.0, 0.1), num_seeds=3),
    Shape(units=(1, 3, 6), fractions=(1.0,), num_seeds=3),
    Shape(units=(1, 2, 4), fractions=(1.0, 0.1), num_seeds=3),
    Shape(units=(1, 2, 4), fractions=(1.0,), num_seeds=3),
    Shape(units=(1, 2), fractions=(1.0,), num_seeds=3),
    Shape(units=(1, 2), fractions=(1.0,), num_seeds=2),
    Shape(units=(1,), fractions=(1.0,), num_seeds=3),
    Shape(units=(1,), fractions=(1.0,), num_seeds=2),
    Shape(units=(1,), fractions=(1.0,), num_seeds=1),
)
"""From what one would wish to what answers at all. Seeds come before lengths from 2x down: one seed can only
give a provisional answer. Source: reliability of the verdict, docs/design.md."""
LEAST_UNIT_IMAGES = 400
"""Images of a unit below which a detector learns nothing that could be compared. Source: docs/LOG.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A study and what it takes."""

    study: Study
    plan: Plan
    hours: Hours
    notes: tuple[str, ...]
    """What a reader must know before it starts."""


def propose_study(
    build: Callable[[Shape, int | None], Study],
    folder: Path,
    *,
    hours: float,
    processes: int,
    threads: int,
    shapes: Sequence[Shape] | None = None,
    note: Callable[[str], None] | None = None,
) -> Proposal:
    """The first of the shapes that fits the hours; where none does, the last with a shorter unit.

    Args:
        build: the study of a shape; its second argument is the images of one unit, None for the usual.
        folder: of the study; the measured speeds are kept there.
        hours: that the study may take.
        processes: runs at a time.
        threads: of each.
        shapes: from the largest; None: `SHAPES`.
        note: told what is being measured.

    Raises:
        UsageError: not even the shortest training that could show anything fits.
        DataError: data or weights that cannot be used.
    """
    shapes = shapes or SHAPES
    smallest = build_plan(build(shapes[-1], None), folder)
    measured = probe_plan(smallest, folder, threads=threads, note=note)
    speeds = {run.arm: measured[run.key] for run in smallest.runs}
    for shape in shapes:
        study = build(shape, None)
        proposal = reckon(study, build_plan(study, folder), speeds, folder, processes)
        if proposal.hours.wall * RESERVE <= hours:
            return proposal
    share = hours / (proposal.hours.wall * RESERVE)
    unit = int(smallest.runs[0].unit_images * share)
    if unit < LEAST_UNIT_IMAGES:
        need = proposal.hours.wall * RESERVE * LEAST_UNIT_IMAGES / smallest.runs[0].unit_images
        raise UsageError(
            f"{hours:g} hours are too few: training both arms for {LEAST_UNIT_IMAGES} images takes about "
            f"{need:.2g} hours here; give --hours {need:.2g} or more, smaller photographs "
            "(--set transforms.short_side=[...]), or a smaller --recipe"
        )
    study = build(shapes[-1], unit)
    usual = smallest.runs[0].unit_images
    told = (
        f"a unit is {unit:,} images instead of {usual:,} ({share:.0%}), to fit {hours:g} hours: both arms "
        "are cut short, the one from scratch more",
    )
    return reckon(study, build_plan(study, folder), speeds, folder, processes, told)


def reckon(
    study: Study,
    plan: Plan,
    speeds: dict[str, Speed],
    folder: Path,
    processes: int,
    notes: tuple[str, ...] = (),
) -> Proposal:
    """The study with what it takes, by the speed of each arm."""
    by_key = {run.key: speeds[run.arm] for run in plan.runs}
    estimated = estimate_hours(plan, by_key, folder, processes=processes)
    assert estimated is not None, "every arm was measured"
    return Proposal(study=study, plan=plan, hours=estimated, notes=notes)


def with_shape(study: Study, shape: Shape, unit_images: int | None) -> Study:
    """The study with a shape's lengths, shares and seeds; lengths that it sets itself stay."""
    values = plain(study)
    values["axes"] = {UNITS: list(shape.units)}
    if shape.fractions != (1.0,):
        values["axes"][FRACTION] = list(shape.fractions)
    values["seeds"] = list(range(shape.num_seeds))
    values["question"]["num_seeds"] = shape.num_seeds
    if unit_images is not None:
        values["set"]["training.schedule.unit_images"] = unit_images
    return read_tree(Study, values)
