"""From a model and batches to results with the user's ids, and to AP on disk.

The model is anything with `detect(batch)`; the batches come from anywhere.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from pydantic import Field, field_validator
from torch import nn

from groundup.config import Options
from groundup.engine.distributed import World
from groundup.engine.numerics import Precision, autocast
from groundup.engine.stop import StopFlag
from groundup.engine.tta import PRESETS, TTAOptions, ViewDetector, detect_in_views
from groundup.errors import DataError
from groundup.metrics.coco_ap import STANDARD_LIMIT, CocoAP, coco_ap, lacks_truth
from groundup.metrics.match_table import build_match_table, write_table
from groundup.metrics.results import FIELD, PIXEL_CENTRE, Document, Kind, Result, write_results
from groundup.metrics.rle import encode_crop
from groundup.metrics.tables import NAMES, ap_lines, voc_lines
from groundup.metrics.voc_ap import VocAP, VocMetric, voc_ap
from groundup.ops.masks import MASK_THRESHOLD, PasteKind, paste_crops
from groundup.records import write_json
from groundup.structures import Batch, BatchView, Detections


class EvaluationOptions(Options):
    """How detections are made and scored.

    Which detections the model gives at all (its score threshold, its limit per image, its NMS) is part
    of the model's own options.
    """

    batch_size: int = Field(default=1, ge=1)
    """Images a batch, of those that are padded alike; changes speed, and nothing else but rounding."""
    precision: Precision = "fp32"
    """Autocast of the forward pass."""
    max_detections: int = Field(default=STANDARD_LIMIT["bbox"], ge=1)
    """Detections per image and category that AP and AR of boxes and masks may use. COCO's own figures
    use 100; crowded photographs need more, here and in the model's limit."""
    max_keypoint_detections: int = Field(default=STANDARD_LIMIT["keypoints"], ge=1)
    """The same for keypoints."""
    kinds: tuple[Kind, ...] | None = None
    """What to score; None: all that the model gives and the annotations hold."""
    voc: VocMetric | None = None
    """Score boxes by Pascal VOC's rules too: `voc2007` means 11 recalls, `voc2012` the area under the curve
    (VOC 2010 and later). Values are voc/AP50, voc/AP75 and voc/AP, the mean over COCO's thresholds."""
    paste: PasteKind = "aligned"
    """How mask probabilities become pixels; see `ops.masks.PasteKind`."""
    precise_bn: int = Field(default=0, ge=0)
    """Training images over which the statistics of batch norms are computed anew before each evaluation of
    a run (the first ones of its order, as training sees them); 0: those of training. Detectron2: 3200."""
    tta: TTAOptions | None = None
    """Test-time augmentation: many scales and their mirror images become one set of detections; null looks
    once. Also a name: flip, detectron (its shipped list of scales, for photographs of 800 pixels), or
    detectron_x152 (that with box voting)."""
    train_images: int = Field(default=0, ge=0)
    """Training photographs that are evaluated too, the same ones every time, to see how far a run has come to
    know them by heart; they are logged as train/box/AP. 0: none, which costs nothing."""

    @field_validator("tta", mode="before")
    @classmethod
    def _name_stands_for_options(cls, value: Any) -> Any:
        """Put what a name stands for in its place."""
        if not isinstance(value, str):
            return value
        if value not in PRESETS:
            raise ValueError(f"no test-time augmentation '{value}'; there are {', '.join(PRESETS)}")
        return PRESETS[value]

    def limit(self, kind: Kind) -> int:
        """The detection limit of a kind."""
        return self.max_keypoint_detections if kind == "keypoints" else self.max_detections


@runtime_checkable
class Detector(Protocol):
    """A module that detects."""

    def detect(self, batch: Batch) -> list[Detections]:
        """What is in each image of the batch, in pixels of the original photograph."""

    def eval(self) -> Any:
        """Switch to evaluation."""

    def modules(self) -> Iterator[nn.Module]:
        """All parts, the whole included."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All weights; they say where batches go."""


Shown = Batch | Iterable[BatchView]
"""What a model is shown at once: a batch, or all views of some photographs, which can be iterated again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The scores of one model or one results file."""

    values: tuple[CocoAP, ...]
    """One record a kind, boxes first."""
    seconds: float
    """Wall clock of detection and scoring together."""
    folder: Path | None
    """Where predictions and metrics.json were written; None: nowhere."""
    notes: tuple[str, ...] = ()
    """What a reader must know beside the notes of each record."""
    voc: VocAP | None = None
    """Boxes by Pascal VOC's rules; None where they were not asked for."""

    @property
    def metrics(self) -> dict[str, float]:
        """The defined values under flat names for a log: box/AP, mask/AP50, keypoints/AR@20, voc/AP50."""
        named = {
            f"{NAMES[one.kind]}/{name}": value for one in self.values for name, value in one.values().items()
        }
        return named | ({} if self.voc is None else {f"voc/{k}": v for k, v in self.voc.values().items()})

    def lines(self) -> list[str]:
        """Tables for reading."""
        voc = [] if self.voc is None else ["", *voc_lines(self.voc)]
        return [*ap_lines(self.values), *voc, *(f"note: {note}" for note in self.notes)]

    def to_json(self) -> dict[str, Any]:
        """The scores as JSON values; undefined values are null."""
        return {
            "metrics": self.metrics,
            "seconds": self.seconds,
            "notes": list(self.notes),
            **{NAMES[one.kind]: one.to_json() for one in self.values},
            **({} if self.voc is None else {"voc": self.voc.to_json()}),
        }


def evaluate(
    model: Detector,
    batches: Iterable[Shown],
    document: Document,
    options: EvaluationOptions,
    *,
    category_ids: Sequence[int],
    folder: Path | None = None,
    stop: StopFlag | None = None,
    progress: Callable[[int], None] | None = None,
    world: World | None = None,
) -> Evaluation:
    """Detect in every batch and score the results against the document.

    With `options.tta` the batches are views (see `Shown`) and the model is a `ViewDetector`.

    `category_ids` are the ids of the labels 0, 1, ... `folder` gets predictions.bbox.json (and .segm,
    .keypoints), matches.bbox.npz (see `metrics.match_table`) and metrics.json. `progress` is
    called with the number of images done. Of several processes each brings batches of its own, the
    first one scores the results of all, in the order of the document's images, and all get the scores.

    Raises:
        Interrupted: `stop` is set; nothing is written.
        DataError: images shown that are not those of the document, or results that cannot be scored,
            as from a model whose weights are not finite.
    """
    start, place = time.monotonic(), world or World()
    seen: list[int] = []
    parts = place.gather(
        lambda: (
            seen,
            detect_results(
                model,
                batches,
                category_ids=category_ids,
                options=options,
                stop=stop,
                progress=progress,
                seen=seen,
            ),
        )
    )

    def score() -> Evaluation:
        refuse_other_images(document, [image for shown, _ in parts for image in shown])
        results = join_results([part for _, part in parts], [image["id"] for image in document["images"]])
        return evaluate_results(document, results, options, folder=folder, start=start)

    return place.lead(score)


def refuse_other_images(document: Document, seen: Sequence[int]) -> None:
    """Refuse images shown that are not those of the document.

    Raises:
        DataError: they are not.
    """
    wanted, shown = {image["id"] for image in document["images"]}, set(seen)
    if wanted != shown:
        raise DataError(
            f"{len(wanted - shown)} of {len(wanted)} annotated images were not shown to the model, and "
            f"{len(shown - wanted)} were shown that the annotations lack; evaluate the annotations of "
            "exactly the images that are shown"
        )


def join_results(
    parts: Sequence[Mapping[Kind, Sequence[Result]]], image_ids: Sequence[int]
) -> dict[Kind, list[Result]]:
    """The results of all parts, image by image in the order of the ids, each image's own order kept."""
    joined: dict[Kind, list[Result]] = {}
    for part in parts:
        for kind, found in part.items():
            joined.setdefault(kind, []).extend(found)
    places = {image_id: place for place, image_id in enumerate(image_ids)}
    return {
        kind: sorted(found, key=lambda result: places[result["image_id"]]) for kind, found in joined.items()
    }


def evaluate_results(
    document: Document,
    results: Mapping[Kind, Sequence[Result]],
    options: EvaluationOptions,
    *,
    folder: Path | None = None,
    source: str = "results",
    start: float | None = None,
) -> Evaluation:
    """Score results that exist already, such as those of another framework.

    A kind that the annotations hold no truth for is left out with a note, unless the options name it.

    Raises:
        DataError: results or annotations that cannot be scored; a kind named by the options that
            there are no results for.
    """
    start = time.monotonic() if start is None else start
    absent = [kind for kind in options.kinds or () if kind not in results]
    if absent:
        raise DataError(f"{source}: no {', '.join(FIELD[kind] for kind in absent)} to score; found "
                        f"{', '.join(FIELD[kind] for kind in results) or 'nothing'}")  # fmt: skip
    values, notes = [], []
    voc = None
    if options.voc is not None and "bbox" in results and lacks_truth(document, "bbox") is None:
        voc = voc_ap(document, results["bbox"], options.voc, source=source)
    for kind in options.kinds or results:
        lack = lacks_truth(document, kind)
        if lack is not None and options.kinds is None:
            notes.append(f"{NAMES[kind]} not scored: {lack}")
            continue
        values.append(coco_ap(document, results[kind], kind, options.limit(kind), source=source))
        if folder is not None:
            table = build_match_table(document, results[kind], kind, options.limit(kind), source=source)
            write_table(folder / f"matches.{kind}.npz", table)
    if folder is not None:
        for kind, found in results.items():
            write_results(folder / f"predictions.{kind}.json", found)
    evaluation = Evaluation(
        values=tuple(values),
        seconds=time.monotonic() - start,
        folder=folder,
        notes=tuple(notes),
        voc=voc,
    )
    if folder is not None:
        write_json(folder / "metrics.json", evaluation.to_json())
    return evaluation


def detect_results(
    model: Detector,
    batches: Iterable[Shown],
    *,
    category_ids: Sequence[int],
    options: EvaluationOptions | None = None,
    stop: StopFlag | None = None,
    progress: Callable[[int], None] | None = None,
    seen: list[int] | None = None,
) -> dict[Kind, list[Result]]:
    """What the model finds in the batches, as COCO results by kind.

    Boxes are always there; masks and keypoints if the model gives them. The ids of the images shown
    are added to `seen`. The model's parts are in evaluation mode meanwhile, and afterwards in the
    mode in which each was.

    Raises:
        Interrupted: `stop` is set; it is asked before each batch.
        DataError: an image that comes twice, whose detections would count double.
    """
    options = options or EvaluationOptions()
    seen = [] if seen is None else seen
    shown: set[int] = set()
    results: dict[Kind, list[Result]] = {"bbox": []}
    with evaluating(model) as device:
        for batch in batches:
            if stop is not None:
                stop.check()
            for detections in detect_batch(model, batch, device, options):
                if detections.image_id in shown:
                    raise DataError(f"image {detections.image_id} was shown to the model twice")
                shown.add(detections.image_id)
                seen.append(detections.image_id)
                for kind, found in results_of(detections, category_ids, paste=options.paste).items():
                    results.setdefault(kind, []).extend(found)
            if progress is not None:
                progress(len(seen))
    return results


@contextlib.contextmanager
def evaluating(model: Detector) -> Iterator[torch.device]:
    """Evaluation mode, each part's own mode restored afterwards; gives the model's device."""
    modes = [(part, part.training) for part in model.modules()]
    weight = next(iter(model.parameters()), None)
    model.eval()
    try:
        yield torch.device("cpu") if weight is None else weight.device
    finally:
        for part, mode in modes:
            part.training = mode


def detect_batch(
    model: Detector, shown: Shown, device: torch.device, options: EvaluationOptions
) -> list[Detections]:
    """Detections of one batch, or of the photographs of one set of views, on the CPU."""
    with torch.inference_mode(), autocast(device, options.precision):
        if isinstance(shown, Batch):
            found = model.detect(shown.to(device))
        else:
            assert isinstance(model, ViewDetector), "views are made for models that can look at them"
            found = detect_in_views(model, shown, options.tta or TTAOptions(), device)
        return [detections.to("cpu", non_blocking=False) for detections in found]


def results_of(
    detections: Detections, category_ids: Sequence[int], *, paste: PasteKind = "aligned"
) -> dict[Kind, list[Result]]:
    """One image's detections as COCO results by kind, in their order, with the user's ids."""
    x1, y1, x2, y2 = detections.boxes.double().unbind(dim=1)
    boxes = torch.stack([x1, y1, x2 - x1, y2 - y1], dim=1).tolist()
    labels, scores = detections.labels.tolist(), detections.scores.tolist()
    heads = [
        {"image_id": detections.image_id, "category_id": category_ids[label], "score": score}
        for label, score in zip(labels, scores, strict=True)
    ]
    values: dict[Kind, list[Any]] = {"bbox": boxes}
    if detections.masks is not None:
        values["segm"] = encode_masks(detections, paste)
    if detections.keypoints is not None:
        # COCO names a keypoint's pixel by column and row. Source: Detectron2, `COCOEvaluator`.
        middle = detections.keypoints.new_tensor([PIXEL_CENTRE, PIXEL_CENTRE, 0.0])
        values["keypoints"] = (detections.keypoints - middle).flatten(1).tolist()
    return {
        kind: [{**head, FIELD[kind]: value} for head, value in zip(heads, found, strict=True)]
        for kind, found in values.items()
    }


def encode_masks(detections: Detections, paste: PasteKind) -> list[dict[str, Any]]:
    """Run-length encodings of the masks, one crop at a time: no mask ever fills its whole image."""
    assert detections.masks is not None, "the caller asked whether there are masks"
    crops = paste_crops(detections.masks, detections.boxes, detections.size, kind=paste)
    return [
        encode_crop((crop.scores >= MASK_THRESHOLD).numpy(), crop.x, crop.y, detections.size)
        for crop in crops
    ]
