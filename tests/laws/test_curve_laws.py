"""Crossover and data worth: known curves give known answers, and what was not measured is not claimed."""

import numpy as np
import pytest

from groundup.errors import UsageError
from groundup.metrics.bootstrap import EndpointSample
from groundup.study.censoring import censored_interval, settling_points
from groundup.study.crossover import Curve, find_crossover
from groundup.study.data_size import fit_power_law, value_in_data

NUM_REPLICATES = 400


def curve(x, ap, *, spread=0.01, num_seeds=3, seed=0):
    """A curve of that AP; seeds and replicates differ by `spread`."""
    random = np.random.default_rng(seed)
    samples = []
    for value in ap:
        points = value + spread * random.normal(size=num_seeds)
        samples.append(
            EndpointSample(
                points=points, replicates=points + spread * random.normal(size=(NUM_REPLICATES, num_seeds))
            )
        )
    return Curve(x=np.array(x, dtype=float), samples=tuple(samples))


def law(sizes, *, offset=40.0, scale=300.0, exponent=-0.4):
    return [100 - offset - scale * size**exponent for size in sizes]


def test_a_curve_settles_at_the_last_time_it_rises_above_its_line():
    above = np.array([[0, 1, 0, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [0, 0, 0, 0, 1]], dtype=bool)
    found = settling_points(np.arange(1.0, 6.0), above)
    assert found.tolist() == [4.0, 1.0, np.inf, 5.0]


def test_quantiles_beyond_the_measured_are_none_never_numbers():
    values = np.array([1.0] * 60 + [2.0] * 30 + [np.inf] * 10)
    found = censored_interval(values, 0.05)
    assert (found.low, found.value, found.high, found.share_reached) == (1.0, 1.0, None, 0.9)


def test_the_crossover_of_clear_curves_is_where_they_cross():
    scratch = curve([1, 2, 3, 4, 5], [10, 20, 29.7, 30, 30.1])
    pretrained = curve([5], [30]).samples[0]
    found = find_crossover(scratch, pretrained, margin=0.5)
    assert found.point == 3
    assert (found.replicates.low, found.replicates.high) == (3, 3)
    assert "From 3 training images seen on, scratch is not worse" in found.sentence


def test_what_is_not_reached_is_censored_and_promised_nothing():
    scratch = curve([1, 2, 3], [10, 20, 25])
    found = find_crossover(scratch, curve([3], [30]).samples[0], margin=0.5)
    assert found.point is None
    assert found.replicates.value is None
    assert "not shown within the budget of 3" in found.sentence
    assert "no promise" in found.sentence


def test_noise_makes_the_crossover_later_and_its_interval_wide():
    x, ap = [1, 2, 3, 4, 5, 6], [20, 26, 29, 30, 30.5, 31]
    clear = find_crossover(curve(x, ap), curve([6], [30]).samples[0], margin=0.5)
    noisy = find_crossover(
        curve(x, ap, spread=0.4), curve([6], [30], spread=0.4, seed=1).samples[0], margin=0.5
    )
    assert clear.point == 4
    assert noisy.point is None or noisy.point > clear.point
    assert noisy.replicates.low is not None
    assert noisy.replicates.high is None or noisy.replicates.high > noisy.replicates.low


def test_sizes_from_which_arms_are_alike_are_found_by_the_same_law():
    sizes = [100, 1000, 10000]
    found = find_crossover(
        curve(sizes, [5, 20, 30]), curve(sizes, [20, 25, 30], seed=1), margin=1.0, unit="images"
    )
    assert found.point == 10000


def test_curves_at_different_points_or_out_of_order_are_refused():
    with pytest.raises(UsageError, match="different points"):
        find_crossover(curve([1, 2], [1, 2]), curve([1, 3], [1, 2]), margin=1.0)
    with pytest.raises(UsageError, match="rising order"):
        find_crossover(curve([2, 1], [1, 2]), curve([2, 1], [1, 2]), margin=1.0)


def test_one_seed_is_said_to_hold_images_only():
    scratch = curve([1, 2], [10, 30], num_seeds=1)
    found = find_crossover(scratch, curve([2], [30], num_seeds=1).samples[0], margin=0.5)
    assert not found.includes_seeds
    assert "images only" in found.sentence


def test_the_fit_finds_the_law_that_made_the_points():
    sizes = np.array([100.0, 300, 1000, 3000, 10000])
    found = fit_power_law(sizes, np.array([law(sizes)]))
    assert found.ap_at(30000.0)[0] == pytest.approx(law([30000.0])[0], abs=0.2)
    assert found.size_for(np.array(law([30000.0])))[0] == pytest.approx(30000, rel=0.05)


def test_two_sizes_are_too_few_for_a_law():
    with pytest.raises(UsageError, match="3 data sizes"):
        fit_power_law(np.array([1.0, 2.0]), np.zeros((1, 2)))


def test_pre_training_that_equals_three_times_the_data_is_worth_three():
    sizes = [250, 500, 1000, 2000, 4000]
    pretrained = curve(sizes, law([3 * size for size in sizes]), seed=1)
    found = value_in_data(curve(sizes, law(sizes)), pretrained, row=2)
    assert found.factor.value == pytest.approx(3, rel=0.05)
    assert 2.9 < found.factor.low < found.factor.high < 3.2
    assert found.share_extrapolated == 0
    assert "worth 3.1 times the data" in found.sentence


def test_beyond_the_largest_size_the_law_is_followed_and_said_to_be():
    sizes = [250, 500, 1000, 2000, 4000]
    pretrained = curve(sizes, law([3 * size for size in sizes]), seed=1)
    found = value_in_data(curve(sizes, law(sizes)), pretrained, row=-1)
    assert found.factor.value == pytest.approx(3, rel=0.2)
    assert found.share_extrapolated == 1
    assert "beyond the largest size" in found.sentence


def test_nothing_is_claimed_beyond_four_times_the_largest_size():
    sizes = [250, 500, 1000, 2000, 4000]
    pretrained = curve(sizes, law([9 * size for size in sizes]), seed=1)
    found = value_in_data(curve(sizes, law(sizes)), pretrained, row=-1)
    assert found.factor.value is None
    assert found.limits[1] == 4
    assert "more than 4 times" in found.sentence
    assert "Nothing is claimed beyond 4 times" in found.sentence


def test_two_sizes_are_never_extrapolated():
    sizes = [1000, 2000]
    found = value_in_data(curve(sizes, law(sizes)), curve(sizes, law([1500, 3000]), seed=1), row=-1)
    assert found.factor.value is None
    assert found.limits[1] == 1
    assert "more than 1 times" in found.sentence


def test_pre_training_that_harms_is_worth_less_than_all_data():
    sizes = [500, 1000, 2000]
    found = value_in_data(curve(sizes, law(sizes)), curve(sizes, law([100, 100, 100]), seed=1), row=1)
    assert found.factor.value is None
    assert "less than 0.5" in found.sentence


def test_a_dip_in_the_curve_is_bridged():
    found = value_in_data(curve([1, 2, 4, 8], [10, 20, 19, 30]), curve([2], [20.2]), row=0)
    assert found.factor.value is not None
    assert 2 <= found.factor.value <= 4
