"""The demonstration: a small Mask R-CNN from random numbers, on drawn scenes, in minutes on two cores."""

from collections.abc import Iterator
from pathlib import Path

from groundup.config import override
from groundup.data.world import Report, WorldOptions, write_world
from groundup.detector import evaluate_run
from groundup.recipes import tiny_mask_rcnn
from groundup.run import Recipe, train_run

WORLD = WorldOptions(
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
"""Ours: three categories, few and large objects and nothing else, so that minutes of training show."""
NUM_TRAIN = 1_500
NUM_VAL = 100
IMAGES = 3_600
"""Scenes seen in training: about three minutes on two cores."""
NUM_PICTURES = 8


def demo_recipe(folder: Path, seed: int) -> Recipe:
    """The tiny Mask R-CNN on the demonstration's scenes."""
    world = folder / "world"
    return override(
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
            f"training.schedule.images={IMAGES}",
            f"training.schedule.unit_images={IMAGES}",
            "training.schedule.drops=[0.25, 0.1]",
            f"training.schedule.warmup_images={IMAGES // 10}",
            f"seed={seed}",
        ],
    )


def draw_scenes(folder: Path, seed: int, report: Report | None = None) -> None:
    """Draw the demonstration's scenes, unless they are there; `report` is told how many are."""
    write_world(folder / "world", NUM_TRAIN, NUM_VAL, seed, WORLD, report=report)


def carry_out(folder: Path, seed: int, *, quiet: bool) -> Iterator[str]:
    """Draw the scenes, train, evaluate, draw pictures; a stopped demonstration goes on when called again.

    Yields:
        Lines for the reader: the AP table and where everything lies.
    """
    draw_scenes(folder, seed)
    recipe = demo_recipe(folder, seed)
    train_run(recipe, folder / "run", quiet=quiet)
    evaluation = evaluate_run(folder / "run", num_pictures=NUM_PICTURES)
    yield from evaluation.lines()
    yield f"pictures     {folder / 'run' / 'evaluations' / 'newest' / 'pictures.png'}"
    yield f"run          {folder / 'run'} (groundup predict {folder / 'run'} PHOTOGRAPH... uses it)"
