"""A trained detector in use: open a run, detect in photographs, score, draw.

from groundup.detector import load_detector

detector = load_detector("runs/cells")
for found in detector.predict(["a.jpg", "b.jpg"], batch_size=2):
    print(found.boxes, found.scores, [detector.names[label] for label in found.labels])
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
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
from groundup.data.decoding import Photograph, decode_ahead, windows_of
from groundup.data.images import decode_image
from groundup.data.order import batches_of_alike
from groundup.data.statistics import draw_truth
from groundup.data.views import padded_sizes, photograph_views
from groundup.engine.checkpoint import load_weights
from groundup.engine.distributed import joined
from groundup.engine.evaluate import Evaluation, EvaluationOptions, detect_batch, evaluate_results
from groundup.errors import CheckpointError, DataError
from groundup.metrics.results import kinds_of, read_results, resolve_names
from groundup.metrics.voc_ap import VocMetric
from groundup.models.rcnn import RCNN
from groundup.ops.masks import paste_masks
from groundup.pictures import draw_instances, draw_sheet, write_picture
from groundup.recipe import Recipe
from groundup.records import read_json
from groundup.run import build_model, evaluate_detector, looks_of
from groundup.run_folder import RECIPE, RECORD, category_of, default_device
from groundup.splits import open_split, refuse_unknown_categories
from groundup.structures import Detections

DRAWN_SCORE = 0.5
"""Least score of a detection in a picture of an evaluation."""
DRAWN_KEYPOINT = 0.05
"""Least score of a keypoint in a picture. Source: Detectron2, `_KEYPOINT_THRESHOLD` of its visualizer."""
SHEET_COLUMNS = 4
"""Twice found beside true."""
BATCHES_AT_ONCE = 4
"""Batches' worth of photographs among which those that are alike are found."""

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

    def predict(
        self, photographs: Iterable[str | Path], *, batch_size: int | None = None
    ) -> Iterator[Detections]:
        """Detections of each photograph, in its own pixels; `image_id` counts the photographs from 0.

        Args:
            photographs: their files.
            batch_size: how many pass through the model at once, where they are alike; None is the
                recipe's own for evaluation. It changes speed, and results by rounding only.

        Raises:
            DataError: a photograph cannot be read; those before it came.
        """
        for photograph, found in self.look_at(photographs, batch_size=batch_size):
            if found is None:
                raise photograph.fault or DataError(f"{photograph.path}: cannot be read")
            yield found

    def look_at(
        self, photographs: Iterable[str | Path], *, batch_size: int | None = None
    ) -> Iterator[tuple[Photograph, Detections | None]]:
        """Each photograph in its order with what is in it; None where it cannot be read.

        The following ones are decoded meanwhile. Args are those of `predict`.
        """
        size = batch_size or self.recipe.evaluation.batch_size
        decoded = decode_ahead(map(Path, photographs), self.recipe.data.policy, num_ahead=2 * size)
        # Photographs that follow one another need not be alike: some batches' worth are sorted at a time.
        for window in windows_of(decoded, size if size == 1 else size * BATCHES_AT_ONCE):
            readable = [(one.image, one.number) for one in window if one.image is not None]
            found = iter(
                self.detect_all(
                    [image for image, _ in readable], [number for _, number in readable], batch_size=size
                )
            )
            for one in window:
                yield one, None if one.image is None else next(found)

    def detect(self, image: UInt8[np.ndarray, "H W 3"], image_id: int = 0) -> Detections:
        """Detections of one RGB image, from several views of it if the recipe's evaluation says so."""
        return self.detect_all([image], [image_id], batch_size=1)[0]

    def detect_all(
        self,
        images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
        image_ids: Sequence[int],
        *,
        batch_size: int,
    ) -> list[Detections]:
        """Detections of each RGB image; those that are padded alike go through the model together."""
        evaluation, transforms, looks = self.recipe.evaluation, self.recipe.transforms, looks_of(self.recipe)
        device = next(self.model.parameters()).device
        kinds = [padded_sizes((image.shape[0], image.shape[1]), looks, transforms) for image in images]
        found: dict[int, Detections] = {}
        for rows in batches_of_alike(kinds, batch_size):
            views = photograph_views(
                [images[row] for row in rows],
                [image_ids[row] for row in rows],
                looks,
                transforms,
                self.categories,
            )
            shown = views if evaluation.tta else next(iter(views)).batch
            found |= zip(rows, detect_batch(self.model, shown, device, evaluation), strict=True)
        return [found[row] for row in range(len(images))]


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
    batch_size: int | None = None,
    voc: VocMetric | None = None,
    out: Path | None = None,
    num_pictures: int = 0,
    report: Report | None = None,
) -> Evaluation:
    """AP of a run's newest checkpoint on its own validation split, or on other annotations.

    `tta` replaces the recipe's test-time augmentation (see `with_tta`), `batch_size` how many photographs
    pass through the model at once. Under torchrun every process calls this alike: they share the
    photographs, and each gets the scores.

    Raises:
        CheckpointError: the folder is no run.
        UsageError: a limit of detections or a test-time augmentation that cannot be.
        DataError: the annotations cannot be used, or have categories that the run does not know.
    """
    with joined() as world:
        detector = world.together(lambda: with_tta(load_detector(folder), tta))
        changes = given(max_detections=max_detections, voc=voc, batch_size=batch_size)
        recipe = vary(detector.recipe, {f"evaluation.{name}": value for name, value in changes.items()})
        index = world.in_turn(lambda: index_to_judge(detector, annotations, images))
        # Another set's scores have a folder of their own, or they would stand under the name of the run's.
        name = "newest" if annotations is None else f"newest_{index.digest[:12]}"
        name += "" if tta is None else f"_tta_{fingerprint(recipe.evaluation)}"
        where = out or folder / "evaluations" / name
        total = index.num_images
        evaluation = evaluate_detector(
            detector.model,
            recipe,
            index,
            where,
            categories=detector.categories,
            progress=None if report is None else lambda done: report(min(done * world.size, total), total),
            world=world,
        )
        if num_pictures:
            world.lead(lambda: draw_evaluation(detector, index, where / "pictures.png", num_pictures))
    return evaluation


def index_to_judge(detector: Detector, annotations: Path | None, images: Path | None) -> Index:
    """The run's own validation split, or other annotations of categories that it knows.

    Raises:
        DataError: they cannot be used.
    """
    data, masks = detector.recipe.data, detector.model.mask_head is not None
    if annotations is None:
        index = open_split(data.val, "val", data, masks=masks)
    else:
        index = open_index(annotations, images, masks=masks, max_dropped_ratio=data.max_dropped_ratio)
    refuse_unknown_categories(index, detector.categories)
    return index


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
