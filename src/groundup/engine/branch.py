"""A run that begins as another one did takes over the other's state instead of repeating it.

Two runs whose options and data agree up to some images seen are, on a CPU, identical up to there. So the
longer one (the parent) is carried out, keeps its checkpoint at that point (`UpkeepOptions.keep_at`), and the
other is *seeded* with it: evaluations, log and checkpoint are copied under the other's name, and the
ordinary loop goes on from them. What comes out has the bytes of the straight run.

The checkpoint's rename is the commit: before it, whatever a kill left behind is written over by the next
try, or begun anew by a straight run; after it, the folder is that of a run that was stopped at this point.
"""

import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from groundup.engine.checkpoint import (
    COMMIT,
    EVALUATIONS,
    STATE,
    checkpoint_path,
    checkpoint_paths,
    committing,
    fault_of,
    remove_drafts,
    seal,
)
from groundup.engine.journal import LOG, open_log
from groundup.engine.run import RESULT
from groundup.errors import CheckpointError
from groundup.records import (
    lock_folder,
    read_json,
    storage_error,
    write_json,
    write_whole,
)

COPIED_KINDS = ("train", "evaluation")
"""Records that the branch would have written too; the others say what the parent's process did."""


def has_branch_point(parent: Path, images_seen: int) -> bool:
    """Whether the parent has come to this point and its checkpoint there is whole."""
    return (checkpoint_path(parent, images_seen) / COMMIT).is_file()


def is_seeded(folder: Path) -> bool:
    """Whether the folder has a state of its own already, seeded or not, so that nothing is to be copied."""
    return (folder / RESULT).exists() or any(fault_of(path) is None for path in checkpoint_paths(folder))


def seed_run(
    parent: Path, folder: Path, images_seen: int, *, recipe: str, documents: Mapping[str, Any]
) -> bool:
    """Make the folder that of a run which was stopped after so many images, by copying from the parent.

    `recipe` is the fingerprint of the branch, by which its loop knows the checkpoint; `documents` are the
    JSON files that say what the run is (recipe, record, start), by file name. May be killed anywhere and
    called again; a folder with a state of its own is left as it is.

    Returns:
        Whether anything was copied.

    Raises:
        CheckpointError: the parent has no whole checkpoint there, the folder is in use, or the disk is full.
    """
    with lock_folder(folder):
        if is_seeded(folder):
            return False
        source = checkpoint_path(parent, images_seen)
        fault = fault_of(source) if source.exists() else "is missing"
        if fault is not None:
            raise CheckpointError(
                f"{source}: {fault}; the branch cannot begin there, carry out its parent first"
            )
        try:
            copy_evaluations(parent, folder, images_seen)
            for name, document in documents.items():
                write_json(folder / name, document)
            write_whole(folder / LOG, log_prefix(parent, images_seen))
            copy_checkpoint(source, folder, recipe)
        except OSError as error:
            raise storage_error(folder, error) from error
        return True


def log_prefix(parent: Path, images_seen: int) -> bytes:
    """The parent's log up to the point, as the branch would have written it, and a record of branching."""
    records = [
        record
        for record in open_log(parent).read()
        if record["images_seen"] <= images_seen and record["kind"] in COPIED_KINDS
    ]
    batch = next((r["images_seen"] // r["step"] for r in records if r["step"]), 0)
    branching = {
        "kind": "branch",
        "images_seen": images_seen,
        "step": images_seen // batch if batch else 0,
        "parent": parent.name,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return b"".join(msgspec.json.encode(record) + b"\n" for record in [*records, branching])


def copy_evaluations(parent: Path, folder: Path, images_seen: int) -> None:
    """The parent's evaluations up to the point; one that was cut short is written over."""
    for path in sorted((parent / EVALUATIONS).glob("images_*")):
        if int(path.name.split("_")[1]) > images_seen or not (path / "metrics.json").exists():
            continue
        target = folder / EVALUATIONS / path.name
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(path, target, copy_function=link_or_copy)


def copy_checkpoint(source: Path, folder: Path, recipe: str) -> None:
    """The checkpoint under the branch's fingerprint; whole, by one rename, or not at all."""
    final = checkpoint_path(folder, int(source.name.split("_")[1]))
    final.parent.mkdir(parents=True, exist_ok=True)
    remove_drafts(folder)
    state = read_json(source / STATE)
    with committing(final) as draft:
        for name in state["files"]:
            link_or_copy(source / name, draft / name)
        seal(draft, state | {"recipe": recipe})


def link_or_copy(source: Path | str, target: Path | str) -> str:
    """A second name for the file where there can be one, else a copy: no such file is changed in place."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return str(target)
