"""Why each arm's boxes lose AP50: TIDE's error types at the end of the compared runs."""

from pathlib import Path
from typing import Any

from groundup.errors import DataError
from groundup.metrics.box_errors import TIDE_ERRORS, box_errors
from groundup.metrics.results import Document, read_results
from groundup.study.points import Place, done_runs
from groundup.study.results import RunResult, StudyResults
from groundup.study.samples import POINTS

PREDICTIONS = "predictions.bbox.json"
"""Boxes of an evaluation in its folder, as `engine.evaluate` writes them."""

Row = dict[str, Any]


def error_rows(results: StudyResults, place: Place, document: Document, notes: list[str]) -> list[Row]:
    """{arm, error, name, dAP, dAP_per_seed, count}: means over the runs of each arm's compared point.

    dAP is AP50 won, in points, if the errors of that type alone were mended; they do not add up.
    """
    rows = []
    question = results.question
    for arm, point in ((question.candidate, place.candidate), (question.reference, place.reference)):
        found = []
        for run in done_runs(results, arm, point):
            path = predictions_of(run)
            if path is None:
                notes.append(f"error types: {run.key} has no {PREDICTIONS}")
                continue
            try:
                found.append(box_errors(document, read_results(path), source=str(path)))
            except DataError as error:
                notes.append(f"error types: {error}")
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


def predictions_of(run: RunResult) -> Path | None:
    """Where the boxes of a run's last evaluation lie; None where they are gone."""
    folder = run.end.folder if run.end is not None else None
    path = None if folder is None else folder / PREDICTIONS
    return path if path is not None and path.exists() else None
