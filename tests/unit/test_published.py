"""Published numbers stand beside measured ones, and are compared only where they are of the same scale."""

import pytest

from groundup.errors import UsageError
from groundup.report.page import write_report
from groundup.study.answer import read_answer
from groundup.study.study import Study, read_study
from simulated_study import CANDIDATE, REFERENCE, UNITS, write_simulated_study

LONGEST = {UNITS: 4}
NUMBERS = [
    {"arm": CANDIDATE, "point": LONGEST, "metric": "box/AP", "value": 41.3, "tolerance": 0.5, "source": "1"},
    {"arm": REFERENCE, "metric": "box/AP75", "value": None, "source": "figure 3, <b>no number</b>"},
    {"arm": CANDIDATE, "point": LONGEST, "metric": "voc/AP50", "value": 77.6, "source": "section 5.2"},
]


def write_published(folder, **changes):
    published = {"title": "He & others <2018>", "same_scale": False, "values": NUMBERS, **changes}
    return write_simulated_study(
        folder,
        units=(1, 4),
        seeds=(0, 1),
        num_val=12,
        num_replicates=100,
        study={"published": published},
        world=folder.parent / "world",
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    found = {}
    for same_scale in (False, True):
        study = write_published(folder / f"study_{same_scale}", same_scale=same_scale)
        found[same_scale] = write_report(study).read_text(), read_answer(study)
    return found


def test_every_number_has_the_mean_of_the_runs_at_its_point(pages):
    _, answer = pages[True]
    first, *shown, last = answer.published
    end = next(
        row
        for row in answer.endpoints
        if (row["arm"], row["endpoint"], row["kind"], row["point"]) == (CANDIDATE, "AP", "bbox", {UNITS: 4})
    )
    assert first["measured"] == pytest.approx(end["mean"])
    assert (first["low"], first["high"], first["num_runs"]) == (end["low"], end["high"], 2)
    assert first["difference"] == pytest.approx(end["mean"] - 41.3)
    assert [row["point"] for row in shown] == [{UNITS: 1}, {UNITS: 4}], "a number of no point is of all"
    assert all(row["difference"] is None for row in shown), "no number, no difference"
    assert (last["measured"], last["difference"]) == (None, None), "nothing measures it"


def test_numbers_of_another_scale_are_not_compared(pages):
    page, answer = pages[False]
    assert all(row["difference"] is None for row in answer.published)
    assert "Published (other data, other scale)" in page
    assert "Within tolerance" not in page


def test_numbers_of_the_same_scale_are_judged_by_their_tolerance(pages):
    page, _ = pages[True]
    assert "0 of the 1 that can be compared are met within their tolerance" in page
    assert "He &amp; others &lt;2018&gt;" in page
    assert "<b>no number" not in page


def test_a_study_without_numbers_is_written_as_before_there_were_any():
    values = {
        "name": "plain",
        "question": {"candidate": "a", "reference": "b", "margin": 1.0},
        "recipe": "tiny_faster_rcnn",
        "arms": {"a": {}, "b": {}},
        "seeds": [0],
    }
    assert "published" not in Study.model_validate(values).model_dump(mode="json")


def test_numbers_that_cannot_be_are_refused(tmp_path):
    for change, message in (
        ({"value": 0.413, "arm": "nobody"}, "no such arm 'nobody'"),
        ({"value": 413.0}, "AP points are 0 .. 100"),
        ({"tolerance": 0.0}, "tolerance is above 0"),
    ):
        file = tmp_path / "study.yaml"
        published = {"title": "x", "same_scale": True, "values": [{**NUMBERS[0], **change}]}
        file.write_text(
            str(
                {
                    "name": "plain",
                    "question": {"candidate": CANDIDATE, "reference": REFERENCE, "margin": 1.0},
                    "recipe": "tiny_faster_rcnn",
                    "arms": {CANDIDATE: {}, REFERENCE: {}},
                    "seeds": [0],
                    "published": published,
                }
            ).replace("True", "true")
        )
        with pytest.raises(UsageError, match=message):
            read_study(file)
