"""The verdict on a difference: ahead, equivalent, not worse, or inconclusive; in plain words.

A difference that is not significant is never called a tie: equivalence is a claim of its own and has
to be shown (two one-sided tests: Schuirmann 1987, Berger and Hsu 1996).
"""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from groundup.study.difference import Difference
from groundup.study.power import Need, what_decides

VerdictKind: TypeAlias = Literal[
    "candidate ahead", "reference ahead", "equivalent", "not worse", "inconclusive"
]
"""The claims, the strongest that holds is given: a difference, equivalence, non-inferiority, none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What may be said of the difference, candidate minus reference, in AP points."""

    kind: VerdictKind
    provisional: bool
    """One seed in an arm: the interval holds the error of the images alone."""
    beyond_margin: bool
    """The difference is larger than the margin."""
    negligible: bool
    """There is a difference, and it is smaller than the margin."""
    delta: float
    interval: tuple[float, float]
    """Of level 1 - alpha, for a difference."""
    equivalence_interval: tuple[float, float]
    """Of level 1 - 2 alpha, for equivalence and non-inferiority."""
    margin: float
    alpha: float
    need: Need | None
    """What would decide; None where it is decided."""
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "need"}
        need = None if self.need is None else {"more_seeds": self.need.more_seeds, "images": self.need.images}
        return {
            **values,
            "interval": list(self.interval),
            "equivalence_interval": list(self.equivalence_interval),
            "need": need,
        }


def judge(
    difference: Difference,
    *,
    margin: float,
    alpha: float = 0.05,
    candidate: str = "scratch",
    reference: str = "pre-training",
    endpoint: str = "AP",
    num_images: int = 0,
) -> Verdict:
    """The strongest claim that the difference supports. `num_images` only serves the advice in words."""
    interval = difference.interval(1 - alpha)
    narrow = difference.interval(1 - 2 * alpha)
    differs = interval[0] > 0 or interval[1] < 0
    within = -margin < narrow[0] and narrow[1] < margin
    kind: VerdictKind = "inconclusive"
    if differs:
        kind = "candidate ahead" if difference.delta > 0 else "reference ahead"
    elif within:
        kind = "equivalent"
    elif narrow[0] > -margin:
        kind = "not worse"
    beyond = interval[0] > margin or interval[1] < -margin
    need = what_decides(difference, margin, alpha) if kind == "inconclusive" else None
    claim = claim_in_words(
        kind, difference.delta, margin, beyond, differs and within, candidate, reference, endpoint
    )
    range_in_words = interval_in_words(difference, interval, alpha)
    sentence = f"{claim} {range_in_words}."
    if need is not None:
        sentence += f" {capitalised(need.sentence(num_images, not difference.image_only))}."
    if difference.image_only:
        sentence = f"Provisional, one seed. {sentence}"
    return Verdict(
        kind=kind,
        provisional=difference.image_only,
        beyond_margin=beyond,
        negligible=differs and within,
        delta=difference.delta,
        interval=interval,
        equivalence_interval=narrow,
        margin=margin,
        alpha=alpha,
        need=need,
        sentence=sentence,
    )


def claim_in_words(
    kind: VerdictKind,
    delta: float,
    margin: float,
    beyond: bool,
    negligible: bool,
    candidate: str,
    reference: str,
    endpoint: str,
) -> str:
    """The claim without its interval."""
    if kind in ("candidate ahead", "reference ahead"):
        first, second = (candidate, reference) if kind == "candidate ahead" else (reference, candidate)
        size = f", by more than the margin of {margin:g}" if beyond else ""
        size = f", which is less than the margin of {margin:g} that was to matter" if negligible else size
        return f"{capitalised(first)} is ahead of {second} by {abs(delta):.2f} {endpoint}{size}:"
    if kind == "equivalent":
        return f"{capitalised(candidate)} and {reference} are equivalent within {margin:g} {endpoint}:"
    if kind == "not worse":
        return (
            f"{capitalised(candidate)} is not worse than {reference} by {margin:g} {endpoint} or more; "
            "neither equivalence nor a difference is shown:"
        )
    return (
        f"Inconclusive: {candidate} and {reference} may differ by more than {margin:g} {endpoint} "
        "or not at all:"
    )


def interval_in_words(difference: Difference, interval: tuple[float, float], alpha: float) -> str:
    """Difference and interval, with what the interval holds."""
    low, high = interval
    level = f"{100 * (1 - alpha):g} % interval"
    if difference.image_only:
        level += " over images only, the error of training is unknown"
    else:
        level += f" over images and {difference.num_seeds[0]} + {difference.num_seeds[1]} seeds"
    return f"difference {difference.delta:+.2f} [{low:+.2f}, {high:+.2f}] ({level})"


def capitalised(text: str) -> str:
    """With a capital at its head, the rest as it is."""
    return text[:1].upper() + text[1:]
