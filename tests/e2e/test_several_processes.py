"""torchrun at the command line: one run of several processes, stopped, killed, gone on with by any number."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from detector_process import evaluate_part, train_part
from groundup.data.world import WorldOptions, write_world
from groundup.engine.checkpoint import newest_checkpoint
from groundup.engine.distributed import joined
from groundup.engine.journal import open_log
from groundup.engine.numerics import build_scaler
from groundup.engine.optimizer import build_optimizer
from groundup.engine.state import TrainingState
from groundup.engine.step import build_team, sum_losses
from groundup.recipes import resolve_recipe
from groundup.run import build_model, training_batches
from groundup.shares import Share
from groundup.splits import open_splits
from processes import in_processes
from small_training import lines_of

ROOT = Path(__file__).resolve().parents[2]
WORLD = WorldOptions(forms=("star", "gear"), textures=("dots",), min_side=64, max_side=96, max_objects=3)
TINY = [
    "transforms.short_side=[64]",
    "transforms.max_side=96",
    "transforms.test_short_side=64",
    "loader.num_workers=1",
    "evaluation.batch_size=2",
    "training.schedule.units=null",
    "training.schedule.images=32",
    "training.schedule.unit_images=32",
    "training.schedule.warmup_images=8",
    "training.schedule.batch_size=8",
    "training.upkeep.log_every=8",
    "training.upkeep.checkpoint_every=8",
    "training.upkeep.tensorboard=false",
]

SHORT = [
    "training.schedule.images=16",
    "training.schedule.unit_images=16",
    "training.schedule.warmup_images=0",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, 12, 5, 0, WORLD)
    return folder


def words_of(world, *more, recipe="tiny_mask_rcnn"):
    data = [
        f"data.{split}.{name}={path}"
        for split in ("train", "val")
        for name, path in (
            ("annotations", world / "annotations" / f"instances_{split}.json"),
            ("images", world / split),
        )
    ]
    return [recipe, *data, *TINY, *more]


def torchrun(words, folder, processes=2):
    """The command line under torchrun; the status, what it prints and what it says come back."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(processes), "-m", "groundup", "train"),
            *map(str, words),
            *("--out", str(folder), "--quiet"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def assert_same_losses(folder, other, later=2e-2):
    """Equal bills; losses that hang on no choice equal to rounding in the first step, the others about.

    In float32 two proposals may change their rank by rounding, and another RoI is then learnt from: many
    steps later a loss that hangs on a few RoIs says nothing, so with `later` None the sums are compared.
    """
    ours, theirs = ([line for line in lines_of(path) if line["kind"] == "train"] for path in (folder, other))
    assert [line["images_seen"] for line in ours] == [line["images_seen"] for line in theirs]
    for number, (line, their_line) in enumerate(zip(ours, theirs, strict=True)):
        assert line["exposure"] == their_line["exposure"]
        if later is None:
            assert line["loss"] == pytest.approx(their_line["loss"], rel=0.05), number
            continue
        for name, value in line["losses"].items():
            tolerance = 3e-6 if number == 0 and "rpn" in name else later
            assert value == pytest.approx(their_line["losses"][name], rel=tolerance, abs=1e-6), (number, name)


def first_gradient(words):
    """Losses and gradients of the first batch, of all processes."""
    recipe = resolve_recipe(words[0], words[1:])
    with joined(300.0) as world:
        splits = open_splits(recipe)
        model = build_model(recipe, splits.train.categories)
        share = Share(
            num_images=recipe.microbatch,
            group_size=recipe.model.loss_images,
            rank=world.rank,
            world_size=world.size,
        )
        options = recipe.training.optimizer
        state = TrainingState(
            model=model,
            optimizer=build_optimizer(model, options),
            average=None,
            scaler=build_scaler(torch.device("cpu"), "fp32"),
        )
        team = build_team(model, state.optimizer, share, world)
        batch = next(training_batches(recipe, splits.train, world)(0))
        losses = sum_losses(state, [batch], model.losses, team, "fp32")
        team.gradients.finish()
        total = world.sum_tensor(torch.stack([*losses.values()]))
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return total, gradients, batch.num_images


@pytest.mark.parametrize("norm", ["gn", "syncbn"])
def test_the_gradient_of_a_detector_is_that_of_one_process(norm, world):
    words = words_of(
        world,
        f"model.backbone.norm={norm}",
        f"model.mask_head.norm={norm}",
        "training.schedule.batch_size=5",
        "model.loss_images=2",
        # So few that all of them are learnt from, whatever their rank: no choice hangs on rounding.
        "model.rpn.post_nms_train=16",
        "loader.num_workers=0",
    )
    ((losses, gradients, num_images),) = in_processes(1, first_gradient, words)
    parts = in_processes(3, first_gradient, words)
    assert [part[2] for part in parts] == [2, 2, 1]
    assert num_images == 5
    for their_losses, their_gradients, _ in parts:
        torch.testing.assert_close(their_losses, losses, rtol=1e-5, atol=1e-6)
        assert their_gradients.keys() == gradients.keys()
        for name, gradient in gradients.items():
            away = (their_gradients[name] - gradient).norm()
            assert away <= 1e-3 * gradient.norm() + 1e-6, name


def test_two_processes_at_the_command_line_are_one_run(world, tmp_path):
    words = words_of(world, *SHORT)
    out, err = (processes := torchrun(words, tmp_path / "two")).communicate(timeout=400)
    assert processes.returncode == 0, err
    (printed,) = [json.loads(out)]
    (alone,) = in_processes(1, train_part, words, tmp_path / "one", fresh=True)
    assert_same_losses(tmp_path / "two", tmp_path / "one")
    assert printed["exposure"]["flops"] == alone["exposure"]["flops"]
    assert printed["metrics"] == pytest.approx(alone["metrics"], abs=0.02)
    one, two = (
        json.loads(
            (tmp_path / name / "evaluations" / "images_000000016" / "predictions.bbox.json").read_text()
        )
        for name in ("one", "two")
    )
    # Each photograph once, in the order of the annotations.
    assert list(dict.fromkeys(found["image_id"] for found in one)) == list(
        dict.fromkeys(found["image_id"] for found in two)
    )
    assert not list((tmp_path / "two").glob("**/*.draft"))
    # Evaluated again, by one process and by two: the same batches, so the same results to the bit.
    (metrics,) = in_processes(1, evaluate_part, tmp_path / "one", tmp_path / "by_one", fresh=True)
    shared = in_processes(2, evaluate_part, tmp_path / "one", tmp_path / "by_two", fresh=True)
    assert shared == [metrics, metrics]
    assert metrics == pytest.approx(alone["metrics"])
    for kind in ("bbox", "segm"):
        by_one, by_two = (tmp_path / name / f"predictions.{kind}.json" for name in ("by_one", "by_two"))
        assert by_one.read_bytes() == by_two.read_bytes()


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_detector_with_joint_norms_and_precise_statistics_is_the_same_in_any_number(size, world, tmp_path):
    words = words_of(
        world,
        "model.backbone.norm=syncbn",
        "model.mask_head.norm=syncbn",
        *SHORT,
        "evaluation.precise_bn=16",
        "loader.num_workers=0",
        "model.loss_images=2",
    )
    (alone,) = in_processes(1, train_part, words, tmp_path / "one", fresh=True)
    parts = in_processes(size, train_part, words, tmp_path / "several", fresh=True)
    assert all(part == parts[0] for part in parts)
    assert parts[0]["exposure"] == alone["exposure"]
    assert_same_losses(tmp_path / "several", tmp_path / "one")
    weights, theirs = (newest_checkpoint(tmp_path / name).tensors("model") for name in ("one", "several"))
    for name, tensor in weights.items():
        torch.testing.assert_close(
            theirs[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_other_commands_under_torchrun_are_refused_in_one_line():
    ended = subprocess.run(
        [sys.executable, "-m", "groundup", "recipes"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "RANK": "0", "WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "start `groundup recipes` once" in ended.stderr
    assert ended.stderr.count("\n") == 1


def wait_for(folder, images, processes):
    until = time.monotonic() + 120
    while time.monotonic() < until and processes.poll() is None:
        if any(record["images_seen"] >= images for record in open_log(folder).read()):
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing after {images} images: {processes.communicate()[1]}")


def workers_of(launcher: int) -> list[int]:
    """Process ids of torchrun's children, by rank."""
    path = Path(f"/proc/{launcher}/task/{launcher}/children")
    found = {}
    for child in map(int, path.read_text().split()):
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found.update({int(one[5:]): child for one in variables if one.startswith(b"RANK=")})
    return [found[rank] for rank in sorted(found)]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["SIGTERM to torchrun", "SIGKILL of a worker", "SIGTERM of a worker"])
def test_a_stopped_or_killed_world_goes_on_with_another_number_of_processes(fault, world, tmp_path):
    words = words_of(world, "training.schedule.images=160")
    processes = torchrun(words, tmp_path / "run")
    wait_for(tmp_path / "run", 24, processes)
    number = signal.SIGKILL if "SIGKILL" in fault else signal.SIGTERM
    began = time.monotonic()
    os.kill(processes.pid if "torchrun" in fault else workers_of(processes.pid)[1], number)
    _, err = processes.communicate(timeout=120)
    print(f"{fault}: all gone after {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < 60
    assert processes.returncode != 0
    if "SIGTERM" in fault:
        assert err.count("stopped by SIGTERM") == 1, err
        stops = [record for record in open_log(tmp_path / "run").read() if record["kind"] == "stop"]
        assert newest_checkpoint(tmp_path / "run").images_seen == stops[-1]["images_seen"]
    else:
        assert "exitcode  : -9" in err
    in_processes(1, train_part, words, tmp_path / "straight", fresh=True)
    in_processes(1, train_part, words, tmp_path / "run", fresh=True)
    assert_same_losses(tmp_path / "run", tmp_path / "straight", None)
