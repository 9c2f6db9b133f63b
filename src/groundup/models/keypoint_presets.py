"""Published keypoint detectors: how they differ from the same system's other ones.

Source: paper.md 1.6 and 4.
"""

from groundup.models import presets
from groundup.models.keypoint_head import KeypointHeadOptions
from groundup.models.norm import NormKind
from groundup.models.presets import MASK_RESOLUTION, PUBLISHED, DetectorSizes
from groundup.models.rcnn import DetectorOptions

KEYPOINT_RESOLUTION = MASK_RESOLUTION
"""RoIAlign's cells, as of masks in every published system."""
DETECTRON_MIN_VISIBLE = 20
"""Source: Detectron, `KRCNN.MIN_KEYPOINT_COUNT_FOR_VALID_MINIBATCH`."""
DETECTRON2_BETA = 0.5
"""Smooth L1 of the box head: plain L1 lowers keypoint AP. Source: Detectron2,
`configs/COCO-Keypoints/Base-Keypoint-RCNN-FPN.yaml`."""
DETECTRON2_PROPOSALS = 1500
"""In training: 1,000 lower box AP. Source: as above."""


def paper_keypoint_rcnn(
    backbone: str = "resnet50", norm: NormKind = "gn", *, sizes: DetectorSizes = PUBLISHED
) -> DetectorOptions:
    """The paper's system with Detectron's keypoint branch, which has no norm, in place of the mask branch.

    Source: paper.md 1.1 and 1.6; Detectron, `configs/12_2017_baselines/e2e_keypoint_rcnn_R-50-FPN_1x.yaml`.
    """
    plain = presets.paper_faster_rcnn(backbone, norm, sizes=sizes)
    head = keypoint_head(plain, sizes).model_copy(update={"min_visible": DETECTRON_MIN_VISIBLE})
    return with_keypoints(plain, head)


def detectron2_keypoint_rcnn(
    backbone: str = "resnet50", norm: NormKind = "frozen_bn", *, sizes: DetectorSizes = PUBLISHED
) -> DetectorOptions:
    """Detectron2's Keypoint R-CNN: smooth L1 and more proposals where its Mask R-CNN has L1 and 1,000.

    Source: Detectron2, `configs/COCO-Keypoints/Base-Keypoint-RCNN-FPN.yaml`.
    """
    plain = presets.detectron2(backbone, norm, has_masks=False, sizes=sizes)
    model = with_keypoints(plain, keypoint_head(plain, sizes))
    proposals = {"post_nms_train": sizes.proposals(DETECTRON2_PROPOSALS)}
    return model.model_copy(
        update={
            "rpn": model.rpn.model_copy(update=proposals),
            "box_head": model.box_head.model_copy(update={"smooth_l1_beta": DETECTRON2_BETA}),
        }
    )


def torchvision_keypoint_rcnn(
    backbone: str = "resnet50", norm: NormKind = "bn", *, sizes: DetectorSizes = PUBLISHED
) -> DetectorOptions:
    """Torchvision's `keypointrcnn_resnet50_fpn`: its Faster R-CNN and the same branch as Detectron's.

    Source: torchvision 0.29, `models/detection/keypoint_rcnn.py`.
    """
    plain = presets.torchvision(backbone, norm, has_masks=False, sizes=sizes)
    return with_keypoints(plain, keypoint_head(plain, sizes))


def keypoint_head(plain: DetectorOptions, sizes: DetectorSizes) -> KeypointHeadOptions:
    """The branch all systems share, pooled as the system pools."""
    return KeypointHeadOptions(
        pool=plain.box_head.pool.model_copy(update={"resolution": KEYPOINT_RESOLUTION}),
        num_convs=sizes.keypoint_convs,
        channels=sizes.keypoint_channels,
    )


def with_keypoints(plain: DetectorOptions, head: KeypointHeadOptions) -> DetectorOptions:
    """The detector with a keypoint branch."""
    return plain.model_copy(update={"keypoint_head": head})
