"""From detections to results with the user's ids, and from results to AP on disk."""

import json
import signal

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import nn

from groundup.engine.evaluate import (
    EvaluationOptions,
    detect_results,
    evaluate,
    evaluate_results,
    results_of,
)
from groundup.engine.stop import StopFlag
from groundup.errors import DataError, Interrupted
from groundup.metrics.results import read_results
from groundup.metrics.rle import encode_crop
from groundup.ops.masks import paste_masks
from groundup.structures import Batch, Detections

CATEGORY_IDS = (7, 3)
IMAGE_IDS = (11, 5, 8)
SIZE = (60, 80)
BOX = (10.0, 20.0, 40.0, 50.0)


def batch_of(image_ids):
    count = len(image_ids)
    return Batch(
        images=torch.zeros(count, 3, 64, 96, dtype=torch.uint8),
        sizes=torch.tensor([SIZE] * count, dtype=torch.int32),
        original_sizes=torch.tensor([SIZE] * count, dtype=torch.int32),
        boxes=torch.zeros(count, 0, 4),
        labels=torch.zeros(count, 0, dtype=torch.int64),
        masks=None,
        keypoints=None,
        image_ids=torch.tensor(image_ids),
        seeds=torch.arange(count),
    )


def found_in(image_id, *, masks=True, keypoints=False):
    return Detections(
        boxes=torch.tensor([BOX, (0.25, 0.0, 80.0, 60.0)]),
        scores=torch.tensor([0.9, 0.5]),
        labels=torch.tensor([1, 0]),
        masks=torch.ones(2, 28, 28) if masks else None,
        keypoints=torch.ones(2, 4, 3) if keypoints else None,
        image_id=image_id,
        size=SIZE,
    )


class OneBox(nn.Module):
    """Finds the same two boxes in every image, and remembers in what mode it was asked."""

    def __init__(self, *, masks=True, score=0.9):
        super().__init__()
        self.frozen, self.live = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
        self.frozen.eval()
        self.masks, self.score = masks, score
        self.modes = []

    def detect(self, batch):
        self.modes.append((self.training, self.live.training, torch.is_inference_mode_enabled()))
        return [found_in(i, masks=self.masks) for i in batch.image_ids.tolist()]


def document_of(image_ids=IMAGE_IDS, *, masks=True):
    ring = [10, 20, 40, 20, 40, 50, 10, 50]
    return {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in image_ids],
        "annotations": [
            {
                "id": n + 1,
                "image_id": i,
                "category_id": 3,
                "bbox": [10, 20, 30, 30],
                "area": 900,
                "iscrowd": 0,
            }
            | ({"segmentation": [ring]} if masks else {})
            for n, i in enumerate(image_ids)
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


def batches():
    return [batch_of(IMAGE_IDS[:2]), batch_of(IMAGE_IDS[2:])]


def test_results_bear_the_ids_of_the_user_and_boxes_of_coco():
    results = results_of(found_in(11, masks=False, keypoints=True), CATEGORY_IDS)
    assert list(results) == ["bbox", "keypoints"]
    assert results["bbox"][0] == {
        "image_id": 11,
        "category_id": 3,
        "score": pytest.approx(0.9),
        "bbox": [10.0, 20.0, 30.0, 30.0],
    }
    assert results["bbox"][1]["category_id"] == 7
    assert results["bbox"][1]["bbox"] == [0.25, 0.0, 79.75, 60.0]
    assert results["keypoints"][0]["keypoints"] == [0.5, 0.5, 1.0] * 4  # pixels by column and row


@pytest.mark.parametrize("paste", ["aligned", "integer"])
def test_masks_are_those_of_pasting_the_whole_image(paste):
    generator = torch.Generator().manual_seed(0)
    corners = (
        torch.rand(40, 2, 2, generator=generator) * torch.tensor([100.0, 80.0]) - 10
    )  # some leave the image
    boxes = torch.cat([corners.min(1).values, corners.max(1).values], dim=1)
    boxes[0], boxes[1] = torch.tensor([0.0, 0.0, 80.0, 60.0]), torch.tensor([5.0, 5.0, 5.0, 5.0])
    grids = torch.rand(40, 28, 28, generator=generator)
    grids[0] = 1.0
    detections = Detections(
        boxes=boxes,
        scores=torch.ones(40),
        labels=torch.zeros(40, dtype=torch.int64),
        masks=grids,
        keypoints=None,
        image_id=1,
        size=SIZE,
    )
    whole = paste_masks(grids, boxes, SIZE, kind=paste).numpy()
    results = results_of(detections, CATEGORY_IDS, paste=paste)["segm"]
    for bitmap, result in zip(whole, results, strict=True):
        expected = coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
        assert result["segmentation"] == {"size": list(SIZE), "counts": expected["counts"].decode()}


@pytest.mark.parametrize("seed", range(30))
def test_encoding_a_crop_is_encoding_the_image(seed):
    rng = np.random.default_rng(seed)
    h, w = rng.integers(1, 12, size=2)
    y1, y2 = np.sort(rng.integers(0, h + 1, size=2)) if seed % 3 else (0, h)
    x1, x2 = np.sort(rng.integers(0, w + 1, size=2)) if seed % 2 else (0, w)
    image = np.zeros((h, w), dtype=bool)
    image[y1:y2, x1:x2] = rng.random((y2 - y1, x2 - x1)) < rng.choice([0.0, 0.3, 0.9, 1.0])
    expected = coco_mask.encode(np.asfortranarray(image.astype(np.uint8)))
    encoded = encode_crop(image[y1:y2, x1:x2], int(x1), int(y1), (int(h), int(w)))
    assert encoded == {"size": [h, w], "counts": expected["counts"].decode()}


def test_an_evaluation_writes_its_predictions_and_scores_whole(tmp_path):
    done = []
    evaluation = evaluate(
        OneBox(),
        batches(),
        document_of(),
        EvaluationOptions(),
        category_ids=CATEGORY_IDS,
        folder=tmp_path / "images_100",
        progress=done.append,
    )
    names = sorted(path.name for path in (tmp_path / "images_100").iterdir())
    assert names == [
        "matches.bbox.npz",
        "matches.segm.npz",
        "metrics.json",
        "predictions.bbox.json",
        "predictions.segm.json",
    ]
    assert done == [2, 3]
    assert evaluation.metrics["box/AP"] == pytest.approx(1.0)
    assert evaluation.metrics["mask/AP50"] == pytest.approx(1.0)
    assert "box/APl" not in evaluation.metrics  # no large instance: undefined
    record = json.loads((tmp_path / "images_100" / "metrics.json").read_text())
    assert record["metrics"] == evaluation.metrics
    assert record["box"]["APl"] is None
    assert [c["name"] for c in record["mask"]["categories"]] == ["dog", "cat"]
    assert any(line.startswith("box") for line in evaluation.lines())


def test_written_predictions_score_the_same_again(tmp_path):
    options = EvaluationOptions()
    first = evaluate(OneBox(), batches(), document_of(), options, category_ids=CATEGORY_IDS, folder=tmp_path)
    results = {kind: read_results(tmp_path / f"predictions.{kind}.json") for kind in ("bbox", "segm")}
    assert evaluate_results(document_of(), results, options).values == first.values


def test_the_grouping_in_batches_does_not_matter():
    one_by_one = detect_results(OneBox(), [batch_of([i]) for i in IMAGE_IDS], category_ids=CATEGORY_IDS)
    assert detect_results(OneBox(), batches(), category_ids=CATEGORY_IDS) == one_by_one


def test_each_part_of_the_model_returns_to_its_own_mode():
    model = OneBox()
    detect_results(model, batches(), category_ids=CATEGORY_IDS)
    assert model.modes == [(False, False, True)] * 2
    assert (model.training, model.live.training, model.frozen.training) == (True, True, False)


def test_a_model_without_masks_has_no_mask_results():
    assert list(detect_results(OneBox(masks=False), batches(), category_ids=CATEGORY_IDS)) == ["bbox"]


def test_masks_without_truth_are_left_out_with_a_note_unless_asked_for():
    document = document_of(masks=False)
    evaluation = evaluate(OneBox(), batches(), document, EvaluationOptions(), category_ids=CATEGORY_IDS)
    assert [one.kind for one in evaluation.values] == ["bbox"]
    assert any("mask not scored" in line for line in evaluation.lines())
    with pytest.raises(DataError, match="no segmentation"):
        evaluate(OneBox(), batches(), document, EvaluationOptions(kinds=("segm",)), category_ids=CATEGORY_IDS)


def test_a_kind_that_was_asked_for_and_not_found_is_refused():
    with pytest.raises(DataError, match="no keypoints to score"):
        evaluate_results(document_of(), {"bbox": []}, EvaluationOptions(kinds=("keypoints",)))


def test_an_image_shown_twice_is_refused():
    with pytest.raises(DataError, match="image 11 was shown to the model twice"):
        detect_results(OneBox(), [batch_of([11]), batch_of([11])], category_ids=CATEGORY_IDS)


def test_images_that_were_not_shown_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(DataError, match="1 of 3 annotated images were not shown"):
        evaluate(
            OneBox(),
            batches()[:1],
            document_of(),
            EvaluationOptions(),
            category_ids=CATEGORY_IDS,
            folder=tmp_path,
        )
    assert not list(tmp_path.iterdir())


def test_a_stop_is_heard_between_batches_and_leaves_the_model_as_it_was(tmp_path):
    model = OneBox()
    with StopFlag() as stop, pytest.raises(Interrupted):
        evaluate(
            model,
            batches(),
            document_of(),
            EvaluationOptions(),
            category_ids=CATEGORY_IDS,
            folder=tmp_path,
            stop=stop,
            progress=lambda _: signal.raise_signal(signal.SIGTERM),
        )
    assert len(model.modes) == 1
    assert model.training
    assert not list(tmp_path.iterdir())


def test_the_detection_limit_of_the_options_is_the_one_used():
    options = EvaluationOptions(max_detections=1, max_keypoint_detections=5)
    evaluation = evaluate(OneBox(), batches(), document_of(), options, category_ids=CATEGORY_IDS)
    assert [one.limits for one in evaluation.values] == [(1,), (1,)]
    assert options.limit("keypoints") == 5


def test_voc_is_scored_beside_coco_where_it_is_asked_for(tmp_path):
    document = {
        "images": [{"id": 1, "height": 50, "width": 50}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [20, 20, 10, 10], "area": 100, "iscrowd": 1}
            | {"difficult": 1, "segmentation": []},
        ],
        "categories": [{"id": 1, "name": "a"}],
    }
    results = {"bbox": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 6], "score": 0.5}]}
    plain = evaluate_results(document, results, EvaluationOptions())
    assert plain.voc is None
    assert "voc" not in plain.to_json()
    both = evaluate_results(document, results, EvaluationOptions(voc="voc2007"), folder=tmp_path)
    assert both.metrics == {**plain.metrics, "voc/AP50": 1.0, "voc/AP75": 0.0, "voc/AP": pytest.approx(0.3)}
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["voc"]["metric"] == "voc2007"
    assert written["voc"]["categories"][0]["num_difficult"] == 1
    assert any(
        line.startswith("voc2007") and line.split()[1:] == ["1", "1", "100.0", "0.0"] for line in both.lines()
    )
