from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from groundup.data.coco import open_index
from groundup.data.formats import write_conversion
from groundup.data.voc import Part, VocOptions, convert_parts, convert_voc
from groundup.recipe import DataOptions


def voc_year(root: Path, stems: dict[str, list[str]], *, listed: str = "train", colour: int = 0) -> Path:
    """`stems` are photographs with the marks of their objects."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, (stem, marks) in enumerate(stems.items()):
        Image.fromarray(np.full((40, 50, 3), colour + number, np.uint8)).save(
            root / "JPEGImages" / f"{stem}.jpg"
        )
        objects = "".join(
            f"<object><name>cat</name>{mark}<bndbox><xmin>{1 + place}</xmin><ymin>1</ymin>"
            f"<xmax>{10 + place}</xmax><ymax>10</ymax></bndbox></object>"
            for place, mark in enumerate(marks)
        )
        text = f"<annotation><size><width>50</width><height>40</height></size>{objects}</annotation>"
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    (root / f"ImageSets/Main/{listed}.txt").write_text("".join(f"{stem}\n" for stem in stems))
    return root


DIFFICULT, TRUNCATED, PLAIN = "<difficult>1</difficult>", "<truncated>1</truncated>", ""


def test_years_become_one_set_whose_ids_never_collide(tmp_path):
    first = voc_year(tmp_path / "VOC2007", {"000001": [PLAIN], "000002": [PLAIN]}, listed="trainval")
    second = voc_year(tmp_path / "VOC2012", {"000001": [PLAIN], "2008_1": [PLAIN, PLAIN]}, colour=100)
    conversion = convert_parts([Part(first, "trainval"), Part(second, "train")], VocOptions())
    images = conversion.document["images"]
    assert [image["id"] for image in images] == [1, 2, 3, 4]
    assert [image["file_name"] for image in images] == [
        "VOC2007/JPEGImages/000001.jpg",
        "VOC2007/JPEGImages/000002.jpg",
        "VOC2012/JPEGImages/000001.jpg",
        "VOC2012/JPEGImages/2008_1.jpg",
    ]
    assert [a["image_id"] for a in conversion.document["annotations"]] == [1, 2, 3, 4, 4]
    assert conversion.images == tmp_path
    assert not conversion.problems
    write_conversion(conversion, tmp_path / "both.json")
    index = open_index(tmp_path / "both.json", conversion.images)
    assert all(index.path(row).is_file() for row in range(4))


def test_a_photograph_in_two_years_is_converted_once_and_listed(tmp_path):
    first = voc_year(tmp_path / "VOC2011", {"a": [PLAIN]})
    second = voc_year(tmp_path / "VOC2012", {"a": [PLAIN], "b": [PLAIN]})
    conversion = convert_parts([Part(first, "train"), Part(second, "train")], VocOptions())
    assert len(conversion.document["images"]) == 2
    assert conversion.counts == {"image-in-two-parts": 1}


def test_two_lists_of_one_folder_keep_its_plain_names(tmp_path):
    root = voc_year(tmp_path, {"a": [PLAIN], "b": [PLAIN]})
    (root / "ImageSets/Main/val.txt").write_text("b\n")
    conversion = convert_parts([Part(root, "train"), Part(root, "val")], VocOptions())
    assert [image["file_name"] for image in conversion.document["images"]] == ["a.jpg", "b.jpg"]
    assert conversion.counts == {"list-twice": 1}


@pytest.mark.parametrize("made", ["ignore", "keep"])
def test_marks_travel_from_xml_to_the_index_and_training_learns_from_them_as_told(tmp_path, made):
    root = voc_year(tmp_path, {"a": [DIFFICULT, TRUNCATED, PLAIN], "b": [DIFFICULT]})
    write_conversion(convert_voc(root, "train", VocOptions(difficult=made)), tmp_path / "set.json")
    index = open_index(tmp_path / "set.json", root / "JPEGImages")
    records = index.document()["annotations"]
    assert [record.get("difficult", 0) for record in records] == [1, 0, 0, 1]
    assert [record.get("truncated", 0) for record in records] == [0, 1, 0, 0]
    assert [record["iscrowd"] for record in records] == ([1, 0, 0, 1] if made == "ignore" else [0] * 4)
    counts = {None: [2, 0] if made == "ignore" else [3, 1], "keep": [3, 1], "drop": [2, 0]}
    for difficult, expected in counts.items():
        told = index.with_difficult(difficult)
        assert told.num_usable.tolist() == expected
        assert [len(told.truth(row).boxes) for row in (0, 1)] == expected
        assert told.num_difficult == (2, sum(expected) - 2)
        assert told.subset([1]).num_usable.tolist() == expected[1:]
        assert told.subset([1]).num_difficult == (1, expected[1])
        assert told.document() == index.document()


def test_what_training_does_with_difficult_objects_is_an_option_that_is_checked():
    assert DataOptions().difficult is None
    assert DataOptions(difficult="drop").difficult == "drop"
    with pytest.raises(ValueError, match="difficult"):
        DataOptions.model_validate({"difficult": "maybe"})
