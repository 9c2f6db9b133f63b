"""Drawn pictures of one object each, to pre-train a classifier on.

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
from groundup.data.stage import build_stage
from groundup.data.textures import TextureName

OBJECT_STREAM = 1
"""Stream of random numbers of `draw_object`: it shares none with the scene of the same number."""


class ObjectOptions(KindOptions):
    """What pictures of single objects hold: other forms than the scenes', and some of their textures."""

    forms: tuple[FormName, ...] = ("heart", "flower", "arrow", "ring", "cross", "leaf")
    """Forms of the classes."""
    textures: tuple[TextureName, ...] = ("stripes", "checker", "zigzag", "grain")
    """Textures of the classes; every form comes in every texture."""
    max_distractors: int = Field(default=4, ge=0, le=64)
    """Most smaller objects of no class, most of them behind the object."""
    side: int = Field(default=96, ge=32, le=4096)
    """Height and width of a picture, in pixels."""
    min_size: float = Field(default=0.5, gt=0, le=2)
    """Smallest diameter of the object, as a share of the side."""
    max_size: float = Field(default=1.0, gt=0, le=2)
    """Largest diameter."""

    @model_validator(mode="after")
    def check_ranges(self) -> "ObjectOptions":
        """Refuse a range that is empty."""
        if self.min_size > self.max_size:
            raise ValueError(
                f"min_size is {self.min_size} but max_size is {self.max_size}; no size lies between"
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPicture:
    """One picture of one object."""

    image: UInt8[np.ndarray, "H W 3"]
    """RGB, as drawn: before JPEG."""
    label: int
    """Class from 0, in the order of `category_names`."""
    quality: int
    """JPEG quality the picture is written with."""


def draw_object(seed: int, index: int, options: ObjectOptions) -> ObjectPicture:
    """The picture of that number: the object-centric sister of `draw_scene`, to pre-train on.

    Classes take turns, so every stretch of pictures holds them alike.

    Raises:
        UsageError: a negative seed or index.
    """
    rng = build_generator(seed, index, OBJECT_STREAM)
    kinds = category_kinds(options)
    label = index % len(kinds)
    stage = build_stage(options.side, options.side)
    num_distractors = int(rng.integers(0, options.max_distractors + 1))
    num_front = int(num_distractors > 0 and rng.random() < 0.4)
    for _ in range(num_front):  # At the border, where it hides little.
        angle = rng.uniform(0, 2 * np.pi)
        centre = options.side * (0.5 + 0.45 * np.array([np.cos(angle), np.sin(angle)]))
        size = options.side * rng.uniform(0.12, 0.3)
        place_thing(stage, draw_alien(options, rng), None, centre=centre, size=size, min_visible=0.3, rng=rng)
    centre = options.side * np.clip(rng.normal(0.5, 0.06, 2), 0.35, 0.65)
    size = options.side * options.min_size * (options.max_size / options.min_size) ** rng.random()
    place_thing(stage, kinds[label], label, centre=centre, size=size, min_visible=0.0, rng=rng)
    for _ in range(num_distractors - num_front):
        centre, size = options.side * rng.random(2), options.side * rng.uniform(0.15, 0.5)
        place_thing(stage, draw_alien(options, rng), None, centre=centre, size=size, min_visible=0.3, rng=rng)
    image = photograph(stage, list(options.textures), rng)
    return ObjectPicture(image=image, label=label, quality=int(rng.integers(*JPEG_QUALITIES)))
