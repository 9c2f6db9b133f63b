"""An existing download of COCO 2017 compared with the official release. Nothing is fetched.

Sources of the numbers: https://cocodataset.org/#download (names of the archives); images of both splits, He
et al. (2019), 3, and Detectron2; annotations, as the json of the release holds them and published read-outs
agree (860,001 and 36,781 instances, 262,465 and 11,004 persons). COCO publishes no digests: those of the
archives are what TensorFlow Datasets (SHA-256) and PaddleDetection (MD5) check downloads against.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from groundup.data.document import read_document
from groundup.data.rules import Findings
from groundup.errors import EXIT_OK, DataError

DOWNLOAD_PAGE = "https://cocodataset.org/#download"
SERVER = "http://images.cocodataset.org"


@dataclass(frozen=True, slots=True)
class Archive:
    """One file of the download page."""

    place: str
    """Below the server."""
    num_bytes: int
    md5: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.place.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Listed:
    """What a json of the release lists."""

    name: str
    """Below `annotations`."""
    split: str
    num_images: int
    num_annotations: int
    num_categories: int


TRAIN, VAL = "train2017", "val2017"
ANNOTATIONS = "annotations"
NUM_IMAGES = {TRAIN: 118_287, VAL: 5_000}
LISTS = (
    Listed("instances_train2017.json", TRAIN, NUM_IMAGES[TRAIN], 860_001, 80),
    Listed("instances_val2017.json", VAL, NUM_IMAGES[VAL], 36_781, 80),
    Listed("person_keypoints_train2017.json", TRAIN, NUM_IMAGES[TRAIN], 262_465, 1),
    Listed("person_keypoints_val2017.json", VAL, NUM_IMAGES[VAL], 11_004, 1),
)
ARCHIVES = {
    TRAIN: Archive(
        "zips/train2017.zip",
        19_336_861_798,
        "cced6f7f71b7629ddf16f17bbcfab6b2",
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
    VAL: Archive(
        "zips/val2017.zip",
        815_585_330,
        "442b8da7639aecaf257c1dceb8ba8c80",
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
    ANNOTATIONS: Archive(
        "annotations/annotations_trainval2017.zip",
        252_907_541,
        "f4bbac642086de4f52a3fdda2de5fa2c",
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ),
}
"""By the folder that each unpacks to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One file or folder of the release as it was found."""

    place: str
    """Below the download's folder."""
    is_whole: bool
    words: str
    """What was found."""
    part: str
    """The folder of the archive that would bring it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A download beside the official release."""

    folder: Path
    findings: tuple[Finding, ...]
    archives: tuple[Finding, ...] = field(default=())
    """Archives that lie there; they are not needed once they are unpacked."""

    @property
    def is_whole(self) -> bool:
        """Whether everything of the release is there."""
        return all(one.is_whole for one in self.findings)

    @property
    def exit_code(self) -> int:
        """Status for the command line: that of a data error where something lacks."""
        return EXIT_OK if self.is_whole else DataError.exit_code

    @property
    def needed(self) -> tuple[Archive, ...]:
        """Archives that would bring what lacks."""
        parts = dict.fromkeys(one.part for one in self.findings if not one.is_whole)
        return tuple(ARCHIVES[part] for part in parts)

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {
            "folder": str(self.folder),
            "is_whole": self.is_whole,
            "findings": [asdict(one) for one in self.findings],
            "archives": [asdict(one) for one in self.archives],
            "to_fetch": [
                {"url": f"{SERVER}/{one.place}", "bytes": one.num_bytes, "md5": one.md5, "sha256": one.sha256}
                for one in self.needed
            ],
            "assignments": coco_assignments(self.folder) if self.is_whole else [],
        }

    def lines(self) -> Iterator[str]:
        """The comparison for reading."""
        for one in (*self.findings, *self.archives):
            yield f"{'whole' if one.is_whole else 'lacks':6} {one.place}: {one.words}"
        if self.is_whole:
            yield f"{self.folder} holds COCO 2017 whole; use it with --coco {self.folder}, or with"
            yield from (f"  {one}" for one in coco_assignments(self.folder))
            return
        yield f"{self.folder} does not hold all of COCO 2017. From {DOWNLOAD_PAGE} take, and unpack there:"
        yield from (f"  {SERVER}/{one.place} ({one.num_bytes:,} bytes, MD5 {one.md5})" for one in self.needed)
        if any(one.place.endswith(".json") and "images" in one.words for one in self.findings):
            yield "A part of COCO that is meant as one serves as any set does: data.train.annotations=..."


def coco_assignments(folder: Path, *, keypoints: bool = False) -> list[str]:
    """What a recipe's data are set to for the download: persons with keypoints, or all instances."""
    kind = "person_keypoints" if keypoints else "instances"
    return [
        f"data.{name}.{key}={value}"
        for name, split in (("train", TRAIN), ("val", VAL))
        for key, value in (
            ("annotations", folder / ANNOTATIONS / f"{kind}_{split}.json"),
            ("images", folder / split),
        )
    ]


def examine_release(folder: Path, *, digests: bool = False) -> Release:
    """Compare the folder with the release: names, counts, ids; with `digests` archives there byte by byte.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; make it, and unpack COCO there (see {DOWNLOAD_PAGE})")
    present = {split: photographs_in(folder / split) for split in NUM_IMAGES}
    findings = [examine_photographs(split, present[split]) for split in NUM_IMAGES]
    findings += [examine_list(folder, listed, present[listed.split]) for listed in LISTS]
    archives = [
        examine_archive(folder / archive.name, archive, part, digests=digests)
        for part, archive in ARCHIVES.items()
        if (folder / archive.name).is_file()
    ]
    return Release(folder=folder, findings=tuple(findings), archives=tuple(archives))


def photographs_in(folder: Path) -> dict[str, int]:
    """Bytes of every photograph in the folder by name; nothing where there is no such folder."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        found = [one for one in entries if one.name.endswith(".jpg") and one.is_file()]
        return {one.name: one.stat().st_size for one in found}


def examine_photographs(split: str, present: dict[str, int]) -> Finding:
    """The folder of a split's photographs."""
    wanted, empty = NUM_IMAGES[split], sum(not size for size in present.values())
    words = f"{len(present):,} of {wanted:,} photographs"
    words += f", {empty:,} of them without a byte" if empty else ""
    return Finding(place=f"{split}/", is_whole=len(present) == wanted and not empty, words=words, part=split)


def examine_list(folder: Path, listed: Listed, present: dict[str, int]) -> Finding:
    """One json: counts of images, annotations and categories, and names that follow from ids."""
    path = folder / ANNOTATIONS / listed.name
    place = f"{ANNOTATIONS}/{listed.name}"
    if not path.is_file():
        return Finding(place=place, is_whole=False, words="is not there", part=ANNOTATIONS)
    faults = Findings(str(path), max_listed=1)
    document = read_document(path, faults)
    counts = (
        (len(document.images), listed.num_images, "images"),
        (len(document.annotations), listed.num_annotations, "annotations"),
        (len(document.categories), listed.num_categories, "categories"),
    )
    words = [f"{found:,} of {wanted:,} {noun}" for found, wanted, noun in counts]
    records = [record for record in document.images if isinstance(record, dict)]
    odd = sum(record.get("file_name") != official_name(record.get("id")) for record in records)
    absent = sum(record.get("file_name") not in present for record in records)
    words += [f"{odd:,} names that do not follow from their ids"] if odd else []
    words += [f"{absent:,} of its photographs not in {listed.split}/"] if absent else []
    words += [f"{faults.num_errors:,} errors (run `groundup data check`)"] if faults.num_errors else []
    whole = all(found == wanted for found, wanted, _ in counts) and not (odd or faults.num_errors)
    part = listed.split if whole else ANNOTATIONS
    return Finding(place=place, is_whole=whole and not absent, words=", ".join(words), part=part)


def official_name(number: object) -> str | None:
    """The file name that COCO gives an image of this id."""
    return f"{number:012d}.jpg" if isinstance(number, int) else None


def examine_archive(path: Path, archive: Archive, part: str, *, digests: bool) -> Finding:
    """An archive that lies in the folder: its length and, if asked, its SHA-256."""
    num_bytes = path.stat().st_size
    words = f"{num_bytes:,} of {archive.num_bytes:,} bytes"
    whole = num_bytes == archive.num_bytes
    if digests and whole:
        with path.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == archive.sha256
        words += ", SHA-256 as it should be" if whole else ", another SHA-256: fetch it again"
    return Finding(place=archive.name, is_whole=whole, words=words, part=part)
