"""Numbers and names as the page says them."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.report.cells import csv_text
from groundup.report.wording import (
    axis_text,
    cell_text,
    duration_text,
    interval_text,
    large_text,
    neutral,
    short_count,
    signed,
    typeset,
    value_text,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (9868, "9,868"),
        (999_999, "1.00 M"),
        (1_440_000, "1.44 M"),
        (1.28e8, "128 M"),
        (9.5e18, "9.50 E"),
    ],
)
def test_large_counts_have_three_digits_and_a_prefix(value, text):
    assert large_text(value) == text


def test_units_follow_their_prefix():
    assert large_text(9.21e12, "px") == "9.21 Tpx"
    assert large_text(512, "px") == "512 px"
    assert large_text(None, "FLOP") == "unknown"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(42, "42 s"), (600, "10 min"), (12_240, "3.4 h"), (432_000, "5.0 d"), (None, "unknown")],
)
def test_times_have_the_unit_that_fits(seconds, text):
    assert duration_text(seconds) == text


def test_differences_carry_true_signs():
    assert signed(-0.3) == "\u22120.30"
    assert interval_text(-0.3, 1.154) == "[\u22120.30, +1.15]"
    assert signed(None) == "\u2013"
    assert typeset("difference -0.39 [-1.14, +0.36], pre-training 3-4") == (
        "difference \u22120.39 [\u22121.14, +0.36], pre-training 3-4"
    )


def test_axes_are_said_in_words():
    assert axis_text("training.schedule.units", 6) == "6x schedule"
    assert axis_text("data.fraction", 0.1) == "10 % of data"
    assert axis_text("data.fraction", 1.0) == "all data"
    assert axis_text("model.backbone.norm", "gn") == "norm = gn"


def test_ticks_of_counts_are_short():
    assert [short_count(v) for v in (0, 2500, 40_000, 1_500_000)] == ["0", "2,500", "40 k", "1.5 M"]


@pytest.mark.parametrize("letter", list("\u202e\u2066\u200f\u061c\u200b\x1b\x00\ufeff"))
def test_marks_that_turn_or_hide_text_are_shown_as_such(letter):
    assert neutral(f"a{letter}b") == "a\ufffdb"


def test_a_name_stays_on_one_line():
    assert neutral("two\nlines\tand  more") == "two lines and more"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1", "\uff1d1"])
def test_no_cell_begins_as_a_formula(text):
    assert cell_text(text).startswith("'")


@given(
    st.lists(
        st.dictionaries(st.text(max_size=5), st.text() | st.floats(allow_nan=False) | st.none()), max_size=4
    )
)
def test_csv_reads_back_and_no_text_in_it_is_run(rows):
    found = list(csv.reader(io.StringIO(csv_text(rows))))
    for line in found:
        for cell in line:
            if cell[:1] in {"=", "+", "-", "@", "\t", "\r"}:
                assert float(cell) is not None


def test_numbers_of_csv_keep_all_digits():
    assert csv_text([{"a": 0.1 + 0.2, "b": -3, "c": None, "d": [1.5, 2]}]) == (
        "a,b,c,d\n0.30000000000000004,-3,,1.5 2\n"
    )


def test_values_of_recipes_are_plain():
    assert value_text(None) == "none"
    assert value_text([0.5, True]) == "[0.5, yes]"
    assert value_text({"a": 1}) == "a: 1"
    assert len(value_text("x" * 1000)) == 160
