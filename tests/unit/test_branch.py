"""A branch has the bytes of the straight run, wherever its seeding is killed."""

import json

import pytest

from groundup.engine import branch, checkpoint
from groundup.engine.branch import has_branch_point, is_seeded, seed_run
from groundup.engine.checkpoint import COMMIT, STATE, checkpoint_paths, load_weights, newest_checkpoint
from groundup.engine.journal import open_log
from groundup.engine.schedule import drop_points
from groundup.errors import CheckpointError
from small_training import lines_of, small_options, train_small

CUT = 20
"""Images after which the short run drops its rate; both runs agree up to there."""


def long_options(**upkeep):
    return small_options(
        schedule={"images": 60}, upkeep=upkeep, evaluate_every=8, optimizer={"ema_decay": 0.9}
    )


def short_options():
    return small_options(evaluate_every=8, optimizer={"ema_decay": 0.9})


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "long"
    train_small(folder, long_options(keep_at=(CUT,)), recipe="long", num_images=30)
    return folder


def test_the_two_schedules_part_where_the_test_says():
    assert min(drop_points(short_options().schedule, 30)) == CUT


def test_a_checkpoint_to_branch_from_is_never_dropped(parent):
    kept = [int(path.name.split("_")[1]) for path in checkpoint_paths(parent)]
    assert kept == [60, 48, CUT]
    assert has_branch_point(parent, CUT)
    assert not has_branch_point(parent, 24)


def test_a_branch_ends_with_the_bytes_and_records_of_the_straight_run(parent, tmp_path):
    straight = train_small(tmp_path / "straight", short_options(), recipe="short")
    assert seed_run(parent, tmp_path / "short", CUT, recipe="short", documents={"recipe.json": {}})
    branched = train_small(tmp_path / "short", short_options(), recipe="short")
    weights = [
        (tmp_path / name / branched["checkpoint"] / "model.safetensors") for name in ("straight", "short")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert load_weights(tmp_path / "short").keys() == load_weights(tmp_path / "straight").keys()
    for result in (straight, branched):
        result["exposure"].pop("seconds")
    assert branched == straight
    assert lines_of(tmp_path / "short") == lines_of(tmp_path / "straight")


def test_seeding_twice_is_seeding_once_and_says_so(parent, tmp_path):
    assert seed_run(parent, tmp_path, CUT, recipe="short", documents={})
    before = open_log(tmp_path).path.read_bytes()
    assert not seed_run(parent, tmp_path, CUT, recipe="short", documents={})
    assert open_log(tmp_path).path.read_bytes() == before
    assert [record["parent"] for record in open_log(tmp_path).read() if record["kind"] == "branch"] == [
        "long"
    ]


@pytest.mark.parametrize(
    "step", ["copy_evaluations", "log_prefix", "copy_checkpoint", "link_or_copy", "seal", STATE, COMMIT]
)
def test_seeding_that_is_cut_short_leaves_no_checkpoint_and_is_done_by_the_next_try(
    step, parent, tmp_path, monkeypatch
):
    """State and marker of a checkpoint are written by the same call: it dies at one or the other."""
    write_synced = checkpoint.write_synced

    def die(*_):
        raise KeyboardInterrupt

    def die_at(path, text):
        return die() if path.name == step else write_synced(path, text)

    with monkeypatch.context() as patch:
        if step in {STATE, COMMIT}:
            patch.setattr(checkpoint, "write_synced", die_at)
        else:
            patch.setattr(branch, step, die)
        with pytest.raises(KeyboardInterrupt):
            seed_run(parent, tmp_path, CUT, recipe="short", documents={"recipe.json": {"a": 1}})
    assert not is_seeded(tmp_path)
    assert seed_run(parent, tmp_path, CUT, recipe="short", documents={"recipe.json": {"a": 1}})
    assert newest_checkpoint(tmp_path).images_seen == CUT
    assert json.loads((tmp_path / "recipe.json").read_text()) == {"a": 1}


def test_a_run_with_a_state_of_its_own_is_left_as_it_is(parent, tmp_path):
    train_small(tmp_path, short_options(), recipe="short")
    assert not seed_run(parent, tmp_path, CUT, recipe="short", documents={})


def test_a_damaged_or_missing_branch_point_is_refused(parent, tmp_path):
    with pytest.raises(CheckpointError, match="carry out its parent first"):
        seed_run(parent, tmp_path, 24, recipe="short", documents={})
    assert not is_seeded(tmp_path)
