"""Small detectors and random batches that the detector's tests share."""

from dataclasses import replace

import torch

from groundup.models.backbone import BackboneOptions
from groundup.models.box_head import BoxHeadOptions
from groundup.models.fpn import FPNOptions
from groundup.models.mask_head import MaskHeadOptions
from groundup.models.rcnn import RCNN, DetectorOptions, build_detector
from groundup.models.rois import PoolOptions, RoIOptions
from groundup.models.rpn import RPNOptions
from groundup.structures import Batch, Masks

NUM_CLASSES = 5
NUM_KEYPOINTS = 3


def tiny_options(**changes):
    options = DetectorOptions(
        backbone=BackboneOptions(name="resnet18", norm="gn"),
        fpn=FPNOptions(channels=32),
        rpn=RPNOptions(
            anchor_sizes=((8.0,), (16.0,), (32.0,), (64.0,), (96.0,)),
            anchors_per_image=64,
            pre_nms_train=100,
            post_nms_train=100,
            pre_nms_test=100,
            post_nms_test=50,
        ),
        rois=RoIOptions(rois_per_image=32),
        box_head=BoxHeadOptions(num_convs=1, conv_channels=32, fc_channels=64),
        mask_head=MaskHeadOptions(num_convs=1, channels=32, pool=PoolOptions(resolution=7)),
    )
    return options.model_copy(update=changes)


def tiny_detector(seed=0, **changes) -> RCNN:
    torch.manual_seed(seed)
    return build_detector(
        tiny_options(**changes),
        num_classes=NUM_CLASSES,
        pixel_mean=(0.5,) * 3,
        pixel_std=(0.25,) * 3,
        num_keypoints=NUM_KEYPOINTS,
    )


def polygon_masks(corners_of_instances) -> Masks:
    """Masks of (flat instance row, list of (points, 2) lists), in order of the rows."""
    edges, edge_polygon, polygon_instance = [], [], []
    for row, polygons in corners_of_instances:
        for polygon in polygons:
            points = torch.tensor(polygon, dtype=torch.float32).reshape(-1, 2)
            edges.append(torch.cat([points, points.roll(-1, 0)], dim=1))
            edge_polygon += [len(polygon_instance)] * len(points)
            polygon_instance.append(row)
    return Masks(
        edges=torch.cat(edges) if edges else torch.zeros(0, 4),
        edge_polygon=torch.tensor(edge_polygon, dtype=torch.int64),
        polygon_instance=torch.tensor(polygon_instance, dtype=torch.int64),
        pixels=torch.zeros(0, dtype=torch.uint8),
        bitmap_boxes=torch.zeros(0, 4, dtype=torch.int64),
        bitmap_instance=torch.zeros(0, dtype=torch.int64),
    )


def random_batch(num_objects=(3, 2), size=(128, 160), seed=0, slots=None) -> Batch:
    """Noise images with random boxes; each mask is the box without its lower right triangle."""
    generator = torch.Generator().manual_seed(seed)
    num_images, slots = len(num_objects), max(num_objects) if slots is None else slots
    images = torch.randint(0, 256, (num_images, 3, *size), generator=generator, dtype=torch.uint8)
    boxes, labels = torch.zeros(num_images, slots, 4), torch.full((num_images, slots), -1)
    corners = []
    for image, num in enumerate(num_objects):
        sides = torch.rand(num, 2, generator=generator) * 60 + 8
        starts = torch.rand(num, 2, generator=generator) * (torch.tensor([size[1], size[0]]) - sides)
        boxes[image, :num] = torch.cat([starts, starts + sides], dim=1)
        labels[image, :num] = torch.randint(0, NUM_CLASSES, (num,), generator=generator)
        for slot, (x1, y1, x2, y2) in enumerate(boxes[image, :num].tolist()):
            corners.append((image * slots + slot, [[(x1, y1), (x2, y1), (x1, y2)]]))
    sizes = torch.tensor([size] * num_images, dtype=torch.int32)
    return Batch(
        images=images,
        sizes=sizes,
        original_sizes=sizes,
        boxes=boxes,
        labels=labels,
        masks=polygon_masks(corners),
        keypoints=None,
        image_ids=torch.arange(num_images) + 100,
        seeds=torch.arange(num_images) + seed * 1000,
    )


def random_keypoints(batch, seed=0) -> torch.Tensor:
    """Keypoints at random places in and near each box, of all visibilities; zero in empty slots."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch.labels.shape, NUM_KEYPOINTS)
    places = torch.rand(*shape, 2, generator=generator) * 1.3 - 0.15
    starts, ends = batch.boxes[:, :, None, :2], batch.boxes[:, :, None, 2:]
    visibility = torch.randint(0, 3, (*shape, 1), generator=generator).float()
    points = torch.cat([starts + places * (ends - starts), visibility], dim=3)
    return points * (visibility > 0) * (batch.labels >= 0)[:, :, None, None]


def part_of(batch: Batch, first: int, last: int) -> Batch:
    """The batch's images from the first up to the last."""
    slots = batch.labels.shape[1]
    masks = batch.masks
    keeps = (masks.polygon_instance >= first * slots) & (masks.polygon_instance < last * slots)
    keeps_edge = keeps[masks.edge_polygon]
    dropped = int((~keeps[: int(keeps.int().argmax())]).sum()) if keeps.any() else 0
    return replace(
        batch,
        keypoints=None if batch.keypoints is None else batch.keypoints[first:last],
        masks=replace(
            masks,
            edges=masks.edges[keeps_edge],
            edge_polygon=masks.edge_polygon[keeps_edge] - dropped,
            polygon_instance=masks.polygon_instance[keeps] - first * slots,
        ),
        **{
            name: getattr(batch, name)[first:last]
            for name in ("images", "sizes", "original_sizes", "boxes", "labels", "image_ids", "seeds")
        },
    )
