"""Keypoint head: where in each RoI every named point of the object lies.

Legend:
    B  images     N  RoIs     D  channels of the pyramid     P  keypoints an instance
    R  RoI slots an image that can hold positives            S  side of a heatmap
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
from groundup.models.losses import group_sums, normalise_loss
from groundup.models.norm import NormKind
from groundup.models.proposals import SlotKind
from groundup.models.rois import PoolOptions, RoIs, pool_rois, rows_seen, sums_of_images
from groundup.ops.keypoints import decode_heatmaps, encode_keypoints
from groundup.ops.pooling import RoIMaps
from groundup.ops.precision import in_full_precision
from groundup.structures import Batch

DECONV_KERNEL = 4
DECONV_STRIDE = 2
"""Of the deconvolution that gives the heatmaps; a padding of 1 makes them twice RoIAlign's resolution.
Source: Detectron, `add_keypoint_outputs`."""
ROIS_AT_ONCE = 256
"""RoIs the head sees at a time in detection, which bounds its memory whatever the batch."""
NO_KEYPOINTS = (
    "the keypoint head learns from named keypoints, but the {where} none; use person_keypoints annotations, "
    "or write model.keypoint_head=null"
)


class KeypointHeadOptions(Options):
    """The keypoint branch; how many keypoints there are is the data's to say. Source: paper.md 1.6 and 4."""

    pool: PoolOptions = PoolOptions(resolution=14)
    """How features are cut out of the pyramid."""
    num_convs: int = Field(8, ge=0)
    """3x3 convolutions before the deconvolution."""
    channels: int = Field(512, ge=1)
    """Their width."""
    norm: NormKind = "none"
    """Norm after each of them; no published system has one here, and the paper does not say."""
    enlargement: int = Field(2, ge=1)
    """By how much the deconvolution's maps are enlarged bilinearly: 14 -> 28 -> 56."""
    loss: Literal["visible", "slots"] = "visible"
    """By what the summed loss is divided: the labelled keypoints inside the sampled RoIs, or all keypoints
    that the slots of positive RoIs could hold (Detectron2's alternative, of which it asks for weight 4)."""
    loss_weight: float = Field(1.0, gt=0)
    """What the loss is multiplied by."""
    min_visible: int = Field(0, ge=0)
    """Images of one group (`loss_images`) with no more labelled keypoints inside their RoIs than so many
    learn no keypoints from them. Detectron draws such a group anew, from 20 keypoints down; here the order
    of images is fixed beforehand."""


class KeypointHead(nn.Module):
    """Convolutions, and a deconvolution that gives one heatmap a keypoint.

    Source: Mask R-CNN (He et al., 2017), section 5; Detectron, `keypoint_rcnn_heads.py`.
    """

    def __init__(
        self, options: KeypointHeadOptions, channels: int, num_keypoints: int, init: InitKind
    ) -> None:
        """Begin with layers for maps of so many channels.

        Raises:
            DataError: there are no keypoints.
        """
        if num_keypoints < 1:
            raise DataError(NO_KEYPOINTS.format(where="categories name"))
        super().__init__()
        self.options = options
        widths = [channels] + [options.channels] * options.num_convs
        self.convs = nn.Sequential(
            *(
                ConvBlock(before, after, 3, options.norm, init=init, part="keypoint_conv", has_relu=True)
                for before, after in pairwise(widths)
            )
        )
        self.deconv = nn.ConvTranspose2d(
            widths[-1], num_keypoints, DECONV_KERNEL, stride=DECONV_STRIDE, padding=1
        )
        initialise(self.deconv, init, "keypoint_deconv")

    @property
    def side(self) -> int:
        """Cells along each side of a heatmap."""
        return self.options.pool.resolution * DECONV_STRIDE * self.options.enlargement

    @part("keypoint head")
    def forward(
        self, maps: RoIMaps, boxes: Float[Tensor, "N 4"], images: Int[Tensor, " N"]
    ) -> Float[Tensor, "N P {self.side} {self.side}"]:
        """Heatmaps of each RoI, as logits in float32."""
        hidden = self.convs(pool_rois(maps, boxes, images, self.options.pool))
        coarse: Tensor = in_full_precision(self.deconv(hidden))
        if self.options.enlargement == 1:
            return coarse
        return F.interpolate(coarse, scale_factor=float(self.options.enlargement), mode="bilinear")

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
        """Cross entropy over the cells of each labelled keypoint inside a positive RoI.

        RoIs without such a keypoint add nothing, so the head does not see them.

        Args:
            maps: P2 to P5.
            rois: sampled, positives first.
            batch: with keypoints.
            max_positives: slots at the front of each image's RoIs that can hold positives.
            slots: which of them the head sees.
            group_size: consecutive images divided by one count.

        Raises:
            DataError: the batch has no keypoints.
        """
        if batch.keypoints is None:
            raise DataError(NO_KEYPOINTS.format(where="training annotations have"))
        boxes, is_positive = rois.boxes[:, :max_positives], rois.is_positive[:, :max_positives]
        truth = keypoints_of(batch.keypoints, rois.gt_index[:, :max_positives])
        cells, is_visible = encode_keypoints(truth, boxes, self.side)
        is_visible = is_visible & is_positive[..., None]
        is_needed = is_visible.any(dim=2)
        rows = rows_seen(is_needed, slots, self.options.norm)
        heatmaps = self(maps, boxes.flatten(0, 1)[rows], rows // is_needed.shape[1])
        loss = F.cross_entropy(
            heatmaps.flatten(0, 1).flatten(1), cells.flatten(0, 1)[rows].flatten(), reduction="none"
        ).view(len(rows), cells.shape[2])
        loss = torch.where(is_visible.flatten(0, 1)[rows], loss, 0.0).sum(dim=1)
        sums = sums_of_images(loss, rows, is_needed)
        visible = is_visible.sum(dim=(1, 2)).to(loss.dtype)
        counts = visible
        if self.options.loss == "slots":
            counts = torch.full_like(visible, is_positive.shape[1] * cells.shape[2])
        if self.options.min_visible:
            sums = sums * is_rich(visible, self.options.min_visible, group_size)
        return {"loss_keypoint": normalise_loss(sums, counts, group_size) * self.options.loss_weight}

    def heatmaps(
        self, maps: RoIMaps, boxes: Float[Tensor, "N 4"], images: Int[Tensor, " N"]
    ) -> Float[Tensor, "N P {self.side} {self.side}"]:
        """Heatmaps of any number of boxes, in bounded memory but for themselves."""
        parts = [boxes.new_zeros((0, self.deconv.out_channels, self.side, self.side))]
        for first in range(0, len(boxes), ROIS_AT_ONCE):
            part = slice(first, first + ROIS_AT_ONCE)
            parts.append(self(maps, boxes[part], images[part]))
        return torch.cat(parts)

    def detect(
        self, maps: RoIMaps, boxes: Float[Tensor, "N 4"], images: Int[Tensor, " N"]
    ) -> Float[Tensor, "N P 3"]:
        """(x, y, score) of each keypoint of each box, in the boxes' pixels."""
        return decode_heatmaps(self.heatmaps(maps, boxes, images), boxes)


def keypoints_of(
    keypoints: Float[Tensor, "B G P 3"], gt_index: Int[Tensor, "B R"]
) -> Float[Tensor, "B R P 3"]:
    """The keypoints of the true box that each RoI answers for; zeros where no image has any."""
    shape = (*gt_index.shape, *keypoints.shape[2:])
    if not keypoints.shape[1]:
        return keypoints.new_zeros(shape)
    return keypoints.gather(1, gt_index[..., None, None].expand(shape))


def is_rich(visible: Float[Tensor, " B"], least: int, group_size: int) -> Float[Tensor, " B"]:
    """1 for images of groups with more labelled keypoints than so many, 0 for others."""
    totals = group_sums(visible, group_size)
    size = min(group_size, len(visible))
    flags = (totals > least)[:, None].expand(-1, size).flatten()
    return flags[: len(visible)].to(visible.dtype)
