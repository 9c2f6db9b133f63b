"""Faster, Mask, Keypoint and Cascade R-CNN: photographs in, losses or detections out.

Legend:
    B  images     H, W  size of the padded batch     D  channels of the pyramid
    M  boxes of a batch     S  side of a mask's grid     K  chosen boxes     P  keypoints an instance
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from pydantic import Field, model_validator
from torch import Tensor, nn

from groundup.config import Options
from groundup.models.backbone import STRIDES, BackboneOptions, build_backbone
from groundup.models.box_head import BoxHead, BoxHeadOptions, FoundBoxes
from groundup.models.cascade import Cascade, CascadeOptions
from groundup.models.fpn import FPN, LAST_STRIDE_FACTOR, FPNOptions
from groundup.models.initialisation import InitKind
from groundup.models.keypoint_head import KeypointHead, KeypointHeadOptions
from groundup.models.mask_head import MaskHead, MaskHeadOptions
from groundup.models.proposals import SlotKind
from groundup.models.rois import RoIOptions, sample_rois
from groundup.models.rpn import RPN, RPNOptions, on_one_map
from groundup.ops.boxes import scale_boxes
from groundup.ops.keypoints import decode_heatmaps, scale_keypoints
from groundup.ops.pooling import RoIMaps, build_roi_maps
from groundup.structures import Batch, Detections, Shapes

MAX_PIXEL = 255
"""Largest value of an 8-bit pixel."""


class DetectorOptions(Options):
    """The whole detector. `models.presets` holds the published systems."""

    backbone: BackboneOptions = BackboneOptions()
    """Where features come from."""
    fpn: FPNOptions | None = FPNOptions()
    """The neck; null puts the RPN, with the anchors of all levels, and the heads on one map of the
    backbone."""
    single_stride: Literal[8, 16, 32] = 16
    """Stride of that one map: 16 is conv5_3 of a VGG and C4 of a ResNet. Without effect where there is an
    FPN."""
    rpn: RPNOptions = RPNOptions()
    """The first stage."""
    rois: RoIOptions = RoIOptions()
    """What the second stage learns from."""
    box_head: BoxHeadOptions = BoxHeadOptions()
    """Its classifier and regressor."""
    mask_head: MaskHeadOptions | None = MaskHeadOptions()
    """Its mask branch; null makes a Faster R-CNN."""
    keypoint_head: KeypointHeadOptions | None = None
    """Its keypoint branch; null finds no keypoints."""
    cascade: CascadeOptions | None = None
    """Box heads after the first, which make a Cascade R-CNN; null: none. `training.schedule.late_units` says
    from when on they take part."""
    init: InitKind = "detectron"
    """Whose first weights the neck, the RPN and the heads begin with; see `groundup config --init`."""
    loss_images: int = Field(2, ge=1)
    """Consecutive images whose losses are divided by one count, as on one device of the paper (2 images);
    the batch's loss is the mean over such groups, so it does not depend on how devices share the batch."""
    roi_slots: SlotKind = "real"
    """Whether heads see real RoIs only or all slots; see `models.proposals.SlotKind`. Equal losses."""

    @model_validator(mode="after")
    def _check(self) -> "DetectorOptions":
        heads = (self.box_head, self.mask_head, self.keypoint_head)
        norms = {head.norm for head in heads if head is not None}
        if self.roi_slots == "fixed" and norms & {"bn", "syncbn"}:
            raise ValueError(
                "roi_slots=fixed lets empty slots into the batch statistics of the heads' norm "
                f"({', '.join(sorted(norms))}): write roi_slots=real or another norm"
            )
        if self.cascade is not None and not self.box_head.class_agnostic:
            raise ValueError(
                "model.cascade moves one box an RoI from stage to stage, but model.box_head.class_agnostic "
                "is false: set it true, or model.cascade=null"
            )
        return self


class RCNN(nn.Module):
    """Two-stage detector on a feature pyramid, or on a single map.

    Source: Faster R-CNN (Ren et al., 2015), FPN (Lin et al., 2017), Mask R-CNN (He et al., 2017), Cascade
    R-CNN (Cai and Vasconcelos, 2018).
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        options: DetectorOptions,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        num_keypoints: int = 0,
    ) -> None:
        """Begin with random weights.

        Args:
            options: of every part.
            num_classes: foreground classes.
            pixel_mean: of R, G, B in units of 0 to 1; belongs to the start's weights.
            pixel_std: as above.
            num_keypoints: an instance, for a keypoint head.

        Raises:
            DataError: a keypoint head without keypoints.
        """
        super().__init__()
        self.options = options
        self.num_classes = num_classes
        init = options.init
        if options.fpn is None:
            self.backbone = build_backbone(options.backbone, (options.single_stride,))
            self.fpn, channels = None, self.backbone.channels[-1]
            self.rpn = RPN(on_one_map(options.rpn), channels, self.backbone.strides, init)
        else:
            self.backbone = build_backbone(options.backbone)
            self.fpn, channels = FPN(options.fpn, self.backbone.channels, init), options.fpn.channels
            strides = (*STRIDES, STRIDES[-1] * LAST_STRIDE_FACTOR)
            self.rpn = RPN(options.rpn, channels, strides, init)
        self.rpn.keeps_anchors = options.roi_slots == "real"
        self.box_head = BoxHead(options.box_head, channels, num_classes, init)
        self.mask_head = (
            MaskHead(options.mask_head, channels, num_classes, init) if options.mask_head else None
        )
        self.keypoint_head = (
            KeypointHead(options.keypoint_head, channels, num_keypoints, init)
            if options.keypoint_head
            else None
        )
        # Drawn last, so that all else begins as in the plain detector.
        self.cascade = (
            Cascade(options.cascade, options.box_head, channels, num_classes, init)
            if options.cascade
            else None
        )
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(1, 3, 1, 1), persistent=False)

    def losses(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Losses to be summed: of the RPN, the box head and, where there are such, mask and keypoint head.

        Raises:
            DataError: there is a mask head and the batch has no masks, or a keypoint head and no keypoints.
        """
        group_size = self.options.loss_images
        pyramid = self.pyramid(batch)
        found = self.rpn(pyramid, (batch.images.shape[2], batch.images.shape[3]))
        losses = self.rpn.losses(found, batch, group_size)
        slots = self.options.roi_slots
        proposals = self.rpn.propose(found, batch.sizes, is_training=True, group_size=group_size, slots=slots)
        rois = sample_rois(proposals, batch, self.options.rois, self.num_classes)
        maps = self.roi_maps(pyramid)
        if self.cascade is None:
            losses |= self.box_head.losses(maps, rois, batch, slots=slots, group_size=group_size)
        else:
            losses |= self.cascade.losses(
                self.box_head, maps, rois, batch, slots=slots, group_size=group_size
            )
        for head in (self.mask_head, self.keypoint_head):
            if head is None:
                continue
            losses |= head.losses(
                maps,
                rois,
                batch,
                max_positives=self.options.rois.max_positives,
                slots=slots,
                group_size=group_size,
            )
        return losses

    @torch.no_grad()
    def detect(self, batch: Batch) -> list[Detections]:
        """What each image holds, in pixels of the original photograph, best score first."""
        maps, candidates = self.find(batch)
        found = candidates.take(self.box_head.best_rows(candidates, batch.num_images))
        masks, keypoints = self.masks_of(maps, found), self.keypoints_of(maps, found)
        return in_photographs(found, batch, masks, keypoints)

    @torch.no_grad()
    def candidates(self, batch: Batch) -> list[Detections]:
        """All boxes above the score threshold, before NMS, in pixels of the original photograph."""
        _, candidates = self.find(batch)
        return in_photographs(candidates, batch, None, None)

    def choose(self, candidates: Detections) -> Int[Tensor, " K"]:
        """Rows of one photograph's candidates that detection would keep, best score first."""
        images = torch.zeros_like(candidates.labels)
        found = FoundBoxes(
            boxes=candidates.boxes, scores=candidates.scores, labels=candidates.labels, images=images
        )
        return self.box_head.best_rows(found, 1)

    @property
    def has_shapes(self) -> bool:
        """Whether there is more to say of a box than its class."""
        return self.mask_head is not None or self.keypoint_head is not None

    @torch.no_grad()
    def shapes(self, batch: Batch, found: Sequence[Detections]) -> list[Shapes]:
        """What the heads see inside the boxes of each image, given in pixels of the original photograph."""
        counts = torch.tensor([len(one.boxes) for one in found], device=batch.sizes.device)
        images = torch.repeat_interleave(counts)
        boxes = torch.cat([one.boxes for one in found])
        moved = FoundBoxes(
            boxes=scale_boxes(boxes, batch.original_sizes[images], batch.sizes[images]),
            scores=torch.cat([one.scores for one in found]),
            labels=torch.cat([one.labels for one in found]),
            images=images,
        )
        maps = self.roi_maps(self.pyramid(batch))
        masks, heatmaps = self.masks_of(maps, moved), None
        if self.keypoint_head is not None:
            heatmaps = self.keypoint_head.heatmaps(maps, moved.boxes, moved.images)
        parts = zip(
            [None] * len(found) if masks is None else masks.split(counts.tolist()),
            [None] * len(found) if heatmaps is None else heatmaps.split(counts.tolist()),
            strict=True,
        )
        return [Shapes(masks=part, heatmaps=cells) for part, cells in parts]

    def with_shapes(self, found: Detections, shapes: Shapes) -> Detections:
        """The detections of one photograph with what was seen inside their boxes."""
        keypoints = None if shapes.heatmaps is None else decode_heatmaps(shapes.heatmaps, found.boxes)
        return replace(found, masks=shapes.masks, keypoints=keypoints)

    def find(self, batch: Batch) -> tuple[RoIMaps, FoundBoxes]:
        """The maps that RoIs are pooled from, and all boxes above the score threshold."""
        pyramid = self.pyramid(batch)
        found = self.rpn(pyramid, (batch.images.shape[2], batch.images.shape[3]))
        proposals = self.rpn.propose(
            found, batch.sizes, is_training=False, group_size=self.options.loss_images
        )
        maps = self.roi_maps(pyramid)
        if self.cascade is None:
            return maps, self.box_head.candidates(maps, proposals, batch.sizes)
        return maps, self.cascade.candidates(self.box_head, maps, proposals, batch.sizes)

    def masks_of(self, maps: RoIMaps, found: FoundBoxes) -> Float[Tensor, "M S S"] | None:
        """Mask probabilities on a grid over each box; None without a mask head."""
        if self.mask_head is None:
            return None
        masks: Tensor = self.mask_head.detect(maps, found.boxes, found.images, found.labels)
        return masks

    def keypoints_of(self, maps: RoIMaps, found: FoundBoxes) -> Float[Tensor, "M P 3"] | None:
        """(x, y, score) of each box's keypoints; None without a keypoint head."""
        if self.keypoint_head is None:
            return None
        keypoints: Tensor = self.keypoint_head.detect(maps, found.boxes, found.images)
        return keypoints

    @property
    def has_late_parts(self) -> bool:
        """Whether there are stages that can come late; see `engine.late`."""
        return self.cascade is not None and len(self.cascade.heads) > 0

    def use_late_parts(self, is_on: bool) -> bool:
        """Turn the cascade's further stages on or off; whether that changed anything."""
        return self.cascade is not None and self.cascade.switch(self.box_head, is_on)

    def idle_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that are in no graph now: those of stages that are off."""
        if self.cascade is not None:
            yield from self.cascade.idle_parameters()

    def pyramid(self, batch: Batch) -> list[Float[Tensor, "B D _ _"]]:
        """P2 to P6 of the normalised images; without an FPN the backbone's one map."""
        maps: list[Tensor] = self.backbone(self.normalise(batch))
        return maps if self.fpn is None else self.fpn(maps)

    def roi_maps(self, pyramid: Sequence[Float[Tensor, "B D _ _"]]) -> RoIMaps:
        """P2 to P5, or the one map, from which RoIs are pooled."""
        return build_roi_maps(pyramid[: len(self.backbone.strides)], self.backbone.strides)

    def normalise(self, batch: Batch) -> Float[Tensor, "B 3 H W"]:
        """Images less their mean, over their deviation, with zeros in the padding."""
        images: UInt8[Tensor, "B 3 H W"] = batch.images
        normal = (images.to(self.pixel_mean.dtype) / MAX_PIXEL - self.pixel_mean) / self.pixel_std
        is_row = torch.arange(images.shape[2], device=images.device) < batch.sizes[:, :1]
        is_column = torch.arange(images.shape[3], device=images.device) < batch.sizes[:, 1:]
        is_valid = is_row[:, None, :, None] & is_column[:, None, None, :]
        return normal.masked_fill_(~is_valid, 0.0)


def build_detector(
    options: DetectorOptions,
    *,
    num_classes: int,
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
    num_keypoints: int = 0,
) -> RCNN:
    """The detector with random weights.

    Args:
        options: of every part.
        num_classes: foreground classes.
        pixel_mean: of R, G, B in units of 0 to 1.
        pixel_std: as above.
        num_keypoints: an instance, for a keypoint head.

    Raises:
        UsageError: timm has no such backbone.
        DataError: a keypoint head without keypoints.
    """
    return RCNN(options, num_classes, pixel_mean, pixel_std, num_keypoints)


def in_photographs(
    found: FoundBoxes,
    batch: Batch,
    masks: Float[Tensor, "M S S"] | None,
    keypoints: Float[Tensor, "M P 3"] | None,
) -> list[Detections]:
    """The detections image by image, in pixels of the original photographs."""
    seen, wanted = batch.sizes[found.images], batch.original_sizes[found.images]
    original = scale_boxes(found.boxes, seen, wanted)
    if keypoints is not None:
        keypoints = scale_keypoints(keypoints, seen, wanted)
    counts = found.images.bincount(minlength=batch.num_images).tolist()
    sizes, image_ids = batch.original_sizes.tolist(), batch.image_ids.tolist()
    parts = zip(
        original.split(counts),
        found.scores.split(counts),
        found.labels.split(counts),
        [None] * len(counts) if masks is None else masks.split(counts),
        [None] * len(counts) if keypoints is None else keypoints.split(counts),
        strict=True,
    )
    return [
        Detections(
            boxes=image_boxes,
            scores=scores,
            labels=labels,
            masks=image_masks,
            keypoints=image_keypoints,
            image_id=image_ids[image],
            size=(sizes[image][0], sizes[image][1]),
        )
        for image, (image_boxes, scores, labels, image_masks, image_keypoints) in enumerate(parts)
    ]
