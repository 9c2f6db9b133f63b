"""Pictures for people: instances drawn over photographs, contact sheets, picture files. No torch here.

Legend:
    H, W  height and width of a picture      h, w  of what is drawn from it
    N     instances      P  keypoints an instance
"""

import importlib.util
import io
import math
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from groundup.errors import UsageError
from groundup.records import write_whole

Colour = tuple[int, int, int]
"""Red, green, blue, 0..255."""

MIN_LONG_SIDE = 640
"""Smaller photographs are enlarged by a whole factor until their longer side is about this, in pixels; tags
could not be read otherwise."""
MAX_ENLARGEMENT = 6
MAX_NAME_LENGTH = 24
"""Characters of a name that are shown."""
FONT_SHARE = 0.018
"""Height of the text of tags as a share of the longer side."""
MIN_FONT_SIZE = 12
STROKE_SIDE = 400
"""Length of the longer side that adds a pixel to the width of lines."""
MASK_OPACITY = 0.34
TAG_OPACITY = 0.86
POINT_SHARE = 0.02
"""Radius of a keypoint as a share of its figure's longer side, where that is small: else points hide it."""
RING_BITS = 4
"""Outlines are drawn to a sixteenth of a pixel."""
MAX_TAG_SHARE = 0.2
"""Share of the picture that tags may cover; beyond it the less sure instances have a box only."""
NUM_HUES = 24
"""Hues that names are spread over; two levels of lightness make 48 colours."""
BACKGROUND: Colour = (250, 250, 248)
INK: Colour = (38, 42, 48)
SOFT_INK: Colour = (110, 116, 124)
CELL_GAP = 12
"""Space between the pictures of a sheet, in pixels."""
CAPTION_SIZE = 14
TITLE_SIZE = 22
JPEG_QUALITY = 92
"""Of written pictures: text stays clean."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_instances(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Float[np.ndarray, "N 4"],
    names: Sequence[str],
    scores: Float[np.ndarray, " N"] | Sequence[float] | None = None,
    *,
    masks: Sequence[Bool[np.ndarray, "H W"]] | None = None,
    keypoints: Float[np.ndarray, "N P 3"] | None = None,
    skeleton: Sequence[tuple[int, int]] = (),
    colours: Mapping[str, Colour] | None = None,
    min_long_side: int = MIN_LONG_SIDE,
    tags: bool = True,
) -> UInt8[np.ndarray, "h w 3"]:
    """The photograph with its instances: masks, boxes, keypoints, and a tag with the name of each.

    Boxes are (x1, y1, x2, y2) and keypoints (x, y, visibility) in pixels of the image; a keypoint of
    visibility 0 or less is left out, of 1 drawn hollow. The skeleton counts keypoints from 1, as in COCO. A
    name has the same colour in every picture, unless `colours` says otherwise. Small photographs come out
    enlarged; for a sheet, to a `min_long_side` of the width of its cells. Without `tags` nothing is written
    on them: where all have one name, it says nothing and hides much.

    Raises:
        ValueError: parts count differently, or a box is not finite.
    """
    for title, part in (("names", names), ("scores", scores), ("masks", masks), ("keypoints", keypoints)):
        if part is not None and len(part) != len(boxes):
            raise ValueError(f"{len(boxes)} boxes but {len(part)} {title}")
    if not np.isfinite(boxes).all():
        raise ValueError("a box is not finite")
    scale = enlargement(image.shape[0], image.shape[1], min_long_side)
    canvas = enlarge(image, scale)
    boxes = clip_boxes(np.asarray(boxes, np.float64) * scale, canvas.shape[0], canvas.shape[1])
    shades = [(colours or {}).get(name) or name_colour(name) for name in names]
    # Large ones first, so that small ones lie on top.
    order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable").tolist()
    if masks is not None:
        for row in order:
            paint_mask(canvas, masks[row], shades[row])
    stroke = max(1, round(max(canvas.shape[:2]) / STROKE_SIDE))
    for row in order:
        paint_box(canvas, boxes[row], shades[row], stroke)
    if keypoints is not None:
        for row in order:
            points = keypoints[row].astype(np.float64) * [scale, scale, 1]
            paint_keypoints(canvas, points, skeleton, shades[row], stroke)
    if not tags:
        return canvas
    texts = [tag_text(name, None if scores is None else float(scores[row])) for row, name in enumerate(names)]
    first = order[::-1] if scores is None else np.argsort(-np.asarray(scores), kind="stable").tolist()
    return paint_tags(canvas, boxes, texts, shades, first)


def enlargement(height: int, width: int, min_long_side: int) -> int:
    """Whole factor by which a picture is enlarged before it is drawn on."""
    return int(np.clip(round(min_long_side / max(height, width)), 1, MAX_ENLARGEMENT))


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """A copy of the picture, so many times as large."""
    if scale == 1:
        return image.copy()
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def clip_boxes(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """The boxes cut to the picture."""
    clipped: np.ndarray = np.clip(boxes, 0, [width, height, width, height])
    return clipped


def name_colour(name: str) -> Colour:
    """The colour of a name: bright, of middle lightness, the same in every picture and process."""
    place = zlib.crc32(name.encode("utf-8", "backslashreplace"))
    hue, light = place % NUM_HUES, place // NUM_HUES % 2
    pixel = np.array([[[180 * hue / NUM_HUES, 185 - 50 * light, 255 - 35 * light]]]).astype(np.uint8)
    red, green, blue = (int(v) for v in cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0])
    return red, green, blue


def paint_mask(canvas: np.ndarray, mask: np.ndarray, colour: Colour) -> None:
    """Tint the pixels of the mask in place and draw its contour."""
    height, width = canvas.shape[:2]
    if mask.shape != (height, width):
        fine = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        mask = fine > 0.5
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return
    x, y, w, h = cv2.boundingRect(np.concatenate(contours))
    window = canvas[y : y + h, x : x + w]
    tinted = window + MASK_OPACITY * (np.array(colour) - window.astype(np.float32))
    np.copyto(window, tinted.astype(np.uint8), where=mask[y : y + h, x : x + w, None])
    cv2.drawContours(canvas, contours, -1, colour, 1, cv2.LINE_AA)


def paint_rings(canvas: np.ndarray, rings: Sequence[np.ndarray], colour: Colour, stroke: int) -> None:
    """Draw closed lines through points (x, y) in place, over a thin dark line that sets them off."""
    whole = [np.floor(ring * 2**RING_BITS).astype(np.int32)[:, None] for ring in rings]
    for width, shade in ((stroke + 1, (0, 0, 0)), (stroke, colour)):
        cv2.polylines(canvas, whole, True, shade, width, cv2.LINE_AA, RING_BITS)


def paint_box(canvas: np.ndarray, box: np.ndarray, colour: Colour, stroke: int) -> None:
    """Draw the box's border in place, just inside it, over a thin dark line that sets it off."""
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    x2, y2 = max(x1, x2 - 1), max(y1, y2 - 1)
    window = canvas[max(0, y1 - 1) : y2 + 2, max(0, x1 - 1) : x2 + 2]
    before = window.copy()
    cv2.rectangle(canvas, (x1 - 1, y1 - 1), (x2 + 1, y2 + 1), (0, 0, 0), 1)
    window[:] = (0.5 * before + 0.5 * window).astype(np.uint8)
    for inset in range(stroke):
        corner, far = (x1 + inset, y1 + inset), (x2 - inset, y2 - inset)
        if corner[0] <= far[0] and corner[1] <= far[1]:
            cv2.rectangle(canvas, corner, far, colour, 1)


def paint_keypoints(
    canvas: np.ndarray, points: np.ndarray, skeleton: Sequence[tuple[int, int]], colour: Colour, stroke: int
) -> None:
    """Draw the lines of the skeleton and the points in place; small figures have small points."""
    whole = [(math.floor(x), math.floor(y)) for x, y in points[:, :2].tolist()]
    shown = points[:, 2] > 0
    for first, second in skeleton:
        if shown[first - 1] and shown[second - 1]:
            cv2.line(canvas, whole[first - 1], whole[second - 1], (20, 20, 20), stroke + 1, cv2.LINE_AA)
            cv2.line(canvas, whole[first - 1], whole[second - 1], colour, stroke, cv2.LINE_AA)
    radius = stroke + 2
    if shown.sum() > 1:
        radius = int(np.clip(round(POINT_SHARE * np.ptp(points[shown, :2], axis=0).max()), 1, radius))
    for row in np.flatnonzero(shown):
        inner = (60, 60, 60) if points[row, 2] == 1 else (255, 255, 255)
        cv2.circle(canvas, whole[row], radius + 1, (20, 20, 20), -1, cv2.LINE_AA)
        cv2.circle(canvas, whole[row], radius, colour, -1, cv2.LINE_AA)
        cv2.circle(canvas, whole[row], radius - 1, inner, -1, cv2.LINE_AA)


@cache
def load_font(size: int) -> Font:
    """A font of the size in pixels.

    DejaVu Sans as matplotlib brings it (Latin, Greek, Cyrillic and more), else Pillow's own, which knows
    ASCII. What a font does not know is drawn as an empty box.
    """
    found = importlib.util.find_spec("matplotlib")
    if found is not None and found.origin is not None:
        path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def plain_text(text: str, length: int = MAX_NAME_LENGTH) -> str:
    """The text on one line, without characters that cannot be shown, cut to a length."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return (shown if len(shown) <= length else shown[: length - 3] + "...") or "?"


def tag_text(name: str, score: float | None) -> str:
    """What a tag says: the name, and the score in hundredths."""
    return plain_text(name) if score is None else f"{plain_text(name)} {100 * score:.0f}"


def paint_tags(
    canvas: np.ndarray, boxes: np.ndarray, texts: list[str], colours: list[Colour], order: list[int]
) -> np.ndarray:
    """The picture with a tag at each box, the first of the order first, until tags cover enough.

    A tag goes where it hides least: above the box or below it, at its left or right end, or just inside.
    """
    if not texts:
        return canvas
    height, width = canvas.shape[:2]
    font = load_font(max(MIN_FONT_SIZE, round(FONT_SHARE * max(height, width))))
    sheet = Image.fromarray(canvas)
    pen = ImageDraw.Draw(sheet, "RGBA")
    # One height for all: that of letters with marks above and tails below.
    tag_height = min(height, round(font.getbbox("\u00c5g")[3]) + 3)
    taken = np.zeros((height, width), bool)
    for row in order:
        tag_width = min(width, round(pen.textlength(texts[row], font=font)) + 7)
        if taken.sum() + tag_width * tag_height > MAX_TAG_SHARE * taken.size and taken.any():
            break
        x, y = tag_place(boxes[row], tag_width, tag_height, taken)
        taken[y : y + tag_height, x : x + tag_width] = True
        fill = (*colours[row], round(255 * TAG_OPACITY))
        pen.rounded_rectangle((x, y, x + tag_width - 1, y + tag_height - 1), radius=3, fill=fill)
        pen.text((x + 3, y + 1), texts[row], font=font, fill=ink_on(colours[row]))
    return np.array(sheet)


def tag_place(box: np.ndarray, tag_width: int, tag_height: int, taken: np.ndarray) -> tuple[int, int]:
    """Corner (x, y) of a tag of the box, all inside the picture, where the fewest pixels are taken."""
    height, width = taken.shape
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    best, least = (0, 0), taken.size + 1
    for x, y in (
        (x1, y1 - tag_height),
        (x2 - tag_width, y1 - tag_height),
        (x1, y2),
        (x2 - tag_width, y2),
        (x1, y1),
        (x2, y1),
        (x1 - tag_width, y1),
    ):
        place = min(max(0, x), width - tag_width), min(max(0, y), height - tag_height)
        # Being moved into the picture counts too: the tag would lie over its own box.
        moved = tag_width * abs(place[1] - y) + tag_height * abs(place[0] - x)
        cost = 4 * int(taken[place[1] : place[1] + tag_height, place[0] : place[0] + tag_width].sum()) + moved
        if cost < least:
            best, least = place, cost
    return best


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever can be read on the colour. Source: ITU-R BT.601 luma."""
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (16, 18, 20) if luma > 125 else (255, 255, 255)


def draw_sheet(
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    captions: Sequence[str] | None = None,
    columns: int = 4,
    title: str = "",
    *,
    cell_width: int = 360,
) -> UInt8[np.ndarray, "h w 3"]:
    """A contact sheet: the pictures in rows, each fitted into its cell over its caption.

    Raises:
        ValueError: captions and pictures count differently, or no column.
    """
    captions = [""] * len(pictures) if captions is None else captions
    if len(captions) != len(pictures) or columns < 1:
        raise ValueError(f"{len(pictures)} pictures, {len(captions)} captions, {columns} columns")
    fitted = [fit(picture, cell_width) for picture in pictures]
    columns = max(1, min(columns, len(fitted)))
    text_height = CAPTION_SIZE + 10 if any(captions) else 0
    rows = [fitted[start : start + columns] for start in range(0, len(fitted), columns)]
    row_heights = [max(picture.shape[0] for picture in row) for row in rows]
    head = TITLE_SIZE + 2 * CELL_GAP if title else CELL_GAP
    width = CELL_GAP + columns * (cell_width + CELL_GAP)
    height = head + sum(row_heights) + len(rows) * (text_height + CELL_GAP)
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    if title:
        font = load_font(TITLE_SIZE)
        text = fit_text(pen, title, font, width - 2 * CELL_GAP)
        pen.text((CELL_GAP, CELL_GAP - 2), text, font=font, fill=INK)
    font, y = load_font(CAPTION_SIZE), head
    for start, row, row_height in zip(range(0, len(fitted), columns), rows, row_heights, strict=True):
        for place, picture in enumerate(row):
            x = CELL_GAP + place * (cell_width + CELL_GAP)
            indent = (cell_width - picture.shape[1]) // 2
            sheet.paste(Image.fromarray(picture), (x + indent, y + row_height - picture.shape[0]))
            if captions[start + place]:
                text = fit_text(pen, captions[start + place], font, cell_width)
                pen.text((x, y + row_height + 4), text, font=font, fill=SOFT_INK)
        y += row_height + text_height + CELL_GAP
    return np.array(sheet)


def fit(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture scaled so that its longer side is the cell's."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def fit_text(pen: ImageDraw.ImageDraw, text: str, font: Font, width: int) -> str:
    """The text on one line, cut so that it is no wider than the width in pixels."""
    shown = plain_text(text, length=max(4, width))
    while len(shown) > 4 and pen.textlength(shown, font=font) > width:
        shown = shown[:-4] + "..."
    return shown


def write_picture(path: Path, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write the picture, whole or not at all, as the path's ending says: .png, .jpg or .jpeg.

    Raises:
        UsageError: another ending.
        CheckpointError: the disk is full or the folder cannot be written.
    """
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"{path}: pictures are written as .png, .jpg or .jpeg, not '{path.suffix}'")
    data = io.BytesIO()
    Image.fromarray(image).save(data, kind, quality=JPEG_QUALITY)
    write_whole(path, data.getvalue())
