"""Drawn scenes: many objects that hide one another, distractors, crowds, with exact annotations.

A category is a form with a texture ("star-dots"), so neither form nor texture alone decides, and colour
tells nothing. Objects are small to large, hide one another and leave the picture; beside them stand
distractors (a form of no category, or a form of a category with a texture of none) and crowds. What would
be hidden by more than 70 % is not drawn, so every object of a category that can be seen is annotated.

Legend:
    H, W  height and width in pixels
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from pydantic import Field, model_validator

from groundup.data.forms import FormName
from groundup.data.kinds import (
    JPEG_QUALITIES,
    KindOptions,
    build_generator,
    category_kinds,
    draw_alien,
    place_thing,
)
from groundup.data.paint import photograph
from groundup.data.stage import Instance, Stage, annotate, build_stage
from groundup.data.textures import TextureName

TRIES = 12
"""Places tried for an object before the scene goes without it."""
NEIGHBOUR_RATIO = 0.45
"""Share of objects put close to another, so that occlusion is common."""
DISTRACTOR_SIZES = (1.6, 0.7)
"""Factors on the smallest and largest size: a distractor too small to be told from an object would be a
lie, and a large one would leave no room."""
CROWD_SIZES = (0.06, 0.12)
"""Sizes of the members of a crowd, as shares of the shorter side."""
CROWD_COUNTS = (6, 15)
"""Members of a crowd: from, up to but not including."""


class WorldOptions(KindOptions):
    """What scenes hold."""

    forms: tuple[FormName, ...] = ("star", "gear", "crescent", "figure")
    """Forms of the categories. A `figure` brings keypoints."""
    textures: tuple[TextureName, ...] = ("stripes", "dots", "checker")
    """Textures of the categories; every form comes in every texture."""
    min_side: int = Field(default=160, ge=32, le=4096)
    """Smallest height and width of a scene, in pixels."""
    max_side: int = Field(default=160, ge=32, le=4096)
    """Largest height and width; the two are drawn apart."""
    min_objects: int = Field(default=1, ge=1)
    """Fewest objects a scene sets out to hold, the crowd not counted. Where twelve places were tried for an
    object and none left enough of it in sight, the scene goes without it; one object there always is."""
    max_objects: int = Field(default=12, ge=1, le=64)
    """Most objects a scene may hold, the crowd not counted."""
    min_size: float = Field(default=0.09, gt=0, le=1)
    """Smallest diameter of an object, as a share of the scene's shorter side; sizes are log-uniform."""
    max_size: float = Field(default=0.6, gt=0, le=2)
    """Largest diameter."""
    crowd_ratio: float = Field(default=0.12, ge=0, le=1)
    """Share of scenes with a crowd: many small objects of one category, annotated as one with iscrowd 1."""
    min_visible: float = Field(default=0.3, gt=0, le=0.5)
    """Least share of an object, parts outside the picture included, that is seen; others are not drawn."""

    @model_validator(mode="after")
    def check_ranges(self) -> "WorldOptions":
        """Refuse ranges that are empty."""
        for name in ("side", "objects", "size"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low > high:
                raise ValueError(f"min_{name} is {low} but max_{name} is {high}; no {name} lies between")
        return self


def sparse_world(forms: tuple[FormName, ...], side: int) -> WorldOptions:
    """Square scenes of few and large objects and nothing else, so that minutes of training show."""
    return WorldOptions(
        forms=forms,
        textures=("dots",),
        min_side=side,
        max_side=side,
        max_objects=3,
        min_size=0.3,
        max_size=0.7,
        crowd_ratio=0.0,
        max_distractors=0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One drawn picture and what it holds."""

    image: UInt8[np.ndarray, "H W 3"]
    """RGB, as drawn: before JPEG."""
    instances: list[Instance]
    """Front to back, the crowd last."""
    quality: int
    """JPEG quality the scene is written with."""


def draw_scene(seed: int, index: int, options: WorldOptions) -> Scene:
    """The scene of that number. It depends on nothing else, and no other scene on it.

    Raises:
        UsageError: a negative seed or index.
    """
    rng = build_generator(seed, index)
    height, width = (int(v) for v in rng.integers(options.min_side, options.max_side + 1, 2))
    stage = build_stage(height, width)
    set_stage(stage, options, rng)
    return Scene(
        image=photograph(stage, list(options.textures), rng),
        instances=annotate(stage),
        quality=int(rng.integers(*JPEG_QUALITIES)),
    )


def set_stage(stage: Stage, options: WorldOptions, rng: np.random.Generator) -> None:
    """Put up the objects, the distractors and perhaps a crowd, in mixed order."""
    num_objects = int(rng.integers(options.min_objects, options.max_objects + 1))
    num_distractors = int(rng.integers(0, options.max_distractors + 1))
    # Front-most is an object, which nothing can keep from the stage; a crowd is next, or it would hide.
    set_thing(stage, True, options, rng)
    if rng.random() < options.crowd_ratio:
        set_crowd(stage, options, rng)
    wanted = np.arange(num_objects - 1 + num_distractors) < num_objects - 1
    for is_object in rng.permutation(wanted):
        set_thing(stage, bool(is_object), options, rng)


def set_thing(stage: Stage, is_object: bool, options: WorldOptions, rng: np.random.Generator) -> None:
    """Put up one object, or a distractor, where enough of it can be seen; after some tries, nowhere."""
    height, width = stage.size
    low, high, label = options.min_size, options.max_size, None
    if is_object:
        kinds = category_kinds(options)
        label = int(rng.integers(0, len(kinds)))
        kind = kinds[label]
    else:
        kind = draw_alien(options, rng)
        low *= DISTRACTOR_SIZES[0]
        high = max(low, high * DISTRACTOR_SIZES[1])
    for _ in range(TRIES):
        size = min(height, width) * low * (high / low) ** rng.random()
        if not stage.things:
            centre = (0.25 + 0.5 * rng.random(2)) * (width, height)
        elif rng.random() < NEIGHBOUR_RATIO:
            neighbour = stage.things[int(rng.integers(0, len(stage.things)))]
            centre = neighbour.centre + rng.normal(0, 0.45, 2) * size
        else:
            centre = rng.random(2) * (width, height)
        share = options.min_visible if stage.things else 0.0
        if place_thing(stage, kind, label, centre=centre, size=size, min_visible=share, rng=rng):
            return


def set_crowd(stage: Stage, options: WorldOptions, rng: np.random.Generator) -> None:
    """Put up a cluster of small objects of one category."""
    height, width = stage.size
    kinds = category_kinds(options)
    label = int(rng.integers(0, len(kinds)))
    middle = (0.1 + 0.8 * rng.random(2)) * (width, height)
    size = min(height, width) * rng.uniform(*CROWD_SIZES)
    for _ in range(int(rng.integers(*CROWD_COUNTS))):
        place_thing(
            stage,
            kinds[label],
            label,
            centre=middle + rng.normal(0, 1.0, 2) * (1.5 * size, size),
            size=size * rng.uniform(0.8, 1.25),
            min_visible=options.min_visible,
            rng=rng,
            in_crowd=True,
        )
