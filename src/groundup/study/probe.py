"""How long an image takes on this machine, measured on a few steps of each arm, before anything starts.

A probe trains with random weights in place of the arm's start, frozen where the arm freezes, and keeps
nothing. It runs alone: runs side by side share memory and caches, so what they take is longer.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.config import fingerprint, read_tree
from groundup.records import read_json, write_json
from groundup.shares import Share
from groundup.study.plan import Plan, RunPlan

if TYPE_CHECKING:
    from groundup.run import Recipe, Splits

PROBE = "probe.json"
"""Measured speeds, in a study's folder."""
NUM_STEPS = 3
"""Steps that are timed, after one that is not."""
MAX_SECONDS = 20.0
"""No further step is begun after so many seconds, so a probe of slow recipes times one or two."""
NUM_IMAGES = 8
"""Photographs that are evaluated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds an image takes."""

    training: float
    """In training, loading and the optimizer included."""
    evaluation: float
    """In evaluation, scoring included."""
    device: str
    threads: int


def probe_plan(
    plan: Plan, folder: Path, *, threads: int, write: bool = True, note: Callable[[str], None] | None = None
) -> dict[str, Speed]:
    """The speed of every run by its key; kinds of runs that were measured before are not measured again.

    `write` keeps the measurement in the folder; `note` is told what is being measured.

    Raises:
        DataError: photographs that cannot be read.
    """
    path = folder / PROBE
    known: dict[str, Any] = read_json(path) if path.exists() else {}
    speeds = {}
    for run in plan.runs:
        name = f"{kind_of(run)}-{threads}"
        if name not in known:
            if note is not None:
                note(f"probing {run.arm}: {NUM_STEPS + 1} steps, {NUM_IMAGES} images evaluated")
            known[name] = {"arm": run.arm, **asdict(measure(run, threads))}
            if write:
                write_json(path, known)
        speeds[run.key] = speed_of(known[name])
    return speeds


def read_speeds(plan: Plan, folder: Path, *, threads: int) -> dict[str, Speed]:
    """Speeds measured before, by the keys of the runs; those never measured are left out."""
    path = folder / PROBE
    known: dict[str, Any] = read_json(path) if path.exists() else {}
    names = {run.key: f"{kind_of(run)}-{threads}" for run in plan.runs}
    return {key: speed_of(known[name]) for key, name in names.items() if name in known}


def speed_of(record: dict[str, Any]) -> Speed:
    """The speed that a record of probe.json describes."""
    return Speed(**{name: value for name, value in record.items() if name != "arm"})


def kind_of(run: RunPlan) -> str:
    """Names what speed hangs on: runs of one kind differ in seed, length, share of data or start's values."""
    recipe = run.recipe
    training = {name: value for name, value in recipe["training"].items() if name != "upkeep"}
    training["schedule"] = recipe["training"]["schedule"]["batch_size"]
    split = {name: recipe["data"][name] for name in ("train", "val", "policy")}
    values = {
        "data": split,
        "training": training,
        "frozen": recipe["start"]["frozen_stages"],
        **{name: recipe[name] for name in ("transforms", "loader", "model", "evaluation")},
    }
    return fingerprint(values)


def measure(run: RunPlan, threads: int) -> Speed:
    """Train a few steps and evaluate a few photographs, with so many threads.

    Late parts of a model take part from the start here, so what a run takes is overestimated.

    Raises:
        DataError: photographs that cannot be read.
    """
    import torch

    from groundup.run import Recipe, open_splits
    from groundup.run_folder import default_device

    start = {**run.recipe["start"], "weights": None, "frozen_stages": 0, "digest": None, "part": "backbone"}
    values = {**run.recipe, "start": {**start, "allow_norm_mismatch": False}}
    if values["model"]["backbone"]["norm"] == "frozen_bn":  # random weights have no statistics to freeze
        backbone = {**values["model"]["backbone"], "norm": "bn"}
        values["model"] = {**values["model"], "backbone": backbone}
    recipe = read_tree(Recipe, values)
    splits = open_splits(recipe)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return Speed(
            training=time_training(recipe, splits, run.recipe["start"]["frozen_stages"]),
            evaluation=time_evaluation(recipe, splits),
            device=str(default_device()),
            threads=threads,
        )
    finally:
        torch.set_num_threads(before)


def time_training(recipe: "Recipe", splits: "Splits", frozen_stages: int) -> float:
    """Seconds an image takes in training; the fastest step counts, since others disturb it one way only."""
    from groundup.engine.distributed import World
    from groundup.engine.numerics import build_scaler
    from groundup.engine.optimizer import build_average, build_optimizer
    from groundup.engine.state import TrainingState
    from groundup.engine.step import build_team, draw_microbatches, take_step
    from groundup.run import build_model, training_batches
    from groundup.run_folder import default_device

    options, device = recipe.training, default_device()
    model = build_model(recipe, splits.train.categories).to(device)
    model.backbone.freeze(frozen_stages)
    model.train()
    state = TrainingState(
        model=model,
        optimizer=build_optimizer(model, options.optimizer),
        average=build_average(model, options.optimizer),
        scaler=build_scaler(device, options.precision),
    )
    stream = training_batches(recipe, splits.train)(0)
    size = options.schedule.batch_size
    share = Share(num_images=size // options.accumulate, group_size=recipe.model.loss_images)
    team = build_team(model, state.optimizer, share, World())
    taken: list[float] = []
    begun = time.monotonic()
    for step in itertools.count():
        if step > NUM_STEPS or (taken and time.monotonic() - begun > MAX_SECONDS):
            break
        start = time.monotonic()
        take_step(
            state,
            draw_microbatches(stream, options.accumulate, share),
            model.losses,
            options.optimizer,
            team,
            lr=0.0,
            seed=recipe.seed,
            precision=options.precision,
        )
        if step > 0:  # the first counts operations and warms up
            taken.append((time.monotonic() - start) / size)
    return min(taken)


def time_evaluation(recipe: "Recipe", splits: "Splits") -> float:
    """Seconds an image takes in evaluation, with random weights, which find the most there is room for."""
    from groundup.run import build_model, evaluate_detector
    from groundup.run_folder import default_device

    index = splits.val.subset(range(min(NUM_IMAGES, splits.val.num_images)))
    model = build_model(recipe, splits.train.categories).to(default_device())
    start = time.monotonic()
    evaluate_detector(model, recipe, index, None, categories=splits.train.categories)
    return (time.monotonic() - start) / index.num_images
