"""Photographs in: one policy, one decoder, always RGB of 8 bits, or one line that says why not.

What a file is, its first bytes say, never its name. What it would cost, its header says, so a bomb is
refused before a pixel is decoded. Pillow decodes; its plugins are called by their class, because
`Image.open` tries every format there is (PostScript among them) and warns of bombs by a limit of its own.

Choices:
    transparency  dropped: the colours stored under it show, as in cv2.imread(IMREAD_COLOR) and PIL's
                  convert("RGB"), hence in Detectron2, torchvision's reference code and pycocotools' demos
    CMYK, YCCK    Pillow's plain formula without a colour profile; Adobe's inverted files are turned first
    more than 8 bits a channel   refused unless the policy names the range that becomes 0..255
    animation     refused unless the policy takes the first frame
    a flat file beside an EXIF orientation   the annotation's size decides, see `turning_for`

Legend:
    H W  height and width of the picture as returned
"""

import contextlib
import os
import re
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from pydantic import Field, model_validator

from groundup.config import Options, one_line
from groundup.errors import DataError

Size = tuple[int, int]
"""(height, width) in pixels."""

FORMATS: tuple[tuple[str, re.Pattern[bytes], type[ImageFile.ImageFile]], ...] = (
    ("JPEG", re.compile(rb"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    ("GIF", re.compile(rb"GIF8[79]a"), GifImagePlugin.GifImageFile),
    ("BMP", re.compile(rb"BM"), BmpImagePlugin.BmpImageFile),
    ("TIFF", re.compile(rb"II[*+]\x00|MM\x00[*+]"), TiffImagePlugin.TiffImageFile),
    ("WEBP", re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImagePlugin.WebPImageFile),
    ("PPM", re.compile(rb"P[1-6]\s"), PpmImagePlugin.PpmImageFile),
)
"""Name, first bytes and decoder of every format that is read. Source: the formats' specifications."""

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"}
)
"""Endings, in lower case, by which a folder's pictures are told from its other files."""

MAGIC_LENGTH = 12
"""First bytes that tell the formats apart; WebP needs the most."""

DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
"""Pillow's one-channel modes of more than 8 bits. Source: Pillow, handbook, "Concepts: modes"."""

DEEP_RAW_MODE = re.compile(r"(RGB|RGBA|RGBX|RGBa|LA|CMYK);16[BLN]")
"""Colour of 16 bits a channel, of which Pillow keeps the high byte. BMP's `BGR;16` is 16 bits a pixel."""

DEEP_COLOUR_RANGE = (0.0, 65535.0)
"""The only range in which colour of 16 bits a channel can be read: Pillow hands out the high byte."""

TURNS: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation. Source: EXIF 2.3, tag 0x0112."""

UPRIGHT = 1
"""The EXIF orientation that asks for nothing."""

FIRST_TRANSPOSING = 5
"""Orientations from here on exchange height and width. Source: EXIF 2.3, tag 0x0112."""


class ImagePolicy(Options):
    """What may come in, and how what is ambiguous is read."""

    max_pixels: int = Field(default=1 << 26, ge=1)
    """Larger pictures are refused by their header: 67 million pixels take 201 MB as RGB."""
    sixteen_bit: Literal["error", "rescale"] = "error"
    """Pictures of more than 8 bits a channel (16-bit, 32-bit, float): refused, or mapped from
    `sixteen_bit_range` to 0..255. Nothing saturates: a value outside the range is an error."""
    sixteen_bit_range: tuple[float, float] | None = None
    """(darkest, brightest) stored value, which become 0 and 255; for colour it must be (0, 65535)."""
    animated: Literal["error", "first"] = "error"
    """Files of several frames or pages: refused, or their first frame."""
    ambiguous_orientation: Literal["apply", "keep"] = "apply"
    """What an EXIF orientation does when the annotation's size fits both ways, as with square pictures
    and half turns. Browsers, annotation tools, OpenCV and Detectron2 apply it; pixels as stored keep it."""

    @model_validator(mode="after")
    def _range_where_it_is_used(self) -> "ImagePolicy":
        """Refuse rescaling without a range, an empty range, and a range that nothing reads."""
        if self.sixteen_bit == "rescale" and self.sixteen_bit_range is None:
            raise ValueError("sixteen_bit=rescale needs sixteen_bit_range, for example [0, 65535]")
        if self.sixteen_bit == "error" and self.sixteen_bit_range is not None:
            raise ValueError("sixteen_bit_range is only read with sixteen_bit=rescale; set it, or no range")
        if self.sixteen_bit_range is not None and self.sixteen_bit_range[0] >= self.sixteen_bit_range[1]:
            raise ValueError(f"sixteen_bit_range must rise, got {list(self.sixteen_bit_range)}")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a picture says of itself before its pixels are decoded."""

    format: str
    """A name of `FORMATS`, found by the first bytes."""
    size: Size
    """(height, width) as stored, before any turning."""
    mode: str
    """Pillow's name of the pixel format, for example RGB, L, P, CMYK, I;16."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 where there is none, or none that can be read. TIFF's own orientation
    is part of that format: Pillow turns such a file itself, and both fields describe the turned one."""
    is_animated: bool
    """Whether there is more than one frame or page."""
    is_deep: bool
    """Whether a channel has more than 8 bits."""

    @property
    def upright_size(self) -> Size:
        """(height, width) after the EXIF orientation is applied."""
        return self.size[::-1] if self.orientation >= FIRST_TRANSPOSING else self.size

    @property
    def num_pixels(self) -> int:
        """Height times width."""
        return self.size[0] * self.size[1]


def read_header(path: Path) -> Header:
    """The picture's header; nothing is refused for its size and no pixel is decoded.

    Raises:
        DataError: no readable file, or no picture.
    """
    with open_picture(path) as (_, header):
        return header


def decode_image(path: Path, expected_size: Size | None, policy: ImagePolicy) -> UInt8[np.ndarray, "H W 3"]:
    """The picture as RGB, C-contiguous and writable.

    Args:
        path: the file.
        expected_size: (height, width) that the annotation states; None turns the picture upright.
        policy: what may come in.

    Raises:
        DataError: anything that keeps the file from being exactly the picture that is expected.
    """
    with open_picture(path) as (picture, header):
        check_header(path, header, policy)
        turning = turning_for(path, header, expected_size, policy)
        with damage_reported(path, header.format):
            picture.load()
            upright = picture.transpose(turning) if turning is not None else picture
            if header.is_deep and upright.mode in DEEP_MODES:
                return rescaled(path, np.asarray(upright), policy)
            return np.array(as_rgb(upright))


def check_header(path: Path, header: Header, policy: ImagePolicy) -> None:
    """Refuse what the policy does not let in, before it is decoded.

    Raises:
        DataError: too many pixels, several frames, or more than 8 bits a channel.
    """
    height, width = header.size
    if header.num_pixels > policy.max_pixels:
        raise DataError(
            f"{path}: {width} x {height} pixels are more than data.policy.max_pixels={policy.max_pixels}; "
            "scale the picture down, or raise the limit if it is what it says"
        )
    if header.is_animated and policy.animated == "error":
        raise DataError(
            f"{path}: {header.format} with several frames or pages; store the one that was annotated, "
            "or set images.animated=first"
        )
    if header.is_deep and policy.sixteen_bit == "error":
        raise DataError(
            f"{path}: {header.format} of mode {header.mode} has more than 8 bits a channel; store 8 bits, "
            "or set images.sixteen_bit=rescale and images.sixteen_bit_range"
        )
    if header.is_deep and header.mode not in DEEP_MODES and policy.sixteen_bit_range != DEEP_COLOUR_RANGE:
        raise DataError(
            f"{path}: colour of 16 bits a channel is read by its high byte only; "
            "set images.sixteen_bit_range=[0, 65535], or store 8 bits"
        )


def turning_for(
    path: Path, header: Header, expected_size: Size | None, policy: ImagePolicy
) -> Image.Transpose | None:
    """How to turn the stored picture so that the annotation fits it; None leaves it as it is.

    Annotations are drawn on the upright picture by some tools and on the stored one by others, and the
    size that they state tells which. Where it cannot (a square, a mirror image, a half turn), the policy
    decides; with no stated size the picture is turned upright.

    Raises:
        DataError: the stated size is neither the stored nor the upright one.
    """
    if expected_size is not None and expected_size not in (header.size, header.upright_size):
        height, width = header.size
        turned = (
            f" ({height} x {width} turned by its EXIF orientation {header.orientation})"
            if header.orientation >= FIRST_TRANSPOSING
            else ""
        )
        raise DataError(
            f"{path}: width x height are {width} x {height}{turned}, but the annotation says "
            f"{expected_size[1]} x {expected_size[0]}; correct the annotation, or restore the annotated file"
        )
    if expected_size is None:
        applies = True
    elif header.size == header.upright_size:
        applies = policy.ambiguous_orientation == "apply"
    else:
        applies = expected_size == header.upright_size
    return TURNS.get(header.orientation) if applies else None


@contextlib.contextmanager
def open_picture(path: Path) -> Iterator[tuple[ImageFile.ImageFile, Header]]:
    """Pillow's lazy picture and its header, while the file is open.

    Raises:
        DataError: no readable file, or no picture.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for without end
            raise DataError(f"{path}: no file but a {'folder' if path.is_dir() else 'device or pipe'}")
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be opened: {error.strerror}") from None
    except ValueError as error:  # a null character in the name
        raise DataError(f"{str(path)!r}: cannot be opened: {one_line(error)}") from None
    with file, pillow_silenced():
        magic = file.read(MAGIC_LENGTH)
        for name, pattern, decoder in FORMATS:
            if pattern.match(magic):
                file.seek(0, os.SEEK_SET)
                with damage_reported(path, name):
                    picture = decoder(file, str(path))
                    header = header_of(picture, name)
                yield picture, header
                return
    if not magic:
        raise DataError(f"{path}: empty file; fetch it again")
    known = ", ".join(name for name, *_ in FORMATS)
    raise DataError(f"{path}: no picture (starts with {magic!r}); known are {known}")


@contextlib.contextmanager
def damage_reported(path: Path, name: str) -> Iterator[None]:
    """Turn whatever Pillow raises on damaged bytes into an error that names the file.

    Its plugins let through struct.error, IndexError, SyntaxError, zlib.error and more, so all are caught;
    only running out of memory is not the file's fault once its header was checked.
    """
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        why = one_line(error) or type(error).__name__
        raise DataError(f"{path}: damaged {name}: {why}; fetch or export it again") from None


@contextlib.contextmanager
def pillow_silenced() -> Iterator[None]:
    """Keep Pillow from warning: what matters is raised, the rest (odd EXIF, palettes) is known and common."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def header_of(picture: ImageFile.ImageFile, name: str) -> Header:
    """The header that the lazy picture has read."""
    width, height = picture.size
    return Header(
        format=name,
        size=(height, width),
        mode=picture.mode,
        orientation=UPRIGHT if name == "TIFF" else orientation_of(picture),
        is_animated=bool(getattr(picture, "is_animated", False)),
        is_deep=picture.mode in DEEP_MODES or any(is_deep_tile(tile) for tile in picture.tile),
    )


def orientation_of(picture: ImageFile.ImageFile) -> int:
    """EXIF orientation by what precedes the pixels; a block that cannot be read says nothing.

    PNG's own `getexif` would decode the pixels to look for a block behind them, hence the base class's.
    """
    if not picture.info.keys() & {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}:
        return UPRIGHT
    try:
        orientation = Image.Image.getexif(picture).get(ExifTags.Base.Orientation, UPRIGHT)
    except Exception:  # Pillow's parser raises anything; photographs with broken EXIF are otherwise sound
        return UPRIGHT
    return orientation if orientation in TURNS else UPRIGHT


def is_deep_tile(tile: ImageFile._Tile) -> bool:
    """Whether Pillow is about to cut this tile's channels down to 8 bits."""
    args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    raw_mode = args[0] if args else None
    if tile.codec_name in ("ppm", "ppm_plain"):  # the second argument is the brightest value
        return isinstance(args[-1], int) and args[-1] > np.iinfo(np.uint8).max
    return isinstance(raw_mode, str) and DEEP_RAW_MODE.fullmatch(raw_mode) is not None


def as_rgb(picture: Image.Image) -> Image.Image:
    """The picture of 8 bits a channel as RGB, its transparency dropped."""
    if picture.mode == "RGB":
        return picture
    if picture.mode == "RGBa":  # colours stored multiplied by their opacity
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


def rescaled(path: Path, values: np.ndarray, policy: ImagePolicy) -> UInt8[np.ndarray, "H W 3"]:
    """Deep gray mapped from the policy's range to 0..255, rounded to the nearest, as three equal channels.

    Raises:
        DataError: a value that is not finite or lies outside the range.
    """
    assert policy.sixteen_bit_range is not None
    low, high = policy.sixteen_bit_range
    if not np.isfinite(values).all():
        raise DataError(f"{path}: holds values that are not finite numbers; export it again")
    darkest, brightest = float(values.min()), float(values.max())
    if darkest < low or brightest > high:
        raise DataError(
            f"{path}: values from {darkest:g} to {brightest:g} leave "
            f"images.sixteen_bit_range=[{low:g}, {high:g}]; widen the range"
        )
    white = np.iinfo(np.uint8).max
    gray = np.rint((values.astype(np.float64) - low) * (white / (high - low))).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)
