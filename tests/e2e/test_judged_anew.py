"""A finished run whose command is repeated with another evaluation says so and is judged by it."""

import json

import pytest

from groundup.config import vary
from groundup.run import train_run
from groundup.study.expansion import expand
from small_study import small_study, small_world


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    recipe = expand(small_study(small_world(folder / "world")), folder)[0].recipe
    return recipe, folder / "run", train_run(recipe, folder / "run", quiet=True)


def test_only_another_evaluation_is_judged_anew_and_the_result_stays(finished, capsys):
    recipe, folder, first = finished
    before = (folder / "result.json").read_bytes()
    assert train_run(recipe, folder, quiet=True) == first
    assert train_run(vary(recipe, {"evaluation.batch_size": 2}), folder, quiet=True) == first
    assert "judging it anew" not in capsys.readouterr().err
    again = train_run(vary(recipe, {"evaluation.voc": "voc2007"}), folder, quiet=True)
    assert "(evaluation.voc: None then, 'voc2007' now); judging it anew" in capsys.readouterr().err
    found = {name: value for name, value in again["metrics"].items() if not name.startswith("voc/")}
    assert found == pytest.approx({k: v for k, v in first["metrics"].items() if v is not None}, abs=1e-12)
    assert "voc/AP50" in again["metrics"]
    written = json.loads((folder.parent / again["evaluation"] / "metrics.json").read_text())
    assert written["voc"]["metric"] == "voc2007"
    assert (folder / "result.json").read_bytes() == before
