import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from groundup.data.images import ImagePolicy, decode_image, read_header
from groundup.errors import DataError

PLAIN = ImagePolicy()
GRAY = np.array([[0, 60, 120], [180, 240, 255]], np.uint8)
COLOURS = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [250, 240, 230], [7, 77, 177]]], np.uint8
)
NO_TURN = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10


def save(path: Path, picture: Image.Image, **options) -> Path:
    picture.save(path, **options)
    return path


def turned_file(path: Path, orientation: int, pixels: np.ndarray = NO_TURN) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(path, Image.fromarray(pixels), exif=exif)


def png_of_16_bit_colour(values: np.ndarray) -> bytes:
    """A PNG that Pillow cannot write: 16 bits a channel, three channels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif", "webp"])
def test_colour_comes_back_exactly_from_every_lossless_format(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(COLOURS), **options)
    decoded = decode_image(path, (2, 3), PLAIN)
    np.testing.assert_array_equal(decoded, COLOURS)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable


def test_gray_becomes_three_equal_channels(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(GRAY))
    np.testing.assert_array_equal(decode_image(path, (2, 3), PLAIN), np.stack([GRAY] * 3, axis=2))
    assert read_header(path).mode == "L"


def test_one_bit_becomes_black_and_white(tmp_path):
    bits = np.array([[True, False, True], [False, False, True]])
    path = save(tmp_path / "a.png", Image.fromarray(bits))
    assert read_header(path).mode == "1"
    np.testing.assert_array_equal(decode_image(path, (2, 3), PLAIN)[:, :, 1], bits * 255)


def test_a_palette_is_looked_up(tmp_path):
    picture = Image.new("P", (3, 1))
    picture.putpalette([1, 2, 3, 40, 50, 60, 255, 128, 0])
    picture.putdata([2, 0, 1])
    expected = [[[255, 128, 0], [1, 2, 3], [40, 50, 60]]]
    for name, options in (("a.png", {}), ("b.png", {"transparency": bytes([0, 128, 255])}), ("c.gif", {})):
        path = save(tmp_path / name, picture, **options)
        assert read_header(path).mode == "P"
        np.testing.assert_array_equal(decode_image(path, (1, 3), PLAIN), expected)


def test_transparency_is_dropped_and_the_colours_under_it_show_as_opencv_does(tmp_path):
    alpha = np.array([[0, 1, 128], [254, 255, 0]], np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(np.dstack([COLOURS, alpha])))
    decoded = decode_image(path, (2, 3), PLAIN)
    np.testing.assert_array_equal(decoded, COLOURS)
    np.testing.assert_array_equal(decoded, cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1])


def test_gray_with_transparency_keeps_its_gray(tmp_path):
    alpha = np.array([[0, 1, 128], [254, 255, 0]], np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(np.dstack([GRAY, alpha]), "LA"))
    assert read_header(path).mode == "LA"
    np.testing.assert_array_equal(decode_image(path, (2, 3), PLAIN)[:, :, 0], GRAY)


def test_cmyk_follows_the_plain_formula(tmp_path):
    inks = np.array(
        [[[255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 255, 0], [0, 0, 0, 255], [0, 0, 0, 0]]], np.uint8
    )
    path = save(tmp_path / "a.tif", Image.fromarray(inks, "CMYK"))
    expected = [[[0, 255, 255], [255, 0, 255], [255, 255, 0], [0, 0, 0], [255, 255, 255]]]
    np.testing.assert_array_equal(decode_image(path, (1, 5), PLAIN), expected)


def test_an_adobe_cmyk_jpeg_is_not_a_negative(tmp_path):
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:, :, 0] = 255  # cyan ink absorbs red
    path = save(tmp_path / "a.jpg", Image.fromarray(inks, "CMYK"), quality=100)
    assert b"Adobe" in path.read_bytes()[:64]
    assert read_header(path).mode == "CMYK"
    assert np.abs(decode_image(path, (16, 16), PLAIN).astype(int) - [0, 255, 255]).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_gray_is_refused_unless_a_range_is_given(tmp_path, suffix):
    values = np.array([[0, 1000, 2000], [3000, 3500, 4095]], np.uint16)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(values))
    assert read_header(path).is_deep
    with pytest.raises(DataError, match=r"more than 8 bits.*sixteen_bit=rescale"):
        decode_image(path, (2, 3), PLAIN)
    policy = ImagePolicy(sixteen_bit="rescale", sixteen_bit_range=(0, 4095))
    decoded = decode_image(path, (2, 3), policy)
    np.testing.assert_array_equal(decoded[:, :, 0], [[0, 62, 125], [187, 218, 255]])
    assert (decoded == decoded[:, :, :1]).all()


def test_a_value_outside_the_range_is_an_error_and_does_not_saturate(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(np.array([[0, 5000]], np.uint16)))
    policy = ImagePolicy(sixteen_bit="rescale", sixteen_bit_range=(0, 4095))
    with pytest.raises(DataError, match="from 0 to 5000 leave"):
        decode_image(path, (1, 2), policy)


def test_a_float_picture_is_rescaled_or_refused(tmp_path):
    path = save(tmp_path / "a.tif", Image.fromarray(np.array([[-1.0, 0.0, 1.0]], np.float32)))
    assert read_header(path).mode == "F"
    with pytest.raises(DataError, match="more than 8 bits"):
        decode_image(path, None, PLAIN)
    decoded = decode_image(path, None, ImagePolicy(sixteen_bit="rescale", sixteen_bit_range=(-1, 1)))
    assert decoded[0, :, 0].tolist() == [0, 128, 255]


def test_a_float_picture_with_nan_is_refused(tmp_path):
    path = save(tmp_path / "a.tif", Image.fromarray(np.array([[np.nan, 0.5]], np.float32)))
    with pytest.raises(DataError, match="not finite"):
        decode_image(path, None, ImagePolicy(sixteen_bit="rescale", sixteen_bit_range=(0, 1)))


def test_sixteen_bit_colour_is_not_cut_down_in_silence(tmp_path):
    values = COLOURS.astype(np.uint16) * 257
    for name, content in (
        ("a.png", png_of_16_bit_colour(values)),
        ("a.ppm", b"P6 3 2 65535\n" + values.astype(">u2").tobytes()),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        assert read_header(path).is_deep
        with pytest.raises(DataError, match="more than 8 bits"):
            decode_image(path, (2, 3), PLAIN)
        with pytest.raises(DataError, match="high byte only"):
            decode_image(path, (2, 3), ImagePolicy(sixteen_bit="rescale", sixteen_bit_range=(0, 4095)))
        policy = ImagePolicy(sixteen_bit="rescale", sixteen_bit_range=(0, 65535))
        np.testing.assert_array_equal(decode_image(path, (2, 3), policy), COLOURS)


def test_a_bitmap_of_16_bits_a_pixel_is_not_deep(tmp_path):
    header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 58, 0, 0, 54, 40, 2, 1, 1, 16, 0, 4, 0, 0, 0, 0)
    path = tmp_path / "a.bmp"
    path.write_bytes(header + struct.pack("<HH", 0b0_11111_00000_00000, 0b0_00000_00000_11111))
    assert not read_header(path).is_deep
    assert decode_image(path, (1, 2), PLAIN).tolist() == [[[255, 0, 0], [0, 0, 255]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_every_orientation_becomes_upright_as_opencv_turns_it(tmp_path, orientation, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(NO_TURN), exif=exif, **options)
    header = read_header(path)
    assert (header.size, header.orientation) == ((2, 4), orientation)
    expected = {
        1: NO_TURN,
        2: NO_TURN[:, ::-1],
        3: NO_TURN[::-1, ::-1],
        4: NO_TURN[::-1],
        5: NO_TURN.transpose(1, 0, 2),
        6: np.rot90(NO_TURN, -1),
        7: NO_TURN[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(NO_TURN),
    }[orientation]
    decoded = decode_image(path, None, PLAIN)
    np.testing.assert_array_equal(decoded, expected)
    assert decoded.shape[:2] == header.upright_size
    np.testing.assert_array_equal(decode_image(path, header.upright_size, PLAIN), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_equals_opencv(tmp_path, orientation):
    pixels = np.kron(np.random.default_rng(0).integers(0, 255, (3, 5, 3)), np.ones((16, 16, 1))).astype(
        np.uint8
    )
    path = turned_file(tmp_path / "a.jpg", orientation, pixels)
    theirs = cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert np.abs(decode_image(path, None, PLAIN).astype(int) - theirs).max() <= 2


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_pixels_stay_as_stored_when_the_annotation_has_the_stored_size(tmp_path, orientation):
    path = turned_file(tmp_path / "a.png", orientation)
    np.testing.assert_array_equal(decode_image(path, (2, 4), PLAIN), NO_TURN)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_size_that_fits_neither_way_is_an_error_that_tells_all_sizes(tmp_path, orientation):
    path = turned_file(tmp_path / "a.png", orientation)
    with pytest.raises(DataError, match=r"a\.png: width x height are 4 x 2.* says 5 x 2") as caught:
        decode_image(path, (2, 5), PLAIN)
    assert ("2 x 4" in str(caught.value)) == (orientation == 6)


@pytest.mark.parametrize(("orientation", "pixels"), [(6, NO_TURN[:, :2]), (3, NO_TURN), (2, NO_TURN)])
def test_where_the_size_cannot_tell_the_policy_does(tmp_path, orientation, pixels):
    path = turned_file(tmp_path / "a.png", orientation, pixels)
    size = pixels.shape[:2]
    kept = decode_image(path, size, ImagePolicy(ambiguous_orientation="keep"))
    np.testing.assert_array_equal(kept, pixels)
    turned = decode_image(path, size, PLAIN)
    np.testing.assert_array_equal(turned, decode_image(path, None, PLAIN))
    assert not np.array_equal(turned, pixels)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path, orientation):
    path = turned_file(tmp_path / "a.png", orientation)
    assert read_header(path).orientation == 1
    np.testing.assert_array_equal(decode_image(path, None, PLAIN), NO_TURN)


def test_a_broken_exif_block_turns_nothing_and_warns_of_nothing(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(NO_TURN), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    np.testing.assert_array_equal(decode_image(path, (2, 4), PLAIN), NO_TURN)


def test_a_turned_tiff_comes_upright_and_its_header_agrees(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(NO_TURN).save(path, tiffinfo={0x0112: 6})
    header = read_header(path)
    assert (header.size, header.orientation) == ((4, 2), 1)
    np.testing.assert_array_equal(decode_image(path, (4, 2), PLAIN), np.rot90(NO_TURN, -1))


def test_the_name_does_not_matter_only_the_bytes(tmp_path):
    path = tmp_path / "a.jpg"
    save(path.with_suffix(".png"), Image.fromarray(COLOURS)).rename(path)
    assert read_header(path).format == "PNG"
    np.testing.assert_array_equal(decode_image(path, (2, 3), PLAIN), COLOURS)


@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (10_000, 1)])
def test_extreme_shapes_decode(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(pixels))
    np.testing.assert_array_equal(decode_image(path, shape, PLAIN), pixels)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_an_animation_is_refused_or_gives_its_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (4, 2), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert read_header(path).is_animated
    with pytest.raises(DataError, match=r"several frames.*animated=first"):
        decode_image(path, (2, 4), PLAIN)
    decoded = decode_image(path, (2, 4), ImagePolicy(animated="first"))
    np.testing.assert_array_equal(decoded, np.full((2, 4, 3), [255, 0, 0]))


def test_a_still_gif_is_no_animation(tmp_path):
    path = save(tmp_path / "a.gif", Image.new("RGB", (4, 2), "red"))
    assert not read_header(path).is_animated
    assert decode_image(path, (2, 4), PLAIN)[0, 0].tolist() == [255, 0, 0]


def test_a_non_ascii_name_with_spaces_opens(tmp_path):
    path = save(tmp_path / "größe 写真.png", Image.fromarray(COLOURS))
    np.testing.assert_array_equal(decode_image(path, (2, 3), PLAIN), COLOURS)


def test_pixels_equal_pillows_own_on_a_jpeg(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (40, 30, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    path = tmp_path / "a.jpg"
    path.write_bytes(stream.getvalue())
    np.testing.assert_array_equal(decode_image(path, (40, 30), PLAIN), np.array(Image.open(stream)))


@pytest.mark.parametrize(
    "values",
    [
        {"sixteen_bit": "rescale"},
        {"sixteen_bit_range": (0, 255)},
        {"sixteen_bit": "rescale", "sixteen_bit_range": (5, 5)},
        {"max_pixels": 0},
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(values):
    with pytest.raises(ValidationError):
        ImagePolicy(**values)


@pytest.mark.shared
def test_all_real_photographs_have_the_size_their_annotation_states(shared_data):
    paths = sorted((shared_data / "coco_mini" / "val2017").glob("*.jpg"))[:40]
    assert paths
    for path in paths:
        header = read_header(path)
        assert decode_image(path, header.size, PLAIN).shape == (*header.size, 3)
