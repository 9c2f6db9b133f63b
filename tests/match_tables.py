"""Match tables drawn at random, and documents with images physically repeated."""

import copy
from typing import Any

import numpy as np

from groundup.metrics.match_table import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE, MatchTable


def repeat_images(
    document: dict[str, Any], results: list[dict[str, Any]], weights: dict[int, int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same with each image there as often as its weight says; copies have neighbouring ids."""
    most = max(weights.values()) + 1
    images, annotations, repeated = [], [], []
    for image in document["images"]:
        for replica in range(weights[image["id"]]):
            number = image["id"] * most + replica
            images.append({**image, "id": number})
            for annotation in document["annotations"]:
                if annotation["image_id"] == image["id"]:
                    annotations.append({**annotation, "image_id": number, "id": len(annotations) + 1})
            repeated += [{**r, "image_id": number} for r in results if r["image_id"] == image["id"]]
    return {**copy.deepcopy(document), "images": images, "annotations": annotations}, repeated


def untie_within_images(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results with equal scores only between images: the best of each image, class and score."""
    kept = {(r["image_id"], r["category_id"], r["score"]): r for r in results}
    return list(kept.values())


def draw_table(
    random: np.random.Generator,
    *,
    num_images: int,
    quality: float,
    per_image: np.ndarray,
    seed_noise: float = 0.0,
    thresholds: tuple[float, ...] = (0.5, 0.75),
    num_categories: int = 1,
    num_wrong: float = 3.0,
) -> MatchTable:
    """What a detector of that quality (in logits) finds on images with instances and difficulties.

    `per_image` holds (instances, difficulty) of each image: drawn once and shared by all detectors,
    so that their errors go together. `seed_noise` is the spread of the quality between trainings.
    """
    quality += seed_noise * random.normal()
    counts = per_image[:, 0].astype(int)
    gt_images = np.repeat(np.arange(num_images), counts)
    gt_categories = np.zeros(len(gt_images), dtype=int)
    if num_categories > 1:  # the truth is a function of the images alone
        gt_categories = np.random.default_rng(int(counts.sum())).integers(0, num_categories, len(gt_images))
    ease = quality - per_image[gt_images, 1] + random.normal(size=len(gt_images))
    limits = np.array([1.6 * (t - 0.5) / 0.25 - 0.8 for t in thresholds])
    hits = ease > limits[:, None]
    scores = ease + 0.7 * random.normal(size=len(ease))
    seen = ease > -1.5
    wrong = np.repeat(np.arange(num_images), random.poisson(num_wrong, num_images))
    images = np.concatenate([gt_images[seen], wrong])
    categories = np.concatenate([gt_categories[seen], random.integers(0, num_categories, len(wrong))])
    score = np.concatenate([scores[seen], random.normal(-0.8 - 0.3 * quality, 1.0, len(wrong))])
    outcome = np.concatenate([hits[:, seen], np.zeros((len(limits), len(wrong)), dtype=bool)], axis=1)
    order = np.lexsort((-score, categories))
    outcomes = np.where(outcome, TRUE_POSITIVE, FALSE_POSITIVE).astype(np.uint8)[None, :, order]
    assert IGNORED not in outcomes
    return MatchTable(
        kind="bbox",
        max_detections=100,
        thresholds=np.array(thresholds),
        areas=("all",),
        image_ids=np.arange(num_images),
        category_ids=np.arange(num_categories),
        category_names=tuple(f"c{k}" for k in range(num_categories)),
        starts=np.searchsorted(categories[order], np.arange(num_categories + 1)),
        images=images[order].astype(np.int32),
        scores=score[order],
        rows=np.arange(len(order), dtype=np.int32),
        outcomes=outcomes,
        gt_images=gt_images.astype(np.int32),
        gt_categories=gt_categories.astype(np.int32),
        gt_counted=np.ones((1, len(gt_images)), dtype=bool),
    )


def draw_images(random: np.random.Generator, num_images: int) -> np.ndarray:
    """(instances, difficulty) of each image."""
    return np.stack([1 + random.poisson(3, num_images), 0.8 * random.normal(size=num_images)], axis=1)
