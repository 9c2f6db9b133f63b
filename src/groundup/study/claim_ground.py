"""What claims about a study are made of: its two arms and the points at which they are asked. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from groundup.metrics.bootstrap import Endpoint, EndpointSample
from groundup.metrics.results import Kind
from groundup.study.claims import Requirement, subtracted
from groundup.study.points import (
    DRAW,
    Point,
    base_place,
    done_runs,
    lengths_beside,
    name_of,
    runs_at,
    size_axis,
    sizes_of,
    starts_from_nothing,
)
from groundup.study.results import RunResult, StudyResults
from groundup.study.samples import Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One estimate behind a claim."""

    name: str
    value: float
    low: float
    high: float | None
    """None: not bounded by what was measured."""
    level: float
    """Of the interval, 0 .. 1."""
    unit: str
    border: float | None
    """What it must lie above for the claim to hold; None where it only illustrates."""
    image_only: bool
    """One seed in an arm: the interval holds the error of the images alone."""


class Lacking(Exception):  # noqa: N818 - no fault: a claim cannot be judged, and why
    """What a claim speaks of is not in the study's plan, or is not done yet."""

    def __init__(self, what: str, *, planned: bool = True) -> None:
        """`planned`: not done yet, else not in the plan."""
        super().__init__(what)
        self.planned = planned


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A finding of the paper as a claim, before the correction for being several."""

    requirements: tuple[Requirement, ...]
    measures: tuple[Measure, ...]
    sentence: str
    points: tuple[Point, ...]
    """Where its runs stand."""
    beside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The study as claims see it: the two arms, the lengths on all data, the smallest share of it."""

    results: StudyResults
    samples: Samples
    kind: Kind
    scratch: str
    pretrained: str
    lengths: tuple[Point, ...]
    """Where both arms are planned on all data, shortest first."""
    smallest: Point | None
    """The longest schedule on the smallest share of the data; None in a study of one share."""

    @property
    def alpha(self) -> float:
        """Chance of a false claim that is accepted."""
        return self.results.question.alpha

    @property
    def margin(self) -> float:
        """AP points that would matter."""
        return self.results.question.margin

    @property
    def endpoint(self) -> Endpoint:
        """What AP means here."""
        return self.results.question.endpoint

    @property
    def measure(self) -> str:
        """The same in words, with its kind: AP of boxes, mask AP, keypoint AP."""
        return self.named(self.endpoint)

    def named(self, endpoint: Endpoint) -> str:
        """Any endpoint in words, with its kind."""
        return self.results.question.measure_of(self.kind, endpoint)

    @property
    def longest(self) -> Point:
        """The longest schedule on all data."""
        return self.lengths[-1]

    @property
    def shortest(self) -> Point:
        """The shortest; a study of one length has none."""
        if len(self.lengths) < 2:
            raise Lacking("the study has one length of schedule; it needs two or more", planned=False)
        return self.lengths[0]

    def runs(self, arm: str, point: Point) -> dict[tuple[int, Any], RunResult]:
        """The runs that are done and can be compared, by seed and draw of the data."""
        found = {
            (run.seed, run.point.get(DRAW)): run
            for run in done_runs(self.results, arm, point)
            if self.samples.at_end((run,), self.kind)
        }
        if not found:
            raise Lacking(f"{arm} is not done at {name_of(point)}")
        return found

    def ends(self, arm: str, point: Point) -> dict[Endpoint, EndpointSample]:
        """All endpoints of an arm at the end of a schedule."""
        return self.samples.at_end(tuple(self.runs(arm, point).values()), self.kind)

    def end(self, arm: str, point: Point) -> EndpointSample:
        """The primary endpoint there."""
        return self.ends(arm, point)[self.endpoint]

    def gain(self, arm: str) -> EndpointSample:
        """Longest minus shortest schedule, of the seeds that are done at both."""
        short, long = self.runs(arm, self.shortest), self.runs(arm, self.longest)
        common = [key for key in short if key in long]
        if not common:
            raise Lacking(f"no seed of {arm} is done at {name_of(self.shortest)} and {name_of(self.longest)}")
        first, second = (
            self.samples.at_end([runs[key] for key in common], self.kind)[self.endpoint]
            for runs in (long, short)
        )
        return subtracted(first, second)

    def num_images(self, point: Point) -> int:
        """Training images at a point."""
        return next(iter(self.runs(self.scratch, point).values())).num_train_images


def survey(results: StudyResults, samples: Samples) -> Ground | None:
    """The study as claims see it; None where not exactly one of the compared arms is from scratch."""
    question = results.question
    place = base_place(results)
    arms = sorted(
        (question.candidate, question.reference), key=lambda arm: not starts_from_nothing(results, arm)
    )
    if place.missing is not None or [starts_from_nothing(results, arm) for arm in arms] != [True, False]:
        return None
    scratch, pretrained = arms
    lengths = [
        p for p in lengths_beside(results, scratch, place.candidate) if runs_at(results, pretrained, p)
    ]
    smallest = None
    axis = size_axis(results)
    if axis is not None:
        smallest = {**place.candidate, axis: sizes_of(results, axis)[0]}
    return Ground(
        results=results,
        samples=samples,
        kind=question.table_kind,
        scratch=scratch,
        pretrained=pretrained,
        lengths=tuple(lengths) or (place.candidate,),
        smallest=smallest,
    )


def is_complete(ground: Ground, points: Sequence[Point]) -> bool:
    """Whether all runs that were planned at these points are done."""
    return all(
        len(done_runs(ground.results, arm, point)) == len(runs_at(ground.results, arm, point))
        for arm in (ground.scratch, ground.pretrained)
        for point in points
    )
