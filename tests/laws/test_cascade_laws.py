"""What must hold of a cascade whatever its weights: of one stage, of three, of stages that are off."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from detector_worlds import NUM_CLASSES, part_of, random_batch, tiny_detector, tiny_options
from groundup.models import presets
from groundup.models.box_head import scale_gradient
from groundup.models.cascade import CascadeOptions
from groundup.models.rcnn import DetectorOptions, build_detector
from groundup.models.rois import sample_rois

STAGES = {"", "_2", "_3"}
LOSSES = {"loss_rpn_objectness", "loss_rpn_box", "loss_mask"} | {
    f"loss_box_{kind}{stage}" for kind in ("class", "delta") for stage in STAGES
}
BOLD = 20.0
"""By how much first weights of the box predictors are multiplied, so that boxes move."""
STEP = 0.05
"""Of a difference quotient along a direction of length 1, in units of the features."""


def agnostic(**changes):
    head = tiny_options().box_head.model_copy(update={"class_agnostic": True})
    return tiny_detector(box_head=head, **changes)


def cascade(**changes):
    model = agnostic(cascade=changes.pop("cascade", CascadeOptions()), **changes)
    with torch.no_grad():
        for head in (model.box_head, *model.cascade.heads):
            head.deltas.weight.mul_(BOLD)
    return model


def assert_losses_equal(first, second, rtol=1e-5):
    assert set(first) == set(second) == LOSSES
    for name in LOSSES:
        torch.testing.assert_close(first[name], second[name], rtol=rtol, atol=1e-7, msg=name)


def gradients(model, batch):
    model.zero_grad()
    sum(model.losses(batch).values()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def assert_same_detector(first, second, batch):
    ours, plain = first.losses(batch), second.losses(batch)
    assert ours.keys() == plain.keys()
    assert all(torch.equal(ours[name], plain[name]) for name in plain)
    ours, plain = gradients(first, batch), gradients(second, batch)
    assert all(torch.equal(ours[name], plain[name]) for name in plain)
    for found, expected in zip(first.eval().detect(batch), second.eval().detect(batch), strict=True):
        assert len(found.boxes) > 0
        for field in ("boxes", "scores", "labels", "masks"):
            assert torch.equal(getattr(found, field), getattr(expected, field))
    first.train(), second.train()


def test_a_cascade_of_one_stage_is_the_plain_detector_bit_for_bit():
    one = agnostic(cascade=CascadeOptions(ious=(), box_weights=()))
    assert_same_detector(one, agnostic(), random_batch((3, 2)))


def test_a_cascade_that_is_off_is_the_plain_detector_bit_for_bit_and_trains_nothing_else():
    model = agnostic(cascade=CascadeOptions())
    assert model.use_late_parts(False)
    assert not model.use_late_parts(False)
    assert_same_detector(model, agnostic(), random_batch((3, 2)))
    idle = {id(p) for p in model.idle_parameters()}
    assert idle == {id(p) for p in model.cascade.parameters()}
    assert all((p.grad is None) == (id(p) in idle) for p in model.parameters())


def test_a_cascade_begins_as_the_plain_detector_does_in_all_that_both_have():
    plain, model = agnostic().state_dict(), agnostic(cascade=CascadeOptions()).state_dict()
    assert all(torch.equal(model[name], tensor) for name, tensor in plain.items())


def test_stages_that_join_in_late_are_copies_of_the_first_or_keep_their_first_weights():
    for init in ("copy", "random"):
        model = agnostic(cascade=CascadeOptions(late_init=init))
        before = [p.clone() for p in model.cascade.parameters()]
        model.use_late_parts(False)
        assert model.use_late_parts(True)
        after = list(model.cascade.parameters())
        first = [*model.box_head.parameters()] * 2
        expected = first if init == "copy" else before
        assert all(torch.equal(one, other) for one, other in zip(after, expected, strict=True))
        assert not list(model.idle_parameters())


def test_whether_stages_are_on_is_part_of_the_state():
    off, on = cascade(), cascade()
    off.use_late_parts(False)
    state = {name: tensor.clone() for name, tensor in off.state_dict().items()}
    on.load_state_dict(state)
    assert not on.cascade.is_on
    assert on.use_late_parts(True)
    off.load_state_dict(on.state_dict())
    assert off.cascade.is_on


def test_every_stage_sends_a_third_of_its_gradient_to_the_features_and_learns_from_the_whole():
    model, batch = cascade(), random_batch((3, 2))
    with torch.no_grad():
        pyramid = [level.clone() for level in model.pyramid(batch)]
    pyramid = [level.requires_grad_() for level in pyramid]
    maps = model.roi_maps(pyramid)
    found = model.rpn(pyramid, (128, 160))
    proposals = model.rpn.propose(found, batch.sizes, is_training=True, group_size=2)
    rois = sample_rois(proposals, batch, model.options.rois, NUM_CLASSES)

    def gradients_of(loss, head):
        wanted = [*pyramid[:-1], *head.parameters()]
        found = torch.autograd.grad(loss, wanted, retain_graph=True)
        return found[: len(pyramid) - 1], found[len(pyramid) - 1 :]

    losses = model.cascade.losses(model.box_head, maps, rois, batch, slots="real", group_size=2)
    stages = model.cascade.stages(model.box_head)
    for number, head in enumerate(stages, 1):
        suffix = "" if number == 1 else f"_{number}"
        ours = losses[f"loss_box_class{suffix}"] + losses[f"loss_box_delta{suffix}"]
        plain = sum(head.losses(maps, rois, batch, slots="real", group_size=2).values())
        torch.testing.assert_close(ours, plain)
        features, own = gradients_of(ours, head)
        whole_features, whole_own = gradients_of(plain, head)
        assert whole_features[0].abs().max() > 0
        for part, whole in zip(features, whole_features, strict=True):
            torch.testing.assert_close(part, whole / 3)
        for mine, same in zip(own, whole_own, strict=True):
            torch.testing.assert_close(mine, same)
        if number < len(stages):
            rois = model.cascade.next_rois(number, head, head.read(maps, rois, slots="real"), rois, batch)


def test_the_gradient_of_the_first_stage_is_a_third_of_the_difference_quotient():
    model, batch = cascade(), random_batch((3, 2))
    with torch.no_grad():
        model.box_head.classes.weight.mul_(BOLD)  # a slope well above the rounding of float32
        pyramid = [level.clone() for level in model.pyramid(batch)]
        found = model.rpn(pyramid, (128, 160))
    proposals = model.rpn.propose(found, batch.sizes, is_training=True, group_size=2)
    rois = sample_rois(proposals, batch, model.options.rois, NUM_CLASSES)

    def loss_at(finest):
        maps = model.roi_maps([finest, *pyramid[1:]])
        losses = model.cascade.losses(model.box_head, maps, rois, batch, slots="real", group_size=2)
        return losses["loss_box_class"]

    finest = pyramid[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_at(finest), finest)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        quotient = (loss_at(finest + STEP * direction) - loss_at(finest - STEP * direction)) / (2 * STEP)
    assert gradient.norm().item() == pytest.approx(quotient.item() / 3, rel=0.03)


def test_scaling_a_gradient_changes_no_value():
    values = torch.randn(7, requires_grad=True)
    scaled = scale_gradient(values, 0.25)
    assert torch.equal(scaled, values)
    scaled.square().sum().backward()
    torch.testing.assert_close(values.grad, values.detach() / 2)


def test_later_stages_keep_every_roi_and_move_its_box():
    model, batch = cascade(), random_batch((3, 2))
    pyramid = model.pyramid(batch)
    proposals = model.rpn.propose(model.rpn(pyramid, (128, 160)), batch.sizes, is_training=True, group_size=2)
    rois = sample_rois(proposals, batch, model.options.rois, NUM_CLASSES)
    readings = model.box_head.read(model.roi_maps(pyramid), rois, slots="real")
    moved = model.cascade.next_rois(1, model.box_head, readings, rois, batch)
    assert not moved.boxes.requires_grad
    assert torch.equal(moved.is_filled, rois.is_filled)
    assert (moved.boxes != rois.boxes).any(dim=-1)[rois.is_filled].all()
    assert ((moved.labels < NUM_CLASSES) == moved.is_positive).all()
    assert (moved.boxes >= 0).all()
    assert (moved.boxes[..., 2] <= 160).all()
    assert (moved.boxes[..., 3] <= 128).all()


def test_a_box_that_leaves_the_image_is_an_roi_no_longer():
    model, batch = cascade(), random_batch((3, 2))
    with torch.no_grad():
        model.box_head.deltas.weight.zero_()
        model.box_head.deltas.bias.copy_(torch.tensor([1e5, 0.0, 0.0, 0.0]))
    losses = model.losses(batch)
    assert losses["loss_box_class"] > 0
    assert losses["loss_box_class_2"] == losses["loss_box_delta_3"] == 0
    assert all(grad is not None for grad in gradients(model, batch).values())
    assert all(found.boxes.isfinite().all() for found in model.eval().detect(batch))


@pytest.mark.parametrize("objects", [(3, 0, 2), (0, 0)])
def test_empty_slots_change_no_loss_and_no_gradient(objects):
    batch = random_batch(objects, slots=3)
    real, fixed = cascade(), cascade(roi_slots="fixed")
    assert_losses_equal(real.losses(batch), fixed.losses(batch))
    fixed_gradients = gradients(fixed, batch)
    for name, grad in gradients(real, batch).items():
        torch.testing.assert_close(grad, fixed_gradients[name], rtol=1e-3, atol=1e-6, msg=name)


def test_images_without_objects_have_finite_losses_and_reach_every_parameter():
    for batch in (random_batch((0, 0), slots=2), random_batch((0, 0))):
        model = cascade()
        losses = model.losses(batch)
        assert all(loss.isfinite() for loss in losses.values())
        assert losses["loss_box_delta"] == losses["loss_box_delta_2"] == losses["loss_box_delta_3"] == 0
        assert all(grad is not None and grad.isfinite().all() for grad in gradients(model, batch).values())


def test_a_batch_is_the_mean_of_its_groups():
    model = cascade()
    batch = random_batch((3, 2, 1, 4))
    halves = [model.losses(part_of(batch, 0, 2)), model.losses(part_of(batch, 2, 4))]
    mean = {name: (halves[0][name] + halves[1][name]) / 2 for name in LOSSES}
    assert_losses_equal(model.losses(batch), mean)


def test_slots_of_padding_change_no_loss():
    model = cascade()
    assert_losses_equal(model.losses(random_batch((3, 2))), model.losses(random_batch((3, 2), slots=9)))


def test_photographs_of_a_batch_are_detected_as_each_alone():
    model, batch = cascade().eval(), random_batch((3, 2))
    together = model.detect(batch)
    for image, found in enumerate(together):
        alone = model.detect(part_of(batch, image, image + 1))[0]
        torch.testing.assert_close(found.scores, alone.scores, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.boxes, alone.boxes, rtol=1e-4, atol=1e-2)


def test_losses_are_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = cascade().losses(random_batch((3, 2)))
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("preset", [presets.paper_mask_rcnn, presets.detectron2, presets.torchvision_v2])
def test_every_system_can_have_a_cascade(preset):
    options = presets.with_cascade(preset("resnet18", sizes=presets.TINY))
    torch.manual_seed(0)
    model = build_detector(options, num_classes=NUM_CLASSES, pixel_mean=(0.5,) * 3, pixel_std=(0.25,) * 3)
    batch = random_batch((2, 1))
    assert set(model.losses(batch)) == LOSSES
    assert all(grad is not None for grad in gradients(model, batch).values())
    assert len(model.eval().detect(batch)) == 2
    assert DetectorOptions.model_validate(options.model_dump(mode="json")) == options


def test_faster_rcnn_with_a_cascade_has_no_masks():
    model = cascade(mask_head=None)
    batch = replace(random_batch((3, 2)), masks=None)
    assert set(model.losses(batch)) == LOSSES - {"loss_mask"}
    assert all(found.masks is None for found in model.eval().detect(batch))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cascade": {}}, "class_agnostic"),
        ({"cascade": {"ious": [0.6]}, "box_head": {"class_agnostic": True}}, "same number"),
        ({"cascade": {"ious": [0.6, 1.5]}, "box_head": {"class_agnostic": True}}, "must lie in"),
    ],
)
def test_a_cascade_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        DetectorOptions.model_validate(changes)
