"""Class folders: `root/class/photograph.jpg`, for classification.

Classes and photographs come in the order of their names, whatever the file system says, so that a label
means the same everywhere. `ClassIndex` is what the loader reads: a photograph holds one instance, the
whole of it. No torch here.

Legend:
    N  photographs
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from groundup.data.coco import locate
from groundup.data.document import find_document
from groundup.data.entries import Category
from groundup.data.formats import pictures_below
from groundup.data.images import SUFFIXES, ImagePolicy, check_header, decode_image, read_header
from groundup.data.order import SUBSET_STREAM, keys_of
from groundup.data.truth import Truth
from groundup.errors import DataError, UsageError

MAX_NAMED = 5
"""Faulty files named in one message; `groundup data check FOLDER` lists all."""
Report = Callable[[int, int], None]
"""Is told how many photographs are examined, and of how many."""


@dataclass(frozen=True, slots=True)
class ClassFolder:
    """Photographs and what each shows."""

    root: Path
    classes: tuple[str, ...]
    """Names of the class folders, sorted."""
    paths: tuple[Path, ...]
    """Photographs, by class and then by name."""
    labels: Int64[np.ndarray, " N"]
    """0 .. K-1: the number of each photograph's class."""
    problems: tuple[str, ...]
    """What lies in the folder and was left out, a line each."""

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self.paths)

    def counts(self) -> dict[str, int]:
        """Photographs of each class."""
        found = Counter(self.labels.tolist())
        return {name: found[number] for number, name in enumerate(self.classes)}


def open_class_folder(root: Path) -> ClassFolder:
    """The photographs of a folder of class folders; subfolders of a class belong to it.

    No file is opened. Names that begin with a dot are the system's and are passed over.

    Raises:
        DataError: no such folder, no class folders, or a class without photographs (its label would exist
            and never be seen).
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; class folders are root/class/photograph.jpg")
    entries = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    folders = [path for path in entries if path.is_dir()]
    if not folders:
        raise DataError(
            f"{root}: holds no class folders; put each class's photographs into a folder of its own"
        )
    problems = [
        f"{path}: left out, since it lies in no class folder" for path in entries if not path.is_dir()
    ]
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        pictures = pictures_below(folder)
        if not pictures:
            endings = " ".join(sorted(SUFFIXES))
            raise DataError(f"{folder}: holds no photographs ({endings}); fill or remove the class")
        problems += [f"{path}: left out, since its ending is no picture's" for path in others_below(folder)]
        paths += pictures
        labels += [label] * len(pictures)
    return ClassFolder(
        root, tuple(path.name for path in folders), tuple(paths), np.array(labels, np.int64), tuple(problems)
    )


def others_below(folder: Path) -> list[Path]:
    """Files of the folder that are no pictures, by name."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix.lower() not in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassIndex:
    """Photographs of class folders by row, as the loader reads them. Row by class and then by name."""

    root: Path
    """The folder of class folders."""
    categories: tuple[Category, ...]
    """By label; ids count from 1."""
    names: tuple[str, ...]
    """Files relative to the root, with slashes."""
    labels: Int64[np.ndarray, " N"]
    sizes: Int32[np.ndarray, "N 2"]
    """(height, width), upright."""
    image_ids: Int64[np.ndarray, " N"]
    """Rows of the whole folder, counted from 1."""
    digest: str
    """SHA-256 of every photograph's class, file name, bytes (their number) and size in pixels; of a
    subset, of the whole folder's digest and the ids chosen. The content itself is not read."""
    problems: tuple[str, ...]
    """What lies in the folder and was left out, a line each."""

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.names)

    @property
    def num_usable(self) -> Int32[np.ndarray, " N"]:
        """One instance a photograph."""
        return np.ones(self.num_images, np.int32)

    @property
    def num_keypoints(self) -> int:
        """None."""
        return 0

    def counts(self) -> dict[str, int]:
        """Photographs of each class."""
        found = np.bincount(self.labels, minlength=len(self.categories)).tolist()
        return {category.name: count for category, count in zip(self.categories, found, strict=True)}

    def path(self, row: int) -> Path:
        """The photograph's file.

        Raises:
            DataError: a link leads out of the folder.
        """
        return locate(self.root, self.names[row])

    def truth(self, row: int) -> Truth:
        """The one instance: the whole photograph."""
        height, width = self.sizes[row].tolist()
        return Truth(
            boxes=np.array([[0, 0, width, height]], np.float32),
            labels=self.labels[row : row + 1],
            masks=None,
            keypoints=None,
        )

    def subset(self, rows: Int64[np.ndarray, " _"]) -> "ClassIndex":
        """An index of these rows, in this order."""
        ids = self.image_ids[rows]
        return replace(
            self,
            names=tuple(self.names[row] for row in rows.tolist()),
            labels=self.labels[rows],
            sizes=self.sizes[rows],
            image_ids=ids,
            digest=hashlib.sha256(self.digest.encode() + ids.tobytes()).hexdigest(),
        )


def open_class_index(
    root: Path, policy: ImagePolicy | None = None, *, classes: Sequence[str] | None = None
) -> ClassIndex:
    """The photographs of a folder of class folders, every header read.

    Args:
        root: as for `open_class_folder`.
        policy: what may come in; None is the default policy.
        classes: names of the labels, where training has settled them; a folder may lack some. None takes
            the folder's own.

    Raises:
        DataError: as `open_class_folder`; photographs that cannot be used, by name; a class that is not
            among `classes`.
    """
    folder = open_class_folder(root)
    unknown = [name for name in folder.classes if classes is not None and name not in classes]
    if unknown:
        raise DataError(
            f"{root}: classes that training does not know: {', '.join(unknown[:MAX_NAMED])}; "
            "give both folders the same classes"
        )
    place = {name: label for label, name in enumerate(classes or folder.classes)}
    label_of = np.array([place[name] for name in folder.classes], np.int64)
    sizes, faults = read_sizes(folder, policy or ImagePolicy())
    if faults:
        more = f"; and {len(faults) - MAX_NAMED} more" if len(faults) > MAX_NAMED else ""
        raise DataError(
            f"{root}: {len(faults)} of {len(folder)} photographs cannot be used "
            f"(`groundup data check {root}` lists them): {'; '.join(faults[:MAX_NAMED])}{more}"
        )
    names = tuple(path.relative_to(root).as_posix() for path in folder.paths)
    return ClassIndex(
        root=root.absolute(),
        categories=tuple(Category(id=label + 1, name=name) for name, label in place.items()),
        names=names,
        labels=label_of[folder.labels],
        sizes=sizes,
        image_ids=np.arange(1, len(names) + 1, dtype=np.int64),
        digest=digest_of_folder(folder, names, sizes),
        problems=folder.problems,
    )


def read_sizes(folder: ClassFolder, policy: ImagePolicy) -> tuple[Int32[np.ndarray, "N 2"], list[str]]:
    """(height, width) of every photograph, upright, and a line for each that cannot be used."""
    sizes = np.zeros((len(folder), 2), np.int32)
    faults = []
    for row, path in enumerate(folder.paths):
        try:
            locate(folder.root, str(path.relative_to(folder.root)))
            header = read_header(path)
            check_header(path, header, policy)
            sizes[row] = header.upright_size
        except DataError as error:
            faults.append(str(error))
    return sizes, faults


def digest_of_folder(folder: ClassFolder, names: Sequence[str], sizes: Int32[np.ndarray, "N 2"]) -> str:
    """The digest that `ClassIndex.digest` describes."""
    digest = hashlib.sha256()
    for name, path, (height, width) in zip(names, folder.paths, sizes.tolist(), strict=True):
        digest.update(name.encode("utf-8", "surrogateescape"))
        digest.update(f"\0{path.stat().st_size}\0{height}\0{width}\n".encode())
    return digest.hexdigest()


def class_subset_rows(index: ClassIndex, fraction: float, seed: int) -> Int64[np.ndarray, " _"]:
    """Rows of a random part of each class, in order of row; at least one photograph a class.

    Each photograph has a place in one shuffling of its class, given by its id and the seed alone; a part
    is the beginning of it. So a smaller fraction lies inside a larger one, and classes keep their shares.

    Raises:
        UsageError: a fraction outside 0 (excluded) .. 1.
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"a subset is a fraction above 0 and at most 1 of the images, got {fraction}")
    keys = keys_of(index.image_ids, seed, SUBSET_STREAM)
    chosen = []
    for label in range(len(index.categories)):
        rows = np.flatnonzero(index.labels == label)
        shuffled = rows[np.lexsort((index.image_ids[rows], keys[rows]))]
        chosen.append(shuffled[: max(1, round(fraction * len(rows)))])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def is_class_folder(path: Path) -> bool:
    """Whether a folder is one of class folders, rather than one with Roboflow's COCO json."""
    return path.is_dir() and find_document(path) == path


def class_faults(
    folder: ClassFolder, policy: ImagePolicy, *, decode: bool, report: Report | None = None
) -> list[str]:
    """A line for each photograph that cannot be used: by its header or, with `decode`, its pixels."""
    faults = []
    for row, path in enumerate(folder.paths):
        try:
            locate(folder.root, str(path.relative_to(folder.root)))
            if decode:
                decode_image(path, None, policy)
            else:
                check_header(path, read_header(path), policy)
        except DataError as error:
            faults.append(str(error))
        if report is not None:
            report(row + 1, len(folder))
    return faults


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassDescription:
    """A folder of class folders in numbers."""

    counts: dict[str, int]
    """Photographs of each class."""
    smallest: tuple[int, int]
    """Least (height, width) of all, each side by itself."""
    largest: tuple[int, int]
    problems: tuple[str, ...]
    """What lies in the folder and was left out."""

    def to_json(self) -> dict[str, Any]:
        """The description as JSON values."""
        return asdict(self) | {"num_images": sum(self.counts.values())}

    def lines(self) -> Iterator[str]:
        """The description for reading."""
        (low, narrow), (high, wide) = self.smallest, self.largest
        yield f"photographs  {sum(self.counts.values()):,} in {len(self.counts)} classes"
        yield f"sizes        {narrow} to {wide} wide, {low} to {high} high"
        yield from (f"{count:11,}  {name}" for name, count in self.counts.items())
        yield from (f"note: {problem}" for problem in self.problems)


def describe_classes(root: Path, policy: ImagePolicy | None = None) -> ClassDescription:
    """A folder of class folders in numbers.

    Raises:
        DataError: as `open_class_index`.
    """
    index = open_class_index(root, policy)
    low, narrow = index.sizes.min(axis=0).tolist()
    high, wide = index.sizes.max(axis=0).tolist()
    return ClassDescription(
        counts=index.counts(), smallest=(low, narrow), largest=(high, wide), problems=index.problems
    )
