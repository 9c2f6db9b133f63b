"""The validation annotations of a study as its runs were scored on them."""

from pathlib import Path
from typing import Any

from groundup.data.coco import open_index
from groundup.errors import GroundupError
from groundup.metrics.results import Document
from groundup.records import read_json
from groundup.study.results import RECORD, RunResult, StudyResults


def scored_document(results: StudyResults, run: RunResult, notes: list[str]) -> Document | None:
    """The COCO document that the run was scored on; None, with a note, where it cannot be had."""
    if results.val_annotations is None:
        notes.append("the recipes name no validation annotations: errors and disagreements are left out")
        return None
    recipe = results.recipes.get(run.key, {})
    data = recipe.get("data", {})
    try:
        index = open_index(
            results.val_annotations,
            results.val_images,
            masks=(recipe.get("model") or {}).get("mask_head") is not None,
            max_dropped_ratio=float(data.get("max_dropped_ratio", 1.0)),
        )
        document = index.document()
    except GroundupError as error:
        notes.append(f"errors and disagreements are left out: {error}")
        return None
    return {**document, "categories": trained_categories(run, document)}


def trained_categories(run: RunResult, document: Document) -> list[dict[str, Any]]:
    """The categories that the run was trained on, of which the validation set may lack some."""
    path: Path = run.folder / RECORD
    found = read_json(path).get("categories") if path.exists() else None
    return list(found or document["categories"])
