"""Textures of drawn objects: two colours and how they alternate.

Legend:
    H, W  height and width in pixels
"""

from functools import cache
from typing import Literal, get_args

import cv2
import numpy as np
from jaxtyping import Float32

TextureName = Literal["stripes", "dots", "checker", "zigzag", "grain", "rings", "plain"]

TEXTURES: tuple[TextureName, ...] = get_args(TextureName)

GRAIN_SIDE = 128
"""Side of the noise tile that grain is cut from, in samples; further out it repeats."""
GRAIN_SAMPLES = 5.0
"""Samples of the tile a period."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in brightness. Source: ITU-R BT.601, as JPEG has it."""
MIN_CONTRAST = 0.22
"""Least difference of brightness, 0..1, between the two colours of a texture: below it the texture is lost
in the noise that a scene is exposed with."""

Plane = Float32[np.ndarray, "H W"]


def draw_texture(name: TextureName, u: Plane, v: Plane, period: float, rng: np.random.Generator) -> Plane:
    """Mixing ratio 0..1 of a texture's two colours.

    (u, v) is the place of each pixel in the object's own frame; they and the period, after which the pattern
    repeats, are in pixels.
    """
    angle = rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(angle) / period), np.float32(np.sin(angle) / period)
    shift = rng.random(2).astype(np.float32)
    extent = np.float32(rng.random())
    a = u * cos + v * sin + shift[0]
    b = v * cos - u * sin + shift[1]
    depth: np.ndarray
    match name:
        case "stripes":
            depth = fold(a) - (0.2 + 0.1 * extent)
        case "zigzag":
            depth = fold(a + 1.2 * fold(b * (0.55 + 0.2 * extent))) - 0.25
        case "rings":
            depth = fold(np.sqrt(u * u + v * v) / np.float32(period) + shift[0]) - (0.2 + 0.1 * extent)
        case "checker":
            across, along = fold(a * 0.75) - 0.25, fold(b * 0.75) - 0.25
            depth = np.sign(across * along) * np.minimum(np.abs(across), np.abs(along)) / 0.75
        case "dots":
            row = np.floor(b)
            across, along = a + 0.5 * (row % 2), b - row - 0.5
            across = across - np.floor(across) - 0.5
            depth = 0.26 + 0.1 * extent - np.sqrt(across * across + along * along)
        case "grain":
            depth = 0.25 * cut_grain(a, b)
        case "plain":
            return np.full_like(u, extent)
    # One pixel of transition, as a lens would give.
    ratio: np.ndarray = np.clip(0.5 + depth * np.float32(period), 0, 1)
    return ratio.astype(np.float32)


def fold(position: np.ndarray) -> np.ndarray:
    """Distance 0..0.5 of each position from the middle between two whole numbers."""
    distance: np.ndarray = np.abs(position - np.floor(position) - np.float32(0.5))
    return distance


def cut_grain(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Band-limited noise at the positions, in periods; standard deviation 1."""
    columns = np.mod(a * np.float32(GRAIN_SAMPLES), np.float32(GRAIN_SIDE))
    rows = np.mod(b * np.float32(GRAIN_SAMPLES), np.float32(GRAIN_SIDE))
    return cv2.remap(grain_tile(), columns, rows, cv2.INTER_LINEAR)


@cache
def grain_tile() -> np.ndarray:
    """The one tile all grain is cut from: a difference of two blurs of white noise, wrapping round.

    One sample longer than its period each way, so that every position has its right and lower neighbour.
    """
    noise = np.random.default_rng(0).standard_normal((3 * GRAIN_SIDE, 3 * GRAIN_SIDE)).astype(np.float32)
    noise = np.tile(noise[:GRAIN_SIDE, :GRAIN_SIDE], (3, 3))
    band = cv2.GaussianBlur(noise, (0, 0), 1.1) - cv2.GaussianBlur(noise, (0, 0), 2.4)
    tile = band[GRAIN_SIDE : 2 * GRAIN_SIDE + 1, GRAIN_SIDE : 2 * GRAIN_SIDE + 1]
    return np.ascontiguousarray(tile / tile.std())


def draw_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two colours, red green blue 0..1, that differ in brightness; they tell nothing of the category."""
    while True:
        colours: np.ndarray = rng.random((2, 3)).astype(np.float32)
        # Most are drawn towards gray, as most of what is photographed is.
        gray = (colours @ LUMA)[:, None]
        colours = gray + (colours - gray) * np.float32(rng.uniform(0.2, 1.2))
        if abs(float((colours[0] - colours[1]) @ LUMA)) >= MIN_CONTRAST:
            return np.clip(colours[0], 0, 1), np.clip(colours[1], 0, 1)
