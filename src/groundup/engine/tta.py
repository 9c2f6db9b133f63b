"""Test-time augmentation: one set of detections from several views of a photograph.

Boxes of all views are pooled before any is suppressed; the survivors are shown to every view again,
and what it sees inside them is averaged. Views come one at a time and are asked for twice, so memory
holds the features of one view only.

It works on anything that is a `ViewDetector`.

Legend:
    N  boxes of one image     P  keypoints     K  classes     M  candidates of all views
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from pydantic import Field, field_validator
from torch import Tensor

from groundup.config import Options
from groundup.ops.boxes import box_area
from groundup.ops.voting import vote_boxes
from groundup.structures import Batch, BatchView, Detections, Shapes

DETECTRON_SCALES = (400, 500, 600, 700, 900, 1000, 1100, 1200)
"""Beside the evaluation's own 800. Source: Detectron, `e2e_mask_rcnn_X-152-32x8d-FPN-IN5k_1.44x.yaml`."""
DETECTRON_MAX_SIDE = 2000
"""Source: as above, `TEST.BBOX_AUG.MAX_SIZE`."""
DETECTRON_VOTE_IOU = 0.9
"""Source: as above, `TEST.BBOX_VOTE.VOTE_TH`."""
DETECTRON_KEYPOINT_AREA = 150.0**2
"""Square pixels. Source: as above, `TEST.KPS_AUG.AREA_TH`."""


class TTAOptions(Options):
    """In which further ways evaluation looks at a photograph, and how what it sees becomes one.

    The evaluation's own geometry (`transforms.test_short_side`) is always one of the views. NMS, score
    threshold and limit are the model's own.
    """

    scales: tuple[int, ...] = ()
    """Shorter sides of further views in pixels, in any order; the evaluation's own may be among them."""
    max_side: int = Field(default=DETECTRON_MAX_SIDE, ge=1)
    """The longer side of further views stays within so many pixels."""
    flip: bool = True
    """Whether every view is also looked at with left and right exchanged."""
    vote_iou: float | None = Field(default=None, gt=0, le=1)
    """Boxes move to the mean of the candidates that overlap them at least so much, weighted by score; null
    leaves them in their place. The paper's largest system has 0.9."""
    keypoint_area: float | None = Field(default=DETECTRON_KEYPOINT_AREA, ge=0)
    """Square pixels: boxes below it do not ask smaller views where their keypoints are, others do not ask
    larger ones; null asks all. Source: Detectron, `combine_heatmaps_size_dep`."""

    @field_validator("scales")
    @classmethod
    def _refuse_no_side(cls, scales: tuple[int, ...]) -> tuple[int, ...]:
        """Refuse sides without a pixel."""
        if scales and min(scales) < 1:
            raise ValueError(f"scales are shorter sides in pixels, at least 1, not {list(scales)}")
        return scales


PRESETS = {
    "flip": TTAOptions(),
    "detectron": TTAOptions(scales=DETECTRON_SCALES),
    "detectron_x152": TTAOptions(scales=DETECTRON_SCALES, vote_iou=DETECTRON_VOTE_IOU),
}
"""What `evaluation.tta=NAME` stands for. The paper's text gives no list of scales; that it is Detectron's
shipped one is an assumption (paper.md 1.5). Source of the last two: Detectron, as above."""


@runtime_checkable
class ViewDetector(Protocol):
    """A detector whose detection can be taken apart. All boxes are in pixels of the original photograph."""

    def candidates(self, batch: Batch) -> list[Detections]:
        """All boxes of each image above the score threshold, before any suppression; no masks."""
        ...

    def choose(self, candidates: Detections) -> Int[Tensor, " N"]:
        """Rows of one photograph's candidates that are its detections, best score first."""
        ...

    @property
    def has_shapes(self) -> bool:
        """Whether `shapes` sees anything."""
        ...

    def shapes(self, batch: Batch, found: Sequence[Detections]) -> list[Shapes]:
        """What is seen inside the given boxes of each image."""
        ...

    def with_shapes(self, found: Detections, shapes: Shapes) -> Detections:
        """One photograph's detections with what was seen inside their boxes."""
        ...


def detect_in_views(
    model: ViewDetector, views: Iterable[BatchView], options: TTAOptions, device: torch.device
) -> list[Detections]:
    """What is in each photograph, as all views see it together, best score first.

    Args:
        model: in evaluation mode.
        views: of the same photographs in the same order, in any order among themselves; iterated twice
            where there are masks or keypoints.
        options: how views become one.
        device: the model's.

    Source: Detectron, `core/test.py`: `im_detect_bbox_aug` (UNION), `im_detect_mask_aug` (SOFT_AVG),
    `im_detect_keypoints_aug` (HM_AVG).
    """
    seen = [candidates_of(model, view, device) for view in views]
    found = [
        chosen(model, [of_view[image] for of_view in seen], options.vote_iou) for image in range(len(seen[0]))
    ]
    if not model.has_shapes:
        return found
    sums: list[ShapeSum | None] = [None] * len(found)
    for view in views:
        for image, shapes in enumerate(shapes_of(model, view, found, device)):
            weights = view_weights(found[image].boxes, view.size_change, options.keypoint_area)
            sums[image] = add_shapes(sums[image], shapes, weights)
    return [
        model.with_shapes(one, mean_shapes(total))
        for one, total in zip(found, sums, strict=True)
        if total is not None
    ]


def candidates_of(model: ViewDetector, view: BatchView, device: torch.device) -> list[Detections]:
    """The view's candidates in each photograph, unflipped."""
    candidates = model.candidates(view.batch.to(device))
    return [mirrored(one) for one in candidates] if view.is_flipped else candidates


def mirrored(found: Detections) -> Detections:
    """Boxes with left and right exchanged within the photograph."""
    x1, y1, x2, y2 = found.boxes.unbind(dim=1)
    width = found.size[1]
    return replace(found, boxes=torch.stack([width - x2, y1, width - x1, y2], dim=1))


def chosen(model: ViewDetector, seen: Sequence[Detections], vote_iou: float | None) -> Detections:
    """The detections of one photograph among the candidates of all its views."""
    pooled = replace(
        seen[0],
        boxes=torch.cat([one.boxes for one in seen]),
        scores=torch.cat([one.scores for one in seen]),
        labels=torch.cat([one.labels for one in seen]),
    )
    if len(seen) > 1:
        pooled = take(pooled, canonical_order(pooled))
    found = take(pooled, model.choose(pooled))
    if vote_iou is None:
        return found
    boxes = vote_boxes(found.boxes, found.labels, pooled.boxes, pooled.scores, pooled.labels, vote_iou)
    return replace(found, boxes=boxes)


def take(found: Detections, rows: Int[Tensor, " N"]) -> Detections:
    """The boxes of the rows, in the order of the rows."""
    return replace(found, boxes=found.boxes[rows], scores=found.scores[rows], labels=found.labels[rows])


def canonical_order(found: Detections) -> Int[Tensor, " M"]:
    """Rows by score, then by area, then by place: scores do tie (at 1), and views have no order."""
    rows = torch.arange(len(found.boxes), device=found.boxes.device)
    for key in (found.boxes[:, 0], found.boxes[:, 1], -box_area(found.boxes), found.labels, -found.scores):
        rows = rows[key[rows].argsort(stable=True)]
    return rows


def shapes_of(
    model: ViewDetector, view: BatchView, found: Sequence[Detections], device: torch.device
) -> list[Shapes]:
    """What the view sees inside the boxes of each photograph, unflipped."""
    if not view.is_flipped:
        return model.shapes(view.batch.to(device), found)
    seen = model.shapes(view.batch.to(device), [mirrored(one) for one in found])
    return [unflipped(one, view, boxes.labels) for one, boxes in zip(seen, found, strict=True)]


def unflipped(shapes: Shapes, view: BatchView, labels: Int[Tensor, " N"]) -> Shapes:
    """Grids with left and right exchanged, and of keypoints also the names."""
    masks, heatmaps = shapes.masks, shapes.heatmaps
    if heatmaps is not None:
        heatmaps = heatmaps.flip(-1)
        if view.mirrors is not None:
            places = view.mirrors.to(labels.device)[labels]
            heatmaps = heatmaps[torch.arange(len(labels), device=labels.device)[:, None], places]
    return Shapes(masks=None if masks is None else masks.flip(-1), heatmaps=heatmaps)


def view_weights(
    boxes: Float[Tensor, "N 4"], size_change: int, keypoint_area: float | None
) -> Float[Tensor, " N"]:
    """1 for the boxes whose keypoints the view is asked for, 0 for the others."""
    if keypoint_area is None or size_change == 0:
        return torch.ones_like(boxes[:, 0])
    is_small = box_area(boxes) < keypoint_area
    return (~is_small if size_change < 0 else is_small).to(boxes.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeSum:
    """What the views so far have seen inside one photograph's boxes."""

    masks: Float[Tensor, "N side side"] | None
    """Sum of their probabilities."""
    num_views: int
    heatmaps: Float[Tensor, "N P cells cells"] | None
    """Sum of the logits of the views that each box asks."""
    num_asked: Float[Tensor, " N"]
    """Views that each box has asked for its keypoints."""


def add_shapes(total: ShapeSum | None, shapes: Shapes, weights: Float[Tensor, " N"]) -> ShapeSum:
    """The sum with one view more; None begins it."""
    masks = None if shapes.masks is None else shapes.masks.float()
    heatmaps = None if shapes.heatmaps is None else shapes.heatmaps.float() * weights[:, None, None, None]
    if total is None:
        return ShapeSum(masks=masks, num_views=1, heatmaps=heatmaps, num_asked=weights)
    return ShapeSum(
        masks=masks if total.masks is None or masks is None else total.masks + masks,
        num_views=total.num_views + 1,
        heatmaps=heatmaps if total.heatmaps is None or heatmaps is None else total.heatmaps + heatmaps,
        num_asked=total.num_asked + weights,
    )


def mean_shapes(total: ShapeSum) -> Shapes:
    """The mean over the views; the evaluation's own view is always asked, so no count is zero."""
    heatmaps = total.heatmaps
    return Shapes(
        masks=None if total.masks is None else total.masks / total.num_views,
        heatmaps=None if heatmaps is None else heatmaps / total.num_asked[:, None, None, None],
    )
