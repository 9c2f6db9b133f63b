"""Where a step's time goes: parts add up, and looking changes nothing."""

import itertools

import pytest
import torch

from groundup import metering
from groundup.data.world import WorldOptions, write_world
from groundup.engine.checkpoint import load_weights
from groundup.engine.journal import open_log
from groundup.metering import OTHER, PART, Stopwatch, pace_of, part, peak_memory
from groundup.recipes import resolve_recipe
from groundup.run import train_run

PARTS = {
    "data wait",
    "backbone",
    "FPN",
    "RPN",
    "proposals",
    "RoIAlign",
    "box head",
    "mask head",
    "losses and targets",
    "backward",
    "optimizer",
    OTHER,
}


@pytest.fixture
def ticking(monkeypatch):
    """A clock that goes on by one second whenever it is read."""
    seconds = itertools.count()
    monkeypatch.setattr(metering.time, "perf_counter", lambda: float(next(seconds)))


@part("inner")
def inner():
    return 1


@part("outer")
def outer():
    return inner() + inner()


@part("whole", is_whole=True)
def whole():
    return outer()


def test_a_part_inside_a_part_takes_its_time_from_it(ticking):
    watch = Stopwatch()
    with watch.running():
        assert outer() == 2
        assert watch.take(10.0) == {"outer": 3.0, "inner": 2.0, OTHER: 5.0}
        assert whole() == 2
    assert watch.take(1.0) == {"whole": 1.0, OTHER: 0.0}


def test_nothing_is_counted_where_no_stopwatch_runs(ticking):
    watch = Stopwatch()
    with watch.running():
        pass
    outer()
    assert watch.take(0.0) == {OTHER: 0.0}


def test_a_part_that_fails_ends(ticking):
    @part("failing")
    def failing():
        raise KeyError

    watch = Stopwatch()
    with watch.running():
        with pytest.raises(KeyError):
            failing()
        inner()
    assert watch.take(2.0) == {"failing": 1.0, "inner": 1.0, OTHER: 0.0}


def test_the_device_is_waited_for_where_a_part_begins_and_ends():
    waits = []
    watch = Stopwatch(lambda: waits.append(1))
    with watch.running():
        outer()
    assert len(waits) == 6


def test_pace_leaves_out_the_record_in_which_operations_were_counted():
    def record(seconds, images, wait, **more):
        timing = {"seconds": seconds, "images_per_second": images / seconds, "data_wait": wait, **more}
        return {"kind": "train", "timing": timing}

    slow = record(100.0, 1, 0.9)
    records = [slow, {"kind": "evaluation"}, record(1.0, 4, 0.5, peak_memory=7), record(3.0, 4, 0.1)]
    pace = pace_of(records)
    assert pace is not None
    assert (pace.images_per_second, pace.data_wait, pace.peak_memory) == (2.0, pytest.approx(0.2), 7)
    assert pace_of([slow]).images_per_second == 0.01
    assert pace_of([]) is None
    profiled = pace_of([record(4.0, 1, 0.0, **{f"{PART}a": 1.0, f"{PART}b": 3.0})])
    assert dict(profiled.parts) == {"b": 0.75, "a": 0.25}
    assert list(profiled.lines()) == [
        "0.25 images/s, 0.0% waiting for data",
        "where a step's time went: b 75.0%, a 25.0%",
    ]


def test_peak_memory_never_falls():
    before = peak_memory()
    torch.ones(2**22)
    assert 2**20 < before <= peak_memory()


def test_a_profiled_training_ends_with_the_bits_of_a_plain_one(tmp_path):
    options = WorldOptions(min_side=64, max_side=64, max_objects=2, max_distractors=0, crowd_ratio=0.0)
    files = write_world(tmp_path / "world", 4, 1, 0, options)
    changes = [
        f"data.train.annotations={files.train_annotations}",
        f"data.train.images={files.train_images}",
        f"data.val.annotations={files.val_annotations}",
        f"data.val.images={files.val_images}",
        "training.schedule.units=null",
        "training.schedule.images=6",
        "training.schedule.unit_images=6",
        "training.schedule.batch_size=2",
        "training.upkeep.log_every=2",
        "training.upkeep.tensorboard=false",
        "loader.num_workers=0",
    ]
    logs, weights = {}, {}
    for name, more in {"plain": [], "profiled": ["training.upkeep.profile=true"]}.items():
        train_run(resolve_recipe("tiny_mask_rcnn", [*changes, *more]), tmp_path / name, quiet=True)
        logs[name] = [r for r in open_log(tmp_path / name).read() if r["kind"] == "train"]
        weights[name] = load_weights(tmp_path / name)
    for name, tensor in weights["plain"].items():
        assert torch.equal(tensor, weights["profiled"][name]), name
    assert [r["losses"] for r in logs["plain"]] == [r["losses"] for r in logs["profiled"]]
    for record in logs["plain"]:
        assert {"images_per_second", "data_wait", "peak_memory"} <= record["timing"].keys()
        assert not any(key.startswith(PART) for key in record["timing"])
    pace = pace_of(logs["profiled"])
    assert set(pace.parts) == PARTS
    assert sum(pace.parts.values()) == pytest.approx(1.0)
