"""What runs share: the arithmetic of the paper's first table, and the law that shared steps are equal."""

from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.engine.schedule import UNIT_BATCH, UNIT_SET, ScheduleOptions, lr_at, total_images
from groundup.study.sharing import agreed_images, share_trunks

PAPER_UNITS = (2.0, 3.0, 4.0, 5.0, 6.0)


def test_the_papers_first_table_costs_3_12_instead_of_7_2_million_iterations():
    # Four groups (R50 and R101, scratch and pre-trained) of five lengths each.
    schedules = [ScheduleOptions(units=units) for units in PAPER_UNITS]
    totals = [total_images(schedule, UNIT_SET) for schedule in schedules]
    shares = share_trunks(schedules, UNIT_SET)
    own = [total - share.branch_images for total, share in zip(totals, shares, strict=True)]
    assert 4 * sum(totals) == 7_200_000 * UNIT_BATCH
    assert 4 * sum(own) == 3_120_000 * UNIT_BATCH
    assert [share.branch_images // UNIT_BATCH for share in shares] == [120_000, 210_000, 300_000, 390_000, 0]
    assert [share.parent for share in shares] == [4, 4, 4, 4, None]


def test_runs_that_begin_in_two_ways_have_two_trunks():
    schedules = [ScheduleOptions(units=units, lr=lr) for lr in (0.02, 0.01) for units in (2.0, 3.0)]
    shares = share_trunks(schedules, UNIT_SET)
    assert [share.parent for share in shares] == [1, None, 3, None]


schedules = st.builds(
    ScheduleOptions,
    units=st.floats(0.5, 6),
    unit_images=st.just(300),
    batch_size=st.sampled_from([4, 7]),
    warmup_images=st.sampled_from([None, 0, 20]),
    lr=st.sampled_from([0.02, 0.01]),
    drops=st.sampled_from([(), (0.3,), (2 / 3, 2 / 9)]),
    drop_factor=st.sampled_from([0.1, 0.5]),
)


@settings(max_examples=50)
@given(schedules, schedules, st.integers(20, 50))
def test_every_shared_step_is_the_same_step(first, second, num_images):
    shared = agreed_images(first, second, num_images)
    assert shared == agreed_images(second, first, num_images)
    assert shared <= min(total_images(one, num_images) for one in (first, second))
    assert shared % first.batch_size == 0
    for images_seen in range(0, shared, first.batch_size):
        assert lr_at(images_seen, first, num_images) == lr_at(images_seen, second, num_images)


@given(schedules, st.floats(1, 3), st.integers(20, 50))
def test_a_longer_run_of_the_same_warm_up_shares_all_up_to_the_first_drop(schedule, longer, num_images):
    same = schedule.model_copy(update={"warmup_images": 20})
    long = same.model_copy(update={"units": same.units + longer})
    shared = agreed_images(same, long, num_images)
    if shared:
        assert lr_at(shared - 1, same, num_images) == lr_at(shared - 1, long, num_images)
        assert shared == total_images(same, num_images) or (
            lr_at(shared + same.batch_size, same, num_images)
            < lr_at(shared + same.batch_size, long, num_images)
        )


def test_other_rates_steps_or_warm_ups_share_nothing():
    base = ScheduleOptions(units=2, warmup_images=100)
    for changes in ({"lr": 0.01}, {"batch_size": 8}, {"warmup_images": 200}, {"warmup_start": 0.1}):
        assert agreed_images(base, base.model_copy(update=changes), 1000) == 0
