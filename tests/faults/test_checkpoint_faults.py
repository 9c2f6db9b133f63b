"""Damage, full disks, limits and numbers that are not: the run survives or says why it does not."""

import json
import os
import resource
import shutil
import signal
import threading

import pytest
import torch

from groundup.engine.checkpoint import COMMIT, checkpoint_paths, newest_checkpoint, save_checkpoint
from groundup.engine.distributed import read_world
from groundup.engine.run import run_state
from groundup.engine.stop import StopFlag
from groundup.errors import CheckpointError, DivergedError, Interrupted, UsageError
from small_training import SmallModel, batches_from, draw_batch, lines_of, measure, small_options, train_small

TENSORS = {"model": {"a": torch.arange(5000.0), "b": torch.tensor(3)}, "optim": {"a.momentum": torch.ones(7)}}


@pytest.fixture
def run(tmp_path):
    """A run with two checkpoints."""
    for images in (100, 200):
        save_checkpoint(tmp_path, images, TENSORS, {"recipe": "x"}, keep=2)
    return tmp_path


@pytest.mark.parametrize("name", ["model.safetensors", "optim.safetensors", "state.json", "COMMIT"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_sends_the_run_back_to_the_checkpoint_before(run, name, part):
    file = checkpoint_paths(run)[0] / name
    os.truncate(file, int(part * file.stat().st_size))
    found = newest_checkpoint(run)
    assert found.images_seen == 100
    assert len(found.skipped) == 1
    assert "images_000000200" in found.skipped[0]
    assert torch.equal(found.tensors("model")["a"], TENSORS["model"]["a"])


@pytest.mark.parametrize("name", ["model.safetensors", "optim.safetensors", "state.json", "COMMIT"])
def test_a_flipped_byte_is_found(run, name):
    file = checkpoint_paths(run)[0] / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    found = newest_checkpoint(run)
    assert found.images_seen == 100
    assert "damaged" in found.skipped[0]


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "COMMIT"])
def test_a_missing_file_is_named(run, name):
    (checkpoint_paths(run)[0] / name).unlink()
    assert name in newest_checkpoint(run).skipped[0]


def test_when_no_checkpoint_is_whole_each_is_explained(run):
    for path in checkpoint_paths(run):
        (path / COMMIT).unlink()
    with pytest.raises(CheckpointError, match=r"none of 2 checkpoints.*000000200.*000000100.*start over"):
        newest_checkpoint(run)


def test_a_damaged_checkpoint_is_replaced_when_the_run_comes_by_again(run):
    os.truncate(checkpoint_paths(run)[0] / "model.safetensors", 10)
    save_checkpoint(run, 200, TENSORS, {"recipe": "x"}, keep=2)
    assert newest_checkpoint(run).images_seen == 200
    assert newest_checkpoint(run).skipped == ()


def test_only_the_newest_are_kept(run):
    save_checkpoint(run, 1_000_000_000, TENSORS, {"recipe": "x"}, keep=2)
    assert [path.name for path in checkpoint_paths(run)] == ["images_1000000000", "images_000000200"]


def test_leftovers_of_killed_processes_are_removed(run):
    shutil.copytree(checkpoint_paths(run)[0], run / "checkpoints" / ".images_000000300.draft")
    save_checkpoint(run, 400, TENSORS, {"recipe": "x"}, keep=2)
    assert not list((run / "checkpoints").glob(".*"))


@pytest.mark.parametrize("limit", [0, 10, 10_000])
def test_a_full_disk_keeps_the_old_checkpoint_and_leaves_nothing_partial(run, limit):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(CheckpointError, match=r"disk full .need \d+ bytes, \d+ bytes free"):
            save_checkpoint(run, 300, TENSORS, {"recipe": "x"}, keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert set(run.rglob("*")) == set(before)
    assert newest_checkpoint(run).images_seen == 200


def test_a_checkpoint_larger_than_the_disk_is_not_begun(run, monkeypatch):
    usage = shutil.disk_usage(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(CheckpointError, match="disk full: need 85572 bytes, have 1000"):
        save_checkpoint(run, 300, TENSORS, {"recipe": "x"}, keep=2)
    assert newest_checkpoint(run).images_seen == 200


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path):
    train_small(tmp_path / "straight")
    options = small_options(upkeep={"checkpoint_every": 8})
    with pytest.raises(Interrupted):
        train_small(tmp_path / "cut", options, batches=stream_that_interrupts(after=28))
    os.truncate(checkpoint_paths(tmp_path / "cut")[0] / "optim.safetensors", 100)
    train_small(tmp_path / "cut", options)
    assert lines_of(tmp_path / "cut") == lines_of(tmp_path / "straight")
    weights = [newest_checkpoint(tmp_path / name).tensors("model") for name in ("cut", "straight")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def stream_that_interrupts(after, number=signal.SIGTERM):
    """Batches that send this process a signal when so many images were given."""

    def batches(first):
        for batch in batches_from(first):
            if first == after:
                signal.raise_signal(number)
            yield batch
            first += batch.num_images

    return batches


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(number, tmp_path):
    with pytest.raises(
        Interrupted, match=rf"stopped by {number.name} after 16 of 40.*same command"
    ) as stopped:
        train_small(tmp_path, batches=stream_that_interrupts(12, number))
    assert stopped.value.exit_code == 75
    assert newest_checkpoint(tmp_path).images_seen == 16
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_evaluation_that_polls_is_left_and_repeated(tmp_path):
    stop = StopFlag()

    def evaluate(model, images_seen):
        signal.raise_signal(signal.SIGTERM)
        stop.check()
        raise AssertionError("the flag was not polled")

    options = small_options(evaluate_every=20)
    with stop, pytest.raises(Interrupted, match="after 20 of 40"):
        train_small(tmp_path, options, evaluate=evaluate, stop=stop)
    calls = []
    train_small(tmp_path, options, evaluate=lambda model, seen: calls.append(seen) or measure(model, seen))
    assert calls == [20, 40]


def test_a_time_limit_is_a_way_to_stop(tmp_path):
    options = small_options(upkeep={"time_limit": 0.2})
    with pytest.raises(Interrupted, match=r"stopped by time limit of 0\.2 s"):
        train_small(tmp_path, options, batches=lambda first: batches_from(first, pause=0.05))
    assert 0 < newest_checkpoint(tmp_path).images_seen < 40


def test_a_flag_outside_the_main_thread_still_keeps_the_time():
    reasons = []

    def ask():
        with StopFlag(time_limit=0.0) as stop:
            reasons.append(stop.reason)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert reasons == ["time limit of 0 s"]


def poisoned(model, at, gradient_only=False):
    """The model with a loss (or only its gradient) that is not a number from a step on."""
    losses, calls = model.losses, []

    def wrong(batch):
        calls.append(1)
        found = losses(batch)
        if len(calls) > at:
            bad = (found["loss_far"] * 0).sqrt() if gradient_only else found["loss_far"] * float("nan")
            found["loss_far"] = found["loss_far"] + bad
        return found

    model.losses = wrong
    return model


@pytest.mark.parametrize("gradient_only", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_not_finite_never_reaches_the_weights(gradient_only, precision, tmp_path):
    model = poisoned(SmallModel(), 3, gradient_only)
    options = small_options(precision=precision, upkeep={"checkpoint_every": 4})
    with pytest.raises(
        DivergedError, match=r"step 3 \(after 12 images.*loss_far.*images 12, 13, 14, 15"
    ) as error:
        train_small(tmp_path, options, model=model)
    assert error.value.exit_code == 4
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint.images_seen == 12
    assert all(value.isfinite().all() for value in checkpoint.tensors("model").values())
    straight = train_small(tmp_path / "straight", small_options(precision=precision))
    assert train_small(tmp_path, options)["loss"] == straight["loss"]


def test_a_learning_rate_that_explodes_is_named(tmp_path):
    with pytest.raises(DivergedError, match=r"rate 1e\+20.*lower schedule\.lr"):
        train_small(tmp_path, small_options(schedule={"lr": 1e20, "warmup_images": 0}))


def test_fp16_overflow_halves_the_scale_and_skips_the_step(tmp_path):
    class Steep(SmallModel):
        def losses(self, batch):
            return {name: 100 * loss for name, loss in super().losses(batch).items()}

    options = small_options(precision="fp16", schedule={"lr": 1e-6})
    result = train_small(tmp_path, options, model=Steep())
    assert 0 < result["skipped_steps"] < 10
    state = newest_checkpoint(tmp_path).state
    assert state["scaler"]["scale"] == 65536.0 * 0.5 ** result["skipped_steps"]


def test_a_batch_without_objects_trains_where_the_model_allows_it(tmp_path):
    class Lenient(SmallModel):
        def losses(self, batch):
            seen = (batch.labels >= 0).float().mean()
            return {name: loss * seen for name, loss in super().losses(batch).items()}

    def empty(first):
        while True:
            batch = draw_batch(range(first, first + 4))
            batch.labels.fill_(-1)
            yield batch

    result = train_small(tmp_path, model=Lenient(), batches=empty)
    assert result["loss"] == 0.0
    assert result["exposure"]["instances"] == 0


def test_a_run_that_cannot_write_says_so(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(CheckpointError, match="checkpoints"):
        train_small(tmp_path)
    assert run_state(tmp_path) == "partial"


def test_a_place_that_no_world_has_is_refused():
    assert read_world({}).size == 1
    assert read_world({"RANK": "1", "WORLD_SIZE": "2"}).rank == 1
    with pytest.raises(UsageError, match="RANK is 2, but WORLD_SIZE is 2"):
        read_world({"RANK": "2", "WORLD_SIZE": "2"})
    with pytest.raises(UsageError, match="RANK is 'a'"):
        read_world({"RANK": "a"})


def test_state_json_can_be_read_by_people(run):
    state = json.loads((checkpoint_paths(run)[0] / "state.json").read_text())
    assert state["images_seen"] == 200
    assert set(state["files"]) == {"model.safetensors", "optim.safetensors"}
