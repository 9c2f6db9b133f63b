"""Class folders: `root/class/photograph.jpg`, for classification.

Classes and photographs come in the order of their names, whatever the file system says, so that a label
means the same everywhere. No torch here.

Legend:
    N  photographs
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from groundup.data.formats import pictures_below
from groundup.data.images import SUFFIXES
from groundup.errors import DataError


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
