"""Photographs as test-time augmentation looks at them: each decoded once, its views made one at a time.

Legend:
    H, W  height and width of a photograph     K  classes     P  keypoints
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from groundup.data.coco import Category
from groundup.data.collate import build_batch, build_sample, padded_size
from groundup.data.geometry import mirror_table
from groundup.data.images import ImagePolicy, decode_image
from groundup.data.keypoints import keypoints_of
from groundup.data.loader import (
    Annotated,
    LoaderOptions,
    Refusal,
    Request,
    evaluation_requests,
    load_batches,
    made_or_refused,
)
from groundup.data.transforms import TransformOptions, resized_size, view_image, whole_view
from groundup.data.truth import no_truth
from groundup.structures import Batch, BatchView


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One way to look at any photograph."""

    short_side: int
    """Pixels."""
    max_side: int
    """The longer side stays within so many pixels."""
    flip: bool
    """Whether left and right change places."""
    size_change: int
    """-1, 0 or 1: smaller than, as large as, or larger than evaluation itself."""


def plan_looks(
    transforms: TransformOptions, scales: Sequence[int], max_side: int, *, flip: bool
) -> tuple[Look, ...]:
    """The evaluation's own look and those at other scales, smallest first, each followed by its mirror image.

    Args:
        transforms: hold the evaluation's own sides.
        scales: shorter sides in pixels, in any order; the evaluation's own adds nothing.
        max_side: of the other scales.
        flip: whether there are mirror images.
    """
    own = transforms.test_short_side
    limits = dict.fromkeys(scales, max_side) | {own: transforms.test_max_side}
    return tuple(
        Look(
            short_side=scale,
            max_side=limits[scale],
            flip=is_flipped,
            size_change=(scale > own) - (scale < own),
        )
        for scale in sorted(limits)
        for is_flipped in ((False, True) if flip else (False,))
    )


def padded_sizes(
    size: tuple[int, int], looks: Sequence[Look], transforms: TransformOptions
) -> tuple[tuple[int, int], ...]:
    """(height, width) to which each look at a photograph of the size is padded where it is alone.

    Photographs that agree in it can share a batch without one seeing the other: a group norm sees padding.
    """
    rounding = transforms.rounding
    return tuple(padded_size(resized_size(size, look.short_side, look.max_side, rounding)) for look in looks)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotographViews:
    """The views of some photographs; each is made when iteration comes to it, and not kept."""

    photographs: tuple[UInt8[Tensor, "_ _ 3"], ...]
    """RGB as decoded."""
    image_ids: tuple[int, ...]
    looks: tuple[Look, ...]
    rounding: Literal["nearest", "down"]
    mirrors: Int[Tensor, "K P"] | None

    def __iter__(self) -> Iterator[BatchView]:
        """One batch of all photographs for each look."""
        for look in self.looks:
            yield BatchView(
                batch=self.batch(look),
                is_flipped=look.flip,
                size_change=look.size_change,
                mirrors=self.mirrors,
            )

    def batch(self, look: Look) -> Batch:
        """The photographs looked at in one way."""
        samples = []
        for photograph, image_id in zip(self.photographs, self.image_ids, strict=True):
            size = (photograph.shape[0], photograph.shape[1])
            scaled = resized_size(size, look.short_side, look.max_side, self.rounding)
            image = view_image(photograph.numpy(), whole_view(size, scaled, flip=look.flip))
            samples.append(build_sample(image, no_truth(), size, image_id, 0))
        return build_batch(samples)


def photograph_views(
    photographs: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    image_ids: Sequence[int],
    looks: Sequence[Look],
    transforms: TransformOptions,
    categories: Sequence[Category],
) -> PhotographViews:
    """The views of decoded photographs."""
    num_keypoints = keypoints_of(categories)
    pairs = [category.flip_pairs for category in categories]
    mirrors = torch.from_numpy(mirror_table(pairs, num_keypoints)) if num_keypoints else None
    return PhotographViews(
        photographs=tuple(torch.from_numpy(photograph) for photograph in photographs),
        image_ids=tuple(image_ids),
        looks=tuple(looks),
        rounding=transforms.rounding,
        mirrors=mirrors,
    )


class ViewSource(Dataset[PhotographViews | Refusal]):
    """Decodes the requested photographs."""

    def __init__(
        self, index: Annotated, transforms: TransformOptions, looks: Sequence[Look], policy: ImagePolicy
    ) -> None:
        """Keep what every request needs."""
        self.index = index
        self.transforms = transforms
        self.looks = tuple(looks)
        self.policy = policy

    def __getitem__(self, request: Request) -> PhotographViews | Refusal:
        """The photographs, or every one of them that cannot be used."""
        decoded = made_or_refused(self.photograph, request.rows)
        if isinstance(decoded, Refusal):
            return decoded
        return photograph_views(
            [photograph for _, photograph in decoded],
            [image_id for image_id, _ in decoded],
            self.looks,
            self.transforms,
            self.index.categories,
        )

    def photograph(self, row: int) -> tuple[int, UInt8[np.ndarray, "_ _ 3"]]:
        """The row's image id and photograph."""
        size = (int(self.index.sizes[row, 0]), int(self.index.sizes[row, 1]))
        return int(self.index.image_ids[row]), decode_image(self.index.path(row), size, self.policy)


def evaluation_views(
    index: Annotated,
    transforms: TransformOptions,
    options: LoaderOptions,
    looks: Sequence[Look],
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    policy: ImagePolicy | None = None,
) -> Iterator[PhotographViews]:
    """Every photograph once, as `evaluation_batches` takes those that are alike, with all its views.

    What waits ahead are decoded photographs; the views of `batch_size` of them are made by whoever iterates.

    Raises:
        DataError: an unusable photograph, or a worker that died or hangs.
    """
    sizes = [(int(height), int(width)) for height, width in index.sizes]
    kinds = [padded_sizes(size, looks, transforms) for size in sizes]
    requests = evaluation_requests(index.num_images, batch_size, rank, world_size, kinds)
    return load_batches(ViewSource(index, transforms, looks, policy or ImagePolicy()), requests, options)
