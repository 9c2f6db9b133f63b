"""Detectron2's and torchvision's own systems, to compare with and to open their checkpoints."""

from groundup.config import plain, vary
from groundup.data.copy_paste import CopyPasteOptions
from groundup.data.transforms import PAPER_SCALES, LargeScaleJitterOptions, TransformOptions
from groundup.engine.evaluate import EvaluationOptions
from groundup.engine.optimizer import OptimizerOptions
from groundup.engine.schedule import EPOCHS_PER_UNIT, UNIT_BATCH, UNIT_STEPS, ScheduleOptions
from groundup.engine.training import TrainOptions
from groundup.models.keypoint_presets import torchvision_keypoint_rcnn
from groundup.models.presets import detectron2, detectron2_new_baseline, torchvision, torchvision_v2
from groundup.models.rcnn import DetectorOptions
from groundup.models.start import StartOptions
from groundup.models.weights import IMAGENET_MEAN, IMAGENET_STD
from groundup.recipe import Recipe

LSJ_STEPS = 184_375
LSJ_DROPS = (163_889, 177_546)
LSJ_BATCH = 64
"""Detectron2's 100 epochs with large-scale jitter. Source: paper.md 3.2."""
TORCHVISION_LEAST_KEYPOINTS = 10
"""Source: torchvision, references/detection, `min_keypoints_per_image`."""


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
        transforms=TransformOptions(short_side=PAPER_SCALES),
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


def keypoint_rcnn_r50_fpn_torchvision() -> Recipe:
    """Torchvision's keypointrcnn_resnet50_fpn, from scratch with BN in the backbone: 46 epochs."""
    recipe = torchvision_recipe(
        "keypoint_rcnn_r50_fpn_torchvision", torchvision_keypoint_rcnn("resnet50", "bn")
    )
    # Drops after epochs 36 and 43. Source: torchvision, references/detection/README.md.
    return vary(
        recipe,
        {
            "transforms.short_side": PAPER_SCALES,
            "training.schedule.units": 46 / EPOCHS_PER_UNIT,
            "training.schedule.drops": (10 / EPOCHS_PER_UNIT, 3 / EPOCHS_PER_UNIT),
            "data.min_keypoints": TORCHVISION_LEAST_KEYPOINTS,
        },
    )


PEER_RECIPES = (
    mask_rcnn_r50_fpn_detectron2,
    mask_rcnn_r50_fpn_lsj,
    mask_rcnn_r50_fpn_lsj_200ep,
    mask_rcnn_r50_fpn_lsj_400ep,
    mask_rcnn_r50_fpn_lsj_copy_paste,
    mask_rcnn_r50_fpn_torchvision,
    mask_rcnn_r50_fpn_torchvision_v2,
    keypoint_rcnn_r50_fpn_torchvision,
)
