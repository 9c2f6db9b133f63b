"""Photograph files examined: there, readable, what the annotation says, and no two alike."""

import contextlib
import errno
import os
import stat
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from groundup.data.coco import locate
from groundup.data.images import ImagePolicy, check_header, decode_image, read_header
from groundup.data.rules import Findings
from groundup.errors import DataError
from groundup.records import digest_of

SUFFIXES_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
"""Endings of file names by what the file holds."""

Progress = Callable[[int, int], None]
"""Called with (photographs examined, photographs in all)."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What the annotation file says of one photograph."""

    id: int
    name: str
    size: tuple[int, int]
    """(height, width)."""


def examine_photographs(
    folder: Path,
    stated: Sequence[Stated],
    findings: Findings,
    *,
    policy: ImagePolicy,
    decode: bool,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Report every problem of the photographs; bytes of each readable file by its name.

    Without `decode` only headers are read, which misses damage further in.
    """
    if not folder.is_dir():
        findings.add("folder-missing", "", "no such folder", file=str(folder))
        return {}
    lengths: dict[str, int] = {}
    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        # Decoders silence their warnings for a while; threads would end that for one another.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            results = pool.map(lambda one: examine_photograph(folder, one, policy, decode), stated)
            for done, (one, (length, problems)) in enumerate(zip(stated, results, strict=True), start=1):
                for rule, found in problems:
                    findings.add(rule, "file_name", found, whose=one.id, file=str(folder / one.name))
                if length:
                    lengths[one.name] = length
                if progress is not None:
                    progress(done, len(stated))
    finally:
        pool.shutdown(cancel_futures=True)
    return lengths


def examine_photograph(
    folder: Path, stated: Stated, policy: ImagePolicy, decode: bool
) -> tuple[int, list[tuple[str, str]]]:
    """Bytes of the file, 0 if it cannot be read, and (rule, found) of each of its problems."""
    path = folder / stated.name
    try:
        status = path.stat()
        locate(folder, stated.name)
    except FileNotFoundError:
        return 0, [("image-missing", "no such file")]
    except OSError as error:
        loop = "links in a circle" if error.errno == errno.ELOOP else error.strerror
        return 0, [("image-unreadable", loop or str(error))]
    except DataError as error:
        return 0, [("file-escapes", without_path(error, path))]
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
        return 0, [("image-not-a-file", what)]
    if status.st_size == 0:
        return 0, [("image-empty", "0 bytes")]
    if not os.access(path, os.R_OK):
        return 0, [("image-unreadable", f"mode {stat.S_IMODE(status.st_mode):03o}")]
    return status.st_size, list(examine_content(path, stated, policy, decode))


def examine_content(
    path: Path, stated: Stated, policy: ImagePolicy, decode: bool
) -> Iterator[tuple[str, str]]:
    """(rule, found) of each problem of a file that can be read."""
    try:
        header = read_header(path)
    except DataError as error:
        yield "image-header", without_path(error, path)
        return
    if path.suffix.lower() not in SUFFIXES_OF.get(header.format, ()):
        yield "image-extension", f"a {header.format} file"
    fits = stated.size in (header.size, header.upright_size)
    if not fits:
        height, width = header.size
        said = f"{stated.size[1]} x {stated.size[0]}"
        turned = f", orientation {header.orientation}" if header.orientation != 1 else ""
        yield "image-size-differs", f"{width} x {height}{turned}; the json says {said} (width x height)"
    try:
        check_header(path, header, policy)
        if decode:
            decode_image(path, stated.size if fits else None, policy)
    except DataError as error:
        yield "image-bytes", without_path(error, path)


def without_path(error: DataError, path: Path) -> str:
    """The message without the file, which the problem already names."""
    return str(error).removeprefix(f"{path}: ")


def find_copies(folder: Path, stated: Sequence[Stated], lengths: dict[str, int], findings: Findings) -> None:
    """Report files with the same bytes under different names; only files of equal length are read."""
    ids = {one.name: one.id for one in stated}
    by_length: dict[int, list[str]] = defaultdict(list)
    for name, length in lengths.items():
        by_length[length].append(name)
    for names in by_length.values():
        if len(names) > 1:
            firsts: dict[str, str] = {}
            for name in names:
                digest = digest_or_nothing(folder / name)
                if digest and digest in firsts:
                    path = str(folder / name)
                    found = f"the bytes of {firsts[digest]}"
                    findings.add("image-copies", "file_name", found, whose=ids[name], file=path)
                firsts.setdefault(digest, name)


def find_overlap(
    folder: Path,
    stated: Sequence[Stated],
    lengths: dict[str, int],
    other: dict[Path, int],
    findings: Findings,
) -> None:
    """Report files whose bytes also are a file of the other split, given there with its length."""
    others: dict[int, list[Path]] = defaultdict(list)
    for path, length in other.items():
        others[length].append(path)
    digests: dict[Path, str] = {}
    for one in stated:
        for path in others.get(lengths.get(one.name, -1), []):
            if path not in digests:
                digests[path] = digest_or_nothing(path)
            mine = digests.setdefault(folder / one.name, digest_or_nothing(folder / one.name))
            if mine and mine == digests[path]:
                findings.add(
                    "split-overlap",
                    "file_name",
                    f"the bytes of {path}",
                    whose=one.id,
                    file=str(folder / one.name),
                )
                break


def digest_or_nothing(path: Path) -> str:
    """Digest of the file, or empty text where it cannot be read any more."""
    with contextlib.suppress(OSError):
        return digest_of(path)
    return ""
