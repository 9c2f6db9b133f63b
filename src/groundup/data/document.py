"""An annotation file as records, however it is damaged.

A sound file is read without holding it in memory: it is mapped, cut into records, and each record
is decoded when its turn comes. A damaged one is read leniently, so that the doctor can go on to
list what else is wrong; every leniency is reported as an error.
"""

import json
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from groundup.data.rules import Findings

MAX_DOCUMENT_BYTES = 4 << 30
"""Largest annotation file read without being asked: three times LVIS, the largest in common use."""
MAX_LENIENT_BYTES = 512 << 20
"""Largest damaged file that is read to its end: as Python objects it takes ten times its size."""
ROBOFLOW_NAME = "_annotations.coco.json"
"""Annotation file beside its images in each split folder. Source: Roboflow's COCO export."""
SECTIONS = ("images", "annotations", "categories")

PACKED_STARTS = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
"""First bytes of compressed files."""
UTF8_MARK = b"\xef\xbb\xbf"

LENIENT = re.compile(r'"(?:[^"\\]|\\.)*+"?|-?Infinity|NaN|,(?=\s*+[\]}])', re.DOTALL)
"""Strings (to be stepped over), literals that are not JSON, and trailing commas; linear in time."""


@dataclass(frozen=True, slots=True)
class Records:
    """One section's records, decoded one by one."""

    items: list[Any]
    """Values, or raw JSON not yet decoded."""
    section: str
    findings: Findings

    def __len__(self) -> int:
        """Records in the section."""
        return len(self.items)

    def __iter__(self) -> Iterator[object]:
        """The records as JSON values, in the file's order."""
        for position, item in enumerate(self.items):
            if not isinstance(item, msgspec.Raw):
                yield item
                continue
            try:
                yield msgspec.json.decode(item)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                yield read_leniently(bytes(item), self.findings, f"{self.section}[{position}]")


@dataclass(frozen=True, slots=True)
class Document:
    """The three sections of a COCO json; empty where the file lacks them."""

    images: Records
    annotations: Records
    categories: Records


def find_document(path: Path) -> Path:
    """The annotation file meant: the path, or Roboflow's file inside the folder it names."""
    inside = path / ROBOFLOW_NAME
    return inside if path.is_dir() and inside.is_file() else path


def read_document(path: Path, findings: Findings, max_bytes: int = MAX_DOCUMENT_BYTES) -> Document:
    """The file's records. Never raises for what the file holds: faults go to the findings."""
    content = map_file(path, findings, max_bytes)
    sections: dict[str, Any] = {}
    if content is not None:
        sections = cut_sections(content, findings)
    return Document(**{name: Records(sections.get(name, []), name, findings) for name in SECTIONS})


def map_file(path: Path, findings: Findings, max_bytes: int) -> memoryview | None:
    """The file's bytes without reading them, or None with the reason in the findings."""
    try:
        if not path.is_file():
            reason = "a folder" if path.is_dir() else "no such file"
            findings.add("document-missing", "", reason)
            return None
        size = path.stat().st_size
        if size > max_bytes:
            findings.add("document-too-large", "", f"{size} bytes; the limit is {max_bytes}")
            return None
        if size == 0:
            findings.add("document-not-json", "", "an empty file")
            return None
        with path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        findings.add("document-missing", "", getattr(error, "strerror", None) or str(error))
        return None
    head = bytes(content[:8])
    for start, kind in PACKED_STARTS.items():
        if head.startswith(start):
            findings.add("document-compressed", "", f"{kind} bytes")
            return None
    return content[len(UTF8_MARK) :] if head.startswith(UTF8_MARK) else content


def cut_sections(content: memoryview, findings: Findings) -> dict[str, list[Any]]:
    """The lists of the three sections, as raw records where the JSON is sound."""
    try:
        whole: Any = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        sections: dict[str, Any] = {
            name: msgspec.json.decode(whole[name], type=list[msgspec.Raw])
            for name in SECTIONS
            if name in whole
        }
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if len(content) > MAX_LENIENT_BYTES:
            findings.add("document-not-json", "", str(error))
            return {}
        whole = read_leniently(bytes(content), findings, "")
        if not isinstance(whole, dict):
            if not findings.counts["document-not-json"]:
                findings.add("document-top-level", "", type(whole).__name__)
            return {}
        sections = whole
    found: dict[str, list[Any]] = {}
    for name in SECTIONS:
        section = sections.get(name)
        if isinstance(section, list):
            found[name] = section
        else:
            what = f"a value of type {type(section).__name__}" if name in sections else "nothing"
            findings.add("document-section", name, what)
    return found


def read_leniently(content: bytes, findings: Findings, field: str) -> Any:
    """The value of damaged JSON, every leniency reported; None where nothing can be made of it."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        place = content.count(b"\n", 0, error.start) + 1
        findings.add(
            "document-not-utf8", field, f"byte 0x{content[error.start]:02x} at {error.start}, line {place}"
        )
        text = content.decode("utf-8", "replace")

    position, line = 0, 1

    def mend(match: re.Match[str]) -> str:
        """Take out a trailing comma; report it and every literal that is not JSON."""
        nonlocal position, line
        found = match.group()
        if found.startswith('"'):
            return found
        line += text.count("\n", position, match.start())
        position = match.start()
        rule = "document-trailing-comma" if found == "," else "document-nan-literal"
        findings.add(rule, field, f"{found} at line {line}, character {position}")
        return "" if found == "," else found

    try:
        return json.loads(LENIENT.sub(mend, text))
    except json.JSONDecodeError as error:
        findings.add("document-not-json", field, f"{error.msg} at line {error.lineno}, column {error.colno}")
    except (ValueError, RecursionError) as error:  # an integer without end, brackets without end
        findings.add("document-not-json", field, " ".join(str(error).split()))
    return None
