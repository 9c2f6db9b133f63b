"""The demonstration: the paper's question answered on drawn scenes, in minutes on two cores.

A small network is pre-trained on pictures of single objects; then a small detector is trained from scratch
and from that network, on scenes of other objects, at three lengths, on all scenes and on a tenth. Whatever
comes out is what the page says.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groundup.data.scenes import sparse_world
from groundup.data.world import Report, write_object_world, write_world
from groundup.report.page import write_report
from groundup.study.answer import read_answer
from groundup.study.compare import Question, usual_margin
from groundup.study.paper.drawn import OBJECTS
from groundup.study.runner import begin_study, run_study
from groundup.study.study import SCRATCH, PretrainingOptions, Study

SCENE_SIDE = 96
"""Pixels: twenty images a second on one core."""
SCENES = sparse_world(("star", "gear", "crescent"), SCENE_SIDE)
"""Ours: three categories."""
NUM_TRAIN, NUM_VAL = 1_500, 100
NUM_OBJECTS, NUM_OBJECTS_VAL = 5_000, 200
PRETRAINING_IMAGES = 10_000
"""About a minute and a half on one core."""
UNIT_IMAGES = 320
"""Images of what is called 1x here: the paper's is 1.44 million."""
LENGTHS = (1, 2, 4)
FRACTIONS = (1.0, 0.1)
SEEDS = (0, 1)
BATCH, LR, WARMUP, DROPS = 2, 0.01, 100, (0.3, 0.1)
"""Ours: of so few images, small steps and short tails make the most. Source: docs/LOG.md."""
PRETRAINED = "pre-trained"
PROCESSES = 2


def demo_study(folder: Path, seed: int) -> Study:
    """The demonstration's study on the pictures in the folder."""
    world, objects = (folder / "scenes").absolute(), (folder / "objects").absolute()
    sides = ("transforms.max_side", "transforms.test_short_side", "transforms.test_max_side")
    changes: dict[str, Any] = {
        "data.train.annotations": str(world / "annotations" / "instances_train.json"),
        "data.train.images": str(world / "train"),
        "data.val.annotations": str(world / "annotations" / "instances_val.json"),
        "data.val.images": str(world / "val"),
        "transforms.short_side": [SCENE_SIDE],
        **dict.fromkeys(sides, SCENE_SIDE),
        **schedule(UNIT_IMAGES, batch_size=BATCH, lr=LR, warmup_images=WARMUP, drops=list(DROPS)),
        "training.evaluate_every": 2 * UNIT_IMAGES,
    }
    return Study(
        name="demo",
        question=Question(
            text="Do I need pre-training, or should I train from the ground up?",
            candidate=SCRATCH,
            reference=PRETRAINED,
            margin=usual_margin(NUM_VAL),
        ),
        recipe="tiny_faster_rcnn",
        set=changes,
        arms={SCRATCH: {"start": SCRATCH}, PRETRAINED: {"start": "pretraining:objects"}},
        axes={"training.schedule.units": list(LENGTHS), "data.fraction": list(FRACTIONS)},
        seeds=[seed + one for one in SEEDS],
        pretraining={
            "objects": PretrainingOptions(
                recipe="tiny_classifier",
                set={
                    "data.train": str(objects / "train"),
                    "data.val": str(objects / "val"),
                    "transforms.crop": None,
                    **schedule(PRETRAINING_IMAGES, units=1),
                    "seed": seed,
                },
            )
        },
    )


def schedule(unit_images: int, **others: Any) -> dict[str, Any]:
    """The schedule's options by dotted path."""
    options = {"unit_images": unit_images, **others}
    return {f"training.schedule.{name}": value for name, value in options.items()}


def draw_pictures(folder: Path, seed: int, report: Report | None = None) -> None:
    """Draw scenes and objects, unless they are there; `report` is told how many are."""
    write_world(folder / "scenes", NUM_TRAIN, NUM_VAL, seed, SCENES, report=report)
    write_object_world(folder / "objects", NUM_OBJECTS, NUM_OBJECTS_VAL, seed, OBJECTS, report=report)


def carry_out(folder: Path, seed: int, *, command: str, quiet: bool) -> Iterator[str]:
    """Draw, pre-train, train, answer, report; a stopped demonstration goes on when called again.

    Yields:
        Lines for the reader: the answer, and where the page lies.
    """
    draw_pictures(folder, seed)
    study = folder / "study"
    begin_study(demo_study(folder, seed), study, commands=[command])
    outcome = run_study(study, processes=PROCESSES, quiet=quiet)
    page = write_report(study)
    yield read_answer(study).sentence
    yield f"report     {page}"
    yield f"study      {study} (groundup study status {study})"
    outcome.refuse_failures()
