"""Rows of the answer that follow AP over training: curves, ends of schedules, overfitting, catching up.

AP points, 0 .. 100; metrics of runs are 0 .. 1 and become points here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from groundup.errors import UsageError
from groundup.metrics.bootstrap import EndpointSample
from groundup.metrics.results import Kind
from groundup.metrics.tables import NAMES, TRAINING
from groundup.study.crossover import Crossover, Curve, find_crossover
from groundup.study.data_size import DataWorth, value_in_data
from groundup.study.points import (
    Place,
    Point,
    done_runs,
    length_at,
    length_axis,
    lengths_beside,
    name_of,
    points_of,
    pretraining_images,
    runs_at,
    size_axis,
    sizes_of,
)
from groundup.study.results import CurvePoint, RunResult, StudyResults
from groundup.study.samples import POINTS, UNDEFINED, Samples, mean_with_interval

Row = dict[str, Any]


def curve_rows(results: StudyResults, samples: Samples, kinds: Sequence[Kind]) -> list[Row]:
    """A curve for every arm, point and kind that has an evaluation."""
    return [
        row
        for kind in kinds
        for point in points_of(results)
        for arm in results.study.arms
        if (row := curve_row(results, samples, arm, point, kind)) is not None
    ]


def curve_row(results: StudyResults, samples: Samples, arm: str, point: Point, kind: Kind) -> Row | None:
    """The primary endpoint over images seen, of the runs that are done, else of those that have begun.

    Counted are evaluations that all of these runs have. Without match tables there is no band.
    """
    name = f"{NAMES[kind]}/{results.question.endpoint}"
    begun = [run for run in runs_at(results, arm, point) if any(name in p.metrics for p in run.curve)]
    runs = [run for run in begun if run.state == "done"] or begun
    by_run = [{p.images_seen: p for p in run.curve if name in p.metrics} for run in runs]
    images = sorted(set.intersection(*(set(points) for points in by_run))) if runs else []
    if not images:
        return None
    row: Row = {
        "arm": arm,
        "point": point,
        "kind": kind,
        "seeds": [run.seed for run in runs],
        "images": images,
        "mean": [],
        "low": [],
        "high": [],
        "image_only": len(runs) < 2,
        "drops": list(runs[0].drops),
        "per_seed": [[POINTS * points[seen].metrics[name] for seen in images] for points in by_run],
    }
    for seen in images:
        here = [points[seen] for points in by_run]
        mean, low, high = band_at(samples, here, kind, name, results.question.alpha)
        row["mean"].append(mean)
        row["low"].append(low)
        row["high"].append(high)
    return row


def band_at(
    samples: Samples, points: Sequence[CurvePoint], kind: Kind, name: str, alpha: float
) -> tuple[float, float | None, float | None]:
    """Mean and band of the seeds at one evaluation."""
    logged = POINTS * float(np.mean([point.metrics[name] for point in points]))
    sample = samples.on_curve(points, kind)
    if sample is None:
        return logged, None, None
    found = mean_with_interval(sample, alpha)
    return logged, found.low, found.high


def endpoint_rows(results: StudyResults, samples: Samples, kinds: Sequence[Kind]) -> list[Row]:
    """Every endpoint of every arm at the end of every schedule that is done."""
    rows = []
    for kind in kinds:
        for point in points_of(results):
            for arm in results.study.arms:
                found = samples.at_end(done_runs(results, arm, point), kind)
                for endpoint, sample in found.items():
                    mean = mean_with_interval(sample, results.question.alpha)
                    rows.append(
                        {
                            "arm": arm,
                            "point": point,
                            "endpoint": endpoint,
                            "kind": kind,
                            "mean": mean.mean,
                            "low": mean.low,
                            "high": mean.high,
                            "per_seed": [v if np.isfinite(v) else None for v in sample.points.tolist()],
                            "image_only": mean.image_only,
                        }
                    )
    return rows


def overfitting_rows(results: StudyResults, kind: Kind) -> list[Row]:
    """Training loss and AP at the end beside the best AP on the way, means over the runs that are done."""
    name = f"{NAMES[kind]}/{results.question.endpoint}"
    rows = []
    for point in points_of(results):
        for arm in results.study.arms:
            runs = [
                run
                for run in done_runs(results, arm, point)
                if run.end is not None and name in run.end.metrics and run.losses
            ]
            if not runs:
                continue
            end = POINTS * mean_of([run.end.metrics[name] for run in runs if run.end is not None])
            best = POINTS * mean_of([best_on_the_way(run, name) for run in runs])
            learnt = [
                POINTS * run.end.metrics[f"{TRAINING}/{name}"]
                for run in runs
                if run.end is not None and f"{TRAINING}/{name}" in run.end.metrics
            ]
            known = mean_of(learnt) if len(learnt) == len(runs) else None
            rows.append(
                {
                    "arm": arm,
                    "point": point,
                    "train_loss_end": mean_of([run.losses[-1][1] for run in runs]),
                    "val_AP_end": end,
                    "val_AP_best": best,
                    "drop_from_best": best - end,
                    "train_AP_end": known,
                    "gap": None if known is None else known - end,
                }
            )
    return rows


def best_on_the_way(run: RunResult, name: str) -> float:
    """The highest value of a metric that a run reached."""
    return max(point.metrics[name] for point in run.curve if name in point.metrics)


def mean_of(values: Sequence[float]) -> float:
    """Mean as a Python number."""
    return float(np.mean(values))


def crossover_row(
    results: StudyResults, samples: Samples, place: Place, kind: Kind, notes: list[str]
) -> Row | None:
    """When the candidate catches up with the end of the reference's longest schedule.

    Over completed schedules where the study has several lengths, else over the evaluations inside the
    candidate's one schedule, which is an illustration: where the rate drops, AP jumps.
    """
    question = results.question
    lengths = lengths_beside(results, question.reference, place.reference)
    if not lengths:
        return None
    rival = samples.at_end(done_runs(results, question.reference, lengths[-1]), kind).get(question.endpoint)
    if rival is None:
        return None
    in_run = length_axis(results) is None
    curve = (
        in_run_curve(results, samples, place.candidate, kind)
        if in_run
        else schedule_curve(results, samples, place.candidate, kind, notes)
    )
    if curve is None:
        return None
    try:
        found = find_crossover(
            curve,
            rival if not in_run else shortened_to(rival, curve),
            margin=question.margin,
            alpha=question.alpha,
            seed=question.bootstrap_seed,
            names=(question.candidate, question.reference),
            measure=question.measure_of(kind),
        )
    except UsageError as error:
        notes.append(f"catching up: {error}")
        return None
    row = crossover_json(found, curve, in_run=in_run)
    row["reference_images"] = length_at(results, question.reference, lengths[-1])
    before = pretraining_images(results, question.reference)
    row["reference_total_images"] = None if before is None else row["reference_images"] + before
    return row


def shortened_to(sample: EndpointSample, curve: Curve) -> EndpointSample:
    """The sample with as many replicates as the curve's."""
    count = curve.samples[0].replicates.shape[0]
    return EndpointSample(points=sample.points, replicates=sample.replicates[:count])


def schedule_curve(
    results: StudyResults, samples: Samples, point: Point, kind: Kind, notes: list[str]
) -> Curve | None:
    """The candidate's end at each length that is done."""
    question = results.question
    x, found = [], []
    for place in lengths_beside(results, question.candidate, point):
        sample = samples.at_end(done_runs(results, question.candidate, place), kind).get(question.endpoint)
        if sample is None:
            notes.append(f"catching up: {question.candidate} is not done at {name_of(place)}, left out")
            continue
        x.append(float(length_at(results, question.candidate, place)))
        found.append(sample)
    return Curve(x=np.array(x), samples=tuple(found)) if x else None


def in_run_curve(results: StudyResults, samples: Samples, point: Point, kind: Kind) -> Curve | None:
    """The evaluations inside the candidate's schedule, of the runs that are done."""
    runs = done_runs(results, results.question.candidate, point)
    if not runs:
        return None
    images = sorted(set.intersection(*({p.images_seen for p in run.curve} for run in runs)))
    x, found = [], []
    for seen in images:
        here = [next(p for p in run.curve if p.images_seen == seen) for run in runs]
        sample = samples.on_curve(here, kind)
        if sample is not None:
            x.append(float(seen))
            found.append(sample)
    return Curve(x=np.array(x), samples=tuple(found)) if len(x) > 1 else None


def crossover_json(found: Crossover, curve: Curve, *, in_run: bool) -> Row:
    """A crossover as JSON values."""
    prefix = "Inside one schedule, as an illustration: " if in_run else ""
    return {
        "sentence": prefix + found.sentence,
        "point": found.point,
        "low": found.replicates.low,
        "high": found.replicates.high,
        "share_reached": found.replicates.share_reached,
        "lower_bounds": list(found.lower_bounds),
        "x": curve.x.tolist(),
        "unit": "training images seen",
        "in_run": in_run,
    }


def data_size_row(
    results: StudyResults, samples: Samples, place: Place, kind: Kind, notes: list[str]
) -> Row | None:
    """AP over the size of the training set at the longest schedule, and what the start is worth in data."""
    axis = size_axis(results)
    if axis is None:
        return None
    question = results.question
    arms = (question.candidate, question.reference)
    by_size: dict[int, dict[str, EndpointSample]] = {}
    for share in sizes_of(results, axis):
        point = {**place.reference, axis: share}
        size, ends = ends_at(results, samples, arms, point, kind)
        if len(ends) == len(arms) and size:
            by_size[size] = ends
        else:
            lacking = " and ".join(arm for arm in arms if arm not in ends)
            notes.append(f"data size: {lacking} not done at {axis.rpartition('.')[2]} {share}, left out")
    if len(by_size) < 2:
        return None
    sizes = sorted(by_size)
    curves = [
        Curve(x=np.array(sizes, dtype=np.float64), samples=tuple(by_size[size][arm] for size in sizes))
        for arm in arms
    ]
    try:
        worth = [
            value_in_data(*curves, row=row, alpha=question.alpha, seed=question.bootstrap_seed, names=arms)
            for row in range(len(sizes))
        ]
        meeting = find_crossover(
            *curves,
            margin=question.margin,
            alpha=question.alpha,
            seed=question.bootstrap_seed,
            unit="training images",
            names=arms,
            measure=question.measure_of(kind),
        )
    except UsageError as error:
        notes.append(f"data size: {error}")
        return None
    return {
        "sentence": worth[0].sentence,
        "size": sizes[0],
        "sizes": sizes,
        "arms": {
            arm: band_of(curve.samples, question.alpha) for arm, curve in zip(arms, curves, strict=True)
        },
        "factor": factor_json(worth[0]),
        "factors": [factor_json(one) for one in worth],
        "crossover": meeting.sentence,
        "crossover_at": {**crossover_json(meeting, curves[0], in_run=False), "unit": "training images"},
    }


def ends_at(
    results: StudyResults, samples: Samples, arms: Sequence[str], point: Point, kind: Kind
) -> tuple[int, dict[str, EndpointSample]]:
    """Training images at a point, and the primary endpoint of the arms that are done there."""
    size, ends = 0, {}
    for arm in arms:
        runs = done_runs(results, arm, point)
        sample = samples.at_end(runs, kind).get(results.question.endpoint)
        if sample is not None:
            size, ends[arm] = runs[0].num_train_images, sample
    return size, ends


def band_of(samples: Sequence[EndpointSample], alpha: float) -> Row:
    """Means, bands and seeds of an arm over sizes."""
    found = [mean_with_interval(sample, alpha) for sample in samples] or [UNDEFINED]
    return {
        "mean": [one.mean for one in found],
        "low": [one.low for one in found],
        "high": [one.high for one in found],
        "per_seed": [sample.points.tolist() for sample in samples],
        "image_only": any(one.image_only for one in found),
    }


def factor_json(worth: DataWorth) -> Row:
    """What pre-training is worth at one size, as JSON values."""
    return {
        "size": worth.size,
        "value": worth.factor.value,
        "low": worth.factor.low,
        "high": worth.factor.high,
        "share_reached": worth.factor.share_reached,
        "limits": list(worth.limits),
        "share_extrapolated": worth.share_extrapolated,
        "sentence": worth.sentence,
    }
