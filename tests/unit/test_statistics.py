"""A data set in numbers and in pictures: counted right, and refused where there is nothing to draw."""

import pytest

from coco_documents import sound_document, write_document
from groundup.data.coco import open_index
from groundup.data.statistics import describe_index, draw_page
from groundup.errors import DataError


def test_a_set_without_instances_is_described_but_not_drawn(tmp_path):
    path = write_document(tmp_path, sound_document() | {"annotations": []})
    (tmp_path / "images").mkdir()
    index = open_index(path, tmp_path / "images")
    description = describe_index(index)
    assert (description.num_instances, description.num_empty) == (0, index.num_images)
    with pytest.raises(DataError, match="no image has a usable instance"):
        draw_page(index, tmp_path / "page.png", 12, 0)
    assert not (tmp_path / "page.png").exists()


def test_a_long_or_hostile_name_stays_in_its_column(tmp_path):
    document = sound_document()
    document["categories"][0]["name"] = "a\nb\x1b[31m" + "c" * 500
    path = write_document(tmp_path, document)
    (tmp_path / "images").mkdir()
    lines = list(describe_index(open_index(path, tmp_path / "images")).lines())
    assert all("\n" not in line and "\x1b" not in line for line in lines)
    assert max(map(len, lines[1:])) < 120
