from pathlib import Path

import numpy as np
import pytest

from groundup.data.folder import open_class_folder
from groundup.errors import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_classes_and_photographs_come_by_name(tmp_path):
    touch(tmp_path, "dog/2.jpg", "dog/10.JPEG", "cat/b.png", "cat/a.webp", "Ant/z.jpg")
    found = open_class_folder(tmp_path)
    assert found.classes == ("Ant", "cat", "dog")
    assert [str(path.relative_to(tmp_path)) for path in found.paths] == [
        "Ant/z.jpg",
        "cat/a.webp",
        "cat/b.png",
        "dog/10.JPEG",
        "dog/2.jpg",
    ]
    assert found.labels.tolist() == [0, 1, 1, 2, 2]
    assert found.labels.dtype == np.int64
    assert (len(found), found.counts(), found.problems) == (5, {"Ant": 1, "cat": 2, "dog": 2}, ())


def test_subfolders_belong_to_their_class(tmp_path):
    touch(tmp_path, "cat/old/1.jpg", "cat/2.jpg")
    assert open_class_folder(tmp_path).counts() == {"cat": 2}


def test_what_is_left_out_is_listed_and_system_files_are_passed_over(tmp_path):
    touch(tmp_path, "cat/1.jpg", "cat/notes.txt", "cat/._1.jpg", "cat/.DS_Store", "readme.md", ".git/a.jpg")
    found = open_class_folder(tmp_path)
    assert found.counts() == {"cat": 1}
    assert [line.split(": ")[0].split("/")[-1] for line in found.problems] == ["readme.md", "notes.txt"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds no class folders"),
        (("a.jpg",), "holds no class folders"),
        (("cat/1.jpg", "dog/notes.txt"), "dog: holds no photographs"),
    ],
)
def test_a_folder_that_cannot_be_learnt_from_is_an_error(tmp_path, names, message):
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        open_class_folder(tmp_path)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_class_folder(tmp_path / "gone")


@pytest.mark.shared
def test_the_real_class_folders_have_the_published_counts(shared_data):
    assert open_class_folder(shared_data / "dogs_cats" / "train").counts() == {"cat": 1000, "dog": 1000}
    tiny = open_class_folder(shared_data / "tiny_imagenet100" / "val")
    assert set(tiny.counts().values()) == {20}
    assert len(tiny.classes) == 100
