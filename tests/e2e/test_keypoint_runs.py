"""Keypoints from training to a drawn overlay, on drawn figures and on photographs of people."""

import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from groundup.config import vary
from groundup.data.world import WorldOptions, write_world
from groundup.detector import evaluate_run, load_detector
from groundup.prediction import predict_run
from groundup.recipes import RECIPES
from groundup.run import train_run

FIGURES = WorldOptions(
    forms=("figure",), textures=("dots",), min_side=96, max_side=96, max_objects=2, min_size=0.5,
    max_distractors=0, crowd_ratio=0.0,
)  # fmt: skip
IMAGES = 120


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    write_world(folder, 40, 8, 0, FIGURES)
    return folder


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A run of so many images that what it finds can be scored, if not yet praised."""
    folder = tmp_path_factory.mktemp("runs") / "figures"
    splits = {
        f"data.{split}": {
            "annotations": str(world / "annotations" / f"instances_{split}.json"),
            "images": str(world / split),
        }
        for split in ("train", "val")
    }
    recipe = vary(
        RECIPES["tiny_keypoint_rcnn"](),
        {
            **splits,
            "transforms.short_side": (96,),
            "transforms.test_short_side": 96,
            "loader.num_workers": 0,
            "model.box_head.score_threshold": 0.01,
            "training.schedule.units": None,
            "training.schedule.unit_images": IMAGES,
            "training.schedule.images": IMAGES,
            "training.upkeep.tensorboard": False,
        },
    )
    result = train_run(recipe, folder, quiet=True)
    assert {"box/AP", "keypoints/AP"} <= set(result["metrics"])
    return folder


def test_the_log_holds_keypoint_losses_and_ap(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert any("loss_keypoint" in json.dumps(line) for line in lines)
    assert any("keypoints/AP" in json.dumps(line) for line in lines)
    assert json.loads((run / "record.json").read_text())["left_out"] == {}


def test_keypoint_ap_is_pycocotools_own(run, world, capsys):
    evaluation = evaluate_run(run)
    assert (evaluation.folder / "matches.keypoints.npz").exists()
    (ours,) = [one for one in evaluation.values if one.kind == "keypoints"]
    assert ours.num_results > 8
    assert ours.max_detections == 20
    truth = COCO(str(world / "annotations" / "instances_val.json"))
    results = json.loads((evaluation.folder / "predictions.keypoints.json").read_text())
    reference = COCOeval(truth, truth.loadRes(results), "keypoints")
    reference.params.kpt_oks_sigmas = np.array(ours.sigmas)
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    capsys.readouterr()
    found = [ours.AP, ours.AP50, ours.AP75, ours.APm, ours.APl, ours.AR[20]]
    expected = [None if value == -1 else pytest.approx(value, abs=1e-6) for value in reference.stats[:6]]
    assert found == expected


def test_overlays_and_predictions_hold_keypoints(run, world, tmp_path):
    photograph = min((world / "val").iterdir())
    (record,) = predict_run(run, [photograph], tmp_path, threshold=0.0)
    assert all(len(one["keypoints"]) == 21 for one in record["detections"])
    with_points = cv2.imread(record["overlay"])
    detector = load_detector(run)
    found = detector.detect(cv2.cvtColor(cv2.imread(str(photograph)), cv2.COLOR_BGR2RGB))
    assert len(found.boxes) == len(record["detections"]) > 0
    first = np.array(record["detections"][0]["keypoints"]).reshape(-1, 3)
    np.testing.assert_allclose(first[:, :2] + 0.5, found.keypoints[0, :, :2], atol=1e-3)
    assert with_points.shape[0] >= 96
