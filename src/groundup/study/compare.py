"""Two arms compared from their match tables, by a question that was set down before training. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator, model_serializer, model_validator

from groundup.config import Options, differences, fingerprint, plain
from groundup.errors import UsageError
from groundup.metrics.bootstrap import (
    ENDPOINTS,
    NUM_REPLICATES,
    Endpoint,
    EndpointSample,
    bootstrap_endpoints,
    check_paired,
    draw_weights,
)
from groundup.metrics.match_table import MatchTable
from groundup.metrics.results import Kind
from groundup.metrics.tables import NAMES
from groundup.records import read_json, write_json
from groundup.study.difference import Difference, holm, measure_difference
from groundup.study.verdict import Verdict, judge

COCO_SIZE = 5000
"""Validation images from which the smaller of the usual margins is fit. Source: reliability.md 6.3."""
MARGINS = (0.5, 1.0)
"""Usual margins in AP points, for COCO-size validation sets and for smaller ones. Same source."""
KIND_WORDS: dict[Kind, str] = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
"""Before the name of an endpoint."""
RULES = {
    "iterations": "equal images of the target data",
    "samples": "equal images in all, those of pre-training included",
    "convergence": "each arm at the end of its own best schedule",
}
"""What is held equal between arms. Source: reliability.md 6.1."""


def usual_margin(num_images: int) -> float:
    """The margin to propose for so many validation images, in AP points."""
    return MARGINS[0] if num_images >= COCO_SIZE else MARGINS[1]


class Question(Options):
    """What is asked of two arms, and by what it will be judged: set down before training."""

    text: str = "Do I need pre-training?"
    """The question in words."""
    candidate: str = "scratch"
    """Name of the arm that is asked about."""
    reference: str = "pre-training"
    """Name of the arm it is held against; differences are candidate minus reference."""
    kind: Literal["box", "mask", "keypoints"] = "box"
    """What is judged: boxes, masks or keypoints. The others that there are stand beside it."""
    endpoint: Endpoint = "AP"
    """The one primary endpoint."""
    secondary: tuple[Endpoint, ...] = ("AP50", "AP75", "APs", "APm", "APl")
    """Further endpoints, judged with Holm's correction."""
    margin: float
    """AP points, 0 .. 100, that would matter in practice."""
    alpha: float = 0.05
    """Chance of a false claim that is accepted."""
    rule: str = "iterations"
    """What is held equal: iterations, samples or convergence."""
    num_seeds: int = 3
    """Trainings per arm that were planned."""
    num_replicates: int = NUM_REPLICATES
    """Bootstrap replicates."""
    bootstrap_seed: int = 0
    """Seed of the drawing of images."""

    @property
    def table_kind(self) -> Kind:
        """The kind under the name that tables have."""
        return next(kind for kind, name in NAMES.items() if name == self.kind)

    @property
    def measure(self) -> str:
        """The primary endpoint in words: AP of boxes, mask AP, keypoint AP."""
        return self.measure_of(self.table_kind)

    def measure_of(self, kind: Kind, endpoint: Endpoint | None = None) -> str:
        """The same of a kind beside the question's, or of another endpoint; AP alone is that of boxes."""
        name = endpoint or self.endpoint
        is_plain = kind == "bbox" and self.kind == "box"
        return str(name) if is_plain else f"{KIND_WORDS[kind]} {name}"

    @model_serializer(mode="wrap")
    def _leave_out_boxes(self, serialize: Callable[[Any], Any]) -> dict[str, Any]:
        """A question about boxes is written, and named by its fingerprint, as before there were others."""
        values: dict[str, Any] = serialize(self)
        if self.kind == "box":
            values.pop("kind", None)
        return values

    @field_validator("margin")
    @classmethod
    def check_margin(cls, margin: float) -> float:
        """A margin of nothing can never be shown."""
        if not 0 < margin < 100:
            raise ValueError(f"the margin must lie between 0 and 100 AP points, got {margin}")
        return margin

    @field_validator("alpha")
    @classmethod
    def check_alpha(cls, alpha: float) -> float:
        """Both levels must be levels."""
        if not 0 < alpha < 0.5:
            raise ValueError(f"alpha must lie between 0 and 0.5, got {alpha}")
        return alpha

    @field_validator("rule")
    @classmethod
    def check_rule(cls, rule: str) -> str:
        """One of the known rules."""
        if rule not in RULES:
            raise ValueError(f"the rule must be one of {', '.join(RULES)}, got {rule!r}")
        return rule

    @model_validator(mode="after")
    def check_whole(self) -> "Question":
        """Two different arms, a primary endpoint that is not secondary too, enough replicates."""
        if self.candidate == self.reference:
            raise ValueError(
                f"candidate and reference are both {self.candidate!r}; an arm is not its own rival"
            )
        if self.endpoint in self.secondary or len(set(self.secondary)) < len(self.secondary):
            raise ValueError("an endpoint is primary or secondary, and named once")
        if self.kind == "keypoints" and ENDPOINTS[self.endpoint][0] == "small":
            raise ValueError(
                f"endpoint is {self.endpoint}, but COCO counts no small keypoints; take AP, APm or APl"
            )
        if self.num_replicates < 100:
            raise ValueError(f"num_replicates must be at least 100, got {self.num_replicates}")
        if self.num_seeds < 1:
            raise ValueError(f"num_seeds must be at least 1, got {self.num_seeds}")
        return self


def register_question(path: Path, question: Question) -> str:
    """Set the question down, once; its fingerprint. Asking the same again is no fault.

    Raises:
        UsageError: another question stands there already: it may not be changed after the fact.
    """
    if path.exists():
        registered = read_question(path)
        changed = differences([registered, question])
        if changed:
            name, (was, now) = next(iter(changed.items()))
            raise UsageError(
                f"{path}: the question was set down before training and is not changed: "
                f"{name} is {was!r}, now {now!r}; ask it in a new study"
            )
    else:
        write_json(path, {"question": plain(question), "fingerprint": fingerprint(question)})
    return fingerprint(question)


def read_question(path: Path) -> Question:
    """The question as it was set down.

    Raises:
        UsageError: it does not have its own fingerprint: it was edited.
    """
    record = read_json(path)
    question = Question.model_validate(record["question"])
    if record["fingerprint"] != fingerprint(question):
        raise UsageError(
            f"{path}: the question was edited after it was set down; restore it or start a new study"
        )
    return question


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondaryResult:
    """One secondary endpoint."""

    difference: Difference
    interval: tuple[float, float]
    """Of level 1 - alpha, not corrected for being one of several."""
    p_value: float
    """Corrected (Holm)."""
    differs: bool
    """By the corrected p value; False for one seed, which can show no more than the primary can."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "delta": self.difference.delta,
            "interval": list(self.interval),
            "p_value": self.p_value,
            "differs": self.differs,
            "image_only": self.difference.image_only,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The answer to a question."""

    question: Question
    num_images: int
    difference: Difference
    verdict: Verdict
    secondary: dict[Endpoint, SecondaryResult]
    """Those that are defined on the data, in the question's order."""
    undefined: tuple[Endpoint, ...]
    """Secondary endpoints without an instance to find, or not of the tables' kind."""
    notes: tuple[str, ...]
    """What a reader must know: fewer seeds than planned."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        difference = self.difference
        return {
            "question": plain(self.question),
            "fingerprint": fingerprint(self.question),
            "num_images": self.num_images,
            "points": {
                name: list(points)
                for name, points in zip(
                    (self.question.candidate, self.question.reference), difference.points, strict=True
                )
            },
            "se": difference.se,
            "se_image": difference.se_image,
            "variance_seeds": None if difference.variance_seeds is None else list(difference.variance_seeds),
            "degrees": difference.degrees,
            "verdict": self.verdict.to_json(),
            "secondary": {name: result.to_json() for name, result in self.secondary.items()},
            "undefined": list(self.undefined),
            "notes": list(self.notes),
        }


def compare_arms(
    question: Question,
    candidate: Sequence[MatchTable],
    reference: Sequence[MatchTable],
    *,
    num_threads: int = 1,
) -> Comparison:
    """Judge the question from one match table per seed of each arm, all of the same images.

    Raises:
        UsageError: no tables, tables of different truths, a primary endpoint that is undefined.
    """
    tables = [*candidate, *reference]
    for name, arm in ((question.candidate, candidate), (question.reference, reference)):
        if not arm:
            raise UsageError(f"arm {name!r} has no evaluated run; run the study first")
    check_paired(tables)
    if ENDPOINTS[question.endpoint][0] not in tables[0].areas:
        raise UsageError(f"{question.endpoint} is not defined for {tables[0].kind}; choose another endpoint")
    weights = draw_weights(tables[0].num_images, question.num_replicates, question.bootstrap_seed)
    wanted = [e for e in (question.endpoint, *question.secondary) if ENDPOINTS[e][0] in tables[0].areas]
    first = bootstrap_endpoints(candidate, weights, wanted, num_threads=num_threads)
    second = bootstrap_endpoints(reference, weights, wanted, num_threads=num_threads)
    return compare_samples(question, first, second, num_images=tables[0].num_images, kind=tables[0].kind)


def compare_samples(
    question: Question,
    first: dict[Endpoint, EndpointSample],
    second: dict[Endpoint, EndpointSample],
    *,
    num_images: int,
    kind: Kind | None = None,
) -> Comparison:
    """Judge the question from the arms' endpoints, bootstrapped with the same weights of the images.

    `kind` is that of the endpoints, for words; None is the question's own.

    Raises:
        UsageError: a primary endpoint that is undefined.
    """
    if question.endpoint not in first:
        raise UsageError(f"{question.endpoint} is not among {', '.join(first)}; choose another endpoint")
    difference = measure_difference(first[question.endpoint], second[question.endpoint])
    verdict = judge(
        difference,
        margin=question.margin,
        alpha=question.alpha,
        candidate=question.candidate,
        reference=question.reference,
        endpoint=question.measure_of(kind or question.table_kind),
        num_images=num_images,
    )
    secondary = judge_secondary(question, first, second)
    return Comparison(
        question=question,
        num_images=num_images,
        difference=difference,
        verdict=verdict,
        secondary=secondary,
        undefined=tuple(e for e in question.secondary if e not in secondary),
        notes=notes_on(question, difference),
    )


def judge_secondary(
    question: Question, first: dict[Endpoint, EndpointSample], second: dict[Endpoint, EndpointSample]
) -> dict[Endpoint, SecondaryResult]:
    """The secondary endpoints with Holm's correction among those that are defined."""
    found: dict[Endpoint, Difference] = {}
    for endpoint in question.secondary:
        try:
            found[endpoint] = measure_difference(first[endpoint], second[endpoint])
        except (KeyError, UsageError):  # listed as undefined
            continue
    corrected = holm({endpoint: difference.p_value for endpoint, difference in found.items()})
    return {
        endpoint: SecondaryResult(
            difference=difference,
            interval=difference.interval(1 - question.alpha),
            p_value=corrected[endpoint],
            differs=corrected[endpoint] < question.alpha and not difference.image_only,
        )
        for endpoint, difference in found.items()
    }


def notes_on(question: Question, difference: Difference) -> tuple[str, ...]:
    """What a reader of the verdict must know."""
    notes = []
    for name, count in zip((question.candidate, question.reference), difference.num_seeds, strict=True):
        if count < question.num_seeds:
            notes.append(f"{name} has {count} of the {question.num_seeds} seeds that were planned")
    if difference.image_only:
        notes.append("one seed in an arm: the interval holds the error of the images alone")
    return tuple(notes)
