"""Time from annotations and results in memory to AP, ours against the evaluators alone.

COCO val scale: 5,000 images, about 36,500 instances, 500,000 detections, 80 classes; boxes are drawn, masks
are 24-cornered polygons in them. Each evaluator runs on one thread in a process of its own; CPU time is
compared, and the largest difference of the twelve values to hotcoco's is told. pycocotools has a row of its
own with fewer images.

    python benchmarks/evaluation.py --out benchmarks/results/evaluation.json
"""

import contextlib
import functools
import importlib.util
import io
import pickle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from groundup.allocator import keep_freed_memory
from harness import OURS, Build, Row, Step, Target, parser_for, race, report

INSTANCES_PER_IMAGE, DETECTIONS_PER_IMAGE, NUM_CATEGORIES = 7.3, 100, 80
HEIGHT, WIDTH = 480, 640
CORNERS = 24
PEER = "hotcoco alone"
WITHIN = 1.2
"""Times the time of the evaluator library alone. Source: the design, section 8."""
NUM_IMAGES, NUM_IMAGES_REFERENCE = 5_000, 500


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


def write_drawn(path: Path, num_images: int, kind: str) -> Path:
    """Draw once for all sides."""
    path.write_bytes(pickle.dumps(draw(num_images, kind == "segm")))
    return path


def read_drawn(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What `write_drawn` wrote."""
    return pickle.loads(path.read_bytes())


def ours_side(path: Path, kind: str) -> Step:
    """With all that we check, and the allocator as our command line sets it."""
    from groundup.metrics.coco_ap import coco_ap

    keep_freed_memory()
    document, results = read_drawn(path)

    def step() -> list[float]:
        values = coco_ap(document, results, kind)  # type: ignore[arg-type]
        recalls = [values.AR[limit] for limit in values.limits]
        means = (values.AP, values.AP50, values.AP75, values.APs, values.APm, values.APl)
        row = [*means, *recalls, values.ARs, values.ARm, values.ARl]
        return [-1.0 if value is None else value for value in row]

    return step


def alone_side(path: Path, kind: str) -> Step:
    """hotcoco as its user calls it."""  # noqa: D403
    import hotcoco

    document, results = read_drawn(path)

    def step() -> list[float]:
        truth = hotcoco.COCO(document)
        evaluator = hotcoco.COCOeval(truth, truth.load_res(results), kind)
        return values_of(evaluator)

    return step


def reference_side(path: Path, kind: str) -> Step:
    """pycocotools."""  # noqa: D403
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    document, results = read_drawn(path)

    def step() -> list[float]:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = document
            truth.createIndex()
            return values_of(COCOeval(truth, truth.loadRes(copies(results)), kind))

    return step


def faster_side(path: Path, kind: str) -> Step:
    """faster-coco-eval."""
    from faster_coco_eval import COCO, COCOeval_faster

    document, results = read_drawn(path)

    def step() -> list[float]:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(document)
            return values_of(COCOeval_faster(truth, truth.loadRes(copies(results)), kind))

    return step


def copies(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For evaluators that write into what they are given, and would not take it a second time."""
    return [dict(one) for one in results]


def values_of(evaluator: Any) -> list[float]:
    """The twelve."""
    evaluator.evaluate()
    evaluator.accumulate()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.summarize()
    return list(map(float, evaluator.stats))[:12]


def measure(kind: str, num_images: int, turns: int, sides: dict[str, Build]) -> Row:
    """One row, and how far the values are from hotcoco's."""
    found = race(sides, turns=turns, warmups=0, threads=1, unit="CPU s")
    base = np.array(found[PEER].found)
    differences = {name: float(np.abs(np.array(side.found) - base).max()) for name, side in found.items()}
    detections = num_images * DETECTIONS_PER_IMAGE
    return Row(
        name=f"evaluation, {kind}, {num_images} images, {detections} detections",
        unit="CPU s",
        sides=found,
        amount=num_images,
        target=Target(at_least=1 / WITHIN, against=PEER) if num_images == NUM_IMAGES else None,
        facts={"AP": float(base[0]), "largest_differences": differences},
    )


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--kinds", nargs="+", default=["bbox", "segm"], choices=["bbox", "segm"])
    parser.add_argument("--images", type=int, default=NUM_IMAGES)
    arguments = parser.parse_args()
    turns = arguments.turns or (2 if arguments.quick else 3)
    count = min(arguments.images, NUM_IMAGES // 10) if arguments.quick else arguments.images
    rows = []
    with TemporaryDirectory() as folder:
        for kind in arguments.kinds:
            path = write_drawn(Path(folder) / kind, count, kind)
            sides: dict[str, Build] = {
                OURS: functools.partial(ours_side, path, kind),
                PEER: functools.partial(alone_side, path, kind),
            }
            if importlib.util.find_spec("faster_coco_eval") is not None:
                sides["faster-coco-eval"] = functools.partial(faster_side, path, kind)
            rows.append(measure(kind, count, turns, sides))
            few = min(count, NUM_IMAGES_REFERENCE) if not arguments.quick else NUM_IMAGES_REFERENCE // 5
            path = write_drawn(Path(folder) / f"{kind}-few", few, kind)
            sides = {
                OURS: functools.partial(ours_side, path, kind),
                PEER: functools.partial(alone_side, path, kind),
                "pycocotools": functools.partial(reference_side, path, kind),
            }
            rows.append(measure(kind, few, 2, sides))
    report("evaluation", rows, arguments)


if __name__ == "__main__":
    main()
