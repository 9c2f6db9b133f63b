"""Parts of a data set: nested random draws by share or number of images, and as json of their own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Int64

from groundup.data.coco import Index
from groundup.data.document import map_file
from groundup.data.order import SUBSET_STREAM, keys_of
from groundup.data.rules import Findings
from groundup.errors import DataError, UsageError
from groundup.records import write_whole


def subset_rows(
    index: Index, fraction: float, seed: int, count: int | None = None
) -> Int64[np.ndarray, " _"]:
    """Rows of a random part of the images, in order of row.

    Each image has a place in one shuffling, given by its id and the seed alone; a part is the
    beginning of it. So a smaller part lies inside a larger one, whatever the file's order. The part
    is `count` images or, where that is None, the fraction: above 0 and at most 1, one image at least.

    Raises:
        UsageError: a fraction outside that range, or more images than there are.
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"a subset is a fraction above 0 and at most 1 of the images, got {fraction}")
    ids = index.image_ids
    if count is not None and not 0 < count <= len(ids):
        raise UsageError(
            f"{index.annotations}: has {len(ids):,} images, so none of {count:,} can be drawn; "
            f"give a number from 1 to {len(ids)}"
        )
    shuffled = np.lexsort((ids, keys_of(ids, seed, SUBSET_STREAM)))
    num_chosen = max(1, round(fraction * len(ids))) if count is None else count
    return np.sort(shuffled[:num_chosen]).astype(np.int64)


class _Owner(msgspec.Struct):
    """The field that says to which image a record belongs."""

    id: int | str = 0
    image_id: int | str = 0


def write_subset(index: Index, rows: Sequence[int] | Int64[np.ndarray, " _"], path: Path) -> None:
    """Write a COCO json with these rows' images and all their annotations, each byte as it was.

    Nothing is cleaned or renumbered; categories and every other part of the json stay whole.

    Raises:
        DataError: the json of the index is gone or was changed.
        CheckpointError: the file cannot be written.
    """
    wanted = {int(index.image_ids[row]) for row in rows}
    findings = Findings(str(index.annotations), max_listed=1)
    content = map_file(index.annotations, findings, max_bytes=2**63 - 1)
    findings.refuse()
    assert content is not None
    parts = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    owner = msgspec.json.Decoder(_Owner)

    def chosen(section: str, key: str) -> list[msgspec.Raw]:
        """The records of a section that belong to the wanted images."""
        records = msgspec.json.decode(parts[section], type=list[msgspec.Raw])
        return [record for record in records if int(getattr(owner.decode(record), key)) in wanted]

    whole: dict[str, Any] = dict(parts)
    whole["images"] = chosen("images", "id")
    whole["annotations"] = chosen("annotations", "image_id")
    if len(whole["images"]) != len(wanted):
        raise DataError(f"{index.annotations}: changed since it was opened; open it again")
    write_whole(path, msgspec.json.encode(whole))
