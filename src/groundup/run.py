"""One run: the only place where data, model and engine meet.

A run is a folder. `train_run` carries a recipe out in it, or goes on where it was stopped;
`detector.load_detector` opens what came of it.
"""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from groundup.allocator import allocator_line
from groundup.config import differences, fingerprint, plain
from groundup.data.coco import Category, Index, category_record
from groundup.data.keypoints import keypoints_of
from groundup.data.loader import evaluation_batches, train_batches
from groundup.data.overlap import refuse_shared
from groundup.data.subset import subset_rows
from groundup.data.views import Look, evaluation_views, plan_looks
from groundup.engine.checkpoint import load_weights
from groundup.engine.distributed import World, joined
from groundup.engine.evaluate import Evaluation, Shown, evaluate
from groundup.engine.precise_norm import precise_norms, save_statistics
from groundup.engine.run import Evaluate, run_state
from groundup.engine.schedule import check_schedule
from groundup.engine.stop import StopFlag
from groundup.engine.train import Batches
from groundup.metrics.tables import TRAINING
from groundup.models.load_report import LoadReport
from groundup.models.rcnn import RCNN, build_detector
from groundup.models.start import load_start
from groundup.ops.roi_kernel import has_kernel, kernel_line
from groundup.recipe import Recipe, with_absolute_paths
from groundup.records import read_json
from groundup.run_folder import (
    RECIPE,
    Beginning,
    carry_out,
    default_device,
    evaluation_folder,
    first_weights,
    model_lines,
    refuse_other_run,
    table_lines,
    with_time_limit,
)
from groundup.splits import Splits, identity, open_splits
from groundup.structures import Batch


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
