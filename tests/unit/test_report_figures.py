"""Figures as marks: scales, labels, SVG that is XML, PDF that reads no formula."""

import itertools
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.report.charts import draw_curves, value_at
from groundup.report.drawing import DARK, LIGHT, Drawing, cut_text, text_width
from groundup.report.forests import Estimate, draw_forest, draw_strip
from groundup.report.frame import Palette, Scale, spread_labels, ticks_of
from groundup.report.pdf import file_pdf, pdf_artists
from groundup.report.svg import file_svg, inline_svg, stylesheet

PALETTE = Palette(("scratch", "pre-training"))


def luminance(colour):
    parts = [int(colour[row : row + 2], 16) / 255 for row in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_can_be_read_on_its_paper(theme):
    assert set(theme) == set(LIGHT)
    for tone in ("ink", "soft", *(name for name in theme if name.startswith("arm"))):
        assert contrast(theme[tone], theme["paper"]) >= 4.5, tone


def test_every_tone_is_in_the_stylesheet():
    style = stylesheet()
    for tone in LIGHT:
        assert f".{tone}{{--tone:var(--{tone})}}" in style
        assert style.count(f"--{tone}:#") == 2


@given(
    low=st.floats(-1e6, 1e6),
    span=st.floats(1e-3, 1e6),
    count=st.integers(2, 9),
)
def test_ticks_are_round_and_inside(low, span, count):
    ticks = ticks_of(low, low + span, count)
    assert ticks == sorted(ticks)
    assert len(ticks) <= count + 2
    slack = 1e-6 * max(span, abs(low))
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6))
def test_labels_keep_apart_and_in_their_order(places):
    spread = spread_labels(places, 0.0, 100.0, gap=10.0)
    found = sorted(spread)
    assert all(b - a >= 10.0 - 1e-6 for a, b in itertools.pairwise(found))
    assert found[0] >= -1e-6
    assert found[-1] <= 100.0 + 1e-6
    for first, a in enumerate(places):
        for second, b in enumerate(places):
            if a < b:
                assert spread[first] <= spread[second], (first, second)


def test_a_scale_puts_ends_at_ends():
    scale = Scale(10.0, 1000.0, 0.0, 200.0, logarithmic=True)
    assert (scale(10.0), scale(100.0), scale(1000.0)) == pytest.approx((0.0, 100.0, 200.0))
    assert scale.clamped(1e9) == 200.0


def test_values_between_evaluations_lie_on_the_line():
    assert value_at([(0.0, 0.0), (10.0, 5.0)], 4.0) == 2.0
    assert value_at([(0.0, 0.0), (10.0, 5.0)], 11.0) is None


def test_a_text_is_cut_to_its_room():
    assert cut_text("short", 100.0) == "short"
    cut = cut_text("a name that has no end at all", 60.0)
    assert cut.endswith("\u2026")
    assert text_width(cut) <= 60.0


def some_curve(arm, images, drops):
    mean = [20.0 + 10 * row for row in range(len(images))]
    return {"arm": arm, "point": {}, "kind": "bbox", "seeds": [0], "images": images, "mean": mean,
            "low": [v - 1 for v in mean], "high": [v + 1 for v in mean], "image_only": True,
            "drops": drops, "per_seed": [mean]}  # fmt: skip


@pytest.mark.parametrize("width", [340.0, 760.0])
def test_marks_of_curves_stay_in_the_figure(width):
    curves = [
        some_curve("scratch", [100, 200, 300, 400], [150, 250]),
        some_curve("pre-training", [100, 200], [150]),
    ]
    crossover = {"point": 300.0, "low": 200.0, "high": None}
    drawing = draw_curves(width, curves, palette=PALETTE, title="Box AP", crossover=crossover)
    for mark in drawing.marks:
        for x, y in mark.points:
            assert -1 <= x <= width + 1, mark
            assert -1 <= y <= drawing.height + 1, mark
    assert any("caught up: 300" in mark.text for mark in drawing.marks)


def test_a_curve_of_one_point_or_none_is_drawn():
    curves = [some_curve("scratch", [100], []), some_curve("pre-training", [], [])]
    drawing = draw_curves(340.0, curves, palette=PALETTE, title="Box AP")
    assert sum(mark.kind == "dot" for mark in drawing.marks) >= 1


def test_the_strip_puts_the_difference_on_its_side():
    one = Estimate(name="difference", delta=-3.0, low=-4.0, high=-2.0, narrow=(-3.8, -2.2))
    drawing = draw_strip(
        760.0, one, margin=1.0, names=("scratch", "pre-training"), palette=PALETTE, endpoint="AP"
    )
    dot = next(mark for mark in drawing.marks if mark.kind == "dot")
    band = next(mark for mark in drawing.marks if mark.kind == "area")
    assert dot.points[0][0] < band.points[0][0]
    assert dot.tone == PALETTE.tone("pre-training")


def test_files_of_figures_are_xml_and_pdf_and_the_same_each_time():
    rows = [Estimate(name=f"<b>{k}</b> & \"q\" 'q'", delta=k - 2, low=k - 3, high=k - 1) for k in range(5)]
    drawing = draw_forest(760.0, rows, margin=1.0, names=("<a>", "&b"), palette=Palette(("<a>", "&b")))
    text = file_svg(drawing, "differences <&>")
    root = ElementTree.fromstring(text)
    names = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any(name.startswith("<b>3</b>") for name in names if name)
    assert file_pdf(drawing, "x") == file_pdf(drawing, "x")
    assert file_pdf(drawing, "x").startswith(b"%PDF")
    assert not re.search(rb"CreationDate|/tmp|ModDate", file_pdf(drawing, "x"))
    ElementTree.fromstring(inline_svg(drawing, "x"))


def test_a_formula_in_a_name_stays_text():
    drawing = Drawing(width=200.0, height=40.0)
    drawing.text(0, 10, r"$\frac{1}{$ costs $5")
    assert file_pdf(drawing, "money")
    from matplotlib.transforms import IdentityTransform

    (artist,) = pdf_artists(drawing.marks[0], 40.0, IdentityTransform())
    assert artist.get_text() == r"$\frac{1}{$ costs $5"
    assert artist.get_parse_math() is False


def test_letters_that_the_font_lacks_do_not_stop_the_figure():
    drawing = Drawing(width=200.0, height=40.0)
    drawing.text(0, 10, "\u732b \U0001f408")
    assert file_pdf(drawing, "cat").startswith(b"%PDF")
