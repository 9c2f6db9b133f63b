"""Question, verdict, Holm, power: what is claimed follows from the intervals and from nothing else."""

import json

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from groundup.errors import UsageError
from groundup.metrics.bootstrap import EndpointSample
from groundup.study.compare import Question, compare_arms, read_question, register_question, usual_margin
from groundup.study.difference import Difference, holm, measure_difference
from groundup.study.power import equivalence_power, seeds_for_equivalence, smallest_margin
from groundup.study.verdict import judge
from match_tables import draw_images, draw_table


def difference_of(delta, se, *, num_seeds=20, seeds_known=True):
    """A difference with image error alone, known exactly, unless one seed."""
    quantiles = delta + se * stats.norm.ppf((np.arange(2001) + 0.5) / 2001)
    return Difference(
        delta=delta,
        num_seeds=(num_seeds, num_seeds),
        points=((30.0 + delta,) * num_seeds, (30.0,) * num_seeds),
        se_image=se,
        variance_seeds=(0.0, 0.0) if seeds_known else None,
        image_quantiles=quantiles,
    )


def sample_of(points, spread=0.0, seed=0):
    points = np.array(points, dtype=float)
    noise = spread * np.random.default_rng(seed).normal(size=(400, 1))
    return EndpointSample(points=points, replicates=points + noise)


def tables_of(quality, num_seeds, seed=0):
    images = draw_images(np.random.default_rng(5), 60)
    random = np.random.default_rng(seed)
    return [
        draw_table(random, num_images=60, quality=quality, per_image=images, thresholds=(0.5, 0.75))
        for _ in range(num_seeds)
    ]


QUESTION = Question(margin=2.0, num_replicates=200, num_seeds=2, secondary=("AP50", "AP75", "APs"))


@pytest.mark.parametrize(
    ("delta", "se", "kind", "beyond", "negligible"),
    [
        (3.0, 0.5, "candidate ahead", True, False),
        (-3.0, 0.5, "reference ahead", True, False),
        (-1.5, 0.5, "reference ahead", False, False),
        (-0.4, 0.1, "reference ahead", False, True),
        (0.1, 0.3, "equivalent", False, False),
        (0.6, 0.6, "not worse", False, False),
        (-0.5, 0.6, "inconclusive", False, False),
        (0.0, 5.0, "inconclusive", False, False),
    ],
)
def test_each_verdict_follows_from_the_two_intervals(delta, se, kind, beyond, negligible):
    verdict = judge(difference_of(delta, se), margin=1.0)
    assert (verdict.kind, verdict.beyond_margin, verdict.negligible) == (kind, beyond, negligible)
    assert not verdict.provisional
    assert f"{delta:+.2f} [" in verdict.sentence
    assert (verdict.need is not None) == (kind == "inconclusive")
    json.dumps(verdict.to_json(), allow_nan=False)


def test_what_is_not_significant_is_never_called_a_tie():
    sentence = judge(difference_of(0.0, 5.0), margin=1.0).sentence
    assert sentence.startswith("Inconclusive")
    assert not {"equivalent", "tie", "same"} & set(sentence.lower().split())


def test_one_seed_is_provisional_and_says_what_its_interval_holds():
    verdict = judge(difference_of(3.0, 0.5, num_seeds=1, seeds_known=False), margin=1.0)
    assert verdict.provisional
    assert verdict.sentence.startswith("Provisional, one seed. ")
    assert "images only" in verdict.sentence
    undecided = judge(difference_of(0.0, 5.0, num_seeds=1, seeds_known=False), margin=1.0)
    assert "3 seeds" in undecided.sentence


def test_an_inconclusive_verdict_says_how_many_seeds_would_decide():
    random = np.random.default_rng(0)
    noisy = Difference(
        delta=0.1,
        num_seeds=(3, 3),
        points=((30.1,) * 3, (30.0,) * 3),
        se_image=0.1,
        variance_seeds=(1.0, 1.0),
        image_quantiles=np.sort(random.normal(size=100)),
    )
    verdict = judge(noisy, margin=1.0, num_images=100)
    assert verdict.kind == "inconclusive"
    assert verdict.need is not None
    assert 3 <= verdict.need.more_seeds <= 12
    assert verdict.need.images is None
    assert verdict.need.more_seeds > 1
    assert f"bout {verdict.need.more_seeds} more seeds per arm would decide" in verdict.sentence


def test_where_images_are_the_error_more_images_are_advised():
    verdict = judge(difference_of(0.0, 1.0), margin=1.0, num_images=100)
    assert verdict.need is not None
    assert verdict.need.more_seeds is None
    assert verdict.need.images == pytest.approx(1.645**2, rel=0.06)
    assert "more validation images" in verdict.sentence


def test_without_image_error_the_interval_is_welchs():
    first, second = [30.1, 31.2, 29.8, 30.9], [28.3, 30.7, 29.0]
    difference = measure_difference(sample_of(first), sample_of(second))
    theirs = stats.ttest_ind(first, second, equal_var=False)
    assert difference.p_value == pytest.approx(theirs.pvalue)
    assert difference.degrees == pytest.approx(theirs.df)
    assert difference.interval(0.95) == pytest.approx(tuple(theirs.confidence_interval(0.95)))


def test_image_error_that_both_arms_share_cancels():
    first, second = sample_of([30.0, 31.0], spread=3.0, seed=1), sample_of([29.0, 30.0], spread=3.0, seed=1)
    assert measure_difference(first, second).se_image == pytest.approx(0.0, abs=1e-9)


def test_errors_of_images_and_of_trainings_add_in_squares():
    first = EndpointSample(
        points=np.array([30.0, 31, 32]), replicates=np.random.default_rng(0).normal(30, 1, (400, 3))
    )
    difference = measure_difference(first, sample_of([29.0, 31.0]))
    assert difference.variance_seeds == pytest.approx((1.0, 2.0))
    assert difference.se == pytest.approx((1 / 3 + 1 / 3 + 1.0) ** 0.5, rel=0.05)


def test_undefined_ap_is_refused():
    with pytest.raises(UsageError, match="no instance to find"):
        measure_difference(sample_of([np.nan]), sample_of([30.0]))


def test_holm_corrects_as_in_its_paper():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(adjusted) == ["a", "b", "c", "d"]
    assert holm({}) == {}


@pytest.mark.parametrize(
    ("seed_sd", "margin", "published"),
    [
        *((0.15, 0.3, 6), (0.15, 0.5, 3), (0.15, 1.0, 2), (0.15, 2.0, 2)),
        *((0.3, 0.3, 18), (0.3, 0.5, 7), (0.3, 1.0, 3), (0.3, 2.0, 2)),
        *((0.5, 0.3, None), (0.5, 0.5, 18), (0.5, 1.0, 6), (0.5, 2.0, 3)),
        *((1.0, 0.3, None), (1.0, 0.5, None), (1.0, 1.0, 18), (1.0, 2.0, 6)),
    ],
)
def test_seeds_needed_are_those_of_the_simulated_table(seed_sd, margin, published):
    """The table was simulated and its steps of one seed lie within its chance."""
    found = seeds_for_equivalence(seed_sd, margin)
    assert found == published or (published is not None and found is not None and abs(found - published) <= 1)


def test_power_is_that_of_simulated_trainings():
    random = np.random.default_rng(0)
    arms = random.normal(0, 0.3, size=(2, 20000, 7))
    means, variances = arms.mean(axis=2), arms.var(axis=2, ddof=1)
    half = stats.t.ppf(0.95, 12) * np.sqrt(variances.mean(axis=0) * 2 / 7)
    claimed = (np.abs(means[0] - means[1]) + half < 0.5).mean()
    assert equivalence_power(0.3, 0.5, 7) == pytest.approx(claimed, abs=0.01)


def test_the_smallest_margin_is_the_one_that_many_seeds_support():
    margin = smallest_margin(0.3, 5)
    assert margin is not None
    assert equivalence_power(0.3, margin, 5) == pytest.approx(0.8, abs=0.01)
    assert smallest_margin(0.3, 1) is None


def test_a_question_is_set_down_once(tmp_path):
    path = tmp_path / "question.json"
    name = register_question(path, QUESTION)
    assert register_question(path, QUESTION) == name
    assert read_question(path) == QUESTION
    with pytest.raises(UsageError, match=r"margin is 2\.0, now 3\.0"):
        register_question(path, QUESTION.model_copy(update={"margin": 3.0}))


def test_an_edited_question_is_refused(tmp_path):
    path = tmp_path / "question.json"
    register_question(path, QUESTION)
    path.write_text(path.read_text().replace('"margin": 2.0', '"margin": 9.0'))
    with pytest.raises(UsageError, match="was edited"):
        read_question(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"margin": 0.0},
        {"alpha": 0.7},
        {"rule": "luck"},
        {"candidate": "pre-training"},
        {"secondary": ("AP",)},
        {"num_replicates": 10},
        {"num_seeds": 0},
    ],
)
def test_a_question_that_cannot_mean_anything_is_refused(wrong):
    with pytest.raises(ValidationError):
        Question(**{"margin": 1.0, **wrong})


def test_the_usual_margin_follows_the_size_of_the_validation_set():
    assert usual_margin(5000) == 0.5
    assert usual_margin(200) == 1.0


def test_a_much_better_arm_is_found_ahead_and_the_comparison_is_json():
    comparison = compare_arms(QUESTION, tables_of(0.0, 3, seed=1), tables_of(2.5, 3, seed=2))
    assert comparison.verdict.kind == "reference ahead"
    assert comparison.verdict.beyond_margin
    assert list(comparison.secondary) == ["AP50", "AP75"]
    assert comparison.undefined == ("APs",)
    assert all(result.differs for result in comparison.secondary.values())
    assert not comparison.notes
    record = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert record["verdict"]["sentence"] == comparison.verdict.sentence


def test_an_arm_against_itself_differs_by_nothing():
    tables = tables_of(0.5, 3)
    comparison = compare_arms(QUESTION, tables, tables)
    assert comparison.difference.delta == 0
    assert comparison.difference.se_image == pytest.approx(0, abs=1e-9)
    assert comparison.verdict.kind in ("equivalent", "not worse", "inconclusive")


def test_one_seed_of_two_planned_is_noted_and_shows_no_secondary_difference():
    comparison = compare_arms(QUESTION, tables_of(0.0, 1, seed=1), tables_of(2.5, 1, seed=2))
    assert comparison.verdict.provisional
    assert comparison.notes[0] == "scratch has 1 of the 2 seeds that were planned"
    assert not any(result.differs for result in comparison.secondary.values())
    assert all(result.to_json()["image_only"] for result in comparison.secondary.values())


def test_an_arm_without_runs_is_refused_by_name():
    with pytest.raises(UsageError, match="arm 'scratch' has no evaluated run"):
        compare_arms(QUESTION, [], tables_of(0.0, 1))


def test_an_endpoint_of_missing_areas_is_refused():
    question = Question(margin=1.0, endpoint="APs", secondary=())
    with pytest.raises(UsageError, match="APs is not defined"):
        compare_arms(question, tables_of(0.0, 1), tables_of(0.0, 1))
