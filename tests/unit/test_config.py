"""Trees of options: refused with a hint, compared by leaf, named by content."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from groundup.config import (
    Options,
    differences,
    documented_lines,
    fingerprint,
    leaves,
    override,
    plain,
    read_tree,
    read_yaml,
    vary,
)
from groundup.errors import UsageError


class Part(Options):
    """A part."""

    rate: float = 0.5
    """How fast."""
    count: int = Field(default=3, ge=1)
    """How many."""


class Whole(Options):
    """A whole."""

    part: Part = Part()
    """Its part."""
    name: str | None = None
    """What it is called."""
    sides: tuple[int, ...] = (1, 2)
    """Lengths."""


def test_leaves_come_under_dotted_paths_in_the_order_of_declaration():
    assert dict(leaves(Whole())) == {"part.rate": 0.5, "part.count": 3, "name": None, "sides": (1, 2)}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("part.rat=1", "did you mean 'part.rate'"),
        ("rate=1", "did you mean 'part.rate'"),
        ("part.count=0", "part.count"),
        ("part.count=many", "part.count"),
        ("part.rate", "key=value"),
        ("name=[", "not YAML"),
        ("name=!!python/object:os.system {}", "not YAML"),
        ("part.rate=.inf", "part.rate"),
    ],
)
def test_an_override_that_cannot_be_is_one_line_with_a_hint(assignment, message):
    with pytest.raises(UsageError) as caught:
        override(Whole(), [assignment])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_apply_together_and_leave_the_rest():
    changed = override(Whole(), ["part.rate=2", "sides=[4]", "name=x"])
    assert changed == Whole(part=Part(rate=2.0), sides=(4,), name="x")


def test_a_number_sign_in_a_value_is_no_comment():
    assert override(Whole(), ["name=photos #2"]).name == "photos #2"
    assert override(Whole(), ["name='photos #2'"]).name == "photos #2"


@given(st.floats(0, 10), st.integers(1, 9), st.one_of(st.none(), st.text()))
def test_a_tree_reads_back_equal_with_the_same_fingerprint(rate, count, name):
    tree = Whole(part=Part(rate=rate, count=count), name=name)
    again = read_tree(Whole, plain(tree))
    assert again == tree
    assert fingerprint(again) == fingerprint(tree)


def test_an_int_given_for_a_float_is_the_same_tree():
    assert fingerprint(vary(Whole(), {"part.rate": 6})) == fingerprint(vary(Whole(), {"part.rate": 6.0}))


def test_differences_are_the_leaves_that_differ_and_no_others():
    assert differences([Whole(), Whole(name="a"), Whole(part=Part(count=9))]) == {
        "part.count": (3, 3, 9),
        "name": (None, "a", None),
    }


def test_a_documented_tree_reads_back(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join(documented_lines(Whole(name="yes"))))
    assert read_tree(Whole, read_yaml(path)) == Whole(name="yes")
    assert "# How fast." in path.read_text()


@pytest.mark.parametrize("text", ["- 1", "a: [", "!!python/object/apply:os.getcwd []", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"recipe\.yaml"):
        read_yaml(path)
