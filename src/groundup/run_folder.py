"""What every run has in common, whatever it trains: its folder, its records, its seed, its way to the loop.

`run` (detectors) and `classification` (classifiers) say what is trained; this says how it is carried out.
"""

import contextlib
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groundup.allocator import allocator_line
from groundup.config import Options, differences, fingerprint, plain, vary
from groundup.data.coco import Category, category_record
from groundup.data.order import hash_of
from groundup.engine.capture import check_capture
from groundup.engine.checkpoint import EVALUATIONS
from groundup.engine.distributed import World
from groundup.engine.journal import LOG
from groundup.engine.run import RESULT, Evaluate, run_state
from groundup.engine.schedule import (
    ScheduleOptions,
    drop_points,
    images_of_unit,
    late_point,
    total_images,
    warmup_length,
)
from groundup.engine.stop import StopFlag
from groundup.engine.train import Batches, train
from groundup.engine.training import TrainOptions
from groundup.errors import UsageError
from groundup.models.initialisation import init_table
from groundup.models.load_report import LoadReport
from groundup.models.start import StartOptions
from groundup.ops.roi_kernel import kernel_line
from groundup.records import read_json, write_json

RECIPE = "recipe.json"
"""The resolved recipe of a run."""
RECORD = "record.json"
"""What else identifies a run: digests, categories, versions, the command."""
LOAD_REPORT = "start.json"
"""What the start loaded, tensor by tensor."""
INIT_STREAM = 7
"""Names the random stream of the first weights under the run's seed."""
PACKAGES = (
    "groundup",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "hotcoco",
    "opencv-python-headless",
    "pillow",
)
"""Those on whose versions numbers may hang."""
SHOWN_DIFFERENCES = 4
"""Options named where a folder holds another run."""
SHAPE_WIDTH = 16
"""Columns of a shape in a table of weights."""
SHOWN_NAMES = 8
"""Categories named in a plan."""


class RunRecipe(Options):
    """What every recipe has."""

    name: str
    """What the recipe is called in messages and folders."""


def run_folder(recipe: RunRecipe) -> Path:
    """Where a run of the recipe goes unless told otherwise: its name and fingerprint under `runs/`."""
    return Path("runs") / f"{recipe.name}-{fingerprint(recipe)}"


def default_device() -> torch.device:
    """The GPU of this process where there is one; `engine.distributed.joined` has chosen among several."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def first_weights(seed: int) -> Iterator[None]:
    """Draw weights inside from the stream of the run's seed, and leave torch's own generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash_of(seed, INIT_STREAM) >> 1)
        yield


def environment() -> dict[str, Any]:
    """Versions and machine of this process, for the record."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or "cpu",
        "pooling": "RoIAlign: torchvision's, on the GPU" if torch.cuda.is_available() else kernel_line(),
        "allocator": allocator_line(),
        "versions": versions,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What a run is, settled before its first step."""

    identity: dict[str, Any]
    """All that its weights hang on, as data: files by digest, without upkeep and workers."""
    recipe: Options
    """As it is written to the folder: paths absolute."""
    categories: Sequence[Category]
    """By label."""
    facts: Mapping[str, Any]
    """What else the record says, such as what of the data is not used."""
    report: LoadReport
    """What the start loaded."""
    notes: Sequence[str] = ()
    """Lines about the data that whoever starts the run should see."""


def record_beginning(folder: Path, beginning: Beginning) -> None:
    """Write what the run is into its folder, once; a folder of another run is refused.

    Raises:
        UsageError: it holds another run.
    """
    refuse_other_run(folder, beginning.identity)
    if run_state(folder) != "missing":
        return
    record = {
        "identity": beginning.identity,
        "fingerprint": fingerprint(beginning.identity),
        "categories": [category_record(category) for category in beginning.categories],
        **beginning.facts,
        "command": sys.argv,
        "environment": environment(),
    }
    write_json(folder / RECORD, record)
    write_json(folder / RECIPE, plain(beginning.recipe))
    write_json(folder / LOAD_REPORT, beginning.report.to_json())


def identity_of(
    recipe: RunRecipe, train_digest: str, val_digest: str, weights_digest: str | None
) -> dict[str, Any]:
    """All that the weights of a run hang on, as data: files by digest, without upkeep and workers."""
    values = plain(recipe)
    del values["name"], values["loader"], values["training"]["upkeep"], values["evaluation"]
    values["data"]["train"] = train_digest
    values["data"]["val"] = val_digest
    values["start"]["weights"] = weights_digest
    values["training"].pop("evaluate_every", None)
    return values


def refuse_other_run(folder: Path, identified: dict[str, Any]) -> None:
    """Refuse a folder that holds a run of another identity, naming what differs.

    Other files may lie there, but none that a run would write over.

    Raises:
        UsageError: it does.
    """
    if not (folder / RECORD).exists():
        taken = [name for name in (RECIPE, LOAD_REPORT, LOG, RESULT) if (folder / name).exists()]
        if taken:
            raise UsageError(
                f"{folder} holds {taken[0]}, but no run ({RECORD} is missing); choose another --out"
            )
        return
    found = read_json(folder / RECORD)
    if not isinstance(found, dict) or not isinstance(found.get("identity"), dict):
        raise UsageError(f"{folder / RECORD} is not that of a run; choose another --out")
    changed = differences([found["identity"], identified])
    if changed:
        shown = "; ".join(
            f"{name}: {old!r} there, {new!r} here"
            for name, (old, new) in list(changed.items())[:SHOWN_DIFFERENCES]
        )
        raise UsageError(
            f"{folder} holds another run ({shown}); choose another --out, or repeat its command to go on"
        )


def carry_out(
    model: nn.Module,
    folder: Path,
    beginning: Beginning,
    options: TrainOptions,
    work: Callable[[StopFlag], tuple[Batches, Evaluate]],
    *,
    num_images: int,
    seed: int,
    quiet: bool,
    world: World,
    loss_images: int = 1,
) -> dict[str, Any]:
    """Record the beginning and train the model on this process's device; `result.json`'s content comes back.

    `work` gives the batches and the evaluation, which poll the flag where they take long. Losses are means
    over groups of `loss_images` images.

    Raises:
        UsageError: the folder holds another run, processes were started differently, or steps cannot be
            captured here.
        Interrupted, DivergedError, CheckpointError: as `engine.train.train`.
    """
    recipe = fingerprint(beginning.identity)
    world.agree_on({"the run's folder": str(folder), "the recipe's fingerprint": recipe})
    if options.capture:  # before the folder belongs to a run that cannot be
        world.together(lambda: check_capture(default_device(), world.size))
    world.lead(lambda: record_beginning(folder, beginning))
    if not quiet and world.leads:
        for line in (f"run: {folder}", *beginning.notes, *beginning.report.lines()):
            print(line, file=sys.stderr)
    model.to(default_device())
    with StopFlag(options.upkeep.time_limit) as stop:
        batches, evaluate = work(stop)
        return train(
            model,
            batches,
            options,
            folder,
            num_images=num_images,
            seed=seed,
            recipe=recipe,
            evaluate=evaluate,
            stop=stop,
            quiet=quiet,
            world=world,
            loss_images=loss_images,
        )


def with_time_limit(options: TrainOptions, time_limit: float | None) -> TrainOptions:
    """The options with a time limit given at the command line in place of their own."""
    if time_limit is None:
        return options
    return vary(options, {"upkeep.time_limit": time_limit})


def category_of(record: dict[str, Any]) -> Category:
    """The category a record of `category_record` describes."""
    return Category(
        id=record["id"],
        name=record["name"],
        supercategory=record["supercategory"],
        keypoints=tuple(record.get("keypoints", ())),
        skeleton=tuple((first, second) for first, second in record.get("skeleton", ())),
    )


def evaluation_folder(folder: Path, images_seen: int) -> Path:
    """Where the run keeps what an evaluation after so many images found."""
    return folder / EVALUATIONS / f"images_{images_seen:09d}"


def model_lines(
    model: nn.Module, names: Sequence[str], report: LoadReport, schedule: ScheduleOptions, num_images: int
) -> Iterator[str]:
    """The part of a plan that any run has: categories, model, start, schedule, device."""
    total = total_images(schedule, num_images)
    drops = ", ".join(f"{point:,}" for point in drop_points(schedule, num_images)) or "none"
    more = ", ..." if len(names) > SHOWN_NAMES else ""
    yield f"categories {len(names)}: {', '.join(names[:SHOWN_NAMES])}{more}"
    yield f"model      {sum(p.numel() for p in model.parameters()):,} parameters"
    yield from (f"start      {line.removeprefix('start: ')}" for line in report.lines())
    yield f"schedule   {total:,} images in {total // schedule.batch_size:,} steps of {schedule.batch_size}"
    yield (
        f"           unit {images_of_unit(schedule, num_images):,} images; "
        f"warm-up {warmup_length(schedule, num_images):,}; drops after {drops}"
    )
    late = late_point(schedule, num_images)
    if late is not None:
        yield f"           late parts of the model from {late:,} images on"
    yield f"device     {default_device()}, {torch.get_num_threads()} threads, torch {version('torch')}"


def table_lines(model: nn.Module, start: StartOptions) -> Iterator[str]:
    """How the weights of every module of a model begin: name, shape, rule, and what a start replaces."""
    rows = init_table(model)
    name_width = max(len(name) for name, _, _ in rows)
    for name, rule, shape in rows:
        yield f"{name:{name_width}}  {'x'.join(map(str, shape)):>{SHAPE_WIDTH}}  {rule}"
    if start.weights is not None:
        what = "the backbone" if start.part == "backbone" else "the model"
        yield f"start.weights={start.weights} then replaces the tensors of {what} that it holds"
