"""Random choice by hash: uniform, balanced, and a function of nothing but its arguments."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundup.ops.sampling import choose_balanced, mix_bits, random_keys

MASK = 2**64 - 1


def splitmix_reference(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@given(st.integers(-(2**63), 2**63 - 1))
def test_bits_are_mixed_as_splitmix_does_with_unsigned_numbers(value):
    assert mix_bits(torch.tensor(value)).item() & MASK == splitmix_reference(value & MASK)


def keys(seeds, num, stream=1):
    return random_keys(torch.tensor(seeds), torch.arange(num)[None], stream)


def test_keys_are_uniform_and_differ_by_seed_stream_and_code():
    found = keys([0, 1, 2], 20_000)
    assert found.unique().numel() == found.numel()
    assert found.min() >= 0
    shares = (found >> 58).bincount() if found.ndim == 1 else (found >> 58).flatten().bincount(minlength=16)
    expected = found.numel() / 16
    assert ((shares - expected) ** 2 / expected).sum() < 45  # chi-square, 15 degrees: p = 1e-4
    assert not torch.equal(found[:1], keys([0], 20_000, stream=2))


def test_keys_of_an_image_do_not_depend_on_its_batch():
    assert torch.equal(keys([5, 9, 7], 100)[1:2], keys([9], 100))


def choose(positive, negative, num_slots, max_positives):
    is_positive, is_negative = torch.zeros(2, 1, 40, dtype=torch.bool)
    is_positive[0, :positive] = True
    is_negative[0, 40 - negative :] = True
    return choose_balanced(
        is_positive, is_negative, keys([3], 40), num_slots=num_slots, max_positives=max_positives
    )


@pytest.mark.parametrize(
    ("positive", "negative", "filled", "positives"),
    [(20, 20, 16, 4), (2, 20, 16, 2), (0, 20, 16, 0), (20, 5, 9, 4), (0, 0, 0, 0), (3, 0, 3, 3)],
)
def test_positives_come_first_and_negatives_fill_up(positive, negative, filled, positives):
    chosen = choose(positive, negative, num_slots=16, max_positives=4)
    assert chosen.index.shape == (1, 16)
    assert chosen.is_filled[0].tolist() == [True] * filled + [False] * (16 - filled)
    assert chosen.is_positive[0].tolist() == [True] * positives + [False] * (16 - positives)
    index = chosen.index[chosen.is_filled]
    assert index.unique().numel() == filled
    assert (chosen.index[chosen.is_positive] < positive).all()
    assert (chosen.index[chosen.is_filled & ~chosen.is_positive] >= 40 - negative).all()


def test_more_slots_than_candidates_leave_slots_empty():
    chosen = choose(2, 3, num_slots=100, max_positives=50)
    assert chosen.is_filled.sum() == 5


def test_every_candidate_is_chosen_equally_often():
    is_negative = torch.ones(2000, 10, dtype=torch.bool)
    codes = random_keys(torch.arange(2000), torch.arange(10)[None], 1)
    chosen = choose_balanced(~is_negative, is_negative, codes, num_slots=5, max_positives=0)
    counts = chosen.index.flatten().bincount(minlength=10)
    assert counts.sum() == 10_000
    assert (counts - 1000).abs().max() < 100  # deviation about 22
