"""Captured steps are those as written, to the bit, on a CPU that notes and repeats operators (`replays`)."""

import pytest
import torch

from detector_worlds import random_batch, tiny_detector, tiny_options
from groundup.data.buckets import BucketOptions, pad_truth
from groundup.engine.distributed import World
from groundup.engine.late import enter_phase
from groundup.engine.numerics import build_scaler
from groundup.engine.optimizer import OptimizerOptions, build_optimizer, optimizer_state
from groundup.engine.state import TrainingState
from groundup.engine.step import build_team, refuse_diverged, take_step
from groundup.errors import DivergedError
from groundup.models.cascade import CascadeOptions
from groundup.shares import Share
from replays import capture_on_the_cpu

SIZES = ((64, 96), (96, 64))
SMALL = BucketOptions(sizes=SIZES, instances=4, polygons=4, edges=16, instance_edges=4)


def training(captures, name="sgd", **changes):
    """A function that takes one step of the small detector on microbatches, and its state and team."""
    model = tiny_detector(roi_slots="fixed", **changes).to(memory_format=torch.channels_last).train()
    options = OptimizerOptions(name=name, clip="norm", clip_at=5.0)
    optimizer = build_optimizer(model, options)
    # As `build_optimizer` has them on a GPU; torch's CPU has the same kernels.
    optimizer.defaults["fused"] = True
    for group in optimizer.param_groups:
        group["fused"], group["lr"] = True, torch.zeros(())
    device = torch.device("cpu")
    state = TrainingState(model=model, optimizer=optimizer, average=None, scaler=build_scaler(device, "fp32"))
    share = Share(num_images=2, group_size=2)
    team = build_team(model, optimizer, share, World(), reads_late=True, captures=captures)

    def step(microbatches, lr=0.01):
        return take_step(state, microbatches, model.losses, options, team, lr=lr, seed=0, precision="fp32")

    return step, state, team


def batch_of(number):
    objects = ((3, 2), (1, 4), (0, 3))[number % 3]
    return pad_truth(random_batch(objects, size=SIZES[number % 2], seed=number), SMALL)


def assert_same(state, other):
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    for name, value in optimizer_state(state.model, state.optimizer).items():
        assert torch.equal(value, optimizer_state(other.model, other.optimizer)[name]), name


@pytest.mark.parametrize(
    ("name", "changes"), [("sgd", {}), pytest.param("adamw", {"mask_head": None}, marks=pytest.mark.slow)]
)
def test_captured_steps_of_two_shapes_at_changing_rates_are_those_as_written(name, changes, monkeypatch):
    capture_on_the_cpu(monkeypatch)
    ways = [training(captures, name, **changes) for captures in (False, True)]
    (step, state, _), (other_step, other, team) = ways
    for number in range(4):
        lr = 0.001 * (number + 1)
        # Two passes a step: the second one adds to what the first one left.
        microbatches = [batch_of(number), batch_of(number + 1)]
        taken, repeated = step(microbatches, lr), other_step(microbatches, lr)
        assert torch.equal(taken.values, repeated.values), number
        assert_same(state, other)
    assert team.repeater.num_captured == len(SIZES) + 1


def test_parts_that_join_late_are_captured_anew(monkeypatch):
    capture_on_the_cpu(monkeypatch)
    late = {
        "mask_head": None,
        "cascade": CascadeOptions(),
        "box_head": tiny_options().box_head.model_copy(update={"class_agnostic": True}),
    }
    (step, state, _), (other_step, other, team) = (training(captures, **late) for captures in (False, True))
    for number in range(6):
        for one in (state, other):
            enter_phase(one, is_late=number >= 3)
        taken, repeated = (take([batch_of(0)]) for take in (step, other_step))
        assert torch.equal(taken.values, repeated.values), number
        assert_same(state, other)
    assert len(taken.names) > 4
    assert team.repeater.num_captured == 2


def test_a_captured_step_that_is_not_finite_moves_nothing_and_neither_do_those_after_it(monkeypatch):
    capture_on_the_cpu(monkeypatch)
    step, state, team = training(captures=True)
    for _ in range(3):
        refuse_diverged(step([batch_of(0)]), team)
    still = [parameter.detach().clone() for parameter in state.model.parameters()]
    state.model.pixel_std.zero_()
    bad = step([batch_of(0)])
    state.model.pixel_std.fill_(0.25)
    after = step([batch_of(0)])
    assert all(torch.equal(one, other) for one, other in zip(still, state.model.parameters(), strict=True))
    refuse_diverged(after, team)
    with pytest.raises(DivergedError):
        refuse_diverged(bad, team)


def test_a_captured_step_that_asks_is_noticed(monkeypatch):
    capture_on_the_cpu(monkeypatch)
    step, state, _ = training(captures=True)
    losses_of = state.model.losses

    def asking(batch):
        losses = losses_of(batch)
        float(losses["loss_mask"])
        return losses

    step([batch_of(0)])
    step([batch_of(0)])
    state.model.losses = asking
    with pytest.raises(AssertionError, match="asks the device"):
        step([batch_of(0)])
