"""RoIAlign on a CPU: our compiled kernel, our way without a compiler, and torchvision's.

    python benchmarks/roi_align.py [--quick] [--out benchmarks/results/roi_align.json]

A turn goes from the maps of the pyramid to the RoIs of one head, forward alone, or forward and backward to
the maps' gradients; our table of the maps is made anew each time, though in a detector all heads share one.
Boxes have log-uniform sides and lie anywhere in their image. All sides keep freed memory
(`groundup.allocator`).
"""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from groundup.allocator import keep_freed_memory
from groundup.ops.compilation import SWITCH
from groundup.ops.pooling import build_roi_maps, pool_levels
from groundup.ops.roi import fpn_levels
from groundup.ops.roi_kernel import kernel_line
from harness import OURS, Row, Target, parser_for, race, report

PEER, UNCOMPILED = "torchvision", "groundup, not compiled"
AT_LEAST = 10.0
"""Ten to twenty times is what a plain kernel was measured to give (see docs/speed.md)."""
PLACES_A_TURN = 2**22
"""Channels times cells of a turn, roughly: small shapes are pooled several times."""
STRIDES = (4, 8, 16, 32)
SAMPLING_RATIO = 2
LEAST_SHARE, MOST_SHARE = 0.04, 0.9
"""Sides of boxes, as shares of the image's shorter side."""
LEVEL_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Shape:
    """What is pooled."""

    name: str
    height: int
    width: int
    channels: int
    images: int
    rois: int
    """An image."""
    size: int


SHAPES = (
    Shape("box head, 320x480", 320, 480, 256, 2, 512, 7),
    Shape("mask head, 320x480", 320, 480, 256, 2, 64, 14),
    Shape("mask head, many RoIs, 320x480", 320, 480, 256, 2, 128, 14),
    Shape("box head, 800x1216", 800, 1216, 256, 2, 512, 7),
    Shape("mask head, 800x1216", 800, 1216, 256, 2, 128, 14),
    Shape("small detector, 128x128", 128, 128, 64, 16, 64, 7),
    Shape("tiny detector, 96x96", 96, 96, 64, 4, 64, 7),
)


def build_input(shape: Shape) -> tuple[list[Tensor], Tensor, Tensor]:
    """Maps, boxes and the image of each box."""
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(shape.images, shape.channels, shape.height // s, shape.width // s, generator=generator)
        for s in STRIDES
    ]
    count, shorter = shape.images * shape.rois, min(shape.height, shape.width)
    shares = torch.rand(count, 2, generator=generator)
    sides = shorter * LEAST_SHARE * (MOST_SHARE / LEAST_SHARE) ** shares
    starts = (torch.tensor([shape.width, shape.height]) - sides) * torch.rand(count, 2, generator=generator)
    images = torch.arange(shape.images).repeat_interleave(shape.rois)
    return maps, torch.cat([starts, starts + sides], dim=1), images


def times_a_turn(shape: Shape) -> int:
    """How often a turn pools the shape."""
    return max(1, PLACES_A_TURN // (shape.images * shape.rois * shape.size**2 * shape.channels))


def build_pool(shape: Shape, boxes: Tensor, images: Tensor) -> Callable[[Sequence[Tensor]], Tensor]:
    """Our way from maps to RoIs."""
    levels = fpn_levels(boxes, len(STRIDES), eps=LEVEL_EPS, is_eps_in_log=True)

    def pool(maps: Sequence[Tensor]) -> Tensor:
        return pool_levels(
            build_roi_maps(maps, STRIDES),
            boxes,
            images,
            levels,
            size=shape.size,
            sampling_ratio=SAMPLING_RATIO,
            is_aligned=False,
        )

    return pool


def build_peer_pool(shape: Shape, boxes: Tensor) -> Callable[[Sequence[Tensor]], Tensor]:
    """torchvision's."""  # noqa: D403
    align = MultiScaleRoIAlign(["0", "1", "2", "3"], shape.size, SAMPLING_RATIO)
    by_image = list(boxes.split(shape.rois))

    def pool(maps: Sequence[Tensor]) -> Tensor:
        named = {str(k): level for k, level in enumerate(maps)}
        return align(named, by_image, [(shape.height, shape.width)] * shape.images)

    return pool


def side(shape: Shape, threads: int, has_backward: bool, name: str) -> Callable[[], None]:
    """One side's turn."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    if name == UNCOMPILED:
        os.environ[SWITCH] = "off"
    maps, boxes, images = build_input(shape)
    pool = build_peer_pool(shape, boxes) if name == PEER else build_pool(shape, boxes, images)
    outer = torch.ones(len(boxes), shape.channels, shape.size, shape.size)

    def turn() -> None:
        for _ in range(times_a_turn(shape)):
            if has_backward:
                held = [level.detach().requires_grad_() for level in maps]
                torch.autograd.grad(pool(held), held, outer)
            else:
                with torch.no_grad():
                    pool(maps)

    return turn


def measure(shape: Shape, threads: int, has_backward: bool, turns: int) -> Row:
    """One shape."""
    sides = {
        name: functools.partial(side, shape, threads, has_backward, name) for name in (OURS, UNCOMPILED, PEER)
    }
    what = "forward and backward" if has_backward else "forward"
    return Row(
        name=f"RoIAlign, {shape.name}, {what}, {threads} thread{'s' * (threads > 1)}",
        sides=race(sides, turns=turns),
        amount=times_a_turn(shape) * shape.images,
        target=Target(at_least=AT_LEAST, against=PEER) if has_backward else None,
        facts={"kernel": kernel_line(), "threads": threads},
    )


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    quick = arguments.quick
    turns = arguments.turns or (2 if quick else 3)
    shapes, threads = (SHAPES[-1:], arguments.threads[:1]) if quick else (SHAPES, arguments.threads)
    rows = [
        measure(shape, count, has_backward, turns)
        for shape in shapes
        for count in threads
        for has_backward in (False, True)
        if has_backward or count == threads[0]
    ]
    report("roi_align", rows, arguments)


if __name__ == "__main__":
    main()
