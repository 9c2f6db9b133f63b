"""The rate falls where the paper says, whatever the length and the batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.engine.schedule import (
    EPOCHS_PER_UNIT,
    ScheduleOptions,
    check_schedule,
    drop_points,
    images_of_unit,
    lr_at,
    total_images,
    warmup_length,
)
from groundup.errors import UsageError

COCO = 118_287


@pytest.mark.parametrize(
    ("units", "first", "second", "end"),
    [
        (1, 30_000, 70_000, 90_000),
        (2, 120_000, 160_000, 180_000),
        (3, 210_000, 250_000, 270_000),
        (4, 300_000, 340_000, 360_000),
        (5, 390_000, 430_000, 450_000),
        (6, 480_000, 520_000, 540_000),
        (9, 750_000, 790_000, 810_000),
        (11, 930_000, 970_000, 990_000),
    ],
)
def test_the_rate_falls_where_the_paper_says(units, first, second, end):
    options = ScheduleOptions(units=units)
    assert total_images(options, COCO) == end * 16
    for step, rate in [
        (first - 1, 0.02),
        (first, 0.002),
        (second - 1, 0.002),
        (second, 0.0002),
        (end - 1, 0.0002),
    ]:
        assert lr_at(step * 16, options, COCO) == pytest.approx(rate, rel=1e-12), step


def test_the_rate_is_that_of_torchs_schedulers_at_every_step():
    options = ScheduleOptions(units=None, images=1600, unit_images=1440, warmup_images=160, lr=0.05)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.05)
    milestones = [point // 16 for point in drop_points(options, 1)]
    peers = torch.optim.lr_scheduler.ChainedScheduler(
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 3, total_iters=10),
            torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1),
        ]
    )
    for step in range(total_images(options, 1) // 16):
        assert lr_at(step * 16, options, 1) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), step
        optimizer.step()
        peers.step()


def test_a_unit_is_twelve_passes_of_any_set():
    assert pytest.approx(12.17, abs=0.005) == EPOCHS_PER_UNIT
    assert images_of_unit(ScheduleOptions(), 1000) == 12_174
    assert images_of_unit(ScheduleOptions(unit_images=500), 1000) == 500


@given(batch_size=st.integers(1, 64), units=st.floats(1, 12))
def test_the_batch_size_changes_steps_not_length(batch_size, units):
    options = ScheduleOptions(units=units, batch_size=batch_size)
    total = total_images(options, 1000)
    assert total % batch_size == 0
    assert 0 <= total - round(units * images_of_unit(options, 1000)) < batch_size


@settings(max_examples=50, deadline=None)
@given(images=st.integers(9_000, 200_000))
def test_the_rate_rises_once_and_then_only_falls(images):
    options = ScheduleOptions(units=None, images=images, unit_images=9_000, warmup_images=320)
    total = total_images(options, 1)
    rates = [lr_at(seen, options, 1) for seen in [*range(0, 480, 16), *range(480, total, total // 50)]]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"units": 1, "images": 10},
        {"units": None},
        {"batch_size": 0},
        {"lr": -1.0},
        {"warmup_start": 2.0},
        {"drops": (0.2, 0.6)},
    ],
)
def test_a_schedule_that_contradicts_itself_cannot_be_made(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        ScheduleOptions(**wrong)


def test_the_warm_up_is_detectrons_on_coco_and_shorter_on_small_sets():
    assert warmup_length(ScheduleOptions(units=1), COCO) == 8_000
    assert warmup_length(ScheduleOptions(units=1), 100) == round(
        0.25 * drop_points(ScheduleOptions(units=1), 100)[0]
    )
    assert warmup_length(ScheduleOptions(units=1, warmup_images=0), 100) == 0


def test_a_schedule_that_never_reaches_its_peak_is_refused_with_the_way_out():
    with pytest.raises(UsageError, match=r"set schedule\.warmup_images"):
        check_schedule(ScheduleOptions(units=1, warmup_images=8_000), num_images=100)
    with pytest.raises(UsageError, match="lengthen the run"):
        check_schedule(ScheduleOptions(units=0.5), num_images=COCO)
    check_schedule(ScheduleOptions(units=None, images=100, warmup_images=0, drops=()), num_images=100)
