"""Time from annotations and results in memory to AP, ours against the evaluators alone.

COCO val scale by default: 5,000 images, about 36,500 instances, 500,000 detections, 80 classes; boxes
are drawn, masks are 24-cornered polygons in them. One run prints CPU seconds of this process and wall
seconds of each, their ratio, and the largest difference of the values.

    python benchmarks/evaluation.py [--kinds bbox segm] [--images 5000] [--pycocotools]
"""

import argparse
import contextlib
import gc
import io
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("RAYON_NUM_THREADS", "1")

import hotcoco
import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from groundup.metrics.coco_ap import coco_ap

INSTANCES_PER_IMAGE, DETECTIONS_PER_IMAGE, NUM_CATEGORIES = 7.3, 100, 80
HEIGHT, WIDTH = 480, 640
CORNERS = 24


def draw_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    side = np.exp(rng.normal(4.0, 1.0, size=(count, 2))).clip(2, (WIDTH * 0.9, HEIGHT * 0.9))
    corner = rng.random((count, 2)) * (np.array([WIDTH, HEIGHT]) - side)
    return np.concatenate([corner, side], axis=1)


def draw_polygon(rng: np.random.Generator, box: np.ndarray) -> list[float]:
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    radius = rng.uniform(0.7, 1.0, size=CORNERS)
    points = (
        np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None] * box[2:] / 2 + box[:2] + box[2:] / 2
    )
    return points.round(2).ravel().tolist()


def draw(num_images: int, with_masks: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations, and detections of which about a quarter are moved instances."""
    rng = np.random.default_rng(0)
    images = [{"id": 2 * i + 1, "height": HEIGHT, "width": WIDTH} for i in range(num_images)]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in images:
        count = rng.poisson(INSTANCES_PER_IMAGE)
        boxes, labels = draw_boxes(rng, count), rng.integers(1, NUM_CATEGORIES + 1, size=count)
        for box, label in zip(boxes, labels.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": label,
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3]),
                    "iscrowd": 0,
                }
                | ({"segmentation": [draw_polygon(rng, box)]} if with_masks else {})
            )
        copies = np.repeat(np.arange(count), 3)[:DETECTIONS_PER_IMAGE]
        moved = boxes[copies] + rng.normal(size=(len(copies), 4)) * 0.08 * boxes[copies][:, [2, 3, 2, 3]]
        noise = draw_boxes(rng, DETECTIONS_PER_IMAGE - len(copies))
        found = np.concatenate([moved, noise])
        found[:, 2:] = found[:, 2:].clip(1)
        classes = np.concatenate([labels[copies], rng.integers(1, NUM_CATEGORIES + 1, size=len(noise))])
        scores = np.concatenate([rng.beta(3, 2, len(copies)), rng.beta(1, 4, len(noise))])
        results += [
            {"image_id": image["id"], "category_id": c, "score": s, "bbox": b}
            for b, c, s in zip(found.tolist(), classes.tolist(), scores.tolist(), strict=True)
        ]
    if with_masks:
        for result in results:
            polygon = draw_polygon(rng, np.array(result.pop("bbox")))
            encoded = coco_mask.frPyObjects([polygon], HEIGHT, WIDTH)[0]
            result["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": c, "name": f"c{c}"} for c in range(1, NUM_CATEGORIES + 1)],
    }, results


def evaluate_alone(document: dict[str, Any], results: list[dict[str, Any]], kind: str) -> list[float]:
    truth = hotcoco.COCO(document)
    evaluator = hotcoco.COCOeval(truth, truth.load_res(results), kind)
    evaluator.evaluate()
    evaluator.accumulate()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.summarize()
    return list(evaluator.stats)


def evaluate_reference(document: dict[str, Any], results: list[dict[str, Any]], kind: str) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = document
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(results), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return list(evaluator.stats)


def evaluate_ours(document: dict[str, Any], results: list[dict[str, Any]], kind: str) -> list[float]:
    values = coco_ap(document, results, kind)  # type: ignore[arg-type]
    recalls = [values.AR[limit] for limit in values.limits]
    means = (values.AP, values.AP50, values.AP75, values.APs, values.APm, values.APl)
    row = [*means, *recalls, values.ARs, values.ARm, values.ARl]
    return [-1.0 if value is None else value for value in row]


def clock(work: Callable[[], list[float]]) -> tuple[float, float, list[float]]:
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    values = work()
    return time.process_time() - cpu, time.perf_counter() - wall, values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", default=["bbox", "segm"], choices=["bbox", "segm"])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pycocotools", action="store_true", help="the reference too; minutes at full scale")
    arguments = parser.parse_args()
    for kind in arguments.kinds:
        document, results = draw(arguments.images, kind == "segm")
        print(
            f"{kind}: {len(document['images'])} images, {len(document['annotations'])} instances, "
            f"{len(results)} detections, {os.environ['RAYON_NUM_THREADS']} thread"
        )
        contestants = {"hotcoco alone": evaluate_alone, "groundup": evaluate_ours}
        runs: dict[str, list[tuple[float, float, list[float]]]] = {name: [] for name in contestants}
        for _ in range(arguments.repeats):  # in turn, so that a change of load meets all of them
            for name, work in contestants.items():
                runs[name].append(clock(partial(work, document, results, kind)))
        if arguments.pycocotools:
            runs["pycocotools"] = [clock(partial(evaluate_reference, document, results, kind))]
        base = statistics.median(cpu for cpu, _, _ in runs["hotcoco alone"])
        first = np.array(runs["hotcoco alone"][0][2])
        for name, measured in runs.items():
            cpu = statistics.median(cpu for cpu, _, _ in measured)
            wall = statistics.median(wall for _, wall, _ in measured)
            gap = np.abs(np.array(measured[0][2]) - first).max()
            print(
                f"  {name:<14} CPU {cpu:7.2f} s  wall {wall:7.2f} s  ratio {cpu / base:6.2f}  "
                f"AP {measured[0][2][0]:.6f}  largest difference {gap:.1e}"
            )


if __name__ == "__main__":
    main()
