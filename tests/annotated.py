"""A small data set in memory, with drawn photographs on disk, for tests of what reads an index."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from groundup.data.coco import Category
from groundup.data.truth import Bitmap, Truth


@dataclass
class DrawnIndex:
    """Photographs of noise, every third of them portrait, with polygons, bitmaps and keypoints."""

    folder: Path
    sizes: np.ndarray
    num_usable: np.ndarray
    categories: tuple[Category, ...] = (Category(1, "thing"), Category(7, "eyes", "", ("left", "right")))
    num_keypoints: int = 2

    @property
    def num_images(self) -> int:
        return len(self.sizes)

    @property
    def image_ids(self) -> np.ndarray:
        return np.arange(self.num_images, dtype=np.int64) * 10 + 3

    def path(self, row: int) -> Path:
        return self.folder / f"{row}.png"

    def truth(self, row: int) -> Truth:
        generator = np.random.default_rng(row)
        return draw_truth(generator, int(self.num_usable[row]), *self.sizes[row].tolist())


def draw_truth(generator: np.random.Generator, num_instances: int, height: int, width: int) -> Truth:
    """Convex polygons and elliptic bitmaps by turns, with two keypoints inside each."""
    boxes, masks, keypoints = [], [], []
    for number in range(num_instances):
        x1, y1 = generator.uniform(0, [width * 0.6, height * 0.6])
        side_x, side_y = generator.uniform(8, [width * 0.4, height * 0.4])
        if number % 2:
            bitmap = draw_ellipse(int(x1), int(y1), int(side_x), int(side_y))
            masks.append(bitmap)
            tall, wide = bitmap.pixels.shape
            boxes.append([bitmap.x, bitmap.y, bitmap.x + wide, bitmap.y + tall])
        else:
            angles = np.sort(generator.uniform(0, 2 * np.pi, 12))
            ring = np.stack([np.cos(angles), np.sin(angles)], 1) * 0.5 + 0.5
            ring = (ring * [side_x, side_y] + [x1, y1]).astype(np.float32)
            masks.append([ring])
            boxes.append([*ring.min(axis=0), *ring.max(axis=0)])
        centre_x, centre_y = (boxes[-1][0] + boxes[-1][2]) / 2, (boxes[-1][1] + boxes[-1][3]) / 2
        keypoints.append([[centre_x - 1, centre_y, 2], [centre_x + 1, centre_y, 1 + number % 2]])
    return Truth(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.arange(num_instances, dtype=np.int64) % 2,
        masks=masks,
        keypoints=np.array(keypoints, np.float32).reshape(-1, 2, 3),
    )


def draw_ellipse(x: int, y: int, width: int, height: int) -> Bitmap:
    rows, columns = np.mgrid[:height, :width] + 0.5
    inside = ((columns / width - 0.5) ** 2 + (rows / height - 0.5) ** 2) <= 0.25
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    tight = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Bitmap(x=x + int(columns[0]), y=y + int(rows[0]), pixels=tight.astype(np.uint8))


def draw_index(folder: Path, num_images: int = 13) -> DrawnIndex:
    """Write the photographs; image 4 has no usable instance."""
    generator = np.random.default_rng(0)
    sizes = np.array([(64, 48) if row % 3 == 0 else (48, 64 + row) for row in range(num_images)], np.int32)
    num_usable = np.array([0 if row == 4 else 1 + row % 3 for row in range(num_images)], np.int32)
    for row, (height, width) in enumerate(sizes.tolist()):
        picture = generator.integers(0, 256, (height // 4, width // 4, 3), np.uint8)
        cv2.imwrite(str(folder / f"{row}.png"), cv2.resize(picture, (width, height)))
    return DrawnIndex(folder=folder, sizes=sizes, num_usable=num_usable)
