"""Top-1 and top-5 of pre-trained weights on a folder of ImageNet photographs, one thread.

    python benchmarks/imagenet_check.py ../shared/data/imagenet_samples \
        tf_efficientnet_lite0=../shared/data/weights/efficientnet_lite0-57934424.pth ...

The folder holds `labels.csv` (file, class) and images with a short side of 256 pixels; the centre 224 are
classified. It is the test of the whole path of weights: reading, names, eps, padding and input scale.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from groundup.models.classifier import build_imagenet_classifier

CROP = 224
"""Side of the square that is classified. Source: the usual ImageNet evaluation."""
BATCH = 20
"""Photographs classified at once."""


def photograph(path: Path) -> Tensor:
    """The centre of one photograph, (3, 224, 224) bytes."""
    with Image.open(path) as image:
        left, top = (image.width - CROP) // 2, (image.height - CROP) // 2
        pixels = np.asarray(image.convert("RGB").crop((left, top, left + CROP, top + CROP)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+", metavar="TIMM_NAME=WEIGHTS")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with (arguments.folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    for model in arguments.models:
        name, _, weights = model.partition("=")
        classifier = build_imagenet_classifier(name, weights)
        started, top1, top5 = time.perf_counter(), 0, 0
        for first in range(0, len(rows), BATCH):
            chunk = rows[first : first + BATCH]
            images = torch.stack([photograph(arguments.folder / row["file"]) for row in chunk])
            hits = classifier.classify(images) == torch.tensor([[int(row["class"])] for row in chunk])
            top1 += int(hits[:, 0].sum())
            top5 += int(hits.any(dim=1).sum())
        seconds = time.perf_counter() - started
        share = f"top-1 {top1 / len(rows):.3f}, top-5 {top5 / len(rows):.3f}"
        print(f"{name}: {share} of {len(rows)} photographs, {seconds:.0f} s")


if __name__ == "__main__":
    main()
