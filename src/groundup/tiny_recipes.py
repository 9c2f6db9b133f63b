"""Detectors that two processor cores can train."""

from collections.abc import Callable

from groundup.config import vary
from groundup.data.loader import LoaderOptions
from groundup.data.transforms import TransformOptions
from groundup.engine.evaluate import EvaluationOptions
from groundup.engine.optimizer import OptimizerOptions
from groundup.engine.schedule import ScheduleOptions
from groundup.engine.training import TrainOptions, UpkeepOptions
from groundup.models.keypoint_presets import paper_keypoint_rcnn
from groundup.models.presets import (
    DetectorSizes,
    paper_faster_rcnn,
    paper_faster_rcnn_vgg,
    paper_mask_rcnn,
    with_cascade,
)
from groundup.models.rcnn import DetectorOptions
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
VGG_CLIP = 2.0
"""Most that the gradient's norm may be. Ours; from random numbers it is 1 to 3 anyway: docs/LOG.md."""


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
    """A small Faster R-CNN for two cores: VGG-11 of a quarter of the widths, no norm, no FPN.

    Its gradient is clipped: without norms it grows with the features, and those of a pre-trained network may
    be 16 times as large as random ones.
    """
    recipe = tiny_recipe("tiny_faster_rcnn_vgg", paper_faster_rcnn_vgg("vgg11_quarter", sizes=TINY_SIZES))
    return vary(recipe, {"training.optimizer.clip": "norm", "training.optimizer.clip_at": VGG_CLIP})


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


TINY_RECIPES = (
    tiny_mask_rcnn,
    tiny_faster_rcnn,
    tiny_faster_rcnn_vgg,
    tiny_cascade_rcnn,
    tiny_cascade_mask_rcnn,
    tiny_mask_rcnn_lite0,
    tiny_faster_rcnn_lite0,
    tiny_keypoint_rcnn,
    tiny_keypoint_rcnn_lite0,
)
