"""Which image comes at which place of training, as pure functions of (seed, position).

A *position* counts the images of the endless training order from 0; epoch e of a data set of N
images is the positions e * N .. (e + 1) * N - 1 and shows each image once. Nothing here has a
state, so a resumed training asks for the rest, and neither workers, prefetch, batch size nor the
run's length can change what it sees.

Random numbers come from our own hash, not from a library's generator: libraries change their
streams between versions, and an order must outlive an update.

Legend:
    N  images in the order     K  random keys
"""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

MASK64 = (1 << 64) - 1
INCREMENT = 0x9E3779B97F4A7C15
"""Step of the hash's counter: 2^64 over the golden ratio, odd. Source: Steele et al., SplitMix64 (2014)."""
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHIFTS = (30, 27, 31)
"""The finaliser's constants. Source: SplitMix64, variant 13 of Stafford's mixers."""
FRACTION_BITS = 53
"""Bits of a double's fraction: a uniform number is so many random bits over 2^53."""

ORDER_STREAM, GROUP_STREAM, STRADDLE_STREAM, SAMPLE_STREAM, SUBSET_STREAM = 1, 2, 3, 4, 5
"""Names of independent random streams under one seed."""


def mix(value: int) -> int:
    """The SplitMix64 finaliser of a 64-bit number: one to one, and every bit depends on every bit."""
    value = ((value ^ (value >> SHIFTS[0])) * MULTIPLIERS[0]) & MASK64
    value = ((value ^ (value >> SHIFTS[1])) * MULTIPLIERS[1]) & MASK64
    return value ^ (value >> SHIFTS[2])


def hash_of(*numbers: int) -> int:
    """64 random-looking bits named by the numbers, in their order; the same on every machine."""
    state = 0
    for number in numbers:
        state = mix((state + INCREMENT * ((number + 1) & MASK64)) & MASK64)
    return state


def random_keys(count: int, *name: int) -> UInt64[np.ndarray, " K"]:
    """So many random 64-bit keys of the stream with the name."""
    return keys_of(np.arange(count, dtype=np.int64), *name)


def keys_of(numbers: Int64[np.ndarray, " K"], *name: int) -> UInt64[np.ndarray, " K"]:
    """The random 64-bit key of each number in the stream with the name."""
    with np.errstate(over="ignore"):
        keys = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(INCREMENT) + np.uint64(hash_of(*name))
        keys = (keys ^ (keys >> np.uint64(SHIFTS[0]))) * np.uint64(MULTIPLIERS[0])
        keys = (keys ^ (keys >> np.uint64(SHIFTS[1]))) * np.uint64(MULTIPLIERS[1])
        return keys ^ (keys >> np.uint64(SHIFTS[2]))


def random_fractions(count: int, *name: int) -> Float64[np.ndarray, " K"]:
    """So many random numbers in [0, 1) of the stream with the name."""
    return (random_keys(count, *name) >> np.uint64(64 - FRACTION_BITS)) * 2.0**-FRACTION_BITS


def sample_seed(seed: int, position: int) -> int:
    """The seed of the sample at the position, in 0 .. 2^63 - 1 (it travels as int64)."""
    return hash_of(seed, SAMPLE_STREAM, position) >> 1


def image_order(
    num_images: int,
    seed: int,
    first: int = 0,
    *,
    is_landscape: Bool[np.ndarray, " N"] | None = None,
    group_size: int = 1,
) -> Iterator[int]:
    """Image numbers 0 .. num_images - 1, shuffled anew each epoch, from a position on and without end.

    Args:
        num_images: at least 1.
        seed: names the order.
        first: the position to start at; finding it costs one epoch's shuffle, wherever it lies.
        is_landscape: whether each image is wider than high; None shuffles without grouping.
        group_size: positions k * group_size .. (k + 1) * group_size - 1 share an orientation as far
            as possible, so that batches of this size waste little on padding.

    Raises:
        ValueError: no images, or a negative position.
    """
    if num_images < 1 or first < 0:
        raise ValueError(f"an order needs images and a position from 0; got {num_images} images, {first}")
    epoch, skip = divmod(first, num_images)
    while True:
        if is_landscape is None or group_size == 1:
            order = epoch_order(num_images, seed, epoch)
        else:
            order = grouped_epoch_order(is_landscape, seed, epoch, group_size)
        yield from order[skip:].tolist()
        epoch, skip = epoch + 1, 0


def batches_of_alike(kinds: Sequence[Hashable], batch_size: int) -> list[tuple[int, ...]]:
    """Every row once, at most so many at a time and only rows of one kind together.

    Rows of a kind keep their order, and kinds come in the order of their first rows.
    """
    rows_of: dict[Hashable, list[int]] = {}
    for row, kind in enumerate(kinds):
        rows_of.setdefault(kind, []).append(row)
    return [
        tuple(rows[start : start + batch_size])
        for rows in rows_of.values()
        for start in range(0, len(rows), batch_size)
    ]


def epoch_order(num_images: int, seed: int, epoch: int) -> Int64[np.ndarray, " N"]:
    """Every image number once, in the epoch's order."""
    return np.argsort(random_keys(num_images, seed, ORDER_STREAM, epoch), kind="stable")


def grouped_epoch_order(
    is_landscape: Bool[np.ndarray, " N"], seed: int, epoch: int, group_size: int
) -> Int64[np.ndarray, " N"]:
    """Every image number once, so that the aligned groups of positions share an orientation.

    Groups are aligned to position 0 of the whole training, so an epoch may begin and end within
    one. The orientation of such a straddling group is a function of its number alone, which both
    epochs compute alike: no epoch needs to know another's order. Beyond the straddling groups at
    most one group of an epoch is mixed (the remainders of both orientations) where there are
    images enough.
    """
    shuffled = epoch_order(len(is_landscape), seed, epoch)
    start, end = epoch * len(shuffled), (epoch + 1) * len(shuffled)
    head = -start % group_size
    if head >= len(shuffled):
        return shuffled
    tail = (len(shuffled) - head) % group_size
    queues = {True: shuffled[is_landscape[shuffled]], False: shuffled[~is_landscape[shuffled]]}
    first = cut_from(queues, group_orientation(is_landscape, seed, start // group_size, group_size), head)
    last = cut_from(queues, group_orientation(is_landscape, seed, end // group_size, group_size), tail)
    # Full groups of each orientation, then the mixed one from what both leave over.
    whole = {key: len(queue) - len(queue) % group_size for key, queue in queues.items()}
    ends = [queue[whole[key] :] for key, queue in queues.items()]
    middle = np.concatenate([*(queue[: whole[key]] for key, queue in queues.items()), *ends])
    groups = middle.reshape(-1, group_size)
    places = np.argsort(random_keys(len(groups), seed, GROUP_STREAM, epoch), kind="stable")
    return np.concatenate([first, groups[places].ravel(), last])


def group_orientation(is_landscape: Bool[np.ndarray, " N"], seed: int, group: int, group_size: int) -> bool:
    """Whether the group that two epochs share is one of landscapes: drawn by the images' own shares.

    An orientation too rare to fill both ends of an epoch is never drawn.
    """
    num_landscape = int(is_landscape.sum())
    num_portrait = len(is_landscape) - num_landscape
    if min(num_landscape, num_portrait) < 2 * group_size:
        return num_landscape >= num_portrait
    draw = float(random_fractions(1, seed, STRADDLE_STREAM, group)[0])
    return draw * len(is_landscape) < num_landscape


def cut_from(queues: dict[bool, np.ndarray], wanted: bool, count: int) -> np.ndarray:
    """Take so many images from the wanted queue, and from the other what it lacks."""
    taken, queues[wanted] = queues[wanted][:count], queues[wanted][count:]
    missing = count - len(taken)
    rest, queues[not wanted] = queues[not wanted][:missing], queues[not wanted][missing:]
    return np.concatenate([taken, rest])
