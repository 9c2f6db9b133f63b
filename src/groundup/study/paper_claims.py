"""The paper's six findings as claims: what each means in a study, and the numbers that decide it. No torch.

All values are AP points, 0 .. 100, of the question's primary endpoint, unless said otherwise. Lengths of
schedules are compared on all data; the smallest share of it is compared at the longest schedule.

Legend:
    B  bootstrap replicates     S  seeds     P  lengths of schedules, rising
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from groundup.metrics.bootstrap import Endpoint, EndpointSample
from groundup.metrics.tables import NAMES
from groundup.study.censoring import Censored, censored_interval
from groundup.study.claim_ground import Claim, Ground, Lacking, Measure
from groundup.study.claims import (
    Requirement,
    constant_beside,
    divided,
    multiplied,
    quotient_of,
    subtracted,
)
from groundup.study.crossover import resampled_means
from groundup.study.data_size import inverse_variances, sizes_needed
from groundup.study.difference import Difference, measure_difference
from groundup.study.points import Point, length_at, name_of
from groundup.study.results import CurvePoint, RunResult

LEAST_SHARE = 0.5
"""Share of the pre-trained arm's AP from which on training from scratch counts as possible. Where it fails it
ends far below: without normalisation that trains, 8 AP are reported against about 37, a share of 0.2
(mmdetection issue 517); where it works the share is 1 (paper, table 1). Half lies well between."""
LEAST_AP = 1.0
"""AP points below which a detector has found next to nothing, whatever its rival has."""
LOOSE_AND_TIGHT: tuple[Endpoint, Endpoint] = ("AP50", "AP75")
"""Endpoints that ask for little and for much overlap."""


def claim_possible(ground: Ground) -> Claim:
    """Finding 1: from scratch at least `LEAST_SHARE` of the pre-trained AP is reached, and `LEAST_AP`."""
    point = ground.longest
    scratch, pretrained = ground.end(ground.scratch, point), ground.end(ground.pretrained, point)
    share = Requirement(difference=measure_difference(scratch, multiplied(pretrained, LEAST_SHARE)))
    found = Requirement(
        difference=measure_difference(scratch, constant_beside(scratch, 0.0)), border=LEAST_AP
    )
    times = replace(share_of(ground, scratch, pretrained, ground.measure), border=LEAST_SHARE)
    mine, other = float(scratch.points.mean()), float(pretrained.points.mean())
    upper = "unbounded" if times.high is None else f"{times.high:.2f}"
    return Claim(
        requirements=(share, found),
        measures=(times, measured(ground, f"{ground.measure} of {ground.scratch}", found)),
        sentence=f"At {name_of(point)} {ground.scratch} ends at {mine:.1f} {ground.measure}, "
        f"{times.value:.2f} [{times.low:.2f}, {upper}] times the {other:.1f} of {ground.pretrained}; "
        f"asked are more than {LEAST_SHARE:g} times and more than {LEAST_AP:g} {ground.measure}.",
        points=(point,),
    )


def claim_longer(ground: Ground) -> Claim:
    """Finding 2: pre-trained minus scratch is larger at the shortest schedule than at the longest.

    The difference of these differences is that of what each arm gains from the one to the other. Gains
    are taken seed by seed: short schedules leave the trunk of the long one and share its luck.
    """
    gains = [ground.gain(arm) for arm in (ground.scratch, ground.pretrained)]
    more = Requirement(difference=measure_difference(*gains))
    name = f"gain of {ground.scratch} minus gain of {ground.pretrained}"
    mine, other = (float(gain.points.mean()) for gain in gains)
    return Claim(
        requirements=(more,),
        measures=(measured(ground, name, more),),
        sentence=f"From {name_of(ground.shortest)} to {name_of(ground.longest)} {ground.scratch} gains "
        f"{mine:+.2f} {ground.measure} and {ground.pretrained} {other:+.2f}: the gap between them closes "
        f"by {in_words(more, ground.alpha)}.",
        points=(ground.shortest, ground.longest),
    )


def claim_no_worse(ground: Ground) -> Claim:
    """Finding 3: scratch is not worse by the margin at the longest schedule on all data."""
    point = ground.longest
    behind = Requirement(difference=gap_at(ground, point, turned=True), border=-ground.margin, one_sided=True)
    return Claim(
        requirements=(behind,),
        measures=(measured(ground, f"{ground.scratch} minus {ground.pretrained}, {name_of(point)}", behind),),
        sentence=f"At {name_of(point)} {ground.scratch} minus {ground.pretrained} is "
        f"{in_words(behind, ground.alpha)} {ground.measure}; the margin is {ground.margin:g}.",
        points=(point,),
    )


def claim_faster(ground: Ground) -> Claim:
    """Finding 4: pre-trained is ahead at the shortest schedule."""
    point = ground.shortest
    ahead = Requirement(difference=gap_at(ground, point))
    return Claim(
        requirements=(ahead,),
        measures=(measured(ground, f"{ground.pretrained} minus {ground.scratch}, {name_of(point)}", ahead),),
        sentence=f"At {name_of(point)} {ground.pretrained} minus {ground.scratch} is "
        f"{in_words(ahead, ground.alpha)} {ground.measure}.",
        points=(point,),
        beside=images_needed(ground),
    )


def claim_overfitting(ground: Ground) -> Claim:
    """Finding 5: pre-trained is not ahead by the margin with all data, and ahead with the smallest share."""
    if ground.smallest is None:
        raise Lacking("the study trains on all of its data only; it needs smaller shares too", planned=False)
    whole = Requirement(
        difference=gap_at(ground, ground.longest, turned=True), border=-ground.margin, one_sided=True
    )
    small = Requirement(difference=gap_at(ground, ground.smallest))
    names = f"{ground.pretrained} minus {ground.scratch}"
    sizes = [ground.num_images(point) for point in (ground.smallest, ground.longest)]
    return Claim(
        requirements=(whole, small),
        measures=(
            measured(ground, f"{names}, {sizes[0]:,} images", small),
            measured(ground, f"{ground.scratch} minus {ground.pretrained}, {sizes[1]:,} images", whole),
        ),
        sentence=f"{names[:1].upper()}{names[1:]} is {in_words(small, ground.alpha)} {ground.measure} with "
        f"{sizes[0]:,} training images and {in_words(whole, ground.alpha, turned=True)} with all "
        f"{sizes[1]:,}; the margin is {ground.margin:g}.",
        points=(ground.smallest, ground.longest),
        beside=(*lost_since_best(ground, ground.longest), *lost_since_best(ground, ground.smallest)),
    )


def claim_localization(ground: Ground) -> Claim:
    """Finding 6: relative to its own AP, pre-training is ahead by less in AP75 than in AP50.

    That (P75 - S75) / P75 < (P50 - S50) / P50 is the same as S75 / S50 > P75 / P50: of what it finds
    loosely, scratch places more precisely. So stated it is a difference of arms whose values come run by
    run, and is judged as all others are.
    """
    point = ground.longest
    ends = {arm: ground.ends(arm, point) for arm in (ground.scratch, ground.pretrained)}
    if any(name not in found for found in ends.values() for name in LOOSE_AND_TIGHT):
        raise Lacking("AP50 and AP75 are not both among the endpoints that were set down", planned=False)
    kept = {arm: divided(found["AP75"], found["AP50"]) for arm, found in ends.items()}
    more = Requirement(difference=measure_difference(kept[ground.scratch], kept[ground.pretrained]))
    names = f"{ground.scratch} minus {ground.pretrained}"
    mine, other = (float(kept[arm].points.mean()) for arm in (ground.scratch, ground.pretrained))
    first, second = ends[ground.scratch], ends[ground.pretrained]
    relative = [share_of(ground, first[name], second[name], ground.named(name)) for name in LOOSE_AND_TIGHT]
    shown = " and ".join(
        f"{100 * (one.value - 1):+.1f} % in {name}"
        for name, one in zip(LOOSE_AND_TIGHT, relative, strict=True)
    )
    return Claim(
        requirements=(more,),
        measures=(
            measured(ground, f"{ground.named('AP75')} / AP50: {names}", more, unit="AP75 / AP50"),
            *relative,
        ),
        sentence=f"At {name_of(point)} {ground.named('AP75')} is {mine:.3f} of AP50 for {ground.scratch} "
        f"and {other:.3f} for {ground.pretrained}, difference {in_words(more, ground.alpha, digits=3)}. "
        f"Relative to {ground.pretrained}, {ground.scratch} stands at {shown}.",
        points=(point,),
    )


def gap_at(ground: Ground, point: Point, *, turned: bool = False) -> Difference:
    """Pre-trained minus scratch at the end of a schedule; `turned`: scratch minus pre-trained."""
    arms = (ground.scratch, ground.pretrained) if turned else (ground.pretrained, ground.scratch)
    return measure_difference(*(ground.end(arm, point) for arm in arms))


def measured(ground: Ground, name: str, requirement: Requirement, unit: str | None = None) -> Measure:
    """A requirement's difference with the interval it is judged by."""
    low, high = requirement.interval(ground.alpha)
    return Measure(
        name=name,
        value=requirement.difference.delta,
        low=low,
        high=high,
        level=requirement.level(ground.alpha),
        unit=unit or ground.measure,
        border=requirement.border,
        image_only=requirement.difference.image_only,
    )


def share_of(ground: Ground, scratch: EndpointSample, pretrained: EndpointSample, name: str) -> Measure:
    """Scratch's AP as a share of the pre-trained AP; it illustrates, and is not a requirement."""
    level = 1 - ground.alpha
    value, low, high = quotient_of(scratch, pretrained, level)
    return Measure(
        name=f"{name} of {ground.scratch} / {ground.pretrained}",
        value=value,
        low=low,
        high=high,
        level=level,
        unit="times",
        border=None,
        image_only=min(len(scratch.points), len(pretrained.points)) < 2,
    )


def in_words(requirement: Requirement, alpha: float, *, turned: bool = False, digits: int = 2) -> str:
    """`+0.42 [-0.30, +1.15]`, by the interval it is judged by; `turned`: with the other sign."""
    value, (low, high) = requirement.difference.delta, requirement.interval(alpha)
    if turned:
        value, low, high = -value, -high, -low
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def images_needed(ground: Ground) -> tuple[str, ...]:
    """How many images of the data each arm needs for the lower of the two ends; empty while not done.

    Over completed schedules, joined in the logarithm of their length; in every replicate of images and
    seeds the ends are its own.
    """
    question = ground.results.question
    curves, x = [], []
    for row, arm in enumerate((ground.scratch, ground.pretrained)):
        try:
            ends = tuple(ground.end(arm, point) for point in ground.lengths)
        except Lacking:
            return ()
        curves.append((resampled_means(ends, question.bootstrap_seed + row), ends))
        x.append(np.array([length_at(ground.results, arm, point) for point in ground.lengths], dtype=float))
    target = np.minimum(*(replicates[:, -1] for replicates, _ in curves))
    known = np.isfinite(target)
    words = []
    for arm, lengths, (replicates, _) in zip((ground.scratch, ground.pretrained), x, curves, strict=True):
        ap = replicates[known]
        needed = sizes_needed(lengths, ap, target[known], inverse_variances(ap))
        words.append(f"{arm} needs {count_in_words(censored_interval(needed, ground.alpha), lengths[0])}")
    end = min(float(ends[-1].points.mean()) for _, ends in curves)
    return (
        f"For {end:.1f} {ground.measure}, the lower of the two ends, {' and '.join(words)} images of these "
        "data; those of the pre-training itself are not counted.",
    )


def count_in_words(found: Censored, shortest: float) -> str:
    """`3,100 [2,400, 4,900]`; what lies before the shortest schedule is not told apart."""

    def say(value: float | None) -> str:
        return f"under {shortest:,.0f}" if value is None else f"{value:,.0f}"

    if found.high is None:
        return say(None)
    return f"{say(found.value)} [{say(found.low)}, {say(found.high)}]"


def lost_since_best(ground: Ground, point: Point) -> tuple[str, ...]:
    """What either arm lost from its best evaluation to its last, and the difference; empty without tables.

    The best evaluation is chosen by the AP it is judged by, which flatters both arms alike.
    """
    losses = []
    for arm in (ground.scratch, ground.pretrained):
        found = [loss_of(ground, run) for run in ground.runs(arm, point).values()]
        known = [one for one in found if one is not None]
        if not known:
            return ()
        losses.append(
            EndpointSample(
                points=np.concatenate([one.points for one in known]),
                replicates=np.concatenate([one.replicates for one in known], axis=1),
            )
        )
    more = Requirement(difference=measure_difference(*losses))
    mine, other = (float(loss.points.mean()) for loss in losses)
    return (
        f"Since its best evaluation {ground.scratch} lost {mine:.2f} {ground.measure} and "
        f"{ground.pretrained} {other:.2f} at {name_of(point)}: difference {in_words(more, ground.alpha)}.",
    )


def loss_of(ground: Ground, run: RunResult) -> EndpointSample | None:
    """Best minus last AP of a run under the draws of the images; None without their tables."""
    name = f"{NAMES[ground.kind]}/{ground.endpoint}"
    logged = [one for one in run.curve if name in one.metrics]
    if run.end is None or not logged:
        return None
    best: CurvePoint = max(logged, key=lambda one: one.metrics[name])
    first, second = (ground.samples.on_curve([one], ground.kind) for one in (best, run.end))
    return None if first is None or second is None else subtracted(first, second)


CLAIMS: tuple[Callable[[Ground], Claim], ...] = (
    claim_possible,
    claim_longer,
    claim_no_worse,
    claim_faster,
    claim_overfitting,
    claim_localization,
)
"""In the order of `PAPER`."""
