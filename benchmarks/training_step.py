"""A training step of Mask R-CNN R50-FPN with GN in neck and heads: ours beside torchvision's v2, in one run.

    python benchmarks/training_step.py --repeats 2 --out benchmarks/results/training_step.json

Both models are random, see the same images and boxes (7 an image) and take the same SGD step. Untrained
RPNs propose other boxes, and the mask head's cost follows them; so on both sides the first 64 proposals of
each image are replaced by boxes near the true ones, after the model's own RPN has run. Each side has a
process of its own (ours with the allocator's settings of our command line, torchvision's with the system's),
steps are interleaved; medians and ratios of wall time and peak memory are printed.
"""

import argparse
import functools
import json
import multiprocessing
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
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
from groundup.structures import Batch, Masks

NUM_CLASSES = 80
NUM_OBJECTS = 7
"""COCO's mean."""
NUM_FORCED = 64
VERTICES = 24
"""Points of each polygon, about COCO's median."""


def build_batch(height: int, width: int, num_images: int) -> Batch:
    """Noise images with ellipses for objects."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(num_images, NUM_OBJECTS, 2, generator=generator) * torch.tensor([width, height])
    sides = (torch.rand(num_images, NUM_OBJECTS, 2, generator=generator) * 0.35 + 0.05) * min(height, width)
    limits = torch.tensor([width, height] * 2)
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=-1).clamp(min=0).minimum(limits)
    flat = boxes.flatten(0, 1)
    angles = torch.linspace(0, 2 * torch.pi, VERTICES + 1)[:-1]
    circle = torch.stack([angles.cos(), angles.sin()], dim=1) / 2 + 0.5
    points = flat[:, None, :2] + circle * (flat[:, None, 2:] - flat[:, None, :2])
    edges = torch.cat([points, points.roll(-1, 1)], dim=-1).flatten(0, 1)
    rows = torch.arange(len(flat))
    empty = torch.zeros(0, dtype=torch.int64)
    masks = Masks(
        edges=edges,
        edge_polygon=rows.repeat_interleave(VERTICES),
        polygon_instance=rows,
        pixels=torch.zeros(0, dtype=torch.uint8),
        bitmap_boxes=torch.zeros((0, 4), dtype=torch.int64),
        bitmap_instance=empty,
    )
    sizes = torch.tensor([[height, width]] * num_images, dtype=torch.int32)
    return Batch(
        images=torch.randint(0, 256, (num_images, 3, height, width), generator=generator, dtype=torch.uint8),
        sizes=sizes,
        original_sizes=sizes,
        boxes=boxes,
        labels=torch.randint(0, NUM_CLASSES, (num_images, NUM_OBJECTS), generator=generator),
        masks=masks,
        keypoints=None,
        image_ids=torch.arange(num_images),
        seeds=torch.arange(num_images),
    )


def near_truth(boxes: Tensor) -> Tensor:
    """So many boxes near the true ones of each image: (B, NUM_FORCED, 4)."""
    generator = torch.Generator().manual_seed(1)
    chosen = boxes[:, torch.arange(NUM_FORCED) % boxes.shape[1]]
    sides = (chosen[..., 2:] - chosen[..., :2]).repeat(1, 1, 2)
    return chosen + 0.1 * sides * (torch.rand(chosen.shape, generator=generator) - 0.5)


def build_ours(batch: Batch) -> RCNN:
    """Our model with torchvision's details."""
    options = torchvision_v2("resnet50", "gn")
    mask_head = options.mask_head.model_copy(update={"target": "binary"})
    model = build_detector(
        options.model_copy(update={"mask_head": mask_head}),
        num_classes=NUM_CLASSES,
        pixel_mean=(0.485, 0.456, 0.406),
        pixel_std=(0.229, 0.224, 0.225),
    )
    propose, forced = model.rpn.propose, near_truth(batch.boxes)

    def with_forced(*arguments: Any, **options: Any) -> Any:
        proposals = propose(*arguments, **options)
        boxes, is_filled = proposals.boxes.clone(), proposals.is_filled.clone()
        boxes[:, :NUM_FORCED], is_filled[:, :NUM_FORCED] = forced, True
        return replace(proposals, boxes=boxes, is_filled=is_filled)

    model.rpn.propose = with_forced
    return model.train()


def build_peer(batch: Batch) -> MaskRCNN:
    """torchvision's v2 with GN where its builder puts BN."""  # noqa: D403
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
    forced, rpn = near_truth(batch.boxes), model.rpn.forward

    def with_forced(*arguments: Any) -> Any:
        proposals, losses = rpn(*arguments)
        return [torch.cat([f, p[NUM_FORCED:]]) for f, p in zip(forced, proposals, strict=True)], losses

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


def peer_step(model: MaskRCNN, batch: Batch) -> Callable[[], None]:
    """One step of torchvision's; it is given full bitmaps, as its data pipeline makes them."""
    from groundup.data.geometry import rasterise_polygons

    height, width = batch.images.shape[2:]
    assert batch.masks is not None
    points = batch.masks.edges[:, :2].reshape(batch.num_images, NUM_OBJECTS, VERTICES, 2).numpy()
    targets = []
    for image in range(batch.num_images):
        bitmaps = torch.zeros((NUM_OBJECTS, height, width), dtype=torch.uint8)
        for row in range(NUM_OBJECTS):
            drawn = rasterise_polygons([points[image, row]], height, width)
            if drawn is not None:
                h, w = drawn.pixels.shape
                bitmaps[row, drawn.y : drawn.y + h, drawn.x : drawn.x + w] = torch.from_numpy(drawn.pixels)
        targets.append({"boxes": batch.boxes[image], "labels": batch.labels[image] + 1, "masks": bitmaps})
    images = [image / 255 for image in batch.images]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()

    return step


def serve(side: str, height: int, width: int, num_images: int, threads: int, pipe: Connection) -> None:
    """Take a step each time the pipe says so and tell its seconds; at the end, the peak memory in MiB."""
    allocator = keep_freed_memory() if side == "ours" else "allocator: as the system has it"
    torch.set_num_threads(threads)
    batch = build_batch(height, width, num_images)
    torch.manual_seed(0)
    step = ours_step(build_ours(batch), batch) if side == "ours" else peer_step(build_peer(batch), batch)
    pipe.send(allocator)
    while pipe.recv():
        start = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - start)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def measure(height: int, width: int, num_images: int, repeats: int) -> dict[str, Any]:
    """Interleaved steps of both at one size, each in a process of its own; one warm-up each."""
    context = multiprocessing.get_context("spawn")
    pipes, allocators = {}, {}
    threads = torch.get_num_threads()
    for side in ("ours", "torchvision"):
        pipes[side], theirs = context.Pipe()
        context.Process(
            target=serve, args=(side, height, width, num_images, threads, theirs), daemon=True
        ).start()
        allocators[side] = pipes[side].recv()
    seconds: dict[str, list[float]] = {name: [] for name in pipes}
    for repeat in range(repeats + 1):
        for name, pipe in pipes.items():
            pipe.send(True)
            took = pipe.recv()
            if repeat:
                seconds[name].append(took)
            print(f"{height}x{width} {name} {took:.2f} s", flush=True)
    peaks = {}
    for name, pipe in pipes.items():
        pipe.send(False)
        peaks[name] = pipe.recv()
    ratios = [peer / ours for ours, peer in zip(seconds["ours"], seconds["torchvision"], strict=True)]
    return {
        "size": [num_images, height, width],
        "seconds": seconds,
        "median": {name: median(values) for name, values in seconds.items()},
        "ours_times_faster": {"median": median(ratios), "least": min(ratios), "most": max(ratios)},
        "peak_memory_mib": peaks,
        "allocators": allocators,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["320x480", "800x1216"])
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    for size in arguments.sizes:
        height, width = map(int, size.split("x"))
        rows.append(measure(height, width, arguments.images, arguments.repeats))
        print(f"{size}: {rows[-1]['ours_times_faster']['median']:.2f} times as fast as torchvision")
    report = {
        "rows": rows,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cpu": platform.machine(),
    }
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
