"""One run: the only place where data, model and engine meet.

A run is a folder. `train_run` carries a recipe out in it, or goes on where it was stopped;
`load_detector` opens what came of it.
"""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from groundup.allocator import allocator_line
from groundup.config import Options, differences, fingerprint, plain, vary
from groundup.data.coco import (
    MAX_DROPPED_RATIO,
    Category,
    Difficult,
    Index,
    category_record,
    open_index,
)
from groundup.data.images import ImagePolicy
from groundup.data.keypoints import keypoints_of, with_keypoints
from groundup.data.loader import LoaderOptions, evaluation_batches, train_batches
from groundup.data.overlap import Overlap, refuse_shared
from groundup.data.regimes import share_of
from groundup.data.subset import subset_rows
from groundup.data.transforms import TransformOptions
from groundup.data.views import Look, evaluation_views, plan_looks
from groundup.engine.checkpoint import load_weights
from groundup.engine.distributed import World, joined
from groundup.engine.evaluate import Evaluation, EvaluationOptions, Shown, evaluate
from groundup.engine.precise_norm import precise_norms, save_statistics
from groundup.engine.schedule import check_schedule
from groundup.engine.stop import StopFlag
from groundup.engine.train import Batches, Evaluate, TrainOptions, run_state
from groundup.errors import DataError, UsageError
from groundup.metrics.tables import TRAINING
from groundup.models.load_report import LoadReport
from groundup.models.rcnn import RCNN, DetectorOptions, build_detector
from groundup.models.start import StartOptions, check_start, load_start
from groundup.ops.roi_kernel import has_kernel, kernel_line
from groundup.records import read_json
from groundup.run_folder import (
    LOAD_REPORT,
    RECIPE,
    RECORD,
    Beginning,
    RunRecipe,
    carry_out,
    category_of,
    default_device,
    environment,
    evaluation_folder,
    first_weights,
    model_lines,
    refuse_other_run,
    run_folder,
    table_lines,
    with_time_limit,
)
from groundup.structures import Batch

__all__ = [
    "LOAD_REPORT",
    "RECIPE",
    "RECORD",
    "DataOptions",
    "Recipe",
    "SplitOptions",
    "Splits",
    "build_model",
    "category_of",
    "default_device",
    "environment",
    "evaluate_detector",
    "evaluation_of",
    "identity",
    "init_lines",
    "looks_of",
    "open_split",
    "open_splits",
    "plan_lines",
    "refuse_other_run",
    "refuse_unknown_categories",
    "run_folder",
    "train_run",
    "training_batches",
    "with_absolute_paths",
    "with_time_limit",
]


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
    """Share of the training images that is used; smaller shares are contained in larger ones. The paper's
    regimes go by name: 35k, 10k, 3.5k and 1k are the shares that they are of COCO."""
    images: int | None = None
    """Number of training images that is used, exactly so many, instead of a share; None: the share."""
    fraction_seed: int = 0
    """Names the draw of the share or number."""
    difficult: Difficult | None = None
    """Whether training learns from objects that bear Pascal VOC's mark `difficult`: `keep` (as Detectron2) or
    `drop`; None: as from others, that is unless they are crowds, as our converter makes them."""
    max_dropped_ratio: float = MAX_DROPPED_RATIO
    """Share of the instances that may be unusable before opening a set is an error."""
    min_keypoints: int = Field(default=0, ge=0)
    """Training images with fewer labelled keypoints, all their instances together, are left out before a
    share is drawn; 0 keeps all. Detectron trains a keypoint head on images with at least one."""
    overlap: Overlap = "refuse"
    """What is done where both splits hold the same photograph, byte for byte: `refuse`, or `accept`."""
    policy: ImagePolicy = ImagePolicy()
    """How photographs are read."""

    @field_validator("fraction", mode="before")
    @classmethod
    def _take_names(cls, value: object) -> object:
        """A regime's name stands for its share."""
        return share_of(value)

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> "DataOptions":
        """Refuse a share of nothing, and a part whose size is given twice."""
        if self.images is not None and (self.images < 1 or self.fraction != 1):
            raise ValueError(
                f"images is {self.images} and fraction {self.fraction}; images is a number from 1 on, "
                "which stands in place of a fraction"
            )
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction is {self.fraction}, but must lie in 0 (excluded) .. 1")
        return self


class Recipe(RunRecipe):
    """The complete description of one training of a detector."""

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
        """Refuse starts that do not fit the model, and late parts that it does not have."""
        check_start(self.start, self.model.backbone)
        late_units = self.training.schedule.late_units
        if late_units is not None and self.model.cascade is None:
            raise ValueError(
                f"training.schedule.late_units is {late_units}, but there is no cascade "
                "that could come late: write training.schedule.late_units=null, or model.cascade={}"
            )
        return self

    @model_validator(mode="after")
    def _refuse_capture_of_changing_shapes(self) -> "Recipe":
        """Refuse to capture steps whose shapes hang on the data."""
        if self.training.capture and (self.model.roi_slots != "fixed" or self.transforms.buckets is None):
            raise ValueError(
                "training.capture repeats steps of one shape: write model.roi_slots=fixed "
                "and transforms.buckets={} too, or training.capture=false"
            )
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
    left_out: Mapping[str, int]
    """Training images that an option left out, by the reason as a message says it."""


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
    pastes = recipe.transforms.copy_paste is not None
    train_index = open_split(data.train, "train", data, masks=masks or pastes)
    val_index = open_split(data.val, "val", data, masks=masks)
    if masks and not train_index.has_masks:
        raise DataError(
            f"{data.train.annotations}: has no masks to train a mask head; choose a faster_rcnn recipe, "
            "or set model.mask_head=null"
        )
    if pastes and not train_index.has_masks:
        raise DataError(
            f"{data.train.annotations}: has no masks to cut out by; set transforms.copy_paste=null"
        )
    refuse_unknown_categories(val_index, train_index.categories)
    num_listed = train_index.num_images
    if recipe.model.keypoint_head is not None or data.min_keypoints:
        train_index = with_keypoints(train_index, data.min_keypoints)
    num_left_out = num_listed - train_index.num_images
    train_index = train_index.with_difficult(data.difficult)
    if data.fraction < 1 or data.images is not None:
        rows = subset_rows(train_index, data.fraction, data.fraction_seed, data.images)
        train_index = train_index.subset(rows)
    if not train_index.num_usable.any():
        raise DataError(
            f"{data.train.annotations}: no image has a usable instance; run `groundup data check` on it"
        )
    reason = f"fewer than {data.min_keypoints} labelled keypoints (data.min_keypoints)"
    return Splits(train=train_index, val=val_index, left_out={reason: num_left_out} if num_left_out else {})


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
    values["data"].pop("overlap")
    return values


def build_model(recipe: Recipe, categories: Sequence[Category]) -> RCNN:
    """The recipe's detector with the first weights of its seed, before the start is loaded."""
    with first_weights(recipe.seed):
        return build_detector(
            recipe.model,
            num_classes=len(categories),
            pixel_mean=recipe.start.pixel_mean,
            pixel_std=recipe.start.pixel_std,
            num_keypoints=keypoints_of(categories),
        )


def plan_lines(recipe: Recipe, folder: Path) -> Iterator[str]:
    """What training the recipe would do, with every derived number; opens the data, starts nothing.

    Raises:
        UsageError, DataError: what would keep `train_run` from starting.
    """
    splits = open_splits(recipe)
    schedule, num_images = recipe.training.schedule, splits.train.num_images
    check_schedule(schedule, num_images)
    model = build_model(recipe, splits.train.categories)
    report = load_start(model, recipe.start, [category.name for category in splits.train.categories])
    refuse_other_run(folder, identity(recipe, splits, report.digest))
    if recipe.data.overlap == "refuse":
        refuse_shared(splits.train, splits.val)
    names = [category.name for category in splits.train.categories]
    without = int((splits.train.num_usable == 0).sum())
    yield f"run        {folder} ({run_state(folder)})"
    yield f"train      {num_images:,} images, {splits.train.num_instances:,} instances"
    for reason, count in splits.left_out.items():
        yield f"           {count:,} images are left out: {reason}"
    if without:
        yield f"           {without:,} images without usable instances are left out"
    marked, learnt = splits.train.num_difficult
    if marked:
        yield f"           {marked:,} difficult instances, {learnt:,} of them learnt from (data.difficult)"
    yield f"val        {splits.val.num_images:,} images, {splits.val.num_instances:,} instances"
    yield from model_lines(model, names, report, schedule, num_images)


def train_run(
    recipe: Recipe, folder: Path, *, time_limit: float | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Carry the recipe out in the folder, or go on where it was stopped.

    Under torchrun every process calls this alike; together they train one model.

    Returns:
        The content of `result.json`: images seen, metrics, exposure.

    Raises:
        UsageError: the folder holds a run of another recipe, or the recipe cannot be trained.
        DataError: the photographs or weights cannot be used.
        Interrupted: asked to stop; a checkpoint is written.
        DivergedError: the loss left the finite numbers.
    """
    options = with_time_limit(recipe.training, time_limit)
    with joined(options.upkeep.process_timeout) as world:
        splits = world.in_turn(lambda: open_splits(recipe))
        world.together(lambda: check_schedule(options.schedule, splits.train.num_images))
        state = world.lead(lambda: run_state(folder))
        if state == "missing" and recipe.data.overlap == "refuse":
            world.together(lambda: refuse_shared(splits.train, splits.val))
        model = build_model(recipe, splits.train.categories)
        names = [category.name for category in splits.train.categories]
        report = world.in_turn(lambda: load_start(model, recipe.start, names))
        result = carry_out(
            model,
            folder,
            beginning_of(recipe, splits, report),
            options,
            lambda stop: (
                training_batches(recipe, splits.train, world),
                evaluation_of(recipe, splits, folder, stop, world),
            ),
            num_images=splits.train.num_images,
            seed=recipe.seed,
            quiet=quiet,
            world=world,
            loss_images=recipe.model.loss_images,
        )
        return judged_anew(recipe, splits, folder, model, result, world) if state == "done" else result


def judged_anew(
    recipe: Recipe, splits: Splits, folder: Path, model: RCNN, result: dict[str, Any], world: World
) -> dict[str, Any]:
    """The result of a finished run; where it was judged by other options, with metrics by these.

    Its own result and evaluation stay as they are. Says on stderr what differs.
    """
    evaluation = plain(recipe.evaluation)
    changed = differences([read_json(folder / RECIPE).get("evaluation", {}), evaluation])
    changed.pop("batch_size", None)
    if not changed:
        return result
    where = folder / "evaluations" / f"newest_{fingerprint(evaluation)}"
    shown = "; ".join(f"evaluation.{name}: {old!r} then, {new!r} now" for name, (old, new) in changed.items())
    if world.leads:
        print(
            f"{folder} was finished and judged by other options ({shown}); judging it anew", file=sys.stderr
        )
    model.load_state_dict(load_weights(folder))
    model.to(default_device())
    found = evaluate_detector(
        model, recipe, splits.val, where, categories=splits.train.categories, world=world
    )
    return {**result, "metrics": dict(found.metrics), "evaluation": str(where)}


def beginning_of(recipe: Recipe, splits: Splits, report: LoadReport) -> Beginning:
    """What the run's folder says of it before the first step."""
    return Beginning(
        identity=identity(recipe, splits, report.digest),
        recipe=with_absolute_paths(recipe),
        categories=splits.train.categories,
        facts={
            "dropped": {rule: len(ids) for rule, ids in splits.train.dropped.items()},
            "left_out": dict(splits.left_out),
            "difficult": dict(zip(("instances", "learnt_from"), splits.train.num_difficult, strict=True)),
        },
        notes=[
            *(
                f"{count:,} training images are left out: {reason}"
                for reason, count in splits.left_out.items()
            ),
            allocator_line(),
            *([kernel_line()] if default_device().type == "cpu" and has_kernel() else []),
        ],
        report=report,
    )


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with data that any working directory finds."""
    paths = {
        f"data.{split}.{name}": str(path.absolute())
        for split, options in (("train", recipe.data.train), ("val", recipe.data.val))
        for name, path in (("annotations", options.annotations), ("images", options.images))
        if path is not None
    }
    return vary(recipe, paths)


def training_batches(recipe: Recipe, index: Index, world: World | None = None) -> Batches:
    """The batches that follow a position in the order of the recipe's seed, or a process's share of each."""
    place = world or World()

    def batches(first_position: int) -> Iterator[Batch]:
        return train_batches(
            index,
            recipe.transforms,
            recipe.loader,
            batch_size=recipe.microbatch,
            seed=recipe.seed,
            first_position=first_position,
            rank=place.rank,
            world_size=place.size,
            group_size=recipe.model.loss_images,
            policy=recipe.data.policy,
        )

    return batches


def evaluation_of(
    recipe: Recipe, splits: Splits, folder: Path, stop: StopFlag | None, world: World | None = None
) -> Evaluate:
    """What the loop calls to evaluate: metrics of a model after so many images."""
    learnt = learnt_images(recipe, splits.train)

    def evaluate_model(model: nn.Module, images_seen: int) -> dict[str, float | None]:
        assert isinstance(model, RCNN)
        where, place = evaluation_folder(folder, images_seen), world or World()
        with contextlib.ExitStack() as held:
            if recipe.evaluation.precise_bn:
                statistics = held.enter_context(precise_norms_of(model, recipe, splits.train, place, stop))
                place.lead(lambda: save_statistics(where, statistics))
            evaluation = evaluate_detector(
                model, recipe, splits.val, where, categories=splits.train.categories, stop=stop, world=place
            )
            metrics: dict[str, float | None] = dict(evaluation.metrics)
            if learnt is not None:
                seen = evaluate_detector(
                    model, recipe, learnt, None, categories=splits.train.categories, stop=stop, world=place
                )
                metrics |= {f"{TRAINING}/{name}": value for name, value in seen.metrics.items()}
        return metrics

    return evaluate_model


def learnt_images(recipe: Recipe, train: Index) -> Index | None:
    """The training photographs that are evaluated too; None where none are. More data hold the same ones."""
    if not recipe.evaluation.train_images:
        return None
    share = min(1.0, recipe.evaluation.train_images / train.num_images)
    return train.subset(subset_rows(train, share, recipe.data.fraction_seed))


def precise_norms_of(
    model: RCNN, recipe: Recipe, index: Index, world: World, stop: StopFlag | None
) -> contextlib.AbstractContextManager[dict[str, Tensor]]:
    """Batch norms by the first `evaluation.precise_bn` images of the run's order, until it is left."""
    num_batches = -(-recipe.evaluation.precise_bn // recipe.microbatch)
    stream = itertools.islice(training_batches(recipe, index, world)(0), num_batches)
    return precise_norms(model, stream, num_batches, world, stop)


def evaluate_detector(
    model: RCNN,
    recipe: Recipe,
    index: Index,
    folder: Path | None,
    *,
    categories: Sequence[Category],
    stop: StopFlag | None = None,
    progress: Callable[[int], None] | None = None,
    world: World | None = None,
) -> Evaluation:
    """AP of a detector on a split; predictions and metrics go to the folder.

    `categories` are those of the model's labels, which the split may lack some of. Several processes share
    the photographs and get the same answer.
    """
    place = world or World()
    return evaluate(
        model,
        shown_batches(recipe, index, place),
        index.document() | {"categories": [category_record(category) for category in categories]},
        recipe.evaluation,
        category_ids=[category.id for category in categories],
        folder=folder,
        stop=stop,
        progress=progress,
        world=place,
    )


def shown_batches(recipe: Recipe, index: Index, world: World) -> Iterator[Shown]:
    """What evaluation shows the model: every photograph of this process's share once, or all its views."""
    evaluation = recipe.evaluation
    share: dict[str, Any] = {
        "batch_size": evaluation.batch_size,
        "rank": world.rank,
        "world_size": world.size,
        "policy": recipe.data.policy,
    }
    if evaluation.tta is None:
        return evaluation_batches(index, recipe.transforms, recipe.loader, alike=True, **share)
    return evaluation_views(index, recipe.transforms, recipe.loader, looks_of(recipe), **share)


def looks_of(recipe: Recipe) -> tuple[Look, ...]:
    """The ways in which evaluation looks at a photograph; one without test-time augmentation."""
    tta = recipe.evaluation.tta
    if tta is None:
        return plan_looks(recipe.transforms, (), recipe.transforms.test_max_side, flip=False)
    return plan_looks(recipe.transforms, tta.scales, tta.max_side, flip=tta.flip)


def init_lines(recipe: Recipe, num_classes: int = 80, num_keypoints: int = 17) -> Iterator[str]:
    """How the weights of every module of a recipe begin: name, shape, rule, and what a start replaces."""
    model = build_detector(
        recipe.model,
        num_classes=num_classes,
        pixel_mean=recipe.start.pixel_mean,
        pixel_std=recipe.start.pixel_std,
        num_keypoints=num_keypoints,
    )
    yield from table_lines(model, recipe.start)
