"""Rows of the answer that set published numbers beside what the study measured. No torch."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from groundup.metrics.tables import NAMES
from groundup.study.points import done_runs, name_of, points_of, runs_at
from groundup.study.publication import PublishedValue, stands_at
from groundup.study.results import StudyResults
from groundup.study.samples import POINTS

Row = dict[str, Any]


def published_rows(results: StudyResults, endpoints: Sequence[Row]) -> list[Row]:
    """Every published number with the mean of the runs that are done at its point, in the study's order.

    `endpoints` are the answer's, whose intervals are of the same runs; metrics that have none of them stand
    without. Differences are told only where data, recipe and lengths are those of the publication.
    """
    paper = results.study.published
    if paper is None:
        return []
    rows = []
    for number in paper.values:
        for point in places_of(results, number):
            row = measured_row(results, number, point, endpoints)
            known = paper.same_scale and row["measured"] is not None and number.value is not None
            row["difference"] = row["measured"] - number.value if known else None
            rows.append(row)
    return rows


def places_of(results: StudyResults, number: PublishedValue) -> Iterator[dict[str, Any]]:
    """The points of the study that a number is of; the number's own where the study has none of them yet."""
    found = [
        point
        for point in points_of(results)
        if stands_at(number, point) and runs_at(results, number.arm, point)
    ]
    yield from found or [dict(number.point)]


def measured_row(
    results: StudyResults, number: PublishedValue, point: dict[str, Any], endpoints: Sequence[Row]
) -> Row:
    """One number beside the mean over the runs of its arm; None where none is done."""
    ends = [run.end.metrics for run in done_runs(results, number.arm, point) if run.end is not None]
    values = [POINTS * metrics[number.metric] for metrics in ends if number.metric in metrics]
    found = [row for row in endpoints if is_of(row, number, point)]
    return {
        "arm": number.arm,
        "point": point,
        "place": name_of(point),
        "metric": number.metric,
        "published": number.value,
        "tolerance": number.tolerance,
        "source": number.source,
        "measured": float(np.mean(values)) if values else None,
        "low": found[0]["low"] if found else None,
        "high": found[0]["high"] if found else None,
        "num_runs": len(values),
    }


def is_of(row: Row, number: PublishedValue, point: dict[str, Any]) -> bool:
    """Whether an endpoint of the answer is the metric of a number."""
    name = f"{NAMES[row['kind']]}/{row['endpoint']}"
    return bool(name == number.metric and row["arm"] == number.arm and row["point"] == point)
