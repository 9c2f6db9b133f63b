"""A trained detector in use: open a run, detect in photographs, score, draw.

from groundup.detector import load_detector

detector = load_detector("runs/cells")
for found in detector.predict(["a.jpg", "b.jpg"]):
    print(found.boxes, found.scores, [detector.names[label] for label in found.labels])
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from groundup.classification import is_classifier_run
from groundup.config import fingerprint, override, read_tree, vary
from groundup.data.coco import Category, Index, open_index
from groundup.data.images import SUFFIXES, decode_image
from groundup.data.statistics import draw_truth
from groundup.data.views import photograph_views
from groundup.engine.checkpoint import load_weights
from groundup.engine.evaluate import Evaluation, EvaluationOptions, detect_batch, evaluate_results, results_of
from groundup.errors import CheckpointError, DataError
from groundup.metrics.results import kinds_of, read_results, resolve_names
from groundup.metrics.voc_ap import VocMetric
from groundup.models.rcnn import RCNN
from groundup.ops.masks import paste_masks
from groundup.pictures import draw_instances, draw_sheet, write_picture
from groundup.records import read_json, write_json
from groundup.run import (
    RECIPE,
    RECORD,
    Recipe,
    build_model,
    category_of,
    default_device,
    evaluate_detector,
    looks_of,
    open_split,
    refuse_unknown_categories,
)
from groundup.structures import Detections

DRAWN_SCORE = 0.5
"""Least score of a detection in a picture of an evaluation."""
DRAWN_KEYPOINT = 0.05
"""Least score of a keypoint in a picture. Source: Detectron2, `_KEYPOINT_THRESHOLD` of its visualizer."""
SHEET_COLUMNS = 4
"""Twice found beside true."""
MAX_STEM = 50
"""Characters of a photograph's name in that of its overlay: file systems allow 255 bytes."""

Report = Callable[[int, int], None]
"""Is told how many photographs are done, and of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """A trained detector, ready for photographs."""

    model: RCNN
    recipe: Recipe
    categories: tuple[Category, ...]
    folder: Path

    @property
    def names(self) -> list[str]:
        """Name of each label."""
        return [category.name for category in self.categories]

    def predict(self, photographs: Sequence[str | Path]) -> Iterator[Detections]:
        """Detections of each photograph, in its own pixels; `image_id` counts the photographs from 0.

        Raises:
            DataError: a photograph cannot be read.
        """
        for row, path in enumerate(photographs):
            image = decode_image(Path(path), None, self.recipe.data.policy)
            yield self.detect(image, row)

    def detect(self, image: UInt8[np.ndarray, "H W 3"], image_id: int = 0) -> Detections:
        """Detections of one RGB image, from several views of it if the recipe's evaluation says so."""
        evaluation, transforms = self.recipe.evaluation, self.recipe.transforms
        device = next(self.model.parameters()).device
        views = photograph_views([image], [image_id], looks_of(self.recipe), transforms, self.categories)
        shown = views if evaluation.tta else next(iter(views)).batch
        return detect_batch(self.model, shown, device, evaluation)[0]


def load_detector(folder: str | Path, *, device: torch.device | str | None = None) -> Detector:
    """The detector of a run at its newest checkpoint.

    Raises:
        CheckpointError: the folder is no run of a detector, or has no whole checkpoint.
    """
    folder = Path(folder)
    if not (folder / RECIPE).exists():
        raise CheckpointError(f"{folder}: not a run of groundup ({RECIPE} is missing)")
    if is_classifier_run(folder):
        raise CheckpointError(
            f"{folder}: is a run of a classifier, which detects nothing; a detector can begin from it "
            f"(groundup train RECIPE start={folder})"
        )
    recipe = read_tree(Recipe, read_json(folder / RECIPE))
    categories = tuple(category_of(record) for record in read_json(folder / RECORD)["categories"])
    model = build_model(recipe, categories)
    model.load_state_dict(load_weights(folder))
    model.to(device or default_device()).eval()
    return Detector(model=model, recipe=recipe, categories=categories, folder=folder)


def with_tta(detector: Detector, tta: str | None) -> Detector:
    """The detector with another test-time augmentation: a name, `null` for none, or options as YAML.

    None keeps what the recipe says.

    Raises:
        UsageError: no such name or options.
    """
    if tta is None:
        return detector
    return replace(detector, recipe=override(detector.recipe, [f"evaluation.tta={tta}"]))


def evaluate_run(
    folder: Path,
    annotations: Path | None = None,
    images: Path | None = None,
    *,
    max_detections: int | None = None,
    tta: str | None = None,
    voc: VocMetric | None = None,
    out: Path | None = None,
    num_pictures: int = 0,
    report: Report | None = None,
) -> Evaluation:
    """AP of a run's newest checkpoint on its own validation split, or on other annotations.

    `tta` replaces the recipe's test-time augmentation (see `with_tta`).

    Raises:
        CheckpointError: the folder is no run.
        UsageError: a limit of detections or a test-time augmentation that cannot be.
        DataError: the annotations cannot be used, or have categories that the run does not know.
    """
    detector = with_tta(load_detector(folder), tta)
    recipe = detector.recipe
    changes = given(max_detections=max_detections, voc=voc)
    recipe = vary(recipe, {f"evaluation.{name}": value for name, value in changes.items()})
    masks = detector.model.mask_head is not None
    if annotations is None:
        index = open_split(recipe.data.val, "val", recipe.data, masks=masks)
    else:
        index = open_index(annotations, images, masks=masks, max_dropped_ratio=recipe.data.max_dropped_ratio)
    refuse_unknown_categories(index, detector.categories)
    # Another set's scores have a folder of their own, or they would stand under the name of the run's.
    name = "newest" if annotations is None else f"newest_{index.digest[:12]}"
    name += "" if tta is None else f"_tta_{fingerprint(recipe.evaluation)}"
    where = out or folder / "evaluations" / name
    evaluation = evaluate_detector(
        detector.model,
        recipe,
        index,
        where,
        categories=detector.categories,
        progress=None if report is None else lambda done: report(done, index.num_images),
    )
    if num_pictures:
        draw_evaluation(detector, index, where / "pictures.png", num_pictures)
    return evaluation


def evaluate_foreign(
    results: Path,
    annotations: Path,
    images: Path | None,
    *,
    max_detections: int | None = None,
    voc: VocMetric | None = None,
    out: Path | None = None,
) -> Evaluation:
    """AP of a results json of any framework.

    Raises:
        UsageError: a limit of detections that cannot be.
        DataError: the results or annotations cannot be scored.
    """
    options = vary(EvaluationOptions(), given(max_detections=max_detections, voc=voc))
    found = read_results(results)
    index = open_index(annotations, images, masks="segm" in kinds_of(found))
    document = index.document()
    found, _ = resolve_names(document, found)
    by_kind = dict.fromkeys(kinds_of(found) or ("bbox",), found)
    return evaluate_results(document, by_kind, options, folder=out, source=str(results))


def given(**options: Any) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def photographs_in(paths: Sequence[Path]) -> list[Path]:
    """The photographs named, those of a named folder in the order of their names.

    Raises:
        DataError: a path that does not exist, or nothing found.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(one for one in path.iterdir() if one.suffix.lower() in SUFFIXES)
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"{path}: no such photograph or folder")
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no photographs found")
    return found


def predict_run(
    folder: Path,
    images: Sequence[Path],
    out: Path,
    *,
    threshold: float,
    tta: str | None = None,
    report: Report | None = None,
) -> list[dict[str, Any]]:
    """Detect in photographs; write an overlay each and `predictions.json` to the folder `out`.

    `tta` replaces the recipe's test-time augmentation (see `with_tta`).

    Returns:
        For each photograph its file, overlay, size and all detections (with category id and name); the
        overlay shows those of at least the threshold.

    Raises:
        CheckpointError: the folder is no run.
        UsageError: a test-time augmentation that cannot be.
        DataError: photographs that cannot be read, all of them named; the others are written.
    """
    detector = with_tta(load_detector(folder), tta)
    ids = [category.id for category in detector.categories]
    names = dict(zip(ids, detector.names, strict=True))
    records, faults = [], []
    photographs = photographs_in(images)
    for number, path in enumerate(photographs):
        try:
            image = decode_image(path, None, detector.recipe.data.policy)
        except DataError as error:
            faults.append(str(error))
            continue
        found = detector.detect(image, number)
        overlay = out / f"{number:04d}-{path.stem[:MAX_STEM]}.png"
        write_picture(overlay, draw_detections(detector, image, found, threshold))
        by_kind = results_of(found, ids, paste=detector.recipe.evaluation.paste)
        merged = [
            {**{key: value for result in parts for key, value in result.items() if key != "image_id"},
             "category": names[parts[0]["category_id"]]}
            for parts in zip(*by_kind.values(), strict=True)
        ]  # fmt: skip
        records.append(
            {"file": str(path), "overlay": str(overlay), "height": found.size[0], "width": found.size[1],
             "detections": merged}
        )  # fmt: skip
        if report is not None:
            report(number + 1, len(photographs))
    if records:
        write_json(out / "predictions.json", records)
    if faults:
        rest = f", {len(records)} others are in {out / 'predictions.json'}" if records else ""
        raise DataError(
            f"{len(faults)} of {len(photographs)} photographs cannot be read{rest}: {'; '.join(faults)}"
        )
    return records


def draw_detections(
    detector: Detector, image: UInt8[np.ndarray, "H W 3"], found: Detections, threshold: float
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The photograph with what was found in it, from a score on; tags where there is a choice of names."""
    kept = found.scores >= threshold
    masks = None
    if found.masks is not None:
        masks = list(
            paste_masks(
                found.masks[kept], found.boxes[kept], found.size, kind=detector.recipe.evaluation.paste
            ).numpy()
        )
    keypoints = None
    if found.keypoints is not None:
        keypoints = shown_keypoints(detector, found)[kept].numpy()
    return draw_instances(
        image,
        found.boxes[kept].numpy(),
        [detector.names[label] for label in found.labels[kept].tolist()],
        found.scores[kept].tolist(),
        masks=masks,
        keypoints=keypoints,
        tags=len(detector.categories) > 1,
        skeleton=next((c.skeleton for c in detector.categories if c.skeleton), ()),
    )


def shown_keypoints(detector: Detector, found: Detections) -> Float[Tensor, "N P 3"]:
    """The keypoints of each detection with 2, as if seen, where they are sure enough to draw, else 0."""
    assert found.keypoints is not None, "the caller asked whether there are keypoints"
    has_keypoints = torch.tensor([bool(category.keypoints) for category in detector.categories])
    is_shown = (found.keypoints[..., 2] >= DRAWN_KEYPOINT) & has_keypoints[found.labels][:, None]
    return torch.cat([found.keypoints[..., :2], 2.0 * is_shown[..., None]], dim=2)


def draw_evaluation(detector: Detector, index: Index, path: Path, num_pictures: int) -> None:
    """Draw the first photographs of a split: what was found, beside what is true."""
    pictures: list[np.ndarray] = []
    captions: list[str] = []
    for row in range(min(num_pictures, index.num_images)):
        size = (int(index.sizes[row, 0]), int(index.sizes[row, 1]))
        image = decode_image(index.path(row), size, detector.recipe.data.policy)
        found = detector.detect(image, int(index.image_ids[row]))
        pictures += [draw_detections(detector, image, found, DRAWN_SCORE), draw_truth(index, row, image)]
        captions += [f"{index.file_name(row)}: found", "true"]
    write_picture(path, draw_sheet(pictures, captions, SHEET_COLUMNS))
