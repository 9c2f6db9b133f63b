"""Bootstrapped endpoints of a study's evaluations, each match table read and summed once.

All are drawn with the same weights of the validation images, so that any two can be paired. Curves use
the first few hundred replicates of those that final verdicts use.

Legend:
    N  images     B  replicates     K  categories     S  seeds
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int32
from scipy import stats

from groundup.errors import DataError
from groundup.metrics.bootstrap import (
    ENDPOINTS,
    Endpoint,
    EndpointSample,
    draw_weights,
    summarise_endpoint,
    weighted_ap,
)
from groundup.metrics.match_table import MatchTable, read_table
from groundup.metrics.results import KINDS, Kind
from groundup.study.compare import Question
from groundup.study.difference import MANY_DEGREES
from groundup.study.results import CurvePoint, RunResult

POINTS = 100.0
"""AP points in an AP of 1."""
CURVE_REPLICATES = 500
"""Replicates for bands of curves, for categories and for endpoints by size of instance: what a dashboard
needs. Source: reliability.md 6.2."""
TABLE = "matches.{}.npz"
"""Name of a match table of a kind in an evaluation's folder, as `engine.evaluate` writes it."""


@dataclass
class Samples:
    """Endpoints by evaluation, kept once they are made."""

    question: Question
    problems: list[str] = field(default_factory=list)
    """Evaluations that cannot be used, and why."""
    _made: dict[tuple[Path, bool], dict[Endpoint, EndpointSample]] = field(default_factory=dict)
    _by_category: dict[Path, Float64[np.ndarray, "B_plus_1 K"]] = field(default_factory=dict)
    _weights: dict[int, Int32[np.ndarray, "N B"]] = field(default_factory=dict)
    _digests: dict[Kind, tuple[str, Path]] = field(default_factory=dict)
    num_images: dict[Kind, int] = field(default_factory=dict)
    """Validation images by kind, once a table was read."""

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The primary endpoint, then the secondary ones."""
        return (self.question.endpoint, *self.question.secondary)

    def kinds(self, runs: Iterable[RunResult]) -> list[Kind]:
        """Kinds that every done run was scored in and left a match table of."""
        ends = [run.end.folder for run in runs if run.state == "done" and run.end and run.end.folder]
        return [
            kind for kind in KINDS if ends and all((where / TABLE.format(kind)).exists() for where in ends)
        ]

    def weights(self, num_images: int) -> Int32[np.ndarray, "N B"]:
        """The question's draws of so many images."""
        if num_images not in self._weights:
            self._weights[num_images] = draw_weights(
                num_images, self.question.num_replicates, self.question.bootstrap_seed
            )
        return self._weights[num_images]

    def table(self, point: CurvePoint, kind: Kind) -> MatchTable | None:
        """The match table of an evaluation; None, and a problem noted, where it cannot be used."""
        if point.folder is None:
            return None
        path = point.folder / TABLE.format(kind)
        try:
            table = read_table(path)
        except DataError as error:
            self.note(str(error))
            return None
        digest, first = self._digests.setdefault(kind, (table.truth_digest, path))
        if table.truth_digest != digest:
            self.note(f"{path}: scores other annotations than {first}; it is left out")
            return None
        self.num_images[kind] = table.num_images
        return table

    def at_end(self, runs: Sequence[RunResult], kind: Kind) -> dict[Endpoint, EndpointSample]:
        """All endpoints at the end of the runs with all replicates; runs without a table are left out."""
        found = [self._sample(run.end, kind, final=True) for run in runs if run.end is not None]
        return stacked([one for one in found if one])

    def on_curve(self, points: Sequence[CurvePoint], kind: Kind) -> EndpointSample | None:
        """The primary endpoint of evaluations, one a seed, with a curve's replicates; None without tables."""
        found = [self._sample(point, kind, final=False) for point in points]
        if not found or not all(found):
            return None
        endpoint = self.question.endpoint  # evaluations at an end have more endpoints than those on the way
        return stacked([{endpoint: one[endpoint]} for one in found])[endpoint]

    def by_category(self, runs: Sequence[RunResult], kind: Kind) -> Float64[np.ndarray, "B_plus_1 K"] | None:
        """Mean over the runs of every category's AP at their end: on the images as they are, then as drawn.

        With a curve's replicates; None without tables.
        """
        found = []
        for run in runs:
            if run.end is not None and run.end.folder is not None and self._sample(run.end, kind, final=True):
                path = run.end.folder / TABLE.format(kind)
                if path not in self._by_category:  # none of the endpoints counts instances of all sizes
                    return None
                found.append(self._by_category[path])
        return np.mean(found, axis=0) if found else None

    def note(self, problem: str) -> None:
        """Keep a problem, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def _sample(self, point: CurvePoint, kind: Kind, *, final: bool) -> dict[Endpoint, EndpointSample]:
        if point.folder is None:
            return {}
        path = point.folder / TABLE.format(kind)
        if not final and (path, True) in self._made:
            return shortened(self._made[path, True])
        if (path, final) not in self._made:
            table = self.table(point, kind) if path.exists() else None
            self._made[path, final] = {} if table is None else self._bootstrap(path, table, final=final)
        return self._made[path, final]

    def _bootstrap(self, path: Path, table: MatchTable, *, final: bool) -> dict[Endpoint, EndpointSample]:
        """The endpoints of one table; those of sizes of instances with fewer draws, unless primary."""
        primary = ENDPOINTS[self.question.endpoint][0]
        wanted = [e for e in self.endpoints if ENDPOINTS[e][0] in table.areas]
        found: dict[Endpoint, EndpointSample] = {}
        for area in dict.fromkeys(ENDPOINTS[e][0] for e in (wanted if final else wanted[:1])):
            weights = self.weights(table.num_images)
            weights = weights if final and area == primary else weights[:, :CURVE_REPLICATES]
            values = weighted_ap(table, with_unit(weights), area)
            if area == "all":
                self._by_category[path] = POINTS * values[: 1 + CURVE_REPLICATES].mean(axis=1)
            for endpoint in wanted:
                if ENDPOINTS[endpoint][0] == area:
                    column = summarise_endpoint(values, table.thresholds, endpoint)
                    found[endpoint] = EndpointSample(points=column[:1], replicates=column[1:, None])
        return {endpoint: found[endpoint] for endpoint in wanted if endpoint in found}


def with_unit(weights: Int32[np.ndarray, "N B"]) -> Int32[np.ndarray, "N B_plus_1"]:
    """The weights with every image once before them."""
    return np.concatenate([np.ones_like(weights[:, :1]), weights], axis=1)


def stacked(samples: Sequence[dict[Endpoint, EndpointSample]]) -> dict[Endpoint, EndpointSample]:
    """The seeds of an arm side by side."""
    if not samples:
        return {}
    return {
        endpoint: EndpointSample(
            points=np.concatenate([one[endpoint].points for one in samples]),
            replicates=np.concatenate([one[endpoint].replicates for one in samples], axis=1),
        )
        for endpoint in samples[0]
    }


def shortened(sample: dict[Endpoint, EndpointSample]) -> dict[Endpoint, EndpointSample]:
    """The same with a curve's replicates."""
    return {
        endpoint: EndpointSample(points=one.points, replicates=one.replicates[:CURVE_REPLICATES])
        for endpoint, one in sample.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmMean:
    """Mean over seeds with its interval, in AP points; None where it is undefined."""

    mean: float | None
    low: float | None
    high: float | None
    image_only: bool
    """One seed: the interval holds the error of the images alone."""


UNDEFINED = ArmMean(mean=None, low=None, high=None, image_only=True)


def mean_with_interval(sample: EndpointSample, alpha: float) -> ArmMean:
    """Mean of an arm with both sources of error; of one seed, percentiles of the bootstrap over images.

    SE^2 = SE_image^2 + s^2 / n with Satterthwaite's degrees, as `study.difference` has it for two arms.
    """
    if not np.isfinite(sample.points).all():
        return UNDEFINED
    mean, count = float(sample.points.mean()), len(sample.points)
    replicated = sample.replicates.mean(axis=1)
    replicated = replicated[np.isfinite(replicated)]
    if len(replicated) < 2:
        return ArmMean(mean=mean, low=None, high=None, image_only=count < 2)
    if count < 2:
        low, high = np.quantile(replicated, [alpha / 2, 1 - alpha / 2]).tolist()
        return ArmMean(mean=mean, low=low, high=high, image_only=True)
    of_seeds = float(sample.points.var(ddof=1)) / count
    variance = float(replicated.var(ddof=1)) + of_seeds
    degrees = min((count - 1) * (variance / of_seeds) ** 2, MANY_DEGREES) if of_seeds > 0 else MANY_DEGREES
    half = float(stats.t.ppf(1 - alpha / 2, degrees)) * variance**0.5
    return ArmMean(mean=mean, low=max(mean - half, 0.0), high=min(mean + half, 100.0), image_only=False)
