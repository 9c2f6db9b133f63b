from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from groundup.config import plain
from groundup.data.folder import class_subset_rows, open_class_folder, open_class_index
from groundup.data.images import ImagePolicy
from groundup.data.loader import Annotated, LoaderOptions, evaluation_batches, train_batches
from groundup.data.transforms import TransformOptions
from groundup.errors import DataError, UsageError
from groundup.pictures import write_picture

SQUARE = TransformOptions(short_side=(32,), max_side=32, test_short_side=32, test_max_side=32)


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


def draw(root: Path, **classes: tuple[int, int]) -> Path:
    """Three pictures a class, each of one grey and (height, width)."""
    for number, (name, size) in enumerate(classes.items()):
        for picture in range(3):
            image = np.full((*size, 3), 40 * number + picture, np.uint8)
            write_picture(root / name / f"{picture}.png", image)
    return root


def test_the_loader_reads_class_folders_as_whole_images_of_one_class(tmp_path):
    index = open_class_index(draw(tmp_path, cat=(20, 40), dog=(40, 30)))
    assert isinstance(index, Annotated)
    assert index.sizes.tolist() == [[20, 40]] * 3 + [[40, 30]] * 3
    (batch,) = evaluation_batches(index, SQUARE, LoaderOptions(num_workers=0), batch_size=6)
    assert batch.labels.tolist() == [[0]] * 3 + [[1]] * 3
    assert batch.boxes[:, 0].tolist() == [[0, 0, 32, 16]] * 3 + [[0, 0, 24, 32]] * 3
    assert batch.image_ids.tolist() == [1, 2, 3, 4, 5, 6]
    stream = train_batches(index, SQUARE, LoaderOptions(num_workers=0), batch_size=4, seed=0, group_size=1)
    seen = [image_id for _ in range(3) for image_id in next(stream).image_ids.tolist()]
    assert sorted(seen[:6]) == sorted(seen[6:]) == [1, 2, 3, 4, 5, 6]


def test_validation_takes_the_labels_of_training(tmp_path):
    index = open_class_index(draw(tmp_path, dog=(8, 8)), classes=["ant", "cat", "dog"])
    assert index.labels.tolist() == [2, 2, 2]
    assert index.counts() == {"ant": 0, "cat": 0, "dog": 3}
    with pytest.raises(DataError, match="classes that training does not know: dog"):
        open_class_index(tmp_path, classes=["ant", "cat"])


def test_photographs_that_cannot_be_used_are_named_and_none_is_dropped(tmp_path):
    draw(tmp_path, cat=(8, 8), dog=(9, 9))
    (tmp_path / "cat" / "1.png").write_bytes(b"nothing like a picture")
    (tmp_path / "dog" / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 6 photographs.*cat/1\.png.*dog/2\.png"):
        open_class_index(tmp_path)
    with pytest.raises(DataError, match="6 of 6"):
        open_class_index(tmp_path, ImagePolicy(**plain(ImagePolicy()) | {"max_pixels": 10}))


def test_the_digest_names_files_their_lengths_and_sizes(tmp_path):
    digest = open_class_index(draw(tmp_path, cat=(8, 8), dog=(9, 9))).digest
    assert open_class_index(tmp_path).digest == digest
    write_picture(tmp_path / "cat" / "1.png", np.zeros((8, 9, 3), np.uint8))
    changed = open_class_index(tmp_path).digest
    (tmp_path / "dog" / "1.png").rename(tmp_path / "dog" / "5.png")
    assert len({digest, changed, open_class_index(tmp_path).digest}) == 3


def test_smaller_shares_lie_in_larger_ones_and_keep_every_class(tmp_path):
    for number in range(20):
        for name in ("cat", "dog"):
            write_picture(tmp_path / name / f"{number}.png", np.zeros((4, 4, 3), np.uint8))
    index = open_class_index(tmp_path)
    shares = [set(class_subset_rows(index, fraction, 0).tolist()) for fraction in (0.01, 0.2, 0.5, 1.0)]
    assert [len(share) for share in shares] == [2, 8, 20, 40]
    assert all(small <= large for small, large in pairwise(shares))
    part = index.subset(class_subset_rows(index, 0.2, 0))
    assert part.counts() == {"cat": 4, "dog": 4}
    assert part.digest != index.digest
    assert part.path(0).name == Path(part.names[0]).name
    with pytest.raises(UsageError, match="fraction"):
        class_subset_rows(index, 0.0, 0)


@pytest.mark.shared
def test_the_real_class_folders_have_the_published_counts(shared_data):
    assert open_class_folder(shared_data / "dogs_cats" / "train").counts() == {"cat": 1000, "dog": 1000}
    tiny = open_class_folder(shared_data / "tiny_imagenet100" / "val")
    assert set(tiny.counts().values()) == {20}
    assert len(tiny.classes) == 100
