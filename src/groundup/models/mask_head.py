"""Mask head: which part of each RoI is the object, asked of one class only.

Legend:
    B  images     N  RoIs     D  channels of the pyramid     C  channels of the head
    S  side of a mask: twice RoIAlign's resolution
"""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name the field uses
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from groundup.config import Options
from groundup.errors import DataError
from groundup.metering import part
from groundup.models.initialisation import InitKind, initialise
from groundup.models.layers import ConvBlock
from groundup.models.losses import normalise_loss
from groundup.models.norm import NormKind
from groundup.models.proposals import SlotKind
from groundup.models.rois import PoolOptions, RoIs, pool_rois, rows_seen, sums_of_images
from groundup.ops.pooling import RoIMaps
from groundup.ops.precision import in_full_precision
from groundup.ops.rasterise import mask_targets
from groundup.structures import Batch

UPSAMPLING = 2
"""Kernel and stride of the deconvolution. Source: Mask R-CNN (He et al., 2017), figure 4."""
ROIS_AT_ONCE = 512
"""RoIs the head sees at a time in detection, which bounds its memory whatever the batch."""


class MaskHeadOptions(Options):
    """The mask branch. Where systems differ: paper.md 4."""

    pool: PoolOptions = PoolOptions(resolution=14)
    """How features are cut out of the pyramid; masks have twice its resolution."""
    num_convs: int = Field(4, ge=0)
    """3x3 convolutions before the deconvolution."""
    channels: int = Field(256, ge=1)
    """Width of the convolutions and the deconvolution."""
    norm: NormKind = "gn"
    """Norm after each convolution; the deconvolution has none in any system."""
    class_agnostic: bool = False
    """One mask for all classes instead of one for each."""
    target: Literal["binary", "share"] = "binary"
    """What a cell of the target says: whether it belongs to the object (polygons filled on the RoI's own
    grid; Detectron, Detectron2), or the covered share of it (torchvision)."""
    target_aligned: bool = True
    """Whether RoIAlign reads bitmaps with pixel centres at half-integers; torchvision does not."""


class MaskHead(nn.Module):
    """Convolutions, a deconvolution, and one mask a class.

    Source: Mask R-CNN (He et al., 2017), section 3.
    """

    def __init__(
        self,
        options: MaskHeadOptions,
        channels: int,
        num_classes: int,
        init: InitKind,
    ) -> None:
        """Begin with layers for maps of so many channels."""
        super().__init__()
        self.options = options
        widths = [channels] + [options.channels] * options.num_convs
        self.convs = nn.Sequential(
            *(
                ConvBlock(before, after, 3, options.norm, init=init, part="mask_conv", has_relu=True)
                for before, after in pairwise(widths)
            )
        )
        self.upsample = nn.ConvTranspose2d(widths[-1], options.channels, UPSAMPLING, stride=UPSAMPLING)
        self.masks = nn.Conv2d(options.channels, 1 if options.class_agnostic else num_classes, 1)
        initialise(self.upsample, init, "mask_deconv")
        initialise(self.masks, init, "mask_agnostic" if options.class_agnostic else "mask_class")

    @part("mask head")
    def forward(
        self,
        maps: RoIMaps,
        boxes: Float[Tensor, "N 4"],
        images: Int[Tensor, " N"],
        labels: Int[Tensor, " N"],
    ) -> Float[Tensor, "N S S"]:
        """Mask logits of each RoI for the class it is asked about, in float32.

        Only that class's row of the predictor is multiplied: with 80 classes the other 79 would cost more
        than the deconvolution.
        """
        hidden = pool_rois(maps, boxes, images, self.options.pool)
        hidden = F.relu(self.upsample(self.convs(hidden)), inplace=True)
        row = labels.clamp(max=self.masks.out_channels - 1)
        weight = self.masks.weight.flatten(1)[row][:, None]
        assert self.masks.bias is not None
        logits = torch.bmm(weight, hidden.flatten(2).to(weight.dtype)).view(len(hidden), *hidden.shape[2:])
        return in_full_precision(logits) + self.masks.bias[row][:, None, None]

    @part("losses and targets")
    def losses(
        self,
        maps: RoIMaps,
        rois: RoIs,
        batch: Batch,
        *,
        max_positives: int,
        slots: SlotKind,
        group_size: int,
    ) -> dict[str, Float[Tensor, ""]]:
        """Mean binary cross entropy over the cells of the positives' own class.

        Args:
            maps: P2 to P5.
            rois: sampled, positives first.
            batch: with masks.
            max_positives: slots at the front of each image's RoIs that can hold positives.
            slots: which of them the head sees.
            group_size: consecutive images divided by one count.

        Raises:
            DataError: the batch has no masks.
        """
        if batch.masks is None:
            raise DataError(
                "the mask head learns from masks, but the training annotations have none; "
                "add masks to the data, or write model.mask_head=null"
            )
        is_positive = rois.is_positive[:, :max_positives]
        rows = rows_seen(is_positive, slots, self.options.norm)
        images = rows // is_positive.shape[1]
        boxes = rois.boxes[:, :max_positives].flatten(0, 1)[rows]
        instances = rois.gt_index[:, :max_positives].flatten()[rows] + images * batch.labels.shape[1]
        logits = self(maps, boxes, images, rois.labels[:, :max_positives].flatten()[rows])
        targets = mask_targets(
            batch.masks,
            boxes,
            instances,
            logits.shape[-1],
            is_binary=self.options.target == "binary",
            is_aligned=self.options.target_aligned,
        )
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=(1, 2))
        sums = sums_of_images(loss, rows, is_positive)
        return {"loss_mask": normalise_loss(sums, is_positive.sum(dim=1).to(loss.dtype), group_size)}

    def detect(
        self,
        maps: RoIMaps,
        boxes: Float[Tensor, "N 4"],
        images: Int[Tensor, " N"],
        labels: Int[Tensor, " N"],
    ) -> Float[Tensor, "N S S"]:
        """Probability of each cell of each box's grid."""
        side = self.options.pool.resolution * UPSAMPLING
        parts = [boxes.new_zeros((0, side, side))]
        for first in range(0, len(boxes), ROIS_AT_ONCE):
            part = slice(first, first + ROIS_AT_ONCE)
            parts.append(self(maps, boxes[part], images[part], labels[part]).sigmoid())
        return torch.cat(parts)
