"""Detection in one image: ours beside torchvision's with the same weights; and what a batch is worth.

    python benchmarks/inference.py --out benchmarks/results/inference.json
    python benchmarks/inference.py --batches --out benchmarks/results/inference_batches.json

Both sides are Mask R-CNN R50-FPN with torchvision's details, 80 classes, and the same random weights:
`frozen` has frozen BN and the plain heads (maskrcnn_resnet50_fpn), `gn` has GN everywhere and the heads
of v2. The score threshold is set so that 400 pairs of box and class pass it, of which 100 remain; an
untrained network's boxes are of random size, so what is pasted is too. Rows end with masks in full size
(`pasted`; torchvision's are float32, ours bytes) or with run-length encodings, as evaluation needs them
(`encoded`). The parts of the last turn of each side are kept.
"""

import functools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models import resnet50
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d

from groundup.allocator import keep_freed_memory
from groundup.engine.evaluate import EvaluationOptions, detect_batch, results_of
from groundup.metering import Stopwatch
from groundup.models import box_head, mask_head
from groundup.models.presets import torchvision, torchvision_v2
from groundup.models.rcnn import RCNN, build_detector
from groundup.models.torchvision_detectors import detector_from_torchvision
from groundup.ops.masks import paste_masks
from groundup.recipes import resolve_recipe
from groundup.structures import Batch, Detections
from harness import OURS, Row, Target, parser_for, race, report
from pictures import NUM_CLASSES, build_batch
from training_step import PEER, build_gn_peer

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NUM_CANDIDATES = 400
BATCH_SIZES = (2, 4, 8)
CPU = torch.device("cpu")
OPTIONS = EvaluationOptions(paste="integer")
SYSTEMS = {"frozen": torchvision("resnet50", "frozen_bn"), "gn": torchvision_v2("resnet50", "gn")}


class Clock(Stopwatch):
    """A stopwatch for parts that are not marked, as a peer's are not."""

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Count the calls of a function under the name."""
        function = getattr(owner, attribute)

        @functools.wraps(function)
        def counted(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*arguments, **options)

        setattr(owner, attribute, counted)


def photographs(height: int, width: int, num_images: int = 1) -> Tensor:
    """Photographs, or drawn scenes, cut to one size; the same on both sides."""
    return build_batch(height, width, num_images).images


def batch_of(images: Tensor) -> Batch:
    num, _, height, width = images.shape
    sizes = torch.tensor([[height, width]] * num)
    return Batch(
        images=images,
        sizes=sizes,
        original_sizes=sizes,
        boxes=torch.zeros(num, 1, 4),
        labels=torch.full((num, 1), -1),
        masks=None,
        keypoints=None,
        image_ids=torch.arange(num),
        seeds=torch.arange(num),
    )


def build_theirs(system: str) -> MaskRCNN:
    """torchvision's model with random weights, made bolder, for from scratch all scores are alike."""  # noqa: D403
    torch.manual_seed(0)
    if system == "gn":
        model = build_gn_peer()
    else:
        backbone = _resnet_fpn_extractor(resnet50(norm_layer=FrozenBatchNorm2d), 5)
        model = MaskRCNN(backbone, num_classes=NUM_CLASSES + 1)
        model.transform = GeneralizedRCNNTransform(800, 1333, MEAN, STD)
    with torch.no_grad():
        for norm_of in model.modules():
            if isinstance(norm_of, FrozenBatchNorm2d):
                norm_of.running_var.fill_(2.0)  # random convolutions would grow without end
        model.rpn.head.cls_logits.weight.mul_(3)
        model.rpn.head.bbox_pred.weight.mul_(3)
        model.roi_heads.box_predictor.cls_score.weight.mul_(5)
    return model.eval()


def build_ours(system: str, theirs: MaskRCNN) -> RCNN:
    """Our model with their weights."""
    model = build_detector(SYSTEMS[system], num_classes=NUM_CLASSES, pixel_mean=MEAN, pixel_std=STD)
    state = {
        name: values
        for name, values in detector_from_torchvision(theirs.state_dict()).items()
        if not name.endswith("num_batches_tracked")
    }
    model.load_state_dict(state)
    return model.eval()


@torch.inference_mode()
def threshold_of(model: RCNN, batch: Batch) -> float:
    """The score that so many pairs of box and class exceed."""
    head = model.box_head
    kept, head.options = head.options, head.options.model_copy(update={"score_threshold": 0.0})
    _, found = model.find(batch)
    head.options = kept
    return float(found.scores.topk(NUM_CANDIDATES + 1).values[-1])


def with_threshold(model: RCNN, batch: Batch) -> RCNN:
    threshold = threshold_of(model, batch)
    model.box_head.options = model.box_head.options.model_copy(update={"score_threshold": threshold})
    return model


def encode(found: Detections) -> list[Any]:
    return results_of(found, range(NUM_CLASSES), paste=OPTIONS.paste)["segm"]


def paste(found: Detections) -> Tensor:
    assert found.masks is not None
    return paste_masks(found.masks, found.boxes, found.size, kind=OPTIONS.paste)


FINISH = {"pasted": paste, "encoded": encode}


def ours(system: str, height: int, width: int, finish: str) -> Callable[[], Any]:
    """A turn of ours, as the command line has it; it gives the seconds of its parts."""
    keep_freed_memory()
    batch = batch_of(photographs(height, width))
    model = with_threshold(build_ours(system, build_theirs(system)), batch)
    clock = Clock()
    clock.wrap(model.backbone, "forward", "backbone")
    clock.wrap(model.fpn, "forward", "FPN")
    clock.wrap(model.rpn, "forward", "RPN head")
    clock.wrap(model.rpn, "propose", "proposals")
    clock.wrap(model, "roi_maps", "RoIAlign")
    for module in (box_head, mask_head):
        clock.wrap(module, "pool_rois", "RoIAlign")
    clock.wrap(model.box_head, "forward", "box head")
    clock.wrap(model.mask_head, "forward", "mask head")

    def turn() -> dict[str, Any]:
        clock.seconds.clear()
        with clock.part("rest"):
            (found,) = detect_batch(model, batch, CPU, OPTIONS)
            with clock.part(finish):
                num_found = len(FINISH[finish](found))
        return {"found": num_found, "parts": dict(clock.seconds)}

    return turn


def theirs(system: str, height: int, width: int, finish: str) -> Callable[[], Any]:
    """A turn of torchvision's; encodings as its reference scripts make them."""
    images = photographs(height, width)
    model = build_theirs(system)
    model.transform.min_size, model.transform.max_size = (min(height, width),), max(height, width)
    model.roi_heads.score_thresh = threshold_of(build_ours(system, model), batch_of(images))
    clock = Clock()
    for owner, name in (
        (model.backbone.body, "backbone"),
        (model.backbone.fpn, "FPN"),
        (model.rpn.head, "RPN head"),
        (model.rpn, "proposals"),
        (model.roi_heads.box_roi_pool, "RoIAlign"),
        (model.roi_heads.box_head, "box head"),
        (model.roi_heads.box_predictor, "box head"),
        (model.roi_heads.mask_roi_pool, "RoIAlign"),
        (model.roi_heads.mask_head, "mask head"),
        (model.roi_heads.mask_predictor, "mask head"),
    ):
        clock.wrap(owner, "forward", name)
    clock.wrap(model.transform, "postprocess", finish)

    @torch.inference_mode()
    def turn() -> dict[str, Any]:
        clock.seconds.clear()
        with clock.part("rest"):
            (found,) = model([images[0] / 255])
            if finish == "encoded":
                with clock.part(finish):
                    encode_bitmaps(found["masks"])
        return {"found": len(found["masks"]), "parts": dict(clock.seconds)}

    return turn


def encode_bitmaps(masks: Tensor) -> list[Any]:
    """Encodings of masks in full size. Source: torchvision, references/detection/coco_eval.py."""
    bitmaps = (masks > 0.5).numpy()
    return [coco_mask.encode(np.array(one[0, :, :, None], np.uint8, order="F"))[0] for one in bitmaps]


def batches(recipe: str, height: int, width: int, batch_size: int, num_images: int) -> Callable[[], Any]:
    """A turn of some images in batches, from pixels to encodings."""
    keep_freed_memory()
    torch.manual_seed(0)
    options = resolve_recipe(recipe, []).model
    model = build_detector(options, num_classes=NUM_CLASSES, pixel_mean=MEAN, pixel_std=STD).eval()
    with torch.no_grad():
        model.rpn.objectness.weight.mul_(10)
        model.box_head.classes.weight.mul_(5)
    images = photographs(height, width, num_images)
    with_threshold(model, batch_of(images[:1]))

    def turn() -> int:
        return sum(
            len(encode(found))
            for part in images.split(batch_size)
            for found in detect_batch(model, batch_of(part), CPU, OPTIONS)
        )

    return turn


def pairs(turns: int, cases: list[tuple[int, int, str]]) -> Iterator[Row]:
    """Ours and torchvision's."""
    for system in SYSTEMS:
        for height, width, finish in cases:
            words = (system, height, width, finish)
            print(*words, flush=True)
            sides = race({OURS: partial(ours, *words), PEER: partial(theirs, *words)}, turns=turns)
            yield Row(
                name=f"{system} {height}x{width}, {finish}",
                sides=sides,
                target=Target(at_least=1.0, against=PEER),
                facts={name: side.found for name, side in sides.items()},
            )


def batch_rows(turns: int, cases: list[tuple[str, int, int, int]]) -> Iterator[Row]:
    """Ours alone, one image at a time and several."""
    for recipe, height, width, num_images in cases:
        print(recipe, height, width, flush=True)
        sizes = [size for size in BATCH_SIZES if size <= num_images]
        sides = {
            f"batch of {size}": partial(batches, recipe, height, width, size, num_images) for size in sizes
        }
        sides = {OURS: partial(batches, recipe, height, width, 1, num_images), **sides}
        yield Row(
            name=f"{recipe} {height}x{width}, one by one against batches",
            sides=race(sides, turns=turns),
            amount=num_images,
        )


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument(
        "--batches", action="store_true", help="ours in batches, instead of ours and its peer"
    )
    arguments = parser.parse_args()
    turns = arguments.turns or 2
    if arguments.batches:
        cases = [("tiny_mask_rcnn_lite0", 160, 224, 8), ("tiny_mask_rcnn_lite0", 320, 416, 8)]
        cases += [] if arguments.quick else [("mask_rcnn_r50_fpn_gn", 480, 640, 4)]
        report("inference_batches", list(batch_rows(turns, cases)), arguments)
        return
    small, large = [(320, 480, "pasted"), (320, 480, "encoded")], [(800, 1216, "pasted")]
    report("inference", list(pairs(turns, small if arguments.quick else small + large)), arguments)


if __name__ == "__main__":
    main()
