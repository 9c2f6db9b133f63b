"""Drawn pictures for the paper's studies in miniature: scenes to detect in, objects to pre-train on."""

from dataclasses import dataclass
from pathlib import Path

from groundup.data.objects import ObjectOptions
from groundup.data.scenes import sparse_world
from groundup.data.world import (
    ObjectFiles,
    Report,
    WorldFiles,
    WorldOptions,
    write_object_world,
    write_world,
)

WORLD = "world"
"""Folder of the pictures inside a study's folder."""
SIDE = 96
"""Pixels: some twenty scenes a second on one core."""
NUM_TRAIN, NUM_VAL = 1_500, 100
NUM_OBJECTS, NUM_OBJECTS_VAL = 5_000, 200
OBJECTS = ObjectOptions(
    forms=("heart", "arrow", "ring"), textures=("dots", "stripes"), side=64, max_distractors=0
)
"""What is pre-trained on, by the demonstration too: other forms than the scenes'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Pictures on disk."""

    scenes: WorldFiles
    objects: ObjectFiles


def scenes_with(*, keypoints: bool) -> WorldOptions:
    """Scenes of one category, few and large objects and nothing else, so that minutes of training show.

    `keypoints`: figures, which have them, in place of stars.
    """
    return sparse_world(("figure",) if keypoints else ("star",), SIDE)


def draw_pictures(
    folder: Path,
    *,
    keypoints: bool = False,
    num_train: int = NUM_TRAIN,
    num_val: int = NUM_VAL,
    report: Report | None = None,
) -> Drawn:
    """Draw scenes and objects below a study's folder, unless they are there."""
    world = (folder / WORLD).absolute()
    scenes = write_world(
        world / "scenes", num_train, num_val, 0, scenes_with(keypoints=keypoints), report=report
    )
    return Drawn(scenes=scenes, objects=draw_objects(folder, report))


def draw_objects(folder: Path, report: Report | None = None) -> ObjectFiles:
    """Draw the objects alone, for studies on photographs."""
    world = (folder / WORLD).absolute()
    return write_object_world(world / "objects", NUM_OBJECTS, NUM_OBJECTS_VAL, 0, OBJECTS, report=report)
