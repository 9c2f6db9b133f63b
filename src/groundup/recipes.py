"""Recipes by name: each a function that returns the whole tree, so that "go to definition" shows it.

The paper's systems differ between their arms in `start` alone; a fine-tuned arm of
`mask_rcnn_r50_fpn_gn` is the same recipe with `start=WEIGHTS`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from groundup.classification import TASK, ClassifierRecipe
from groundup.classifier_recipes import CLASSIFIER_RECIPES
from groundup.config import did_you_mean, override, plain, read_tree, read_yaml, vary
from groundup.data.copy_paste import CopyPasteOptions
from groundup.data.loader import LoaderOptions
from groundup.data.transforms import PAPER_SCALES, LargeScaleJitterOptions, TransformOptions
from groundup.engine.evaluate import EvaluationOptions
from groundup.engine.optimizer import OptimizerOptions
from groundup.engine.schedule import EPOCHS_PER_UNIT, UNIT_BATCH, UNIT_STEPS, ScheduleOptions
from groundup.engine.train import TrainOptions, UpkeepOptions
from groundup.errors import UsageError
from groundup.models.keypoint_presets import paper_keypoint_rcnn, torchvision_keypoint_rcnn
from groundup.models.presets import (
    DetectorSizes,
    detectron2,
    detectron2_new_baseline,
    paper_faster_rcnn,
    paper_faster_rcnn_vgg,
    paper_mask_rcnn,
    torchvision,
    torchvision_v2,
    with_cascade,
)
from groundup.models.rcnn import DetectorOptions
from groundup.models.start import StartOptions, normalisation_of
from groundup.models.weights import IMAGENET_MEAN, IMAGENET_STD
from groundup.recipe import Recipe

TINY_SIZES = DetectorSizes(
    channels=64,
    head_channels=64,
    fc_channels=256,
    box_convs=1,
    mask_convs=2,
    keypoint_convs=4,
    keypoint_channels=64,
    anchor_size=12.0,
    anchors_per_image=64,
    rois_per_image=64,
    proposals_factor=0.15,
)
"""Ours: a detector that two processor cores can train, for photographs of 128 to 320 pixels."""
TINY_SIDE = 160
"""Shorter side of what a tiny recipe sees, in pixels."""
TINY_MAX_SIDE = 256
TINY_BATCH = 4
TINY_LR = 0.02
"""Ours, found on drawn scenes: docs/LOG.md."""

LSJ_STEPS = 184_375
LSJ_DROPS = (163_889, 177_546)
LSJ_BATCH = 64
"""Detectron2's 100 epochs with large-scale jitter. Source: paper.md 3.2."""

PAPER_SCHEDULE = ScheduleOptions(units=2.0)
"""2x: where the paper's tables begin."""
SCALES = PAPER_SCALES
"""Shorter sides of train-time scale augmentation. Source: paper.md 1.5, Detectron's discrete set."""
VGG_SCRATCH_UNITS = 11.0
VGG_TUNED_UNITS = 9.0
"""Lengths of the paper's VGG-16 from scratch and fine-tuned. Source: paper.md 1.6."""


PRECISE_BN_IMAGES = 3_200
"""Source: Detectron2, `TEST.PRECISE_BN.NUM_ITER` 200 of 16 images, on in `scratch_mask_rcnn_..._syncbn`."""


def with_precise_bn(recipe: Recipe) -> Recipe:
    """The recipe with batch norms judged by Detectron2's number of training images."""
    return vary(recipe, {"evaluation.precise_bn": PRECISE_BN_IMAGES})


def paper_recipe(name: str, model: DetectorOptions) -> Recipe:
    """The paper's schedule and optimizer round a detector.

    Source: He et al. (2019), section 3; Detectron, `configs/04_2018_gn_baselines`.
    """
    return Recipe(
        name=name,
        model=model,
        transforms=TransformOptions(short_side=(800,), max_side=1333),
        training=TrainOptions(
            schedule=PAPER_SCHEDULE, optimizer=OptimizerOptions(preset="detectron"), accumulate=1
        ),
        evaluation=EvaluationOptions(paste="integer"),
    )


def mask_rcnn_r50_fpn_gn() -> Recipe:
    """The paper's Mask R-CNN, ResNet-50 FPN with GN."""
    return paper_recipe("mask_rcnn_r50_fpn_gn", paper_mask_rcnn("resnet50", "gn"))


def mask_rcnn_r50_fpn_gn_35k() -> Recipe:
    """The paper's Mask R-CNN on 35k images of COCO, with what won its search for pre-trained weights.

    Lengths count in the units of the whole COCO. Source: He et al. (2019), 5.1: scales 512 to 800, rate 0.04,
    drops to 0.02; pre-training was best at 6x. For 10k, 3.5k and 1k images the paper searched anew and does
    not say what won: the studies figure7_10k, figure8 and figure8_own search.
    """
    return vary(
        mask_rcnn_r50_fpn_gn(),
        {
            "name": "mask_rcnn_r50_fpn_gn_35k",
            "data.fraction": "35k",
            "transforms.short_side": [512, 800],
            "transforms.short_side_choice": "range",
            "training.schedule.units": 6.0,
            "training.schedule.unit_images": UNIT_STEPS * UNIT_BATCH,
            "training.schedule.lr": 0.04,
            "training.schedule.drop_factor": 0.02,
        },
    )


def mask_rcnn_r101_fpn_gn() -> Recipe:
    """The paper's Mask R-CNN, ResNet-101 FPN with GN."""
    return paper_recipe("mask_rcnn_r101_fpn_gn", paper_mask_rcnn("resnet101", "gn"))


def mask_rcnn_x101_fpn_gn() -> Recipe:
    """The paper's Mask R-CNN on ResNeXt-101 32x8d with GN."""
    return paper_recipe("mask_rcnn_x101_fpn_gn", paper_mask_rcnn("resnext101_32x8d", "gn"))


def mask_rcnn_x152_fpn_gn() -> Recipe:
    """The paper's Mask R-CNN on ResNeXt-152 32x8d with GN."""
    return paper_recipe("mask_rcnn_x152_fpn_gn", paper_mask_rcnn("resnext152_32x8d", "gn"))


def mask_rcnn_r50_fpn_syncbn() -> Recipe:
    """The paper's Mask R-CNN, ResNet-50 FPN with SyncBN, judged by precise statistics."""
    return with_precise_bn(paper_recipe("mask_rcnn_r50_fpn_syncbn", paper_mask_rcnn("resnet50", "syncbn")))


def mask_rcnn_r101_fpn_syncbn() -> Recipe:
    """The paper's Mask R-CNN, ResNet-101 FPN with SyncBN."""
    return with_precise_bn(paper_recipe("mask_rcnn_r101_fpn_syncbn", paper_mask_rcnn("resnet101", "syncbn")))


def faster_rcnn_r50_fpn_gn() -> Recipe:
    """Faster R-CNN, ResNet-50 FPN with GN, as the paper's."""
    return paper_recipe("faster_rcnn_r50_fpn_gn", paper_faster_rcnn("resnet50", "gn"))


def faster_rcnn_r101_fpn_gn() -> Recipe:
    """Faster R-CNN, ResNet-101 FPN with GN, as the paper's on Pascal VOC."""
    return paper_recipe("faster_rcnn_r101_fpn_gn", paper_faster_rcnn("resnet101", "gn"))


def faster_rcnn_vgg16() -> Recipe:
    """The paper's VGG-16 without norm and FPN, from scratch for 11x; fine-tuned it has units=9."""
    recipe = paper_recipe("faster_rcnn_vgg16", paper_faster_rcnn_vgg())
    return vary(
        recipe,
        {"transforms.short_side": list(SCALES), "training.schedule.units": VGG_SCRATCH_UNITS},
    )


def mask_rcnn_r18_fpn_gn() -> Recipe:
    """The paper's Mask R-CNN on ResNet-18 with GN."""
    return paper_recipe("mask_rcnn_r18_fpn_gn", paper_mask_rcnn("resnet18", "gn"))


def faster_rcnn_r18_fpn_gn() -> Recipe:
    """Faster R-CNN, ResNet-18 FPN with GN."""
    return paper_recipe("faster_rcnn_r18_fpn_gn", paper_faster_rcnn("resnet18", "gn"))


def faster_rcnn_r34_fpn_gn() -> Recipe:
    """Faster R-CNN, ResNet-34 FPN with GN."""
    return paper_recipe("faster_rcnn_r34_fpn_gn", paper_faster_rcnn("resnet34", "gn"))


def cascade_recipe(name: str, backbone: str) -> Recipe:
    """The paper's enhanced system: scale augmentation, 9x, cascade heads for the last 270k steps.

    `training.schedule.late_units=null` has them on for the whole run, as tensorpack does.

    Source: He et al. (2019), enhanced baselines (paper.md 1.5); the discrete scales are Detectron's.
    """
    recipe = paper_recipe(name, with_cascade(paper_mask_rcnn(backbone, "gn")))
    changes = {
        "transforms.short_side": list(SCALES),
        "transforms.test_short_side": 800,
        "training.schedule.units": 9.0,
        "training.schedule.late_units": 3.0,
    }
    return vary(recipe, changes)


def cascade_mask_rcnn_r50_fpn_gn() -> Recipe:
    """The paper's Cascade Mask R-CNN, ResNet-50 FPN with GN, scale augmentation, 9x."""
    return cascade_recipe("cascade_mask_rcnn_r50_fpn_gn", "resnet50")


def cascade_mask_rcnn_r101_fpn_gn() -> Recipe:
    """The paper's Cascade Mask R-CNN, ResNet-101 FPN with GN, scale augmentation, 9x."""
    return cascade_recipe("cascade_mask_rcnn_r101_fpn_gn", "resnet101")


def cascade_mask_rcnn_x152_fpn_gn() -> Recipe:
    """The paper's Cascade Mask R-CNN, ResNeXt-152 32x8d FPN with GN, scale augmentation, 9x."""
    return cascade_recipe("cascade_mask_rcnn_x152_fpn_gn", "resnext152_32x8d")


def mask_rcnn_r50_fpn_detectron2() -> Recipe:
    """Detectron2's plain Mask R-CNN R50-FPN: frozen BN, fine-tuned from ImageNet weights (torchvision V1)."""
    return Recipe(
        name="mask_rcnn_r50_fpn_detectron2",
        model=detectron2("resnet50", "frozen_bn"),
        start=StartOptions(
            weights="torchvision:ResNet50_Weights.IMAGENET1K_V1",
            frozen_stages=2,
            pixel_mean=IMAGENET_MEAN,
            pixel_std=IMAGENET_STD,
        ),
        transforms=TransformOptions(short_side=SCALES),
        training=TrainOptions(
            schedule=ScheduleOptions(units=1.0, warmup_images=16_000, warmup_start=0.001),
            optimizer=OptimizerOptions(preset="detectron2"),
        ),
        evaluation=EvaluationOptions(paste="aligned"),
    )


def mask_rcnn_r50_fpn_lsj() -> Recipe:
    """Detectron2's Mask R-CNN R50-FPN from scratch with large-scale jitter, 100 epochs."""
    return large_scale_jitter_recipe("mask_rcnn_r50_fpn_lsj", 1)


def mask_rcnn_r50_fpn_lsj_200ep() -> Recipe:
    """The same, 200 epochs."""
    return large_scale_jitter_recipe("mask_rcnn_r50_fpn_lsj_200ep", 2)


def mask_rcnn_r50_fpn_lsj_400ep() -> Recipe:
    """The same, 400 epochs."""
    return large_scale_jitter_recipe("mask_rcnn_r50_fpn_lsj_400ep", 4)


def mask_rcnn_r50_fpn_lsj_copy_paste() -> Recipe:
    """Simple Copy-Paste on top of large-scale jitter, 100 epochs."""
    recipe = large_scale_jitter_recipe("mask_rcnn_r50_fpn_lsj_copy_paste", 1)
    return vary(recipe, {"transforms.copy_paste": plain(CopyPasteOptions())})


def large_scale_jitter_recipe(name: str, times: int) -> Recipe:
    """So many times 100 epochs on squares of 1024 pixels, all phases as much longer.

    Source: Detectron2, `configs/new_baselines/mask_rcnn_R_50_FPN_{100,200,400}ep_LSJ.py`; paper.md 3.2.
    """
    unit = UNIT_STEPS * UNIT_BATCH / LSJ_BATCH
    return Recipe(
        name=name,
        model=detectron2_new_baseline("resnet50", "syncbn"),
        transforms=TransformOptions(large_scale_jitter=LargeScaleJitterOptions(size=1024)),
        training=TrainOptions(
            schedule=ScheduleOptions(
                units=times * LSJ_STEPS / unit,
                drops=tuple(times * (LSJ_STEPS - step) / unit for step in LSJ_DROPS),
                batch_size=LSJ_BATCH,
                lr=0.1,
                warmup_images=500 * LSJ_BATCH,
                warmup_start=0.067,
            ),
            optimizer=OptimizerOptions(preset="detectron2", weight_decay=4e-5),
            precision="fp16",
        ),
        evaluation=EvaluationOptions(paste="aligned"),
    )


def mask_rcnn_r50_fpn_torchvision() -> Recipe:
    """Torchvision's maskrcnn_resnet50_fpn, from scratch with BN in the backbone."""
    return torchvision_recipe("mask_rcnn_r50_fpn_torchvision", torchvision("resnet50", "bn"))


def mask_rcnn_r50_fpn_torchvision_v2() -> Recipe:
    """Torchvision's maskrcnn_resnet50_fpn_v2, with norm in the heads and large-scale jitter."""
    recipe = torchvision_recipe("mask_rcnn_r50_fpn_torchvision_v2", torchvision_v2("resnet50", "syncbn"))
    jitter = LargeScaleJitterOptions(size=1024).model_dump(mode="json")
    return vary(recipe, {"transforms.large_scale_jitter": jitter})


def torchvision_recipe(name: str, model: DetectorOptions) -> Recipe:
    """Torchvision's reference schedule (26 epochs, drops at 16 and 22) round a detector.

    Source: torchvision, references/detection.
    """
    return Recipe(
        name=name,
        model=model,
        transforms=TransformOptions(rounding="down", mask_format="bitmaps"),
        training=TrainOptions(
            schedule=ScheduleOptions(
                units=26 / EPOCHS_PER_UNIT, drops=(10 / EPOCHS_PER_UNIT, 4 / EPOCHS_PER_UNIT)
            ),
            optimizer=OptimizerOptions(preset="torchvision"),
        ),
        evaluation=EvaluationOptions(paste="integer"),
    )


KEYPOINT_SIDES = PAPER_SCALES
"""Training images of keypoint recipes. Source: Detectron, `e2e_keypoint_rcnn_R-50-FPN_1x.yaml`; torchvision,
`KeypointRCNN`."""
KEYPOINT_UNIT = 90_000 * 16
"""Images of the paper's unit, given outright: the set with keypoints has fewer than COCO's 118,287."""
TORCHVISION_LEAST_KEYPOINTS = 10
"""Source: torchvision, references/detection, `min_keypoints_per_image`."""


def keypoint_rcnn_r50_fpn_gn() -> Recipe:
    """The paper's Keypoint R-CNN, ResNet-50 FPN with GN; on another set than COCO set `unit_images=null`."""
    return vary(
        paper_recipe("keypoint_rcnn_r50_fpn_gn", paper_keypoint_rcnn("resnet50", "gn")),
        {
            "transforms.short_side": KEYPOINT_SIDES,
            "training.schedule.unit_images": KEYPOINT_UNIT,
            "data.min_keypoints": 1,
        },
    )


def keypoint_rcnn_r50_fpn_torchvision() -> Recipe:
    """Torchvision's keypointrcnn_resnet50_fpn, from scratch with BN in the backbone: 46 epochs."""
    recipe = torchvision_recipe(
        "keypoint_rcnn_r50_fpn_torchvision", torchvision_keypoint_rcnn("resnet50", "bn")
    )
    # Drops after epochs 36 and 43. Source: torchvision, references/detection/README.md.
    return vary(
        recipe,
        {
            "transforms.short_side": KEYPOINT_SIDES,
            "training.schedule.units": 46 / EPOCHS_PER_UNIT,
            "training.schedule.drops": (10 / EPOCHS_PER_UNIT, 3 / EPOCHS_PER_UNIT),
            "data.min_keypoints": TORCHVISION_LEAST_KEYPOINTS,
        },
    )


def tiny_recipe(name: str, model: DetectorOptions) -> Recipe:
    """A schedule and image size that two processor cores can carry, round a detector."""
    return Recipe(
        name=name,
        model=model,
        transforms=TransformOptions(
            short_side=(TINY_SIDE,),
            max_side=TINY_MAX_SIDE,
            test_short_side=TINY_SIDE,
            test_max_side=TINY_MAX_SIDE,
        ),
        loader=LoaderOptions(num_workers=1),
        training=TrainOptions(
            schedule=ScheduleOptions(batch_size=TINY_BATCH, lr=TINY_LR),
            optimizer=OptimizerOptions(preset="detectron2"),
            upkeep=UpkeepOptions(log_every=40 * TINY_BATCH, checkpoint_seconds=300.0),
        ),
        evaluation=EvaluationOptions(batch_size=8, paste="aligned"),
    )


def tiny_mask_rcnn() -> Recipe:
    """A small Mask R-CNN for two cores: ResNet-10, GN, narrow FPN and heads."""
    return tiny_recipe("tiny_mask_rcnn", paper_mask_rcnn("resnet10t", "gn", sizes=TINY_SIZES))


def tiny_faster_rcnn() -> Recipe:
    """A small Faster R-CNN for two cores: ResNet-10, GN, narrow FPN and head."""
    return tiny_recipe("tiny_faster_rcnn", paper_faster_rcnn("resnet10t", "gn", sizes=TINY_SIZES))


def tiny_faster_rcnn_vgg() -> Recipe:
    """A small Faster R-CNN for two cores: VGG-11 of a quarter of the widths, no norm, no FPN."""
    return tiny_recipe("tiny_faster_rcnn_vgg", paper_faster_rcnn_vgg("vgg11_quarter", sizes=TINY_SIZES))


def tiny_cascade_rcnn() -> Recipe:
    """A small Cascade R-CNN for two cores, on for the whole run: ResNet-10, GN, narrow FPN and heads."""
    model = with_cascade(paper_faster_rcnn("resnet10t", "gn", sizes=TINY_SIZES))
    return tiny_recipe("tiny_cascade_rcnn", model)


def tiny_cascade_mask_rcnn() -> Recipe:
    """`tiny_cascade_rcnn` with a mask head."""
    model = with_cascade(paper_mask_rcnn("resnet10t", "gn", sizes=TINY_SIZES))
    return tiny_recipe("tiny_cascade_mask_rcnn", model)


def tiny_mask_rcnn_lite0() -> Recipe:
    """A small Mask R-CNN for two cores on EfficientNet-Lite0 with BN, which has ImageNet weights."""
    return tiny_recipe("tiny_mask_rcnn_lite0", lite0_detector(paper_mask_rcnn))


def tiny_faster_rcnn_lite0() -> Recipe:
    """A small Faster R-CNN for two cores on EfficientNet-Lite0 with BN, which has ImageNet weights."""
    return tiny_recipe("tiny_faster_rcnn_lite0", lite0_detector(paper_faster_rcnn))


def tiny_keypoint_rcnn() -> Recipe:
    """A small Keypoint R-CNN for two cores: ResNet-10, GN, narrow FPN and heads."""
    return tiny_keypoint_recipe(
        "tiny_keypoint_rcnn", paper_keypoint_rcnn("resnet10t", "gn", sizes=TINY_SIZES)
    )


def tiny_keypoint_rcnn_lite0() -> Recipe:
    """A small Keypoint R-CNN for two cores on EfficientNet-Lite0 with BN, which has ImageNet weights."""
    return tiny_keypoint_recipe("tiny_keypoint_rcnn_lite0", lite0_detector(paper_keypoint_rcnn))


def tiny_keypoint_recipe(name: str, model: DetectorOptions) -> Recipe:
    """A tiny recipe of images with keypoints; few of them lie in the RoIs of two small images."""
    return vary(tiny_recipe(name, model), {"data.min_keypoints": 1, "model.keypoint_head.min_visible": 0})


def lite0_detector(build: Callable[..., DetectorOptions]) -> DetectorOptions:
    """A tiny detector with BN, as the weights have it, in the backbone, and GN in neck and heads."""
    model = build("tf_efficientnet_lite0", "gn", sizes=TINY_SIZES)
    return vary(model, {"backbone.norm": "bn", "backbone.init": "msra"})


AnyRecipe = Recipe | ClassifierRecipe
"""Of a detector or of a classifier."""

RECIPES: dict[str, Callable[[], AnyRecipe]] = {
    build.__name__: build
    for build in (
        mask_rcnn_r50_fpn_gn,
        mask_rcnn_r50_fpn_gn_35k,
        mask_rcnn_r101_fpn_gn,
        mask_rcnn_x101_fpn_gn,
        mask_rcnn_x152_fpn_gn,
        mask_rcnn_r50_fpn_syncbn,
        mask_rcnn_r101_fpn_syncbn,
        mask_rcnn_r18_fpn_gn,
        faster_rcnn_r50_fpn_gn,
        faster_rcnn_r101_fpn_gn,
        faster_rcnn_vgg16,
        faster_rcnn_r34_fpn_gn,
        faster_rcnn_r18_fpn_gn,
        cascade_mask_rcnn_r50_fpn_gn,
        cascade_mask_rcnn_r101_fpn_gn,
        cascade_mask_rcnn_x152_fpn_gn,
        mask_rcnn_r50_fpn_detectron2,
        mask_rcnn_r50_fpn_lsj,
        mask_rcnn_r50_fpn_lsj_200ep,
        mask_rcnn_r50_fpn_lsj_400ep,
        mask_rcnn_r50_fpn_lsj_copy_paste,
        mask_rcnn_r50_fpn_torchvision,
        mask_rcnn_r50_fpn_torchvision_v2,
        keypoint_rcnn_r50_fpn_gn,
        keypoint_rcnn_r50_fpn_torchvision,
        tiny_mask_rcnn,
        tiny_faster_rcnn,
        tiny_faster_rcnn_vgg,
        tiny_cascade_rcnn,
        tiny_cascade_mask_rcnn,
        tiny_mask_rcnn_lite0,
        tiny_faster_rcnn_lite0,
        tiny_keypoint_rcnn,
        tiny_keypoint_rcnn_lite0,
        *CLASSIFIER_RECIPES,
    )
}


def spelled_out(assignment: str) -> list[str]:
    """`start=scratch` and `start=WEIGHTS` as the assignments they stand for; others as they are.

    The constants that pixels are normalised with follow the weights where they are known.

    Raises:
        DataError: weights that cannot be read.
    """
    key, _, value = assignment.partition("=")
    if key != "start":
        return [assignment]
    if value in {"scratch", "null", ""}:
        changes: dict[str, object] = plain(StartOptions())
    else:
        constants = normalisation_of(value)
        changes = {"weights": value}
        if constants is not None:
            changes |= {"pixel_mean": list(constants[0]), "pixel_std": list(constants[1])}
    return [f"start.{name}={json.dumps(change)}" for name, change in changes.items()]


def kind_of(values: Mapping[str, Any]) -> type[Recipe] | type[ClassifierRecipe]:
    """Which recipe the nested dictionaries describe: a classifier's says so in `task`."""
    return ClassifierRecipe if values.get("task") == TASK else Recipe


def resolve_recipe(recipe: str, given: Sequence[str]) -> AnyRecipe:
    """The recipe of that name or YAML file, with the given `key=value` assignments applied.

    A YAML file may name a recipe to begin with (`recipe: NAME`); its other keys replace parts of it. In a
    file too, `start: WEIGHTS` is short for what `start=WEIGHTS` means.

    Raises:
        UsageError: no such recipe or file, or an option that cannot be.
    """
    assignments = [one for assignment in given for one in spelled_out(assignment)]
    if recipe in RECIPES:
        return override(RECIPES[recipe](), assignments)
    path = Path(recipe)
    if path.suffix not in {".yaml", ".yml", ".json"}:
        raise UsageError(
            f"no recipe '{recipe}'{did_you_mean(recipe, list(RECIPES))} "
            "(`groundup recipes` lists them; a recipe of your own is a .yaml file)"
        )
    values = read_yaml(path)
    short_start = values.pop("start") if isinstance(values.get("start"), str) else None
    if short_start is not None and not any(one.startswith("start=") for one in given):
        assignments = [*spelled_out(f"start={short_start}"), *assignments]
    base = values.pop("recipe", None)
    if base is None:
        return override(read_tree(kind_of(values), values), assignments)
    if str(base) not in RECIPES:
        raise UsageError(f"{path}: recipe: no recipe '{base}'{did_you_mean(str(base), list(RECIPES))}")
    whole = RECIPES[str(base)]()
    return override(vary(whole, dict(replaced(plain(whole), values))), assignments)


def replaced(
    whole: Mapping[str, Any], part: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """The dotted paths at which the part replaces the whole; sections of both, leaf by leaf."""
    for name, value in part.items():
        if isinstance(value, Mapping) and isinstance(whole.get(name), Mapping):
            yield from replaced(whole[name], value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
