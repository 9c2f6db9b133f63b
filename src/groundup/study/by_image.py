"""What the primary comparison looks like inside: by category, and by photograph where the arms disagree.

Legend:
    N  images     B  replicates     K  categories     T  IoU thresholds     D  detections
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from groundup.metrics.match_table import TRUE_POSITIVE, MatchTable
from groundup.metrics.results import Document, Kind
from groundup.study.points import Place, done_runs
from groundup.study.results import RunResult, StudyResults
from groundup.study.samples import Samples

NUM_SHOWN = 8
"""Photographs of disagreement in each direction."""
SURE = (0.5, 0.3, 0.0)
"""Scores from which a detection counts as found in a photograph: the first at which the arms differ
anywhere. Ours; AP itself counts all."""

Row = dict[str, Any]


def category_rows(results: StudyResults, samples: Samples, place: Place, kind: Kind) -> list[Row]:
    """AP of every category in both arms with the interval of its difference, the candidate's worst first.

    Intervals hold the error of the images alone, and are not corrected for being many.
    """
    question = results.question
    arms = ((question.candidate, place.candidate), (question.reference, place.reference))
    found = [samples.by_category(done_runs(results, arm, point), kind) for arm, point in arms]
    tables = tables_of(samples, done_runs(results, *arms[0]), kind)
    if found[0] is None or found[1] is None or not tables:
        return []
    first, second = found[0], found[1]
    tail = 100 * question.alpha / 2
    rows = []
    for column, name in enumerate(tables[0].category_names):
        deltas = first[:, column] - second[:, column]
        if not np.isfinite(deltas[0]):
            continue
        drawn = deltas[1:][np.isfinite(deltas[1:])]
        low, high = np.percentile(drawn, [tail, 100 - tail]).tolist() if len(drawn) > 1 else (None, None)
        rows.append(
            {
                "name": name,
                "candidate": float(first[0, column]),
                "reference": float(second[0, column]),
                "delta": float(deltas[0]),
                "low": low,
                "high": high,
                "num_instances": num_instances(tables[0], column),
            }
        )
    return sorted(rows, key=lambda row: float(row["delta"]))


def tables_of(samples: Samples, runs: Sequence[RunResult], kind: Kind) -> list[MatchTable]:
    """The match tables at the end of the runs, those that there are."""
    found = [samples.table(run.end, kind) for run in runs if run.end is not None]
    return [table for table in found if table is not None]


def num_instances(table: MatchTable, category: int) -> int:
    """Instances to find of a category, of all sizes."""
    return int((table.gt_counted[0] & (table.gt_categories == category)).sum())


def disagreement_rows(
    results: StudyResults, samples: Samples, place: Place, kind: Kind, document: Document
) -> list[Row]:
    """Photographs in which one arm finds the most instances at IoU 0.5 that the other does not.

    One run of each arm is shown, of a seed that both have where there is one.
    """
    question = results.question
    pair = run_pair(
        done_runs(results, question.candidate, place.candidate),
        done_runs(results, question.reference, place.reference),
    )
    if pair is None:
        return []
    found = [tables_of(samples, [run], kind) for run in pair]
    if not all(found):
        return []
    tables = [one[0] for one in found]
    files = {image["id"]: str(image["file_name"]) for image in document["images"]}
    for least_score in SURE:
        first, second = (found_by_image(table, least_score) for table in tables)
        if (first != second).any():
            break
    order = np.argsort(second - first, kind="stable")
    ahead = [row for row in order.tolist() if first[row] > second[row]][:NUM_SHOWN]
    behind = [row for row in order[::-1].tolist() if first[row] < second[row]][:NUM_SHOWN]
    to_find = np.bincount(tables[0].gt_images[tables[0].gt_counted[0]], minlength=tables[0].num_images)
    return [
        {
            "image_id": int(tables[0].image_ids[row]),
            "file": files.get(int(tables[0].image_ids[row]), ""),
            "candidate_found": int(first[row]),
            "reference_found": int(second[row]),
            "gt": int(to_find[row]),
            "candidate_run": pair[0].key,
            "reference_run": pair[1].key,
            "ahead": question.candidate if first[row] > second[row] else question.reference,
            "least_score": least_score,
        }
        for row in [*ahead, *behind]
    ]


def run_pair(
    candidates: Sequence[RunResult], references: Sequence[RunResult]
) -> tuple[RunResult, RunResult] | None:
    """One run of each arm, of the same seed if there is one; None where an arm has none."""
    for candidate in candidates:
        for reference in references:
            if candidate.seed == reference.seed:
                return candidate, reference
    return (candidates[0], references[0]) if candidates and references else None


def found_by_image(table: MatchTable, least_score: float) -> Int64[np.ndarray, " N"]:
    """Instances found in each image at IoU 0.5 by detections of at least that score."""
    row = int(np.argmin(abs(table.thresholds - 0.5)))
    hits = (table.outcomes[0, row] == TRUE_POSITIVE) & (table.scores >= least_score)
    return np.bincount(table.images[hits], minlength=table.num_images).astype(np.int64)
