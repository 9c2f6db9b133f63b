"""Images a second of one loading process, against torchvision's reference pipelines.

    python benchmarks/loader.py ANNOTATIONS IMAGES [--short-side 800] [--images 48] [--repeats 5]

Every pipeline runs on one thread in this process and turns the same photographs (longer side 640)
with their masks into what its model takes: read, decode, flip, resize. Pipelines take turns, each
repeat over all photographs; medians of images per second of CPU time, so that a busy machine
disturbs little, and the ratio to each peer. Peers follow torchvision's `references/detection`
(`presets.py`, `coco_utils.py`) with `transforms.v2`; the reference's default preset leaves the
resize to the model, which does it in the training process: its row includes that call.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from groundup.data.coco import Index, open_index
from groundup.data.images import ImagePolicy
from groundup.data.loader import BatchSource, Request
from groundup.data.transforms import TransformOptions

LONGER_SIDE = 640
BATCH_SIZE = 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--short-side", type=int, default=800)
    parser.add_argument("--num-images", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    with tempfile.TemporaryDirectory() as cache:
        index = open_index(args.annotations, args.images, cache=Path(cache))
        rows = np.flatnonzero((index.sizes.max(axis=1) == LONGER_SIDE) & (index.num_usable > 0))
        rows = rows[: args.num_images - args.num_images % BATCH_SIZE]
        pipelines = {
            "groundup": our_pipeline(index, rows, args.short_side, "polygons"),
            "groundup, bitmaps": our_pipeline(index, rows, args.short_side, "bitmaps"),
            **peer_pipelines(args, [int(index.image_ids[row]) for row in rows], args.short_side),
        }
        seconds: dict[str, list[float]] = {name: [] for name in pipelines}
        for repeat in range(args.repeats + 1):
            for name, run in pipelines.items():
                started = time.process_time()
                run()
                if repeat > 0:  # the first round warms files and allocators
                    seconds[name].append(time.process_time() - started)
        instances = int(index.num_usable[rows].sum())
    print(f"{len(rows)} photographs, {instances} instances, short side {args.short_side}, one thread")
    ours = statistics.median(seconds["groundup"])
    for name, times in seconds.items():
        median = statistics.median(times)
        spread = f"{len(rows) / max(times):.1f} .. {len(rows) / min(times):.1f}"
        print(f"{name:34} {len(rows) / median:7.1f} images/s ({spread})  groundup is {median / ours:.2f}x")


def our_pipeline(index: Index, rows: np.ndarray, short_side: int, mask_format: str) -> Callable[[], None]:
    transforms = TransformOptions(short_side=(short_side,), mask_format=mask_format)
    source = BatchSource(index, transforms, ImagePolicy())

    def run() -> None:
        for pair in rows.reshape(-1, BATCH_SIZE).tolist():
            batch = source[Request(rows=tuple(pair), seeds=tuple(pair), train=True)]
            assert batch.num_images == BATCH_SIZE

    return run


def peer_pipelines(
    args: argparse.Namespace, image_ids: list[int], short_side: int
) -> dict[str, Callable[[], None]]:
    max_side = TransformOptions().max_side
    flip, resize = v2.RandomHorizontalFlip(0.5), v2.RandomShortestSize([short_side], max_size=max_side)
    ending = [
        v2.ToDtype(torch.float, scale=True),
        v2.ConvertBoundingBoxFormat("XYXY"),
        v2.SanitizeBoundingBoxes(),
        v2.ToPureTensor(),
    ]
    in_model = GeneralizedRCNNTransform(short_side, max_side, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

    def pipeline(steps: list[v2.Transform], *, resize_in_model: bool = False) -> Callable[[], None]:
        photographs = CocoDetection(args.images, args.annotations, transforms=v2.Compose(steps))
        photographs.ids = image_ids
        dataset = wrap_dataset_for_transforms_v2(photographs, target_keys=("boxes", "labels", "masks"))

        def run() -> None:
            for row in range(len(image_ids)):
                image, target = dataset[row]
                if resize_in_model:
                    in_model([image], [target])

        return run

    return {
        "torchvision v2, PIL resize": pipeline([resize, flip, v2.PILToTensor(), *ending]),
        "torchvision v2, tensor resize": pipeline([v2.PILToTensor(), resize, flip, *ending]),
        "torchvision v2, resize in the model": pipeline(
            [flip, v2.PILToTensor(), *ending], resize_in_model=True
        ),
    }


if __name__ == "__main__":
    main()
