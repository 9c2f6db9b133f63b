"""What must hold of the detector whatever its weights."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from detector_worlds import NUM_CLASSES, part_of, polygon_masks, random_batch, tiny_detector, tiny_options
from groundup.errors import DataError
from groundup.models import presets
from groundup.models.fpn import FPNOptions
from groundup.models.initialisation import init_table
from groundup.models.losses import normalise_loss
from groundup.models.rcnn import DetectorOptions, build_detector

LOSSES = {"loss_rpn_objectness", "loss_rpn_box", "loss_box_class", "loss_box_delta", "loss_mask"}


def assert_losses_equal(first, second, rtol=1e-5):
    assert set(first) == set(second) == LOSSES
    for name in LOSSES:
        torch.testing.assert_close(first[name], second[name], rtol=rtol, atol=1e-7, msg=name)


def test_empty_slots_change_no_loss():
    batch = random_batch((3, 0, 2))
    assert_losses_equal(tiny_detector().losses(batch), tiny_detector(roi_slots="fixed").losses(batch))


def test_empty_slots_change_no_gradient():
    batch = random_batch((3, 0, 2))
    gradients = []
    for slots in ("real", "fixed"):
        model = tiny_detector(roi_slots=slots)
        sum(model.losses(batch).values()).backward()
        gradients.append([p.grad for p in model.parameters()])
    for real, fixed in zip(*gradients, strict=True):
        torch.testing.assert_close(real, fixed, rtol=1e-3, atol=1e-6)


def test_a_batch_is_the_mean_of_its_groups():
    model = tiny_detector()
    batch = random_batch((3, 2, 1, 4))
    halves = [model.losses(part_of(batch, 0, 2)), model.losses(part_of(batch, 2, 4))]
    mean = {name: (halves[0][name] + halves[1][name]) / 2 for name in LOSSES}
    assert_losses_equal(model.losses(batch), mean)


def test_the_size_of_a_group_is_what_the_option_says():
    sums, counts = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([1.0, 1.0, 0.0])
    assert normalise_loss(sums, counts, 8).item() == pytest.approx(9 / 2)
    assert normalise_loss(sums, counts, 2).item() == pytest.approx((4 / 2 + 5 / 1) / 2)
    assert normalise_loss(sums, counts, 1).item() == pytest.approx((1 + 3 + 5) / 3)


def test_images_without_objects_have_finite_losses_and_reach_every_parameter():
    for slots in ("real", "fixed"):
        model = tiny_detector(roi_slots=slots)
        losses = model.losses(random_batch((0, 0), slots=2))
        assert all(loss.isfinite() for loss in losses.values())
        assert losses["loss_mask"] == losses["loss_box_delta"] == losses["loss_rpn_box"] == 0
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_batch_without_any_slot_has_finite_losses():
    losses = tiny_detector().losses(random_batch((0, 0)))
    assert all(loss.isfinite() for loss in losses.values())


def test_slots_of_padding_change_no_loss():
    narrow, wide = random_batch((3, 2)), random_batch((3, 2), slots=9)
    model = tiny_detector()
    assert_losses_equal(model.losses(narrow), model.losses(wide))


def test_the_order_of_true_boxes_changes_no_loss():
    batch = random_batch((2,))
    turned = replace(
        batch,
        boxes=batch.boxes.flip(1),
        labels=batch.labels.flip(1),
        masks=polygon_masks(
            [
                (row, [[(x1, y1), (x2, y1), (x1, y2)]])
                for row, (x1, y1, x2, y2) in enumerate(batch.boxes[0].flip(0).tolist())
            ]
        ),
    )
    model = tiny_detector()
    # With all positives sampled whatever the draw, the order of boxes only renames candidates.
    assert_losses_equal(model.losses(batch), model.losses(turned))


def test_the_same_seeds_give_the_same_bits_and_others_do_not():
    model = tiny_detector()
    batch = random_batch((3, 2))
    first, second = model.losses(batch), model.losses(batch)
    assert all(torch.equal(first[name], second[name]) for name in LOSSES)
    other = model.losses(replace(batch, seeds=batch.seeds + 1))
    assert not torch.equal(first["loss_rpn_objectness"], other["loss_rpn_objectness"])


def test_no_global_random_state_is_touched():
    model = tiny_detector()
    before = torch.random.get_rng_state()
    model.losses(random_batch((3, 2)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_padding_is_zero_after_normalisation():
    batch = random_batch((1, 1))
    batch = replace(batch, sizes=torch.tensor([[128, 160], [100, 90]], dtype=torch.int32))
    normal = tiny_detector().normalise(batch)
    assert not normal[1, :, 100:].any()
    assert not normal[1, :, :, 90:].any()
    expected = (batch.images[1, :, 99, 89] / 255 - 0.5) / 0.25
    torch.testing.assert_close(normal[1, :, 99, 89], expected)


def test_a_crowd_trains_in_bounded_memory():
    losses = tiny_detector().losses(random_batch((2000,)))
    assert all(loss.isfinite() for loss in losses.values())


def test_losses_are_float32_under_autocast_and_near_the_exact_ones():
    model, batch = tiny_detector(), random_batch((3, 2))
    exact = model.losses(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model.losses(batch)
        found = model.eval().detect(batch)
    assert all(loss.dtype == torch.float32 for loss in rough.values())
    for name in ("loss_rpn_objectness", "loss_rpn_box"):
        torch.testing.assert_close(rough[name], exact[name], rtol=0.02, atol=0)
    assert all(d.boxes.dtype == d.masks.dtype == torch.float32 for d in found)


def test_detections_lie_in_the_photograph_best_first_and_are_limited():
    batch = random_batch((3, 2))
    batch = replace(batch, original_sizes=batch.sizes * 3)
    model = tiny_detector().eval()
    found = model.detect(batch)
    assert [d.image_id for d in found] == [100, 101]
    for detections in found:
        assert detections.size == (384, 480)
        assert 0 < len(detections.boxes) <= 100
        assert detections.masks.shape == (len(detections.boxes), 14, 14)
        assert ((detections.masks >= 0) & (detections.masks <= 1)).all()
        assert (detections.scores.diff() <= 0).all()
        assert (detections.scores > 0.05).all()
        assert ((detections.labels >= 0) & (detections.labels < NUM_CLASSES)).all()
        assert (detections.boxes >= 0).all()
        assert (detections.boxes[:, 2] <= 480).all()
        assert (detections.boxes[:, 3] <= 384).all()
    limited = tiny_options()
    limited = limited.model_copy(
        update={"box_head": limited.box_head.model_copy(update={"max_detections": 7})}
    )
    model = tiny_detector(box_head=limited.box_head).eval()
    for all_of_them, best in zip(found, model.detect(batch), strict=True):
        torch.testing.assert_close(best.scores, all_of_them.scores[:7])


def test_a_threshold_nothing_reaches_finds_nothing():
    options = tiny_options()
    head = options.box_head.model_copy(update={"score_threshold": 0.999})
    for detections in tiny_detector(box_head=head).eval().detect(random_batch((1, 1))):
        assert detections.boxes.shape == (0, 4)
        assert detections.masks.shape == (0, 14, 14)


def test_faster_rcnn_has_no_masks():
    model = tiny_detector(mask_head=None)
    batch = replace(random_batch((3, 2)), masks=None)
    assert set(model.losses(batch)) == LOSSES - {"loss_mask"}
    assert all(d.masks is None for d in model.eval().detect(batch))


def test_a_mask_head_says_what_it_lacks():
    with pytest.raises(DataError, match=r"mask_head=null"):
        tiny_detector().losses(replace(random_batch((1,)), masks=None))


def test_empty_slots_may_not_enter_batch_statistics():
    with pytest.raises(ValidationError, match="roi_slots=real"):
        DetectorOptions.model_validate(
            presets.torchvision_v2(sizes=presets.TINY).model_dump() | {"roi_slots": "fixed"}
        )


def test_proposals_of_a_group_are_limited_together():
    options = tiny_options()
    rpn = options.rpn.model_copy(update={"post_nms_scope": "group", "post_nms_train": 60})
    model, batch = tiny_detector(rpn=rpn), random_batch((2, 2, 2))
    found = model.rpn(model.pyramid(batch), (128, 160))
    proposals = model.rpn.propose(found, batch.sizes, is_training=True, group_size=2)
    filled = proposals.is_filled.sum(dim=1)
    assert filled[:2].sum() == 60
    assert filled[2] == 60
    assert (proposals.scores.diff(dim=1)[proposals.is_filled[:, 1:]] <= 0).all()


PRESETS = {
    "paper_mask_rcnn": presets.paper_mask_rcnn,
    "paper_faster_rcnn": presets.paper_faster_rcnn,
    "detectron2": presets.detectron2,
    "torchvision": presets.torchvision,
    "torchvision_v2": presets.torchvision_v2,
}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_and_detects(name):
    options = PRESETS[name]("resnet18", sizes=presets.TINY)
    torch.manual_seed(0)
    model = build_detector(options, num_classes=NUM_CLASSES, pixel_mean=(0.5,) * 3, pixel_std=(0.25,) * 3)
    batch = random_batch((2, 1))
    sum(model.losses(batch).values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert len(model.eval().detect(batch)) == 2
    assert DetectorOptions.model_validate(options.model_dump(mode="json")) == options


def test_every_module_says_how_it_began():
    model = tiny_detector()
    table = init_table(model)
    named = {name: rule for name, rule, _ in table}
    assert set(named) == {
        name for name, module in model.named_modules() if list(module.parameters(recurse=False))
    }
    assert named["fpn.laterals.0.0"] == "detectron: xavier_fill"
    assert named["box_head.deltas"] == "detectron: normal_0.001"
    assert named["fpn.laterals.0.1"] == "gamma 1, beta 0"
    assert "timm default" not in named.values()


def test_first_weights_have_the_spread_their_rule_says():
    model = tiny_detector(fpn=FPNOptions(channels=64, norm="none"))
    std = {name: module.weight.std().item() for name, module in model.named_modules() if is_layer(module)}
    assert std["rpn.convs.0.0"] == pytest.approx(0.01, rel=0.05)
    assert std["box_head.deltas"] == pytest.approx(0.001, rel=0.1)
    assert std["fpn.outputs.0.0"] == pytest.approx((1 / (64 * 9)) ** 0.5, rel=0.05)
    assert std["box_head.convs.0.0"] == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.05)
    assert std["box_head.fcs.0"] == pytest.approx((1 / (32 * 49)) ** 0.5, rel=0.05)
    assert not model.fpn.outputs[0][0].bias.any()


def is_layer(module):
    return isinstance(module, nn.Conv2d | nn.Linear)
