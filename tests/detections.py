"""Annotations and detections drawn at random for tests of evaluation; a function of the seed."""

from typing import Any

import numpy as np
from pycocotools import mask as rle

SIGMA_COUNT = 17


def draw_document(
    seed: int, *, num_images: int = 12, num_categories: int = 4, num_instances: int = 9, empty_images: int = 2
) -> dict[str, Any]:
    """A COCO document with crowds, an empty category, images without instances, ids with holes in no
    order, and areas on the borders of the size ranges."""
    rng = np.random.default_rng(seed)
    image_ids = rng.permutation(np.arange(3, 3 + 7 * num_images, 7)).tolist()
    category_ids = rng.permutation(np.arange(2, 2 + 3 * num_categories, 3)).tolist()
    images = [
        {
            "id": i,
            "height": int(rng.integers(90, 200)),
            "width": int(rng.integers(90, 220)),
            "file_name": f"{i}.jpg",
        }
        for i in image_ids
    ]
    categories = [
        {"id": c, "name": f"c{c}", "keypoints": [f"k{k}" for k in range(SIGMA_COUNT)]} for c in category_ids
    ]
    annotations: list[dict[str, Any]] = []
    for image in images[empty_images:]:
        for _ in range(int(rng.integers(1, num_instances + 1))):
            box = draw_box(rng, image)
            mask = draw_mask(rng, image, box)
            crowd = int(rng.random() < 0.12)
            keypoints = draw_keypoints(rng, box)
            edge = rng.random()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": int(rng.choice(category_ids[1:])),  # the first stays without instances
                    "bbox": box,
                    "area": 1024.0 if edge < 0.1 else 9216.0 if edge < 0.2 else float(rle.area(mask)),
                    "iscrowd": crowd,
                    "segmentation": text(mask),
                    "keypoints": keypoints,
                    "num_keypoints": sum(v > 0 for v in keypoints[2::3]),
                }
            )
    return {"images": images, "annotations": annotations, "categories": categories}


def draw_results(
    document: dict[str, Any], seed: int, *, num_noise: int = 12, tied: bool = True
) -> list[dict[str, Any]]:
    """Moved copies of the instances and noise, with many equal scores, tiny boxes and double hits."""
    rng = np.random.default_rng(seed)
    sizes = {image["id"]: image for image in document["images"]}
    category_ids = [category["id"] for category in document["categories"]]
    results = []

    def add(image: dict[str, Any], category: int, box: list[float], keypoints: list[float]) -> None:
        score = float(rng.random())
        results.append(
            {
                "image_id": image["id"],
                "category_id": category,
                "score": round(score, 1) if tied else score,
                "bbox": box,
                "segmentation": text(draw_mask(rng, image, box)),
                "keypoints": keypoints,
            }
        )

    for annotation in document["annotations"]:
        for _ in range(int(rng.integers(0, 4))):
            box = np.asarray(annotation["bbox"])
            moved = box + rng.normal(size=4) * np.array([box[2], box[3], box[2], box[3]]) * rng.choice(
                [0, 0.03, 0.1, 0.3]
            )
            moved[2:] = np.maximum(moved[2:], 0.5)
            points = np.asarray(annotation["keypoints"], dtype=float).reshape(-1, 3)
            points = points + rng.normal(size=points.shape) * rng.choice([0, 1, 5])
            add(
                sizes[annotation["image_id"]],
                annotation["category_id"],
                moved.tolist(),
                points.ravel().tolist(),
            )
    for image in document["images"]:
        for _ in range(int(rng.integers(0, num_noise + 1))):
            box = draw_box(rng, image)
            add(image, int(rng.choice(category_ids)), box, draw_keypoints(rng, box))
    order = rng.permutation(len(results))
    return [results[row] for row in order]


def draw_box(rng: np.random.Generator, image: dict[str, Any]) -> list[float]:
    """(x, y, w, h) inside the image; some tiny, some of exactly 32 x 32 or 96 x 96."""
    kind = rng.random()
    if kind < 0.15:
        w = h = float(rng.choice([32, 96 if min(image["height"], image["width"]) > 97 else 32]))
    elif kind < 0.3:
        w, h = rng.uniform(0.2, 3, size=2)
    else:
        w, h = rng.uniform(3, 0.9 * image["width"]), rng.uniform(3, 0.9 * image["height"])
    x, y = rng.uniform(0, max(image["width"] - w, 1e-3)), rng.uniform(0, max(image["height"] - h, 1e-3))
    return [float(x), float(y), float(min(w, image["width"] - x)), float(min(h, image["height"] - y))]


def draw_mask(rng: np.random.Generator, image: dict[str, Any], box: list[float]) -> dict[str, Any]:
    """An ellipse in the box with a few pixels flipped, as pycocotools encodes it."""
    h, w = image["height"], image["width"]
    ys, xs = np.mgrid[:h, :w] + 0.5
    x, y, bw, bh = box
    inside = ((xs - x - bw / 2) / (bw / 2)) ** 2 + ((ys - y - bh / 2) / (bh / 2)) ** 2 <= 1
    inside ^= rng.random((h, w)) < 0.0005
    return rle.encode(np.asfortranarray(inside.astype(np.uint8)))


def draw_keypoints(rng: np.random.Generator, box: list[float]) -> list[float]:
    """17 (x, y, visibility) in the box; now and then none is labelled."""
    points = np.zeros((SIGMA_COUNT, 3))
    if rng.random() > 0.15:
        points[:, 2] = rng.integers(0, 3, size=SIGMA_COUNT)
        points[:, :2] = np.array(box[:2]) + rng.random((SIGMA_COUNT, 2)) * np.array(box[2:])
        points[points[:, 2] == 0] = 0
    return points.ravel().tolist()


def text(mask: dict[str, Any]) -> dict[str, Any]:
    """The mask with counts as text, as in json."""
    return {"size": list(mask["size"]), "counts": mask["counts"].decode()}
