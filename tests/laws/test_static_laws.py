"""The step in fixed shapes: nothing asks the device, and what comes out is what the compact step gives."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from asks import without_numbers
from detector_worlds import (
    polygon_masks,
    random_batch,
    random_keypoints,
    tiny_detector,
    tiny_options,
)
from groundup.engine.numerics import autocast
from groundup.models.cascade import CascadeOptions
from groundup.models.keypoint_head import KeypointHeadOptions
from groundup.models.proposals import Tops, choose_fixed, choose_real
from groundup.models.rois import PoolOptions
from groundup.ops.rasterise import mask_targets
from groundup.structures import MaskBounds, Masks

BOX_HEAD = tiny_options().box_head
KEYPOINT_HEAD = KeypointHeadOptions(pool=PoolOptions(resolution=7), num_convs=1, channels=16, min_visible=2)
DETECTORS = {
    "faster": {"mask_head": None},
    "mask": {},
    "keypoint": {"mask_head": None, "keypoint_head": KEYPOINT_HEAD},
    "cascade": {
        "cascade": CascadeOptions(),
        "box_head": BOX_HEAD.model_copy(update={"class_agnostic": True}),
    },
    "shared proposals": {
        "rpn": tiny_options().rpn.model_copy(update={"post_nms_scope": "group", "post_nms_train": 60})
    },
    "one map": {"fpn": None, "rpn": tiny_options().rpn.model_copy(update={"anchor_straddling": False})},
}
BOUNDS = MaskBounds(edges=8, polygons=4, height=40, width=48)


def padded(masks: Masks, nobody: int, bounds=BOUNDS) -> Masks:
    """The masks with a few rows that belong to no instance, and their bounds."""
    return replace(
        masks,
        edges=torch.cat([masks.edges, torch.zeros(5, 4)]),
        edge_polygon=torch.cat([masks.edge_polygon, torch.full((5,), len(masks.polygon_instance))]),
        polygon_instance=torch.cat([masks.polygon_instance, torch.full((3,), nobody)]),
        pixels=torch.cat([masks.pixels, torch.zeros(7, dtype=torch.uint8)]),
        bitmap_boxes=torch.cat([masks.bitmap_boxes, torch.zeros(2, 4, dtype=torch.int64)]),
        bitmap_instance=torch.cat([masks.bitmap_instance, torch.full((2,), nobody)]),
        bounds=bounds,
    )


def with_a_bitmap(masks: Masks, row: int) -> Masks:
    """The masks, that of the last row in place of polygons as a bitmap."""
    keeps = masks.polygon_instance != row
    generator = torch.Generator().manual_seed(row)
    pixels = torch.zeros(30, 40, dtype=torch.uint8)  # with the margin that bitmaps have
    pixels[1:-1, 1:-1] = torch.randint(0, 2, (28, 38), generator=generator)
    return replace(
        masks,
        edges=masks.edges[keeps[masks.edge_polygon]],
        edge_polygon=masks.edge_polygon[keeps[masks.edge_polygon]],
        polygon_instance=masks.polygon_instance[keeps],
        pixels=pixels.flatten(),
        bitmap_boxes=torch.tensor([[20, 30, 60, 60]]),
        bitmap_instance=torch.tensor([row]),
    )


def batch_for(name, num_objects=(3, 2), slots=4):
    batch = random_batch(num_objects, slots=slots)
    if "mask_head" in DETECTORS[name] and DETECTORS[name]["mask_head"] is None:
        return replace(batch, masks=None, keypoints=random_keypoints(batch))
    if sum(num_objects):
        last = int(batch.masks.polygon_instance.max())
        batch = replace(batch, masks=with_a_bitmap(batch.masks, last))
    return batch


def bounded(batch):
    nobody = batch.labels.numel()
    return replace(batch, masks=None if batch.masks is None else padded(batch.masks, nobody))


def step_of(model, batch):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    losses = model.losses(batch)
    torch.stack(list(losses.values())).sum().backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    torch.nn.utils.clip_grads_with_norm_(model.parameters(), 1.0, norm)
    optimizer.step()


def empty_world(name, slots, batch, device):
    # What a network gives is looked at on the meta device, which older torch refuses in the world below.
    tiny_detector(roi_slots=slots, **DETECTORS[name])

    def build(emptied):
        with torch.device(device):
            model = tiny_detector(roi_slots=slots, **DETECTORS[name])
        return model, batch.map(emptied)

    return without_numbers(build, device)


@pytest.mark.parametrize(("name", "precision"), [*((name, "fp32") for name in DETECTORS), ("mask", "bf16")])
def test_the_step_in_fixed_shapes_needs_no_number(name, precision):
    with (
        empty_world(name, "fixed", bounded(batch_for(name)), "cpu") as (model, batch),
        autocast(torch.device("cpu"), precision),
    ):
        step_of(model, batch)


@pytest.mark.parametrize("name", DETECTORS)
def test_on_a_gpu_the_losses_in_fixed_shapes_ask_the_device_nothing_and_tell_it_nothing(name):
    with empty_world(name, "fixed", bounded(batch_for(name)), "cuda") as (model, batch):
        assert {loss.device.type for loss in model.losses(batch).values()} == {"cuda"}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", ["faster", "keypoint"])
def test_the_law_notices_a_step_that_asks(name, device):
    with (
        empty_world(name, "real", bounded(batch_for(name)), device) as (model, batch),
        pytest.raises(DynamicOutputShapeException),
    ):
        model.losses(batch)


def test_the_law_notices_masks_that_nobody_counted():
    with (
        empty_world("mask", "fixed", batch_for("mask"), "cuda") as (model, batch),
        pytest.raises(DataDependentOutputException),
    ):
        model.losses(batch)


@pytest.mark.parametrize(
    ("name", "num_objects"), [*((name, (3, 0, 2)) for name in DETECTORS), ("mask", (0, 0))]
)
def test_the_step_in_fixed_shapes_has_the_compact_steps_losses_and_gradients(name, num_objects):
    batch = batch_for(name, num_objects)
    results = []
    for slots, seen in (("real", batch), ("fixed", bounded(batch))):
        model = tiny_detector(roi_slots=slots, **DETECTORS[name])
        losses = model.losses(seen)
        torch.stack(list(losses.values())).sum().backward()
        results.append((losses, {path: p.grad for path, p in model.named_parameters()}))
    (real_losses, real_gradients), (fixed_losses, fixed_gradients) = results
    for loss, value in real_losses.items():
        torch.testing.assert_close(fixed_losses[loss], value, rtol=1e-5, atol=1e-7, msg=loss)
    for path, gradient in real_gradients.items():
        torch.testing.assert_close(fixed_gradients[path], gradient, rtol=1e-3, atol=1e-6, msg=path)


def random_tops(seed, num_images=3, num_levels=2, num=60):
    """Boxes that overlap, with scores of which many are equal."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_images, num_levels, num)
    starts = torch.rand(*shape, 2, generator=generator) * 40
    sides = torch.rand(*shape, 2, generator=generator) * 30 + 2
    scores = (torch.rand(shape, generator=generator) * 12).round() / 12
    return Tops(
        boxes=torch.cat([starts, starts + sides], dim=-1),
        scores=scores,
        ranks=scores,
        is_candidate=torch.rand(shape, generator=generator) < 0.8,
    )


@pytest.mark.parametrize("shared", [None, 1, 2])
@pytest.mark.parametrize("num", [7, 50, 200])
def test_proposals_in_fixed_shapes_are_the_same_to_the_bit(shared, num):
    for seed in range(5):
        tops = random_tops(seed)
        real, fixed = (choose(tops, 0.5, num, shared) for choose in (choose_real, choose_fixed))
        assert torch.equal(real.is_filled, fixed.is_filled)
        assert torch.equal(real.boxes, fixed.boxes)
        assert torch.equal(real.scores, fixed.scores)
        assert real.is_filled.any()


def test_proposals_of_nothing_are_empty_in_both_ways():
    tops = replace(random_tops(0), is_candidate=torch.zeros(3, 2, 60, dtype=torch.bool))
    for choose in (choose_real, choose_fixed):
        assert not choose(tops, 0.5, 9, None).is_filled.any()


def test_counted_masks_give_the_same_targets_to_the_bit():
    batch = random_batch((3, 2), slots=4)
    corners = [(10.0, 10.0), (70.0, 20.0), (40.0, 80.0)]
    masks = polygon_masks(
        [(0, [corners]), (1, [corners, [(5.0, 5.0), (90.0, 8.0), (9.0, 60.0)]]), (5, [corners])]
    )
    masks = with_a_bitmap(masks, 5)
    boxes = batch.boxes[0, :3].repeat(2, 1)
    instances = torch.tensor([0, 1, 5, 3, 1, 0])
    for cells in (2**23, 1):
        for kind in ({"is_binary": True, "is_aligned": True}, {"is_binary": False, "is_aligned": False}):
            plain = mask_targets(masks, boxes, instances, 14, **kind)
            counted = mask_targets(padded(masks, 8), boxes, instances, 14, cells_at_once=cells, **kind)
            assert torch.equal(plain, counted)
            assert plain.any()
