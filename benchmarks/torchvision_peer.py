"""Our Faster R-CNN beside torchvision's, on the same photographs, order, length, rates and seeds.

    python benchmarks/torchvision_peer.py --train A.json --train-images DIR --val B.json --val-images DIR \
        --images 1600 --seeds 0 1 --out runs/peer

Both are ResNet-18 FPN with BN from random weights, torchvision's details, SGD of its reference scripts, and
the same reduced widths and counts (`SIZES`), since the published ones take hours on two cores. Both see the
same batches (ours), so flips and order agree too; each draws its own first weights, anchors and RoIs.
Prints AP of each seed and the means, and writes `peer.json`.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from groundup.config import override
from groundup.data.loader import evaluation_batches
from groundup.engine.optimizer import apply_lr, build_optimizer
from groundup.engine.schedule import lr_at, total_images
from groundup.metrics.coco_ap import coco_ap
from groundup.models.presets import BOX_RESOLUTION, DetectorSizes, torchvision
from groundup.peer_recipes import torchvision_recipe
from groundup.recipe import Recipe
from groundup.run import train_run, training_batches
from groundup.splits import open_splits
from groundup.structures import Batch

BATCH = 4
SIZES = DetectorSizes(
    channels=64,
    fc_channels=256,
    anchor_size=12.0,
    anchors_per_image=64,
    rois_per_image=64,
    proposals_factor=0.15,
)
LR = 0.005
"""torchvision's 0.02 for 16 images, scaled to 4."""


def recipe_of(arguments: argparse.Namespace, seed: int) -> Recipe:
    """Our side: torchvision's preset on ResNet-18, normalised over the whole batch as torchvision does."""
    recipe = torchvision_recipe("peer", torchvision("resnet18", "bn", has_masks=False, sizes=SIZES))
    side = arguments.side
    return override(
        recipe,
        [
            f"data.train.annotations={arguments.train}",
            f"data.train.images={arguments.train_images}",
            f"data.val.annotations={arguments.val}",
            f"data.val.images={arguments.val_images}",
            "transforms.mask_format=polygons",
            f"transforms.short_side=[{side}]",
            f"transforms.max_side={2 * side}",
            f"transforms.test_short_side={side}",
            f"transforms.test_max_side={2 * side}",
            "loader.num_workers=1",
            f"model.loss_images={BATCH}",
            f"training.schedule.batch_size={BATCH}",
            f"training.schedule.lr={LR}",
            "training.schedule.units=null",
            f"training.schedule.images={arguments.images}",
            f"training.schedule.unit_images={arguments.images}",
            "training.schedule.drops=[0.38, 0.15]",
            f"training.schedule.warmup_images={arguments.images // 10}",
            "evaluation.batch_size=4",
            f"seed={seed}",
        ],
    )


def build_peer(num_classes: int, side: int) -> FasterRCNN:
    """Torchvision's model; it does not resize, since the batches are resized."""
    body = resnet18(weights=None)
    channels = [body.inplanes // 2**power for power in (3, 2, 1, 0)]
    layers = {f"layer{number + 1}": str(number) for number in range(len(channels))}
    backbone = BackboneWithFPN(body, layers, channels, SIZES.channels)
    pre, post = SIZES.proposals(2000), SIZES.proposals(1000)
    model = FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(SIZES.anchor_sizes(), ((0.5, 1.0, 2.0),) * 5),
        rpn_pre_nms_top_n_train=pre,
        rpn_post_nms_top_n_train=pre,
        rpn_pre_nms_top_n_test=post,
        rpn_post_nms_top_n_test=post,
        rpn_batch_size_per_image=SIZES.anchors_per_image,
        box_batch_size_per_image=SIZES.rois_per_image,
        box_head=TwoMLPHead(SIZES.channels * BOX_RESOLUTION**2, SIZES.fc_channels),
        box_predictor=FastRCNNPredictor(SIZES.fc_channels, num_classes + 1),
    )
    model.transform = GeneralizedRCNNTransform(
        side, 2 * side, model.transform.image_mean, model.transform.image_std, _skip_resize=True
    )
    return model


def photographs(batch: Batch) -> list[torch.Tensor]:
    """The batch as torchvision takes it: floats in 0..1, unpadded."""
    return [
        image[:, :height, :width] / 255
        for image, (height, width) in zip(batch.images, batch.sizes.tolist(), strict=True)
    ]


def targets(batch: Batch) -> list[dict[str, torch.Tensor]]:
    """Boxes and labels as torchvision takes them, which counts background as class 0."""
    return [
        {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0] + 1}
        for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
    ]


def train_peer(recipe: Recipe) -> tuple[float, float]:
    """AP and seconds of torchvision's model under the recipe's data and schedule."""
    splits, schedule = open_splits(recipe), recipe.training.schedule
    torch.manual_seed(recipe.seed)
    model = build_peer(len(splits.train.categories), recipe.transforms.short_side[0])
    optimizer = build_optimizer(model, recipe.training.optimizer)
    stream = training_batches(recipe, splits.train)(0)
    start, num_images = time.perf_counter(), splits.train.num_images
    for seen in range(0, total_images(schedule, num_images), schedule.batch_size):
        batch = next(stream)
        apply_lr(optimizer, lr_at(seen, schedule, num_images))
        loss = sum(model(photographs(batch), targets(batch)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds = time.perf_counter() - start
    return evaluate_peer(model.eval(), recipe, splits.val), seconds


@torch.inference_mode()
def evaluate_peer(model: FasterRCNN, recipe: Recipe, index: Any) -> float:
    """AP of torchvision's detections, by our evaluator."""
    results = []
    for batch in evaluation_batches(index, recipe.transforms, recipe.loader, batch_size=BATCH):
        for row, found in enumerate(model(photographs(batch))):
            scale = (batch.original_sizes[row] / batch.sizes[row]).flip(0).repeat(2)
            boxes = found["boxes"] * scale
            boxes[:, 2:] -= boxes[:, :2]
            for box, score, label in zip(
                boxes.tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True
            ):
                results.append(
                    {
                        "image_id": int(batch.image_ids[row]),
                        "category_id": index.categories[label - 1].id,
                        "bbox": box,
                        "score": score,
                    }
                )
    return coco_ap(index.document(), results, "bbox").AP or 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("train", "train-images", "val", "val-images", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1600)
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        recipe = recipe_of(arguments, seed)
        start = time.perf_counter()
        result = train_run(recipe, arguments.out / f"ours-{seed}", quiet=True)
        seconds = time.perf_counter() - start
        ours = result["metrics"]["box/AP"]
        peer, peer_seconds = train_peer(recipe)
        rows.append(
            {"seed": seed, "ours": ours, "ours_seconds": seconds, "peer": peer, "peer_seconds": peer_seconds}
        )
        print(f"seed {seed}: ours {100 * ours:.2f} AP, torchvision {100 * peer:.2f} AP", flush=True)
    means = {side: sum(row[side] for row in rows) / len(rows) for side in ("ours", "peer")}
    print(f"mean: ours {100 * means['ours']:.2f}, torchvision {100 * means['peer']:.2f}")
    (arguments.out / "peer.json").write_text(json.dumps({"rows": rows, "means": means}, indent=2) + "\n")


if __name__ == "__main__":
    main()
