"""Mask targets: the part of an instance that lies in a RoI, at the head's resolution.

An instance never becomes a bitmap of the whole image: polygons are filled on the RoI's own grid, and
bitmaps are read where the RoI lies.

Legend:
    N  RoIs        S  side of the grid        E  edges of all polygons
    T  (RoI, edge) pairs                      Q  (RoI, polygon) pairs
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the name the field uses
from jaxtyping import Bool, Float, Int
from torch import Tensor

from groundup.ops.roi import roi_align
from groundup.structures import Masks

CELLS_AT_ONCE = 2**23
"""Cells of (RoI, edge, row) or of a stack of bitmaps held at a time: tens of megabytes an intermediate."""
MIN_ROI_SIDE = 0.1
"""Pixels; a thinner RoI is treated as so wide. Source: Detectron2, `rasterize_polygons_within_box`."""
COVERAGE_SAMPLES = 4
"""Samples along each side of a cell where a polygon's target is its covered share; ours: steps of 1/16."""
BINARY_THRESHOLD = 0.5
"""Covered share from which a cell belongs to a mask. Source: Detectron2, `BitMasks.crop_and_resize`."""


def mask_targets(
    masks: Masks,
    boxes: Float[Tensor, "N 4"],
    instances: Int[Tensor, " N"],
    size: int,
    *,
    is_binary: bool,
    is_aligned: bool,
    cells_at_once: int = CELLS_AT_ONCE,
) -> Float[Tensor, "N {size} {size}"]:
    """What the mask head should say in each RoI, 0 to 1.

    Args:
        masks: of all instances of the batch.
        boxes: the RoIs, in pixels.
        instances: flat row (image * G + slot) of the instance each RoI answers for; rows without a mask
            give zeros.
        size: cells along each side.
        is_binary: polygons are filled at the cells' centres and bitmaps cut at one half, as Detectron and
            Detectron2 do; otherwise the covered share, as torchvision does.
        is_aligned: of the RoIAlign that reads bitmaps (see `ops.roi.roi_align`).
        cells_at_once: bound of memory.
    """
    targets = boxes.new_zeros((len(boxes), size, size))
    if len(masks.edges):
        samples = 1 if is_binary else COVERAGE_SAMPLES
        filled = fill_polygons(masks, boxes, instances, size * samples, cells_at_once)
        targets = targets + F.avg_pool2d(filled[:, None].to(boxes.dtype), samples)[:, 0]
    if len(masks.bitmap_boxes):
        share = crop_bitmaps(
            masks, boxes, instances, size, is_aligned=is_aligned, cells_at_once=cells_at_once
        )
        targets = targets + ((share >= BINARY_THRESHOLD).to(boxes.dtype) if is_binary else share)
    return targets


def fill_polygons(
    masks: Masks,
    boxes: Float[Tensor, "N 4"],
    instances: Int[Tensor, " N"],
    size: int,
    cells_at_once: int = CELLS_AT_ONCE,
) -> Bool[Tensor, "N {size} {size}"]:
    """Which cells' centres lie inside the instance: even-odd within a polygon, union over polygons.

    How many edges an instance has depends on the data: without `masks.bounds` a GPU is waited for, once.
    """
    polygon_of_edge = masks.edge_polygon.contiguous()
    instance_of_polygon = masks.polygon_instance.contiguous()
    instance_of_edge = instance_of_polygon[polygon_of_edge].contiguous()
    edges = rows_of(instance_of_edge, instances)
    polygons = rows_of(instance_of_polygon, instances)
    num_edges = int(edges[1].sum()) if masks.bounds is None else len(boxes) * masks.bounds.edges
    parts = max(1, -(-num_edges * size // cells_at_once))
    length = max(1, -(-len(boxes) // parts))
    filled = [
        fill_some(
            masks,
            boxes[first : first + length],
            (edges[0][first : first + length], edges[1][first : first + length]),
            (polygons[0][first : first + length], polygons[1][first : first + length]),
            size,
        )
        for first in range(0, len(boxes), length)
    ]
    return torch.cat(filled) if filled else boxes.new_zeros((0, size, size), dtype=torch.bool)


Rows = tuple[Int[Tensor, " N"], Int[Tensor, " N"]]
"""First row and number of rows of a run of consecutive rows, for each RoI."""


def rows_of(keys: Int[Tensor, " E"], wanted: Int[Tensor, " N"]) -> Rows:
    """The runs of the wanted keys among non-decreasing keys."""
    first = torch.searchsorted(keys, wanted.contiguous())
    return first, torch.searchsorted(keys, wanted.contiguous(), right=True) - first


def fill_some(
    masks: Masks, boxes: Float[Tensor, "N 4"], edges: Rows, polygons: Rows, size: int
) -> Bool[Tensor, "N {size} {size}"]:
    """`fill_polygons` of so few RoIs that all their edges fit in memory.

    An edge toggles, in each row of cells it crosses, the cells left of the crossing: counting the
    crossings to the right of a cell costs (edges x rows), not (edges x cells).
    """
    bounds = masks.bounds
    roi, edge, is_edge = pairs_of(edges, None if bounds is None else bounds.edges)
    owner, _, _ = pairs_of(polygons, None if bounds is None else bounds.polygons)
    edge = edge.clamp(max=len(masks.edges) - 1)
    # Polygons of a RoI are numbered on from those of the RoIs before it.
    if bounds is None:
        first_pair = polygons[1].cumsum(0) - polygons[1]
    else:
        first_pair = torch.arange(len(boxes), device=boxes.device) * bounds.polygons
    pair = torch.where(is_edge, first_pair[roi] + masks.edge_polygon[edge] - polygons[0][roi], 0)

    scale = size / (boxes[:, 2:] - boxes[:, :2]).clamp(min=MIN_ROI_SIDE)
    scale, origin = scale.repeat(1, 2)[roi], boxes[:, :2].repeat(1, 2)[roi]
    x1, y1, x2, y2 = ((masks.edges[edge] - origin) * scale)[:, :, None].unbind(1)
    centres = torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5
    crosses = ((y1 <= centres) != (y2 <= centres)) & is_edge[:, None]
    at = x1 + (centres - y1) * ((x2 - x1) / torch.where(y1 == y2, 1.0, y2 - y1))
    # Column c receives the crossing when the centres of columns 0 .. c - 1 are left of it.
    column = (at - 0.5).ceil().clamp(0, size).to(torch.int64)

    toggles = torch.zeros(len(owner) * size * (size + 1), dtype=torch.int32, device=boxes.device)
    cell = (pair[:, None] * size + torch.arange(size, device=boxes.device)) * (size + 1) + column
    toggles.index_add_(0, cell.flatten(), crosses.to(torch.int32).flatten())
    crossings = toggles.view(-1, size, size + 1).flip(-1).cumsum(-1).flip(-1)[:, :, 1:]
    is_inside = crossings % 2

    covered = is_inside.new_zeros((len(boxes), size, size)).index_add_(0, owner, is_inside)
    return covered > 0


def pairs_of(rows: Rows, most: int | None) -> tuple[Int[Tensor, " T"], Int[Tensor, " T"], Bool[Tensor, " T"]]:
    """Every (RoI, row) pair of the runs, RoI by RoI, and whether it is one.

    Args:
        rows: runs.
        most: rows of a run at most: each then has so many pairs, and those beyond its own are none. With None
            all pairs are real, and their number depends on the data.
    """
    first, count = rows
    if most is not None:
        owner = torch.arange(len(first) * most, device=first.device) // most
        rank = torch.arange(len(first) * most, device=first.device) % most
        return owner, first[owner] + rank, rank < count[owner]
    owner = torch.repeat_interleave(count)
    start = count.cumsum(0) - count
    rank = torch.arange(len(owner), device=owner.device) - start[owner]
    return owner, first[owner] + rank, torch.ones_like(owner, dtype=torch.bool)


def crop_bitmaps(
    masks: Masks,
    boxes: Float[Tensor, "N 4"],
    instances: Int[Tensor, " N"],
    size: int,
    *,
    is_aligned: bool,
    cells_at_once: int = CELLS_AT_ONCE,
) -> Float[Tensor, "N {size} {size}"]:
    """RoIAlign of each RoI on its instance's bitmap; zeros where the instance has none.

    Equal to RoIAlign on the bitmap of the whole image, thanks to the margin that `Masks` prescribes. The
    stack's size depends on the data: without `masks.bounds` a GPU is waited for, once.
    """
    regions = masks.bitmap_boxes
    widths, heights = regions[:, 2] - regions[:, 0], regions[:, 3] - regions[:, 1]
    areas = widths * heights
    starts = areas.cumsum(0) - areas
    row = torch.searchsorted(masks.bitmap_instance.contiguous(), instances.contiguous())
    row = row.clamp(max=len(regions) - 1)
    has_bitmap = masks.bitmap_instance[row] == instances
    if masks.bounds is None:
        height, width = torch.stack([heights.max(), widths.max()]).tolist()
    else:
        height, width = masks.bounds.height, masks.bounds.width

    crops = []
    length = max(1, cells_at_once // max(1, height * width))
    y = torch.arange(height, device=boxes.device)[:, None]
    x = torch.arange(width, device=boxes.device)
    for first in range(0, len(boxes), length):
        rows = row[first : first + length]
        is_within = (y < heights[rows, None, None]) & (x < widths[rows, None, None])
        pixel = starts[rows, None, None] + y * widths[rows, None, None] + x
        stack = masks.pixels[pixel.clamp(max=len(masks.pixels) - 1)] * is_within
        moved = boxes[first : first + length] - regions[rows, :2].repeat(1, 2).to(boxes.dtype)
        crops.append(
            roi_align(
                stack[:, None].to(boxes.dtype),
                moved,
                torch.arange(len(rows), device=boxes.device),
                size=size,
                scale=1.0,
                sampling_ratio=0,
                is_aligned=is_aligned,
            )[:, 0]
        )
    share = torch.cat(crops) if crops else boxes.new_zeros((0, size, size))
    return share * has_bitmap[:, None, None]
