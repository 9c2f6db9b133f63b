"""Cascade R-CNN: box heads one after the other, each moving the boxes of the one before it closer.

Legend:
    B  images     N  RoIs     R  RoI slots an image
"""

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from groundup.config import Options
from groundup.models.box_head import BoxHead, BoxHeadOptions, BoxReadings, FoundBoxes, real_proposals
from groundup.models.initialisation import InitKind
from groundup.models.proposals import Proposals, SlotKind
from groundup.models.rois import RoIs, rematch_rois
from groundup.ops.boxes import BoxWeights
from groundup.ops.pooling import RoIMaps
from groundup.structures import Batch

FIRST_ADDED = 2
"""Number of the first stage after the box head, in the names of losses."""


class CascadeOptions(Options):
    """The box heads after the first.

    The first stage is the detector's own box head, with `rois.fg_iou` and `box_head.box_weights`; the others
    are made as it is.

    Source: Cascade R-CNN (Cai and Vasconcelos, 2018), section 4; weights as in Detectron2,
    `ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS`.
    """

    ious: tuple[float, ...] = (0.6, 0.7)
    """IoU from which a box shows its true box's class, for each further stage; below it is background."""
    box_weights: tuple[BoxWeights, ...] = ((20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
    """Factors of the encoded (dx, dy, dw, dh) of each: what is left to move is smaller at every stage."""
    late_init: Literal["copy", "random"] = Field(default="copy")
    """Where the stages come late (`training.schedule.late_units`), what they begin with: `copy`, the first
    stage's weights at that time, or `random`, first weights as of a scratch start. The paper does not say.
    Copies, because the mean of three heads' scores then is at once about as good as the one head's, and
    because a peak learning rate is left for the last units only."""

    @model_validator(mode="after")
    def _check(self) -> "CascadeOptions":
        if len(self.ious) != len(self.box_weights):
            raise ValueError(
                f"cascade.ious names {len(self.ious)} stages, cascade.box_weights {len(self.box_weights)}; "
                "give both the same number"
            )
        if not all(0 < iou <= 1 for iou in self.ious):
            raise ValueError(f"cascade.ious is {list(self.ious)}, but all must lie in 0 (excluded) .. 1")
        return self


class Cascade(nn.Module):
    """The further stages. What they share with the first one is passed to each call.

    Stages can be *off*: then the detector is the plain one of the first stage, and their weights are in no
    graph. The state dictionary says which, so that a checkpoint is used as it was trained.

    Which RoIs: in training the sampled ones, moved by stage after stage and matched again but not sampled
    again; the mask head learns on the sampled ones as they were, and is asked for the last stage's boxes.
    Source: Detectron2, `CascadeROIHeads`.
    """

    def __init__(
        self, options: CascadeOptions, first: BoxHeadOptions, channels: int, num_classes: int, init: InitKind
    ) -> None:
        """Begin with stages made as the first one, on."""
        super().__init__()
        self.options = options
        self.num_classes = num_classes
        self.is_on = True
        self.heads = nn.ModuleList(
            BoxHead(first.model_copy(update={"box_weights": weights}), channels, num_classes, init)
            for weights in options.box_weights
        )

    def stages(self, first: BoxHead) -> list[BoxHead]:
        """All that are on, the first among them."""
        added: list[BoxHead] = list(self.heads) if self.is_on else []  # type: ignore[arg-type]
        return [first, *added]

    def switch(self, first: BoxHead, is_on: bool) -> bool:
        """Turn the further stages on or off; whether that changed anything.

        As they are turned on they become copies of the first stage, if the options say so.
        """
        if self.is_on == is_on:
            return False
        self.is_on = is_on
        if is_on and self.options.late_init == "copy":
            for head in self.heads:
                head.load_state_dict(first.state_dict())
        return True

    def idle_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that are in no graph, as their stages are off."""
        if not self.is_on:
            yield from self.parameters()

    def losses(
        self,
        first: BoxHead,
        maps: RoIMaps,
        rois: RoIs,
        batch: Batch,
        *,
        slots: SlotKind,
        group_size: int,
    ) -> dict[str, Float[Tensor, ""]]:
        """Class and box losses of every stage; those of stage k > 1 end in `_k`.

        Each stage sends its gradient to the shared features divided by the number of stages, while its own
        weights learn from the whole of it.

        Source: Detectron2, `CascadeROIHeads._run_stage`; tensorpack, `CascadeRCNNHead`.
        """
        stages = self.stages(first)
        losses: dict[str, Tensor] = {}
        for number, head in enumerate(stages, 1):
            readings = head.read(maps, rois, slots=slots, gradient_scale=1 / len(stages))
            found = head.losses_of(readings, rois, batch, group_size=group_size)
            suffix = f"_{number}" if number >= FIRST_ADDED else ""
            losses |= {f"{name}{suffix}": loss for name, loss in found.items()}
            if number < len(stages):
                rois = self.next_rois(number, head, readings, rois, batch)
        return losses

    @torch.no_grad()
    def next_rois(self, number: int, head: BoxHead, readings: BoxReadings, rois: RoIs, batch: Batch) -> RoIs:
        """The RoIs of the stage after the one of this number: where its head moves its own, matched again."""
        rows = readings.rows
        flat = rois.boxes.flatten(0, 1)
        images = rows // rois.boxes.shape[1]
        moved = head.decode(readings.deltas[:, 0], flat[rows], images, batch.sizes)
        boxes = torch.zeros_like(flat).index_copy(0, rows, moved).view_as(rois.boxes)
        return rematch_rois(
            boxes,
            rois.is_filled,
            batch,
            fg_iou=self.options.ious[number - 1],
            num_classes=self.num_classes,
        )

    def candidates(
        self, first: BoxHead, maps: RoIMaps, proposals: Proposals, sizes: Int[Tensor, "B 2"]
    ) -> FoundBoxes:
        """The last stage's boxes above the score threshold, as of `BoxHead.candidates`.

        Scores are the mean of all stages' scores, each at the boxes it was given.

        Source: Cascade R-CNN (Cai and Vasconcelos, 2018), section 4.3, for the mean; Detectron2,
        `CascadeROIHeads._forward_box`, for where each stage looks.
        """
        boxes, images, is_real = real_proposals(proposals)
        stages = self.stages(first)
        parts = []
        for number, head in enumerate(stages, 1):
            logits, deltas = head.read_all(maps, boxes, images)
            parts.append(logits.softmax(dim=-1)[:, :-1])
            if number < len(stages):
                boxes = head.decode(deltas[:, 0], boxes, images, sizes)
        scores = torch.stack(parts).mean(dim=0) * is_real[:, None]
        return stages[-1].above_threshold(scores, deltas, boxes, images, sizes)

    def get_extra_state(self) -> Tensor:
        """Whether the stages are on, for the state dictionary."""
        return torch.tensor(self.is_on)

    def set_extra_state(self, state: Tensor) -> None:
        """Turn the stages on or off as they were."""
        self.is_on = bool(state)
