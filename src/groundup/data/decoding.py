"""Photographs decoded in the background, in their order, while a model is busy with those before.

Threads, not processes: decoders and resizing run outside the interpreter's lock, and nothing is copied.

Legend:
    H, W  height and width of a photograph
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from groundup.data.images import ImagePolicy, decode_image
from groundup.errors import DataError

NUM_THREADS = 2
"""Ours: decoding and scaling a photograph takes a small part of what detecting in it does."""
MAX_HELD_PIXELS = 1 << 26
"""Pixels of the photographs of one window, 201 MB as RGB; a window holds at least one photograph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Photograph:
    """A photograph, or why it cannot be read."""

    number: int
    """Its place among those asked for, from 0."""
    path: Path
    image: UInt8[np.ndarray, "H W 3"] | None
    """RGB, upright; None where it cannot be read."""
    fault: DataError | None
    """Why."""


def decode_ahead(paths: Iterable[Path], policy: ImagePolicy, num_ahead: int) -> Iterator[Photograph]:
    """Each photograph in the order given; so many of those that follow are being decoded meanwhile."""
    with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="decode") as pool:
        waiting: deque[Future[Photograph]] = deque()
        try:
            for number, path in enumerate(paths):
                waiting.append(pool.submit(read_photograph, number, path, policy))
                if len(waiting) > num_ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:  # whoever asked has enough
                one.cancel()


def read_photograph(number: int, path: Path, policy: ImagePolicy) -> Photograph:
    """The photograph, upright."""
    try:
        return Photograph(number=number, path=path, image=decode_image(path, None, policy), fault=None)
    except DataError as error:
        return Photograph(number=number, path=path, image=None, fault=error)


def windows_of(photographs: Iterable[Photograph], most: int) -> Iterator[list[Photograph]]:
    """Consecutive photographs, at most so many and of at most `MAX_HELD_PIXELS` together."""
    window: list[Photograph] = []
    num_pixels = 0
    for one in photographs:
        pixels = 0 if one.image is None else one.image.shape[0] * one.image.shape[1]
        if window and (len(window) == most or num_pixels + pixels > MAX_HELD_PIXELS):
            yield window
            window, num_pixels = [], 0
        window.append(one)
        num_pixels += pixels
    if window:
        yield window
