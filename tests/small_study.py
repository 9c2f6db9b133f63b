"""A study small enough to be carried out in a test: two arms, two lengths, drawn scenes of 64 pixels."""

from pathlib import Path
from typing import Any

from groundup.data.objects import ObjectOptions
from groundup.data.world import WorldOptions, write_object_world, write_world
from groundup.study.study import Study

WORLD = WorldOptions(forms=("star", "gear"), textures=("dots",), min_side=64, max_side=64, max_objects=2,
                     min_size=0.4, max_distractors=0, crowd_ratio=0.0)  # fmt: skip
NUM_TRAIN, NUM_VAL = 8, 4
UNIT = 8
"""Images of a unit: four steps of two."""


def small_world(folder: Path) -> dict[str, Any]:
    """Draw the scenes; the changes that point a recipe at them."""
    files = write_world(folder, NUM_TRAIN, NUM_VAL, 0, WORLD)
    return {
        "data.train.annotations": str(files.train_annotations),
        "data.train.images": str(files.train_images),
        "data.val.annotations": str(files.val_annotations),
        "data.val.images": str(files.val_images),
    }


def small_pretraining(folder: Path) -> dict[str, Any]:
    """Draw the objects; a pre-training of four steps on them, by name."""
    options = ObjectOptions(side=64, forms=("star", "gear"), textures=("dots",))
    files = write_object_world(folder, 24, 12, 0, options)
    changes = {
        "data.train": str(files.train),
        "data.val": str(files.val),
        "loader.num_workers": 0,
        "training.schedule.units": None,
        "training.schedule.images": 16,
        "training.schedule.unit_images": 16,
        "training.schedule.batch_size": 4,
        "training.upkeep.tensorboard": False,
    }
    return {"stars": {"recipe": "tiny_classifier", "set": changes}}


def small_study(world: dict[str, Any], **changes: Any) -> Study:
    """Two arms that differ in their rate, one and two units long, one seed."""
    values: dict[str, Any] = {
        "name": "small",
        "question": {"candidate": "slow", "reference": "fast", "margin": 1.0, "num_replicates": 100},
        "recipe": "tiny_faster_rcnn",
        "set": {
            **world,
            "transforms.short_side": [64],
            "transforms.max_side": 64,
            "transforms.test_short_side": 64,
            "transforms.test_max_side": 64,
            "loader.num_workers": 0,
            "training.schedule.batch_size": 2,
            "training.schedule.unit_images": UNIT,
            "training.schedule.drops": [0.5, 0.25],
            "training.upkeep.log_every": 4,
            "training.upkeep.tensorboard": False,
            "training.evaluate_every": 4,
        },
        "arms": {"slow": {"training.schedule.lr": 0.001}, "fast": {"training.schedule.lr": 0.002}},
        "axes": {"training.schedule.units": [1.0, 2.0]},
        "seeds": [0],
    }
    return Study.model_validate({**values, **changes})
