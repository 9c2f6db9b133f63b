"""A study's answer from its folder: what it claims, what it admits to be missing, and that its bill adds up.

Studies are simulated (tests/simulated_study.py); no network is trained and torch is never needed.
"""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from groundup.errors import CheckpointError, UsageError
from groundup.metrics.exposure import Exposure
from groundup.study.answer import ANSWER, Answer, answer_study, read_answer, write_answer
from groundup.study.bill import study_bill
from groundup.study.compare import compare_arms
from groundup.study.points import base_place, runs_at
from groundup.study.results import read_study_results
from groundup.study.samples import Samples
from simulated_study import CANDIDATE, FRACTION, REFERENCE, SAME, UNITS, Skill, write_simulated_study


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, world):
    """A finished study over lengths and shares of the data in which pre-training is far ahead."""
    skills = {CANDIDATE: Skill(level=0.2, behind=3, tau=1), REFERENCE: Skill(level=1.6, behind=1)}
    folder = tmp_path_factory.mktemp("whole") / "study"
    return write_simulated_study(
        folder,
        skills=skills,
        units=(1, 2),
        fractions=(0.25, 0.5, 1),
        seeds=(0, 1),
        num_val=20,
        world=world,
        num_replicates=100,
    )


@pytest.fixture(scope="module")
def results(whole):
    return read_study_results(whole)


@pytest.fixture(scope="module")
def answer(results):
    return answer_study(results)


def small(tmp_path, world, **changes):
    """A study of one length, written and read."""
    given = {"units": (1,), "num_val": 20, "num_replicates": 100, "world": world, **changes}
    return read_study_results(write_simulated_study(tmp_path / "study", **given))


def test_a_clear_difference_is_called_at_the_longest_schedule_on_all_data(answer):
    assert answer.primary["kind"] == "reference ahead"
    assert answer.point == answer.reference_point == {UNITS: 2, FRACTION: 1}
    assert answer.sentence.startswith("Pre-training is ahead of scratch by")
    assert not answer.provisional
    assert answer.primary["interval"][1] < 0


def test_the_same_arm_twice_is_not_called_different(tmp_path, world):
    answer = answer_study(small(tmp_path, world, skills=SAME, seeds=(0, 1, 2, 3)))
    assert answer.primary["kind"] not in {"candidate ahead", "reference ahead"}
    low, high = answer.primary["interval"]
    assert low < 0 < high


def test_the_primary_comparison_is_that_of_the_match_tables(results, answer):
    tables = [
        [Samples(results.question).table(run.end, "bbox") for run in results.runs_of(arm, answer.point)]
        for arm in (CANDIDATE, REFERENCE)
    ]
    alone = compare_arms(results.question, *tables).to_json()
    for name in ("delta", "interval", "margin"):
        assert answer.primary[name] == pytest.approx(alone["verdict"][name])
    assert answer.primary["secondary"]["AP50"] == alone["secondary"]["AP50"]


def test_every_point_has_its_comparison(answer):
    points = [row["point"] for row in answer.comparisons if row["kind"] == "bbox"]
    assert len(points) == 6
    primary = next(row for row in answer.comparisons if row["point"] == answer.point)
    assert primary["comparison"]["verdict"]["delta"] == answer.primary["delta"]
    assert any("not corrected" in note for note in answer.notes)


def test_curves_hold_what_the_runs_logged_and_bands_hold_their_means(results, answer):
    assert len(answer.curves) == 12
    for row in answer.curves:
        runs = results.runs_of(row["arm"], row["point"])
        logged = [[100 * p.metrics["box/AP"] for p in run.curve] for run in runs]
        assert row["per_seed"] == logged
        np.testing.assert_allclose(row["mean"], np.mean(logged, axis=0))
        assert all(lo < m < hi for lo, m, hi in zip(row["low"], row["mean"], row["high"], strict=True))
        assert row["images"][-1] == runs[0].total_images


def test_endpoints_of_the_bootstrap_are_those_of_the_evaluation(results, answer):
    for row in answer.endpoints:
        runs = results.runs_of(row["arm"], row["point"])
        logged = [run.end.metrics.get(f"box/{row['endpoint']}") for run in runs]
        if None in logged:  # no instance of that size
            assert row["mean"] is None
            assert row["per_seed"] == logged
        else:
            np.testing.assert_allclose(row["per_seed"], 100 * np.array(logged), atol=1e-6)


def test_the_arms_differ_in_their_start_alone(answer):
    assert [row["path"] for row in answer.differences] == ["start.weights"]


def test_a_far_better_arm_is_never_caught_up_with_and_worth_more_data(answer):
    assert answer.crossover["point"] is None
    assert not answer.crossover["in_run"]
    assert answer.crossover["x"] == [1220.0, 2436.0]
    assert "not shown within the budget" in answer.crossover["sentence"]
    assert answer.data_size["sizes"] == [25, 50, 100]
    low = answer.data_size["factor"]["low"]
    assert low is None or low > 1
    assert set(answer.data_size["arms"]) == {CANDIDATE, REFERENCE}


def test_catching_up_is_found_where_the_arms_end_alike(tmp_path, world):
    skills = {CANDIDATE: Skill(level=1.5, behind=12, tau=0.5), REFERENCE: Skill(level=1.0, behind=0)}
    answer = answer_study(
        small(tmp_path, world, skills=skills, units=(1, 4), seeds=(0, 1, 2), seed_noise=0.01)
    )
    assert answer.crossover["point"] == answer.crossover["x"][1]
    assert answer.crossover["low"] is not None


def test_one_schedule_gives_a_curve_for_illustration(tmp_path, world):
    answer = answer_study(small(tmp_path, world, units=(3,), seeds=(0,)))
    assert answer.crossover["in_run"]
    assert answer.findings == []
    assert answer.crossover["sentence"].startswith("Inside one schedule, as an illustration")
    assert answer.provisional
    assert all(row["image_only"] for row in answer.curves)


def test_a_study_not_begun_says_so(tmp_path, world):
    answer = answer_study(small(tmp_path, world, state=lambda entry: "missing", seeds=(0,)))
    assert answer.primary is None
    assert answer.provisional
    assert "scratch has 0 of 1 runs done (seed 0 not begun)" in answer.sentence
    assert answer.curves == answer.comparisons == answer.errors == []
    assert answer.bill["rows"][0]["images"] is None
    assert Answer.from_json(json.loads(json.dumps(answer.to_json()))) == answer


def test_missing_and_failed_runs_are_named_and_the_rest_is_answered(tmp_path, world):
    wanted = {(CANDIDATE, 0): "failed", (REFERENCE, 2): "partial"}
    answer = answer_study(
        small(tmp_path, world, state=lambda entry: wanted.get((entry["arm"], entry["seed"]), "done"))
    )
    assert answer.primary is not None
    assert answer.provisional
    said = " | ".join(answer.notes)
    assert "scratch has 2 of 3 runs done (seed 0 failed)" in said
    assert "pre-training has 2 of 3 runs done (seed 2 not ended)" in said
    assert "not finite in step 7" in said
    assert "scratch has 2 of the 3 seeds that were planned" in said
    assert answer.decide[0].startswith("carry out what is missing")


def test_half_a_study_is_answered_where_it_is_done(tmp_path, world):
    """The primary comparison waits for its own point; a shorter schedule does not stand in for it."""

    def state(entry):
        return "done" if entry["point"][UNITS] == 1 else "partial"

    answer = answer_study(small(tmp_path, world, units=(1, 2), seeds=(0, 1), state=state))
    assert answer.primary is None
    assert "scratch has 0 of 2 runs done (seed 0 not ended, seed 1 not ended)" in answer.sentence
    assert [row["point"] for row in answer.comparisons] == [{UNITS: 1}]
    assert {row["point"][UNITS] for row in answer.curves} == {1, 2} or answer.curves
    assert any("a shorter one is billed" in note for note in answer.notes)


def test_runs_without_match_tables_keep_their_curves(tmp_path, world):
    results = small(tmp_path, world, seeds=(0,))
    for path in results.folder.rglob("matches.*.npz"):
        path.unlink()
    answer = answer_study(results)
    assert answer.primary is None
    assert answer.curves[0]["mean"] == answer.curves[0]["per_seed"][0]
    assert answer.curves[0]["low"] == [None]
    assert "cannot be compared" in answer.sentence


def test_equal_samples_give_the_candidate_the_longest_schedule_within_the_total(tmp_path, world):
    answer = answer_study(small(tmp_path, world, units=(1, 2), seeds=(0,), rule="samples"))
    # the reference sees 2,436 images and 5,000 before: within them lies all that scratch does
    assert answer.point == {UNITS: 2}
    shorter = {"pretraining": {}, "arms": {CANDIDATE: {}, REFERENCE: {"start": "w.safetensors"}}}
    priced = {REFERENCE: {"images": -0.0, "kind": "stated", "source": "the makers"}}
    unknown = answer_study(
        small(tmp_path / "b", world, units=(1, 2), seeds=(0,), rule="samples", study=shorter)
    )
    assert unknown.primary is None
    assert "is unknown, so equal samples cannot be told" in unknown.sentence
    known = answer_study(
        small(
            tmp_path / "c",
            world,
            units=(1, 2),
            seeds=(0,),
            rule="samples",
            study={**shorter, "prices": priced},
        )
    )
    assert known.point == {UNITS: 2}
    assert any("equal samples" in note for note in known.notes)


def test_at_convergence_each_arm_stands_at_its_best_schedule(tmp_path, world):
    skills = {CANDIDATE: Skill(behind=8, tau=1), REFERENCE: Skill(level=1, behind=-6, tau=1.5)}
    answer = answer_study(
        small(tmp_path, world, skills=skills, units=(1, 3), seeds=(0, 1), rule="convergence", seed_noise=0.01)
    )
    assert answer.point == {UNITS: 3}
    assert answer.reference_point == {UNITS: 1}
    assert any("may not have converged" in note for note in answer.notes)


def test_the_bill_adds_up_and_counts_trunks_once(results, answer):
    bill = answer.bill
    own = sum(run.own_images for run in results.runs)
    assert bill["sharing"]["images_run"] == own
    assert bill["sharing"]["images_unshared"] == sum(run.total_images for run in results.runs)
    made = results.pretraining[REFERENCE].exposure
    assert bill["study_total"]["images"] == own + made.images
    assert bill["study_total"]["flops"] == pytest.approx(3e9 * own + made.flops, rel=1e-9)
    scratch, pretrained = bill["rows"]
    assert scratch["pretraining"] is None
    assert scratch["total"]["images"] == scratch["images"] == 2436
    assert pretrained["pretraining"]["kind"] == "measured"
    for name in ("images", "instances", "pixels", "flops", "seconds"):
        assert pretrained["total"][name] == pretrained[name] + pretrained["pretraining"][name]


def test_a_trunk_that_was_not_taken_over_is_on_the_runs_own_bill(whole, tmp_path):
    results = read_study_results(whole)
    child = next(run for run in results.runs if run.parent)
    assert child.trunk_exposure.images == child.branch_images
    copy = shutil.copytree(whole, tmp_path / "study")
    log = copy / "runs" / child.key / "log.jsonl"
    log.write_text(
        "".join(line for line in log.read_text().splitlines(keepends=True) if '"branch"' not in line)
    )
    changed = read_study_results(copy)
    assert changed.run(child.key).trunk_exposure == Exposure()
    before, after = (study_bill(one, base_place(one), [])["study_total"] for one in (results, changed))
    assert after["images"] == before["images"] + child.branch_images


def test_prices_from_elsewhere_are_known_amortised_or_unknown(tmp_path, world):
    described = {"pretraining": {}, "arms": {CANDIDATE: {}, REFERENCE: {"start": "weights.safetensors"}}}
    price = {
        "images": 1e6,
        "seconds": 3600.0,
        "kind": "estimated",
        "source": "a paper",
        "downstream_uses": 10,
    }
    known = answer_study(
        small(tmp_path, world, seeds=(0,), study={**described, "prices": {REFERENCE: price}})
    ).bill["rows"][1]
    assert known["pretraining"]["source"] == "a paper"
    assert known["total"]["images"] == known["images"] + 1e6
    assert known["total_amortised"]["images"] == known["images"] + 1e5
    assert known["total"]["flops"] is None
    unknown = answer_study(small(tmp_path / "b", world, seeds=(0,), study=described)).bill["rows"][1]
    assert unknown["pretraining"]["kind"] == "unknown"
    assert unknown["total"]["images"] is None


def test_categories_and_disagreements_are_those_of_the_compared_runs(results, answer):
    assert [row["delta"] for row in answer.categories] == sorted(row["delta"] for row in answer.categories)
    for side in ("candidate", "reference"):
        mean = np.mean([row[side] for row in answer.categories])
        arm = getattr(results.question, side)
        shown = next(
            r for r in answer.endpoints if (r["arm"], r["point"], r["endpoint"]) == (arm, answer.point, "AP")
        )
        assert mean == pytest.approx(shown["mean"])
    for row in answer.disagreements:
        ahead = row["candidate_found"] > row["reference_found"]
        assert row["ahead"] == (CANDIDATE if ahead else REFERENCE)
        assert max(row["candidate_found"], row["reference_found"]) <= row["gt"]
        assert row["file"].endswith(".jpg")
        assert results.run(row["candidate_run"]).seed == results.run(row["reference_run"]).seed
    assert answer.disagreements


def test_overfitting_is_the_way_down_from_the_best_evaluation(results, answer):
    row = next(r for r in answer.overfitting if r["point"] == answer.point and r["arm"] == CANDIDATE)
    runs = results.runs_of(CANDIDATE, answer.point)
    assert row["val_AP_end"] == pytest.approx(np.mean([100 * run.end.metrics["box/AP"] for run in runs]))
    assert row["drop_from_best"] >= 0
    assert row["train_loss_end"] == pytest.approx(np.mean([run.losses[-1][1] for run in runs]))


def test_the_findings_of_the_paper_are_in_the_answer_and_agree_with_its_verdict(answer):
    assert [row["number"] for row in answer.findings] == [1, 2, 3, 4, 5, 6]
    no_worse = answer.findings[2]["measures"][0]
    assert no_worse["value"] == pytest.approx(answer.primary["delta"])
    assert [no_worse["low"], no_worse["high"]] == pytest.approx(
        answer.primary["verdict"]["equivalence_interval"]
    )
    assert answer.findings[3]["mark"] == "confirmed"


def test_evaluations_at_an_end_and_on_the_way_stand_side_by_side(results):
    samples = Samples(results.question)
    first, second = results.runs_of(CANDIDATE, {UNITS: 2, FRACTION: 1})
    assert samples.at_end([first], "bbox")
    found = samples.on_curve([first.curve[-1], second.curve[0]], "bbox")
    assert found.points.shape == (2,)


def test_an_answer_survives_its_file(answer, tmp_path):
    write_answer(tmp_path, answer)
    assert read_answer(tmp_path) == answer
    values = json.loads((tmp_path / ANSWER).read_text())
    with pytest.raises(CheckpointError, match="another version"):
        Answer.from_json({**values, "mood": "good"})


def test_masks_are_answered_beside_boxes(tmp_path, world):
    answer = answer_study(small(tmp_path, world, masks=True, seeds=(0, 1)))
    assert {row["kind"] for row in answer.comparisons} == {"bbox", "segm"}
    assert {row["kind"] for row in answer.curves} == {"bbox", "segm"}


def test_draws_of_the_data_are_repetitions_and_all_data_has_one_draw(results):
    def drawn(run, draw):
        return dataclasses.replace(
            run, key=f"{run.key}-{draw}", point={**run.point, "data.fraction_seed": draw}
        )

    twice = dataclasses.replace(results, runs=tuple(drawn(run, d) for run in results.runs for d in (0, 1)))
    assert len(runs_at(twice, CANDIDATE, {UNITS: 2, FRACTION: 0.25})) == 4
    assert len(runs_at(twice, CANDIDATE, {UNITS: 2, FRACTION: 1})) == 2


def test_an_edited_study_and_a_folder_that_is_none_are_refused(whole, tmp_path):
    with pytest.raises(UsageError, match="no study"):
        read_study_results(tmp_path)
    copy = shutil.copytree(whole, tmp_path / "study", ignore=shutil.ignore_patterns("runs"))
    assert {run.state for run in read_study_results(copy).runs} == {"missing"}
    (copy / "plan.json").unlink()
    assert answer_study(read_study_results(copy)).sentence == "No answer yet: nothing is planned yet."
    text = (copy / "study.json").read_text()
    (copy / "study.json").write_text(text.replace('"margin": 2.0', '"margin": 20.0'))
    with pytest.raises(UsageError, match="edited"):
        read_study_results(copy)


def test_the_names_of_a_runs_files_are_those_that_runs_write():
    from groundup import run_folder
    from groundup.engine import journal, run
    from groundup.study import results

    assert results.LOG == journal.LOG
    assert results.RESULT == run.RESULT
    assert results.RECORD == run_folder.RECORD
    assert results.RECIPE == run_folder.RECIPE


def test_reading_and_answering_needs_no_torch(whole):
    code = (
        "import sys; from pathlib import Path; from groundup.study.results import read_study_results; "
        "from groundup.study.answer import answer_study; "
        f"print(answer_study(read_study_results(Path({str(whole)!r}))).sentence); "
        "assert not {'torch', 'torchvision', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Pre-training is ahead")
