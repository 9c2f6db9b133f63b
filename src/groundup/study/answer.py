"""A study's answer as plain data: verdict, curves, bill and all else that a report shows. No torch.

All AP values here are AP points, 0 .. 100. A value that is undefined or unknown is None.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from groundup.errors import CheckpointError
from groundup.records import read_json, write_json

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
    share_reached}, size, crossover: sentence}: AP over training images."""
    endpoints: list[Row]
    """{arm, point, endpoint, kind, mean, low, high, per_seed, image_only} at the end of each schedule."""
    errors: list[Row]
    """{arm, error, name, dAP, dAP_per_seed, count}: TIDE error types of the primary comparison's runs."""
    categories: list[Row]
    """{name, candidate, reference, delta, low, high, num_instances}, by rising delta; intervals are over
    images alone and not corrected for being many."""
    disagreements: list[Row]
    """{image_id, file, candidate_found, reference_found, gt, candidate_run, reference_run, ahead}: where
    the arms disagree most at IoU 0.5, the candidate's best first, then the reference's."""
    overfitting: list[Row]
    """{arm, point, train_loss_end, val_AP_end, val_AP_best, drop_from_best}: means over seeds."""
    bill: Row
    """{rows: [{arm, point, images, instances, pixels, flops, seconds, pretraining: {images, instances,
    pixels, flops, seconds, kind, source} | None, total: {images, ..}, total_amortised: {images, ..},
    downstream_uses}], study_total: {images, ..}, sharing: {images_run, images_unshared, factor}}.
    A row is one training, the mean over seeds; the study's total counts trunks once."""
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
