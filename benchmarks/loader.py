"""Images a second of one loading process, against torchvision's reference pipelines.

    python benchmarks/loader.py --out benchmarks/results/loader.json

Every pipeline runs on one thread in a process of its own and turns the same photographs (longer side 640)
with their masks into what its model takes: read, decode, flip, resize. A turn is all photographs once; CPU
time is compared, so that a busy machine disturbs little. Peers follow torchvision's `references/detection`
(`presets.py`, `coco_utils.py`) with `transforms.v2`; the reference's default preset leaves the resize to the
model, which does it in the training process: its row includes that call.
"""

import contextlib
import functools
import io
import warnings

import numpy as np

from groundup.allocator import keep_freed_memory
from groundup.data.images import ImagePolicy
from groundup.data.loader import BatchSource, Request
from groundup.data.transforms import TransformOptions
from harness import OURS, Row, Step, Target, parser_for, race, report
from pictures import open_pictures, pictures

LONGER_SIDE = 640
BATCH_SIZE = 2
AT_LEAST = 1.5
"""Times as fast as torchvision's reference pipeline. Source: the design, section 8."""
PEER = "torchvision v2, PIL resize"


def chosen_rows(count: int) -> np.ndarray:
    """Photographs with something in them, of the common size first."""
    index = open_pictures()
    is_common = index.sizes.max(axis=1) == LONGER_SIDE
    rows = np.flatnonzero(is_common & (index.num_usable > 0))
    rows = rows if len(rows) >= BATCH_SIZE else np.flatnonzero(index.num_usable > 0)
    return rows[: min(count, len(rows)) // BATCH_SIZE * BATCH_SIZE]


def our_side(count: int, short_side: int, mask_format: str) -> Step:
    """Ours, to the finished batch."""
    keep_freed_memory()
    transforms = TransformOptions(short_side=(short_side,), mask_format=mask_format)
    source, rows = BatchSource(open_pictures(), transforms, ImagePolicy()), chosen_rows(count)

    def step() -> None:
        for pair in rows.reshape(-1, BATCH_SIZE).tolist():
            batch = source[Request(rows=tuple(pair), seeds=tuple(pair), train=True)]
            assert batch.num_images == BATCH_SIZE

    return step


def peer_side(count: int, short_side: int, kind: str) -> Step:
    """torchvision's, to one image after the other."""
    import torch
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.models.detection.transform import GeneralizedRCNNTransform
    from torchvision.transforms import v2

    warnings.simplefilter("ignore")
    index, max_side = open_pictures(), TransformOptions().max_side
    flip, resize = v2.RandomHorizontalFlip(0.5), v2.RandomShortestSize([short_side], max_size=max_side)
    first = {
        PEER: [resize, flip, v2.PILToTensor()],
        "torchvision v2, tensor resize": [v2.PILToTensor(), resize, flip],
        "torchvision v2, resize in the model": [flip, v2.PILToTensor()],
    }[kind]
    ending = [
        v2.ToDtype(torch.float, scale=True),
        v2.ConvertBoundingBoxFormat("XYXY"),
        v2.SanitizeBoundingBoxes(),
        v2.ToPureTensor(),
    ]
    shown = pictures()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks
        photographs = CocoDetection(shown.images, shown.annotations, transforms=v2.Compose([*first, *ending]))
    photographs.ids = [int(index.image_ids[row]) for row in chosen_rows(count)]
    dataset = wrap_dataset_for_transforms_v2(photographs, target_keys=("boxes", "labels", "masks"))
    in_model = GeneralizedRCNNTransform(short_side, max_side, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    is_in_model = kind == "torchvision v2, resize in the model"

    def step() -> None:
        for row in range(len(photographs.ids)):
            image, target = dataset[row]
            if is_in_model:
                in_model([image], [target])

    return step


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--short-side", type=int, default=800)
    parser.add_argument("--images", type=int, default=48)
    arguments = parser.parse_args()
    count = 16 if arguments.quick else arguments.images
    side = arguments.short_side
    sides = {
        OURS: functools.partial(our_side, count, side, "polygons"),
        "groundup, bitmaps": functools.partial(our_side, count, side, "bitmaps"),
    }
    for kind in (PEER, "torchvision v2, tensor resize", "torchvision v2, resize in the model"):
        sides[kind] = functools.partial(peer_side, count, side, kind)
    rows = chosen_rows(count)
    row = Row(
        name=f"input, one process, {len(rows)} pictures, short side {side}",
        sides=race(sides, turns=arguments.turns or (2 if arguments.quick else 5), threads=1, unit="CPU s"),
        unit="CPU s",
        amount=len(rows),
        target=Target(at_least=AT_LEAST, against=PEER),
        facts={"pictures": pictures().name, "instances": int(open_pictures().num_usable[rows].sum())},
    )
    report("loader", [row], arguments)


if __name__ == "__main__":
    main()
