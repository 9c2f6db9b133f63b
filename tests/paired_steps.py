"""Two ways to take the steps of one training on a GPU, step by step from the same weights.

Sums on a GPU have no fixed order. Left to run, two trainings part at the first proposal that changes its
rank; from the same weights one step of each differs by rounding alone.
"""

import torch

from detector_worlds import random_batch, tiny_detector
from groundup.data.buckets import BucketOptions, pad_truth
from groundup.engine.distributed import World
from groundup.engine.numerics import build_scaler
from groundup.engine.optimizer import OptimizerOptions, build_optimizer, optimizer_state
from groundup.engine.state import TrainingState
from groundup.engine.step import build_team, refuse_diverged, take_step
from groundup.engine.train import losses_method
from groundup.shares import Share

SIZES = ((128, 160), (160, 128))
SMALL = BucketOptions(sizes=SIZES, instances=4, polygons=4, edges=16, instance_edges=4)
NUM_STEPS = 10


def stream(num=NUM_STEPS):
    """Batches of two shapes, in turns that do not repeat."""
    for number in range(num):
        objects = ((3, 2), (1, 4), (0, 3))[number % 3]
        batch = pad_truth(random_batch(objects, size=SIZES[number % 3 == 1], seed=number), SMALL)
        yield batch.pin_memory()


def training(*, slots="fixed", captures=False, compiled=False, precision="fp32", optimizer=None):
    """A function that takes one step of the small detector on a batch, and its state and team."""
    options = optimizer or OptimizerOptions(clip="norm", clip_at=5.0)
    model = tiny_detector(roi_slots=slots).cuda().to(memory_format=torch.channels_last).train()
    state = TrainingState(
        model=model,
        optimizer=build_optimizer(model, options, is_unread=True),
        average=None,
        scaler=build_scaler(torch.device("cuda"), precision),
    )
    share = Share(num_images=2, group_size=2)
    team = build_team(model, state.optimizer, share, World(), reads_late=True, captures=captures)
    losses_of = losses_method(model, compiled=compiled, captured=captures)

    def step(batch, lr=0.01):
        return take_step(state, [batch], losses_of, options, team, lr=lr, seed=0, precision=precision)

    return step, state, team


def copy_state(state, other):
    """Give the other training the weights and the optimizer's memory of the first one, in their places."""
    with torch.no_grad():
        for one, place in zip(state.model.parameters(), other.model.parameters(), strict=True):
            place.copy_(one)
        held = optimizer_state(other.model, other.optimizer)
        for name, value in optimizer_state(state.model, state.optimizer).items():
            held[name].copy_(value)


def distance(one, other):
    """Root of the sum of squares of all differences of two lists of tensors."""
    return torch.stack([(a - b).float().square().sum() for a, b in zip(one, other, strict=True)]).sum().sqrt()


def compare(first, second, *, rtol, atol, moved=0.05):
    """Take all steps in both ways; the second team comes back.

    Losses and the gradient's norm agree within the tolerances, and what steps move by `moved` of its length.
    """
    (step, state, team), (other_step, other, other_team) = training(**first), training(**second)
    for batch in stream():
        before = [parameter.detach().clone() for parameter in state.model.parameters()]
        taken, again = step(batch), other_step(batch)
        refuse_diverged(taken, team)
        refuse_diverged(again, other_team)
        torch.testing.assert_close(again.values, taken.values, rtol=rtol, atol=atol)
        own = list(state.model.parameters())
        assert distance(list(other.model.parameters()), own) <= moved * distance(before, own)
        copy_state(state, other)
    return other_team
