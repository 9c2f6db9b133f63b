"""Pictures for people: what is drawn where, and what is shown safely."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from groundup.errors import UsageError
from groundup.pictures import (
    MAX_NAME_LENGTH,
    MAX_TAG_SHARE,
    draw_instances,
    draw_sheet,
    name_colour,
    plain_text,
    tag_place,
    tag_text,
    write_picture,
)

HOSTILE = ["", "\x00\x1b[31m", "a\nb\tc", "\ud800", "x" * 500, "\u202eevil", "M\u00e4dchen \u72ac", "<b>&"]


def photograph(height=480, width=640):
    return np.full((height, width, 3), 128, np.uint8)


def test_nothing_to_draw_leaves_the_photograph_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3)).astype(np.uint8)
    drawn = draw_instances(image, np.zeros((0, 4)), [])
    np.testing.assert_array_equal(drawn, image)
    assert drawn is not image


def test_a_box_is_drawn_in_the_colour_of_its_name_and_the_photograph_is_not_changed():
    image = photograph()
    drawn = draw_instances(image, np.array([[100.0, 200, 300, 400]]), ["cat"], min_long_side=1)
    for y, x in ((200, 200), (399, 200), (300, 100), (300, 299)):
        assert tuple(drawn[y, x]) == name_colour("cat")
    assert (drawn[250:350, 150:250] == 128).all()
    assert (image == 128).all()


def test_a_mask_tints_its_own_pixels_and_a_rim_of_one():
    mask = np.zeros((480, 640), bool)
    mask[200:300, 100:200] = True
    boxes = np.array([[100.0, 200, 200, 300]])
    with_mask = draw_instances(photograph(), boxes, ["cat"], masks=[mask])
    without = draw_instances(photograph(), boxes, ["cat"])
    changed = (with_mask != without).any(axis=2)
    assert changed[210:290, 110:190].all()
    mask[199:301, 99:201] = True  # Its contour is soft: a pixel more.
    assert not changed[~mask].any()
    empty = draw_instances(photograph(), boxes, ["cat"], masks=[np.zeros_like(mask)])
    np.testing.assert_array_equal(empty, without)


def test_absent_keypoints_are_not_drawn_and_the_skeleton_needs_both_ends():
    points = np.array([[[50.0, 50, 2], [150, 50, 1], [400, 400, 0]]])
    boxes = np.array([[10.0, 10, 630, 470]])
    drawn = draw_instances(photograph(), boxes, ["x"], keypoints=points, skeleton=[(1, 2), (2, 3)])
    plain = draw_instances(photograph(), boxes, ["x"])
    changed = (drawn != plain).any(axis=2)
    assert tuple(drawn[50, 50]) == (255, 255, 255)
    assert max(drawn[50, 150]) < 100
    assert changed[50, 100]
    assert not changed[60:460, 160:620].any()


@pytest.mark.parametrize(("side", "reach"), [(40, 3), (300, 6)])
def test_points_of_a_small_figure_do_not_hide_it(side, reach):
    points = np.array([[[50.0, 50, 2], [50 + side, 50 + side, 2]]])
    boxes = np.array([[10.0, 10, 630, 470]])
    drawn, plain = (draw_instances(photograph(), boxes, ["x"], keypoints=p) for p in (points, points * 0))
    rows, columns = np.nonzero((drawn != plain).any(axis=2))
    near = (abs(rows - 50) < side / 2) & (abs(columns - 50) < side / 2)
    assert reach - 1 <= abs(rows[near] - 50).max() <= reach


def test_small_photographs_are_enlarged_and_large_ones_are_not():
    assert draw_instances(photograph(120, 160), np.zeros((0, 4)), []).shape == (480, 640, 3)
    assert draw_instances(photograph(8, 16), np.zeros((0, 4)), []).shape == (48, 96, 3)
    assert draw_instances(photograph(900, 1200), np.zeros((0, 4)), []).shape == (900, 1200, 3)


def test_odd_boxes_and_names_are_drawn():
    boxes = np.array(
        [
            [0.0, 0, 0, 0],
            [-1e9, -50, 1e9, 9999],
            [630, 470, 700, 500],
            [700, 500, 800, 600],
            [5, 5, 6, 6],
            [9, 9, 3, 3],
            [0, 0, 640, 480],
            [320, 0, 321, 480],
        ]
    )
    drawn = draw_instances(photograph(), boxes, HOSTILE, np.linspace(1, 0, 8))
    assert drawn.shape == (480, 640, 3)
    tiny = draw_instances(np.zeros((1, 1, 3), np.uint8), np.array([[0.0, 0, 1, 1]]), ["name"])
    assert tiny.shape == (6, 6, 3)


def test_parts_that_count_differently_and_boxes_that_are_no_numbers_are_refused():
    boxes = np.array([[0.0, 0, 5, 5]])
    with pytest.raises(ValueError, match="1 boxes but 2 names"):
        draw_instances(photograph(), boxes, ["a", "b"])
    with pytest.raises(ValueError, match="1 boxes but 0 scores"):
        draw_instances(photograph(), boxes, ["a"], [])
    with pytest.raises(ValueError, match="not finite"):
        draw_instances(photograph(), boxes * np.nan, ["a"])


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_shown_short_printable_and_on_one_line(name):
    shown = plain_text(name)
    assert 1 <= len(shown) <= MAX_NAME_LENGTH
    assert shown.isprintable()
    shown.encode()
    name_colour(name)


def test_a_tag_says_name_and_score():
    assert tag_text("cat", None) == "cat"
    assert tag_text("cat", 0.987) == "cat 99"


def test_tags_do_not_cover_the_picture():
    names = [f"category {row}" for row in range(400)]
    corner = np.random.default_rng(0).random((400, 2)) * [600, 440]
    boxes = np.concatenate([corner, corner + 1], axis=1)
    drawn = draw_instances(photograph(), boxes, names)
    assert 0.1 < (drawn != 128).any(axis=2).mean() < MAX_TAG_SHARE + 0.05


def test_a_tag_stays_inside_the_picture_and_avoids_what_is_taken():
    taken = np.zeros((100, 200), bool)
    assert tag_place(np.array([50.0, 40, 90, 80]), 30, 10, taken) == (50, 30)
    taken[30:40, 50:80] = True
    x, y = tag_place(np.array([50.0, 40, 90, 80]), 30, 10, taken)
    assert not taken[y : y + 10, x : x + 30].all()
    x, y = tag_place(np.array([0.0, 0, 200, 100]), 30, 10, taken)
    assert x >= 0
    assert y >= 0
    assert x + 30 <= 200
    assert y + 10 <= 100


def test_a_name_has_one_colour_in_every_process():
    code = "from groundup.pictures import name_colour; print(name_colour('cat'))"
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == str(name_colour("cat"))
    assert len({name_colour(f"category {row}") for row in range(40)}) > 20


def test_pictures_are_drawn_without_torch():
    code = "import sys, groundup.pictures; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_sheet_holds_every_picture_in_rows():
    pictures = [np.full((40 + 10 * row, 60, 3), 20 * row, np.uint8) for row in range(5)]
    sheet = draw_sheet(
        pictures, [f"caption {row} " + "long " * 40 for row in range(5)], 2, "Title", cell_width=100
    )
    assert sheet.shape[1] == 12 + 2 * 112
    for row in range(5):
        assert (sheet == 20 * row).all(axis=2).sum() > 3000
    assert draw_sheet([], [], 3, "Nothing").ndim == 3
    with pytest.raises(ValueError, match="captions"):
        draw_sheet(pictures, ["one"])


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG"])
def test_a_written_picture_reads_back(tmp_path, name):
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, 15:] = (200, 100, 50)
    write_picture(tmp_path / "new" / name, image)
    with Image.open(tmp_path / "new" / name) as read:
        np.testing.assert_allclose(np.array(read.convert("RGB")), image, atol=0 if name == "a.png" else 40)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"\.png, \.jpg or \.jpeg"):
        write_picture(tmp_path / "a.gif", photograph())


def test_without_tags_the_name_only_chooses_the_colour():
    boxes = np.array([[100.0, 200, 300, 400]])
    bare = draw_instances(photograph(), boxes, ["cat"], [0.9], tags=False)
    tagged = draw_instances(photograph(), boxes, ["cat"], [0.9])
    assert not np.array_equal(bare, photograph())
    changed = np.argwhere((bare != tagged).any(axis=2))
    assert len(changed) > 0
    assert np.array_equal(bare[201:399, 101:299], tagged[201:399, 101:299])
