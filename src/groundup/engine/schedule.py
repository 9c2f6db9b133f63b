"""How long a run is and how fast it learns: pure functions of the images seen.

Length counts images, never steps: the batch size changes the steps, not the length. Nothing here
has state, so nothing needs saving and a resumed run asks for the same numbers.
"""

import math

from pydantic import model_validator

from groundup.config import Options
from groundup.errors import UsageError

UNIT_STEPS = 90_000
"""Steps of the paper's 1x schedule. Source: He et al. (2019), section 3; Detectron, 1x configurations."""
UNIT_BATCH = 16
"""Images a step of the paper: 8 devices with 2 images each. Source: He et al. (2019), section 3."""
UNIT_SET = 118_287
"""Photographs of COCO train2017, the set on which the paper's unit is defined."""
EPOCHS_PER_UNIT = UNIT_STEPS * UNIT_BATCH / UNIT_SET
"""12.17: passes over the training set in one unit."""

WARMUP_IMAGES = 500 * UNIT_BATCH
"""Source: Detectron, `WARM_UP_ITERS`."""
MAX_WARMUP_RATIO = 0.25
"""Ours: of the images before the first drop, so that small data sets reach the peak."""


class ScheduleOptions(Options):
    """Length, batch and learning rate of a run."""

    units: float | None = 1.0
    """Length in units: 1 is the paper's 1x, 12.17 passes over the training set (on COCO train2017:
    1.44 M images = 90k steps of 16). None where `images` says the length."""
    images: int | None = None
    """Length in images, instead of `units`; rounded up to whole steps."""
    unit_images: int | None = None
    """Images of one unit; None: 12.17 times the images of the training set. The drops hang on it."""
    batch_size: int = UNIT_BATCH
    """Images an optimizer step, over all devices and microbatches."""
    lr: float = 0.02
    """Peak learning rate for this batch size. It is not scaled by anything. Source: He et al. (2019),
    section 3, for 16 images."""
    warmup_images: int | None = None
    """Images over which the rate rises linearly to the peak; 0 starts there. None: 8,000 (500 steps of 16,
    Detectron's, the same for scratch and fine-tuning), on a small data set at most a quarter of the images
    before the first drop."""
    warmup_start: float = 1 / 3
    """Rate of the first step as a part of the peak. Source: Detectron, `WARM_UP_FACTOR`."""
    drops: tuple[float, ...] = (2 / 3, 2 / 9)
    """The rate drops when so many units are left, longest first, whatever the length: a longer run is
    longer at the peak. () never drops. Source: He et al. (2019), section 3: the last 60k and 20k steps."""
    drop_factor: float = 0.1
    """What each drop multiplies the rate by. Source: He et al. (2019), section 3; 0.02 with 35k images."""
    late_units: float | None = None
    """Parts of the model that can come late (the further stages of a cascade) take part only while so many
    units are left; None: from the start. Source: He et al. (2019), enhanced baselines: a cascade for the last
    270k steps (3 units)."""

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> "ScheduleOptions":
        """Refuse lengths, rates and drops that contradict themselves or each other."""
        if (self.units is None) == (self.images is None):
            raise ValueError(
                f"give the length once: units is {self.units} and images is {self.images}, one must be null"
            )
        for name in ("units", "images", "unit_images", "batch_size", "lr", "drop_factor", "late_units"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}, but must be above 0")
        if (self.warmup_images or 0) < 0 or not 0 <= self.warmup_start <= 1:
            raise ValueError(
                f"warmup_images is {self.warmup_images} and warmup_start {self.warmup_start}; "
                "the first must not be negative and the second lie in 0 .. 1"
            )
        if any(drop <= 0 for drop in self.drops) or list(self.drops) != sorted(set(self.drops), reverse=True):
            raise ValueError(f"drops {self.drops} must be above 0 and fall, e.g. [0.667, 0.222]")
        return self


def images_of_unit(options: ScheduleOptions, num_images: int) -> int:
    """Images of one unit on a training set of `num_images` photographs.

    Counted are all that its annotation file lists, also those without objects, as the paper's 118,287.
    """
    if options.unit_images is not None:
        return options.unit_images
    return round(EPOCHS_PER_UNIT * num_images)


def total_images(options: ScheduleOptions, num_images: int) -> int:
    """Length of the run in images: a multiple of the batch size."""
    wanted = (
        options.images
        if options.images is not None
        else round((options.units or 0) * images_of_unit(options, num_images))
    )
    return max(1, math.ceil(wanted / options.batch_size)) * options.batch_size


def drop_points(options: ScheduleOptions, num_images: int) -> tuple[int, ...]:
    """Images seen from which on each drop holds, in rising order."""
    total, unit = total_images(options, num_images), images_of_unit(options, num_images)
    return tuple(total - round(drop * unit) for drop in options.drops)


def late_point(options: ScheduleOptions, num_images: int) -> int | None:
    """Images seen from which on late parts take part; None where they do from the start."""
    if options.late_units is None:
        return None
    return total_images(options, num_images) - round(options.late_units * images_of_unit(options, num_images))


def is_late(images_seen: int, options: ScheduleOptions, num_images: int) -> bool:
    """Whether late parts take part in the step about to be taken when `images_seen` have been seen."""
    point = late_point(options, num_images)
    return point is None or images_seen >= point


def first_change(options: ScheduleOptions, num_images: int) -> int:
    """Images up to which runs of any greater length are alike: to the first drop, late parts or the end."""
    late = late_point(options, num_images)
    points = (*drop_points(options, num_images), total_images(options, num_images))
    return min(points if late is None else (*points, late))


def warmup_length(options: ScheduleOptions, num_images: int) -> int:
    """Images of the warm-up on a training set of that size."""
    if options.warmup_images is not None:
        return options.warmup_images
    first = min(drop_points(options, num_images), default=total_images(options, num_images))
    return max(0, min(WARMUP_IMAGES, round(MAX_WARMUP_RATIO * first)))


def lr_at(images_seen: int, options: ScheduleOptions, num_images: int) -> float:
    """Rate of the step about to be taken when `images_seen` have been seen (0 before the first step).

    Linear from `warmup_start` times the peak, then the peak, then `drop_factor` for every drop passed.

    Source: He et al. (2019), section 3; warm-up as in Detectron's `lr_policy`.
    """
    drops = sum(images_seen >= point for point in drop_points(options, num_images))
    warmup = warmup_length(options, num_images)
    risen = min(1.0, images_seen / warmup) if warmup else 1.0
    warmth = options.warmup_start + (1 - options.warmup_start) * risen
    return options.lr * warmth * options.drop_factor**drops


def check_schedule(options: ScheduleOptions, num_images: int) -> None:
    """Refuse a schedule that cannot reach its peak on a training set of this size.

    Raises:
        UsageError: no images; the first drop lies before the start; the warm-up ends after the first drop;
            late parts that are not late.
    """
    if num_images < 1:
        raise UsageError("the training set has no images; there is nothing to count a schedule in")
    total, unit = total_images(options, num_images), images_of_unit(options, num_images)
    first = min(drop_points(options, num_images), default=total)
    if first < 0:
        raise UsageError(
            f"schedule: {total} images are fewer than the {round(max(options.drops) * unit)} after the first "
            f"drop (a unit is {unit} images); lengthen the run, or set schedule.unit_images or schedule.drops"
        )
    if warmup_length(options, num_images) > first:
        raise UsageError(
            f"schedule.warmup_images is {options.warmup_images}, but the rate drops (or the run ends) after "
            f"{first} images, so the peak is never reached; set schedule.warmup_images, e.g. to {first // 10}"
        )
    late = late_point(options, num_images)
    if late is not None and late < options.batch_size:
        raise UsageError(
            f"schedule.late_units is {options.late_units} ({total - late} images), but the run has {total} "
            f"images (a unit is {unit}): lengthen it, or write schedule.late_units=null for the whole run"
        )
