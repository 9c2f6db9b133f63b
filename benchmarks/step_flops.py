"""What a training step must compute, and the speed that a GPU's peak would allow.

    python benchmarks/step_flops.py --out benchmarks/results/step_flops.json

Counted on tensors without numbers, so anywhere in seconds: products of matrices and convolutions, forward and
backward, of the paper's Mask R-CNN R50-FPN with GN in fixed shapes. The heads see every slot: 512 RoIs an
image for boxes, 128 for masks, filled or not. Nothing is timed here; `gpu_step.py` does that.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from groundup.data.buckets import BucketOptions, pad_truth
from groundup.models.presets import paper_mask_rcnn
from groundup.models.rcnn import build_detector
from groundup.structures import Batch, Masks

TARGET = 100.0
"""Images a second that are aimed at on one data-centre GPU."""
PEAKS = {"A100": 312e12, "H100 SXM": 989e12}
"""Dense bf16 operations a second. Source: NVIDIA's data sheets."""


def empty_batch(height: int, width: int, num_images: int) -> Batch:
    """Black images without objects: what is counted hangs on shapes alone."""
    sizes = torch.tensor([[height, width]] * num_images)
    rows = torch.zeros(0, dtype=torch.int64)
    return Batch(
        images=torch.zeros(num_images, 3, height, width, dtype=torch.uint8),
        sizes=sizes,
        original_sizes=sizes,
        boxes=torch.zeros(num_images, 1, 4),
        labels=torch.full((num_images, 1), -1),
        masks=Masks(
            edges=torch.zeros(0, 4),
            edge_polygon=rows,
            polygon_instance=rows,
            pixels=torch.zeros(0, dtype=torch.uint8),
            bitmap_boxes=torch.zeros((0, 4), dtype=torch.int64),
            bitmap_instance=rows,
        ),
        keypoints=None,
        image_ids=torch.arange(num_images),
        seeds=torch.arange(num_images),
    )


def count(height: int, width: int, num_images: int) -> dict[str, Any]:
    """Operations of forward and backward, of all and of each part's forward pass."""
    batch = pad_truth(empty_batch(height, width, num_images), BucketOptions(sizes=((height, width),)))
    with FakeTensorMode() as mode:
        model = build_detector(
            paper_mask_rcnn().model_copy(update={"roi_slots": "fixed"}),
            num_classes=80,
            pixel_mean=(0.485, 0.456, 0.406),
            pixel_std=(0.229, 0.224, 0.225),
        )
        seen = batch.map(mode.from_tensor)
        with FlopCounterMode(display=False, depth=2) as forward:
            losses = model.losses(seen)
        with FlopCounterMode(display=False) as backward:
            torch.stack(list(losses.values())).sum().backward()
    parts = {
        name: sum(ops.values())
        for name, ops in forward.get_flop_counts().items()
        if name != "Global" and "." not in name
    }
    total = forward.get_total_flops() + backward.get_total_flops()
    return {
        "size": [num_images, height, width],
        "flops_an_image": total / num_images,
        "forward_an_image": forward.get_total_flops() / num_images,
        "forward_parts_an_image": {name: flops / num_images for name, flops in sorted(parts.items())},
        "share_of_peak_for_target": {
            name: TARGET * total / num_images / peak for name, peak in PEAKS.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["800x1088", "800x1344"])
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = [count(*map(int, size.split("x")), arguments.images) for size in arguments.sizes]
    for row in rows:
        shares = ", ".join(f"{share:.0%} of an {n}" for n, share in row["share_of_peak_for_target"].items())
        print(
            f"{row['size']}: {row['flops_an_image'] / 1e12:.2f} TFLOP an image; {TARGET:g} a second: {shares}"
        )
        for name, flops in row["forward_parts_an_image"].items():
            print(f"    forward {name}: {flops / 1e12:.3f} TFLOP")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"rows": rows, "torch": torch.__version__}, indent=2) + "\n")


if __name__ == "__main__":
    main()
