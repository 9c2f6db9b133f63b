"""The doctor names every fault of groups A to F, with its place, and never falls ill itself."""

import gzip
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coco_documents import SQUARE, annotation, runs, sound_document, write_document, write_photographs
from groundup.data.coco import open_index
from groundup.data.doctor import Examination, examine
from groundup.data.images import ImagePolicy
from groundup.data.rules import RULES
from groundup.errors import DataError


def examined(folder: Path, document: Any, **options: Any) -> Examination:
    home = write_photographs(folder, sound_document())
    return examine(write_document(folder, document), home, **options)


def first(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    document["annotations"][0].update(changes)
    return document


def image(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    document["images"][0].update(changes)
    return document


def without(document: dict[str, Any], part: str, place: int, name: str) -> dict[str, Any]:
    del document[part][place][name]
    return document


def with_annotations(document: dict[str, Any], *records: dict[str, Any]) -> dict[str, Any]:
    document["annotations"] += records
    return document


def twice(document: dict[str, Any], part: str, **changes: Any) -> dict[str, Any]:
    document[part].append({**document[part][0], **changes})
    return document


NAN = float("nan")

FAULTS: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    # D: boxes
    ("box-no-area", lambda d: first(d, bbox=[1, 1, 0, 5])),
    ("box-no-area", lambda d: first(d, bbox=[1, 1, 5, -5])),
    ("box-not-finite", lambda d: first(d, bbox=[NAN, 1, 5, 5])),
    ("box-not-finite", lambda d: first(d, bbox=[1, 1, float("inf"), 5])),
    ("box-beyond-image", lambda d: first(d, bbox=[-20, -20, 45, 45])),
    ("box-outside", lambda d: first(d, bbox=[70, 10, 5, 5])),
    ("box-beyond-image", lambda d: first(d, bbox=[0, 0, 600, 400])),
    ("box-duplicate", lambda d: twice(d, "annotations", id=99)),
    ("box-type", lambda d: first(d, bbox="1 2 3 4")),
    ("box-type", lambda d: without(d, "annotations", 0, "bbox")),
    # E: masks and keypoints
    ("polygon-too-few-points", lambda d: first(d, segmentation=[[1, 1, 2, 2]])),
    ("polygon-odd-coordinates", lambda d: first(d, segmentation=[[1, 1, 2, 2, 3, 3, 4]])),
    ("mask-missing", lambda d: first(d, segmentation=[])),
    ("mask-empty", lambda d: first(d, segmentation={"size": [40, 60], "counts": [2400]})),
    ("polygon-self-intersects", lambda d: first(d, segmentation=[[10, 10, 30, 30, 30, 10, 10, 30]])),
    ("polygon-no-area", lambda d: first(d, segmentation=[[10, 10, 20, 20, 30, 30]])),
    ("polygon-not-finite", lambda d: first(d, segmentation=[[10, 10, NAN, 20, 30, 30]])),
    ("rle-size", lambda d: first(d, segmentation={"size": [10, 10], "counts": [100]})),
    ("rle-counts", lambda d: first(d, segmentation={"size": [40, 60], "counts": [0, 1 << 40]})),
    ("rle-counts", lambda d: first(d, segmentation={"size": [40, 60], "counts": "~~~"})),
    ("rle-counts", lambda d: first(d, segmentation={"size": [40, 60], "counts": "oooooooooooooo"})),
    ("mask-outside-box", lambda d: first(d, bbox=[10, 10, 5, 5])),
    ("mask-type", lambda d: first(d, segmentation=[1, 2, 3, 4, 5, 6])),
    ("keypoints-count", lambda d: first(d, keypoints=[1, 2, 2])),
    ("keypoint-visibility", lambda d: first(d, keypoints=[1, 2, 3, 0, 0, 0, 0, 0, 0])),
    ("keypoints-not-finite", lambda d: first(d, keypoints=[NAN, 2, 2, 0, 0, 0, 0, 0, 0])),
    ("keypoints-missing", lambda d: first(d, keypoints=[])),
    ("keypoints-num", lambda d: first(d, num_keypoints=17)),
    # F: ids and structure
    ("annotation-id-zero", lambda d: first(d, id=0)),
    ("annotation-id-duplicate", lambda d: first(d, id=12)),
    ("image-id-duplicate", lambda d: twice(d, "images", file_name="other.png")),
    ("category-id-duplicate", lambda d: twice(d, "categories")),
    ("category-name-twice", lambda d: twice(d, "categories", id=91)),
    ("file-twice", lambda d: twice(d, "images", id=8)),
    ("file-twice", lambda d: twice(d, "images", id=8, file_name="./a.png")),
    ("image-unknown", lambda d: first(d, image_id=4)),
    ("category-unknown", lambda d: first(d, category_id=1)),
    ("category-ids-with-holes", lambda d: d),
    ("id-is-text", lambda d: first(d, id="11")),
    ("id-type", lambda d: first(d, id="eleven")),
    ("id-type", lambda d: first(d, id=True)),
    ("id-type", lambda d: without(d, "annotations", 0, "id")),
    ("area-missing", lambda d: without(d, "annotations", 0, "area")),
    ("area-invalid", lambda d: first(d, area=-1)),
    ("crowd-missing", lambda d: without(d, "annotations", 0, "iscrowd")),
    ("crowd-invalid", lambda d: first(d, iscrowd="yes")),
    ("image-crowd-only", lambda d: {**d, "annotations": d["annotations"][3:4]}),
    ("image-without-instances", lambda d: d),
    ("no-images", lambda d: {**d, "images": [], "annotations": []}),
    ("no-annotations", lambda d: {**d, "annotations": []}),
    ("no-categories", lambda d: {**d, "categories": []}),
    ("category-empty", lambda d: twice(d, "categories", id=91, name="bat")),
    ("category-name", lambda d: without(d, "categories", 0, "name")),
    ("category-keypoints", lambda d: twice(d, "categories", id=91, name="bat", keypoints=3)),
    ("category-skeleton", lambda d: twice(d, "categories", id=91, name="bat", skeleton=[[0, 1]])),
    ("keypoints-unnamed", lambda d: with_annotations(d, annotation(40, 900, 90, keypoints=[1, 1, 2]))),
    ("record-type", lambda d: {**d, "annotations": [*d["annotations"], 17]}),
    ("record-type", lambda d: {**d, "images": [*d["images"], None]}),
    ("document-section", lambda d: {**d, "annotations": {}}),
    ("document-section", lambda d: {"images": [], "annotations": []}),
    ("document-top-level", lambda d: [d]),
    ("document-top-level", lambda d: "3"),
    ("document-trailing-comma", lambda d: json.dumps(d).replace("}]", "},]")),
    ("document-nan-literal", lambda d: json.dumps(d).replace("20.5", "NaN")),
    ("document-not-json", lambda d: json.dumps(d)[:-40]),
    ("document-not-json", lambda d: "[" * 100_000),
    ("document-not-json", lambda d: ""),
    ("document-not-json", lambda d: "version https://git-lfs.github.com/spec/v1"),
    ("image-size", lambda d: image(d, height=0)),
    ("image-size", lambda d: image(d, width="60")),
    ("file-name", lambda d: image(d, file_name="a\0.png")),
    ("file-name", lambda d: without(d, "images", 0, "file_name")),
    ("file-escapes", lambda d: image(d, file_name="../a.png")),
    ("file-escapes", lambda d: image(d, file_name="/a.png")),
    ("image-missing", lambda d: image(d, file_name="none.png")),
    ("image-size-differs", lambda d: image(d, height=60, width=40)),
]


@pytest.mark.parametrize(("rule", "fault"), FAULTS, ids=[f"{i}-{rule}" for i, (rule, _) in enumerate(FAULTS)])
def test_every_fault_is_found_by_its_rule(tmp_path, rule, fault):
    examination = examined(tmp_path, fault(sound_document()))
    assert examination.counts.get(rule, 0) >= 1
    problem = next(problem for problem in examination.problems if problem.rule == rule)
    assert problem.severity == RULES[rule].severity
    assert problem.advice
    assert "\n" not in problem.line()
    json.dumps(examination.to_json(), allow_nan=False)
    assert all(line.isprintable() for line in examination.lines())
    if RULES[rule].severity == "error":
        assert examination.exit_code == 3


def test_a_sound_data_set_has_no_errors_and_exits_with_0(tmp_path):
    examination = examined(tmp_path, sound_document())
    assert (examination.exit_code, examination.errors) == (0, ())
    assert examination.lines()[-1].startswith("3 images, 5 annotations (0 dropped), 2 categories: 0 errors")


def test_every_fault_is_listed_not_only_the_first(tmp_path):
    document = sound_document()
    for record in document["annotations"]:
        record["bbox"] = [1, 2, 3]
    document["annotations"][0]["image_id"] = 77
    examination = examined(tmp_path, document)
    found = [(p.rule, p.id, p.field) for p in examination.errors]
    assert ("image-unknown", 11, "annotations[0].image_id") in found
    assert [place for place in found if place[0] == "box-type"] == [
        ("box-type", 11 + i, f"annotations[{i}].bbox") for i in range(5)
    ]


def test_a_damaged_syntax_does_not_hide_what_else_is_wrong(tmp_path):
    text = json.dumps(first(sound_document(), image_id=77)).replace("20.5", "Infinity").replace("}]", "}, ]")
    counts = examined(tmp_path, text).counts
    assert counts["document-trailing-comma"] == 3
    assert (counts["document-nan-literal"], counts["box-not-finite"], counts["image-unknown"]) == (1, 1, 1)


def test_literals_inside_text_are_left_alone(tmp_path):
    document = image(sound_document(), file_name='NaN,] \\".png')
    assert "document-nan-literal" not in examined(tmp_path, document).counts
    text = json.dumps(document).replace("}]", "},]")
    assert "document-nan-literal" not in examined(tmp_path, text).counts


def test_text_that_is_not_utf8_is_reported_with_its_place(tmp_path):
    home = write_photographs(tmp_path, sound_document())
    path = tmp_path / "annotations.json"
    path.write_bytes(json.dumps(sound_document()).encode().replace(b"person", b"p\xe9rson"))
    assert examine(path, home).counts["document-not-utf8"] == 1
    path.write_text(json.dumps(sound_document()), encoding="utf-16")
    assert examine(path, home).exit_code == 3
    path.write_text(json.dumps(sound_document()), encoding="utf-8-sig")
    assert examine(path, home).exit_code == 0


def test_packed_and_huge_documents_are_refused_unread(tmp_path):
    packed = tmp_path / "bomb.json"
    packed.write_bytes(gzip.compress(b"[" * 10_000_000))
    assert "document-compressed" in examine(packed, tmp_path).counts
    with zipfile.ZipFile(tmp_path / "zip.json", "w") as archive:
        archive.writestr("a.json", "{}")
    assert "document-compressed" in examine(tmp_path / "zip.json", tmp_path).counts
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(2 << 30)  # a hole: takes no room
    assert "document-not-json" in examine(large, tmp_path).counts
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate(5 << 30)
    assert "document-too-large" in examine(huge, tmp_path).counts
    assert "document-missing" in examine(tmp_path / "none.json", tmp_path).counts


def test_boxes_that_look_like_corners_are_noticed_as_a_whole(tmp_path):
    document = sound_document()
    document["annotations"] = [
        annotation(i + 1, 7, 5, bbox=[i, 10, i + 20, 35], segmentation=None) for i in range(30)
    ]
    assert examined(tmp_path, document).counts["box-reads-as-corners"] == 1


def test_five_thousand_boxes_in_an_image_are_noticed(tmp_path):
    document = sound_document()
    document["annotations"] = [
        annotation(i + 1, 7, 5, bbox=[i % 50, i % 30, 5, 5 + i / 1000], segmentation=None)
        for i in range(5000)
    ]
    examination = examined(tmp_path, document)
    problem = next(p for p in examination.problems if p.rule == "boxes-many")
    assert (problem.id, problem.found) == (7, "5000 annotations")
    assert examination.exit_code == 0


def jpeg(path: Path) -> bytes:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(path, "JPEG")
    return path.read_bytes()


def damage(path: Path, kind: str) -> None:
    sound = path.read_bytes()
    path.unlink()
    if kind == "truncated JPEG":
        content = jpeg(path)
        path.write_bytes(content[: len(content) // 2])
    elif kind == "truncated PNG":
        path.write_bytes(sound[: len(sound) // 2])
    elif kind == "bit flips":
        content = bytearray(sound)
        for place in range(60, len(content), 50):
            content[place] ^= 0xFF
        path.write_bytes(content)
    elif kind == "0 byte":
        path.write_bytes(b"")
    elif kind == "HTML":
        path.write_text("<html>404</html>")
    elif kind == "directory":
        path.mkdir()
    elif kind == "wrong extension":
        jpeg(path)
    elif kind == "symlink loop":
        path.symlink_to(path)
    elif kind == "link out":
        (path.parent.parent / "out.png").write_bytes(sound)
        path.symlink_to(path.parent.parent / "out.png")
    elif kind == "animated":
        frames = [Image.new("RGB", (60, 40), (90 * i, 0, 0)) for i in range(3)]
        frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "16 bit":
        Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60)).save(path)
    elif kind == "bomb":
        Image.new("1", (9000, 9000)).save(path)


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("truncated JPEG", "image-bytes"),
        ("truncated PNG", "image-bytes"),
        ("bit flips", "image-bytes"),
        ("0 byte", "image-empty"),
        ("HTML", "image-header"),
        ("missing", "image-missing"),
        ("directory", "image-not-a-file"),
        ("wrong extension", "image-extension"),
        ("symlink loop", "image-unreadable"),
        ("link out", "file-escapes"),
        ("animated", "image-bytes"),
        ("pipe", "image-not-a-file"),
        ("16 bit", "image-bytes"),
        ("bomb", "image-bytes"),
    ],
)
def test_every_fault_of_a_photograph_is_found_by_its_rule(tmp_path, kind, rule):
    home = write_photographs(tmp_path, sound_document())
    damage(home / "b.png", kind)
    examination = examine(write_document(tmp_path, sound_document()), home)
    problem = next(problem for problem in examination.problems if problem.rule == rule)
    assert problem.file == str(home / "b.png")
    assert problem.id == 3
    assert examination.exit_code == (0 if RULES[rule].severity == "warning" else 3)


def test_all_bad_photographs_are_listed_in_one_pass(tmp_path):
    home = write_photographs(tmp_path, sound_document())
    for name, kind in (("a.png", "0 byte"), ("b.png", "HTML"), ("sub/c.png", "directory")):
        damage(home / name, kind)
    examination = examine(write_document(tmp_path, sound_document()), home)
    assert [p.rule for p in examination.errors] == ["image-empty", "image-header", "image-not-a-file"]


def test_headers_alone_miss_damage_further_in(tmp_path):
    home = write_photographs(tmp_path, sound_document())
    damage(home / "b.png", "truncated PNG")
    assert examine(write_document(tmp_path, sound_document()), home, decode=False).exit_code == 0


def test_the_policy_decides_what_photographs_are_let_in(tmp_path):
    home = write_photographs(tmp_path, sound_document())
    damage(home / "b.png", "animated")
    path = write_document(tmp_path, sound_document())
    counts = examine(path, home, policy=ImagePolicy(animated="first")).counts
    assert "image-bytes" not in counts


def test_a_turned_photograph_fits_either_way(tmp_path):
    home = write_photographs(tmp_path, sound_document())
    picture = Image.open(home / "a.png")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(home / "a.png", exif=exif)
    for size in ((40, 60), (60, 40)):
        document = image(sound_document(), height=size[0], width=size[1])
        document["annotations"] = []
        counts = examine(write_document(tmp_path, document), home).counts
        assert "image-size-differs" not in counts


def test_the_same_photograph_twice_is_noticed(tmp_path):
    home = write_photographs(tmp_path, sound_document())
    (home / "b.png").write_bytes((home / "a.png").read_bytes())
    examination = examine(write_document(tmp_path, sound_document()), home)
    assert [(p.id, p.found) for p in examination.problems if p.rule == "image-copies"] == [
        (3, "the bytes of a.png")
    ]


def test_photographs_and_classes_are_compared_with_the_training_set(tmp_path):
    (tmp_path / "train").mkdir()
    home = write_photographs(tmp_path, sound_document())
    train_home = write_photographs(tmp_path / "train", sound_document())
    (train_home / "b.png").write_bytes(b"another")
    train = sound_document()
    train["categories"][0]["name"] = "bat"
    examination = examine(
        write_document(tmp_path, sound_document()),
        home,
        other=write_document(tmp_path / "train", train),
        other_images=train_home,
    )
    assert [p.id for p in examination.problems if p.rule == "split-overlap"] == [7, 900]
    assert [p.id for p in examination.problems if p.rule == "class-not-in-train"] == [90]
    assert examination.exit_code == 3


def test_too_much_dropped_is_an_error_unless_allowed(tmp_path):
    document = first(sound_document(), bbox=[1, 1, 0, 0])
    assert examined(tmp_path, document).counts["dropped-too-many"] == 1
    allowed = examined(tmp_path, document, max_dropped_ratio=0.5)
    assert (allowed.exit_code, allowed.num_dropped) == (0, 1)


def test_hostile_names_reach_the_terminal_escaped(tmp_path):
    document = image(sound_document(), file_name="\x1b[31mred\n<script>.png")
    document["categories"][0]["name"] = "\x1b]0;title\x07"
    document["annotations"] = []
    lines = examined(tmp_path, document).lines()
    assert any("script" in line for line in lines)
    assert all(line.isprintable() for line in lines)


def test_listing_is_bounded_and_counting_is_not(tmp_path):
    document = sound_document()
    document["annotations"] = [annotation(i, 7, 1) for i in range(1, 200)]
    examination = examined(tmp_path, document, max_listed=5)
    assert examination.counts["category-unknown"] == 199
    assert len([p for p in examination.problems if p.rule == "category-unknown"]) == 5
    assert any("194 more" in line for line in examination.lines(max_shown=5))


def test_what_the_doctor_calls_dropped_is_what_the_index_drops(tmp_path):
    document = with_annotations(
        sound_document(),
        annotation(31, 900, 5, bbox=[0, 0, 0, 1]),
        annotation(32, 900, 5, segmentation=[[1, 2, 3, 4], *SQUARE]),
        annotation(33, 900, 5, segmentation=[[1, 2, 3, 4]]),
        annotation(34, 900, 90, segmentation=runs(0, 1, 1), bbox=[500, 0, 1, 1]),
    )
    examination = examined(tmp_path, document, max_dropped_ratio=1.0)
    index = open_index(examination.annotations, examination.images, max_dropped_ratio=1.0)
    assert sum(len(ids) for ids in index.dropped.values()) == examination.num_dropped == 3
    assert index.counts == {rule: n for rule, n in examination.counts.items() if rule in index.counts}
    with pytest.raises(DataError):
        open_index(examination.annotations, examination.images)


def test_progress_is_told_photograph_by_photograph(tmp_path):
    seen: list[tuple[int, int]] = []
    examined(tmp_path, sound_document(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
