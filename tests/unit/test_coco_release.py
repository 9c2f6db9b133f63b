"""A download of COCO compared with the release, on drawn layouts and the small part at hand."""

import json

import pytest
from typer.testing import CliRunner

from groundup.cli.data_commands import app
from groundup.config import override
from groundup.data import coco_release
from groundup.data.coco_release import ARCHIVES, LISTS, NUM_IMAGES, coco_assignments, examine_release
from groundup.errors import DataError
from groundup.paper_recipes import mask_rcnn_r50_fpn_gn


@pytest.fixture
def small_release(tmp_path, monkeypatch):
    """A whole layout of a release with few images, and the numbers that go with it."""
    counts = {"train2017": 5, "val2017": 2}
    lists = tuple(
        coco_release.Listed(one.name, one.split, counts[one.split], 3, one.num_categories) for one in LISTS
    )
    monkeypatch.setattr(coco_release, "NUM_IMAGES", counts)
    monkeypatch.setattr(coco_release, "LISTS", lists)
    (tmp_path / "annotations").mkdir()
    for listed in lists:
        ids = range(7, 7 + counts[listed.split])
        document = {
            "images": [{"id": i, "file_name": f"{i:012d}.jpg", "height": 4, "width": 4} for i in ids],
            "annotations": [{"id": i} for i in range(3)],
            "categories": [{"id": i, "name": str(i)} for i in range(listed.num_categories)],
        }
        (tmp_path / "annotations" / listed.name).write_text(json.dumps(document))
    for split, count in counts.items():
        (tmp_path / split).mkdir()
        for i in range(7, 7 + count):
            (tmp_path / split / f"{i:012d}.jpg").write_bytes(b"x")
    return tmp_path


def test_the_numbers_are_those_of_the_release():
    assert NUM_IMAGES == {"train2017": 118_287, "val2017": 5_000}
    assert {one.name: (one.num_annotations, one.num_categories) for one in LISTS} == {
        "instances_train2017.json": (860_001, 80),
        "instances_val2017.json": (36_781, 80),
        "person_keypoints_train2017.json": (262_465, 1),
        "person_keypoints_val2017.json": (11_004, 1),
    }
    assert {(len(one.md5), len(one.sha256)) for one in ARCHIVES.values()} == {(32, 64)}


def test_a_whole_release_gives_assignments_that_a_recipe_takes(small_release):
    release = examine_release(small_release)
    assert release.is_whole
    assert release.exit_code == 0
    assert not release.needed
    text = "\n".join(release.lines())
    assert "holds COCO 2017 whole" in text
    recipe = override(mask_rcnn_r50_fpn_gn(), coco_assignments(small_release))
    assert recipe.data.train.images == small_release / "train2017"
    people = override(mask_rcnn_r50_fpn_gn(), coco_assignments(small_release, keypoints=True))
    assert people.data.val.annotations == small_release / "annotations" / "person_keypoints_val2017.json"


@pytest.mark.parametrize(
    ("damage", "found", "archive"),
    [
        (lambda root: (root / "train2017" / f"{7:012d}.jpg").unlink(), "4 of 5 photographs", "train2017.zip"),
        (lambda root: (root / "val2017" / f"{7:012d}.jpg").write_bytes(b""), "without a byte", "val2017.zip"),
        (
            lambda root: (root / "annotations" / "instances_val2017.json").unlink(),
            "is not there",
            "annotations_trainval2017.zip",
        ),
        (
            lambda root: (root / "val2017" / f"{7:012d}.jpg").rename(root / "val2017" / "other.jpg"),
            "1 of its photographs not in val2017/",
            "val2017.zip",
        ),
        (
            lambda root: (root / "annotations" / "instances_val2017.json").write_text("{"),
            "0 of 2 images",
            "annotations_trainval2017.zip",
        ),
    ],
)
def test_what_lacks_is_named_with_the_archive_that_brings_it(small_release, damage, found, archive):
    damage(small_release)
    release = examine_release(small_release)
    assert release.exit_code == DataError.exit_code
    assert found in "\n".join(release.lines())
    assert [one.name for one in release.needed] == [archive]


def test_an_archive_that_lies_there_is_compared_by_length_and_by_digest(small_release, monkeypatch):
    path = small_release / "val2017.zip"
    path.write_bytes(b"short")
    (found,) = examine_release(small_release).archives
    assert (found.is_whole, found.words) == (False, "5 of 815,585,330 bytes")
    small = coco_release.Archive("zips/val2017.zip", 5, "", "0" * 64)
    monkeypatch.setitem(coco_release.ARCHIVES, "val2017", small)
    assert examine_release(small_release).archives[0].is_whole
    (wrong,) = examine_release(small_release, digests=True).archives
    assert "another SHA-256" in wrong.words


def test_no_folder_is_one_line():
    with pytest.raises(DataError, match=r"no such folder.*cocodataset.org/#download"):
        examine_release(coco_release.Path("nowhere"))


@pytest.mark.shared
def test_a_small_part_of_coco_is_told_apart_from_all_of_it_politely(shared_data):
    found = CliRunner().invoke(app, ["coco", str(shared_data / "coco_mini")])
    assert found.exit_code == DataError.exit_code
    assert "130 of 118,287 photographs" in found.stdout
    assert "1,209 of 860,001 annotations" in found.stdout
    assert "http://images.cocodataset.org/zips/train2017.zip" in found.stdout
    assert "serves as any set does" in found.stdout
