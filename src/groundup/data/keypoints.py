"""What of a data set can teach a keypoint head."""

from collections.abc import Sequence

import numpy as np

from groundup.data.coco import Index
from groundup.data.entries import Category
from groundup.errors import DataError


def keypoints_of(categories: Sequence[Category]) -> int:
    """Keypoints an instance; 0 without. Categories without any may stand beside those that have them."""
    return max((len(category.keypoints) for category in categories), default=0)


def with_keypoints(index: Index, least: int) -> Index:
    """The images with at least so many labelled keypoints, of a set that can teach a keypoint head.

    Raises:
        DataError: its categories name no keypoints, or differ in how many, or no image has so many.
    """
    counts = sorted({len(category.keypoints) for category in index.categories if category.keypoints})
    if not counts:
        raise DataError(
            f"{index.annotations}: its categories name no keypoints; use person_keypoints annotations, or "
            "set model.keypoint_head=null and data.min_keypoints=0"
        )
    if len(counts) > 1:
        raise DataError(
            f"{index.annotations}: its categories have {' and '.join(map(str, counts))} keypoints, but a "
            "keypoint head finds one number of them; leave all but one such category out"
        )
    labelled = index.num_labelled_keypoints
    rows = np.flatnonzero(labelled >= least)
    if not labelled[rows].any():
        raise DataError(
            f"{index.annotations}: none of the {index.num_images} images has {max(least, 1)} labelled "
            "keypoints; lower data.min_keypoints, or set model.keypoint_head=null"
        )
    return index if len(rows) == index.num_images else index.subset(rows)
