"""A study's answer as plain data: verdict, curves, bill and all else that a report shows. No torch.

All AP values here are AP points, 0 .. 100. A value that is undefined or unknown is None.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from groundup.config import differences, plain
from groundup.errors import CheckpointError, UsageError
from groundup.metrics.results import Kind
from groundup.records import read_json, write_json
from groundup.study.bill import study_bill
from groundup.study.by_image import category_rows, disagreement_rows
from groundup.study.compare import Comparison, compare_samples
from groundup.study.curves import (
    crossover_row,
    curve_rows,
    data_size_row,
    endpoint_rows,
    overfitting_rows,
)
from groundup.study.errors_by_arm import error_rows
from groundup.study.findings import state_findings
from groundup.study.ground_truth import scored_document
from groundup.study.points import (
    Place,
    base_place,
    done_runs,
    length_axis,
    lengths_beside,
    name_of,
    place_by_convergence,
    place_by_samples,
    points_of,
    runs_at,
)
from groundup.study.published import published_rows
from groundup.study.results import KEEP_AT, StudyResults
from groundup.study.samples import Samples
from groundup.study.search_results import search_notes
from groundup.study.study import PRETRAINING, pretraining_of

KINDS_IN_WORDS: dict[Kind, str] = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}
ANSWER = "answer.json"
"""The answer in a study's folder."""

Row = dict[str, Any]
"""One row of a table: JSON values by column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a study says so far; what it cannot say yet is in `notes`.

    Kinds of tables are bbox, segm and keypoints. Points of the axes are dictionaries, dotted path to value.
    """

    question: Row
    """The question as it was set down."""
    sentence: str
    """The verdict in words, or what is missing for one."""
    provisional: bool
    """One seed in an arm, or trainings missing: not the last word."""
    primary: Row | None
    """`Comparison.to_json()` of the primary comparison, and beside it `kind` (the verdict's), `delta`,
    `interval`, `margin`, `alpha`, `endpoint`; None where it cannot be made yet."""
    notes: list[str]
    """What a reader must know: seeds, runs and prices that are missing, and all that could not be said."""
    point: Row
    """The point of the axes at which the candidate stands in the primary comparison."""
    reference_point: Row
    """The same of the reference; another one under the rules `samples` and `convergence`."""
    differences: list[Row]
    """{path, values: {arm: value}}: every leaf in which the arms' recipes differ at one point and seed."""
    comparisons: list[Row]
    """{point, kind, comparison: `Comparison.to_json()`}: both arms at every point where both are done."""
    curves: list[Row]
    """{arm, point, kind, seeds, images, mean, low, high, image_only, drops, per_seed}: the primary
    endpoint over images seen; per_seed is one list a seed, image_only says that the band is of one seed."""
    crossover: Row | None
    """{sentence, point, low, high, share_reached, lower_bounds, x, unit, in_run}: x in images seen. in_run
    marks points inside one schedule, an illustration, as drops make curves jump."""
    data_size: Row | None
    """{sentence, sizes, arms: {arm: {mean, low, high, per_seed}}, factor: {value, low, high,
    share_reached, sentence, ..}, factors: one such a size, size, crossover: sentence, crossover_at}: AP over
    training images. `sentence`, `factor` and `size` are of the smallest."""
    endpoints: list[Row]
    """{arm, point, endpoint, kind, mean, low, high, per_seed, image_only} at the end of each schedule."""
    errors: list[Row]
    """{arm, error, name, dAP, dAP_per_seed, count}: TIDE error types of the primary comparison's runs, in
    the question's kind."""
    categories: list[Row]
    """{name, candidate, reference, delta, low, high, num_instances}, by rising delta; intervals are over
    images alone and not corrected for being many."""
    disagreements: list[Row]
    """{image_id, file, candidate_found, reference_found, gt, candidate_run, reference_run, ahead,
    least_score}: photographs where the arms disagree most at IoU 0.5 in detections of at least that score,
    those first in which the candidate finds more."""
    overfitting: list[Row]
    """{arm, point, train_loss_end, val_AP_end, val_AP_best, drop_from_best, train_AP_end, gap}: means over
    seeds. train_AP_end is of training photographs, None where none were evaluated; gap is how far val stays
    behind it."""
    published: list[Row]
    """{arm, point, place, metric, published, tolerance, source, measured, low, high, num_runs, difference}:
    numbers that others have published about these arms beside our own; difference is None where data or scale
    are other ones. Empty where none were set down."""
    findings: list[Row]
    """{number, title, paper, source, mark, provisional, sentence, beside, measures: [{name, value, low, high,
    level, unit, border, image_only}], p_value}: the paper's six findings as claims about this study; empty in
    one of a single length of schedule, or of other arms than scratch and pre-trained."""
    bill: Row
    """{rows: [{arm, point, images, instances, pixels, flops, seconds, pretraining: {images, instances,
    pixels, flops, seconds, kind, source} | None, total: {images, ..}, total_amortised: {images, ..},
    downstream_uses, num_runs}], study_total: {images, .., num_runs, pretraining: {images, ..}, search:
    {images, ..}}, sharing: {images_run, images_unshared, factor}}. A row is one training, the mean over
    seeds; the study's total holds pre-training and searches, and counts trunks once."""
    decide: list[str]
    """What would decide an inconclusive verdict."""
    commands: list[str]
    """What carries the study out."""

    def to_json(self) -> Row:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Row) -> "Answer":
        """The answer that `to_json` wrote.

        Raises:
            CheckpointError: fields that an answer does not have, or lacks.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            odd = ", ".join(sorted(set(values) ^ names))
            raise CheckpointError(f"{ANSWER}: of another version ({odd}); compute it anew")
        return cls(**values)


def write_answer(folder: Path, answer: Answer) -> Path:
    """Write the answer into a study's folder; where it lies."""
    write_json(folder / ANSWER, answer.to_json())
    return folder / ANSWER


def read_answer(folder: Path) -> Answer:
    """The answer of a study's folder.

    Raises:
        CheckpointError: missing, damaged or of another version.
    """
    return Answer.from_json(read_json(folder / ANSWER))


def answer_study(results: StudyResults) -> Answer:
    """Everything that can be said of the study as far as it has come; what cannot is in the notes."""
    question = results.question
    samples = Samples(question)
    notes = notes_on_runs(results)
    kinds = samples.kinds(results.runs)
    main = question.table_kind
    if kinds and main not in kinds:
        notes.append(f"the question is about {question.measure}, in which not every run was scored")
    comparisons = compare_everywhere(results, samples, kinds, notes)
    place = place_of(results, samples, main)
    primary = compare_at(results, samples, place, main)
    notes += [*place.notes, *missing_runs(results, place)]
    if primary is not None:
        notes += [note for note in primary.notes if note not in notes]
    shown = done_runs(results, question.candidate, place.candidate)
    document = scored_document(results, shown[0], notes) if shown else None
    endpoints = endpoint_rows(results, samples, kinds)
    answer = Answer(
        question=plain(question),
        sentence=sentence_of(results, place, primary),
        provisional=primary is None or primary.verdict.provisional or bool(missing_runs(results, place)),
        primary=None if primary is None else primary_json(primary),
        notes=[],
        point=place.candidate,
        reference_point=place.reference,
        differences=difference_rows(results, place),
        comparisons=comparisons,
        curves=curve_rows(results, samples, kinds or [main]),
        crossover=crossover_row(results, samples, place, main, notes),
        data_size=data_size_row(results, samples, place, main, notes),
        endpoints=endpoints,
        errors=[] if document is None else error_rows(results, place, document, notes),
        categories=category_rows(results, samples, place, main),
        disagreements=[] if document is None else disagreement_rows(results, samples, place, main, document),
        overfitting=overfitting_rows(results, main),
        published=published_rows(results, endpoints),
        findings=finding_rows(results, samples),
        bill=study_bill(results, place, notes),
        decide=decide_lines(results, primary, place),
        commands=list(results.commands),
    )
    return replace(answer, notes=list(dict.fromkeys([*notes, *samples.problems])))


def place_of(results: StudyResults, samples: Samples, kind: Kind) -> Place:
    """Where the arms stand in the primary comparison by the question's rule."""
    base = base_place(results)
    if base.missing is not None or results.question.rule == "iterations":
        return base
    if results.question.rule == "samples":
        return place_by_samples(results, base)
    ends = []
    for arm in (results.question.candidate, results.question.reference):
        known = {}
        for point in lengths_beside(results, arm, base.candidate):
            sample = samples.at_end(done_runs(results, arm, point), kind).get(results.question.endpoint)
            if sample is not None and np.isfinite(sample.points).all():
                known[name_of(point)] = float(sample.points.mean())
        ends.append(known)
    return place_by_convergence(results, base, ends)


def compare_at(results: StudyResults, samples: Samples, place: Place, kind: Kind) -> Comparison | None:
    """The comparison at a place; None where an arm has no run done there, or the endpoint is undefined."""
    if place.missing is not None:
        return None
    question = results.question
    first = samples.at_end(done_runs(results, question.candidate, place.candidate), kind)
    second = samples.at_end(done_runs(results, question.reference, place.reference), kind)
    if question.endpoint not in first or question.endpoint not in second:
        return None
    try:
        return compare_samples(question, first, second, num_images=samples.num_images[kind], kind=kind)
    except UsageError as error:
        samples.note(f"{kind} at {name_of(place.candidate) or 'the only point'}: {error}")
        return None


def compare_everywhere(
    results: StudyResults, samples: Samples, kinds: Sequence[Kind], notes: list[str]
) -> list[Row]:
    """The comparison at every point at which both arms have a run done, of every kind."""
    rows, main = [], results.question.table_kind
    for kind in kinds:
        for point in points_of(results):
            found = compare_at(results, samples, Place(candidate=point, reference=point), kind)
            if found is not None:
                rows.append({"point": point, "kind": kind, "comparison": found.to_json()})
    if len(rows) > 1:
        others = " and ".join(word for kind, word in KINDS_IN_WORDS.items() if kind != main)
        notes.append(
            "only the primary comparison was set down before training; the verdicts at other points "
            f"and of {others} are secondary and not corrected for being many"
        )
    return rows


def finding_rows(results: StudyResults, samples: Samples) -> list[Row]:
    """The paper's findings on these data, where there are lengths of schedules to ask them of."""
    return [] if length_axis(results) is None else [asdict(one) for one in state_findings(results, samples)]


def primary_json(comparison: Comparison) -> Row:
    """The primary comparison with what is read most at its top."""
    verdict = comparison.verdict
    return {
        **comparison.to_json(),
        "kind": verdict.kind,
        "delta": verdict.delta,
        "interval": list(verdict.interval),
        "margin": verdict.margin,
        "alpha": verdict.alpha,
        "endpoint": comparison.question.endpoint,
    }


def sentence_of(results: StudyResults, place: Place, primary: Comparison | None) -> str:
    """The verdict in words, or what is missing for one."""
    if primary is not None:
        return primary.verdict.sentence
    if place.missing is not None:
        return f"No answer yet: {place.missing}."
    lacking = missing_runs(results, place)
    if lacking:
        return f"No answer yet: {'; '.join(lacking)}."
    return "No answer yet: the runs are done but their evaluations cannot be compared (see the notes)."


def missing_runs(results: StudyResults, place: Place) -> list[str]:
    """What is missing at the primary comparison's place, arm by arm, with seeds and reasons."""
    question = results.question
    lines = []
    for arm, point in ((question.candidate, place.candidate), (question.reference, place.reference)):
        runs = runs_at(results, arm, point)
        done = done_runs(results, arm, point)
        lacking = [f"seed {run.seed} {STATES[run.state]}" for run in runs if run not in done]
        if lacking or not runs:
            text = ", ".join(lacking) if lacking else "not planned here"
            lines.append(f"{arm} has {len(done)} of {len(runs)} runs done ({text})")
    return lines


STATES = {
    "missing": "not begun",
    "partial": "not ended",
    "failed": "failed",
    "done": "done, but not evaluated at its end",
}
"""States of runs in words."""


def notes_on_runs(results: StudyResults) -> list[str]:
    """Failures by name, and how far the study is."""
    notes = []
    done = sum(run.state == "done" for run in results.runs)
    if done < len(results.runs):
        notes.append(f"{done} of {len(results.runs)} runs are done; all that follows is of these")
    notes += [f"{run.key} failed: {run.failure}" for run in results.runs if run.state == "failed"]
    for name, made in results.pretraining.items():
        if made.state != "done":
            notes.append(f"pre-training '{name}' is {STATES[made.state]}")
    return [*notes, *search_notes(results.study)]


def difference_rows(results: StudyResults, place: Place) -> list[Row]:
    """Every leaf in which the arms' recipes differ at the compared point.

    Seeds are no difference, nor are the checkpoints that one run keeps for another.
    """
    recipes = {}
    for arm in results.study.arms:
        point = place.candidate if arm == results.question.candidate else place.reference
        runs = runs_at(results, arm, point)
        if runs and results.recipes.get(runs[0].key):
            recipes[arm] = {k: v for k, v in results.recipes[runs[0].key].items() if k != "seed"}
            made = pretraining_of(results.study, arm)
            if made is not None:  # by its name in the study: a folder's path says where, not what
                start = {**recipes[arm]["start"], "weights": f"{PRETRAINING}:{made}"}
                recipes[arm] = {**recipes[arm], "start": start}
    if len(recipes) < 2:
        return []
    found = differences(list(recipes.values()))
    return [
        {"path": path, "values": dict(zip(recipes, values, strict=True))}
        for path, values in found.items()
        if path != KEEP_AT
    ]


def decide_lines(results: StudyResults, primary: Comparison | None, place: Place) -> list[str]:
    """What would decide: the runs that are missing, then what the verdict says of seeds and images."""
    lines = [f"carry out what is missing: {line}" for line in missing_runs(results, place)]
    if primary is not None and primary.verdict.need is not None:
        known = not primary.difference.image_only
        lines.append(primary.verdict.need.sentence(primary.num_images, known))
    return lines
