"""Region proposal network: which boxes are worth a look, from every level of the pyramid.

Legend:
    B  images     L  levels     A  anchor shapes at one place     N  anchors of all levels
    G  instance slots an image     R  sampled anchors an image
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name the field uses
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from groundup.config import Options
from groundup.metering import part
from groundup.models.initialisation import InitKind, initialise
from groundup.models.layers import ConvBlock
from groundup.models.losses import normalise_loss, smooth_l1
from groundup.models.proposals import Proposals, SlotKind, Tops, choose_fixed, choose_real
from groundup.ops.anchors import anchor_codes, base_anchors, grid_anchors
from groundup.ops.boxes import BoxWeights, clip_boxes, decode_deltas, encode_deltas, has_min_side, is_inside
from groundup.ops.matching import match_boxes
from groundup.ops.precision import in_full_precision
from groundup.ops.sampling import ANCHOR_STREAM, choose_balanced, random_keys
from groundup.structures import Batch

KEPT_ANCHOR_SETS = 16
"""Sets of anchors kept for padded sizes met again; 240,000 anchors take 6 MB."""


class RPNOptions(Options):
    """Anchors, proposals and their losses. Where systems differ: paper.md 4."""

    anchor_sizes: tuple[tuple[float, ...], ...] = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    """Sides in pixels of square anchors, per level, finest first. Without an FPN all of them stand on the
    one map."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height / width."""
    anchor_rounding: bool = True
    """Corners of the base anchors at whole pixels (Detectron, torchvision) or not (Detectron2)."""
    anchor_stride: Literal["level", "image_over_map"] = "level"
    """Step of the anchor grid: the level's stride, or as in torchvision the padded image's size divided by
    the map's without remainder, which is less than 64 on P6 where P5 has an odd size."""
    anchor_straddling: bool = True
    """Whether anchors that cross the image's edge take part in the losses; Detectron drops them."""
    conv_depth: int = Field(1, ge=1)
    """3x3 convolutions before the predictors."""
    fg_iou: float = Field(0.7, gt=0, le=1)
    """IoU from which an anchor is positive."""
    bg_iou: float = Field(0.3, ge=0, le=1)
    """IoU below which an anchor is negative."""
    anchors_per_image: int = Field(256, ge=1)
    """Anchors an image that enter the losses."""
    positive_fraction: float = Field(0.5, ge=0, le=1)
    """Share of them that may be positive."""
    loss_divisor: Literal["sampled", "fixed"] = "fixed"
    """Losses are divided by the anchors really sampled, or by `anchors_per_image` whatever was sampled."""
    smooth_l1_beta: float = Field(1 / 9, ge=0)
    """Where the box loss turns linear; 0 is L1."""
    box_weights: BoxWeights = (1.0, 1.0, 1.0, 1.0)
    """Factors of the encoded (dx, dy, dw, dh)."""
    pre_nms_train: int = Field(2000, ge=1)
    """Best-scored boxes a level that enter NMS in training."""
    pre_nms_test: int = Field(1000, ge=1)
    """The same in detection."""
    post_nms_train: int = Field(2000, ge=1)
    """Proposals that remain in training, of each image or each group of images (`post_nms_scope`)."""
    post_nms_test: int = Field(1000, ge=1)
    """Proposals of each image that remain in detection."""
    post_nms_scope: Literal["image", "group"] = "image"
    """Whether `post_nms_train` counts in each image, or in the images of one device together (Detectron)."""
    nms_threshold: float = Field(0.7, ge=0, le=1)
    """IoU above which the lower-scored box of a level goes."""
    score_threshold: float = Field(0.0, ge=0, le=1)
    """Lowest objectness of a proposal, after the sigmoid."""
    sigmoid_before_nms: bool = True
    """Whether boxes are ranked by probability, where saturated scores tie (torchvision, Detectron), or by
    logit (Detectron2)."""
    min_box_size: float = Field(1e-3, ge=0)
    """Pixels; proposals with a shorter side are dropped."""

    @model_validator(mode="after")
    def _check(self) -> "RPNOptions":
        if self.bg_iou > self.fg_iou:
            raise ValueError(
                f"rpn.bg_iou is {self.bg_iou}, above rpn.fg_iou {self.fg_iou}: anchors between would be both"
            )
        if len({len(sizes) for sizes in self.anchor_sizes}) != 1 or not self.anchor_sizes[0]:
            raise ValueError("rpn.anchor_sizes needs the same number of sizes, at least one, on every level")
        return self


def on_one_map(options: RPNOptions) -> RPNOptions:
    """The same anchors on a single map, as before pyramids. Source: Faster R-CNN (2015), section 3.1.1."""
    sizes = tuple(size for level in options.anchor_sizes for size in level)
    return options.model_copy(update={"anchor_sizes": (sizes,)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """The anchors of a padded size."""

    boxes: Float[Tensor, "N 4"]
    codes: Int[Tensor, " N"]
    """Names that do not depend on the padding (see `ops.anchors.anchor_codes`)."""
    counts: tuple[int, ...]
    """Anchors of each level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectness:
    """What the network says about each anchor."""

    anchors: Anchors
    logits: Float[Tensor, "B N"]
    deltas: Float[Tensor, "B N 4"]


class RPN(nn.Module):
    """Region proposal network; no norm in any published system (paper.md 1.1).

    Source: Faster R-CNN (Ren et al., 2015), section 3.1.
    """

    def __init__(self, options: RPNOptions, channels: int, strides: Sequence[int], init: InitKind) -> None:
        """Begin with predictors for maps of so many channels at the strides, finest first."""
        super().__init__()
        if len(options.anchor_sizes) != len(strides):
            raise ValueError(
                f"rpn.anchor_sizes has {len(options.anchor_sizes)} levels, the pyramid {len(strides)}"
            )
        self.options = options
        self.strides = tuple(strides)
        for level, sizes in enumerate(options.anchor_sizes):
            base = base_anchors(sizes, options.anchor_ratios, is_rounded=options.anchor_rounding)
            self.register_buffer(f"base_{level}", base, persistent=False)
        num_shapes = len(base)
        self.keeps_anchors = True
        self.convs = nn.Sequential(
            *(
                ConvBlock(channels, channels, 3, "none", init=init, part="rpn", has_relu=True)
                for _ in range(options.conv_depth)
            )
        )
        self.objectness = nn.Conv2d(channels, num_shapes, 1)
        self.deltas = nn.Conv2d(channels, num_shapes * 4, 1)
        initialise(self.objectness, init, "rpn")
        initialise(self.deltas, init, "rpn")
        self._anchors: dict[tuple[object, ...], Anchors] = {}

    @part("RPN")
    def forward(
        self, pyramid: Sequence[Float[Tensor, "B _ _ _"]], padded_size: tuple[int, int]
    ) -> Objectness:
        """Logit and deltas of every anchor, in float32."""
        logits, deltas, grids = [], [], []
        for level in pyramid:
            hidden = self.convs(level)
            grids.append((level.shape[2], level.shape[3]))
            logits.append(in_full_precision(self.objectness(hidden)).permute(0, 2, 3, 1).flatten(1))
            delta = in_full_precision(self.deltas(hidden)).permute(0, 2, 3, 1)
            deltas.append(delta.reshape(len(delta), -1, 4))
        anchors = self.anchors(tuple(grids), padded_size, pyramid[0].device)
        return Objectness(anchors=anchors, logits=torch.cat(logits, 1), deltas=torch.cat(deltas, 1))

    def anchors(
        self, grids: tuple[tuple[int, int], ...], padded_size: tuple[int, int], device: torch.device
    ) -> Anchors:
        """The anchors of maps of the sizes; the last few sets are kept.

        Where steps are captured none is kept: what a graph reads must live as long as the graph.
        """
        if not self.keeps_anchors:
            return self.build_anchors(grids, padded_size, device)
        key = (grids, padded_size, device)
        if key not in self._anchors:
            if len(self._anchors) >= KEPT_ANCHOR_SETS:
                self._anchors.pop(next(iter(self._anchors)))
            self._anchors[key] = self.build_anchors(grids, padded_size, device)
        return self._anchors[key]

    def build_anchors(
        self, grids: tuple[tuple[int, int], ...], padded_size: tuple[int, int], device: torch.device
    ) -> Anchors:
        """The anchors of maps of the sizes."""
        levels, codes = [], []
        for level, (grid, stride) in enumerate(zip(grids, self.strides, strict=True)):
            base: Tensor = getattr(self, f"base_{level}").float()
            step = (float(stride), float(stride))
            if self.options.anchor_stride == "image_over_map":
                step = (float(padded_size[0] // grid[0]), float(padded_size[1] // grid[1]))
            levels.append(grid_anchors(base, grid, step))
            codes.append(anchor_codes(len(base), grid, level, device))
        return Anchors(
            boxes=torch.cat(levels), codes=torch.cat(codes), counts=tuple(len(boxes) for boxes in levels)
        )

    @part("proposals")
    @torch.no_grad()
    def propose(
        self,
        found: Objectness,
        sizes: Int[Tensor, "B 2"],
        *,
        is_training: bool,
        group_size: int,
        slots: SlotKind = "real",
    ) -> Proposals:
        """The best boxes of each image after NMS within each level.

        Args:
            found: by `forward`.
            sizes: (height, width) of each image without its padding.
            is_training: which of the options' numbers of boxes hold.
            group_size: consecutive images that share `post_nms_train` where its scope is the group.
            slots: whether suppression may ask how many boxes there are. Equal proposals.
        """
        options = self.options
        pre_nms = options.pre_nms_train if is_training else options.pre_nms_test
        post_nms = options.post_nms_train if is_training else options.post_nms_test
        tops = self.best_of_levels(found, sizes, pre_nms)
        # Source: Detectron, `collect`: the best of a device's images together (paper.md 4).
        shared = group_size if is_training and options.post_nms_scope == "group" else None
        choose = choose_real if slots == "real" else choose_fixed
        return choose(tops, options.nms_threshold, post_nms, shared)

    def best_of_levels(self, found: Objectness, sizes: Int[Tensor, "B 2"], num: int) -> Tops:
        """So many of the best-scored boxes of each level, as they are before suppression."""
        options = self.options
        tops, first = [], 0
        num = min(num, max(found.anchors.counts))
        for logits in found.logits.split(found.anchors.counts, dim=1):
            top = logits.topk(min(num, logits.shape[1]), dim=1).indices
            tops.append(F.pad(top + first, (0, num - top.shape[1]), value=-1))
            first += logits.shape[1]
        index = torch.cat(tops, dim=1)
        is_real, index = index >= 0, index.clamp(min=0)
        logits = found.logits.gather(1, index)
        deltas = found.deltas.gather(1, index[..., None].expand(-1, -1, 4))
        boxes = decode_deltas(deltas, found.anchors.boxes[index], options.box_weights)
        boxes = clip_boxes(boxes, sizes)
        scores = logits.sigmoid()
        is_candidate = has_min_side(boxes, options.min_box_size) & (scores >= options.score_threshold)
        shape = (len(boxes), len(tops), num)
        return Tops(
            boxes=boxes.view(*shape, 4),
            scores=scores.view(shape),
            ranks=(scores if options.sigmoid_before_nms else logits).view(shape),
            is_candidate=(is_candidate & is_real).view(shape),
        )

    @part("losses and targets")
    def losses(self, found: Objectness, batch: Batch, group_size: int) -> dict[str, Float[Tensor, ""]]:
        """Objectness and box loss over a balanced sample of each image's anchors."""
        options = self.options
        anchors = found.anchors
        is_candidate = None
        if not options.anchor_straddling:
            is_candidate = is_inside(anchors.boxes, batch.sizes)
        matches = match_boxes(
            batch.boxes,
            batch.labels,
            anchors.boxes[None],
            fg_iou=options.fg_iou,
            bg_iou=options.bg_iou,
            keeps_best=True,
            is_candidate=is_candidate,
        )
        chosen = choose_balanced(
            matches.is_positive,
            matches.is_negative,
            random_keys(batch.seeds, anchors.codes[None], ANCHOR_STREAM),
            num_slots=options.anchors_per_image,
            max_positives=int(options.anchors_per_image * options.positive_fraction),
        )
        logits = found.logits.gather(1, chosen.index)
        loss_objectness = F.binary_cross_entropy_with_logits(
            logits, chosen.is_positive.to(logits.dtype), reduction="none"
        )
        deltas = found.deltas.gather(1, chosen.index[..., None].expand(-1, -1, 4))
        gt_index = matches.gt_index.gather(1, chosen.index)
        loss_box = smooth_l1(
            deltas,
            delta_targets(
                batch.boxes, gt_index, anchors.boxes[chosen.index], chosen.is_positive, options.box_weights
            ),
            options.smooth_l1_beta,
        ).sum(dim=-1)
        counts = chosen.is_filled.sum(dim=1).to(logits.dtype)
        if options.loss_divisor == "fixed":
            counts = torch.full_like(counts, options.anchors_per_image)
        return {
            "loss_rpn_objectness": normalise_loss(
                (loss_objectness * chosen.is_filled).sum(dim=1), counts, group_size
            ),
            "loss_rpn_box": normalise_loss((loss_box * chosen.is_positive).sum(dim=1), counts, group_size),
        }


def delta_targets(
    gt_boxes: Float[Tensor, "B G 4"],
    gt_index: Int[Tensor, "B R"],
    references: Float[Tensor, "B R 4"],
    is_positive: Bool[Tensor, "B R"],
    weights: BoxWeights,
) -> Float[Tensor, "B R 4"]:
    """Encoded true box of each positive reference; zeros elsewhere, where the deltas may not be finite."""
    if gt_boxes.shape[1] == 0:
        return torch.zeros_like(references)
    matched = gt_boxes.gather(1, gt_index[..., None].expand(-1, -1, 4))
    return torch.where(is_positive[..., None], encode_deltas(matched, references, weights), 0.0)
