"""Tables kept on disk, so that a data set is read once and then mapped.

A table is a folder of .npy files named by the SHA-256 of its json. It is written whole or not at
all, and processes that want the same one wait for the first. It lies in `.groundup` beside the
json or, where that cannot be written, in the user's cache.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import msgspec
import numpy as np

from groundup.data.columns import Columns, Table
from groundup.data.entries import Category
from groundup.errors import DataError
from groundup.records import CACHE_VARIABLE, digest_of, storage_error, sync_folder, user_cache, write_whole

FORMAT_VERSION = 2
"""Raised whenever the arrays or the rules change, so that no old table is taken for a new one."""
BESIDE = ".groundup"
META_NAME = "table.json"
EDGE_BYTES = 1 << 16
"""Bytes at either end of the json that are compared before a remembered digest is believed."""
SETTLED_SECONDS = 2.0
"""A file changed less than this ago may change again within one tick of its clock; its digest is
not remembered. Source: git, the racy index."""
STALE_SECONDS = 24 * 3600.0
"""Age of a draft that nobody can be writing any more."""
WRITE_BITS = 0o222


class Remembered(msgspec.Struct):
    """What a json looked like when its digest was taken."""

    size: int
    mtime_ns: int
    ctime_ns: int
    edges: str
    digest: str


class Meta(msgspec.Struct):
    """What a table says besides its arrays."""

    version: int
    digest: str
    categories: list[Category]
    has_masks: bool
    dropped: dict[str, list[int]]
    counts: dict[str, int]
    shapes: dict[str, list[int]]


def cache_folders(annotations: Path, cache: Path | None) -> list[Path]:
    """Where a table may lie, in order of preference."""
    if cache is not None:
        return [cache]
    return [annotations.parent / BESIDE, user_cache()]


def is_writable(folder: Path) -> bool:
    """Whether the folder exists or can be made, and takes files.

    A folder whose owner took away every write permission is left alone, by the superuser too.
    """
    try:
        if not folder.exists() and not folder.parent.stat().st_mode & WRITE_BITS:
            return False
        folder.mkdir(parents=True, exist_ok=True)
        if not folder.stat().st_mode & WRITE_BITS:
            return False
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def document_digest(annotations: Path, folders: list[Path]) -> str:
    """SHA-256 of the json, remembered from last time while the file is the same."""
    status = annotations.stat()
    edges = edge_digest(annotations, status.st_size)
    name = f"{hashlib.sha256(os.fsencode(annotations)).hexdigest()[:16]}.digest"
    for folder in folders:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            known = msgspec.json.decode((folder / name).read_bytes(), type=Remembered)
            if (known.size, known.mtime_ns, known.ctime_ns, known.edges) == (
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
                edges,
            ):
                return known.digest
    digest = digest_of(annotations)
    if time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_SECONDS:
        seen = Remembered(status.st_size, status.st_mtime_ns, status.st_ctime_ns, edges, digest)
        home = next((folder for folder in folders if is_writable(folder)), None)
        if home is not None:
            write_whole(home / name, msgspec.json.encode(seen))
    return digest


def edge_digest(path: Path, size: int) -> str:
    """Digest of the first and last bytes of a file."""
    with path.open("rb") as file:
        head = file.read(EDGE_BYTES)
        file.seek(max(0, size - EDGE_BYTES))
        return hashlib.sha256(head + file.read(EDGE_BYTES)).hexdigest()


def table_folder(
    annotations: Path, cache: Path | None, build: Callable[[], Table], *, variant: str = ""
) -> Path:
    """Folder of the json's table, built now if there is none.

    The `variant` is a suffix that tells tables of one json, read in different ways, apart.

    Raises:
        DataError: the json cannot be used, or no cache folder can be written.
    """
    folders = cache_folders(annotations, cache)
    digest = document_digest(annotations, folders)
    name = f"{digest}-v{FORMAT_VERSION}{variant}"
    for folder in folders:
        if is_sound(folder / name):
            return folder / name
    home = next((folder for folder in folders if is_writable(folder)), None)
    if home is None:
        shown = " or ".join(str(folder) for folder in folders)
        raise DataError(f"{annotations}: no place for its index: cannot write {shown}; set {CACHE_VARIABLE}")
    with only_one(home / f"{name}.lock"):
        if not is_sound(home / name):
            clear_stale(home)
            save_table(build(), home / name, digest)
    return home / name


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Let one process at a time through; on a file system without locks, all."""
    with path.open("a") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def clear_stale(home: Path) -> None:
    """Take away drafts that killed processes left long ago."""
    for draft in home.glob("*.draft"):
        with contextlib.suppress(OSError):
            if time.time() - draft.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(draft)


def save_table(table: Table, folder: Path, digest: str) -> None:
    """Write the table's folder whole or not at all; a sound one that is already there stays.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    try:
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.", suffix=".draft"))
        try:
            write_table(table, draft, digest)
            place_folder(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        ignore = folder.parent / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
        sync_folder(folder.parent)
    except OSError as error:
        raise storage_error(folder, error) from error


def write_table(table: Table, draft: Path, digest: str) -> None:
    """Write and sync every file of the table."""
    shapes = {}
    for field in fields(Columns):
        values = getattr(table.columns, field.name)
        shapes[field.name] = list(values.shape)
        with (draft / f"{field.name}.npy").open("wb") as file:
            np.save(file, values, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    meta = Meta(
        version=FORMAT_VERSION,
        digest=digest,
        categories=list(table.categories),
        has_masks=table.has_masks,
        dropped=table.dropped,
        counts=table.counts,
        shapes=shapes,
    )
    write_whole(draft / META_NAME, msgspec.json.encode(meta))
    draft.chmod(0o755)  # drafts are private; others may read a finished table


def place_folder(draft: Path, folder: Path) -> None:
    """Rename the draft into place, unless a sound table is there; a damaged one makes room."""
    if folder.exists() and not is_sound(folder):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        draft.rename(folder)
    except OSError:
        if not is_sound(folder):
            raise


def is_sound(folder: Path) -> bool:
    """Whether the folder holds a whole table of this version."""
    try:
        load_table(folder)
    except (OSError, ValueError, EOFError, msgspec.DecodeError):
        return False
    return True


def load_table(folder: Path) -> tuple[Table, str]:
    """The table, its arrays mapped and read-only, with the digest of its json.

    Raises:
        OSError, ValueError, EOFError, msgspec.DecodeError: no whole table of this version.
    """
    meta = msgspec.json.decode((folder / META_NAME).read_bytes(), type=Meta)
    if meta.version != FORMAT_VERSION:
        raise ValueError(f"a table of version {meta.version}")
    arrays = {}
    for field in fields(Columns):
        mapped = np.load(folder / f"{field.name}.npy", mmap_mode="r", allow_pickle=False)
        if list(mapped.shape) != meta.shapes.get(field.name):
            raise ValueError(f"{field.name} has shape {mapped.shape}")
        # A plain array over the mapping: slicing a memmap costs several times as much.
        arrays[field.name] = mapped.view(np.ndarray)
    table = Table(
        columns=Columns(**arrays),
        categories=tuple(meta.categories),
        has_masks=meta.has_masks,
        dropped=meta.dropped,
        counts=meta.counts,
    )
    return table, meta.digest
