"""What the benchmarks conclude from what they measured; the measuring itself is run by `make bench`."""

import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def guard():
    return runpy.run_path(str(BENCHMARKS / "guard.py"))


@pytest.fixture(scope="module")
def harness():
    return runpy.run_path(str(BENCHMARKS / "harness.py"))


def result(median, least, most, name="step"):
    ratio = {"median": median, "least": least, "most": most}
    return {"subject": {"rows": [{"name": name, "ratios": {"peer": ratio}}]}}


@pytest.mark.parametrize(
    ("new", "is_worse"),
    [
        ((1.50, 1.50, 1.50), False),
        ((1.43, 1.43, 1.43), False),  # a twentieth is free
        ((1.42, 1.42, 1.42), True),
        ((1.35, 1.20, 1.50), False),  # its own turns were as far apart
        ((3.00, 3.00, 3.00), False),
    ],
)
def test_a_ratio_may_fall_by_what_its_turns_were_apart(guard, new, is_worse):
    worse = guard["compare"](result(1.5, 1.5, 1.5), result(*new))
    assert bool(worse) is is_worse
    assert all("step against peer" in line and "1.50" in line for line in worse)


def test_the_spread_of_the_committed_run_counts_too(guard):
    assert not guard["compare"](result(1.5, 1.35, 1.65), result(1.3, 1.3, 1.3))


def test_rows_of_other_names_are_not_compared(guard, capsys):
    assert not guard["compare"](result(1.5, 1.5, 1.5), result(0.1, 0.1, 0.1, name="other"))
    assert "0 ratios compared" in capsys.readouterr().out


def test_ratios_are_taken_turn_by_turn(harness):
    row_type, side = harness["Row"], harness["Side"]
    target = harness["Target"](at_least=2.5, against="peer")
    row = row_type(
        name="step",
        sides={"groundup": side(values=[1.0, 2.0, 10.0]), "peer": side(values=[3.0, 4.0, 40.0])},
        target=target,
    )
    assert row.ratios() == {"peer": {"median": 3.0, "least": 2.0, "most": 4.0}}
    written = row.to_json()
    assert written["met"] is True
    assert written["target"] == {"at_least": 2.5, "against": "peer"}
    assert written["sides"]["groundup"]["median"] == 2.0


def test_a_target_without_a_peer_is_one_of_our_own_figure(harness):
    row_type, side, target = harness["Row"], harness["Side"], harness["Target"]
    sides = {"groundup": side(values=[0.4, 0.6, 0.5])}
    assert row_type(name="open", sides=sides, target=target(at_most=0.5)).to_json()["met"] is True
    assert row_type(name="open", sides=sides, target=target(at_most=0.49)).to_json()["met"] is False
    assert (
        row_type(name="open", sides=sides, target=target(at_least=2, against="gone")).to_json()["met"] is None
    )


def test_a_page_keeps_what_stands_around_its_table(harness, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench -->\nold\n<!-- end of bench -->\nafter\n")
    harness["write_part"]("bench", ["new"], page)
    assert page.read_text() == "before\n<!-- bench -->\nnew\n<!-- end of bench -->\nafter\n"
    with pytest.raises(SystemExit, match="no place"):
        harness["write_part"]("growth", ["new"], page)
