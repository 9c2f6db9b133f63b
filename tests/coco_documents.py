"""Small COCO documents and photographs for tests, sound until a test breaks them."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SQUARE = [[10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]]


def sound_document() -> dict[str, Any]:
    """Three images of 60 x 40, five annotations: polygons, both kinds of RLE, a crowd, keypoints."""
    keypoints = [12, 12, 2, 20, 20, 1, 0, 0, 0]
    return copy.deepcopy(
        {
            "info": {"description": "drawn"},
            "images": [
                {"id": 7, "file_name": "a.png", "height": 40, "width": 60},
                {"id": 3, "file_name": "b.png", "height": 40, "width": 60},
                {"id": 900, "file_name": "sub/c.png", "height": 40, "width": 60},
            ],
            "annotations": [
                annotation(11, 3, 5, keypoints=keypoints, num_keypoints=2),
                annotation(12, 7, 90, bbox=[0, 0, 5, 4], area=20, segmentation=runs(0, 5, 4)),
                annotation(13, 7, 5, bbox=[20.5, 10, 20, 10], area=200),
                annotation(14, 3, 90, iscrowd=1, bbox=[2, 0, 3, 40], area=120, segmentation=runs(2, 3, 40)),
                annotation(15, 7, 90, bbox=[1, 0, 2, 40], area=80, segmentation=packed(runs(1, 2, 40))),
            ],
            "categories": [
                {"id": 90, "name": "ball", "supercategory": "toy"},
                {
                    "id": 5,
                    "name": "person",
                    "keypoints": ["left_eye", "right_eye", "nose"],
                    "skeleton": [[1, 3], [2, 3]],
                },
            ],
        }
    )


def annotation(number: int, image: int, category: int, **changes: Any) -> dict[str, Any]:
    """A square with a polygon, unless changed."""
    record = {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [10, 10, 20, 20],
        "area": 400.0,
        "iscrowd": 0,
        "segmentation": SQUARE,
    }
    return {**record, **changes}


def runs(left: int, width: int, height: int) -> dict[str, Any]:
    """Uncompressed RLE of columns from `left` on, their first `height` pixels, in an image of 60 x 40."""
    mask = np.zeros((40, 60), np.uint8)
    mask[:height, left : left + width] = 1
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    bounds = np.concatenate([[0], edges, [flat.size]])
    counts = np.diff(bounds).tolist()
    return {"size": [40, 60], "counts": counts if flat[0] == 0 else [0, *counts]}


def packed(rle: dict[str, Any]) -> dict[str, Any]:
    """The same mask with packed run lengths."""
    from pycocotools import mask as reference

    found = reference.frPyObjects(rle, *rle["size"])
    return {"size": rle["size"], "counts": found["counts"].decode()}


def write_document(folder: Path, document: Any, name: str = "annotations.json") -> Path:
    """Write it as JSON (text as it is)."""
    path = folder / name
    text = document if isinstance(document, str) else json.dumps(document)
    path.write_text(text, encoding="utf-8")
    return path


def write_photographs(folder: Path, document: dict[str, Any]) -> Path:
    """A noise picture for every image of the document, in `folder/images`."""
    home = folder / "images"
    random = np.random.default_rng(0)
    for image in document["images"]:
        path = home / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, (image["height"], image["width"], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return home
