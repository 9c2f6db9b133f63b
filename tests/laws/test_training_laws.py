"""A run is a function of its options: not of restarts, of how batches are cut, or of what it logs."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from groundup.engine.checkpoint import checkpoint_path, newest_checkpoint
from groundup.engine.journal import open_log
from groundup.engine.run import run_state
from groundup.errors import CheckpointError, Interrupted, UsageError
from groundup.records import read_json
from small_training import (
    BATCH,
    SmallModel,
    StopAfter,
    batches_from,
    draw_batch,
    lines_of,
    measure,
    small_options,
    train_small,
)


def final_bytes(folder):
    path = newest_checkpoint(folder).path
    return {file.name: file.read_bytes() for file in path.glob("*.safetensors")}


@pytest.mark.parametrize("cut", range(11))
def test_a_run_stopped_at_any_step_equals_the_straight_run_bit_for_bit(cut, tmp_path):
    options = small_options(evaluate_every=8, optimizer={"ema_decay": 0.9})
    train_small(tmp_path / "straight", options)
    if cut < 10:
        with pytest.raises(Interrupted, match=f"after {cut * BATCH} of 40 images"):
            train_small(tmp_path / "cut", options, stop=StopAfter(cut))
        assert run_state(tmp_path / "cut") == "partial"
    train_small(tmp_path / "cut", options)
    assert final_bytes(tmp_path / "cut") == final_bytes(tmp_path / "straight")
    assert lines_of(tmp_path / "cut") == lines_of(tmp_path / "straight")
    results = [read_json(tmp_path / name / "result.json") for name in ("cut", "straight")]
    for result in results:
        result["exposure"].pop("seconds")
    assert results[0] == results[1]


def test_wall_clock_checkpoints_change_nothing(tmp_path):
    train_small(tmp_path / "rare")
    train_small(
        tmp_path / "often", small_options(upkeep={"checkpoint_seconds": 1e-9, "checkpoint_every": None})
    )
    assert final_bytes(tmp_path / "rare") == final_bytes(tmp_path / "often")
    assert lines_of(tmp_path / "rare") == lines_of(tmp_path / "often")


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_microbatches_equal_the_big_batch(accumulate, tmp_path):
    weights = []
    for parts in (1, accumulate):
        model = SmallModel(dropout=0.0, batch_norm=False)
        train_small(
            tmp_path / str(parts),
            small_options(accumulate=parts),
            model=model,
            batches=lambda first, size=BATCH // parts: batches_from(first, size),
        )
        weights.append(model.state_dict())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)
    first, second = (lines_of(tmp_path / str(parts)) for parts in (1, accumulate))
    assert [line["images_seen"] for line in first] == [line["images_seen"] for line in second]
    assert first[0]["loss"] == pytest.approx(second[0]["loss"], rel=1e-5)


def test_it_learns(tmp_path):
    options = small_options(schedule={"images": 1200, "unit_images": 600, "lr": 0.05}, evaluate_every=600)
    model = SmallModel(dropout=0.0)
    before = measure(model.eval(), 0)["AP"]
    model.train()
    result = train_small(tmp_path, options, model=model)
    assert 1 - result["metrics"]["AP"] < 0.3 * (1 - before)


def test_the_first_steps_are_those_of_a_plain_loop(tmp_path):
    options = small_options(
        schedule={"images": 12, "warmup_images": 0, "drops": ()}, optimizer={"preset": "torchvision"}
    )
    ours, plain = (SmallModel(dropout=0.0) for _ in range(2))
    train_small(tmp_path, options, model=ours)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    stream = batches_from(0)
    for _ in range(3):
        optimizer.zero_grad()
        sum(plain.losses(next(stream)).values()).backward()
        optimizer.step()
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-6, atol=1e-7)


def test_exposure_counts_every_image_from_the_first_on(tmp_path):
    bill = train_small(tmp_path)["exposure"]
    assert (bill["images"], bill["instances"], bill["pixels"]) == (40, 40, 40 * 16 * 16)
    # Forward and backward, 2 a multiply-add: 2 products of the stem (none to the image), 3 of the head.
    per_image = 2 * (2 * 8 * 27 * 256) + 3 * (2 * 128 * 4)
    assert bill["flops"] == pytest.approx(40 * per_image, rel=1e-3)
    assert bill["seconds"] > 0


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = train_small(tmp_path)
    modified = checkpoint_path(tmp_path, 40).stat().st_mtime_ns
    assert train_small(tmp_path) == first
    assert checkpoint_path(tmp_path, 40).stat().st_mtime_ns == modified


def test_averaged_weights_are_the_ones_evaluated(tmp_path):
    options = small_options(optimizer={"ema_decay": 0.5})
    result = train_small(tmp_path, options)
    model = SmallModel()
    model.load_state_dict(newest_checkpoint(tmp_path).tensors("ema"))
    assert measure(model.eval(), 40) == result["metrics"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_resumes_bit_for_bit_too(precision, tmp_path):
    options = small_options(precision=precision)
    train_small(tmp_path / "straight", options)
    with pytest.raises(Interrupted):
        train_small(tmp_path / "cut", options, stop=StopAfter(5))
    train_small(tmp_path / "cut", options)
    assert final_bytes(tmp_path / "cut") == final_bytes(tmp_path / "straight")


def test_tensorboard_repeats_the_log_without_duplicates(tmp_path):
    options = small_options(upkeep={"tensorboard": True, "log_every": 4})
    with pytest.raises(Interrupted):
        train_small(tmp_path, options, stop=StopAfter(6))
    train_small(tmp_path, options)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = [(event.step, event.value) for event in events.Scalars("train/loss")]
    logged = [(r["images_seen"], r["loss"]) for r in open_log(tmp_path).read() if r["kind"] == "train"]
    assert [step for step, _ in points] == [step for step, _ in logged] == list(range(4, 41, 4))
    assert [value for _, value in points] == pytest.approx([value for _, value in logged])


def test_a_folder_belongs_to_one_recipe(tmp_path):
    with pytest.raises(Interrupted):
        train_small(tmp_path, stop=StopAfter(3))
    with pytest.raises(CheckpointError, match="holds a run of recipe small, but this is other"):
        train_small(tmp_path, recipe="other")


def test_batches_that_do_not_fill_a_step_are_refused(tmp_path):
    with pytest.raises(UsageError, match="must give 4 images a batch"):
        train_small(tmp_path / "size", batches=lambda first: batches_from(first, 3))
    with pytest.raises(UsageError, match="without end"):
        train_small(tmp_path / "end", batches=lambda first: iter([draw_batch(range(4))]))
    with pytest.raises(ValueError, match="must divide"):
        small_options(accumulate=3)


def test_a_run_killed_before_its_result_was_written_says_done_once(tmp_path):
    first = train_small(tmp_path)
    (tmp_path / "result.json").unlink()
    again = train_small(tmp_path)
    assert [line["kind"] for line in lines_of(tmp_path)].count("done") == 1
    assert again["metrics"] == first["metrics"]
