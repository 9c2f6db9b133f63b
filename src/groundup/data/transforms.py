"""What a photograph and its truth become before the model sees them.

A transform is drawn as a `View` from the photograph's size, the options and the sample's seed, and
then applied; nothing else is random, so a sample is a pure function of its photograph and seed.

The resize rule is the one of Detectron, Detectron2 and torchvision: scale = min(short / shorter
side, max / longer side). The new sides are rounded to the nearest pixel (Detectron2) or down
(torchvision), as the options say; positions then scale by the exact ratio of the integer sizes.

Legend:
    H, W  height and width of an image
"""

from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import UInt8
from pydantic import field_validator

from groundup.config import Options
from groundup.data.buckets import BucketOptions
from groundup.data.copy_paste import CopyPasteOptions
from groundup.data.geometry import Mirrors, View, one_pixel, rasterise_polygons, view_truth
from groundup.data.order import random_fractions
from groundup.data.truth import Bitmap, Polygons, Truth

# One image is the work of one worker: threads inside it would only fight with the other workers'.
cv2.setNumThreads(0)

VIEW_STREAM = 11
"""Name of the views' random stream under a sample's seed."""
NUM_DRAWS = 10
"""Random numbers a view owns. Each choice has its own, drawn or not, so that turning one option on
changes no other choice: two arms that differ in scale jitter still flip alike."""

PAPER_SCALES = (640, 672, 704, 736, 768, 800)
"""Shorter sides of the paper's train-time scale augmentation, used with 9x from scratch and 6x
fine-tuned. Source: He et al. (2019), section 4, says 640 to 800; Detectron and Detectron2 give the set."""

Size = tuple[int, int]
"""(height, width)."""


class LargeScaleJitterOptions(Options):
    """Resize by a large random factor, then cut to a square.

    Source: Ghiasi et al., Simple Copy-Paste (2021), section 3; Detectron2's new baselines
    (`ResizeScale`, `FixedSizeCrop`), which take 0.1 to 2.0 of 1024.
    """

    size: int = 1024
    """Side of the square that the image is fitted into at factor 1 and cut to; batches are padded to it."""
    smallest: float = 0.1
    """Least factor."""
    largest: float = 2.0
    """Greatest factor."""

    def model_post_init(self, _context: object) -> None:
        """Refuse a range that holds no factor."""
        if not (0 < self.smallest <= self.largest and self.size > 0):
            raise ValueError(f"factors {self.smallest} to {self.largest} of {self.size} pixels hold no image")


class CropOptions(Options):
    """Cut a random rectangle out of the photograph before it is resized.

    Source: Detectron2, `RandomCrop` of kind `relative_range`.
    """

    probability: float = 1.0
    """How often a photograph is cut."""
    smallest: float = 0.5
    """Least share of each side that stays; height and width are drawn apart, up to the whole side."""

    def model_post_init(self, _context: object) -> None:
        """Refuse shares that are none."""
        if not (0 <= self.probability <= 1 and 0 < self.smallest <= 1):
            raise ValueError("crop.probability lies in 0 .. 1 and crop.smallest in 0 (excluded) .. 1")


class TransformOptions(Options):
    """Geometry of training and evaluation images."""

    short_side: tuple[int, ...] = (800,)
    """Training: shorter side in pixels; several are a jitter of scale, see `short_side_choice`. `paper` is
    short for its train-time scale augmentation, 640 to 800."""
    short_side_choice: Literal["set", "range"] = "set"
    """Whether `short_side` lists the choices (as Detectron2's 640, 672, ..., 800) or gives the least and
    the greatest (as the paper's 640, 800)."""
    max_side: int = 1333
    """Training: the longer side stays within so many pixels."""
    rounding: Literal["nearest", "down"] = "nearest"
    """How a scaled side becomes whole: to the nearest pixel as in Detectron2, or down as in torchvision."""
    flip: float = 0.5
    """Training: how often left and right change places."""
    crop: CropOptions | None = None
    """Training: random cut before the resize; None leaves photographs whole."""
    large_scale_jitter: LargeScaleJitterOptions | None = None
    """Training: replaces `short_side` and `max_side` by a jitter of the scale and a cut to a square."""
    copy_paste: CopyPasteOptions | None = None
    """Training: paste instances of a second photograph, whose view is drawn likewise; None pastes nothing."""
    test_short_side: int = 800
    """Evaluation: shorter side in pixels."""
    test_max_side: int = 1333
    """Evaluation: the longer side stays within so many pixels."""
    mask_format: Literal["polygons", "bitmaps"] = "polygons"
    """Keep polygons as they are, or draw them at the photograph's resolution as torchvision does."""
    buckets: BucketOptions | None = None
    """Training: pad batches to a few shapes, for `training.compile` and `training.capture`; None pads each to
    what it needs. Group norms look at padding, so this is a part of what is trained."""

    @field_validator("short_side", mode="before")
    @classmethod
    def _name_stands_for_sides(cls, value: Any) -> Any:
        """Put the paper's sides in the place of their name."""
        return PAPER_SCALES if value == "paper" else value

    def model_post_init(self, _context: object) -> None:
        """Refuse sides and shares that cannot be."""
        if self.short_side_choice == "range" and not (
            len(self.short_side) == 2 and self.short_side[0] <= self.short_side[1]
        ):
            raise ValueError(
                f"a range of short_side needs its least and greatest value, not {list(self.short_side)}"
            )
        sides = (*self.short_side, self.max_side, self.test_short_side, self.test_max_side)
        if not self.short_side or min(sides) < 1:
            raise ValueError("short_side, max_side, test_short_side and test_max_side need at least 1 pixel")
        jitter = self.large_scale_jitter
        largest = (self.max_side, self.max_side) if jitter is None else (jitter.size, jitter.size)
        if self.buckets is not None and not self.buckets.holds(largest):
            raise ValueError(
                f"buckets.sizes is {list(self.buckets.sizes)}, but a batch of high and wide photographs "
                f"can need {largest[0]} x {largest[1]} pixels: add a size that holds them"
            )
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip is a probability in 0 .. 1, not {self.flip}")


def apply_transforms(
    image: UInt8[np.ndarray, "H W 3"],
    truth: Truth,
    options: TransformOptions,
    seed: int | None,
    mirrors: Mirrors | None = None,
) -> tuple[UInt8[np.ndarray, "_ _ 3"], Truth]:
    """The photograph and its truth as the model shall see them.

    Args:
        image: RGB.
        truth: in pixels of the image.
        options: the geometry.
        seed: of the sample, for training; None takes the evaluation geometry, where nothing is random.
        mirrors: keypoints that change places in a mirror, by class; None where none does.
    """
    size = (image.shape[0], image.shape[1])
    if options.mask_format == "bitmaps":
        truth = with_bitmaps(truth, size)
    view = evaluation_view(size, options) if seed is None else training_view(size, options, seed)
    return view_image(image, view), view_truth(truth, view, size, mirrors)


def evaluation_view(size: Size, options: TransformOptions) -> View:
    """The whole photograph, resized by the evaluation sides."""
    scaled = resized_size(size, options.test_short_side, options.test_max_side, options.rounding)
    return whole_view(size, scaled)


def whole_view(size: Size, scaled: Size, *, flip: bool = False) -> View:
    """The whole photograph at the new size."""
    return View(cut=(0, 0, size[1], size[0]), scaled=scaled, window=(0, 0, scaled[1], scaled[0]), flip=flip)


def training_view(size: Size, options: TransformOptions, seed: int) -> View:
    """The view of a photograph of the size that the sample's seed names."""
    side, flip, factor, left, top, coin, *cut_draws = random_fractions(NUM_DRAWS, seed, VIEW_STREAM).tolist()
    cut = (0, 0, size[1], size[0])
    if options.crop is not None and coin < options.crop.probability:
        cut = random_cut(size, options.crop.smallest, cut_draws)
    cut_size = (cut[3] - cut[1], cut[2] - cut[0])
    jitter = options.large_scale_jitter
    if jitter is None:
        scaled = resized_size(cut_size, drawn_short_side(options, side), options.max_side, options.rounding)
        window = (0, 0, scaled[1], scaled[0])
    else:
        target = jitter.size * (jitter.smallest + factor * (jitter.largest - jitter.smallest))
        scaled = scaled_size(cut_size, target / max(cut_size), "nearest")
        x1 = round(left * max(scaled[1] - jitter.size, 0))
        y1 = round(top * max(scaled[0] - jitter.size, 0))
        window = (x1, y1, min(x1 + jitter.size, scaled[1]), min(y1 + jitter.size, scaled[0]))
    return View(cut=cut, scaled=scaled, window=window, flip=flip < options.flip)


def drawn_short_side(options: TransformOptions, draw: float) -> int:
    """The shorter side that a number in [0, 1) chooses; limits of a range included."""
    if options.short_side_choice == "range":
        low, high = options.short_side
        return low + int(draw * (high - low + 1))
    return options.short_side[int(draw * len(options.short_side))]


def random_cut(size: Size, smallest: float, draws: list[float]) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2) of a rectangle whose sides are at least the share `smallest` of the image's.

    Args:
        size: (height, width) of the image.
        smallest: share in (0, 1].
        draws: numbers in [0, 1) that choose height, width, place down and place across.
    """
    tall, wide, down, across = draws
    height = max(1, int(size[0] * (smallest + tall * (1 - smallest)) + 0.5))
    width = max(1, int(size[1] * (smallest + wide * (1 - smallest)) + 0.5))
    y1, x1 = int(down * (size[0] - height + 1)), int(across * (size[1] - width + 1))
    return (x1, y1, x1 + width, y1 + height)


def resized_size(size: Size, short_side: int, max_side: int, rounding: Literal["nearest", "down"]) -> Size:
    """(height, width) at which the shorter side is `short_side`, or the longer one `max_side`.

    Source: Fast R-CNN (Girshick, 2015), section 3.1; the same rule in all its successors.
    """
    return scaled_size(size, min(short_side / min(size), max_side / max(size)), rounding)


def scaled_size(size: Size, scale: float, rounding: Literal["nearest", "down"]) -> Size:
    """The sides times the scale, made whole, at least one pixel."""
    half = 0.5 if rounding == "nearest" else 0.0
    return max(1, int(size[0] * scale + half)), max(1, int(size[1] * scale + half))


def view_image(image: UInt8[np.ndarray, "H W 3"], view: View) -> UInt8[np.ndarray, "_ _ 3"]:
    """The photograph as the view shows it.

    Growing interpolates linearly, as all peers do. Shrinking averages over the area each new pixel
    covers: linear interpolation would skip pixels and alias (Pillow, which Detectron2 uses, widens
    its filter likewise). Bytes stay bytes: the model makes floats of a whole batch on its device,
    which costs a third of converting here.
    """
    x1, y1, x2, y2 = view.cut
    image = image[y1:y2, x1:x2]
    height, width = view.scaled
    if image.shape[:2] != view.scaled:
        shrinks = height * width < image.shape[0] * image.shape[1]
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        image = cv2.resize(image, (width, height), interpolation=interpolation)
    x1, y1, x2, y2 = view.window
    image = image[y1:y2, x1:x2]
    return cv2.flip(image, 1) if view.flip else np.ascontiguousarray(image)


def with_bitmaps(truth: Truth, size: Size) -> Truth:
    """The truth with every polygon mask drawn as a bitmap, at the photograph's own resolution.

    An instance too thin to cover a pixel keeps the one at the middle of its box.
    """
    if truth.masks is None:
        return truth
    masks: list[Polygons | Bitmap] = [
        (rasterise_polygons(mask, *size) or one_pixel(box, size)) if isinstance(mask, list) and mask else mask
        for mask, box in zip(truth.masks, truth.boxes, strict=True)
    ]
    return Truth(boxes=truth.boxes, labels=truth.labels, masks=masks, keypoints=truth.keypoints)
