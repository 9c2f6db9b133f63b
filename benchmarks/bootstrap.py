"""Time of the paired bootstrap at COCO val scale: two arms, 2,000 replicates, from match tables in memory.

Tables are drawn: 5,000 images, about 36,500 instances and 500,000 detections in 80 categories of COCO's
uneven sizes, ten IoU thresholds. One run prints wall and CPU seconds and, with --match, the time to
match that many drawn boxes.

    python benchmarks/bootstrap.py [--images 5000] [--replicates 2000] [--threads 2] [--seeds 1] [--match]
"""

import argparse
import resource
import time

import numpy as np

from groundup.metrics.bootstrap import bootstrap_endpoints, draw_weights
from groundup.metrics.match_table import IOU_THRESHOLDS, MatchTable, build_match_table

INSTANCES_PER_IMAGE, DETECTIONS_PER_IMAGE, NUM_CATEGORIES = 7.3, 100, 80


def draw_table(num_images: int, seed: int) -> MatchTable:
    """As many detections as COCO's evaluator sees; 0.8 of the instances are found at 0.5, 0.2 at 0.95."""
    truth, random = np.random.default_rng(0), np.random.default_rng(seed)
    share = 1.0 / np.arange(1, NUM_CATEGORIES + 1)
    num_gt = int(num_images * INSTANCES_PER_IMAGE)
    gt_images = np.sort(truth.integers(0, num_images, num_gt))
    gt_categories = truth.choice(NUM_CATEGORIES, num_gt, p=share / share.sum())
    overlap = random.random(num_gt)
    num_wrong = num_images * DETECTIONS_PER_IMAGE - num_gt
    images = np.concatenate([gt_images, random.integers(0, num_images, num_wrong)])
    categories = np.concatenate(
        [gt_categories, random.choice(NUM_CATEGORIES, num_wrong, p=share / share.sum())]
    )
    scores = np.concatenate([overlap + random.normal(size=num_gt), random.normal(-1.5, 1.0, num_wrong)])
    limits = np.linspace(0.2, 0.8, len(IOU_THRESHOLDS))[:, None]
    hits = np.concatenate([overlap > limits, np.zeros((len(limits), num_wrong), dtype=bool)], axis=1)
    outcomes = np.where(hits, 1, 2).astype(np.uint8)
    outcomes[:, num_gt + np.flatnonzero(random.random(num_wrong) < 0.01)] = 0  # crowds
    order = np.lexsort((-scores, categories))
    return MatchTable(
        kind="bbox",
        max_detections=100,
        thresholds=np.array(IOU_THRESHOLDS),
        areas=("all",),
        image_ids=np.arange(num_images),
        category_ids=np.arange(NUM_CATEGORIES),
        category_names=tuple(map(str, range(NUM_CATEGORIES))),
        starts=np.searchsorted(categories[order], np.arange(NUM_CATEGORIES + 1)),
        images=images[order].astype(np.int32),
        scores=scores[order],
        rows=order.astype(np.int32),
        outcomes=outcomes[None, :, order],
        gt_images=gt_images.astype(np.int32),
        gt_categories=gt_categories.astype(np.int32),
        gt_counted=np.ones((1, num_gt), dtype=bool),
    )


def seconds() -> tuple[float, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), used.ru_utime + used.ru_stime


def time_matching(num_images: int) -> None:
    from evaluation import draw

    document, results = draw(num_images, with_masks=False)
    wall, cpu = seconds()
    table = build_match_table(document, results, "bbox")
    wall, cpu = seconds()[0] - wall, seconds()[1] - cpu
    print(f"matching {len(table.scores)} of {len(results)} boxes: {wall:.1f} s wall, {cpu:.1f} s CPU")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--match", action="store_true")
    options = parser.parse_args()
    if options.match:
        time_matching(options.images)
    arms = [
        [draw_table(options.images, 2 * seed + arm + 1) for seed in range(options.seeds)] for arm in range(2)
    ]
    wall, cpu = seconds()
    weights = draw_weights(options.images, options.replicates, seed=0)
    samples = [
        bootstrap_endpoints(tables, weights, ["AP", "AP50", "AP75"], num_threads=options.threads)["AP"]
        for tables in arms
    ]
    wall, cpu = seconds()[0] - wall, seconds()[1] - cpu
    difference = (samples[0].replicates - samples[1].replicates).mean(axis=1)
    low, high = np.percentile(difference, [2.5, 97.5])
    print(
        f"{options.images} images, {len(arms[0][0].scores)} detections, {options.replicates} paired "
        f"replicates, {options.seeds} seeds an arm: {wall:.1f} s wall, {cpu:.1f} s CPU, "
        f"AP {samples[0].points.mean():.2f}, difference [{low:.2f}, {high:.2f}]"
    )


if __name__ == "__main__":
    main()
