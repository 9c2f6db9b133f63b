"""The table of how fast the arms' runs went, and where their steps' time went where they were profiled."""

from collections.abc import Sequence
from statistics import fmean

from groundup.metering import Pace
from groundup.report.cells import Cell, Table, words
from groundup.report.wording import NO_VALUE, significant
from groundup.study.results import StudyResults

GIB = 2**30


def speed_table(results: StudyResults, arms: Sequence[str]) -> Table:
    """Means over the runs of each arm that have logged steps; the most memory that one of them held."""
    rows, records = [], []
    for arm in arms:
        paces = [run.pace for run in results.runs_of(arm) if run.pace is not None]
        if not paces:
            continue
        peaks = [pace.peak_memory for pace in paces if pace.peak_memory is not None]
        speed, wait = fmean(p.images_per_second for p in paces), fmean(p.data_wait for p in paces)
        shares = mean_parts(paces)
        rows.append(
            (
                words(arm, arm=arm),
                Cell(significant(speed, 3)),
                Cell(f"{100 * wait:.1f} %"),
                Cell(f"{max(peaks) / GIB:.2f} GiB" if peaks else NO_VALUE),
                Cell(parts_text(shares), is_number=False),
            )
        )
        records.append(
            {
                "arm": arm,
                "images_per_second": speed,
                "data_wait": wait,
                "peak_memory": max(peaks, default=None),
                **{f"part/{name}": share for name, share in shares.items()},
            }
        )
    return Table(
        name="speed",
        title="Speed and memory",
        heads=("Arm", "Images/s", "Waiting for data", "Most memory", "Where a step's time went"),
        rows=tuple(rows),
        records=tuple(records),
        note="Means over an arm's runs; evaluations are not in them.",
    )


def mean_parts(paces: Sequence[Pace]) -> dict[str, float]:
    """Mean share of each part over the runs that were profiled, largest first."""
    profiled = [pace.parts for pace in paces if pace.parts]
    names = {name for parts in profiled for name in parts}
    means = {name: fmean(parts.get(name, 0.0) for parts in profiled) for name in names}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def parts_text(shares: dict[str, float]) -> str:
    """The parts of a step in words; never cut."""
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items()) or NO_VALUE
