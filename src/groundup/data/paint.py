"""Backdrops with the statistics of photographs, light, shade, and what a camera makes of them.

Legend:
    H, W  height and width in pixels
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from groundup.data.stage import Stage, Thing
from groundup.data.textures import TextureName, draw_colours, draw_texture

LENS_BLUR = 0.5
"""Standard deviation, in pixels, of the blur that takes the steps from the edges of leaves."""

Picture = Float32[np.ndarray, "H W 3"]


def photograph(
    stage: Stage, textures: list[TextureName], rng: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """A picture of all that is on the stage, in some light; the backdrop may bear the textures in places."""
    height, width = stage.size
    picture = draw_backdrop(height, width, textures, rng)
    paint_things(picture, stage, draw_light(rng), rng)
    return expose(picture, rng)


def draw_backdrop(height: int, width: int, textures: list[TextureName], rng: np.random.Generator) -> Picture:
    """What lies behind the objects, red green blue about 0..1.

    Dead leaves (things hiding things, sizes by a power law) over a colour gradient, all under noise whose
    amplitude falls with frequency: both are laws that photographs follow. Some leaves bear a texture of
    the objects, so that texture alone does not make an object.

    Source: Field, 1987, "Relations between the statistics of natural images and the response properties of
    cortical cells" (amplitude 1/f); Lee, Mumford and Huang, 2001, "Occlusion models for natural images"
    (dead leaves, radii by r^-3).
    """
    palette = draw_palette(rng)
    picture = draw_gradient(height, width, palette, rng)
    if rng.random() < 0.75:
        draw_leaves(picture, palette, textures, rng)
        picture = cv2.GaussianBlur(picture, (0, 0), LENS_BLUR)
    noise = draw_noise(height, width, rng.uniform(0.9, 1.5), rng)
    tint = np.eye(3) * rng.uniform(0.1, 0.6) + np.ones((3, 3)) * rng.uniform(0.3, 0.8)
    strength = rng.uniform(0.03, 0.13)
    picture += noise @ (tint * strength).astype(np.float32)
    return picture


def draw_palette(rng: np.random.Generator) -> np.ndarray:
    """Five colours (5, 3) that go together: near one hue or two, light and dark."""
    base = rng.random((2, 3))
    gray = base.mean(axis=1, keepdims=True)
    base = gray + (base - gray) * rng.uniform(0.1, 0.65)
    colours = base[rng.integers(0, 2, 5)] + rng.normal(0, 0.1, (5, 3)) + rng.normal(0, 0.16, (5, 1))
    palette: np.ndarray = np.clip(colours, 0.02, 0.98)
    return palette.astype(np.float32)


def draw_gradient(height: int, width: int, palette: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """From one colour to another across the picture, with a horizon in some."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    ramp = 0.5 + 0.4 * (np.cos(angle) * x + np.sin(angle) * y)
    if rng.random() < 0.4:
        ramp = 1 / (1 + np.exp(-(ramp - rng.uniform(0.3, 0.7)) * rng.uniform(8, 60)))
    ramp = ramp.astype(np.float32)[:, :, None]
    gradient: np.ndarray = palette[0] + ramp * (palette[1] - palette[0])
    return gradient


def draw_leaves(
    picture: np.ndarray, palette: np.ndarray, textures: list[TextureName], rng: np.random.Generator
) -> None:
    """Cover the picture in place with ellipses and straight-edged pieces, the last on top."""
    height, width = picture.shape[:2]
    side = max(height, width)
    count = int(rng.integers(3, 40))
    # Inverse of the cumulative power law r^-3 between 4 % and 70 % of the side.
    low, high = 0.04, 0.7
    radii = side / np.sqrt(low**-2 - rng.random(count) * (low**-2 - high**-2))
    for radius in np.sort(radii)[::-1] if rng.random() < 0.6 else radii:
        centre = rng.random(2) * (width, height)
        colour = palette[rng.integers(0, len(palette))] + rng.normal(0, 0.06, 3)
        corners = int(rng.choice([3, 4, 4, 5, 24, 24, 24, 24]))
        angles = np.sort(rng.random(corners)) + np.arange(corners)
        angles = angles * (2 * np.pi / corners)
        points = radius * np.stack([np.cos(angles), rng.uniform(0.35, 1) * np.sin(angles)], axis=1)
        tilt = rng.uniform(0, np.pi)
        points = points @ np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]]) + centre
        ring = np.round(points * 16).astype(np.int32)
        if radius > 0.1 * side and rng.random() < 0.35:
            paint_textured(picture, ring, colour, textures, rng)
        else:
            cv2.fillPoly(picture, [ring], colour.tolist(), shift=4)


def paint_textured(
    picture: np.ndarray,
    ring: np.ndarray,
    colour: np.ndarray,
    textures: list[TextureName],
    rng: np.random.Generator,
) -> None:
    """Fill the ring (sixteenths of a pixel) with a texture of the colour and its lighter neighbour."""
    height, width = picture.shape[:2]
    x1, y1 = np.maximum(ring.min(axis=0) // 16, 0)
    x2, y2 = np.minimum(ring.max(axis=0) // 16 + 1, (width, height))
    if x2 <= x1 or y2 <= y1:
        return
    inside = np.zeros((y2 - y1, x2 - x1), np.uint8)
    cv2.fillPoly(inside, [ring - (16 * x1, 16 * y1)], 1, shift=4)
    v, u = np.mgrid[y1:y2, x1:x2].astype(np.float32)
    name = textures[int(rng.integers(0, len(textures)))]
    ratio = draw_texture(name, u, v, rng.uniform(4, 0.12 * max(height, width) + 5), rng)
    other = colour + rng.normal(0, 0.16)
    mixed = colour + ratio[:, :, None] * (other - colour)
    np.copyto(picture[y1:y2, x1:x2], mixed.astype(np.float32), where=inside[:, :, None].astype(bool))


def draw_noise(height: int, width: int, fall: float, rng: np.random.Generator) -> Picture:
    """Three channels of noise whose amplitude falls as frequency^-fall; standard deviation 1 each."""
    rows = cv2.getOptimalDFTSize(height)
    columns = cv2.getOptimalDFTSize(width)
    fy, fx = np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None]
    frequency = np.sqrt(fx * fx + fy * fy)
    frequency[0, 0] = np.inf
    amplitude = (frequency**-fall).astype(np.float32)
    shape = (3, rows, columns // 2 + 1)
    spectrum = rng.standard_normal((2, *shape), np.float32)
    waves = (spectrum[0] + 1j * spectrum[1]) * amplitude
    field = np.fft.irfft2(waves, s=(rows, columns)).astype(np.float32)[:, :height, :width]
    field /= field.std(axis=(1, 2), keepdims=True) + np.float32(1e-6)
    return np.ascontiguousarray(field.transpose(1, 2, 0))


def expose(picture: Picture, rng: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """What a camera makes of it: uneven light, a cast, soft focus, noise."""
    height, width = picture.shape[:2]
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = 1 + fall * (np.cos(angle) * x + np.sin(angle) * y) - rng.uniform(0, 0.15) * (x * x + y * y)
    gains = rng.uniform(0.8, 1.1) * rng.uniform(0.92, 1.08, 3)
    seen = picture * light[:, :, None].astype(np.float32)
    seen *= gains.astype(np.float32)
    focus = rng.uniform(-1.0, 1.1)
    if focus > 0.3:
        seen = cv2.GaussianBlur(seen, (0, 0), focus)
    noise = rng.uniform(0, 0.045)
    grain = rng.standard_normal(seen.shape, np.float32)
    grain *= np.float32(noise)
    seen += grain
    levels: np.ndarray = np.clip(seen * 255 + 0.5, 0, 255)
    return levels.astype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """How a scene is lit; the same for all its objects."""

    direction: tuple[float, float]
    """Unit vector in the picture along which the light falls."""
    relief: float
    """Strength 0..1 of light and shade along edges; 0 is flat."""
    shadow: float
    """Darkness 0..1 of cast shadows."""


def draw_light(rng: np.random.Generator) -> Light:
    """The light of one scene; flat and without shadows in some."""
    angle = rng.uniform(0, 2 * np.pi)
    relief = rng.uniform(-0.15, 0.5)
    shadow = rng.uniform(-0.2, 0.55)
    direction = (float(np.cos(angle)), float(np.sin(angle)))
    return Light(direction=direction, relief=max(0.0, relief), shadow=max(0.0, shadow))


def paint_things(picture: np.ndarray, stage: Stage, light: Light, rng: np.random.Generator) -> None:
    """Paint all that is on the stage over the backdrop, in place, from back to front."""
    for thing in reversed(stage.things):
        if light.shadow > 0:
            paint_shadow(picture, thing, light)
        paint_thing(picture, thing, light, rng)


def paint_shadow(picture: np.ndarray, thing: Thing, light: Light) -> None:
    """Darken what lies behind the thing, a little aside."""
    reach = 0.05 * float(np.sqrt(abs(np.linalg.det(thing.basis)))) * 2 + 0.5
    margin = int(np.ceil(3 * reach))
    shade = cv2.GaussianBlur(np.pad(thing.coverage, margin), (0, 0), reach)
    x = thing.x - margin + round(1.5 * reach * light.direction[0])
    y = thing.y - margin + round(1.5 * reach * light.direction[1])
    window, shade = clip_window(picture, x, y, shade)
    window *= 1 - light.shadow * shade[:, :, None]


def paint_thing(picture: np.ndarray, thing: Thing, light: Light, rng: np.random.Generator) -> None:
    """Lay the thing's texture, with light and shade, over the picture in place."""
    height, width = thing.coverage.shape
    dark, bright = draw_colours(rng)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x += np.float32(thing.x + 0.5 - thing.centre[0])
    y += np.float32(thing.y + 0.5 - thing.centre[1])
    # The pattern turns and shears with the object and keeps its scale.
    scale = np.sqrt(abs(np.linalg.det(thing.basis)))
    inverse = (np.linalg.inv(thing.basis) * scale).astype(np.float32)
    u = x * inverse[0, 0] + y * inverse[0, 1]
    v = x * inverse[1, 0] + y * inverse[1, 1]
    ratio = draw_texture(thing.texture, u, v, thing.period, rng)
    colours = dark + ratio[:, :, None] * (bright - dark)
    slope = rng.uniform(0, 0.25)
    shade = 1 - np.float32(slope / scale) * (x * light.direction[0] + y * light.direction[1])
    if light.relief > 0:
        soft = cv2.GaussianBlur(thing.coverage, (0, 0), float(0.06 * scale + 0.6))
        gx, gy = cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)
        shade += np.float32(light.relief) * (gx * light.direction[0] + gy * light.direction[1])
    colours *= np.clip(shade, 0.4, 1.6)[:, :, None]
    window, colours = clip_window(picture, thing.x, thing.y, colours)
    _, coverage = clip_window(picture, thing.x, thing.y, thing.coverage)
    window += coverage[:, :, None] * (colours - window)


def clip_window(picture: np.ndarray, x: int, y: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parts (views) of the picture and of the values put at (x, y) that lie over each other."""
    height, width = picture.shape[:2]
    top, left = max(0, y), max(0, x)
    bottom, right = min(height, y + values.shape[0]), min(width, x + values.shape[1])
    if bottom <= top or right <= left:
        return picture[:0, :0], values[:0, :0]
    return picture[top:bottom, left:right], values[top - y : bottom - y, left - x : right - x]
