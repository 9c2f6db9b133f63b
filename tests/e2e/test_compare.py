"""From photographs and weights to a study that fits the hours, and to its answer."""

import json
from pathlib import Path

import pytest

from groundup.classification import train_classifier_run
from groundup.cli.compare_command import compare
from groundup.config import override
from groundup.detector import load_detector
from groundup.errors import CheckpointError, DataError, UsageError
from groundup.inquiry import Inquiry, Source, build_proposal, detection_limit
from groundup.metrics.coco_ap import STANDARD_LIMIT
from groundup.models.imagenet import IMAGENET_IMAGES, imagenet_price
from groundup.recipes import resolve_recipe
from groundup.study.answer import read_answer
from groundup.study.proposal import SHAPES, Shape
from groundup.study.study import Price
from small_study import small_pretraining, small_world

OPTIONS = ("loader.num_workers=0", "training.schedule.batch_size=2", "training.upkeep.tensorboard=false")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Scenes as COCO json, and weights to begin with: a classifier of four steps."""
    folder = tmp_path_factory.mktemp("compare")
    world = small_world(folder / "scenes")
    stars = small_pretraining(folder / "objects")["stars"]
    recipe = override(
        resolve_recipe(stars["recipe"], []), [f"{k}={json.dumps(v)}" for k, v in stars["set"].items()]
    )
    train_classifier_run(recipe, folder / "weights", quiet=True)
    return folder, world


def inquiry(place, **changes):
    folder, world = place
    values = {
        "train": Source(
            path=Path(world["data.train.annotations"]), split="train", images=Path(world["data.train.images"])
        ),
        "val": Source(
            path=Path(world["data.val.annotations"]), split="val", images=Path(world["data.val.images"])
        ),
        "weights": str(folder / "weights"),
        "recipe": "tiny_faster_rcnn",
        "side": 64,
        "overrides": OPTIONS,
    }
    return Inquiry(**{**values, **changes})


def test_the_largest_study_that_fits_the_hours_is_proposed(place, tmp_path):
    told = []
    plenty, lines = build_proposal(inquiry(place, hours=1e4), tmp_path / "study", told.append, 1)
    assert plenty.study.seeds == list(range(SHAPES[0].num_seeds))
    assert plenty.study.axes["data.fraction"] == list(SHAPES[0].fractions)
    assert {run.arm for run in plenty.plan.runs} == {"scratch", "pre-trained"}
    assert plenty.study.set["transforms.short_side"] == [64]
    assert any("price is unknown" in line for line in lines), "what was chosen is said"
    assert any("8 images" in line for line in told), "the doctor looked first"
    few, _ = build_proposal(inquiry(place, hours=plenty.hours.wall / 20), tmp_path / "study", told.append, 1)
    assert len(few.plan.runs) < len(plenty.plan.runs)
    assert few.hours.wall <= plenty.hours.wall / 20
    # Speeds were measured once, and are kept for the study.
    assert sum("probing" in line for line in told) == 1


def test_hours_that_show_nothing_are_refused_with_what_would_do(place, tmp_path):
    with pytest.raises(UsageError, match=r"1e-06 hours are too few.*give --hours"):
        build_proposal(inquiry(place, hours=1e-6), tmp_path / "study", lambda line: None, 1)


def test_photographs_in_both_splits_are_found_before_training(place, tmp_path):
    twice = inquiry(place)
    same = inquiry(place, val=Source(path=twice.train.path, split="val", images=twice.train.images))
    with pytest.raises(DataError, match="data check"):
        build_proposal(same, tmp_path / "study", lambda line: None, 1)


def test_what_is_no_data_set_is_named(place, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="Pascal VOC"):
        build_proposal(
            inquiry(place, train=Source(path=tmp_path / "empty", split="train")),
            tmp_path,
            lambda line: None,
            1,
        )


def test_crowded_photographs_raise_the_detection_limit():
    assert detection_limit(3) == detection_limit(100) == STANDARD_LIMIT["bbox"]
    assert detection_limit(101) == 200
    assert detection_limit(375) == 400


def test_a_classifier_is_no_detector(place):
    with pytest.raises(CheckpointError, match="run of a classifier"):
        load_detector(place[0] / "weights")


def test_known_weights_have_a_price_with_its_source_and_others_none():
    known = Price.model_validate(imagenet_price("tf_efficientnet_lite0"))
    assert known.images == 350 * IMAGENET_IMAGES
    assert known.kind == "estimated"
    assert known.source
    assert Price.model_validate(imagenet_price("resnet18")).images is None


@pytest.mark.slow
def test_compare_answers_from_end_to_end(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("groundup.study.proposal.SHAPES", (Shape(units=(1,), fractions=(1.0,), num_seeds=1),))
    folder, world = place
    compare(
        train=Path(world["data.train.annotations"]),
        val=Path(world["data.val.annotations"]),
        images=Path(world["data.train.images"]),
        val_images=Path(world["data.val.images"]),
        weights=str(folder / "weights"),
        hours=1e4,
        out=tmp_path / "study",
        recipe="tiny_faster_rcnn",
        side=64,
        overrides=list(OPTIONS),
    )
    answer = read_answer(tmp_path / "study")
    assert answer.provisional
    assert answer.sentence in capsys.readouterr().out
    assert (tmp_path / "study" / "report" / "report.html").exists()
