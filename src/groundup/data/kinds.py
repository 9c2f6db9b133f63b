"""What a category of drawn objects is, what is none, and one object of either put on the stage."""

import numpy as np
from jaxtyping import Float64
from pydantic import Field, model_validator

from groundup.config import Options
from groundup.data.forms import FIGURE_TILT, FORMS, FormName, draw_outline
from groundup.data.stage import Stage, Thing, put_up
from groundup.data.textures import TEXTURES, TextureName
from groundup.errors import UsageError

PERIODS = (0.16, 0.30)
"""Periods of textures as shares of the object's size."""
MIN_PERIOD = 3.0
"""Shortest period of a texture, in pixels: shorter ones would alias."""
MAX_SHEAR = 0.3
"""Most that an object is sheared: by 17 degrees either way."""
MAX_STRETCH = 1.3
"""Most that one axis of an object is stretched; the other shrinks alike."""

JPEG_QUALITIES = (60, 96)
"""Qualities that pictures are written with: from, up to but not including."""

Kind = tuple[FormName, TextureName]
"""Form and texture of an object."""


class KindOptions(Options):
    """Which forms with which textures are the categories; all others are distractors."""

    forms: tuple[FormName, ...]
    """Forms of the categories. A `figure` brings keypoints."""
    textures: tuple[TextureName, ...]
    """Textures of the categories; every form comes in every texture, and the labels go through the
    textures of the first form before the second."""
    max_distractors: int = Field(default=6, ge=0, le=64)
    """Most objects of no category in a picture."""

    @model_validator(mode="after")
    def check_kinds(self) -> "KindOptions":
        """Refuse no names, names given twice, and distractors where everything is a category."""
        for title, names in (("forms", self.forms), ("textures", self.textures)):
            if not names or len(set(names)) != len(names):
                raise ValueError(f"{title} must name at least one, none twice; found {list(names)}")
        if self.max_distractors and not alien_kinds(self):
            raise ValueError("every form and texture is a category's: max_distractors must be 0")
        return self


def category_kinds(options: KindOptions) -> list[Kind]:
    """Form and texture of each category, by label."""
    return [(form, texture) for form in options.forms for texture in options.textures]


def category_names(options: KindOptions) -> list[str]:
    """Names of the categories ("star-dots"), by label."""
    return [f"{form}-{texture}" for form, texture in category_kinds(options)]


def alien_kinds(options: KindOptions) -> list[Kind]:
    """Form and texture of all that is no category but shares its form, or its texture, or neither."""
    own = set(category_kinds(options))
    return [(form, texture) for form in FORMS for texture in TEXTURES if (form, texture) not in own]


def draw_alien(options: KindOptions, rng: np.random.Generator) -> Kind:
    """A kind that is no category; half of them have the form of one, so that form alone does not decide."""
    pool = alien_kinds(options)
    alike = [kind for kind in pool if kind[0] in options.forms]
    if alike and rng.random() < 0.5:
        pool = alike
    return pool[int(rng.integers(0, len(pool)))]


def build_generator(seed: int, index: int, stream: int | None = None) -> np.random.Generator:
    """The random numbers of one picture; a family of pictures other than scenes has its own `stream`.

    Raises:
        UsageError: a negative number.
    """
    if seed < 0 or index < 0:
        raise UsageError(
            f"seed {seed}, index {index}: drawn pictures are numbered from 0; use whole numbers >= 0"
        )
    spawn_key = () if stream is None else (stream,)
    return np.random.default_rng(np.random.SeedSequence([seed, index], spawn_key=spawn_key))


def place_thing(
    stage: Stage,
    kind: Kind,
    label: int | None,
    *,
    centre: np.ndarray,
    size: float,
    min_visible: float,
    rng: np.random.Generator,
    in_crowd: bool = False,
) -> Thing | None:
    """Put one object of the kind behind all others, or nothing if less than `min_visible` of it would show.

    `size` is the diameter in pixels before shear and stretch; the centre is in pixels too.
    """
    form, texture = kind
    return put_up(
        stage,
        draw_outline(form, rng),
        centre=centre,
        basis=draw_basis(form, size, rng),
        texture=texture,
        period=max(MIN_PERIOD, size * rng.uniform(*PERIODS)),
        label=label,
        in_crowd=in_crowd,
        min_visible=min_visible,
    )


def draw_basis(form: FormName, size: float, rng: np.random.Generator) -> Float64[np.ndarray, "2 2"]:
    """Turn, shear, stretch and scale of an object of the form; mirrored ones are as likely."""
    angle = rng.uniform(-FIGURE_TILT, FIGURE_TILT) if form == "figure" else rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1.0, rng.uniform(-MAX_SHEAR, MAX_SHEAR)], [0.0, 1.0]])
    stretch = MAX_STRETCH ** rng.uniform(-1, 1)
    basis: np.ndarray = size / 2 * turn @ shear @ np.diag([stretch, 1 / stretch])
    return basis
