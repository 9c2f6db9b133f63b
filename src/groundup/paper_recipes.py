"""The paper's systems: Mask, Faster, Cascade and Keypoint R-CNN with GN or SyncBN, and VGG-16 without a norm.

They differ between their arms in `start` alone; a fine-tuned arm of `mask_rcnn_r50_fpn_gn` is the same recipe
with `start=WEIGHTS`.
"""

from groundup.config import vary
from groundup.data.transforms import PAPER_SCALES, TransformOptions
from groundup.engine.evaluate import EvaluationOptions
from groundup.engine.optimizer import OptimizerOptions
from groundup.engine.schedule import UNIT_BATCH, UNIT_STEPS, ScheduleOptions
from groundup.engine.training import TrainOptions
from groundup.models.keypoint_presets import paper_keypoint_rcnn
from groundup.models.presets import paper_faster_rcnn, paper_faster_rcnn_vgg, paper_mask_rcnn, with_cascade
from groundup.models.rcnn import DetectorOptions
from groundup.recipe import Recipe

PAPER_SCHEDULE = ScheduleOptions(units=2.0)
"""2x: where the paper's tables begin."""
VGG_SCRATCH_UNITS = 11.0
VGG_TUNED_UNITS = 9.0
"""Lengths of the paper's VGG-16 from scratch and fine-tuned. Source: paper.md 1.6."""
PRECISE_BN_IMAGES = 3_200
"""Source: Detectron2, `TEST.PRECISE_BN.NUM_ITER` 200 of 16 images, on in `scratch_mask_rcnn_..._syncbn`."""
KEYPOINT_UNIT = 90_000 * 16
"""Images of the paper's unit, given outright: the set with keypoints has fewer than COCO's 118,287."""


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
        {"transforms.short_side": list(PAPER_SCALES), "training.schedule.units": VGG_SCRATCH_UNITS},
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
        "transforms.short_side": list(PAPER_SCALES),
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


def keypoint_rcnn_r50_fpn_gn() -> Recipe:
    """The paper's Keypoint R-CNN, ResNet-50 FPN with GN; on another set than COCO set `unit_images=null`."""
    return vary(
        paper_recipe("keypoint_rcnn_r50_fpn_gn", paper_keypoint_rcnn("resnet50", "gn")),
        {
            "transforms.short_side": PAPER_SCALES,
            "training.schedule.unit_images": KEYPOINT_UNIT,
            "data.min_keypoints": 1,
        },
    )


PAPER_RECIPES = (
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
    keypoint_rcnn_r50_fpn_gn,
)
