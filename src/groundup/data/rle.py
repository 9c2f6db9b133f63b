"""Run-length masks of COCO: column by column, starting with zeros.

Run lengths are checked here before any C code sees them; packing them again is left to the
reference library.

Legend:
    R  run lengths
"""

import numpy as np
from jaxtyping import Int64, UInt8

from groundup.data.truth import Bitmap

MAX_DIGITS = 7
"""Most five-bit digits of one packed number: 35 bits, above any run length of 32 bits."""


def decode_counts(text: str) -> Int64[np.ndarray, " R"]:
    """Run lengths of COCO's packed text, differences undone.

    Raises:
        ValueError: no packed run lengths.

    Source: pycocotools, `rleFrString`: five bits a character from '0' on, the sixth says that more
    follow, the last digit carries the sign, and numbers from the fourth on are differences to the
    last but one.
    """
    if not text:
        return np.zeros(0, np.int64)
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - ord("0")
    if codes.min() < 0 or codes.max() >= 64:
        raise ValueError("a character outside '0'..'o'")
    last = (codes & 32) == 0
    if not last[-1]:
        raise ValueError("it ends inside a number")
    ends = np.flatnonzero(last) + 1
    starts = np.concatenate([[0], ends[:-1]])
    if int((ends - starts).max()) > MAX_DIGITS:
        raise ValueError("a number of more than 35 bits")
    digit = np.arange(len(codes)) - np.repeat(starts, ends - starts)
    numbers = np.add.reduceat((codes & 31) << (5 * digit), starts)
    negative = (codes[ends - 1] & 16) != 0
    numbers -= negative * (np.int64(1) << (5 * (ends - starts)))
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def encode_counts(runs: np.ndarray, height: int, width: int) -> str:
    """COCO's packed text of run lengths that fill the image."""
    from pycocotools import mask as reference

    packed = reference.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return str(packed["counts"].decode("ascii"))


def mask_area(runs: np.ndarray) -> int:
    """Pixels the mask covers."""
    return int(runs[1::2].sum())


def crop_mask(runs: np.ndarray, height: int) -> Bitmap:
    """The mask's pixels inside its tight box; the mask must cover at least one pixel."""
    runs = runs.astype(np.int64)
    ends = np.cumsum(runs)
    covered = np.flatnonzero(runs[1::2]) * 2 + 1
    first, last = int(covered[0]), int(covered[-1])
    begin, end = int(ends[first] - runs[first]), int(ends[last])
    left, right = begin // height, (end - 1) // height
    lengths = np.concatenate([[begin - left * height], runs[first : last + 1], [(right + 1) * height - end]])
    values = (np.arange(len(lengths)) & 1).astype(np.uint8)
    columns: UInt8[np.ndarray, "w h"] = np.repeat(values, lengths).reshape(right - left + 1, height)
    rows = np.flatnonzero(columns.any(axis=0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return Bitmap(x=left, y=top, pixels=np.ascontiguousarray(columns[:, top:bottom].T))
