"""Batches in a few shapes, so that a step is compiled, or captured, once for each.

Images are padded to one of a fixed set of sizes, and truth to the least of a ladder of capacities, each rung
twice the one before: a batch never fails for what it holds, and shapes stay countable.

Legend:
    V  edges     S  polygons     M  bitmaps
"""

from collections.abc import Sequence
from dataclasses import replace

import torch.nn.functional as F  # noqa: N812 - the name the field uses
from jaxtyping import Int
from pydantic import Field, model_validator
from torch import Tensor

from groundup.config import Options
from groundup.data.collate import PAD_MULTIPLE
from groundup.errors import DataError
from groundup.structures import Batch, MaskBounds, Masks

Size = tuple[int, int]
"""(height, width)."""


class BucketOptions(Options):
    """The shapes of training batches. Truth beyond a number is padded to twice that, four times ..."""

    sizes: tuple[Size, ...] = ((800, 1088), (1088, 800), (800, 1344), (1344, 800), (1344, 1344))
    """(height, width) of padded images, multiples of 32; a batch goes to the least in area that holds it. The
    default is for shorter sides of 800 and longer ones of at most 1333, photographs of 4:3 first."""
    instances: int = Field(32, ge=1)
    """Instances of an image."""
    polygons: int = Field(64, ge=1)
    """Polygons of an image."""
    edges: int = Field(2048, ge=1)
    """Edges of an image's polygons."""
    instance_polygons: int = Field(8, ge=1)
    """Polygons of an instance."""
    instance_edges: int = Field(512, ge=1)
    """Edges of an instance's polygons. This and the one before cost time in every step, the others little."""
    bitmap_side: int = Field(256, ge=1)
    """Longer side of an instance's bitmap; bitmaps are of annotations in RLE, or of
    `transforms.mask_format=bitmaps`."""

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> "BucketOptions":
        """Refuse no sizes, and sizes that strides do not divide."""
        odd = [size for size in self.sizes if min(size) < 1 or any(side % PAD_MULTIPLE for side in size)]
        if odd or not self.sizes:
            raise ValueError(
                f"buckets.sizes is {list(self.sizes)}, but needs at least one (height, width), "
                f"all multiples of {PAD_MULTIPLE}"
            )
        return self

    def holds(self, size: Size) -> bool:
        """Whether there is a size for a batch of images within (height, width)."""
        return any(high >= size[0] and wide >= size[1] for high, wide in self.sizes)


def bucket_of(size: Size, options: BucketOptions) -> Size:
    """The least size in area, the first of equals, that holds images of (height, width).

    Raises:
        DataError: none does.
    """
    fitting = [one for one in options.sizes if one[0] >= size[0] and one[1] >= size[1]]
    if not fitting:
        raise DataError(
            f"a batch needs {size[0]} x {size[1]} pixels, but none of transforms.buckets.sizes "
            f"{list(options.sizes)} holds it: add one"
        )
    return min(fitting, key=lambda one: one[0] * one[1])


def pad_truth(batch: Batch, options: BucketOptions) -> Batch:
    """The batch with its truth padded to a rung of the ladder; no loss changes."""
    before = batch.labels.shape[1]
    slots = rung([(before, options.instances)], options.instances)
    more = slots - before
    keypoints = batch.keypoints
    return replace(
        batch,
        boxes=F.pad(batch.boxes, (0, 0, 0, more)),
        labels=F.pad(batch.labels, (0, more), value=-1),
        keypoints=None if keypoints is None else F.pad(keypoints, (0, 0, 0, 0, 0, more)),
        masks=None
        if batch.masks is None
        else pad_masks(batch.masks, batch.num_images, before, slots, options),
    )


def pad_masks(masks: Masks, num_images: int, before: int, slots: int, options: BucketOptions) -> Masks:
    """The masks with rows for `slots` instances an image in place of `before`, padded, and their bounds.

    What is added belongs to a row that no instance has. Polygons and bitmaps stand on rungs of their own; a
    kind that the batch has none of is left out, but there is always one.
    """
    nobody = num_images * slots
    polygon_rows = moved_rows(masks.polygon_instance, before, slots)
    bitmap_rows = moved_rows(masks.bitmap_instance, before, slots)
    sides = masks.bitmap_boxes[:, 2:] - masks.bitmap_boxes[:, :2]
    has_bitmaps = len(bitmap_rows) > 0
    polygons, edges = num_images * options.polygons, num_images * options.edges
    factor = rung(
        [
            (len(polygon_rows) + 1, polygons),  # one at least belongs to nobody, and so do added edges
            (len(masks.edges), edges),
            (most_of(polygon_rows), options.instance_polygons),
            (most_of(polygon_rows[masks.edge_polygon]), options.instance_edges),
        ],
        1,
    ) * int(len(masks.edges) > 0 or not has_bitmaps)
    pixels = num_images * options.bitmap_side**2
    grown = rung(
        [
            (int(sides.max()) if has_bitmaps else 0, options.bitmap_side),
            (len(bitmap_rows), num_images * options.instances),
            (len(masks.pixels), pixels),
        ],
        1,
    ) * int(has_bitmaps)
    return Masks(
        edges=F.pad(masks.edges, (0, 0, 0, edges * factor - len(masks.edges))),
        edge_polygon=lengthened(masks.edge_polygon, edges * factor, len(polygon_rows)),
        polygon_instance=lengthened(polygon_rows, polygons * factor, nobody),
        pixels=lengthened(masks.pixels, pixels * grown, 0),
        bitmap_boxes=F.pad(
            masks.bitmap_boxes, (0, 0, 0, num_images * options.instances * grown - len(bitmap_rows))
        ),
        bitmap_instance=lengthened(bitmap_rows, num_images * options.instances * grown, nobody),
        bounds=MaskBounds(
            edges=options.instance_edges * factor,
            polygons=options.instance_polygons * factor,
            height=options.bitmap_side * grown,
            width=options.bitmap_side * grown,
        ),
    )


def rung(needs: Sequence[tuple[int, int]], unit: int) -> int:
    """The unit times the least power of two by which every capacity holds its need.

    Args:
        needs: (need, capacity) pairs.
        unit: what is multiplied.
    """
    factor = 1
    while any(need > capacity * factor for need, capacity in needs):
        factor *= 2
    return unit * factor


def moved_rows(rows: Int[Tensor, " S"], before: int, slots: int) -> Int[Tensor, " S"]:
    """Flat instance rows image * before + slot as image * slots + slot."""
    return rows // max(1, before) * slots + rows % max(1, before)


def most_of(rows: Int[Tensor, " V"]) -> int:
    """How often the commonest row occurs."""
    return int(rows.bincount().max()) if len(rows) else 0


def lengthened(values: Tensor, length: int, value: int) -> Tensor:
    """The values, and the value until they are so many."""
    return F.pad(values, (0, length - len(values)), value=value)
