import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from groundup.data.formats import CONVERSION_RULES, write_conversion
from groundup.data.rules import RULES
from groundup.data.voc import VocOptions, convert_voc, read_xml
from groundup.data.yolo import YoloOptions, convert_yolo
from groundup.errors import DataError

FROM_ZERO = VocOptions(voc_offset=0)
KEEP = YoloOptions()


# Pascal VOC


def voc_object(name="cat", corners=(10, 20, 30, 50), extra=""):
    places = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{place}>{value}</{place}>" for place, value in places)
    return f"<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>"


def voc_folder(root: Path, annotations: dict[str, str], size=(80, 60), stated=True) -> Path:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    side = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if stated else ""
    for stem, body in annotations.items():
        Image.new("RGB", size).save(root / "JPEGImages" / f"{stem}.jpg")
        text = f"<annotation><filename>{stem}.jpg</filename>{side}{body}</annotation>"
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    (root / "ImageSets/Main/train.txt").write_text("".join(f"{stem}\n" for stem in annotations))
    return root


def only_problem(conversion):
    (problem,) = conversion.problems
    assert "\n" not in problem.line()
    return problem


@pytest.mark.parametrize(("offset", "box"), [(1, [9, 19, 21, 31]), (0, [10, 20, 20, 30])])
def test_the_offset_decides_what_a_corner_is(tmp_path, offset, box):
    root = voc_folder(tmp_path, {"a": voc_object()})
    document = convert_voc(root, "train", VocOptions(voc_offset=offset)).document
    assert document["images"] == [{"id": 1, "file_name": "a.jpg", "width": 80, "height": 60}]
    (annotation,) = document["annotations"]
    assert annotation == {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": 0,
    }


def test_voc_counts_pixels_from_one_so_the_whole_photograph_is_a_box_of_its_size(tmp_path):
    root = voc_folder(tmp_path, {"a": voc_object(corners=(1, 1, 80, 60))})
    assert convert_voc(root, "train", VocOptions()).document["annotations"][0]["bbox"] == [0, 0, 80, 60]


def test_difficult_objects_are_ignored_by_the_evaluation_or_kept(tmp_path):
    extra = "<difficult>1</difficult><truncated>1</truncated><pose>Left</pose>"
    root = voc_folder(tmp_path, {"a": voc_object(extra=extra) + voc_object(extra="<difficult>0</difficult>")})
    first, second = convert_voc(root, "train", FROM_ZERO).document["annotations"]
    assert (first["iscrowd"], first["difficult"], first["truncated"]) == (1, 1, 1)
    assert (second["iscrowd"], second["difficult"]) == (0, 0)
    kept = convert_voc(root, "train", VocOptions(voc_offset=0, difficult="keep")).document["annotations"]
    assert [(a["iscrowd"], a["difficult"]) for a in kept] == [(0, 1), (0, 0)]


def test_a_detection_of_a_difficult_object_is_neither_right_nor_wrong(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    objects = voc_object() + voc_object(corners=(40, 5, 70, 50), extra="<difficult>1</difficult>")
    truth = coco.COCO()
    truth.dataset = convert_voc(voc_folder(tmp_path, {"a": objects}), "train", FROM_ZERO).document
    truth.createIndex()
    boxes = [
        ([40, 5, 30, 45], 0.9),
        ([10, 20, 20, 30], 0.8),
    ]  # the difficult one is found with more certainty
    found = truth.loadRes([{"image_id": 1, "category_id": 1, "bbox": b, "score": s} for b, s in boxes])
    evaluator = evaluation.COCOeval(truth, found, "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    assert evaluator.stats[0] == pytest.approx(1.0)


def test_every_split_has_the_same_category_ids(tmp_path):
    root = voc_folder(tmp_path, {"a": voc_object("dog"), "b": voc_object("cat"), "c": voc_object("ant")})
    (root / "ImageSets/Main/val.txt").write_text("b\n\n")
    train, val = (convert_voc(root, split, FROM_ZERO).document for split in ("train", "val"))
    assert train["categories"] == val["categories"]
    assert [category["name"] for category in val["categories"]] == ["ant", "cat", "dog"]
    assert [image["file_name"] for image in val["images"]] == ["b.jpg"]
    assert val["annotations"][0]["category_id"] == 2


def test_images_keep_the_order_of_the_list_and_all_annotations_come_by_name(tmp_path):
    root = voc_folder(tmp_path, {"b": voc_object(), "a": voc_object()})
    names = [image["file_name"] for image in convert_voc(root, "train", FROM_ZERO).document["images"]]
    assert names == ["b.jpg", "a.jpg"]
    names = [image["file_name"] for image in convert_voc(root, None, FROM_ZERO).document["images"]]
    assert names == ["a.jpg", "b.jpg"]


def test_parts_of_a_person_are_no_objects(tmp_path):
    part = voc_object("head", (1, 1, 5, 5)).replace("object>", "part>")
    root = voc_folder(tmp_path, {"a": voc_object(extra=part)})
    document = convert_voc(root, "train", FROM_ZERO).document
    assert [category["name"] for category in document["categories"]] == ["cat"]
    assert [a["bbox"] for a in document["annotations"]] == [[10, 20, 20, 30]]


@pytest.mark.parametrize(
    ("body", "rule", "found"),
    [
        (voc_object(corners=(10, 20, 10, 50)), "box-no-area", "10 20 10 50"),
        (voc_object(corners=(30, 20, 10, 50)), "box-no-area", "30 20 10 50"),
        (voc_object(corners=(10, 20, "nan", 50)), "box-type", "10 20 nan 50"),
        (voc_object(corners=(10, 20, "", 50)), "box-type", "10 20  50"),
        (voc_object(corners=("1_0", 20, 30, 50)), "box-type", "1_0 20 30 50"),
        ("<object><name>cat</name></object>", "box-missing", ""),
        (voc_object(name=" "), "object-name", ""),
        (voc_object(extra="<difficult>maybe</difficult>"), "flag-invalid", "maybe"),
    ],
)
def test_an_object_that_is_left_out_is_listed_with_its_place(tmp_path, body, rule, found):
    root = voc_folder(tmp_path, {"a": voc_object(), "b": voc_object() + body})
    conversion = convert_voc(root, "train", FROM_ZERO)
    problem = only_problem(conversion)
    assert (problem.rule, problem.found) == (rule, found)
    assert problem.field.startswith("object[1]")
    assert problem.file.endswith("b.xml")
    assert len(conversion.document["annotations"]) == 2
    assert conversion.counts == {rule: 1}


def test_a_corner_at_zero_shows_that_pixels_do_not_count_from_one(tmp_path):
    root = voc_folder(tmp_path, {"a": voc_object(corners=(0, 5, 30, 50))})
    assert only_problem(convert_voc(root, "train", VocOptions())).rule == "box-from-zero"
    assert convert_voc(root, "train", FROM_ZERO).problems == []


def test_a_class_outside_the_given_list_is_an_error(tmp_path):
    root = voc_folder(tmp_path, {"a": voc_object("dog") + voc_object("cow")})
    conversion = convert_voc(root, "train", VocOptions(voc_offset=0, classes=("sheep", "dog")))
    problem = only_problem(conversion)
    assert (problem.rule, problem.severity, problem.found) == ("class-unknown", "error", "cow")
    assert [a["category_id"] for a in conversion.document["annotations"]] == [2]


BOMB = """<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;&lol;">]>
<annotation><filename>&lol2;</filename></annotation>"""
OUTSIDE = """<!DOCTYPE a [<!ENTITY file SYSTEM "file:///etc/passwd">]><annotation>&file;</annotation>"""


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (BOMB.encode(), "document type or entities"),
        (OUTSIDE.encode(), "document type or entities"),
        (BOMB.replace('version="1.0"', 'version="1.0" encoding="utf-16"').encode("utf-16"), "document type"),
        (b"<!DOCTYPE annotation><annotation/>", "document type"),
        (b"<annotation>&unknown;</annotation>", "no xml"),
        (b"<annotation><object></annotation>", "no xml"),
        (b"", "no xml"),
        (b"\xff\xfe\x00garbage", "no xml"),
        (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "no xml"),
        (b"<html></html>", "outermost element is 'html'"),
    ],
)
def test_xml_that_is_damaged_or_declares_anything_is_refused(tmp_path, content, found):
    root = voc_folder(tmp_path, {"a": voc_object(), "b": ""})
    (root / "Annotations/b.xml").write_bytes(content)
    with pytest.raises(DataError, match=found) as caught:
        read_xml(root / "Annotations/b.xml")
    assert "\n" not in str(caught.value)
    problem = only_problem(convert_voc(root, "train", FROM_ZERO))
    assert (problem.rule, problem.severity) == ("xml-damaged", "error")


def test_elements_without_end_do_no_harm(tmp_path):
    root = voc_folder(tmp_path, {"a": voc_object() + "<x>" * 50_000 + "</x>" * 50_000})
    assert len(convert_voc(root, "train", FROM_ZERO).document["annotations"]) == 1


def test_photographs_that_are_missing_damaged_or_of_another_size_are_errors_all_listed(tmp_path):
    root = voc_folder(tmp_path, dict.fromkeys(("gone", "torn", "other", "fine", "twice"), voc_object()))
    (root / "JPEGImages/gone.jpg").unlink()
    (root / "JPEGImages/torn.jpg").write_bytes(b"<html>")
    Image.new("RGB", (81, 60)).save(root / "JPEGImages/other.jpg")
    Image.new("RGB", (80, 60)).save(root / "JPEGImages/twice.png")
    (root / "JPEGImages/twice.jpg").rename(root / "JPEGImages/twice.jpeg")
    conversion = convert_voc(root, "train", FROM_ZERO)
    assert [problem.rule for problem in conversion.problems] == [
        "image-missing",
        "image-damaged",
        "image-size-differs",
        "image-unclear",
    ]
    assert conversion.problems[2].found == "81 x 60, annotated as 80 x 60"
    assert [image["file_name"] for image in conversion.document["images"]] == ["fine.jpg"]
    assert [a["image_id"] for a in conversion.document["annotations"]] == [1]


def test_a_size_that_is_not_stated_is_taken_from_the_photograph_and_noted(tmp_path):
    root = voc_folder(tmp_path, {"a": voc_object()}, stated=False)
    conversion = convert_voc(root, "train", FROM_ZERO)
    assert only_problem(conversion).severity == "note"
    assert (conversion.document["images"][0]["width"], conversion.document["images"][0]["height"]) == (80, 60)


def test_a_turned_photograph_keeps_the_size_that_its_annotation_states(tmp_path):
    root = voc_folder(tmp_path, {"a": voc_object(), "b": voc_object()}, size=(60, 80))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 60)).save(root / "JPEGImages/a.jpg", exif=exif)
    conversion = convert_voc(root, "train", FROM_ZERO)
    assert conversion.problems == []
    assert {(image["width"], image["height"]) for image in conversion.document["images"]} == {(60, 80)}


def test_a_photograph_of_another_ending_or_name_is_found(tmp_path):
    root = voc_folder(tmp_path, {"a": voc_object(), "b": voc_object()})
    (root / "JPEGImages/a.jpg").rename(root / "JPEGImages/a.JPEG")
    (root / "JPEGImages/b.jpg").rename(root / "JPEGImages/IMG_1.jpg")
    path = root / "Annotations/b.xml"
    path.write_text(path.read_text().replace("b.jpg", "IMG_1.jpg"))
    conversion = convert_voc(root, "train", FROM_ZERO)
    assert [image["file_name"] for image in conversion.document["images"]] == ["a.JPEG", "IMG_1.jpg"]
    assert only_problem(conversion).rule == "image-other-name"


def test_a_file_name_never_leaves_the_folder(tmp_path):
    root = voc_folder(tmp_path / "set", {"a": voc_object()})
    (root / "JPEGImages/a.jpg").rename(tmp_path / "secret.jpg")
    path = root / "Annotations/a.xml"
    path.write_text(path.read_text().replace("a.jpg", "../../secret.jpg"))
    assert only_problem(convert_voc(root, "train", FROM_ZERO)).rule == "image-missing"


def test_lines_of_a_list_that_name_nothing_are_listed(tmp_path):
    root = voc_folder(tmp_path, {"a": voc_object(), "photo 1": voc_object()})
    (root / "ImageSets/Main/train.txt").write_text("a\na\nb -1\n../a\ngone\nphoto 1\n")
    conversion = convert_voc(root, "train", FROM_ZERO)
    assert [problem.rule for problem in conversion.problems] == [
        "list-twice",
        "list-line",
        "list-line",
        "xml-missing",
    ]
    assert [image["file_name"] for image in conversion.document["images"]] == ["a.jpg", "photo 1.jpg"]


def test_a_missing_list_names_those_there_are(tmp_path):
    root = voc_folder(tmp_path, {"a": voc_object()})
    with pytest.raises(DataError, match="lists there: train"):
        convert_voc(root, "val", FROM_ZERO)
    with pytest.raises(DataError, match="no such folder; a Pascal VOC data set has"):
        convert_voc(root / "nowhere", "val", FROM_ZERO)
    (root / "ImageSets/Main/empty.txt").write_text("\n")
    with pytest.raises(DataError, match="no annotations in the list empty"):
        convert_voc(root, "empty", FROM_ZERO)


def test_a_conversion_with_errors_is_not_written_and_one_with_warnings_is(tmp_path):
    root = voc_folder(tmp_path, {"a": voc_object(corners=(5, 5, 5, 5)), "b": voc_object()})
    out = tmp_path / "out" / "train.json"
    conversion = convert_voc(root, "train", FROM_ZERO)
    write_conversion(conversion, out)
    assert json.loads(out.read_text()) == conversion.document
    first = out.read_bytes()
    write_conversion(convert_voc(root, "train", FROM_ZERO), out)
    assert out.read_bytes() == first
    (root / "JPEGImages/b.jpg").unlink()
    with pytest.raises(DataError, match=r"nothing converted, 1 error: .*b\.jpg.*image-missing"):
        write_conversion(convert_voc(root, "train", FROM_ZERO), out)
    assert out.read_bytes() == first


def test_an_offset_other_than_zero_or_one_means_nothing():
    with pytest.raises(ValidationError):
        VocOptions(voc_offset=2)


def test_rules_that_share_a_name_with_the_doctors_share_its_group_and_severity():
    for name in CONVERSION_RULES.keys() & RULES.keys():
        assert CONVERSION_RULES[name][:2] == RULES[name][:2], name


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "split", "classes", "num_dropped"),
    [
        ("bccd", "train", ("RBC", "WBC", "Platelets"), None),
        ("bccd", "val", ("RBC", "WBC", "Platelets"), None),
        ("bccd", "test", ("RBC", "WBC", "Platelets"), None),
        ("raccoon", "train", None, 0),
        ("raccoon", "val", None, 0),
    ],
)
def test_real_annotations_convert_to_the_published_json(shared_data, name, split, classes, num_dropped):
    conversion = convert_voc(shared_data / name, split, VocOptions(voc_offset=0, classes=classes))
    published = json.loads((shared_data / name / "annotations" / f"instances_{split}.json").read_text())
    ours = conversion.document
    assert ours["categories"] == published["categories"]
    assert ours["images"] == published["images"]
    assert [{key: a[key] for key in published["annotations"][0]} for a in ours["annotations"]] == published[
        "annotations"
    ]
    assert set(conversion.counts) <= {"box-no-area"}
    if num_dropped is not None:
        assert len(conversion.problems) == num_dropped


@pytest.mark.shared
def test_the_two_degenerate_boxes_of_the_real_set_are_listed(shared_data):
    conversion = convert_voc(shared_data / "bccd", None, FROM_ZERO)
    assert [(Path(p.file).stem, p.found) for p in conversion.problems] == [
        ("BloodImage_00338", "504 337 504 337"),
        ("BloodImage_00343", "181 329 181 329"),
    ]


# YOLO


def yolo_folder(
    root: Path, labels: dict[str, str | None], yaml="names: [cat, dog]\n", size=(200, 100)
) -> Path:
    for folder in ("images/train", "labels/train"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for stem, text in labels.items():
        Image.new("RGB", size).save(root / "images/train" / f"{stem}.jpg")
        if text is not None:
            (root / "labels/train" / f"{stem}.txt").write_text(text)
    (root / "data.yaml").write_text(yaml)
    return root


def test_a_box_line_is_centre_and_size_in_parts(tmp_path):
    root = yolo_folder(tmp_path, {"a": "1 0.5 0.5 0.25 0.5\n\n0 0.1 0.1 0.2 0.2\n"})
    conversion = convert_yolo(root, "train", KEEP)
    assert conversion.problems == []
    assert conversion.images == root / "images/train"
    document = conversion.document
    assert document["images"] == [{"id": 1, "file_name": "a.jpg", "width": 200, "height": 100}]
    assert document["annotations"] == [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 2,
            "bbox": [75.0, 25.0, 50.0, 50.0],
            "area": 2500.0,
            "iscrowd": 0,
        },
        {
            "id": 2,
            "image_id": 1,
            "category_id": 1,
            "bbox": [0.0, 0.0, 40.0, 20.0],
            "area": 800.0,
            "iscrowd": 0,
        },
    ]
    assert [(c["id"], c["name"]) for c in document["categories"]] == [(1, "cat"), (2, "dog")]


def test_a_polygon_line_becomes_a_mask_with_its_own_area_or_a_box(tmp_path):
    root = yolo_folder(tmp_path, {"a": "0 0.1 0.1 0.5 0.1 0.1 0.9\n"})
    (annotation,) = convert_yolo(root, "train", KEEP).document["annotations"]
    assert annotation["segmentation"] == [[20.0, 10.0, 100.0, 10.0, 20.0, 90.0]]
    assert (annotation["bbox"], annotation["area"]) == ([20.0, 10.0, 80.0, 80.0], 3200.0)
    (annotation,) = convert_yolo(root, "train", YoloOptions(polygons="boxes")).document["annotations"]
    assert "segmentation" not in annotation
    assert (annotation["bbox"], annotation["area"]) == ([20.0, 10.0, 80.0, 80.0], 6400.0)


def test_boxes_among_polygons_are_listed(tmp_path):
    root = yolo_folder(tmp_path, {"a": "0 0.1 0.1 0.5 0.1 0.1 0.9\n0 0.5 0.5 0.2 0.2\n"})
    problem = only_problem(convert_yolo(root, "train", KEEP))
    assert (problem.rule, problem.found) == ("mask-missing", "1 lines")
    assert convert_yolo(root, "train", YoloOptions(polygons="boxes")).problems == []


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("0 0.5 0.5 0.2", "line-form"),
        ("0 0.5 0.5 0.2 0.2 0.9", "line-form"),
        ("0 0.5 0.5 0.2 nan", "line-form"),
        ("cat 0.5 0.5 0.2 0.2", "line-form"),
        ("2 0.5 0.5 0.2 0.2", "class-unknown"),
        ("-1 0.5 0.5 0.2 0.2", "class-unknown"),
        ("0.5 0.5 0.5 0.2 0.2", "class-unknown"),
        ("0 100 50 40 40", "line-not-normalised"),
        ("0 0.5 0.5 0.2 -0.2", "line-not-normalised"),
        ("0 0.5 0.5 0.2 0", "box-no-area"),
        ("0 0.5 0.5 0.2 -0.005", "box-no-area"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3", "mask-empty"),
    ],
)
def test_a_line_that_is_left_out_is_listed_with_its_number(tmp_path, line, rule):
    root = yolo_folder(tmp_path, {"a": f"0 0.5 0.5 0.2 0.2\n{line}\n"})
    conversion = convert_yolo(root, "train", KEEP)
    problem = only_problem(conversion)
    assert (problem.rule, problem.field) == (rule, "line 2")
    assert problem.file.endswith("a.txt")
    assert len(conversion.document["annotations"]) == 1


def test_no_label_file_means_no_objects_and_is_noted(tmp_path):
    root = yolo_folder(tmp_path, {"a": None, "b": "", "c": "0 0.5 0.5 1 1"})
    conversion = convert_yolo(root, "train", KEEP)
    assert only_problem(conversion).rule == "label-missing"
    assert len(conversion.document["images"]) == 3
    assert [a["image_id"] for a in conversion.document["annotations"]] == [3]


def test_labels_without_a_photograph_and_damaged_labels_are_listed(tmp_path):
    root = yolo_folder(tmp_path, {"a": "0 0.5 0.5 1 1"})
    (root / "labels/train/a.txt").write_bytes(b"\xff\xfe0")
    (root / "labels/train/old.txt").write_text("0 0.5 0.5 1 1")
    (root / "labels/train/classes.txt").write_text("cat\n")
    (root / "images/train/torn.jpg").write_bytes(b"")
    rules = [problem.rule for problem in convert_yolo(root, "train", KEEP).problems]
    assert rules == [
        "label-damaged",
        "image-damaged",
        "label-orphan",
    ]


@pytest.mark.parametrize(
    "layout",
    [
        ("images/train", "labels/train", "names: {0: cat, 1: dog}\ntrain: images/train\n"),
        ("train/images", "train/labels", "names: [cat, dog]\nnc: 2\ntrain: ../train/images\n"),
        ("images/train", "labels/train", "path: ../elsewhere/set\nnames: [cat, dog]\ntrain: images/train\n"),
        ("images/train", "labels/train", "names: [cat, dog]\ntrain: train.txt\n"),
        ("images/train", "labels/train", "names: [cat, dog]\ntrain: [images/train]\n"),
        ("train", "train", "names: [cat, dog]\ntrain: train\n"),
    ],
)
def test_the_usual_layouts_give_the_same_instances(tmp_path, layout):
    images, labels, yaml = layout
    root = tmp_path / "images"  # a folder above the data set may bear the name too
    (root / images).mkdir(parents=True)
    (root / labels).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (200, 100)).save(root / images / "a.b.jpg")
    (root / labels / "a.b.txt").write_text("1 0.5 0.5 0.25 0.5")
    (root / "train.txt").write_text("./images/train/a.b.jpg\n\n")
    (root / "data.yaml").write_text(yaml)
    conversion = convert_yolo(root / "data.yaml", "train", KEEP)
    (image,) = conversion.document["images"]
    assert (conversion.images / image["file_name"]).is_file()
    assert image["file_name"] == "a.b.jpg"
    assert [(a["category_id"], a["bbox"]) for a in conversion.document["annotations"]] == [
        (2, [75, 25, 50, 50])
    ]
    assert set(conversion.counts) <= {"folder-elsewhere"}


def test_images_in_subfolders_keep_their_relative_names(tmp_path):
    root = yolo_folder(tmp_path, {"a": "0 0.5 0.5 1 1"})
    (root / "images/train/day").mkdir()
    (root / "labels/train/day").mkdir()
    Image.new("RGB", (200, 100)).save(root / "images/train/day/b.jpg")
    (root / "labels/train/day/b.txt").write_text("0 0.5 0.5 1 1")
    document = convert_yolo(root, "train", KEEP).document
    assert [image["file_name"] for image in document["images"]] == ["a.jpg", "day/b.jpg"]
    assert len(document["annotations"]) == 2


def test_parts_are_of_the_upright_photograph(tmp_path):
    root = yolo_folder(tmp_path, {"a": "0 0.5 0.5 1 1"})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (200, 100)).save(root / "images/train/a.jpg", exif=exif)
    document = convert_yolo(root, "train", KEEP).document
    assert (document["images"][0]["width"], document["images"][0]["height"]) == (100, 200)
    assert document["annotations"][0]["bbox"] == [0, 0, 100, 200]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [cat, no]\n", r"names\[1\] is no text but bool"),
        ("names: {0: cat, 2: dog}\n", "without a gap"),
        ("train: images/train\n", "must list the classes"),
        ("names: []\n", "must list the classes"),
        ("nc: 3\nnames: [cat, dog]\n", "nc is 3 but there are 2"),
        ("names: [cat, dog]\nkpt_shape: [17, 3]\n", "keypoints"),
        ("- cat\n", "is a mapping"),
        ("names: !!python/object/apply:os.system [ls]\n", "not plain YAML"),
        ("names: [cat\n", "not plain YAML"),
        ("names: [cat]\ntrain: nowhere\n", "neither a folder nor a list"),
        ("names: [[a, b], [c]]\n", "is no text but list"),
    ],
)
def test_a_yaml_that_cannot_be_meant_is_an_error_of_one_line(tmp_path, yaml, message):
    root = yolo_folder(tmp_path, {"a": ""}, yaml=yaml)
    with pytest.raises(DataError, match=message) as caught:
        convert_yolo(root, "train", KEEP)
    assert "\n" not in str(caught.value)
    assert "data.yaml" in str(caught.value)


def test_a_missing_yaml_or_an_empty_split_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"data\.yaml: cannot be read"):
        convert_yolo(tmp_path, "train", KEEP)
    root = yolo_folder(tmp_path, {})
    with pytest.raises(DataError, match="holds no photographs"):
        convert_yolo(root, "train", KEEP)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(box=st.tuples(st.floats(0, 150), st.floats(0, 60), st.floats(1, 50), st.floats(1, 40)))
def test_a_box_survives_the_way_through_yolo(tmp_path, box):
    x, y, width, height = box
    line = f"0 {(x + width / 2) / 200:.6f} {(y + height / 2) / 100:.6f} {width / 200:.6f} {height / 100:.6f}"
    root = yolo_folder(tmp_path, {"a": line})
    (annotation,) = convert_yolo(root, "train", KEEP).document["annotations"]
    assert annotation["bbox"] == pytest.approx(box, abs=0.011)
    x, y, width, height = annotation["bbox"]
    assert min(x, y) >= 0
    assert x + width <= 200
    assert y + height <= 100
