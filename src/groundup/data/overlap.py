"""Photographs that both splits hold: by name in one folder, by bytes anywhere."""

from pathlib import Path
from typing import Literal, TypeAlias

from groundup.data.coco import Index
from groundup.data.photographs import Stated, find_overlap
from groundup.data.rules import Findings
from groundup.errors import DataError

Overlap: TypeAlias = Literal["refuse", "accept"]
"""What is done where a photograph is learnt from and judged by: refused, or accepted for once."""


def lengths_of(index: Index) -> dict[str, int]:
    """Bytes of every photograph that is there, by its name."""
    found = {}
    for row in range(index.num_images):
        name = index.file_name(row)
        try:
            found[name] = (index.images / name).stat().st_size
        except OSError:  # whoever opens it says so
            continue
    return found


def find_shared(train: Index, val: Index) -> Findings:
    """Every validation photograph whose bytes also are a training photograph's.

    Only files of the same length are read, so two sets without such cost a look at each file's entry.
    """
    findings = Findings(str(val.annotations), max_listed=1)
    lengths = lengths_of(val)
    stated = [
        Stated(int(val.image_ids[row]), name, (0, 0))
        for row in range(val.num_images)
        if (name := val.file_name(row)) in lengths
    ]
    others: dict[Path, int] = {train.images / name: size for name, size in lengths_of(train).items()}
    find_overlap(val.images, stated, lengths, others, findings)
    return findings


def refuse_shared(train: Index, val: Index) -> None:
    """Refuse splits that share a photograph: AP on what was learnt by heart says nothing of others.

    Raises:
        DataError: they do, with how many and the first.
    """
    findings = find_shared(train, val)
    count = findings.counts["split-overlap"]
    if count:
        first = findings.problems[0]
        raise DataError(
            f"{val.annotations}: {count} of {val.num_images} validation photographs are training photographs "
            f"too, the first is {first.file} ({first.found}); take them out of one split "
            "(`groundup data check VAL --train TRAIN` lists them), or set data.overlap=accept"
        )
