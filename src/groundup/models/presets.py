"""Published detectors as trees of options; every detail in which they differ is a field. Source: paper.md 4.

Not carried over from Detectron: its "+1" pixels, negatives sampled with replacement, and the stride on the
first 1x1 convolution of a bottleneck (its GN models have it on the 3x3, as ours).
"""

from typing import Literal

from pydantic import Field

from groundup.config import Options
from groundup.models.backbone import BackboneOptions
from groundup.models.box_head import BoxHeadOptions
from groundup.models.cascade import CascadeOptions
from groundup.models.fpn import FPNOptions
from groundup.models.mask_head import MaskHeadOptions
from groundup.models.norm import NormKind
from groundup.models.rcnn import DetectorOptions
from groundup.models.rois import PoolOptions, RoIOptions
from groundup.models.rpn import RPNOptions

NUM_LEVELS = 5
"""P2 to P6."""
BOX_RESOLUTION = 7
MASK_RESOLUTION = 14
"""RoIAlign's cells in every published system."""
EMPTY_SIDE = 1e-3
"""Pixels; a proposal with a shorter side is empty. Source: torchvision, `RegionProposalNetwork.min_size`."""
EMPTY_DETECTION_SIDE = 1e-2
"""The same of a detection. Source: torchvision, `RoIHeads.postprocess_detections`."""


class DetectorSizes(Options):
    """Widths and counts of a detector; as published unless reduced for small images and small machines."""

    channels: int = Field(256, ge=1)
    """Width of the pyramid."""
    head_channels: int = Field(256, ge=1)
    """Width of the convolutions of the box and mask heads."""
    fc_channels: int = Field(1024, ge=1)
    """Width of the box head's fully connected layers."""
    box_convs: int = Field(4, ge=0)
    """Convolutions of a 4conv1fc box head; plain heads have none."""
    mask_convs: int = Field(4, ge=0)
    """Convolutions of the mask head."""
    keypoint_convs: int = Field(8, ge=0)
    """Convolutions of the keypoint head."""
    keypoint_channels: int = Field(512, ge=1)
    """Their width."""
    anchor_size: float = Field(32.0, gt=0)
    """Side in pixels of the anchors of the finest level; it doubles from level to level."""
    anchors_per_image: int = Field(256, ge=1)
    """Anchors an image in the RPN's losses."""
    rois_per_image: int = Field(512, ge=1)
    """RoIs an image in the box head's losses."""
    proposals_factor: float = Field(1.0, gt=0)
    """By how much the published numbers of boxes before and after the RPN's NMS are multiplied."""
    max_detections: int = Field(100, ge=1)
    """Detections an image."""

    def anchor_sizes(self) -> tuple[tuple[float, ...], ...]:
        """One size a level."""
        return tuple((self.anchor_size * 2**level,) for level in range(NUM_LEVELS))

    def proposals(self, published: int) -> int:
        """The published number of boxes, reduced; at least one."""
        return max(1, round(published * self.proposals_factor))


PUBLISHED = DetectorSizes()
TINY = DetectorSizes(
    channels=64,
    head_channels=64,
    fc_channels=256,
    box_convs=1,
    mask_convs=2,
    keypoint_convs=2,
    keypoint_channels=64,
    anchor_size=8.0,
    anchors_per_image=64,
    rois_per_image=64,
    proposals_factor=0.1,
)
"""Ours: for images of about 128 pixels on two cores."""
VGG = DetectorSizes(fc_channels=4096)
"""Source: paper.md 1.6: two fully connected layers of 4096."""


def paper_mask_rcnn(
    backbone: str = "resnet50",
    norm: NormKind = "gn",
    *,
    has_masks: bool = True,
    sizes: DetectorSizes = PUBLISHED,
) -> DetectorOptions:
    """The paper's system: Detectron's Mask R-CNN with GN (or SyncBN) and a 4conv1fc box head.

    Source: paper.md 1.1, 1.2 and 4, column D1.
    """
    return DetectorOptions(
        backbone=BackboneOptions(name=backbone, norm=norm, init="xavier"),
        fpn=FPNOptions(channels=sizes.channels, norm=norm),
        rpn=detectron_rpn(sizes, sizes.anchor_sizes(), pre_nms=(2000, 1000), scope="group"),
        rois=RoIOptions(rois_per_image=sizes.rois_per_image),
        box_head=BoxHeadOptions(
            pool=PoolOptions(resolution=BOX_RESOLUTION),
            num_convs=sizes.box_convs,
            conv_channels=sizes.head_channels,
            norm=norm,
            num_fcs=1,
            fc_channels=sizes.fc_channels,
            smooth_l1_beta=1.0,
            max_detections=sizes.max_detections,
        ),
        mask_head=MaskHeadOptions(
            pool=PoolOptions(resolution=MASK_RESOLUTION),
            num_convs=sizes.mask_convs,
            channels=sizes.head_channels,
            norm=norm,
            target="binary",
        )
        if has_masks
        else None,
        init="detectron",
    )


def detectron_rpn(
    sizes: DetectorSizes,
    anchor_sizes: tuple[tuple[float, ...], ...],
    *,
    pre_nms: tuple[int, int],
    scope: Literal["group", "image"],
) -> RPNOptions:
    """Detectron's first stage.

    Args:
        sizes: of the detector.
        anchor_sizes: of each map, finest first.
        pre_nms: proposals of a map that are compared, in training and in test, at the published size.
        scope: of what the proposals that are left are counted.

    Source: paper.md 4, column D1.
    """
    train, test = pre_nms
    return RPNOptions(
        anchor_sizes=anchor_sizes,
        anchor_rounding=True,
        anchor_straddling=False,
        anchors_per_image=sizes.anchors_per_image,
        loss_divisor="fixed",
        smooth_l1_beta=1 / 9,
        pre_nms_train=sizes.proposals(train),
        pre_nms_test=sizes.proposals(test),
        post_nms_train=sizes.proposals(2000),
        post_nms_test=sizes.proposals(1000),
        post_nms_scope=scope,
        sigmoid_before_nms=True,
        min_box_size=EMPTY_SIDE,
    )


def paper_faster_rcnn(
    backbone: str = "resnet50", norm: NormKind = "gn", *, sizes: DetectorSizes = PUBLISHED
) -> DetectorOptions:
    """`paper_mask_rcnn` without its mask branch."""
    return paper_mask_rcnn(backbone, norm, has_masks=False, sizes=sizes)


def paper_faster_rcnn_vgg(backbone: str = "vgg16", *, sizes: DetectorSizes = VGG) -> DetectorOptions:
    """The paper's VGG-16 system: no norm, no FPN, everything on the map at stride 16, no dropout.

    Counts of proposals are of systems without an FPN: of each image, not of each level.

    Source: paper.md 1.2, 1.4 and 1.6; Detectron, `modeling/VGG16.py`, for its head; its
    `e2e_faster_rcnn_R-50-C4` configuration and defaults for anchors and proposals on one map.
    """
    return DetectorOptions(
        backbone=BackboneOptions(name=backbone, norm="none", init="msra"),
        fpn=None,
        single_stride=16,
        rpn=detectron_rpn(
            sizes,
            (tuple(size for level in sizes.anchor_sizes() for size in level),),
            pre_nms=(12_000, 6000),
            scope="image",
        ),
        rois=RoIOptions(rois_per_image=sizes.rois_per_image),
        box_head=BoxHeadOptions(
            pool=PoolOptions(resolution=BOX_RESOLUTION),
            num_convs=0,
            norm="none",
            num_fcs=2,
            fc_channels=sizes.fc_channels,
            smooth_l1_beta=1.0,
            max_detections=sizes.max_detections,
        ),
        mask_head=None,
        init="detectron_msra",
    )


def with_cascade(model: DetectorOptions) -> DetectorOptions:
    """The detector as a three-stage Cascade R-CNN with one box for all classes.

    Source: Cascade R-CNN (Cai and Vasconcelos, 2018), section 4; paper.md 4, last paragraphs.
    """
    return model.model_copy(
        update={
            "box_head": model.box_head.model_copy(update={"class_agnostic": True}),
            "cascade": CascadeOptions(),
        }
    )


def detectron2(
    backbone: str = "resnet50",
    norm: NormKind = "frozen_bn",
    *,
    has_masks: bool = True,
    sizes: DetectorSizes = PUBLISHED,
) -> DetectorOptions:
    """Detectron2's Mask R-CNN R50-FPN: plain 2fc box head, L1 losses, aligned and adaptive RoIAlign.

    Args:
        backbone: timm's name.
        norm: of the backbone; the neck and the heads have none.
        has_masks: whether there is a mask branch.
        sizes: widths and counts.

    Source: paper.md 4, column D2.
    """
    pool = PoolOptions(
        resolution=BOX_RESOLUTION, sampling_ratio=0, aligned=True, level_eps=1e-8, level_eps_in_log=True
    )
    return DetectorOptions(
        backbone=BackboneOptions(name=backbone, norm=norm, init="msra"),
        fpn=FPNOptions(channels=sizes.channels, norm="none"),
        rpn=RPNOptions(
            anchor_sizes=sizes.anchor_sizes(),
            anchor_rounding=False,
            anchors_per_image=sizes.anchors_per_image,
            loss_divisor="fixed",
            smooth_l1_beta=0.0,
            pre_nms_train=sizes.proposals(2000),
            pre_nms_test=sizes.proposals(1000),
            post_nms_train=sizes.proposals(1000),
            post_nms_test=sizes.proposals(1000),
            sigmoid_before_nms=False,
            min_box_size=EMPTY_SIDE,
        ),
        rois=RoIOptions(rois_per_image=sizes.rois_per_image),
        box_head=BoxHeadOptions(
            pool=pool,
            num_convs=0,
            norm="none",
            num_fcs=2,
            fc_channels=sizes.fc_channels,
            smooth_l1_beta=0.0,
            max_detections=sizes.max_detections,
        ),
        mask_head=MaskHeadOptions(
            pool=pool.model_copy(update={"resolution": MASK_RESOLUTION}),
            num_convs=sizes.mask_convs,
            channels=sizes.head_channels,
            norm="none",
            target="binary",
            target_aligned=True,
        )
        if has_masks
        else None,
        init="detectron2",
    )


def detectron2_new_baseline(
    backbone: str = "resnet50", norm: NormKind = "syncbn", *, sizes: DetectorSizes = PUBLISHED
) -> DetectorOptions:
    """Detectron2's Mask R-CNN of 2021: norm everywhere, two RPN convolutions, 4conv1fc box head.

    Its heads have a SyncBN that counts RoIs (`NaiveSyncBN` with `stats_mode="N"`), as ours always does.

    Args:
        backbone: timm's name.
        norm: of backbone, neck and heads.
        sizes: widths and counts.

    Source: Detectron2, `configs/new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py`; paper.md 3.2.
    """
    plain = detectron2(backbone, norm, sizes=sizes)
    box_head = {
        "num_convs": sizes.box_convs,
        "conv_channels": sizes.head_channels,
        "norm": norm,
        "num_fcs": 1,
    }
    return plain.model_copy(
        update={
            "fpn": plain.fpn and plain.fpn.model_copy(update={"norm": norm}),
            "rpn": plain.rpn.model_copy(update={"conv_depth": 2}),
            "box_head": plain.box_head.model_copy(update=box_head),
            "mask_head": plain.mask_head and plain.mask_head.model_copy(update={"norm": norm}),
        }
    )


def torchvision(
    backbone: str = "resnet50",
    norm: NormKind = "bn",
    *,
    has_masks: bool = True,
    sizes: DetectorSizes = PUBLISHED,
) -> DetectorOptions:
    """Torchvision's `maskrcnn_resnet50_fpn`: plain 2fc box head, no norm outside the backbone.

    torchvision divides losses by its whole batch; its reference recipe has 2 images a device, as
    `loss_images` says.

    Args:
        backbone: timm's name.
        norm: of the backbone; torchvision's own default without weights is bn.
        has_masks: whether there is a mask branch.
        sizes: widths and counts.

    Source: paper.md 4, column TV; torchvision 0.29.
    """
    pool = PoolOptions(resolution=BOX_RESOLUTION, level_eps=1e-6, level_eps_in_log=False)
    return DetectorOptions(
        backbone=BackboneOptions(name=backbone, norm=norm, init="msra"),
        fpn=FPNOptions(channels=sizes.channels, norm="none"),
        rpn=RPNOptions(
            anchor_sizes=sizes.anchor_sizes(),
            anchor_rounding=True,
            anchor_stride="image_over_map",
            anchors_per_image=sizes.anchors_per_image,
            loss_divisor="sampled",
            smooth_l1_beta=1 / 9,
            pre_nms_train=sizes.proposals(2000),
            pre_nms_test=sizes.proposals(1000),
            post_nms_train=sizes.proposals(2000),
            post_nms_test=sizes.proposals(1000),
            min_box_size=EMPTY_SIDE,
        ),
        rois=RoIOptions(rois_per_image=sizes.rois_per_image),
        box_head=BoxHeadOptions(
            pool=pool,
            num_convs=0,
            norm="none",
            num_fcs=2,
            fc_channels=sizes.fc_channels,
            smooth_l1_beta=1 / 9,
            max_detections=sizes.max_detections,
            min_box_size=EMPTY_DETECTION_SIDE,
        ),
        mask_head=MaskHeadOptions(
            pool=pool.model_copy(update={"resolution": MASK_RESOLUTION}),
            num_convs=sizes.mask_convs,
            channels=sizes.head_channels,
            norm="none",
            target="share",
            target_aligned=False,
        )
        if has_masks
        else None,
        init="torchvision",
    )


def torchvision_v2(
    backbone: str = "resnet50",
    norm: NormKind = "bn",
    *,
    has_masks: bool = True,
    sizes: DetectorSizes = PUBLISHED,
) -> DetectorOptions:
    """Torchvision's `maskrcnn_resnet50_fpn_v2`: two RPN convolutions, 4conv1fc box head, norm everywhere.

    Source: torchvision 0.29; the recipe of its pull request 5773.
    """
    plain = torchvision(backbone, norm, has_masks=has_masks, sizes=sizes)
    box_head = {
        "num_convs": sizes.box_convs,
        "conv_channels": sizes.head_channels,
        "norm": norm,
        "num_fcs": 1,
    }
    return plain.model_copy(
        update={
            "fpn": plain.fpn and plain.fpn.model_copy(update={"norm": norm}),
            "rpn": plain.rpn.model_copy(update={"conv_depth": 2}),
            "box_head": plain.box_head.model_copy(update=box_head),
            "mask_head": plain.mask_head and plain.mask_head.model_copy(update={"norm": norm}),
        }
    )
