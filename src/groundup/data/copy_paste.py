"""Simple Copy-Paste: some instances of one photograph pasted into another, and the truth of the result.

Both photographs are seen through views of their own (scale jitter, flip) before anything is pasted, and
both are laid with their upper left corners together. Everything random is named by the sample's seed.

What pasting does to the truth of what lay there before:
    masks       lose the pixels that are covered; a polygon that loses any becomes a bitmap
    boxes       become those of what remains
    instances   of which less than `min_visible_area` remains leave the truth, and are counted
    keypoints   under something pasted become hidden (visibility 1), which is what COCO says of keypoints
                that are there and cannot be seen; they stay where they are and are still learnt from
    no mask     an instance without one in a set with masks loses covered pixels of its box

Source: Ghiasi et al., Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation
(2021), section 3.

Legend:
    H, W  height and width of a picture     G  its instances     P  keypoints an instance
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8
from pydantic import Field

from groundup.config import Options
from groundup.data.geometry import BORDER, one_pixel, rasterise_polygons, tight_bitmap
from groundup.data.order import hash_of, random_fractions
from groundup.data.truth import Bitmap, Polygons, Truth
from groundup.errors import DataError

DONOR_STREAM, CHOICE_STREAM = 21, 22
"""Names of the random streams of the second photograph and of its instances under a sample's seed."""
NUM_DONOR_DRAWS = 2
"""Whether anything is pasted, and from which photograph."""
GREY = 128
"""What lies where neither photograph does. Source: Detectron2, `FixedSizeCrop.pad_value`."""
HIDDEN = 1
"""Visibility of a keypoint that is there and not seen. Source: COCO, "Data format", keypoints."""

Size = tuple[int, int]
"""(height, width)."""


class CopyPasteOptions(Options):
    """Paste instances of a second photograph into each training sample; needs masks."""

    probability: float = Field(default=1.0, ge=0, le=1)
    """How often a sample has a second photograph. Source: Ghiasi et al. (2021): always."""
    blend_sigma: float | None = Field(default=None, gt=0)
    """Standard deviation in pixels of the Gaussian that softens the edges of what is pasted; null leaves them
    hard, which the paper found to do as well."""
    min_visible_area: float = Field(default=1.0, ge=1)
    """Square pixels: an instance of which pasting leaves less is taken out of the truth. 1: what is wholly
    hidden, as in the paper."""
    max_pasted: int = Field(default=100, ge=1)
    """Most instances that are pasted into one sample. Source: mmdetection, `CopyPaste.max_num_pasted`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A photograph as a view shows it, with its truth."""

    image: UInt8[np.ndarray, "H W 3"]
    truth: Truth

    @property
    def size(self) -> Size:
        """(height, width)."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pasted:
    """What pasting made of a picture: its truth is what was there, less what is hidden, then what is new."""

    picture: Picture
    num_pasted: int
    num_hidden: int
    """Instances that were there and of which too little remains to be seen."""


def draw_donor(num_photographs: int, seed: int, options: CopyPasteOptions) -> tuple[int, int] | None:
    """Which photograph a sample is pasted from, 0 .. num_photographs - 1, and the seed of its view.

    None where the sample shall stay as it is.
    """
    coin, place = random_fractions(NUM_DONOR_DRAWS, seed, DONOR_STREAM).tolist()
    if coin >= options.probability:
        return None
    return int(place * num_photographs), hash_of(seed, DONOR_STREAM) >> 1


def choose_instances(num_instances: int, seed: int, options: CopyPasteOptions) -> list[int]:
    """A random subset of a photograph's instances, in order; all sizes from none to all are as likely."""
    draws = random_fractions(num_instances + 1, seed, CHOICE_STREAM)
    count = min(int(draws[0] * (num_instances + 1)), options.max_pasted)
    return sorted(draws[1:].argsort(kind="stable")[:count].tolist())


def paste_instances(scene: Picture, donor: Picture, rows: Sequence[int], options: CopyPasteOptions) -> Pasted:
    """The scene with the donor's instances of the rows pasted over it.

    The picture grows where they reach beyond it. An instance without a mask, or too thin to cover a pixel,
    cannot be pasted.

    Raises:
        DataError: there are no masks.
    """
    if scene.truth.masks is None or donor.truth.masks is None:
        raise DataError("the photographs have no masks to cut out by; set transforms.copy_paste=null")
    bitmaps = [whole_bitmap(donor.truth.masks[row], donor.size) for row in rows]
    pieces = [(row, bitmap) for row, bitmap in zip(rows, bitmaps, strict=True) if bitmap is not None]
    if not pieces:
        return Pasted(picture=scene, num_pasted=0, num_hidden=0)
    new = within(donor.truth, [row for row, _ in pieces], donor.size)
    size = canvas_size(scene.size, donor.size, new.boxes, [bitmap for _, bitmap in pieces])
    cover = np.zeros(size, bool)
    for _, bitmap in pieces:
        part(cover, bitmap)[:] |= bitmap.pixels > 0
    before = scene.truth
    if size != scene.size:
        before = within(before, range(len(before.boxes)), scene.size)
    remaining = occluded(before, cover, options.min_visible_area)
    image = composed(scene.image, donor.image, cover, options.blend_sigma)
    return Pasted(
        picture=Picture(image=image, truth=joined(remaining, new)),
        num_pasted=len(pieces),
        num_hidden=len(scene.truth.boxes) - len(remaining.boxes),
    )


def canvas_size(
    scene: Size, donor: Size, boxes: Float32[np.ndarray, "G 4"], pieces: Sequence[Bitmap]
) -> Size:
    """The scene's size, larger where the pieces or their boxes reach beyond it; both lie within the donor."""
    right = max(bitmap_box(piece)[2] for piece in pieces)
    bottom = max(bitmap_box(piece)[3] for piece in pieces)
    width, height = np.ceil(boxes[:, 2:].max(axis=0)).astype(int).tolist()
    return max(scene[0], bottom, min(height, donor[0])), max(scene[1], right, min(width, donor[1]))


def part(canvas: Bool[np.ndarray, "H W"], bitmap: Bitmap) -> Bool[np.ndarray, "h w"]:
    """The part of the canvas where the bitmap lies."""
    height, width = bitmap.pixels.shape
    return canvas[bitmap.y : bitmap.y + height, bitmap.x : bitmap.x + width]


def whole_bitmap(mask: Polygons | Bitmap, size: Size) -> Bitmap | None:
    """The mask's pixels inside a picture of the size; None if there are none."""
    if isinstance(mask, Bitmap):
        return mask
    return rasterise_polygons(mask, *size) if mask else None


def bitmap_box(bitmap: Bitmap) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2) of a bitmap, which is tight."""
    height, width = bitmap.pixels.shape
    return bitmap.x, bitmap.y, bitmap.x + width, bitmap.y + height


def within(truth: Truth, rows: Sequence[int], size: Size) -> Truth:
    """The instances of the rows, polygons that reach beyond a picture of the size cut to it as bitmaps.

    A view leaves such polygons whole, since nothing beyond it is ever looked at. In a larger picture
    the part beyond would be something that nobody sees.
    """
    assert truth.masks is not None, "the caller has made sure"
    boxes = truth.boxes[list(rows)]
    masks = [truth.masks[row] for row in rows]
    limits = np.array([size[1], size[0]]) + BORDER
    for place, mask in enumerate(masks):
        if isinstance(mask, Bitmap) or not mask:
            continue
        points = np.concatenate(mask)
        if (points < -BORDER).any() or (points > limits).any():
            bitmap = rasterise_polygons(mask, *size) or one_pixel(boxes[place], size)
            masks[place], boxes[place] = bitmap, bitmap_box(bitmap)
    keypoints = None if truth.keypoints is None else truth.keypoints[list(rows)]
    return Truth(boxes=boxes, labels=truth.labels[list(rows)], masks=masks, keypoints=keypoints)


def occluded(truth: Truth, cover: Bool[np.ndarray, "H W"], min_visible_area: float) -> Truth:
    """What remains of the truth of a picture where the cover hides it."""
    assert truth.masks is not None, "the caller has made sure"
    rest = {
        row: left
        for row, (mask, box) in enumerate(zip(truth.masks, truth.boxes, strict=True))
        if (left := left_over(mask, box, cover, min_visible_area)) is not None
    }
    rows = list(rest)
    return Truth(
        boxes=np.array([box for _, box in rest.values()], np.float32).reshape(-1, 4),
        labels=truth.labels[rows],
        masks=[mask for mask, _ in rest.values()],
        keypoints=None if truth.keypoints is None else hidden_under(cover, truth.keypoints[rows]),
    )


def left_over(
    mask: Polygons | Bitmap, box: Float32[np.ndarray, "4"], cover: Bool[np.ndarray, "H W"], min_area: float
) -> tuple[Polygons | Bitmap, Float32[np.ndarray, "4"]] | None:
    """Mask and box of what the cover leaves of an instance, as is if it hides nothing; None: too little."""
    x1, y1, x2, y2 = (int(side) for side in (*np.floor(box[:2]) - 1, *np.ceil(box[2:]) + 1))
    if not cover[max(y1, 0) : y2, max(x1, 0) : x2].any():
        return mask, box
    size = (cover.shape[0], cover.shape[1])
    bitmap = (whole_bitmap(mask, size) or one_pixel(box, size)) if mask else filled_box(box)
    is_hidden = part(cover, bitmap)
    if not (is_hidden & (bitmap.pixels > 0)).any():
        return mask, box
    rest = tight_bitmap(bitmap.x, bitmap.y, bitmap.pixels * ~is_hidden)
    if rest is None or rest.pixels.sum() < min_area:
        return None
    edges = np.array(bitmap_box(rest), np.float32)
    if mask:
        return rest, edges
    return mask, np.concatenate([np.maximum(edges[:2], box[:2]), np.minimum(edges[2:], box[2:])])


def filled_box(box: Float32[np.ndarray, "4"]) -> Bitmap:
    """The pixels that a box touches, which stand for an instance without a mask."""
    (x1, y1), (x2, y2) = np.floor(box[:2]).astype(int).tolist(), np.ceil(box[2:]).astype(int).tolist()
    return Bitmap(x=x1, y=y1, pixels=np.ones((max(y2 - y1, 1), max(x2 - x1, 1)), np.uint8))


def hidden_under(
    cover: Bool[np.ndarray, "H W"], keypoints: Float32[np.ndarray, "G P 3"]
) -> Float32[np.ndarray, "G P 3"]:
    """The keypoints, those under the cover not seen any more."""
    limits = np.array([cover.shape[1] - 1, cover.shape[0] - 1])
    columns, rows = np.floor(keypoints[:, :, :2]).clip(0, limits).astype(np.int64).transpose(2, 0, 1)
    marked = keypoints.copy()
    marked[:, :, 2] = np.where(cover[rows, columns], keypoints[:, :, 2].clip(max=HIDDEN), keypoints[:, :, 2])
    return marked


def joined(first: Truth, second: Truth) -> Truth:
    """The instances of both, in this order."""
    assert first.masks is not None, "the caller has made sure"
    assert second.masks is not None, "the caller has made sure"
    keypoints = None
    if first.keypoints is not None and second.keypoints is not None:
        keypoints = np.concatenate([first.keypoints, second.keypoints])
    return Truth(
        boxes=np.concatenate([first.boxes, second.boxes]),
        labels=np.concatenate([first.labels, second.labels]),
        masks=[*first.masks, *second.masks],
        keypoints=keypoints,
    )


def composed(
    scene: UInt8[np.ndarray, "_ _ 3"],
    donor: UInt8[np.ndarray, "_ _ 3"],
    cover: Bool[np.ndarray, "H W"],
    sigma: float | None,
) -> UInt8[np.ndarray, "H W 3"]:
    """The donor's pixels where the cover is, the scene's elsewhere, grey where neither is."""
    below = np.full((*cover.shape, 3), GREY, np.uint8)
    below[: scene.shape[0], : scene.shape[1]] = scene
    above = below.copy()
    height, width = (min(sides) for sides in zip(cover.shape, donor.shape, strict=False))
    above[:height, :width] = donor[:height, :width]
    if sigma is None:
        below[cover] = above[cover]
        return below
    opacity = cv2.GaussianBlur(cover.astype(np.float32), (0, 0), sigma)[:, :, None]
    return np.rint(above * opacity + below * (1 - opacity)).astype(np.uint8)
