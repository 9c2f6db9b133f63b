"""Keypoints from the annotation file to the model and back, half a pixel included."""

import json

import cv2
import numpy as np
import pytest
import torch

from groundup.config import vary
from groundup.data.coco import open_index
from groundup.data.geometry import mirror_table
from groundup.data.images import ImagePolicy, decode_image
from groundup.data.transforms import TransformOptions, apply_transforms
from groundup.engine.evaluate import results_of
from groundup.errors import DataError
from groundup.recipes import RECIPES
from groundup.run import build_model, plan_lines
from groundup.splits import identity, open_splits
from groundup.structures import Detections

WIDTH, HEIGHT = 40, 30
NAMES = ["left_eye", "right_eye", "nose"]


def annotated(number, image, points, category=1):
    labelled = sum(v > 0 for v in points[2::3])
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [2, 2, 30, 24],
        "area": 500,
        "iscrowd": 0,
        "keypoints": points,
        "num_keypoints": labelled,
    }


@pytest.fixture
def folder(tmp_path):
    """Three photographs, black but for one pixel where the left eye is; in the third nothing is labelled."""
    columns_and_rows = [(5, 7), (30, 12), (3, 3)]
    for number, (column, row) in enumerate(columns_and_rows, start=1):
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        image[row, column] = 255
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    (c1, r1), (c2, r2), _ = columns_and_rows
    write(
        tmp_path,
        {
            "images": [
                {"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in (1, 2, 3)
            ],
            "annotations": [
                annotated(1, 1, [c1, r1, 2, 20, 9, 1, 0, 0, 0]),
                annotated(2, 2, [c2, r2, 1, 0, 0, 0, 0, 0, 0]),
                annotated(3, 3, [0] * 9),
            ],
            "categories": [{"id": 1, "name": "face", "keypoints": NAMES, "skeleton": [[1, 3], [2, 3]]}],
        },
    )
    return tmp_path


def write(folder, document):
    (folder / "faces.json").write_text(json.dumps(document))


def document_of(folder):
    return json.loads((folder / "faces.json").read_text())


def recipe_on(folder, **changes):
    split = {"annotations": str(folder / "faces.json"), "images": str(folder)}
    known = {"data.train": split, "data.val": split, "training.schedule.batch_size": 4}
    return vary(
        RECIPES["tiny_keypoint_rcnn"](), known | {k.replace("__", "."): v for k, v in changes.items()}
    )


def test_keypoints_name_pixels_in_the_file_and_their_middles_in_memory(folder):
    index = open_index(folder / "faces.json", folder)
    assert index.truth(0).keypoints[0].tolist() == [[5.5, 7.5, 2], [20.5, 9.5, 1], [0, 0, 0]]
    assert index.document()["annotations"][0]["keypoints"] == [5, 7, 2, 20, 9, 1, 0, 0, 0]


def test_written_results_undo_what_reading_added(folder):
    points = torch.from_numpy(open_index(folder / "faces.json", folder).truth(0).keypoints)
    found = Detections(
        boxes=torch.tensor([[2.0, 2.0, 32.0, 26.0]]),
        scores=torch.tensor([0.9]),
        labels=torch.tensor([0]),
        masks=None,
        keypoints=points[:, :2],
        image_id=1,
        size=(HEIGHT, WIDTH),
    )
    assert results_of(found, [1])["keypoints"][0]["keypoints"] == [5, 7, 2, 20, 9, 1]


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("growth", [1, 3])
def test_the_marked_pixel_and_its_keypoint_stay_together(folder, row, flip, growth):
    index = open_index(folder / "faces.json", folder)
    image = decode_image(index.path(row), (HEIGHT, WIDTH), ImagePolicy())
    options = TransformOptions(short_side=(HEIGHT * growth,), max_side=1000, flip=flip)
    mirrors = mirror_table([index.categories[0].flip_pairs], index.num_keypoints)
    seen, truth = apply_transforms(image, index.truth(row), options, 1, mirrors)
    weights = seen[:, :, 0].astype(np.float64)
    across = (weights.sum(axis=0) * (np.arange(seen.shape[1]) + 0.5)).sum() / weights.sum()
    down = (weights.sum(axis=1) * (np.arange(seen.shape[0]) + 0.5)).sum() / weights.sum()
    marked = truth.keypoints[0, NAMES.index("right_eye" if flip else "left_eye")]
    assert marked[:2] == pytest.approx([across, down], abs=0.02)
    assert marked[2] == index.truth(row).keypoints[0, 0, 2]


def test_images_without_keypoints_are_left_out_of_training_and_counted(folder):
    recipe = recipe_on(folder)
    splits = open_splits(recipe)
    assert splits.train.image_ids.tolist() == [1, 2]
    assert splits.val.image_ids.tolist() == [1, 2, 3]
    assert list(splits.left_out.values()) == [1]
    lines = plan_lines(recipe_on(folder, data__overlap="accept"), folder / "r")
    assert any("1 images are left out: fewer than 1 labelled" in line for line in lines)
    both = open_splits(recipe_on(folder, data__min_keypoints=2))
    assert both.train.image_ids.tolist() == [1]
    everything = open_splits(recipe_on(folder, data__min_keypoints=0))
    assert everything.train.num_images == 3
    assert everything.left_out == {}
    assert identity(recipe, splits, None) != identity(recipe, everything, None)


def test_the_head_finds_as_many_keypoints_as_the_categories_name(folder):
    recipe = recipe_on(folder)
    model = build_model(recipe, open_splits(recipe).train.categories)
    assert model.keypoint_head.deconv.out_channels == len(NAMES)


def test_a_set_without_keypoints_is_refused_in_one_line(folder):
    document = document_of(folder)
    for annotation in document["annotations"]:
        del annotation["keypoints"], annotation["num_keypoints"]
    write(folder, document)
    with pytest.raises(DataError, match=r"none of the 3 images has 1 labelled keypoints") as unlabelled:
        open_splits(recipe_on(folder))
    del document["categories"][0]["keypoints"]
    write(folder, document)
    with pytest.raises(DataError, match=r"name no keypoints.*keypoint_head=null") as unnamed:
        open_splits(recipe_on(folder))
    for error in (unlabelled, unnamed):
        assert "\n" not in str(error.value)
        assert str(folder / "faces.json") in str(error.value)


def test_categories_that_differ_in_their_keypoints_are_refused(folder):
    document = document_of(folder)
    document["categories"].append({"id": 2, "name": "hand", "keypoints": ["thumb"]})
    write(folder, document)
    with pytest.raises(DataError, match="1 and 3 keypoints"):
        open_splits(recipe_on(folder))


def test_a_category_without_keypoints_may_stand_beside_one_with(folder):
    document = document_of(folder)
    document["categories"].append({"id": 2, "name": "ball"})
    ball = annotated(4, 1, [], category=2)
    del ball["keypoints"], ball["num_keypoints"]
    document["annotations"].append(ball)
    write(folder, document)
    splits = open_splits(recipe_on(folder))
    assert splits.train.num_images == 2
    assert not splits.train.truth(0).keypoints[1].any()
