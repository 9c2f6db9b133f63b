"""The paper's findings as claims: each comes out as the truth that is built into the study."""

import dataclasses
import itertools
import re

import numpy as np
import pytest

from claim_study import draw_study, findings_of
from groundup.metrics.bootstrap import EndpointSample
from groundup.study.claims import MOST_TIMES, Requirement, mark_of, multiplied, p_value_of, quotient_of
from groundup.study.difference import measure_difference
from groundup.study.findings import PAPER, state_findings
from groundup.study.samples import Samples
from simulated_study import CANDIDATE, FRACTION, REFERENCE, UNITS

ALPHA = 0.05
DIFFERENCES = (2, 4, 5, 6)
"""Findings that claim a difference between the arms."""


def as_in_the_paper(arm, units, fraction):
    """Both end alike; scratch is late and breaks down with little data."""
    behind = (0.2 if units < 4 else 0.0) + (0.3 if fraction < 1 else 0.0)
    return 1.0 - behind * (5 if arm == CANDIDATE else 1)


def alike(arm, units, fraction):
    """Not a difference anywhere."""
    return 0.5


def marks_of(results):
    return {number: finding.mark for number, finding in findings_of(results).items()}


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """The paper's world; the pre-trained arm loses some AP on the way to its ends."""
    folder = tmp_path_factory.mktemp("paper") / "study"
    return draw_study(folder, as_in_the_paper, careful=CANDIDATE, lost=0.3)


@pytest.fixture(scope="module")
def found(paper):
    return findings_of(paper)


def test_all_six_are_confirmed_where_all_six_are_true(found):
    assert {number: finding.mark for number, finding in found.items()} == dict.fromkeys(
        range(1, 7), "confirmed"
    )
    assert not any(finding.provisional for finding in found.values())


def test_a_claim_that_is_confirmed_has_its_interval_beyond_what_it_asks(found):
    for finding in found.values():
        asked = [measure for measure in finding.measures if measure.border is not None]
        assert asked
        assert all(measure.border < measure.low <= measure.value for measure in asked)
        assert finding.p_value < ALPHA


@pytest.mark.parametrize(
    ("quality", "careful", "expected"),
    [
        # scratch fails and falls further behind, and most where boxes must be tight
        (
            lambda arm, units, fraction: (
                -1.5 - (0.5 if units > 1 else 0) if arm == CANDIDATE else 1 + (0.7 if units > 1 else 0)
            ),
            REFERENCE,
            {1: "contradicted", 2: "contradicted", 3: "contradicted", 4: "confirmed", 5: "contradicted",
             6: "contradicted"},
        ),
        # pre-training hurts everywhere, least at the end
        (
            lambda arm, units, fraction: 1.0 if arm == CANDIDATE else (0.6 if units > 1 else -0.3),
            None,
            {1: "confirmed", 2: "contradicted", 3: "confirmed", 4: "contradicted", 5: "contradicted"},
        ),
        # pre-training helps by the same amount at any length and size of data
        (
            lambda arm, units, fraction: 0.0 if arm == CANDIDATE else 1.0,
            None,
            {1: "confirmed", 2: "undecided", 3: "contradicted", 4: "confirmed", 5: "contradicted"},
        ),
    ],
)  # fmt: skip
def test_what_is_false_is_contradicted(tmp_path, quality, careful, expected):
    marks = marks_of(draw_study(tmp_path / "study", quality, careful=careful))
    assert {number: marks[number] for number in expected} == expected


def test_a_margin_that_cannot_be_shown_leaves_the_claim_undecided(tmp_path):
    marks = marks_of(draw_study(tmp_path / "study", alike, margin=0.1))
    assert marks[3] == marks[5] == "undecided"


def false_claims(folder, number, shared_luck):
    """Findings on two arms that are the same which say that they differ."""
    marks = marks_of(draw_study(folder, alike, number=number, shared_luck=shared_luck))
    return [n for n in DIFFERENCES if marks[n] in {"confirmed", "contradicted"}]


def test_the_same_arm_twice_confirms_no_difference(tmp_path):
    found = [false_claims(tmp_path / str(number), number, 0.05) for number in range(8)]
    assert sum(map(bool, found)) <= 1, found


@pytest.mark.slow
@pytest.mark.parametrize("shared_luck", [0.0, 0.1])
def test_300_pairs_of_the_same_arm_say_anything_false_in_at_most_5_per_cent(tmp_path, shared_luck):
    found = [false_claims(tmp_path / str(number), 1000 + number, shared_luck) for number in range(300)]
    print(f"luck {shared_luck}: {sum(map(bool, found))} of 300: {[one for one in found if one]}")
    assert sum(map(bool, found)) <= 15


def test_luck_that_a_seed_gives_to_all_lengths_drops_out_of_gains(tmp_path):
    """A short schedule is a branch of the long one; without pairing, finding 2 could not be told here."""
    results = draw_study(tmp_path / "study", as_in_the_paper, shared_luck=0.5, fractions=(1.0,))
    finding = findings_of(results)[2]
    assert finding.mark == "confirmed"
    alone = findings_of(results)[3].measures[0]
    assert finding.measures[0].high - finding.measures[0].low < alone.high - alone.low


def test_what_the_study_does_not_plan_is_not_asked_and_why_is_said(tmp_path):
    results = draw_study(tmp_path / "one", as_in_the_paper, fractions=(1.0,))
    found = findings_of(results)
    assert found[5].mark == "not asked"
    assert "smaller shares" in found[5].sentence
    assert found[5].p_value is None
    assert found[4].mark == "confirmed"
    found = findings_of(draw_study(tmp_path / "two", as_in_the_paper, units=(4,)))
    assert {n for n, finding in found.items() if finding.mark == "not asked"} == {2, 4}
    assert "one length" in found[2].sentence
    few = {"secondary": ["AP50"]}
    found = findings_of(draw_study(tmp_path / "three", as_in_the_paper, fractions=(1.0,), question=few))
    assert found[6].mark == "not asked"
    assert "AP75" in found[6].sentence


def test_what_is_not_done_yet_is_undecided_and_counts_in_the_correction(tmp_path):
    def is_done(entry):
        return entry["point"][UNITS] == 1 and entry["point"][FRACTION] == 1

    found = findings_of(draw_study(tmp_path / "study", as_in_the_paper, is_done=is_done))
    assert found[4].mark == "confirmed"
    for number in (1, 2, 3, 5, 6):
        assert found[number].mark == "undecided"
        assert found[number].provisional
        assert found[number].sentence.startswith("Not judged: scratch is not done at units 4")
    alone = found[4].measures[0]
    assert found[4].p_value < ALPHA
    assert alone.low > 0


def test_a_missing_run_makes_a_claim_provisional_and_gains_are_of_seeds_done_at_both(tmp_path):
    def is_done(entry):
        return (entry["arm"], entry["seed"], entry["point"][UNITS]) != (CANDIDATE, 0, 1)

    whole = draw_study(tmp_path / "whole", as_in_the_paper, fractions=(1.0,))
    results = draw_study(tmp_path / "study", as_in_the_paper, fractions=(1.0,), is_done=is_done)
    found = findings_of(results)
    assert found[2].provisional
    assert found[4].provisional
    assert not found[3].provisional
    assert found[2].mark == "confirmed"
    assert not findings_of(whole)[2].provisional


def test_one_seed_is_of_images_only_and_provisional(tmp_path):
    found = findings_of(draw_study(tmp_path / "study", as_in_the_paper, seeds=(0,)))
    for finding in found.values():
        assert finding.provisional
        assert all(measure.image_only for measure in finding.measures)


def test_it_does_not_matter_which_arm_is_asked_about(paper, found, tmp_path):
    turned = dataclasses.replace(
        paper,
        question=paper.question.model_copy(update={"candidate": REFERENCE, "reference": CANDIDATE}),
    )
    assert findings_of(turned) == found


def test_arms_that_are_both_pre_trained_are_not_asked(tmp_path):
    start = {"start": f"pretraining:{REFERENCE}"}
    results = draw_study(
        tmp_path / "study", alike, arms={CANDIDATE: start, REFERENCE: start}, fractions=(1.0,)
    )
    assert state_findings(results, Samples(results.question)) == []


def test_the_slow_arm_needs_more_images_for_the_same_ap(tmp_path):
    def quality(arm, units, fraction):
        return 1.0 if units == 4 or (arm == REFERENCE and units == 2) else 0.0

    results = draw_study(tmp_path / "study", quality, units=(1, 2, 4), fractions=(1.0,))
    line = findings_of(results)[4].beside[0]
    scratch, pretrained = (
        int(re.search(rf"{arm} needs ([\d,]+)", line).group(1).replace(",", ""))
        for arm in (CANDIDATE, REFERENCE)
    )
    ends = {run.point[UNITS]: run.total_images for run in results.runs}
    assert ends[2] < scratch <= ends[4]
    assert ends[1] < pretrained <= 1.2 * ends[2]


def test_what_was_lost_since_the_best_evaluation_stands_beside_overfitting(found):
    for line in found[5].beside:
        scratch, pretrained, difference = (
            float(value)
            for value in re.findall(r"lost (\S+) AP and \S+ (\S+) at .*difference (\S+) ", line)[0]
        )
        assert pretrained > scratch
        assert difference == pytest.approx(scratch - pretrained, abs=0.011)


def test_every_claim_is_said_with_its_numbers(found):
    for finding, paper in zip(found.values(), PAPER, strict=True):
        assert (finding.number, finding.title, finding.paper) == (paper.number, paper.title, paper.says)
        assert re.search(r"\[[+-]?\d+\.\d+, [+-]?\d+\.\d+\]", finding.sentence), finding.sentence


def sample_of(random, mean, *, spread=1.0, seeds=3, noise=2.0):
    points = mean + spread * random.normal(size=seeds)
    return EndpointSample(points=points, replicates=points + noise * random.normal(size=(400, seeds)))


def test_p_is_below_alpha_where_the_t_interval_leaves_the_border_out():
    random = np.random.default_rng(0)
    decided = 0
    for _, one_sided in itertools.product(range(60), (False, True)):
        difference = measure_difference(sample_of(random, 41), sample_of(random, 40))
        border = float(3 * random.normal())
        one = Requirement(difference=difference, border=border, one_sided=one_sided)
        assert (one.p_value < ALPHA) == (one.holds(ALPHA) or one.fails(ALPHA))
        decided += one.p_value < ALPHA
    assert 10 < decided < 110


def test_a_claim_is_as_sure_as_its_least_sure_requirement_and_falls_with_one():
    random = np.random.default_rng(1)
    high, low, open_one = (
        Requirement(difference=measure_difference(sample_of(random, mean), sample_of(random, 40)))
        for mean in (60, 20, 40.5)
    )
    assert p_value_of((high, open_one), ALPHA) == open_one.p_value
    assert mark_of((high, open_one), p_value_of((high, open_one), ALPHA), ALPHA) == "undecided"
    assert p_value_of((high, low, open_one), ALPHA) == 3 * low.p_value
    assert mark_of((high, low), p_value_of((high, low), ALPHA), ALPHA) == "contradicted"
    assert mark_of((high,), high.p_value, ALPHA) == "confirmed"
    # an interval that is beyond the border does not do if the correction takes the claim back
    assert mark_of((high,), 0.06, ALPHA) == "undecided"


def test_p_values_are_corrected_for_the_claims_that_are_asked(tmp_path):
    """The one claim that can be judged has six times its p value, five where one is not asked."""

    def is_done(entry):
        return entry["point"][UNITS] == 1

    for fractions, asked in (((0.1, 1.0), 6), ((1.0,), 5)):
        results = draw_study(
            tmp_path / str(asked),
            lambda arm, units, fraction: 0.6 if arm == REFERENCE else 0.45,
            is_done=is_done,
            fractions=fractions,
        )
        point = {UNITS: 1} | ({FRACTION: 1.0} if len(fractions) > 1 else {})
        samples = Samples(results.question)
        ends = [samples.at_end(results.runs_of(arm, point), "bbox")["AP"] for arm in (REFERENCE, CANDIDATE)]
        alone = Requirement(difference=measure_difference(*ends)).p_value
        assert 0 < asked * alone < 1
        assert findings_of(results)[4].p_value == pytest.approx(asked * alone)


def test_a_quotient_lies_in_its_interval_as_the_difference_holds_nothing():
    random = np.random.default_rng(2)
    first, second = sample_of(random, 30), sample_of(random, 40)
    value, low, high = quotient_of(first, second, 0.95)
    assert low < value < high
    assert value == pytest.approx(first.points.mean() / second.points.mean())
    for quotient, inside in ((low - 1e-6, 0), (low + 1e-6, 1), (high - 1e-6, 1), (high + 1e-6, 0)):
        ends = measure_difference(first, multiplied(second, quotient)).interval(0.95)
        assert (ends[0] <= 0 <= ends[1]) == inside


def test_a_quotient_by_what_may_be_nothing_has_no_upper_end():
    random = np.random.default_rng(3)
    value, low, high = quotient_of(sample_of(random, 30), sample_of(random, 0.1), 0.95)
    assert high is None
    assert 0 <= low <= value <= MOST_TIMES
    assert quotient_of(sample_of(random, 0.0), sample_of(random, 40), 0.95)[1] == 0


@pytest.mark.parametrize(("kind", "word"), [("segm", "mask"), ("keypoints", "keypoint")])
def test_findings_are_of_the_kind_that_was_asked_about(found, kind, word, tmp_path):
    asked = {"kind": "mask" if kind == "segm" else kind, "secondary": ("AP50", "AP75")}
    draw = {"careful": CANDIDATE, "lost": 0.3, "question": asked}
    others = findings_of(draw_study(tmp_path / "asked", as_in_the_paper, kind=kind, **draw))
    for number, other in others.items():
        assert (other.mark, other.p_value) == (found[number].mark, found[number].p_value)
        assert f" {word} AP" in other.sentence
        assert other.sentence.replace(f"{word} AP", "AP") == found[number].sentence
    # What boxes say is no answer to it.
    boxes = findings_of(draw_study(tmp_path / "boxes", as_in_the_paper, **draw))
    assert {finding.mark for finding in boxes.values()} == {"undecided"}
    assert not any(finding.measures for finding in boxes.values())
