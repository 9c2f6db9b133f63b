"""A study file says what is wrong in one line; what it stands for is arms x axes x seeds."""

import pytest
import yaml

from groundup.errors import UsageError
from groundup.study.compare import Question
from groundup.study.expansion import arm_differences, expand
from groundup.study.study import (
    STUDY,
    Price,
    Study,
    load_study,
    pretraining_of,
    read_study,
    register_study,
    seeds_of,
)

VALUES = {
    "name": "tiny",
    "question": {"candidate": "scratch", "reference": "fine-tuned", "margin": 1.0},
    "recipe": "tiny_faster_rcnn",
    "arms": {"scratch": {"start": "scratch"}, "fine-tuned": {"start": "pretraining:stars"}},
    "axes": {"training.schedule.units": [1, 2], "data.fraction": [1.0, 0.1]},
    "seeds": [0, 1, 2],
    "pretraining": {"stars": {"recipe": "tiny_classifier"}},
}


def varied(**changes):
    return {**VALUES, **changes}


def equal_arms(**changes):
    """Arms that need no pre-training to resolve."""
    arms = {"scratch": {}, "fine-tuned": {}}
    return Study.model_validate(varied(**{"arms": arms, "pretraining": {}, **changes}))


def write(folder, values):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_study_reads_from_yaml_and_counts_its_seeds(tmp_path):
    study = read_study(write(tmp_path, VALUES))
    assert study.question.num_seeds == 3
    assert pretraining_of(study, "fine-tuned") == "stars"
    assert pretraining_of(study, "scratch") is None


def test_a_study_reads_from_a_python_function(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"from groundup.study.study import Study\ndef study():\n    return Study(**{VALUES!r})\n")
    assert read_study(path) == read_study(f"{path}:study") == Study.model_validate(VALUES)
    with pytest.raises(UsageError, match=r"has no function other\(\)"):
        read_study(f"{path}:other")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [1]}, "no option 'seed'; did you mean 'seeds'"),
        (
            {"question": {**VALUES["question"], "candidate": "scrach"}},
            "candidate is 'scrach', .*mean 'scratch'",
        ),
        ({"question": {**VALUES["question"], "num_seeds": 5}}, "num_seeds is 5, but seeds lists 3"),
        ({"question": {**VALUES["question"], "margin": -1}}, "question.margin: the margin must lie"),
        ({"axes": {"seed": [1, 2]}}, "axes.seed: seeds are listed once"),
        ({"set": {"seed": 1}}, "set.seed: seeds are listed once"),
        ({"set": {"start": "scratch"}}, "set.start: a start belongs to an arm"),
        ({"set": {"data.fraction": 0.5}}, "set.data.fraction: is an axis too"),
        ({"axes": {"data.fraction": []}}, "axes.data.fraction: has no values"),
        ({"axes": {"data.fraction": [1, 1]}}, "has a value twice"),
        ({"seeds": [1, 1]}, "must be different"),
        ({"seeds": []}, "at least one"),
        ({"name": "../up"}, "must be letters, digits"),
        ({"pretraining": {}}, "arms.fine-tuned.start: no pretraining 'stars'"),
        ({"prices": {"x": {}}}, "prices.x: no such arm"),
        ({"prices": {"scratch": {"images": 3}}}, "kind must be measured"),
        ({"arms": {**VALUES["arms"], "a\nb": {}}}, "is no name"),
    ],
)
def test_what_cannot_be_is_one_line_with_file_and_key(changes, message, tmp_path):
    path = write(tmp_path, varied(**changes))
    with pytest.raises(UsageError, match=message) as caught:
        read_study(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set": {"model.bakbone.name": "x"}}, "arms.scratch: no option 'model.bakbone.name'; did you mean"),
        (
            {"recipe": "tiny_faster_rcn"},
            "recipe: no recipe 'tiny_faster_rcn'; did you mean 'tiny_faster_rcnn'",
        ),
        ({"axes": {"data.fraction": [2.0]}}, "arms.scratch: data: fraction is 2.0"),
        ({}, "arms.scratch and arms.fine-tuned are the same recipe"),
    ],
)
def test_what_recipes_refuse_names_the_arm(changes, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        expand(equal_arms(**changes), tmp_path)


def test_arms_are_crossed_with_axes_and_seeds(tmp_path):
    study = equal_arms(arms={"scratch": {}, "fine-tuned": {"model.backbone.name": "resnet18"}})
    runs = expand(study, tmp_path)
    assert len(runs) == 2 * 4 * 3
    assert {run.recipe.seed for run in runs} == {0, 1, 2}
    last = runs[-1]
    assert (last.arm, last.seed) == ("fine-tuned", 2)
    assert last.point == {"training.schedule.units": 2, "data.fraction": 0.1}
    assert last.recipe.data.fraction == 0.1
    assert last.recipe.training.schedule.units == 2
    assert arm_differences(study, tmp_path) == {"model.backbone.name": ("resnet10t", "resnet18")}


def test_equal_arms_are_allowed_by_name_and_share_no_seed(tmp_path):
    study = equal_arms(allow_equal_arms=True)
    assert seeds_of(study, "scratch") == [0, 1, 2]
    assert seeds_of(study, "fine-tuned") == [3, 4, 5]
    assert len({(run.arm, run.seed) for run in expand(study, tmp_path)}) == 6


def test_relative_paths_start_from_where_the_study_was_set_down(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = equal_arms(
        arms={"scratch": {}, "fine-tuned": {"training.schedule.lr": 0.01}},
        set={"data.train.annotations": "a.json"},
    )
    register_study(tmp_path / "out", study)
    monkeypatch.chdir("/")
    assert expand(study, tmp_path / "out")[0].recipe.data.train.annotations == tmp_path / "a.json"


def test_a_study_is_set_down_once(tmp_path):
    study = Study.model_validate(VALUES)
    register_study(tmp_path, study)
    register_study(tmp_path, study)
    assert load_study(tmp_path) == read_study(tmp_path) == study
    with pytest.raises(UsageError, match="is not changed: seeds is"):
        register_study(tmp_path, Study.model_validate(varied(seeds=[0, 1, 3])))
    more = {**VALUES["arms"], "third": {}}
    with pytest.raises(UsageError, match="is not changed: arms is"):
        register_study(tmp_path, Study.model_validate(varied(arms=more)))
    edited = (tmp_path / STUDY).read_text().replace('"tiny"', '"teeny"')
    (tmp_path / STUDY).write_text(edited)
    with pytest.raises(UsageError, match="was edited after it was set down"):
        load_study(tmp_path)


def test_a_price_says_where_its_numbers_come_from():
    assert Price(images=1.28e6, kind="stated", source="model card").images == 1.28e6
    for wrong in (
        {"images": 1.0},
        {"images": 1.0, "kind": "stated"},
        {"images": -1.0, "kind": "stated", "source": "x"},
        {"downstream_uses": 0},
    ):
        with pytest.raises(ValueError, match=r"must|source|kind"):
            Price(**wrong)


def test_a_question_keeps_the_number_of_seeds_it_was_given():
    question = Question(candidate="scratch", reference="fine-tuned", margin=1.0, num_seeds=2)
    with pytest.raises(ValueError, match="num_seeds is 2, but seeds lists 3"):
        Study(**varied(question=question))
