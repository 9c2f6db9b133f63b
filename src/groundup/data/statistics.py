"""A data set in numbers and in pictures.

Legend:
    H, W  height and width in pixels
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from groundup.data.coco import Index
from groundup.data.geometry import rasterise_polygons
from groundup.data.images import ImagePolicy, decode_image
from groundup.data.order import image_order
from groundup.data.truth import Bitmap, Polygons, Truth
from groundup.errors import DataError
from groundup.pictures import draw_instances, draw_sheet, plain_text, write_picture

AREA_LIMITS = (32**2, 96**2)
"""Square pixels between small, medium and large instances. Source: COCO's evaluation."""
PERCENTILES = (5, 50, 95)
PAGE_COLUMNS = 3
MAX_NAME_LENGTH = 40
"""Characters of a name in the table of categories."""
BAR_WIDTH = 30
"""Characters of the longest bar in the table of categories."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A data set in numbers; instances are the usable ones."""

    annotations: str
    num_images: int
    num_empty: int
    """Images without a usable instance: they are evaluated on, never learnt from."""
    num_instances: int
    num_dropped: int
    has_masks: bool
    num_keypoints: int
    categories: dict[str, int]
    """Instances of each, most first."""
    small_medium_large: tuple[int, int, int]
    """Instances by box area, COCO's limits."""
    instances_per_image: tuple[float, ...]
    """5th, 50th and 95th percentile."""
    short_side: tuple[float, ...]
    long_side: tuple[float, ...]
    box_size: tuple[float, ...]
    """Square root of the box's area in pixels."""

    def to_json(self) -> dict[str, Any]:
        """The description as JSON values."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """The description as text."""

        def spread(values: tuple[float, ...]) -> str:
            """Median with the 5th and 95th percentile."""
            return f"{values[1]:.0f}  (5 % below {values[0]:.0f}, 5 % above {values[2]:.0f})"

        small, medium, large = self.small_medium_large
        yield f"{self.annotations}"
        yield f"images               {self.num_images:,}, {self.num_empty:,} of them without usable instances"
        yield f"instances            {self.num_instances:,} usable, {self.num_dropped:,} dropped"
        yield f"                     {small:,} small, {medium:,} medium, {large:,} large"
        yield f"masks, keypoints     {'yes' if self.has_masks else 'no'}, {self.num_keypoints or 'no'}"
        yield f"instances an image   {spread(self.instances_per_image)}"
        yield f"shorter side         {spread(self.short_side)} pixels"
        yield f"longer side          {spread(self.long_side)} pixels"
        yield f"instance size        {spread(self.box_size)} pixels, root of the box's area"
        names = [plain_text(name, MAX_NAME_LENGTH) for name in self.categories]
        width, most = max(map(len, names), default=0), max([1, *self.categories.values()])
        for name, count in zip(names, self.categories.values(), strict=True):
            yield f"{name:{width}}  {count:>8,}  {'#' * round(BAR_WIDTH * count / most)}"


def percentiles(values: np.ndarray) -> tuple[float, ...]:
    """The 5th, 50th and 95th percentile; zeros of nothing."""
    if not len(values):
        return (0.0,) * len(PERCENTILES)
    return tuple(float(value) for value in np.percentile(values, PERCENTILES))


def describe_index(index: Index) -> Description:
    """Count what the data set holds."""
    labels, areas = [], []
    for row in range(index.num_images):
        truth = index.truth(row)
        labels.append(truth.labels)
        areas.append((truth.boxes[:, 2] - truth.boxes[:, 0]) * (truth.boxes[:, 3] - truth.boxes[:, 1]))
    area = np.concatenate(areas) if areas else np.zeros(0)
    counts = np.bincount(np.concatenate(labels) if labels else [], minlength=len(index.categories))
    order = np.argsort(-counts, kind="stable")
    bins = np.searchsorted(AREA_LIMITS, area, side="right")
    small, medium, large = np.bincount(bins, minlength=3).tolist()
    return Description(
        annotations=str(index.annotations),
        num_images=index.num_images,
        num_empty=int((index.num_usable == 0).sum()),
        num_instances=int(counts.sum()),
        num_dropped=sum(len(ids) for ids in index.dropped.values()),
        has_masks=index.has_masks,
        num_keypoints=index.num_keypoints,
        categories={index.categories[label].name: int(counts[label]) for label in order},
        small_medium_large=(small, medium, large),
        instances_per_image=percentiles(np.asarray(index.num_usable)),
        short_side=percentiles(index.sizes.min(axis=1)),
        long_side=percentiles(index.sizes.max(axis=1)),
        box_size=percentiles(np.sqrt(area)),
    )


def whole_mask(mask: Polygons | Bitmap, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The mask on the whole image."""
    bitmap = (rasterise_polygons(mask, *size) if mask else None) if isinstance(mask, list) else mask
    canvas = np.zeros(size, bool)
    if bitmap is None:
        return canvas
    height, width = bitmap.pixels.shape
    canvas[bitmap.y : bitmap.y + height, bitmap.x : bitmap.x + width] = bitmap.pixels > 0
    return canvas


def draw_truth(index: Index, row: int, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """The photograph of a row with its annotations; tags where there is a choice of names."""
    return draw_annotated(index, index.truth(row), image)


def draw_annotated(
    index: Index, truth: Truth, image: UInt8[np.ndarray, "H W 3"]
) -> UInt8[np.ndarray, "_ _ 3"]:
    """A picture with its truth, whose labels are those of the index."""
    size = (image.shape[0], image.shape[1])
    return draw_instances(
        image,
        truth.boxes,
        [index.categories[label].name for label in truth.labels],
        masks=None if truth.masks is None else [whole_mask(mask, size) for mask in truth.masks],
        keypoints=truth.keypoints,
        tags=len(index.categories) > 1,
        skeleton=next((c.skeleton for c in index.categories if c.skeleton), ()),
    )


def draw_page(index: Index, path: Path, num_pictures: int, seed: int) -> None:
    """Write a page of pictures with their annotations, chosen by the seed among those with instances.

    Raises:
        DataError: there are none, or one of them cannot be read.
    """
    usable = np.flatnonzero(np.asarray(index.num_usable) > 0)
    if not len(usable):
        raise DataError(f"{index.annotations}: no image has a usable instance to draw")
    chosen = [
        usable[place] for place, _ in zip(image_order(len(usable), seed), range(num_pictures), strict=False)
    ]
    pictures, captions = [], []
    for row in sorted({int(row) for row in chosen}):
        size = (int(index.sizes[row, 0]), int(index.sizes[row, 1]))
        pictures.append(draw_truth(index, row, decode_image(index.path(row), size, ImagePolicy())))
        captions.append(f"{index.file_name(row)}, {int(index.num_usable[row])} instances")
    write_picture(path, draw_sheet(pictures, captions, PAGE_COLUMNS, str(index.annotations.name)))
