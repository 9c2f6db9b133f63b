"""Checkpoints as transactions: a folder that is whole and proven, or does not count.

A checkpoint is drafted in a hidden folder, every file is flushed to the disk, the digests of the
tensors go into `state.json`, the digest of that into `COMMIT`, which is written last; only then one
rename makes it visible. Reading walks from the newest back to the first that proves itself.
No random state is saved: whatever is drawn is a function of the seed and the images seen.

    RUN/checkpoints/images_000123456/{model,optim[,ema]}.safetensors  state.json  COMMIT
"""

import json
import os
import re
import shutil
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from groundup.errors import CheckpointError
from groundup.records import digest_of, storage_error, sync_folder

FOLDER = "checkpoints"
"""Folder of the checkpoints inside a run folder."""
EVALUATIONS = "evaluations"
"""Folder of the evaluations inside a run folder, one folder `images_%09d` each."""
STATISTICS = "norm_statistics.safetensors"
"""What an evaluation replaced in the weights it judged, in its folder: see `engine.precise_norm`."""
COMMIT = "COMMIT"
"""The marker written last; holds the digest of `state.json`."""
STATE = "state.json"
NAME = re.compile(r"images_(\d{9,})")
HEADER_BYTES = 1 << 16
"""Room reserved for headers and small files when free space is compared with need."""
OS_ERROR = re.compile(r"os error (\d+)")
"""How safetensors names the system's error inside its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint that proved itself, and why newer ones were passed over."""

    path: Path
    images_seen: int
    state: dict[str, Any]
    """What was saved beside the tensors."""
    skipped: tuple[str, ...]
    """One line for each newer checkpoint that could not be used: its path and what is wrong with it."""

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one file (`model`, `optim`, `ema`), on the CPU.

        Raises:
            CheckpointError: another machine has proven the file, and this one does not see it.
        """
        try:
            return safetensors.torch.load_file(self.path / f"{name}.safetensors")
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: cannot be read on {socket.gethostname()}: {error.strerror or error}; several "
                "machines need the run's folder on storage that all of them see"
            ) from None

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds such a file."""
        return f"{name}.safetensors" in self.state["files"]


def checkpoint_path(run: Path, images_seen: int) -> Path:
    """Where the checkpoint after so many images lies."""
    return run / FOLDER / f"images_{images_seen:09d}"


def checkpoint_paths(run: Path) -> list[Path]:
    """The run's checkpoint folders, newest first, proven or not."""
    folder = run / FOLDER
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name.split("_")[1]), reverse=True)


def save_checkpoint(
    run: Path,
    images_seen: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    *,
    keep: int,
    keep_at: Collection[int] = (),
) -> Path:
    """Commit a checkpoint, then drop all but the newest `keep`; one that is already there and proven stays.

    Those after an image count of `keep_at` are never dropped, and do not count. `tensors` are named tensors
    by file name without suffix (`model`, `optim`, `ema`); `state` is JSON values.

    Raises:
        CheckpointError: the disk is full or cannot be written; older checkpoints are untouched and
            nothing partial is left.
    """
    final = checkpoint_path(run, images_seen)
    need = sum(t.numel() * t.element_size() for named in tensors.values() for t in named.values())
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_drafts(run)
        if final.exists() and fault_of(final) is None:
            return final
        have = shutil.disk_usage(final.parent).free
        if have < need + HEADER_BYTES:
            raise disk_full(final, need + HEADER_BYTES, have)
        with committing(final) as draft:
            write_draft(draft, images_seen, tensors, state)
        kept = {checkpoint_path(run, point) for point in keep_at}
        for path in [path for path in checkpoint_paths(run) if path not in kept][keep:]:
            discard(path)
    except safetensors.SafetensorError as error:
        raise write_fault(final, need, error) from error
    except OSError as error:
        raise storage_error(final, error, need) from error
    return final


def write_draft(
    draft: Path, images_seen: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> None:
    """Write every file of a checkpoint and flush it to the disk, the marker last."""
    digests = {}
    for name, named in tensors.items():
        path = draft / f"{name}.safetensors"
        path.touch()
        mode = path.stat().st_mode  # the writer's own files are for their owner alone
        safetensors.torch.save_file(separate(named), path)
        path.chmod(mode)
        sync_file(path)
        digests[path.name] = digest_of(path)
    everything = {**state, "images_seen": images_seen, "files": digests}
    seal(draft, everything)


@contextmanager
def committing(final: Path) -> Iterator[Path]:
    """Give an empty draft folder to fill and `seal`; it becomes the checkpoint by one rename, or is gone."""
    draft = final.parent / f".{final.name}.draft"
    try:
        draft.mkdir()
        yield draft
        if final.exists():
            discard(final)
        draft.rename(final)
        sync_folder(final.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def seal(draft: Path, state: Mapping[str, Any]) -> None:
    """Write the state and, last, the marker with its digest; everything is flushed to the disk."""
    write_synced(draft / STATE, json.dumps(state, indent=2, allow_nan=False) + "\n")
    write_synced(draft / COMMIT, digest_of(draft / STATE) + "\n")
    sync_folder(draft)


def separate(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, dense, each with memory of its own, as safetensors wants them."""
    taken: set[int] = set()
    result = {}
    for name, tensor in named.items():
        dense = tensor.detach().cpu().contiguous()
        if dense.untyped_storage().data_ptr() in taken:
            dense = dense.clone()
        taken.add(dense.untyped_storage().data_ptr())
        result[name] = dense
    return result


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """The newest checkpoint that proves itself; None where the run has none at all.

    Raises:
        CheckpointError: there are checkpoints, but none can be used; says what is wrong with each.
    """
    skipped: list[str] = []
    for path in checkpoint_paths(run):
        fault = fault_of(path)
        if fault is None:
            state = json.loads((path / STATE).read_bytes())
            return Checkpoint(
                path=path, images_seen=state["images_seen"], state=state, skipped=tuple(skipped)
            )
        skipped.append(f"{path}: {fault}")
    if skipped:
        raise CheckpointError(
            f"{run}: none of {len(skipped)} checkpoints can be used ({'; '.join(skipped)}); "
            f"restore one, or remove {run / FOLDER} to start over"
        )
    return None


def load_weights(run: Path) -> dict[str, Tensor]:
    """The weights that the run's newest checkpoint would be judged by: averaged ones where it keeps them.

    Statistics of norms that its evaluation computed anew are put in.

    Raises:
        CheckpointError: there is no checkpoint, or none can be used.
    """
    checkpoint = newest_checkpoint(run)
    if checkpoint is None:
        raise CheckpointError(f"{run}: has no checkpoint; train it first")
    weights = checkpoint.tensors("ema" if checkpoint.has("ema") else "model")
    precise = run / EVALUATIONS / checkpoint.path.name / STATISTICS
    if precise.exists():
        try:
            weights |= safetensors.torch.load_file(precise)
        except (safetensors.SafetensorError, OSError) as error:
            raise CheckpointError(f"{precise}: damaged ({error}); delete the file") from None
    return weights


def fault_of(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None when every byte is as it was written."""
    try:
        if not (path / COMMIT).is_file():
            return f"no {COMMIT} marker: it was never finished"
        if (path / COMMIT).read_text() != digest_of(path / STATE) + "\n":
            return f"{STATE} is damaged: its digest is not the one in {COMMIT}"
        state = json.loads((path / STATE).read_bytes())
        for name, digest in state["files"].items():
            if digest_of(path / name) != digest:
                size = (path / name).stat().st_size
                return f"{name} is damaged: its digest is not the one in {STATE} ({size} bytes found)"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError) as error:
        return f"cannot be read: {error}"
    return None


def discard(path: Path) -> None:
    """Delete a checkpoint so that a kill halfway leaves a draft, never a damaged checkpoint."""
    doomed = path.parent / f".{path.name}.discarded"
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_drafts(run: Path) -> None:
    """Delete what killed processes left half written or half deleted."""
    folder = run / FOLDER
    if folder.is_dir():
        for path in folder.glob(".images_*"):
            shutil.rmtree(path, ignore_errors=True)


def write_synced(path: Path, text: str) -> None:
    """Write a small file and flush it to the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Flush a file that is already written to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def disk_full(path: Path, need: int, have: int) -> CheckpointError:
    """The message for a disk that cannot hold the next checkpoint."""
    return CheckpointError(
        f"{path}: disk full: need {need} bytes, have {have}; the older checkpoints are untouched; "
        "make room and run the same command again"
    )


def write_fault(path: Path, need: int, error: safetensors.SafetensorError) -> CheckpointError:
    """A fault of the tensor writer as ours; it hides the system's error number in its text."""
    found = OS_ERROR.search(str(error))
    if found:
        number = int(found.group(1))
        return storage_error(path, OSError(number, os.strerror(number)), need)
    return CheckpointError(f"{path}: cannot be written: {error}")
