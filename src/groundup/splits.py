"""The photographs of a recipe, opened: share drawn, categories compared; with them a run has an identity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groundup.data.coco import Category, Index, open_index
from groundup.data.keypoints import with_keypoints
from groundup.data.subset import subset_rows
from groundup.errors import DataError, UsageError
from groundup.recipe import DataOptions, Recipe, SplitOptions
from groundup.run_folder import identity_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """The opened data of a recipe."""

    train: Index
    val: Index
    left_out: Mapping[str, int]
    """Training images that an option left out, by the reason as a message says it."""


def open_split(options: SplitOptions, name: str, data: DataOptions, *, masks: bool) -> Index:
    """The index of one split; a detector without masks reads none.

    Raises:
        UsageError: the split is not given.
        DataError: it cannot be used.
    """
    if options.annotations is None:
        raise UsageError(
            f"no data: set data.{name}.annotations=FILE.json and data.{name}.images=FOLDER "
            "(`groundup data convert` makes COCO json of Pascal VOC and YOLO sets)"
        )
    return open_index(
        options.annotations, options.images, masks=masks, max_dropped_ratio=data.max_dropped_ratio
    )


def open_splits(recipe: Recipe) -> Splits:
    """Both splits, the training share drawn, their categories compared.

    Raises:
        DataError: nothing to learn from, or nothing that the model learns, or val has categories of its own.
    """
    data, masks = recipe.data, recipe.model.mask_head is not None
    pastes = recipe.transforms.copy_paste is not None
    train_index = open_split(data.train, "train", data, masks=masks or pastes)
    val_index = open_split(data.val, "val", data, masks=masks)
    if masks and not train_index.has_masks:
        raise DataError(
            f"{data.train.annotations}: has no masks to train a mask head; choose a faster_rcnn recipe, "
            "or set model.mask_head=null"
        )
    if pastes and not train_index.has_masks:
        raise DataError(
            f"{data.train.annotations}: has no masks to cut out by; set transforms.copy_paste=null"
        )
    refuse_unknown_categories(val_index, train_index.categories)
    num_listed = train_index.num_images
    if recipe.model.keypoint_head is not None or data.min_keypoints:
        train_index = with_keypoints(train_index, data.min_keypoints)
    num_left_out = num_listed - train_index.num_images
    train_index = train_index.with_difficult(data.difficult)
    if data.fraction < 1 or data.images is not None:
        rows = subset_rows(train_index, data.fraction, data.fraction_seed, data.images)
        train_index = train_index.subset(rows)
    if not train_index.num_usable.any():
        raise DataError(
            f"{data.train.annotations}: no image has a usable instance; run `groundup data check` on it"
        )
    reason = f"fewer than {data.min_keypoints} labelled keypoints (data.min_keypoints)"
    return Splits(train=train_index, val=val_index, left_out={reason: num_left_out} if num_left_out else {})


def refuse_unknown_categories(index: Index, trained: Sequence[Category]) -> None:
    """Refuse to judge by categories that training does not know; it may know others besides.

    Raises:
        DataError: naming them.
    """
    known = {(category.id, category.name) for category in trained}
    unknown = [f"{c.id} '{c.name}'" for c in index.categories if (c.id, c.name) not in known]
    if unknown:
        raise DataError(
            f"{index.annotations}: categories that training does not know: {', '.join(unknown[:5])}; "
            "give both files the same categories"
        )


def identity(recipe: Recipe, splits: Splits, weights_digest: str | None) -> dict[str, Any]:
    """`run_folder.identity_of` a detector's run; what is done about shared photographs moves no weight."""
    values = identity_of(recipe, splits.train.digest, splits.val.digest, weights_digest)
    values["data"].pop("overlap")
    return values
