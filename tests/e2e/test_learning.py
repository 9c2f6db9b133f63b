"""Short real trainings must land where they are known to land."""

import pytest

from groundup.config import override
from groundup.data.world import WorldOptions, write_world
from groundup.run import train_run
from groundup.tiny_recipes import tiny_mask_rcnn

EASY = WorldOptions(forms=("star", "gear"), textures=("dots",), min_side=64, max_side=64, max_objects=2,
                    min_size=0.4, max_distractors=0, crowd_ratio=0.0)  # fmt: skip


@pytest.fixture
def two_threads():
    """Trainings of this file take both cores; elsewhere one thread keeps tests from fighting."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def data_of(files, split):
    return [
        f"data.{split}.annotations={files.train_annotations}",
        f"data.{split}.images={files.train_images}",
    ]


def test_four_drawn_scenes_are_learnt_by_heart(tmp_path):
    files = write_world(tmp_path / "world", 4, 0, 0, EASY)
    recipe = override(
        tiny_mask_rcnn(),
        [
            *data_of(files, "train"),
            *data_of(files, "val"),
            "data.overlap=accept",
            "transforms.short_side=[128]",
            "transforms.test_short_side=128",
            "transforms.flip=0",
            "loader.num_workers=0",
            "training.schedule.units=null",
            "training.schedule.images=480",
            "training.schedule.unit_images=480",
            "training.schedule.drops=[0.2]",
            "training.schedule.warmup_images=40",
            "training.upkeep.tensorboard=false",
        ],
    )
    metrics = train_run(recipe, tmp_path / "run", quiet=True)["metrics"]
    assert metrics["box/AP"] > 0.9
    # A grid of 28 x 28 follows the teeth of a gear to an IoU of 0.83 to 0.96, so mask AP ends near 0.8.
    assert metrics["mask/AP50"] > 0.9
    assert metrics["mask/AP"] > 0.7


SCENES = WorldOptions(
    forms=("star", "gear", "crescent"),
    textures=("dots",),
    min_side=128,
    max_side=128,
    max_objects=3,
    min_size=0.3,
    max_size=0.6,
    crowd_ratio=0.0,
    max_distractors=0,
)


@pytest.mark.slow
def test_drawn_scenes_are_learnt_to_a_band_of_ap(tmp_path, two_threads):
    """Box AP was 0.333 when this was written: docs/LOG.md."""
    world = tmp_path / "world"
    write_world(world, 1_500, 100, 0, SCENES)
    recipe = override(
        tiny_mask_rcnn(),
        [
            f"data.train.annotations={world / 'annotations' / 'instances_train.json'}",
            f"data.train.images={world / 'train'}",
            f"data.val.annotations={world / 'annotations' / 'instances_val.json'}",
            f"data.val.images={world / 'val'}",
            "transforms.short_side=[128]",
            "transforms.max_side=128",
            "transforms.test_short_side=128",
            "transforms.test_max_side=128",
            "training.schedule.units=null",
            "training.schedule.images=3600",
            "training.schedule.unit_images=3600",
            "training.schedule.drops=[0.25, 0.1]",
            "training.schedule.warmup_images=360",
        ],
    )
    metrics = train_run(recipe, tmp_path / "run", quiet=True)["metrics"]
    assert 0.15 < metrics["box/AP"] < 0.5
