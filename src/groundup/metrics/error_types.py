"""Why detections lose AP: error types, each with the AP50 that mending it alone would win. No torch.

Source: Bolya et al. 2020, TIDE: A General Toolbox for Identifying Object Detection Errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from groundup.errors import DataError
from groundup.metrics.coco_ap import (
    STANDARD_LIMIT,
    build_evaluator,
    check_truth,
    evaluated_categories,
)
from groundup.metrics.results import Document, Kind, Result, check_results

TIDE_FOUND, TIDE_BACKGROUND = 0.5, 0.1
"""Overlap from which a detection finds, and up to which it lies on background. Source: Bolya et al. 2020, for
boxes and masks; of keypoints they say nothing, and the same is asked of OKS."""
TIDE_ERRORS = {
    "Cls": "classification",
    "Loc": "localisation",
    "Both": "both",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}
"""The six error types by the evaluator's names. Source: Bolya et al. 2020, section 2.2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorTypes:
    """Where AP50 of one kind is lost, by type of error, as TIDE defines them."""

    AP50: float
    """0 .. 1."""
    lost: dict[str, float]
    """AP50 won, 0 .. 1, if the errors of one type alone were mended. They do not add up."""
    counts: dict[str, int]


def tell_errors_apart(
    document: Document, results: Sequence[Result], kind: Kind, *, source: str = "results"
) -> ErrorTypes:
    """Error types of detections (Bolya et al. 2020, TIDE), by the overlap of their kind.

    That is IoU of boxes, IoU of masks or OKS, with COCO's limit of detections. A category of which all
    instances are missed gains nothing by mending that here, where the authors' program leaves it out of the
    mean.

    Raises:
        DataError: results or annotations that cannot be scored; annotations without an instance; keypoints
            of several categories, between which the evaluator compares boxes and not keypoints.
    """
    check_truth(document, kind)
    categories = evaluated_categories(document, kind)
    if kind == "keypoints" and len(categories) > 1:
        raise DataError(
            f"annotations: keypoints of {len(categories)} categories; which one is taken for another is told "
            "by boxes alone, so evaluate them one by one"
        )
    if not any(is_instance(one, kind) for one in document["annotations"] if one["category_id"] in categories):
        raise DataError("annotations: hold no instance, so there are no errors to tell apart")
    checked = check_results(document, results, kind, source=source)
    evaluator = build_evaluator(document, results, checked, [STANDARD_LIMIT[kind]], source)
    evaluator.evaluate()
    found = evaluator.tide_errors(pos_thr=TIDE_FOUND, bg_thr=TIDE_BACKGROUND)
    return ErrorTypes(
        AP50=float(found["ap_base"]),
        lost={name: float(found["delta_ap"][key]) for key, name in TIDE_ERRORS.items()},
        counts={name: int(found["counts"][key]) for key, name in TIDE_ERRORS.items()},
    )


def is_instance(annotation: dict[str, object], kind: Kind) -> bool:
    """Whether it is to be found: no crowd, and of keypoints at least one is labelled."""
    return not annotation.get("iscrowd", 0) and (kind != "keypoints" or bool(annotation.get("num_keypoints")))
