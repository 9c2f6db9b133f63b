"""Why boxes lose AP: error types, each with the AP50 that mending it alone would win. No torch.

Source: Bolya et al. 2020, TIDE: A General Toolbox for Identifying Object Detection Errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from groundup.errors import DataError
from groundup.metrics.coco_ap import STANDARD_LIMIT, build_evaluator, check_document, count_instances
from groundup.metrics.results import Document, Result, check_results

TIDE_FOUND, TIDE_BACKGROUND = 0.5, 0.1
"""IoU from which a detection finds, and up to which it lies on background. Source: Bolya et al. 2020."""
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
class BoxErrors:
    """Where AP50 of boxes is lost, by type of error, as TIDE defines them."""

    AP50: float
    """0 .. 1."""
    lost: dict[str, float]
    """AP50 won, 0 .. 1, if the errors of one type alone were mended. They do not add up."""
    counts: dict[str, int]


def box_errors(
    document: Document,
    results: Sequence[Result],
    max_detections: int = STANDARD_LIMIT["bbox"],
    *,
    source: str = "results",
) -> BoxErrors:
    """Error types of box detections (Bolya et al. 2020, TIDE).

    A category of which all instances are missed gains nothing by mending that here, where the authors'
    program leaves it out of the mean.

    Raises:
        DataError: results or annotations that cannot be scored, annotations without an instance.
    """
    check_document(document)
    checked = check_results(document, results, "bbox", source=source)
    if not count_instances(document):
        raise DataError("annotations: hold no instance, so there are no errors to tell apart")
    evaluator = build_evaluator(document, results, checked, [max_detections], source)
    evaluator.evaluate()
    found = evaluator.tide_errors(pos_thr=TIDE_FOUND, bg_thr=TIDE_BACKGROUND)
    return BoxErrors(
        AP50=float(found["ap_base"]),
        lost={name: float(found["delta_ap"][key]) for key, name in TIDE_ERRORS.items()},
        counts={name: int(found["counts"][key]) for key, name in TIDE_ERRORS.items()},
    )
