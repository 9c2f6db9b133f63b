"""A study that was begun is found by its folder, its file and its name."""

from pathlib import Path

import pytest
import yaml

from groundup.cli.built_in import folder_begun
from groundup.errors import GroundupError


def test_a_studys_file_leads_to_the_folder_of_its_name(tmp_path):
    path = tmp_path / "cells.yaml"
    split = {"annotations": "train.json", "images": "photos"}
    question = {"candidate": "long", "reference": "short", "margin": 1.0}
    units = {"long": {"training.schedule.units": 2}, "short": {"training.schedule.units": 1}}
    described = {
        "name": "blood",
        "question": question,
        "recipe": "tiny_faster_rcnn",
        "arms": units,
        "seeds": [0],
    }
    path.write_text(yaml.safe_dump(described | {"set": {"data": {"train": split, "val": split}}}))
    assert folder_begun(str(path)) == Path("studies/blood")


def test_a_built_in_studys_name_leads_to_its_folder():
    assert folder_begun("figure1") == Path("studies/figure1")


def test_a_folder_is_itself(tmp_path):
    assert folder_begun(str(tmp_path)) == tmp_path


def test_a_file_that_is_no_study_is_refused(tmp_path):
    path = tmp_path / "notes.yaml"
    path.write_text("- a list")
    with pytest.raises(GroundupError, match=r"notes\.yaml"):
        folder_begun(str(path))
