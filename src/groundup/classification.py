"""Classifiers as runs: pre-training, and the three modes of transfer learning (scratch, features, tuning).

It stands beside `run`, which does the same for detectors; the loop, the loader and the records are the same.
A finished run's folder is a detector's start (`start=RUN`), and its bill is what that start cost.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from groundup.config import Options, read_tree, vary
from groundup.data.folder import ClassIndex, class_subset_rows, open_class_index
from groundup.data.images import ImagePolicy
from groundup.data.loader import LoaderOptions, evaluation_batches, train_batches
from groundup.data.transforms import TransformOptions
from groundup.engine.checkpoint import load_weights
from groundup.engine.classify import ClassEvaluation, ClassEvaluationOptions, evaluate_classes
from groundup.engine.distributed import World, joined
from groundup.engine.run import RESULT, Evaluate, run_state
from groundup.engine.schedule import check_schedule
from groundup.engine.stop import StopFlag
from groundup.engine.train import Batches
from groundup.engine.training import TrainOptions
from groundup.errors import CheckpointError, UsageError
from groundup.features import (
    FeatureSource,
    FeatureTable,
    feature_batches,
    feature_evaluation_batches,
    open_features,
)
from groundup.metrics.exposure import Exposure
from groundup.models.backbone import NUM_STAGES
from groundup.models.classifier import Classifier, ClassifierOptions, build_classifier
from groundup.models.load_report import LoadReport
from groundup.models.start import StartOptions, check_start, load_start
from groundup.records import read_json, write_json
from groundup.run_folder import (
    RECIPE,
    RECORD,
    Beginning,
    RunRecipe,
    carry_out,
    category_of,
    default_device,
    evaluation_folder,
    first_weights,
    identity_of,
    model_lines,
    refuse_other_run,
    table_lines,
    with_time_limit,
)
from groundup.structures import Batch

FEATURES = "features.json"
"""Where a run's features lie and what they cost; only with features=cached."""
FEATURES_EXPOSURE = "features_exposure"
"""The part of the exposure in `result.json` that making the training features took."""
TASK: Literal["classification"] = "classification"
"""Tells a classifier's recipe from a detector's."""


class ClassDataOptions(Options):
    """Which photographs are learnt from, and which are judged by: class folders, root/class/photograph."""

    train: Path | None = None
    """Learnt from."""
    val: Path | None = None
    """Evaluated on; never learnt from. Its classes are among those of `train`."""
    fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of each class that is used; smaller shares are contained in larger ones."""
    fraction_seed: int = 0
    """Names the draw of the share."""
    policy: ImagePolicy = ImagePolicy()
    """How photographs are read."""


class ClassifierRecipe(RunRecipe):
    """The complete description of one training of a classifier."""

    task: Literal["classification"] = TASK
    """What tells this recipe from a detector's."""
    data: ClassDataOptions = ClassDataOptions()
    """Photographs."""
    transforms: TransformOptions = TransformOptions()
    """Their geometry."""
    loader: LoaderOptions = LoaderOptions()
    """How they reach the model."""
    model: ClassifierOptions
    """The backbone and its head."""
    start: StartOptions = StartOptions()
    """Where its weights begin: `start=scratch`, or `start=FILE` for short."""
    features: Literal["computed", "cached"] = "computed"
    """computed: every step sends its photographs through the backbone. cached: the backbone is frozen
    whole (start.frozen_stages=5), its pooled features are computed once, without augmentation, kept on
    disk, and only the head sees training steps."""
    training: TrainOptions = TrainOptions()
    """Schedule, optimizer, precision, upkeep."""
    evaluation: ClassEvaluationOptions = ClassEvaluationOptions()
    """How it is judged."""
    seed: int = 0
    """Names every random draw of the run: first weights, order, augmentation, dropout."""

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> "ClassifierRecipe":
        """Refuse starts that do not fit the model, features of a backbone that learns, and captured steps."""
        check_start(self.start, self.model.backbone)
        if self.training.capture:
            raise ValueError(
                "training.capture is true, but only a detector's steps are captured and repeated: "
                "write training.capture=false"
            )
        if self.features == "cached" and self.start.frozen_stages < NUM_STAGES:
            raise ValueError(
                f"features=cached needs a backbone that never changes, but start.frozen_stages is "
                f"{self.start.frozen_stages}: set start.weights and start.frozen_stages={NUM_STAGES}, "
                "or features=computed"
            )
        return self

    @property
    def microbatch(self) -> int:
        """Images that pass through the model at once."""
        return self.training.schedule.batch_size // self.training.accumulate


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSplits:
    """The opened data of a recipe."""

    train: ClassIndex
    val: ClassIndex


def open_class_splits(recipe: ClassifierRecipe) -> ClassSplits:
    """Both folders, the training share drawn, val under training's labels.

    Raises:
        UsageError: one is not given.
        DataError: one cannot be used, or val has classes of its own.
    """
    data = recipe.data
    if data.train is None or data.val is None:
        raise UsageError(
            "no data: set data.train=FOLDER and data.val=FOLDER, each holding a folder of photographs a class"
        )
    train_index = open_class_index(data.train, data.policy)
    names = [category.name for category in train_index.categories]
    val_index = open_class_index(data.val, data.policy, classes=names)
    if data.fraction < 1:
        train_index = train_index.subset(class_subset_rows(train_index, data.fraction, data.fraction_seed))
    return ClassSplits(train=train_index, val=val_index)


def first_classifier(recipe: ClassifierRecipe, num_classes: int) -> Classifier:
    """The recipe's classifier with the first weights of its seed, before the start is loaded."""
    with first_weights(recipe.seed):
        return build_classifier(
            recipe.model,
            num_classes=num_classes,
            pixel_mean=recipe.start.pixel_mean,
            pixel_std=recipe.start.pixel_std,
        )


def train_classifier_run(
    recipe: ClassifierRecipe, folder: Path, *, time_limit: float | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Carry the recipe out in the folder, or go on where it was stopped.

    Returns:
        The content of `result.json`: images seen, metrics, exposure. With features=cached the exposure
        holds the pass that made the features too, once, whichever run computed them.

    Raises:
        UsageError: the folder holds a run of another recipe, or the recipe cannot be trained.
        DataError: the photographs or weights cannot be used.
        Interrupted: asked to stop; a checkpoint is written.
        DivergedError: the loss left the finite numbers.
    """
    options = with_time_limit(recipe.training, time_limit)
    with joined(options.upkeep.process_timeout) as world:
        if recipe.features == "cached" and world.size > 1:
            raise UsageError(
                "features=cached trains a head alone, which one process does best; WORLD_SIZE is "
                f"{world.size}: start one process, or set features=computed"
            )
        splits = world.in_turn(lambda: open_class_splits(recipe))
        world.together(lambda: check_schedule(options.schedule, splits.train.num_images))
        model = first_classifier(recipe, len(splits.train.categories))
        report = world.in_turn(lambda: load_start(model, recipe.start))

        def work(stop: StopFlag) -> tuple[Batches, Evaluate]:
            batches, judged = pictures_work(recipe, splits, world)
            if recipe.features == "cached":
                source = source_of(recipe, model, report)
                batches, judged = features_work(recipe, splits, source, folder, stop)
            return batches, class_evaluation_of(recipe, splits.val, judged, folder, stop, world)

        result = carry_out(
            model,
            folder,
            class_beginning(recipe, splits, report),
            options,
            work,
            num_images=splits.train.num_images,
            seed=recipe.seed,
            quiet=quiet,
            world=world,
        )
    return with_features_billed(folder, result) if recipe.features == "cached" else result


def with_features_billed(folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    """The result with what its training features cost on its bill, written back; done once for a run."""
    if FEATURES_EXPOSURE in result:
        return result
    made = read_json(folder / FEATURES)["train"]["exposure"]
    whole = Exposure.from_json(result["exposure"]) + Exposure.from_json(made)
    billed = result | {"exposure": whole.to_json(), FEATURES_EXPOSURE: made}
    write_json(folder / RESULT, billed)
    return billed


def source_of(recipe: ClassifierRecipe, model: Classifier, report: LoadReport) -> FeatureSource:
    """What the features of a recipe with features=cached are made with."""
    assert report.digest is not None, "such a recipe has weights"
    return FeatureSource(
        model=model,
        weights=report.digest,
        transforms=recipe.transforms,
        loader=recipe.loader,
        policy=recipe.data.policy,
    )


def class_beginning(recipe: ClassifierRecipe, splits: ClassSplits, report: LoadReport) -> Beginning:
    """What the run's folder says of it before the first step."""
    assert recipe.data.train is not None
    assert recipe.data.val is not None
    paths = {"data.train": str(recipe.data.train.absolute()), "data.val": str(recipe.data.val.absolute())}
    return Beginning(
        identity=identity_of(recipe, splits.train.digest, splits.val.digest, report.digest),
        recipe=vary(recipe, paths),
        categories=splits.train.categories,
        facts={"counts": splits.train.counts(), "left_out": [*splits.train.problems, *splits.val.problems]},
        report=report,
    )


def pictures_work(
    recipe: ClassifierRecipe, splits: ClassSplits, world: World
) -> tuple[Batches, Callable[[], Iterator[Batch]]]:
    """Training and evaluation batches of photographs, a process's share of them."""

    def batches(first_position: int) -> Iterator[Batch]:
        return train_batches(
            splits.train,
            recipe.transforms,
            recipe.loader,
            batch_size=recipe.microbatch,
            seed=recipe.seed,
            first_position=first_position,
            rank=world.rank,
            world_size=world.size,
            group_size=1,
            policy=recipe.data.policy,
        )

    return batches, lambda: picture_batches(recipe, splits.val, world)


def picture_batches(
    recipe: ClassifierRecipe, index: ClassIndex, world: World | None = None
) -> Iterator[Batch]:
    """Every photograph of the index once, with the evaluation geometry, or a process's share of them."""
    place = world or World()
    return evaluation_batches(
        index,
        recipe.transforms,
        recipe.loader,
        batch_size=recipe.evaluation.batch_size,
        rank=place.rank,
        world_size=place.size,
        policy=recipe.data.policy,
    )


def features_work(
    recipe: ClassifierRecipe, splits: ClassSplits, source: FeatureSource, folder: Path, stop: StopFlag
) -> tuple[Batches, Callable[[], Iterator[Batch]]]:
    """Training and evaluation batches of features, which are opened when they are first asked for."""

    @functools.cache
    def tables() -> tuple[FeatureTable, FeatureTable]:
        found = (open_features(source, splits.train, stop), open_features(source, splits.val, stop))
        write_json(folder / FEATURES, {"train": found[0].to_json(), "val": found[1].to_json()})
        return found

    def batches(first_position: int) -> Iterator[Batch]:
        return feature_batches(
            splits.train,
            tables()[0],
            batch_size=recipe.microbatch,
            seed=recipe.seed,
            first_position=first_position,
        )

    size = recipe.evaluation.batch_size
    return batches, lambda: feature_evaluation_batches(splits.val, tables()[1], batch_size=size)


def class_evaluation_of(
    recipe: ClassifierRecipe,
    index: ClassIndex,
    batches: Callable[[], Iterator[Batch]],
    folder: Path,
    stop: StopFlag,
    world: World,
) -> Evaluate:
    """What the loop calls to evaluate: metrics of a model after so many images."""

    def evaluate_model(model: nn.Module, images_seen: int) -> dict[str, float | None]:
        evaluation = evaluate_classes(
            model,
            batches(),
            recipe.evaluation,
            names=[category.name for category in index.categories],
            files=index.names,
            folder=evaluation_folder(folder, images_seen),
            stop=stop,
            world=world,
        )
        return dict(evaluation.metrics)

    return evaluate_model


def is_classifier_run(folder: Path) -> bool:
    """Whether the folder is a run of a classifier; False for anything else."""
    path = folder / RECIPE
    values = read_json(path) if path.exists() else None
    return isinstance(values, dict) and values.get("task") == TASK


def evaluate_classifier_run(
    folder: Path,
    images: Path | None = None,
    *,
    out: Path | None = None,
    report: Callable[[int, int], None] | None = None,
) -> ClassEvaluation:
    """Top-1 and top-5 of a run's newest checkpoint on its own validation folder, or on another.

    Under torchrun every process calls this alike; they share the photographs, and each gets the scores.

    Raises:
        CheckpointError: the folder is no run of a classifier, or has no whole checkpoint.
        DataError: photographs that cannot be used, or classes that the run does not know.
    """
    if not is_classifier_run(folder):
        raise CheckpointError(f"{folder}: not a run of a classifier")
    recipe = read_tree(ClassifierRecipe, read_json(folder / RECIPE))
    names = [category_of(record).name for record in read_json(folder / RECORD)["categories"]]
    where = images or recipe.data.val
    assert where is not None, "a run was trained with data"
    with joined() as world:
        index = world.in_turn(lambda: open_class_index(where, recipe.data.policy, classes=names))
        model = first_classifier(recipe, len(names))
        world.together(lambda: model.load_state_dict(load_weights(folder)))
        model.to(default_device())
        total = index.num_images
        return evaluate_classes(
            model,
            picture_batches(recipe, index, world),
            recipe.evaluation,
            names=names,
            files=index.names,
            folder=out or folder / "evaluations" / "newest",
            progress=None if report is None else lambda done: report(min(done * world.size, total), total),
            world=world,
        )


def class_plan_lines(recipe: ClassifierRecipe, folder: Path) -> Iterator[str]:
    """What training the recipe would do, with every derived number; opens the data, starts nothing.

    Raises:
        UsageError, DataError: what would keep `train_classifier_run` from starting.
    """
    splits = open_class_splits(recipe)
    check_schedule(recipe.training.schedule, splits.train.num_images)
    model = first_classifier(recipe, len(splits.train.categories))
    report = load_start(model, recipe.start)
    refuse_other_run(folder, identity_of(recipe, splits.train.digest, splits.val.digest, report.digest))
    names = [category.name for category in splits.train.categories]
    yield f"run        {folder} ({run_state(folder)})"
    yield f"train      {splits.train.num_images:,} images"
    yield f"val        {splits.val.num_images:,} images"
    yield from (f"note       {problem}" for problem in (*splits.train.problems, *splits.val.problems))
    yield from model_lines(model, names, report, recipe.training.schedule, splits.train.num_images)
    yield f"features   {recipe.features}"


def class_init_lines(recipe: ClassifierRecipe, num_classes: int = 1000) -> Iterator[str]:
    """How the weights of every module of a recipe begin."""
    yield from table_lines(first_classifier(recipe, num_classes), recipe.start)
