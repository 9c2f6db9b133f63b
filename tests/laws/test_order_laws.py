"""The order of training is a function of the seed and the position, and of nothing else."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.data.order import grouped_epoch_order, hash_of, image_order, random_fractions, sample_seed

SEEDS = st.integers(0, 2**63)


def take(count, *args, **kwargs):
    return list(itertools.islice(image_order(*args, **kwargs), count))


@given(num_images=st.integers(1, 40), seed=SEEDS, first=st.integers(0, 200))
def test_a_resumed_order_is_the_rest_of_the_order(num_images, seed, first):
    assert take(50, num_images, seed, first) == take(first + 50, num_images, seed)[first:]


@given(
    is_landscape=st.lists(st.booleans(), min_size=1, max_size=60),
    seed=SEEDS,
    group_size=st.integers(1, 8),
    first=st.integers(0, 200),
)
@settings(max_examples=60)
def test_a_grouped_order_shows_each_image_once_an_epoch_and_can_be_resumed(
    is_landscape, seed, group_size, first
):
    num = len(is_landscape)
    grouping = {"is_landscape": np.array(is_landscape), "group_size": group_size}
    whole = take(first + 4 * num, num, seed, **grouping)
    for epoch in range(4):
        assert sorted(whole[epoch * num : (epoch + 1) * num]) == list(range(num))
    assert take(4 * num, num, seed, first, **grouping) == whole[first:]


@given(
    num_landscape=st.integers(20, 60),
    num_portrait=st.integers(20, 60),
    seed=SEEDS,
    group_size=st.integers(2, 8),
)
@settings(max_examples=40)
def test_at_most_one_group_an_epoch_mixes_orientations(num_landscape, num_portrait, seed, group_size):
    is_landscape = np.arange(num_landscape + num_portrait) < num_landscape
    num, num_epochs = len(is_landscape), 6
    order = np.array(take(num * num_epochs, num, seed, is_landscape=is_landscape, group_size=group_size))
    order = order[: len(order) // group_size * group_size]
    shares = is_landscape[order].reshape(-1, group_size).mean(axis=1)
    assert ((shares > 0) & (shares < 1)).sum() <= num_epochs


def test_grouping_leaves_the_order_random():
    is_landscape = np.arange(400) % 4 != 0
    orders = [grouped_epoch_order(is_landscape, seed, 0, 4) for seed in range(200)]
    places = np.array([np.argsort(order) for order in orders])
    # Each image's mean place over 200 seeds: 199.5 +- 5 standard errors of 400 / sqrt(12 * 200).
    assert np.abs(places.mean(axis=0) - 199.5).max() < 5 * 400 / np.sqrt(12 * 200)
    first_is_landscape = np.mean([is_landscape[order[0]] for order in orders])
    assert abs(first_is_landscape - 0.75) < 0.15


def test_epochs_and_seeds_differ():
    assert take(50, 50, 1) != take(50, 50, 2)
    assert take(100, 50, 1)[:50] != take(100, 50, 1)[50:]


def test_finding_a_far_position_is_quick():
    assert len(take(3, 1000, 0, 10**15)) == 3


def test_the_hash_never_changes():
    # Golden: a change would give every recorded run another order.
    assert hash_of(0) == 0xE220A8397B1DCDAF  # SplitMix64's first output from state 0
    assert sample_seed(3, 5) == 8765789760467937223
    assert take(8, 8, 42) == [6, 1, 3, 2, 0, 7, 4, 5]


@given(seed=SEEDS)
def test_fractions_lie_in_the_unit_interval_and_are_prefixes_of_one_stream(seed):
    few, many = random_fractions(3, seed), random_fractions(9, seed)
    assert (many >= 0).all()
    assert (many < 1).all()
    np.testing.assert_array_equal(few, many[:3])


def test_sample_seeds_do_not_collide():
    seeds = {sample_seed(seed, position) for seed in range(20) for position in range(2000)}
    assert len(seeds) == 40_000
