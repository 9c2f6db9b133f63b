"""How long an image takes on this machine, measured on a few steps of each arm, before anything starts.

A probe trains with random weights in place of the arm's start, frozen where the arm freezes, and keeps
nothing. It runs alone: runs side by side share memory and caches, so what they take is longer. On a machine
that is busy with other work the wall clock says how long it takes there; the processor's clock, beside it,
how long it would take if the machine were free.
"""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.config import fingerprint, read_tree
from groundup.records import read_json, write_json
from groundup.shares import Share
from groundup.study.plan import Plan, RunPlan

if TYPE_CHECKING:
    from groundup.recipe import Recipe
    from groundup.splits import Splits

PROBE = "probe.json"
"""Measured speeds, in a study's folder."""
NUM_STEPS = 3
"""Steps that are timed, after one that is not."""
MAX_SECONDS = 20.0
"""No further step is begun after so many seconds, so a probe of slow recipes times one or two."""
NUM_IMAGES = 8
"""Photographs that are evaluated."""


LOADED = 0.5
"""Load of other work, in processors, above which too few are left for the threads that were asked for. Ours:
what this command does before it measures stays below it, in the mean of a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSeconds:
    """Seconds an image takes."""

    training: float
    """In training, loading and the optimizer included."""
    evaluation: float
    """In evaluation, scoring included."""
    early_training: float | None = None
    """The same before late parts of the model take part; None where none come late."""
    early_evaluation: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed(ImageSeconds):
    """Seconds an image takes by the wall clock, and what belongs to the measurement."""

    device: str
    threads: int
    free: ImageSeconds | None = None
    """Seconds of the processor an image takes, shared out over the threads: no machine takes less. None on a
    GPU, whose work the processor's clock does not count."""
    load: float | None = None
    """By how many processors other work left too few for the threads; 0 or less where all were free."""

    @property
    def is_loaded(self) -> bool:
        """Whether other work is in the seconds of the wall clock."""
        return self.free is not None and self.load is not None and self.load > LOADED


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
    speeds, load = {}, lacking_processors(threads)
    for run in plan.runs:
        name = f"{kind_of(run)}-{threads}"
        if name not in known:
            if note is not None:
                note(f"probing {run.arm}: {NUM_STEPS + 1} steps, {NUM_IMAGES} images evaluated")
            known[name] = {"arm": run.arm, **asdict(measure(run, threads, load))}
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
    values = {name: value for name, value in record.items() if name != "arm"}
    free = values.get("free")
    return Speed(**{**values, "free": None if free is None else ImageSeconds(**free)})


def kind_of(run: RunPlan) -> str:
    """Names what speed hangs on: runs of one kind differ in seed, length, share of data or start's values."""
    recipe = run.recipe
    training = {name: value for name, value in recipe["training"].items() if name != "upkeep"}
    schedule = recipe["training"]["schedule"]
    training["schedule"] = [schedule["batch_size"], schedule["late_units"] is not None]
    split = {name: recipe["data"][name] for name in ("train", "val", "policy")}
    values = {
        "data": split,
        "training": training,
        "frozen": recipe["start"]["frozen_stages"],
        **{name: recipe[name] for name in ("transforms", "loader", "model", "evaluation")},
    }
    return fingerprint(values)


def measure(run: RunPlan, threads: int, load: float) -> Speed:
    """Train a few steps and evaluate a few photographs, with so many threads; without late parts, too.

    `load` is that of other work, kept with the measurement.

    Raises:
        DataError: photographs that cannot be read.
    """
    import torch

    from groundup.recipe import Recipe
    from groundup.run_folder import default_device
    from groundup.splits import open_splits

    start = {**run.recipe["start"], "weights": None, "frozen_stages": 0, "digest": None, "part": "backbone"}
    values = {**run.recipe, "start": {**start, "allow_norm_mismatch": False}}
    if values["model"]["backbone"]["norm"] == "frozen_bn":  # random weights have no statistics to freeze
        backbone = {**values["model"]["backbone"], "norm": "bn"}
        values["model"] = {**values["model"], "backbone": backbone}
    recipe = read_tree(Recipe, values)
    splits = open_splits(recipe)
    before, device = torch.get_num_threads(), default_device()
    phases = [True] if recipe.training.schedule.late_units is None else [True, False]
    torch.set_num_threads(threads)
    try:
        trained = [
            time_training(recipe, splits, run.recipe["start"]["frozen_stages"], is_late=phase)
            for phase in phases
        ]
        evaluated = [time_evaluation(recipe, splits, is_late=phase) for phase in phases]
    finally:
        torch.set_num_threads(before)
    wall, busy = (
        ImageSeconds(
            training=trained[0][clock],
            evaluation=evaluated[0][clock],
            early_training=trained[1][clock] if len(phases) > 1 else None,
            early_evaluation=evaluated[1][clock] if len(phases) > 1 else None,
        )
        for clock in (0, 1)
    )
    free = None if device.type != "cpu" else shared_out(busy, threads)
    return Speed(**asdict(wall), device=str(device), threads=threads, free=free, load=load)


def lacking_processors(threads: int) -> float:
    """By how many processors the load of the last minute leaves too few for so many threads more."""
    return os.getloadavg()[0] + threads - len(os.sched_getaffinity(0))


def shared_out(pace: ImageSeconds, threads: int) -> ImageSeconds:
    """Seconds of the processor as seconds of so many threads, all of them busy."""
    return ImageSeconds(
        training=pace.training / threads,
        evaluation=pace.evaluation / threads,
        early_training=None if pace.early_training is None else pace.early_training / threads,
        early_evaluation=None if pace.early_evaluation is None else pace.early_evaluation / threads,
    )


@dataclass(slots=True)
class Clocks:
    """Seconds since it was made, by the wall clock and of all threads of this process."""

    wall: float = field(default_factory=time.monotonic)
    processor: float = field(default_factory=time.process_time)

    def read(self) -> tuple[float, float]:
        """Both, since then."""
        return time.monotonic() - self.wall, time.process_time() - self.processor


def time_training(
    recipe: "Recipe", splits: "Splits", frozen_stages: int, *, is_late: bool
) -> tuple[float, float]:
    """Seconds an image takes in training, by either clock, with late parts or without.

    The fastest step counts, since others disturb it one way only.
    """
    from groundup.engine.distributed import World
    from groundup.engine.late import enter_phase
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
    enter_phase(state, is_late=is_late)
    stream = training_batches(recipe, splits.train)(0)
    size = options.schedule.batch_size
    share = Share(num_images=size // options.accumulate, group_size=recipe.model.loss_images)
    team = build_team(model, state.optimizer, share, World())
    taken: list[tuple[float, float]] = []
    begun = time.monotonic()
    for step in itertools.count():
        if step > NUM_STEPS or (taken and time.monotonic() - begun > MAX_SECONDS):
            break
        clocks = Clocks()
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
            taken.append(clocks.read())
    wall, processor = (min(seconds) / size for seconds in zip(*taken, strict=True))
    return wall, processor


def time_evaluation(recipe: "Recipe", splits: "Splits", *, is_late: bool) -> tuple[float, float]:
    """Seconds an image takes in evaluation, by either clock, with late parts or without.

    With random weights, which find the most there is room for.
    """
    from groundup.run import build_model, evaluate_detector
    from groundup.run_folder import default_device

    index = splits.val.subset(range(min(NUM_IMAGES, splits.val.num_images)))
    model = build_model(recipe, splits.train.categories).to(default_device())
    model.use_late_parts(is_late)
    clocks = Clocks()
    evaluate_detector(model, recipe, index, None, categories=splits.train.categories)
    wall, processor = clocks.read()
    return wall / index.num_images, processor / index.num_images
