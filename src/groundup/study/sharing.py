"""Which runs begin alike, and for how long: pure functions of schedules. No torch.

The rate of a schedule rises, stays, and drops when so much is *left*. So schedules of different length
agree until the shorter one drops, and one trunk with short tails does the work of all.

Source: design of this project; lengths and drops as in He et al. (2019), section 3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groundup.engine.schedule import (
    ScheduleOptions,
    first_change,
    lr_at,
    total_images,
    warmup_length,
)

WITHOUT_EFFECT = ("name", "loader", "evaluation")
"""Sections of a recipe that its weights do not hang on, as in the identity of a run."""
WITHOUT_EFFECT_ON_TRAINING = ("upkeep", "evaluate_every")
"""The same inside its section `training`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one run takes over from another."""

    parent: int | None
    """Place of the run whose trunk it shares; None where it begins by itself."""
    branch_images: int
    """Images taken over; 0 without a parent."""


def agreed_images(first: ScheduleOptions, second: ScheduleOptions, num_images: int) -> int:
    """Images up to which two schedules are the same, step by step and rate by rate; a whole number of steps.

    They are, until anything changes in either, if step, peak and warm-up are the same, and late parts are
    late in both or in neither.
    """
    if first.batch_size != second.batch_size or (first.late_units is None) != (second.late_units is None):
        return 0
    ends = [first_change(one, num_images) for one in (first, second)]
    until = max(0, min(ends)) // first.batch_size * first.batch_size
    # Between warm-up and drop the rate is constant, so its ends and the warm-up's length say it all.
    alike = warmup_length(first, num_images) == warmup_length(second, num_images) and all(
        lr_at(place, first, num_images) == lr_at(place, second, num_images)
        for place in (0, max(0, until - first.batch_size))
    )
    return until if alike else 0


def share_trunks(schedules: Sequence[ScheduleOptions], num_images: int) -> list[Share]:
    """For runs that differ in their schedules alone: what each takes over from the longest that begins alike.

    That one is carried out whole; so is a run that begins as no other does.
    """
    lengths = [total_images(schedule, num_images) for schedule in schedules]
    left = sorted(range(len(schedules)), key=lambda row: lengths[row], reverse=True)
    shares = [Share(parent=None, branch_images=0)] * len(schedules)
    while left:
        longest, *others = left
        agreed = {row: agreed_images(schedules[row], schedules[longest], num_images) for row in others}
        for row, images in agreed.items():
            if images:
                shares[row] = Share(parent=longest, branch_images=images)
        left = [row for row in others if not agreed[row]]
    return shares


def trunk_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """All of a plain recipe that its weights hang on but the schedule: runs equal in it can share a trunk."""
    kept = {name: value for name, value in recipe.items() if name not in WITHOUT_EFFECT}
    # Whether splits may share photographs is asked before a run, and changes none.
    kept["data"] = {name: value for name, value in recipe["data"].items() if name != "overlap"}
    training = {
        name: value
        for name, value in recipe["training"].items()
        if name not in WITHOUT_EFFECT_ON_TRAINING and name != "schedule"
    }
    return kept | {"training": training}


def common_warmup(schedules: Sequence[ScheduleOptions], num_images: Sequence[int]) -> int:
    """The warm-up of the shortest run, which runs of every length can have: the least of theirs."""
    return min(warmup_length(one, count) for one, count in zip(schedules, num_images, strict=True))
