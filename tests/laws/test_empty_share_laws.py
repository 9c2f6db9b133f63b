"""A process whose images give its heads nothing to see: the numbers of one process all the same."""

from dataclasses import replace

import pytest
import torch

from detector_worlds import part_of, random_batch, random_keypoints, tiny_detector, tiny_options
from groundup.engine.distributed import joined
from groundup.models.cascade import CascadeOptions
from groundup.models.keypoint_head import KeypointHeadOptions
from groundup.models.rois import PoolOptions, RoIOptions
from groundup.shares import Share
from processes import in_processes

TOLERANCE = 1e-6
"""Relative, in float64."""
KEYPOINTS = KeypointHeadOptions(pool=PoolOptions(resolution=7), num_convs=1, channels=16, norm="syncbn")
BOLD = 20.0
"""By how much first weights of the box predictors are multiplied, so that boxes of a cascade move."""


ALL_HEADS = "cascade, masks and keypoints"


def detector(kind, norm="syncbn"):
    """Heads with a batch norm, in float64, that see true boxes alone: nothing in images without any."""
    options, is_plain = tiny_options(), kind == "box"
    joint = {"norm": norm}
    model = tiny_detector(
        rpn=options.rpn.model_copy(update={"min_box_size": 1e6}),
        rois=RoIOptions(rois_per_image=32),
        box_head=options.box_head.model_copy(update={**joint, "class_agnostic": not is_plain}),
        mask_head=None if is_plain else options.mask_head.model_copy(update=joint),
        keypoint_head=None if is_plain else KEYPOINTS.model_copy(update=joint),
        cascade=None if is_plain else CascadeOptions(),
        loss_images=1,
    ).double()
    with torch.no_grad():
        for head in (model.box_head, *(model.cascade.heads if model.cascade else ())):
            head.deltas.weight.mul_(BOLD)
    return model


def step_of(kind, objects, counts):
    """This process's part of the losses, the gradients and the running statistics of the heads."""
    batch = random_batch(objects)
    batch = replace(batch, keypoints=random_keypoints(batch))
    share = Share(num_images=len(objects))
    with joined(60.0) as world:
        if world.size > 1:
            share = replace(share, rank=world.rank, world_size=world.size)
        own = share.own
        assert share.num_own == counts[world.rank]
        part = part_of(batch, own.start, own.stop).map(
            lambda values: values.double() if values.is_floating_point() else values
        )
        model = detector(kind)
        losses = {name: loss * share.weight for name, loss in model.losses(part).items()}
        sum(losses.values()).backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    statistics = {name: value for name, value in model.state_dict().items() if "running" in name}
    return {name: loss.detach() for name, loss in losses.items()}, gradients, statistics


@pytest.mark.parametrize(
    ("kind", "objects"), [("box", (0, 3)), ("box", (3, 2, 0)), (ALL_HEADS, (0, 3)), (ALL_HEADS, (2, 0, 3))]
)
def test_a_process_without_rois_changes_nothing_of_what_one_process_learns(kind, objects):
    losses, gradients, statistics = step_of(kind, objects, [len(objects)])
    parts = in_processes(len(objects), step_of, kind, objects, [1] * len(objects))
    for name, loss in losses.items():
        assert loss.dtype == torch.float64
        assert loss > 0
        torch.testing.assert_close(sum(part[0][name] for part in parts), loss, rtol=TOLERANCE, atol=0)
    for name, gradient in gradients.items():
        assert all(part[1][name].isfinite().all() for part in parts), name
        away = (sum(part[1][name] for part in parts) - gradient).norm()
        assert away <= TOLERANCE * gradient.norm() + 1e-12, name
    assert statistics
    for _, _, theirs in parts:
        torch.testing.assert_close(theirs, statistics, rtol=TOLERANCE, atol=1e-12)


@pytest.mark.parametrize("kind", ["box", ALL_HEADS])
@pytest.mark.parametrize("norm", ["bn", "syncbn"])
def test_heads_that_see_no_roi_keep_their_statistics_and_learn_nothing(kind, norm):
    batch = random_batch((0, 0))
    batch = replace(batch, keypoints=random_keypoints(batch))
    batch = batch.map(lambda values: values.double() if values.is_floating_point() else values)
    model = detector(kind, norm)
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and "head" in name
    }
    assert norms
    # Statistics that a batch of anything would move.
    for module in norms.values():
        module.running_mean.fill_(3.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sum(model.losses(batch).values()).backward()
    for name, value in model.state_dict().items():
        if "running" in name or "tracked" in name:
            torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    for name, module in norms.items():
        for weight in (module.weight, module.bias):
            assert weight.grad is not None, name
            assert not weight.grad.any(), name
