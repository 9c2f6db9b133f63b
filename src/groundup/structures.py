"""Records in memory, and the conventions every part keeps.

- Boxes are (x1, y1, x2, y2) in absolute pixels, float32, half-open: a box of width w covers the
  pixels x1 .. x1 + w - 1. COCO's (x, y, w, h) exists only at the edges (`data`, `metrics`).
- Labels count foreground classes from 0; padding is -1; background is not a label.
- Images are RGB, uint8, (3, H, W). Sizes are (height, width).
- Keypoints are (x, y, visibility), visibility 0 (absent), 1 (hidden) or 2 (seen), as in COCO; x and y are
  continuous like boxes, the middle of a pixel at half-integers. COCO's files name the pixel by column and
  row: half a pixel is added where they are read (`data.coco`) and taken off where results are written
  (`engine.evaluate`).

Legend:
    B  images in a batch          H, W  height and width of the padded batch
    G  instance slots an image    P     keypoints an instance
    S  polygons of a batch        E     edges of all polygons
    M  bitmaps of a batch         N     detections of one image
    K  classes
"""

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

RecordKind = TypeVar("RecordKind", bound="Record")
"""In place of `typing.Self`, which beartype refuses where jaxtyping decorates methods one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Base of records of tensors that travel together."""

    def map(self: RecordKind, change: Any) -> RecordKind:
        """The record with `change` applied to every tensor, also inside records it holds."""
        changed: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = change(value)
            elif isinstance(value, Record):
                changed[field.name] = value.map(change)
        return replace(self, **changed)

    def to(self: RecordKind, device: torch.device | str, *, non_blocking: bool = True) -> RecordKind:
        """The record on the device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self: RecordKind) -> RecordKind:
        """The record in page-locked memory, from which copies to a GPU overlap with work."""
        return self.map(lambda tensor: tensor.pin_memory())


@dataclass(frozen=True, slots=True)
class MaskBounds:
    """What no instance of a batch exceeds; with it, targets have shapes that the data do not change."""

    edges: int
    """Edges of an instance, all its polygons together."""
    polygons: int
    """Polygons of an instance."""
    height: int
    """Rows of a bitmap."""
    width: int
    """Columns of a bitmap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks(Record):
    """Instance masks: vectors where the annotation is polygons, box-aligned bitmaps where it is RLE.

    An instance never exists as a full-image bitmap. `instance` rows count flat over the batch:
    image * G + slot (in a `Sample`: the slot). Each instance has polygons or one bitmap, not both.
    """

    edges: Float[Tensor, "E 4"]
    """(x1, y1, x2, y2) of each directed edge; the edges of one polygon are consecutive and close it."""
    edge_polygon: Int[Tensor, " E"]
    """Row in `polygon_instance` of the polygon each edge belongs to; non-decreasing."""
    polygon_instance: Int[Tensor, " S"]
    """Flat instance row of each polygon; non-decreasing. An instance is the union of its polygons."""
    pixels: UInt8[Tensor, " pixels"]
    """Values 0 or 1 of all bitmaps, row by row, one bitmap after the other."""
    bitmap_boxes: Int[Tensor, "M 4"]
    """(x1, y1, x2, y2) region of the image each bitmap covers. A bitmap has a margin of one pixel
    round the mask; where the margin lies outside the image it repeats the border pixel (so the
    region may reach one pixel beyond it), and RoIAlign on it equals RoIAlign on the whole image."""
    bitmap_instance: Int[Tensor, " M"]
    """Flat instance row of each bitmap; increasing, but for padding."""
    bounds: MaskBounds | None = None
    """Where it is given, polygons and bitmaps may be padded at the end with ones of a row that no instance
    has; None: not counted, and a GPU is asked and waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Record):
    """One image and what it truly holds, after the transforms. G counts its instances, unpadded."""

    image: UInt8[Tensor, "3 H W"]
    boxes: Float[Tensor, "G 4"]
    labels: Int[Tensor, " G"]
    masks: Masks | None
    keypoints: Float[Tensor, "G P 3"] | None
    original_size: tuple[int, int]
    """(height, width) of the photograph before any transform."""
    image_id: int
    """The id in the user's annotation file."""
    seed: int
    """Names the sample's own random stream: a function of (seed of the run, position in the order)."""

    def __post_init__(self) -> None:
        """Refuse a sample whose parts disagree."""
        if len(self.boxes) != len(self.labels):
            raise ValueError(
                f"{len(self.boxes)} boxes but {len(self.labels)} labels in image {self.image_id}"
            )
        if self.keypoints is not None and len(self.keypoints) != len(self.boxes):
            raise ValueError(
                f"{len(self.boxes)} boxes but {len(self.keypoints)} keypoint sets in image {self.image_id}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Record):
    """Padded samples, ready to move to a device."""

    images: UInt8[Tensor, "B 3 H W"]
    """Padded at the bottom and right, to multiples of 32, with zeros; normalised by the model."""
    sizes: Int[Tensor, "B 2"]
    """(height, width) of the valid part of each image."""
    original_sizes: Int[Tensor, "B 2"]
    """(height, width) of each photograph before any transform."""
    boxes: Float[Tensor, "B G 4"]
    """Rows beyond an image's instances are zero."""
    labels: Int[Tensor, "B G"]
    """-1 in rows beyond an image's instances."""
    masks: Masks | None
    keypoints: Float[Tensor, "B G P 3"] | None
    image_ids: Int[Tensor, " B"]
    seeds: Int[Tensor, " B"]
    """Random stream of each sample; whatever a step draws at random is a function of these, so it
    depends neither on how samples are grouped in batches nor on restarts."""

    @property
    def num_images(self) -> int:
        """Images in the batch."""
        return self.images.shape[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections(Record):
    """What the detector found in one image, in pixels of the original photograph, best score first."""

    boxes: Float[Tensor, "N 4"]
    scores: Float[Tensor, " N"]
    labels: Int[Tensor, " N"]
    masks: Float[Tensor, "N side side"] | None
    """Mask probabilities on a grid over each box; `ops.masks.paste_masks` makes pixels of them."""
    keypoints: Float[Tensor, "N P 3"] | None
    """(x, y, score) of each keypoint; the score is a probability of the place, see `ops.keypoints`."""
    image_id: int
    size: tuple[int, int]
    """(height, width) of the original photograph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes(Record):
    """What heads see inside the boxes of one image, on grids over each box, before it is decoded."""

    masks: Float[Tensor, "N side side"] | None
    """Probabilities."""
    heatmaps: Float[Tensor, "N P cells cells"] | None
    """Logits of each keypoint's place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView(Record):
    """Photographs in one of the ways in which test-time augmentation looks at them."""

    batch: Batch
    """Sizes and seeds as ever; `original_sizes` are those of the photographs."""
    is_flipped: bool
    """Whether left and right have changed places, in positions of the original photograph too."""
    size_change: int
    """-1, 0 or 1: photographs smaller than, as large as, or larger than evaluation itself shows them."""
    mirrors: Int[Tensor, "K P"] | None
    """For each class and keypoint, the keypoint that takes its place in a mirror; None without keypoints."""
