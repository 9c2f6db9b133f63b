"""C files of this package, compiled when they are first needed.

Installing needs no compiler. Where the machine has one, a file is compiled once for its processor into the
user's cache and loaded from there; where it has none, or it fails, the caller is told why and goes another
way. The file in the cache is named by what it was made of (source, flags, processor) and by its own digest:
another processor's is not found, a damaged one is not loaded but made again. Any number of processes may do
so at once.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from groundup.errors import CheckpointError
from groundup.records import user_cache, write_whole

SWITCH = "GROUNDUP_KERNELS"
"""Environment variable; `off` compiles nothing and loads nothing compiled."""
FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-fPIC", "-shared")
"""Nothing here lets the compiler reorder sums, or forget that a number may be NaN."""
NATIVE = "-march=native"
"""Left out where a compiler does not know it."""
COMPILE_SECONDS = 120
"""A compiler that takes longer hangs; ours takes one."""
KEY_LETTERS = 24
"""Of a digest in a file's name: 96 bits."""
PROCESSOR_LINES = (
    "vendor_id", "cpu family", "model", "flags",
    "CPU implementer", "CPU architecture", "CPU part", "Features",
)  # fmt: skip
"""What of /proc/cpuinfo tells which instructions there are. Source: Linux, for x86 and for ARM."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled file, or why there is none."""

    library: ctypes.CDLL | None
    reason: str = ""
    """Of there being none, in words that follow "not compiled:"."""


def load_compiled(source: Path, flags: tuple[str, ...] = ()) -> Compiled:
    """The source compiled, from the cache where it is there.

    Args:
        source: a C file that needs no other.
        flags: for the compiler, beside `FLAGS`.
    """
    if os.environ.get(SWITCH) == "off":
        return Compiled(None, f"{SWITCH}=off")
    if os.name != "posix":
        return Compiled(None, f"not done on {platform.system()}")
    flags = (*FLAGS, *flags)
    folder = user_cache() / "kernels"
    stem = file_stem(source, flags, processor())
    for path in cached_files(folder, stem):
        with contextlib.suppress(OSError):
            return Compiled(ctypes.CDLL(str(path)))
    with tempfile.TemporaryDirectory(prefix="groundup-") as draft:
        made = Path(draft) / f"{stem}.so"
        reason = compile_file(source, flags, made)
        if reason is not None:
            return Compiled(None, reason)
        # A cache that takes no files, or from which none may be loaded, costs a second a process. Once a file
        # is loaded it may go.
        with contextlib.suppress(OSError, CheckpointError):
            return Compiled(ctypes.CDLL(str(keep_file(made, folder))))
        try:
            return Compiled(ctypes.CDLL(str(made)))
        except OSError as error:
            return Compiled(None, f"what the C compiler made cannot be loaded: {error}")


def file_stem(source: Path, flags: tuple[str, ...], processor: str) -> str:
    """The beginning of a compiled file's name: all that it was made of, but the compiler's version."""
    made_of = b"\0".join([source.read_bytes(), *(flag.encode() for flag in flags), processor.encode()])
    return f"{source.stem}-{hashlib.sha256(made_of).hexdigest()[:KEY_LETTERS]}"


@functools.cache
def processor() -> str:
    """Which instructions this processor has."""
    names = [platform.system(), platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
        names += [line for line in first.splitlines() if line.split(":")[0].strip() in PROCESSOR_LINES]
    return "\n".join(names)


def cached_files(folder: Path, stem: str) -> Iterator[Path]:
    """Files of that beginning that are whole, in a folder that nobody but this user can have filled."""
    with contextlib.suppress(OSError):
        of_folder = folder.stat()
        if of_folder.st_uid != os.getuid() or of_folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return
        for path in sorted(folder.glob(f"{stem}-*.so")):
            if path.name == sealed_name(stem, path.read_bytes()):
                yield path


def sealed_name(stem: str, content: bytes) -> str:
    """A compiled file's name, with the digest of what is in it: half a file loads, and kills its process."""
    return f"{stem}-{hashlib.sha256(content).hexdigest()[:KEY_LETTERS]}.so"


def keep_file(made: Path, folder: Path) -> Path:
    """Put a compiled file into the cache.

    Raises:
        OSError, CheckpointError: the folder takes no files.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = made.read_bytes()
    path = folder / sealed_name(made.stem, content)
    write_whole(path, content)
    return path


def compile_file(source: Path, flags: tuple[str, ...], made: Path) -> str | None:
    """Compile; None, or why that failed."""
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(command[0]) is None:
        return f"there is no C compiler ({command[0]})"
    said = ""
    for options in ((*flags, NATIVE), flags):
        try:
            done = subprocess.run(
                [*command, *options, "-o", str(made), str(source), "-lm"],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=COMPILE_SECONDS,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"the C compiler ({command[0]}) failed: {error}"
        if done.returncode == 0 and made.exists():
            return None
        said = next((line for line in done.stderr.splitlines() if line.strip()), f"status {done.returncode}")
    return f"the C compiler ({command[0]}) failed: {said.strip()}"
