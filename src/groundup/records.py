"""Records on disk: whole-or-nothing writes, an append-only log, a lock. No torch here.

State on disk is decided by what exists, never by a flag in memory.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from groundup.errors import CheckpointError

DIGEST_CHUNK = 1 << 20
"""Bytes read at once while hashing a file."""
DRAFT_NAME = 50
"""Characters of a file's name in that of its draft: file systems allow 255 bytes."""

CACHE_VARIABLE = "GROUNDUP_CACHE"
"""Environment variable that names the user's cache."""


def user_cache() -> Path:
    """Where this user keeps what can be made again."""
    named, shared = os.environ.get(CACHE_VARIABLE), os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named)
    return (Path(shared) if shared else Path.home() / ".cache") / "groundup"


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(DIGEST_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames inside the folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, content: str | bytes) -> None:
    """Put the content at the path: whole, or not at all, also when the process is killed.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name[:DRAFT_NAME]}.{secrets.token_hex(8)}.draft")
        try:
            with draft.open("xb") as file:  # not by `tempfile`, whose files only their owner may read
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error, len(data)) from error


def storage_error(path: Path, error: OSError, need: int | None = None) -> CheckpointError:
    """A failed write as a message that says what is needed and what there is."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        have = shutil.disk_usage(path.parent).free
        size = f"need {need} bytes, " if need is not None else ""
        return CheckpointError(
            f"{path}: disk full ({size}{have} bytes free); make room and run the same command again"
        )
    return CheckpointError(f"{path}: cannot be written: {error.strerror or error}")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name that is not Unicode has halves of surrogate pairs; JSON has an escape for them.
    write_whole(path, text.encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> Any:
    """The value of a JSON file of ours.

    Raises:
        CheckpointError: missing or damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged JSON: {error}") from None


class Log:
    """Append-only JSON lines: the source of truth of a run. One object a line.

    A line cut off by a kill is dropped when the log is next opened; whole lines never are.
    """

    def __init__(self, path: Path) -> None:
        """Open the log at the path, which need not exist yet."""
        self.path = path

    def append(self, record: dict[str, Any]) -> None:
        """Add one record; it reaches the file in one write."""
        line = msgspec.json.encode(record) + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line)
        except OSError as error:
            raise storage_error(self.path, error, len(line)) from error

    def read(self) -> Iterator[dict[str, Any]]:
        """Every whole record, oldest first."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    with contextlib.suppress(msgspec.DecodeError):
                        yield msgspec.json.decode(line, type=dict[str, Any])

    def keep(self, wanted: Any) -> None:
        """Rewrite the log with only the records for which `wanted(record)` is true.

        A resumed run calls it to take back what was logged after its checkpoint.
        """
        kept = [record for record in self.read() if wanted(record)]
        write_whole(self.path, b"".join(msgspec.json.encode(record) + b"\n" for record in kept))


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the folder for this process alone; the lock ends with the process, however it ends.

    Raises:
        CheckpointError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CheckpointError(
                f"{folder}: in use by process {file.read().strip() or 'unknown'}; choose another folder"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def is_held(folder: Path) -> bool:
    """Whether a process holds the folder's lock at this moment; a folder that does not exist is free."""
    try:
        with (folder / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
