"""Which runs stand against which: points of the axes, and the rules that say where two arms are compared.

Runs of one arm and point that differ in their seed, or in the draw of their share of the data, are
repetitions of one another.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from groundup.study.results import RunResult, StudyResults
from groundup.study.study import pretraining_of

LENGTHS = ("training.schedule.units", "training.schedule.images")
"""Axes that say how long a run is."""
FRACTION = "data.fraction"
"""Axis of the share of the training set."""
IMAGES = "data.images"
"""The same as a number of images; None is all."""
SIZES = (FRACTION, IMAGES)
DRAW = "data.fraction_seed"
"""Axis of the draw of that share: its values are repetitions, as seeds are."""

Point = dict[str, Any]
"""Value of each axis under its dotted path; without the draw, where runs are pooled."""


def pooled(point: Point) -> Point:
    """The point without the draw of the data."""
    return {path: value for path, value in point.items() if path != DRAW}


def without(point: Point, *paths: str) -> Point:
    """The point without some axes."""
    return {path: value for path, value in point.items() if path not in paths}


def points_of(results: StudyResults) -> list[Point]:
    """The pooled points, each once, in the order of the plan."""
    points: list[Point] = []
    for run in results.runs:
        if pooled(run.point) not in points:
            points.append(pooled(run.point))
    return points


def runs_at(results: StudyResults, arm: str, point: Point) -> tuple[RunResult, ...]:
    """The repetitions of an arm at a pooled point; of all the data there is one draw, so one run a seed."""
    runs = [run for run in results.runs if run.arm == arm and pooled(run.point) == point]
    if runs and size_rank(runs[0].point) == ALL:
        runs = list({run.seed: run for run in reversed(runs)}.values())[::-1]
    return tuple(runs)


def done_runs(results: StudyResults, arm: str, point: Point) -> tuple[RunResult, ...]:
    """Those of them that are done and evaluated at their end."""
    return tuple(run for run in runs_at(results, arm, point) if run.state == "done" and run.end is not None)


def length_at(results: StudyResults, arm: str, point: Point) -> int:
    """Images of the arm's schedule at a pooled point; 0 where it has none there."""
    return max((run.total_images for run in runs_at(results, arm, point)), default=0)


def length_axis(results: StudyResults) -> str | None:
    """The axis of the schedules' length, if the study has one with several values."""
    return next((path for path in LENGTHS if len(results.study.axes.get(path, [])) > 1), None)


def size_axis(results: StudyResults) -> str | None:
    """The axis of the training set's size, if the study has one with several values."""
    return next((path for path in SIZES if len(results.study.axes.get(path, [])) > 1), None)


ALL = (1.0, math.inf)
"""Where points of the whole training set stand in the order of `size_rank`."""


def size_rank(point: Point) -> tuple[float, float]:
    """Where a point's share or number of training images stands: smaller parts first, all last."""
    share, images = point.get(FRACTION), point.get(IMAGES)
    return (1.0 if share is None else share, math.inf if images is None else images)


def sizes_of(results: StudyResults, axis: str) -> list[Any]:
    """The values of the axis of sizes, smallest first."""
    return sorted(results.study.axes[axis], key=lambda value: size_rank({axis: value}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the arms stand in the primary comparison."""

    candidate: Point
    reference: Point
    notes: tuple[str, ...] = ()
    missing: str | None = None
    """Why the rule cannot be applied yet; None where it is."""


def base_place(results: StudyResults) -> Place:
    """The same point for both arms: longest schedule, all of the data, first value of every other axis.

    It depends on the plan alone, never on what came out.
    """
    points = points_of(results)
    if not points:
        return Place(candidate={}, reference={}, missing="nothing is planned yet")
    first = {path: values[0] for path, values in results.study.axes.items()}
    others = [path for path in points[0] if path not in (*LENGTHS, *SIZES)]
    eligible = [p for p in points if all(p[path] == first.get(path, p[path]) for path in others)] or points
    candidate, reference = results.question.candidate, results.question.reference

    def rank(point: Point) -> tuple[tuple[float, float], int]:
        return size_rank(point), min(length_at(results, arm, point) for arm in (candidate, reference))

    best = max(eligible, key=rank)
    fixed = [f"{path} = {best[path]!r}" for path in others if len(results.study.axes.get(path, [])) > 1]
    notes = (f"the primary comparison stands at the first value of {', '.join(fixed)}",) if fixed else ()
    return Place(candidate=best, reference=best, notes=notes)


def lengths_beside(results: StudyResults, arm: str, point: Point) -> list[Point]:
    """The points that differ from this one in nothing but length, shortest first."""
    others = without(point, *LENGTHS)
    found = [p for p in points_of(results) if without(p, *LENGTHS) == others and runs_at(results, arm, p)]
    return sorted(found, key=lambda p: length_at(results, arm, p))


def pretraining_images(results: StudyResults, arm: str) -> float | None:
    """Images that the start of an arm has seen; 0 from scratch, None where nobody knows."""
    if starts_from_nothing(results, arm):
        return 0.0
    made = pretraining_of(results.study, arm)
    if made is not None:
        exposure = results.pretraining[made].exposure
        return None if exposure is None else float(exposure.images)
    price = results.study.prices.get(arm)
    return None if price is None else price.images


def starts_from_nothing(results: StudyResults, arm: str) -> bool:
    """Whether an arm begins with random weights, by what its runs' recipes say."""
    if pretraining_of(results.study, arm) is not None:
        return False
    recipes = [results.recipes.get(run.key, {}) for run in results.runs if run.arm == arm]
    return not any((recipe.get("start") or {}).get("weights") for recipe in recipes)


def place_by_samples(results: StudyResults, base: Place) -> Place:
    """Equal images in all: the candidate's longest schedule that sees no more than the reference's total."""
    candidate, reference = results.question.candidate, results.question.reference
    seen = {arm: pretraining_images(results, arm) for arm in (candidate, reference)}
    unknown = [arm for arm, images in seen.items() if images is None]
    if unknown:
        return Place(
            candidate=base.candidate,
            reference=base.reference,
            notes=base.notes,
            missing=f"how many images the pre-training of {' and '.join(unknown)} saw is unknown, so equal "
            "samples cannot be told (give prices in a new study, or let the study pre-train)",
        )
    total = length_at(results, reference, base.reference) + (seen[reference] or 0.0)
    own = seen[candidate] or 0.0
    lengths = lengths_beside(results, candidate, base.candidate)
    within = [p for p in lengths if length_at(results, candidate, p) + own <= total]
    chosen = within[-1] if within else lengths[0]
    spent = length_at(results, candidate, chosen) + own
    note = f"equal samples: {reference} saw {total:,.0f} images in all, {candidate} {spent:,.0f}"
    note += "" if within else "; no schedule of it is as short"
    return Place(candidate=chosen, reference=base.reference, notes=(*base.notes, note))


def place_by_convergence(results: StudyResults, base: Place, ends: Sequence[dict[str, float]]) -> Place:
    """Each arm at its best schedule by the mean primary endpoint.

    `ends` holds, for the candidate and for the reference, the mean by `name_of(point)` where it is known.
    """
    chosen, notes, missing = [], [], None
    arms = (results.question.candidate, results.question.reference)
    for arm, known in zip(arms, ends, strict=True):
        lengths = lengths_beside(results, arm, base.candidate)
        done = [p for p in lengths if name_of(p) in known]
        if not done:
            missing = missing or f"{arm} has no schedule done"
            chosen.append(base.candidate)
            continue
        chosen.append(max(done, key=lambda p: known[name_of(p)]))
        if len(done) < len(lengths):
            notes.append(
                f"{arm}: {len(lengths) - len(done)} of its {len(lengths)} schedules are not done yet"
            )
        elif len(lengths) > 1 and chosen[-1] == lengths[-1]:
            notes.append(f"{arm} is best at its longest schedule; it may not have converged")
    notes.append("each arm's best schedule is chosen on the validation images it is judged by")
    return Place(candidate=chosen[0], reference=chosen[1], notes=(*base.notes, *notes), missing=missing)


def name_of(point: Point) -> str:
    """A point in words: `units 4, fraction 0.1`; the study's only point has none."""
    return ", ".join(f"{path.rsplit('.', 1)[-1]} {value}" for path, value in point.items())
