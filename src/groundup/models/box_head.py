"""Box head: the class and the exact box of each RoI.

Legend:
    B  images     N  RoIs     D  channels of the pyramid     R  RoI slots an image
    T  boxes for which deltas are predicted: one a class, or one for all     M  detections of a batch
    K  chosen detections
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name the field uses
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from groundup.config import Options
from groundup.metering import part
from groundup.models.initialisation import InitKind, initialise
from groundup.models.layers import ConvBlock
from groundup.models.losses import normalise_loss, smooth_l1
from groundup.models.norm import NormKind
from groundup.models.proposals import Proposals, SlotKind
from groundup.models.rois import PoolOptions, RoIs, pool_rois, rows_seen, sums_of_images
from groundup.models.rpn import delta_targets
from groundup.ops.boxes import BoxWeights, clip_boxes, decode_deltas, has_min_side
from groundup.ops.pooling import RoIMaps
from groundup.ops.precision import in_full_precision
from groundup.ops.roi import nms, ranks_within
from groundup.structures import Batch

ROIS_AT_ONCE = 2048
"""RoIs the head sees at a time in detection, which bounds its memory whatever the batch."""


class BoxHeadOptions(Options):
    """The second stage's classifier and regressor. Where systems differ: paper.md 4."""

    pool: PoolOptions = PoolOptions()
    """How features are cut out of the pyramid."""
    num_convs: int = Field(4, ge=0)
    """3x3 convolutions before the fully connected layers; 4 in GN systems, 0 in plain ones."""
    conv_channels: int = Field(256, ge=1)
    """Their width."""
    norm: NormKind = "gn"
    """Norm after each of them."""
    num_fcs: int = Field(1, ge=1)
    """Fully connected layers; 1 in GN systems, 2 in plain ones."""
    fc_channels: int = Field(1024, ge=1)
    """Their width."""
    class_agnostic: bool = False
    """One box for all classes instead of one for each."""
    box_weights: BoxWeights = (10.0, 10.0, 5.0, 5.0)
    """Factors of the encoded (dx, dy, dw, dh)."""
    smooth_l1_beta: float = Field(1.0, ge=0)
    """Where the box loss turns linear; 0 is L1."""
    score_threshold: float = Field(0.05, ge=0, lt=1)
    """Detections need a higher score."""
    nms_threshold: float = Field(0.5, ge=0, le=1)
    """IoU above which the lower-scored detection of a class goes."""
    max_detections: int = Field(100, ge=1)
    """Detections an image. Crowded data need more: an image of the nuclei set holds up to 375."""
    min_box_size: float = Field(0.0, ge=0)
    """Pixels; detections with a shorter side are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundBoxes:
    """Detections of a batch, image by image and best first within each, in pixels of the resized images."""

    boxes: Float[Tensor, "M 4"]
    scores: Float[Tensor, " M"]
    labels: Int[Tensor, " M"]
    images: Int[Tensor, " M"]

    def take(self, rows: Int[Tensor, " K"]) -> "FoundBoxes":
        """Those of the rows, in the order of the rows."""
        return FoundBoxes(
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            images=self.images[rows],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxReadings:
    """What a box head says of the RoIs it saw."""

    rows: Int[Tensor, " N"]
    """Flat slot (image * R + slot) of each of them."""
    logits: Float[Tensor, "N classes"]
    """Of each class, background last."""
    deltas: Float[Tensor, "N T 4"]


class BoxHead(nn.Module):
    """Convolutions, fully connected layers, and one predictor each for class and box.

    Source: Group Normalization (Wu and He, 2018), section 4.2, for 4conv1fc; FPN (Lin et al., 2017),
    section 4.2, for 2fc.
    """

    def __init__(self, options: BoxHeadOptions, channels: int, num_classes: int, init: InitKind) -> None:
        """Begin with layers for maps of so many channels."""
        super().__init__()
        self.options = options
        self.num_classes = num_classes
        widths = [channels] + [options.conv_channels] * options.num_convs
        self.convs = nn.Sequential(
            *(
                ConvBlock(before, after, 3, options.norm, init=init, part="head_conv", has_relu=True)
                for before, after in pairwise(widths)
            )
        )
        layers: list[nn.Module] = []
        width = widths[-1] * options.pool.resolution**2
        for _ in range(options.num_fcs):
            layer = nn.Linear(width, options.fc_channels)
            initialise(layer, init, "head_fc")
            layers += [layer, nn.ReLU(inplace=True)]
            width = options.fc_channels
        self.fcs = nn.Sequential(*layers)
        self.classes = nn.Linear(width, num_classes + 1)
        self.deltas = nn.Linear(width, 4 * (1 if options.class_agnostic else num_classes))
        initialise(self.classes, init, "box_class")
        initialise(self.deltas, init, "box_delta")

    @part("box head")
    def forward(
        self,
        maps: RoIMaps,
        boxes: Float[Tensor, "N 4"],
        images: Int[Tensor, " N"],
        *,
        gradient_scale: float = 1.0,
    ) -> tuple[Float[Tensor, "N {self.num_classes}+1"], Float[Tensor, "N T 4"]]:
        """Class logits, background last, and deltas of each RoI, in float32.

        The gradient that reaches the pyramid is multiplied by `gradient_scale`, that of the head's own
        weights is not.
        """
        hidden = pool_rois(maps, boxes, images, self.options.pool)
        if gradient_scale != 1:
            hidden = scale_gradient(hidden, gradient_scale)
        hidden = self.fcs(self.convs(hidden).flatten(1))
        deltas = in_full_precision(self.deltas(hidden))
        return in_full_precision(self.classes(hidden)), deltas.unflatten(1, (-1, 4))

    def losses(
        self,
        maps: RoIMaps,
        rois: RoIs,
        batch: Batch,
        *,
        slots: SlotKind,
        group_size: int,
    ) -> dict[str, Float[Tensor, ""]]:
        """Cross entropy and box loss of the positives, both divided by all sampled RoIs."""
        return self.losses_of(self.read(maps, rois, slots=slots), rois, batch, group_size=group_size)

    def read(self, maps: RoIMaps, rois: RoIs, *, slots: SlotKind, gradient_scale: float = 1.0) -> BoxReadings:
        """What the head says of the RoIs, of those or all slots as `slots` says."""
        rows = rows_seen(rois.is_filled, slots, self.options.norm)
        logits, deltas = self(
            maps,
            rois.boxes.flatten(0, 1)[rows],
            rows // rois.labels.shape[1],
            gradient_scale=gradient_scale,
        )
        return BoxReadings(rows=rows, logits=logits, deltas=deltas)

    @part("losses and targets")
    def losses_of(
        self, readings: BoxReadings, rois: RoIs, batch: Batch, *, group_size: int
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses of what `read` gave for the same RoIs."""
        rows, logits, deltas = readings.rows, readings.logits, readings.deltas
        labels = rois.labels.flatten()[rows]
        targets = delta_targets(
            batch.boxes, rois.gt_index, rois.boxes, rois.is_positive, self.options.box_weights
        ).flatten(0, 1)[rows]
        loss_class = F.cross_entropy(logits, labels, reduction="none")
        column = labels.clamp(max=deltas.shape[1] - 1)
        chosen = deltas.gather(1, column[:, None, None].expand(-1, 1, 4))[:, 0]
        loss_delta = smooth_l1(chosen, targets, self.options.smooth_l1_beta).sum(dim=-1)
        counts = rois.is_filled.sum(dim=1).to(logits.dtype)
        return {
            "loss_box_class": normalise_loss(
                sums_of_images(loss_class, rows, rois.is_filled), counts, group_size
            ),
            "loss_box_delta": normalise_loss(
                sums_of_images(loss_delta, rows, rois.is_positive), counts, group_size
            ),
        }

    def detect(self, maps: RoIMaps, proposals: Proposals, sizes: Int[Tensor, "B 2"]) -> FoundBoxes:
        """Boxes above the score threshold after NMS within each class, the best of each image."""
        found = self.candidates(maps, proposals, sizes)
        return found.take(self.best_rows(found, len(sizes)))

    def candidates(self, maps: RoIMaps, proposals: Proposals, sizes: Int[Tensor, "B 2"]) -> FoundBoxes:
        """All boxes above the score threshold, image by image, in no order within one."""
        boxes, images, is_real = real_proposals(proposals)
        logits, deltas = self.read_all(maps, boxes, images)
        scores = logits.softmax(dim=-1)[:, :-1] * is_real[:, None]
        return self.above_threshold(scores, deltas, boxes, images, sizes)

    def read_all(
        self, maps: RoIMaps, boxes: Float[Tensor, "N 4"], images: Int[Tensor, " N"]
    ) -> tuple[Float[Tensor, "N classes"], Float[Tensor, "N T 4"]]:
        """Logits and deltas of any number of RoIs, at least one, in bounded memory."""
        parts = [
            self(maps, boxes[first : first + ROIS_AT_ONCE], images[first : first + ROIS_AT_ONCE])
            for first in range(0, len(boxes), ROIS_AT_ONCE)
        ]
        logits, deltas = (torch.cat(part) for part in zip(*parts, strict=True))
        return logits, deltas

    def decode(
        self,
        deltas: Float[Tensor, "N 4"],
        boxes: Float[Tensor, "N 4"],
        images: Int[Tensor, " N"],
        sizes: Int[Tensor, "B 2"],
    ) -> Float[Tensor, "N 4"]:
        """Where the deltas move the RoIs' boxes, inside each image."""
        moved = decode_deltas(deltas, boxes, self.options.box_weights)
        return clip_boxes(moved[:, None], sizes[images])[:, 0]

    def above_threshold(
        self,
        scores: Float[Tensor, "N {self.num_classes}"],
        deltas: Float[Tensor, "N T 4"],
        boxes: Float[Tensor, "N 4"],
        images: Int[Tensor, " N"],
        sizes: Int[Tensor, "B 2"],
    ) -> FoundBoxes:
        """The decoded boxes of every RoI and class with enough score."""
        options = self.options
        roi, labels = (scores > options.score_threshold).nonzero().unbind(1)
        column = labels.clamp(max=deltas.shape[1] - 1)
        found = self.decode(deltas[roi, column], boxes[roi], images[roi], sizes)
        kept = has_min_side(found, options.min_box_size).nonzero()[:, 0]
        roi, labels = roi[kept], labels[kept]
        return FoundBoxes(boxes=found[kept], scores=scores[roi, labels], labels=labels, images=images[roi])

    def best_rows(self, found: FoundBoxes, num_images: int) -> Int[Tensor, " K"]:
        """What remains of the candidates after NMS within each class: the best of each image, in order."""
        groups = found.images * self.num_classes + found.labels
        best = nms(found.boxes, found.scores, groups, self.options.nms_threshold)
        best = best[found.images[best].argsort(stable=True)]
        return best[ranks_within(found.images[best], num_images) < self.options.max_detections]


def real_proposals(
    proposals: Proposals,
) -> tuple[Float[Tensor, "N 4"], Int[Tensor, " N"], Bool[Tensor, " N"]]:
    """Boxes and images of the filled slots, and whether each is one: where none is, one stands in."""
    rows = rows_seen(proposals.is_filled, "real", "none")
    num_slots = proposals.boxes.shape[1]
    return proposals.boxes.flatten(0, 1)[rows], rows // num_slots, proposals.is_filled.flatten()[rows]


class ScaledGradient(torch.autograd.Function):
    """The identity, of which the gradient is multiplied by a number."""

    @staticmethod
    def forward(context: Any, values: Tensor, scale: float) -> Tensor:
        """Give the values as they are."""
        context.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Give the gradient times the number."""
        return gradient * context.scale, None


def scale_gradient(values: Float[Tensor, "*v"], scale: float) -> Float[Tensor, "*v"]:
    """The same values, of which the gradient is multiplied by `scale`."""
    scaled: Tensor = ScaledGradient.apply(values, scale)
    return scaled
