"""From transformed photographs to a `Sample`, and from samples to a padded `Batch`.

Legend:
    H, W  height and width of an image     G  instances of an image
    S     polygons                         V  points of all polygons
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from groundup.data.truth import Bitmap, Truth
from groundup.structures import Batch, Masks, Sample

PAD_MULTIPLE = 32
"""Padded sides are multiples of the coarsest feature stride that must divide them. Source: FPN, C5."""


def build_sample(
    image: UInt8[np.ndarray, "H W 3"],
    truth: Truth,
    original_size: tuple[int, int],
    image_id: int,
    seed: int,
) -> Sample:
    """The tensors of one transformed photograph; the image shares the array's memory.

    Args:
        image: RGB, after the transforms.
        truth: in pixels of `image`.
        original_size: (height, width) of the photograph before the transforms.
        image_id: the id in the user's annotation file.
        seed: of the sample.
    """
    return Sample(
        image=torch.from_numpy(image).permute(2, 0, 1),
        boxes=torch.from_numpy(truth.boxes),
        labels=torch.from_numpy(truth.labels),
        masks=None if truth.masks is None else build_masks(truth, (image.shape[0], image.shape[1])),
        keypoints=None if truth.keypoints is None else torch.from_numpy(truth.keypoints),
        original_size=original_size,
        image_id=image_id,
        seed=seed,
    )


def build_masks(truth: Truth, size: tuple[int, int]) -> Masks:
    """The instances' masks as flat tensors: edges of the polygons, pixels of the bitmaps.

    Args:
        truth: with masks.
        size: (height, width) of the image, beyond which a bitmap's margin repeats the border.
    """
    masks = truth.masks or []
    rings = [(ring, row) for row, mask in enumerate(masks) if isinstance(mask, list) for ring in mask]
    edges, edge_polygon = ring_edges([ring for ring, _ in rings])
    bitmaps = [(row, *with_margin(mask, size)) for row, mask in enumerate(masks) if isinstance(mask, Bitmap)]
    pixels = [pixels.ravel() for _, _, pixels in bitmaps]
    return Masks(
        edges=torch.from_numpy(edges),
        edge_polygon=torch.from_numpy(edge_polygon),
        polygon_instance=torch.tensor([row for _, row in rings], dtype=torch.int64),
        pixels=torch.from_numpy(np.concatenate(pixels) if pixels else np.zeros(0, np.uint8)),
        bitmap_boxes=torch.tensor([box for _, box, _ in bitmaps], dtype=torch.int64).reshape(-1, 4),
        bitmap_instance=torch.tensor([row for row, _, _ in bitmaps], dtype=torch.int64),
    )


def ring_edges(rings: list[np.ndarray]) -> tuple[Float32[np.ndarray, "V 4"], Int64[np.ndarray, " V"]]:
    """(x1, y1, x2, y2) of every edge, each ring closed by its last, and the ring of each edge."""
    if not rings:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    lengths = np.array([len(ring) for ring in rings])
    points = np.concatenate(rings).astype(np.float32, copy=False)
    following = np.arange(1, len(points) + 1)
    ends = lengths.cumsum()
    following[ends - 1] = ends - lengths
    return np.concatenate([points, points[following]], axis=1), np.repeat(np.arange(len(rings)), lengths)


def with_margin(
    mask: Bitmap, size: tuple[int, int]
) -> tuple[tuple[int, int, int, int], UInt8[np.ndarray, "h w"]]:
    """The bitmap's region (x1, y1, x2, y2) and pixels with the margin that `Masks.bitmap_boxes` asks for.

    Inside the image the margin is empty; beyond it, it repeats the border, margin included.
    """
    height, width = mask.pixels.shape
    x1, y1, x2, y2 = mask.x - 1, mask.y - 1, mask.x + width + 1, mask.y + height + 1
    outside = ((int(y1 < 0), int(y2 > size[0])), (int(x1 < 0), int(x2 > size[1])))
    inside = tuple((1 - before, 1 - after) for before, after in outside)
    return (x1, y1, x2, y2), np.pad(np.pad(mask.pixels, inside), outside, mode="edge")


def padded_size(size: tuple[int, int], multiple: int = PAD_MULTIPLE) -> tuple[int, int]:
    """The least (height, width) of whole multiples that holds the size."""
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def build_batch(
    samples: Sequence[Sample], multiple: int = PAD_MULTIPLE, smallest: tuple[int, int] = (1, 1)
) -> Batch:
    """The samples padded to one size, ready to move to a device.

    Args:
        samples: at least one.
        multiple: height and width of the padded images are multiples of it.
        smallest: (height, width) that the padded images have at least; large-scale jitter asks for
            its square, so that all batches have one shape.

    Raises:
        ValueError: no samples.
    """
    if not samples:
        raise ValueError("a batch needs at least one sample")
    num_slots = max(1, *(len(sample.boxes) for sample in samples))
    sizes = torch.tensor([sample.image.shape[1:] for sample in samples], dtype=torch.int64)
    limits = torch.maximum(sizes.amax(dim=0), torch.tensor(smallest))
    height, width = padded_size((int(limits[0]), int(limits[1])), multiple)
    images = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
    boxes = torch.zeros(len(samples), num_slots, 4)
    labels = torch.full((len(samples), num_slots), -1, dtype=torch.int64)
    for row, sample in enumerate(samples):
        # Images come as interleaved bytes; this one copy takes them apart and pads them.
        images[row, :, : sample.image.shape[1], : sample.image.shape[2]] = sample.image
        boxes[row, : len(sample.boxes)] = sample.boxes
        labels[row, : len(sample.labels)] = sample.labels
    return Batch(
        images=images,
        sizes=sizes,
        original_sizes=torch.tensor([sample.original_size for sample in samples], dtype=torch.int64),
        boxes=boxes,
        labels=labels,
        masks=join_masks([sample.masks for sample in samples], num_slots),
        keypoints=join_keypoints([sample.keypoints for sample in samples], num_slots),
        image_ids=torch.tensor([sample.image_id for sample in samples], dtype=torch.int64),
        seeds=torch.tensor([sample.seed for sample in samples], dtype=torch.int64),
    )


def join_masks(masks: Sequence[Masks | None], num_slots: int) -> Masks | None:
    """The masks of all images with flat instance rows image * num_slots + slot; None if one has none."""
    known = [mask for mask in masks if mask is not None]
    if len(known) < len(masks):
        return None
    first_rows = range(0, len(known) * num_slots, num_slots)
    first_polygons = np.cumsum([0] + [len(mask.polygon_instance) for mask in known[:-1]]).tolist()
    return Masks(
        edges=torch.cat([mask.edges for mask in known]),
        edge_polygon=shifted([mask.edge_polygon for mask in known], first_polygons),
        polygon_instance=shifted([mask.polygon_instance for mask in known], first_rows),
        pixels=torch.cat([mask.pixels for mask in known]),
        bitmap_boxes=torch.cat([mask.bitmap_boxes for mask in known]),
        bitmap_instance=shifted([mask.bitmap_instance for mask in known], first_rows),
    )


def shifted(rows: Sequence[Tensor], firsts: Sequence[int]) -> Tensor:
    """The row numbers of all images, each image's raised by its first."""
    return torch.cat([row + first for row, first in zip(rows, firsts, strict=True)])


def join_keypoints(keypoints: Sequence[Tensor | None], num_slots: int) -> Tensor | None:
    """The keypoints of all images, zero in slots without an instance; None if one image has none."""
    known = [points for points in keypoints if points is not None]
    if len(known) < len(keypoints):
        return None
    joined = torch.zeros(len(known), num_slots, known[0].shape[1], 3)
    for row, points in enumerate(known):
        joined[row, : len(points)] = points
    return joined
