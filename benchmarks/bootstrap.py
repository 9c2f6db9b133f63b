"""Time of the paired bootstrap at COCO val scale: two arms, 2,000 replicates, from match tables in memory.

Tables are drawn: 5,000 images, about 36,500 instances and 500,000 detections in 80 categories of COCO's
uneven sizes, ten IoU thresholds. The peer is hotcoco's `compare`, which draws images anew in each replicate
and accumulates again, on as many drawn detections; it is slow, so the two are compared at few replicates.

    python benchmarks/bootstrap.py --out benchmarks/results/bootstrap.json
"""

import functools
import os

import numpy as np

from evaluation import draw
from groundup.metrics.bootstrap import bootstrap_endpoints, draw_weights
from groundup.metrics.match_table import IOU_THRESHOLDS, MatchTable
from harness import OURS, Row, Step, Target, parser_for, race, report

INSTANCES_PER_IMAGE, DETECTIONS_PER_IMAGE, NUM_CATEGORIES = 7.3, 100, 80
NUM_IMAGES, NUM_REPLICATES = 5_000, 2_000
LIMIT = 60.0
"""Seconds on two cores. Source: the design, section 8."""
FEW = 20
"""Replicates at which the peer is met."""


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


def our_side(num_images: int, replicates: int, threads: int) -> Step:
    """Weights, both arms, the interval of their difference."""
    arms = [[draw_table(num_images, arm + 1)] for arm in range(2)]

    def step() -> list[float]:
        weights = draw_weights(num_images, replicates, seed=0)
        samples = [
            bootstrap_endpoints(tables, weights, ["AP", "AP50", "AP75"], num_threads=threads)["AP"]
            for tables in arms
        ]
        difference = (samples[0].replicates - samples[1].replicates).mean(axis=1)
        return np.percentile(difference, [2.5, 97.5]).tolist()

    return step


def peer_side(num_images: int, replicates: int) -> Step:
    """hotcoco's, of two evaluations that have matched already."""
    import hotcoco

    document, results = draw(num_images, with_masks=False)
    evaluators = []
    for arm in range(2):
        kept = [one | {"score": one["score"] * (0.9 if arm else 1.0)} for one in results]
        truth = hotcoco.COCO(document)
        evaluators.append(hotcoco.COCOeval(truth, truth.load_res(kept), "bbox"))
        evaluators[-1].evaluate()

    def step() -> None:
        hotcoco.compare(*evaluators, n_bootstrap=replicates, seed=0)

    return step


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--images", type=int, default=NUM_IMAGES)
    parser.add_argument("--replicates", type=int, default=NUM_REPLICATES)
    arguments = parser.parse_args()
    images = arguments.images // 10 if arguments.quick else arguments.images
    threads = os.cpu_count() or 1
    few = {
        OURS: functools.partial(our_side, images, FEW, threads),
        "hotcoco compare": functools.partial(peer_side, images, FEW),
    }
    whole = {OURS: functools.partial(our_side, images, arguments.replicates, threads)}
    rows = [
        Row(
            name=f"paired bootstrap, {replicates} replicates, {images} images",
            sides=race(sides, turns=arguments.turns or 3, warmups=0),
            amount=replicates,
            per="replicate",
            target=target,
            facts={"threads": threads},
        )
        for replicates, sides, target in (
            (arguments.replicates, whole, Target(at_most=LIMIT)),
            (FEW, few, None),
        )
    ]
    report("bootstrap", rows, arguments)


if __name__ == "__main__":
    main()
