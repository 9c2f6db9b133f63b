"""Why each arm loses AP50 in the question's kind: TIDE's error types at the end of the compared runs."""

from pathlib import Path
from typing import Any

from groundup.errors import DataError
from groundup.metrics.error_types import TIDE_ERRORS, tell_errors_apart
from groundup.metrics.results import Document, Kind, read_results
from groundup.study.points import Place, done_runs
from groundup.study.results import RunResult, StudyResults
from groundup.study.samples import POINTS

PREDICTIONS = "predictions.{}.json"
"""Detections of a kind in an evaluation's folder, as `engine.evaluate` writes them."""
ERROR_TYPES = "error types"
"""Before what is said of them in an answer's notes."""

Row = dict[str, Any]


def error_rows(results: StudyResults, place: Place, document: Document, notes: list[str]) -> list[Row]:
    """{arm, error, name, dAP, dAP_per_seed, count}: means over the runs of each arm's compared point.

    dAP is AP50 won, in points, if the errors of that type alone were mended; they do not add up.
    """
    rows = []
    question = results.question
    kind = question.table_kind
    for arm, point in ((question.candidate, place.candidate), (question.reference, place.reference)):
        found = []
        for run in done_runs(results, arm, point):
            path = predictions_of(run, kind)
            if path is None:
                notes.append(f"{ERROR_TYPES}: {run.key} has no {PREDICTIONS.format(kind)}")
                continue
            try:
                found.append(tell_errors_apart(document, read_results(path), kind, source=str(path)))
            except DataError as error:
                notes.append(f"{ERROR_TYPES}: {error}")
        for key, name in TIDE_ERRORS.items() if found else ():
            lost = [POINTS * one.lost[name] for one in found]
            rows.append(
                {
                    "arm": arm,
                    "error": name,
                    "name": key,
                    "dAP": sum(lost) / len(lost),
                    "dAP_per_seed": lost,
                    "count": sum(one.counts[name] for one in found) / len(found),
                }
            )
    return rows


def predictions_of(run: RunResult, kind: Kind) -> Path | None:
    """Where the detections of a run's last evaluation lie; None where they are gone."""
    folder = run.end.folder if run.end is not None else None
    path = None if folder is None else folder / PREDICTIONS.format(kind)
    return path if path is not None and path.exists() else None
