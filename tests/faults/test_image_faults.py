import os
import resource
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from groundup.data.images import ImagePolicy, decode_image, read_header
from groundup.errors import DataError

PLAIN = ImagePolicy()
NOBODY = 65534


def photograph(path: Path, **options) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def png_header(width: int, height: int) -> bytes:
    fields = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + fields
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(fields)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )


def assert_one_line_naming(error: DataError, path: Path) -> None:
    assert "\n" not in str(error)
    assert str(path) in str(error)
    assert error.exit_code == 3


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tif", "webp", "ppm"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_a_truncated_file_is_an_error_naming_it(tmp_path, suffix, kept):
    path = photograph(tmp_path / f"a.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DataError) as caught:
        decode_image(path, (60, 80), PLAIN)
    assert_one_line_naming(caught.value, path)


def test_pillow_is_never_told_to_accept_truncated_files():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>404</html>", "no picture .*DOCTYPE"),
        (b"version https://git-lfs.github.com/spec/v1\n", "no picture .*version"),
        (b"\xff", "no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "no picture"),
        (b"\xff\xd8\xff", "damaged JPEG"),
        (b"\x89PNG\r\n\x1a\n", "damaged PNG"),
        (b"BM", "damaged BMP"),
        (b"II*\0", "damaged TIFF"),
        (b"GIF89a", "damaged GIF"),
        (b"RIFF\0\0\0\0WEBP", "damaged WEBP"),
        (b"P6 3", "damaged PPM"),
        (png_header(0, 5), "damaged PNG"),
    ],
)
def test_bytes_that_are_no_picture_are_an_error_naming_the_file(tmp_path, content, found):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for read in (read_header, lambda p: decode_image(p, None, PLAIN)):
        with pytest.raises(DataError, match=found) as caught:
            read(path)
        assert_one_line_naming(caught.value, path)


def test_a_missing_file_a_folder_a_loop_and_a_pipe_are_errors(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for ever
    expected = {
        "missing.jpg": "No such file",
        "folder.jpg": "folder",
        "loop.jpg": "symbolic links",
        "dangling.jpg": "No such file",
        "pipe.jpg": "pipe",
        "x" * 300 + ".jpg": "too long",
    }
    for name, found in expected.items():
        with pytest.raises(DataError, match=found) as caught:
            read_header(tmp_path / name)
        assert_one_line_naming(caught.value, tmp_path / name)
    with pytest.raises(DataError, match="null"):
        read_header(Path("a\0b.jpg"))


def test_a_file_that_may_not_be_read_is_an_error():
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        path = photograph(folder / "a.png")
        path.chmod(0)
        if os.geteuid() == 0:  # root may read everything
            os.seteuid(NOBODY)
        try:
            with pytest.raises(DataError, match="Permission denied") as caught:
                decode_image(path, None, PLAIN)
        finally:
            if os.getuid() == 0:
                os.seteuid(0)
        assert_one_line_naming(caught.value, path)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("side", [10_000, 15_000, 60_000])
def test_a_bomb_is_refused_by_its_header_and_costs_no_memory(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(side, side) + b"\0\0\0\0IDAT" + b"\0" * 64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_header(path).size == (side, side)
    with pytest.raises(DataError, match=f"{side} x {side} pixels.*max_pixels") as caught:
        decode_image(path, (side, side), PLAIN)
    assert_one_line_naming(caught.value, path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


@pytest.mark.parametrize(
    "head",
    [
        b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + b"\0\0\0;",
        b"P6 60000 60000 255\n",
        struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 58, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 4, 0, 0, 0, 0),
    ],
)
def test_a_bomb_of_any_format_is_an_error(tmp_path, head):
    path = tmp_path / "bomb.jpg"
    path.write_bytes(head)
    with pytest.raises(DataError) as caught:
        decode_image(path, None, PLAIN)
    assert_one_line_naming(caught.value, path)


def test_a_compressed_text_bomb_is_refused(tmp_path):
    path = photograph(tmp_path / "a.png")
    content = path.read_bytes()
    body = b"zTXtnote\0\0" + zlib.compress(b"\0" * (80 << 20), 9)
    text = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(content[:33] + text + content[33:])  # right behind IHDR
    with pytest.raises(DataError, match="damaged PNG") as caught:
        decode_image(path, None, PLAIN)
    assert_one_line_naming(caught.value, path)


def test_the_limit_can_be_raised_and_pillow_then_neither_warns_nor_refuses(tmp_path):
    path = tmp_path / "wide.png"
    Image.new("1", (10_000, 9_500)).save(path)
    with pytest.raises(DataError, match="max_pixels"):
        decode_image(path, (9_500, 10_000), PLAIN)
    assert read_header(path).num_pixels > 2**26
    small = ImagePolicy(max_pixels=10)
    with pytest.raises(DataError, match="max_pixels=10"):
        decode_image(photograph(tmp_path / "a.png"), None, small)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tif", "webp", "ppm"])
def test_flipped_bits_give_a_picture_of_the_right_size_or_a_data_error(tmp_path, suffix):
    path = photograph(tmp_path / f"a.{suffix}")
    sound = path.read_bytes()
    rng = np.random.default_rng(len(suffix))
    policy = ImagePolicy(max_pixels=1 << 20)
    for trial in range(150):
        content = bytearray(sound)
        reach = len(content) if trial % 2 else min(len(content), 200)  # half of them in the header
        for position in rng.integers(0, reach, rng.integers(1, 6)):
            content[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            assert decode_image(path, (60, 80), policy).shape == (60, 80, 3)
        except DataError as error:
            assert_one_line_naming(error, path)
