"""One run: the only place where data, model and engine meet.

A run is a folder. `train_run` carries a recipe out in it, or goes on where it was stopped;
`load_detector` opens what came of it.
"""

import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pydantic import model_validator
from torch import nn

from groundup.config import Options, differences, fingerprint, plain, vary
from groundup.data.coco import Category, Index, category_record, open_index, subset_rows
from groundup.data.images import ImagePolicy
from groundup.data.loader import LoaderOptions, evaluation_batches, train_batches
from groundup.data.order import hash_of
from groundup.data.transforms import TransformOptions
from groundup.engine.evaluate import Evaluation, EvaluationOptions, evaluate
from groundup.engine.journal import LOG
from groundup.engine.schedule import check_schedule, drop_points, images_of_unit, total_images, warmup_length
from groundup.engine.stop import StopFlag
from groundup.engine.train import RESULT, Batches, Evaluate, TrainOptions, run_state, train
from groundup.errors import DataError, UsageError
from groundup.models.initialisation import init_table
from groundup.models.rcnn import RCNN, DetectorOptions, build_detector
from groundup.models.start import StartOptions, check_start, load_start
from groundup.records import read_json, write_json
from groundup.structures import Batch

RECIPE = "recipe.json"
"""The resolved recipe of a run."""
RECORD = "record.json"
"""What else identifies a run: digests, categories, versions, the command."""
LOAD_REPORT = "start.json"
"""What the start loaded, tensor by tensor."""
INIT_STREAM = 7
"""Names the random stream of the first weights under the run's seed."""


class SplitOptions(Options):
    """One split of a data set."""

    annotations: Path | None = None
    """COCO json (instances or person_keypoints)."""
    images: Path | None = None
    """Folder that the file names in it are relative to; None: the folder of the json."""


class DataOptions(Options):
    """Which photographs are learnt from, and which are judged by."""

    train: SplitOptions = SplitOptions()
    """Learnt from."""
    val: SplitOptions = SplitOptions()
    """Evaluated on; never learnt from."""
    fraction: float = 1.0
    """Share of the training images that is used; smaller shares are contained in larger ones."""
    fraction_seed: int = 0
    """Names the draw of the share."""
    max_dropped_ratio: float = 0.01
    """Share of the instances that may be unusable before opening a set is an error."""
    policy: ImagePolicy = ImagePolicy()
    """How photographs are read."""

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> "DataOptions":
        """Refuse a share of nothing."""
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction is {self.fraction}, but must lie in 0 (excluded) .. 1")
        return self


class Recipe(Options):
    """The complete description of one training."""

    name: str
    """What the recipe is called in messages and folders."""
    data: DataOptions = DataOptions()
    """Photographs."""
    transforms: TransformOptions = TransformOptions()
    """Their geometry."""
    loader: LoaderOptions = LoaderOptions()
    """How they reach the model."""
    model: DetectorOptions
    """The detector."""
    start: StartOptions = StartOptions()
    """Where its weights begin: `start=scratch`, or `start=FILE` for short."""
    training: TrainOptions = TrainOptions()
    """Schedule, optimizer, precision, upkeep."""
    evaluation: EvaluationOptions = EvaluationOptions()
    """How it is judged."""
    seed: int = 0
    """Names every random draw of the run: first weights, order, augmentation, sampling."""

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> "Recipe":
        """Refuse starts that do not fit the model, and batches that do not fill their groups."""
        check_start(self.start, self.model.backbone)
        return self

    @property
    def microbatch(self) -> int:
        """Images that pass through the model at once."""
        return self.training.schedule.batch_size // self.training.accumulate


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """The opened data of a recipe."""

    train: Index
    val: Index


def open_split(options: SplitOptions, name: str, data: DataOptions, *, masks: bool) -> Index:
    """The index of one split; a detector without masks reads none.

    Raises:
        UsageError: the split is not given.
        DataError: it cannot be used.
    """
    if options.annotations is None:
        raise UsageError(
            f"no data: set data.{name}.annotations=FILE.json and data.{name}.images=FOLDER "
            "(`groundup data convert` makes COCO json of Pascal VOC and YOLO sets)"
        )
    return open_index(
        options.annotations, options.images, masks=masks, max_dropped_ratio=data.max_dropped_ratio
    )


def open_splits(recipe: Recipe) -> Splits:
    """Both splits, the training share drawn, their categories compared.

    Raises:
        DataError: nothing to learn from, or nothing that the model learns, or val has categories of its own.
    """
    data, masks = recipe.data, recipe.model.mask_head is not None
    train_index = open_split(data.train, "train", data, masks=masks)
    val_index = open_split(data.val, "val", data, masks=masks)
    if masks and not train_index.has_masks:
        raise DataError(
            f"{data.train.annotations}: has no masks to train a mask head; choose a faster_rcnn recipe, "
            "or set model.mask_head=null"
        )
    refuse_unknown_categories(val_index, train_index.categories)
    if data.fraction < 1:
        train_index = train_index.subset(subset_rows(train_index, data.fraction, data.fraction_seed))
    if not train_index.num_usable.any():
        raise DataError(
            f"{data.train.annotations}: no image has a usable instance; run `groundup data check` on it"
        )
    return Splits(train=train_index, val=val_index)


def refuse_unknown_categories(index: Index, trained: Sequence[Category]) -> None:
    """Refuse to judge by categories that training does not know; it may know others besides.

    Raises:
        DataError: naming them.
    """
    known = {(category.id, category.name) for category in trained}
    unknown = [f"{c.id} '{c.name}'" for c in index.categories if (c.id, c.name) not in known]
    if unknown:
        raise DataError(
            f"{index.annotations}: categories that training does not know: {', '.join(unknown[:5])}; "
            "give both files the same categories"
        )


def identity(recipe: Recipe, splits: Splits, weights_digest: str | None) -> dict[str, Any]:
    """All that the weights of a run hang on, as data: files by digest, without upkeep and workers."""
    values = plain(recipe)
    del values["name"], values["loader"], values["training"]["upkeep"], values["evaluation"]
    values["data"]["train"] = splits.train.digest
    values["data"]["val"] = splits.val.digest
    values["start"]["weights"] = weights_digest
    values["training"].pop("evaluate_every", None)
    return values


def run_folder(recipe: Recipe) -> Path:
    """Where a run of the recipe goes unless told otherwise: its name and fingerprint under `runs/`."""
    return Path("runs") / f"{recipe.name}-{fingerprint(recipe)}"


def build_model(recipe: Recipe, categories: Sequence[Category]) -> RCNN:
    """The recipe's detector with the first weights of its seed, before the start is loaded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash_of(recipe.seed, INIT_STREAM) >> 1)
        return build_detector(
            recipe.model,
            num_classes=len(categories),
            pixel_mean=recipe.start.pixel_mean,
            pixel_std=recipe.start.pixel_std,
        )


def default_device() -> torch.device:
    """The GPU of this process where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def plan_lines(recipe: Recipe, folder: Path) -> Iterator[str]:
    """What training the recipe would do, with every derived number; opens the data, starts nothing.

    Raises:
        UsageError, DataError: what would keep `train_run` from starting.
    """
    splits = open_splits(recipe)
    schedule, num_images = recipe.training.schedule, splits.train.num_images
    check_schedule(schedule, num_images)
    model = build_model(recipe, splits.train.categories)
    report = load_start(model, recipe.start)
    refuse_other_run(folder, identity(recipe, splits, report.digest))
    total = total_images(schedule, num_images)
    drops = ", ".join(f"{point:,}" for point in drop_points(schedule, num_images)) or "none"
    names = [category.name for category in splits.train.categories]
    without = int((splits.train.num_usable == 0).sum())
    yield f"run        {folder} ({run_state(folder)})"
    yield f"train      {num_images:,} images, {splits.train.num_instances:,} instances"
    if without:
        yield f"           {without:,} images without usable instances are left out"
    yield f"val        {splits.val.num_images:,} images, {splits.val.num_instances:,} instances"
    yield f"categories {len(names)}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
    yield f"model      {sum(p.numel() for p in model.parameters()):,} parameters"
    yield from (f"start      {line.removeprefix('start: ')}" for line in report.lines())
    yield f"schedule   {total:,} images in {total // schedule.batch_size:,} steps of {schedule.batch_size}"
    yield (
        f"           unit {images_of_unit(schedule, num_images):,} images; "
        f"warm-up {warmup_length(schedule, num_images):,}; drops after {drops}"
    )
    yield f"device     {default_device()}, {torch.get_num_threads()} threads, torch {version('torch')}"


def environment() -> dict[str, Any]:
    """Versions and machine of this process, for the record."""
    packages = (
        "groundup",
        "torch",
        "torchvision",
        "timm",
        "numpy",
        "hotcoco",
        "opencv-python-headless",
        "pillow",
    )
    versions = {}
    for name in packages:
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
        "versions": versions,
    }


def train_run(
    recipe: Recipe, folder: Path, *, time_limit: float | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Carry the recipe out in the folder, or go on where it was stopped.

    Returns:
        The content of `result.json`: images seen, metrics, exposure.

    Raises:
        UsageError: the folder holds a run of another recipe, or the recipe cannot be trained.
        DataError: the photographs or weights cannot be used.
        Interrupted: asked to stop; a checkpoint is written.
        DivergedError: the loss left the finite numbers.
    """
    options = with_time_limit(recipe.training, time_limit)
    splits = open_splits(recipe)
    check_schedule(options.schedule, splits.train.num_images)
    model = build_model(recipe, splits.train.categories)
    report = load_start(model, recipe.start)
    identified = identity(recipe, splits, report.digest)
    refuse_other_run(folder, identified)
    if run_state(folder) == "missing":
        record = {
            "identity": identified,
            "fingerprint": fingerprint(identified),
            "categories": [category_record(category) for category in splits.train.categories],
            "dropped": {rule: len(ids) for rule, ids in splits.train.dropped.items()},
            "command": sys.argv,
            "environment": environment(),
        }
        write_json(folder / RECORD, record)
        write_json(folder / RECIPE, plain(with_absolute_paths(recipe)))
        write_json(folder / LOAD_REPORT, report.to_json())
    if not quiet:
        for line in (f"run: {folder}", *report.lines()):
            print(line, file=sys.stderr)
    model.to(default_device())
    with StopFlag(options.upkeep.time_limit) as stop:
        return train(
            model,
            training_batches(recipe, splits.train),
            options,
            folder,
            num_images=splits.train.num_images,
            seed=recipe.seed,
            recipe=fingerprint(identified),
            evaluate=evaluation_of(recipe, splits, folder, stop),
            stop=stop,
            quiet=quiet,
        )


def with_time_limit(options: TrainOptions, time_limit: float | None) -> TrainOptions:
    """The options with a time limit given at the command line in place of their own."""
    if time_limit is None:
        return options
    return vary(options, {"upkeep.time_limit": time_limit})


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with data that any working directory finds."""
    paths = {
        f"data.{split}.{name}": str(path.absolute())
        for split, options in (("train", recipe.data.train), ("val", recipe.data.val))
        for name, path in (("annotations", options.annotations), ("images", options.images))
        if path is not None
    }
    return vary(recipe, paths)


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
            f"{name}: {old!r} there, {new!r} here" for name, (old, new) in list(changed.items())[:4]
        )
        raise UsageError(
            f"{folder} holds another run ({shown}); choose another --out, or repeat its command to go on"
        )


def training_batches(recipe: Recipe, index: Index) -> Batches:
    """The batches that follow a position in the order of the recipe's seed."""

    def batches(first_position: int) -> Iterator[Batch]:
        return train_batches(
            index,
            recipe.transforms,
            recipe.loader,
            batch_size=recipe.microbatch,
            seed=recipe.seed,
            first_position=first_position,
            group_size=recipe.model.loss_images,
            policy=recipe.data.policy,
        )

    return batches


def evaluation_of(recipe: Recipe, splits: Splits, folder: Path, stop: StopFlag | None) -> Evaluate:
    """What the loop calls to evaluate: metrics of a model after so many images."""

    def evaluate_model(model: nn.Module, images_seen: int) -> dict[str, float | None]:
        assert isinstance(model, RCNN)
        where = folder / "evaluations" / f"images_{images_seen:09d}"
        evaluation = evaluate_detector(
            model, recipe, splits.val, where, categories=splits.train.categories, stop=stop
        )
        return dict(evaluation.metrics)

    return evaluate_model


def evaluate_detector(
    model: RCNN,
    recipe: Recipe,
    index: Index,
    folder: Path | None,
    *,
    categories: Sequence[Category],
    stop: StopFlag | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """AP of a detector on a split; predictions and metrics go to the folder.

    `categories` are those of the model's labels, which the split may lack some of.
    """
    batches = evaluation_batches(
        index,
        recipe.transforms,
        recipe.loader,
        batch_size=recipe.evaluation.batch_size,
        policy=recipe.data.policy,
    )
    return evaluate(
        model,
        batches,
        index.document() | {"categories": [category_record(category) for category in categories]},
        recipe.evaluation,
        category_ids=[category.id for category in categories],
        folder=folder,
        stop=stop,
        progress=progress,
    )


def category_of(record: dict[str, Any]) -> Category:
    """The category a record of `category_record` describes."""
    return Category(
        id=record["id"],
        name=record["name"],
        supercategory=record["supercategory"],
        keypoints=tuple(record.get("keypoints", ())),
        skeleton=tuple((first, second) for first, second in record.get("skeleton", ())),
    )


def init_lines(recipe: Recipe, num_classes: int = 80) -> Iterator[str]:
    """How the weights of every module of a recipe begin: name, shape, rule, and what a start replaces."""
    model = build_detector(
        recipe.model,
        num_classes=num_classes,
        pixel_mean=recipe.start.pixel_mean,
        pixel_std=recipe.start.pixel_std,
    )
    rows = init_table(model)
    name_width = max(len(name) for name, _, _ in rows)
    for name, rule, shape in rows:
        yield f"{name:{name_width}}  {'x'.join(map(str, shape)):>16}  {rule}"
    if recipe.start.weights is not None:
        yield f"start.weights={recipe.start.weights} then replaces the tensors of the backbone that it holds"
