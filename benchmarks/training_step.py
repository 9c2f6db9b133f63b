"""A training step of Mask R-CNN R50-FPN with GN in neck and heads: ours beside torchvision's v2, in one run.

    python benchmarks/training_step.py --turns 2 --out benchmarks/results/training_step.json

Both models are random, see the same photographs, boxes and masks (7 an image) and take the same SGD step.
Untrained RPNs propose other boxes, and the mask head's cost follows them; so on both sides the first 64
proposals of each image are replaced by boxes near the true ones, after the model's own RPN has run. Ours has
the allocator's settings of our command line, torchvision's the system's, as its user would.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from groundup.allocator import keep_freed_memory
from groundup.models.presets import torchvision_v2
from groundup.models.rcnn import RCNN, build_detector
from groundup.structures import Batch
from harness import OURS, Row, Target, parser_for, race, report
from pictures import NUM_CLASSES, Shown, build_batch, build_shown, full_bitmaps, pictures

__all__ = ["build_batch", "build_ours", "build_peer", "ours_step", "peer_step"]

PEER = "torchvision"
NUM_FORCED = 64
SIZES = ("320x480", "800x1216")
AT_LEAST = 1.4
"""Times as fast as torchvision's. Source: the design, section 8."""


def near_truth(boxes: Tensor) -> Tensor:
    """So many boxes near the true ones of each image: (B, NUM_FORCED, 4)."""
    generator = torch.Generator().manual_seed(1)
    chosen = boxes[:, torch.arange(NUM_FORCED) % boxes.shape[1]]
    sides = (chosen[..., 2:] - chosen[..., :2]).repeat(1, 1, 2)
    return chosen + 0.1 * sides * (torch.rand(chosen.shape, generator=generator).to(boxes.device) - 0.5)


def build_ours(batch: Batch, **changes: Any) -> RCNN:
    """Our model with torchvision's details; `changes` are options of the detector."""
    options = torchvision_v2("resnet50", "gn")
    mask_head = options.mask_head.model_copy(update={"target": "binary"})
    model = build_detector(
        options.model_copy(update={"mask_head": mask_head, **changes}),
        num_classes=NUM_CLASSES,
        pixel_mean=(0.485, 0.456, 0.406),
        pixel_std=(0.229, 0.224, 0.225),
    )
    propose, forced = model.rpn.propose, near_truth(batch.boxes)

    def with_forced(*arguments: Any, **options: Any) -> Any:
        proposals = propose(*arguments, **options)
        boxes, is_filled = proposals.boxes.clone(), proposals.is_filled.clone()
        boxes[:, :NUM_FORCED], is_filled[:, :NUM_FORCED] = forced.to(boxes.device), True
        return replace(proposals, boxes=boxes, is_filled=is_filled)

    model.rpn.propose = with_forced
    return model.train()


def build_gn_peer() -> MaskRCNN:
    """torchvision's v2 with GN where its builder puts BN, for photographs of their size."""  # noqa: D403
    norm = functools.partial(nn.GroupNorm, 32)
    backbone = _resnet_fpn_extractor(resnet50(norm_layer=norm), 5, norm_layer=norm)
    channels = backbone.out_channels
    model = MaskRCNN(
        backbone,
        num_classes=NUM_CLASSES + 1,
        rpn_head=RPNHead(channels, 3, conv_depth=2),
        box_head=FastRCNNConvFCHead((channels, 7, 7), [256] * 4, [1024], norm_layer=norm),
        mask_head=MaskRCNNHeads(channels, [256] * 4, 1, norm_layer=norm),
    )
    model.transform = GeneralizedRCNNTransform(
        800, 1333, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], _skip_resize=True
    )
    return model


def build_peer(batch: Batch) -> MaskRCNN:
    """torchvision's model that learns from boxes near the truth."""  # noqa: D403
    model = build_gn_peer()
    forced, rpn = near_truth(batch.boxes), model.rpn.forward

    def with_forced(*arguments: Any) -> Any:
        proposals, losses = rpn(*arguments)
        replaced = forced.to(proposals[0].device)
        return [torch.cat([f, p[NUM_FORCED:]]) for f, p in zip(replaced, proposals, strict=True)], losses

    model.rpn.forward = with_forced
    return model.train()


def ours_step(model: RCNN, batch: Batch) -> Callable[[], None]:
    """One step of ours."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        torch.stack(list(model.losses(batch).values())).sum().backward()
        optimizer.step()

    return step


def peer_step(model: MaskRCNN, shown: Shown, device: str = "cpu") -> Callable[[], None]:
    """One step of torchvision's; it is given full bitmaps, as its data pipeline makes them."""
    batch = shown.batch.to(device)
    height, width = batch.images.shape[2:]
    targets = [
        {
            "boxes": batch.boxes[image],
            "labels": batch.labels[image] + 1,
            "masks": full_bitmaps(truth, height, width).to(device),
        }
        for image, truth in enumerate(shown.truths)
    ]
    images = [image / 255 for image in batch.images]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()

    return step


def ours_side(height: int, width: int, num_images: int) -> Callable[[], None]:
    """Our step, as a training at the command line takes it."""
    keep_freed_memory()
    torch.manual_seed(0)
    batch = build_batch(height, width, num_images)
    return ours_step(build_ours(batch), batch)


def peer_side(height: int, width: int, num_images: int) -> Callable[[], None]:
    """torchvision's."""  # noqa: D403
    torch.manual_seed(0)
    shown = build_shown(height, width, num_images)
    return peer_step(build_peer(shown.batch), shown)


def measure(size: str, num_images: int, turns: int) -> Row:
    """Both at one size."""
    height, width = map(int, size.split("x"))
    sides = {
        OURS: functools.partial(ours_side, height, width, num_images),
        PEER: functools.partial(peer_side, height, width, num_images),
    }
    return Row(
        name=f"training step, {num_images} x {size}",
        sides=race(sides, turns=turns),
        amount=num_images,
        target=Target(at_least=AT_LEAST, against=PEER),
        facts={"pictures": pictures().name, "threads": torch.get_num_threads()},
    )


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES))
    parser.add_argument("--images", type=int, default=2)
    arguments = parser.parse_args()
    sizes = arguments.sizes[:1] if arguments.quick else arguments.sizes
    turns = arguments.turns or (1 if arguments.quick else 3)
    report("training_step", [measure(size, arguments.images, turns) for size in sizes], arguments)


if __name__ == "__main__":
    main()
