"""The step on a GPU: `python -m pytest -m gpu tests/gpu -s` compares and prints; skipped without one.

Captured steps against steps as written, half precision against full, suppression against the CPU's, and how
many images a second go through Mask R-CNN R50-FPN with GN at 800 x 1344.
"""

import time

import pytest
import torch

from detector_worlds import random_batch, tiny_detector
from groundup.data.buckets import BucketOptions, pad_truth
from groundup.engine.distributed import World
from groundup.engine.numerics import build_scaler
from groundup.engine.optimizer import OptimizerOptions, build_optimizer
from groundup.engine.state import TrainingState
from groundup.engine.step import build_team, refuse_diverged, take_step
from groundup.errors import DivergedError
from groundup.models.presets import paper_mask_rcnn
from groundup.models.rcnn import build_detector
from groundup.ops.suppression import has_kernel, survivors
from groundup.shares import Share

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SMALL = BucketOptions(sizes=((128, 160), (160, 128)), instances=4, polygons=4, edges=16, instance_edges=4)
SIZES = ((128, 160), (160, 128))
NUM_STEPS = 10
WARM_UP = 4
TIMED = 20


def random_training(slots="fixed", **ways):
    """A function that takes one step of the small detector on a batch, and its parts."""
    model = tiny_detector(roi_slots=slots).cuda().to(memory_format=torch.channels_last).train()
    return training_of(model, num_images=2, **ways)


def training_of(model, *, num_images, captures=False, compiled=False, precision="fp32", optimizer=None):
    options = optimizer or OptimizerOptions()
    state = TrainingState(
        model=model,
        optimizer=build_optimizer(model, options, is_unread=True),
        average=None,
        scaler=build_scaler(torch.device("cuda"), precision),
    )
    share = Share(num_images=num_images, group_size=num_images)
    team = build_team(model, state.optimizer, share, World(), reads_late=True, captures=captures)
    losses_of = torch.compile(model.losses, fullgraph=True, dynamic=False) if compiled else model.losses

    def step(batch):
        return take_step(state, [batch], losses_of, options, team, lr=0.01, seed=0, precision=precision)

    return step, state, team


def stream(num=NUM_STEPS):
    """Batches of two shapes, in turns that do not repeat."""
    for number in range(num):
        objects = ((3, 2), (1, 4), (0, 3))[number % 3]
        yield pad_truth(random_batch(objects, size=SIZES[number % 3 == 1], seed=number), SMALL)


def losses_of_run(**ways):
    step, state, team = random_training(**ways)
    taken = [step(batch.pin_memory()) for batch in stream()]
    for one in taken:
        refuse_diverged(one, team)
    return torch.stack([one.values.cpu() for one in taken]), state, team


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_captured_steps_are_those_as_written(name):
    optimizer = OptimizerOptions(name=name, clip="norm", clip_at=5.0)
    written, plain, _ = losses_of_run(optimizer=optimizer)
    captured, repeated, team = losses_of_run(optimizer=optimizer, captures=True)
    assert team.repeater.num_captured == len(SIZES) + 1
    torch.testing.assert_close(captured, written, rtol=1e-2, atol=1e-3)
    for one, other in zip(repeated.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


def test_compiled_and_captured_steps_are_those_as_written():
    written, _, _ = losses_of_run()
    captured, _, _ = losses_of_run(captures=True, compiled=True)
    torch.testing.assert_close(captured, written, rtol=2e-2, atol=2e-3)


def test_the_step_in_fixed_shapes_is_the_compact_one():
    written, _, _ = losses_of_run()
    compact, _, _ = losses_of_run(slots="real")
    torch.testing.assert_close(compact, written, rtol=1e-2, atol=1e-3)


def test_half_precision_is_near_full_precision():
    exact, _, _ = losses_of_run()
    half, _, _ = losses_of_run(precision="bf16", captures=True)
    torch.testing.assert_close(half[0], exact[0], rtol=5e-2, atol=2e-2)
    assert half.isfinite().all()


def test_captured_steps_ask_the_device_nothing():
    step, _, _ = random_training(captures=True, precision="bf16")
    batches = [batch.pin_memory() for batch in stream()]
    for batch in batches[:-1]:
        step(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(batches[-1])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_captured_step_that_is_not_finite_moves_nothing_and_neither_do_those_after_it():
    step, state, team = random_training(captures=True)
    batches = [batch.pin_memory() for batch in stream()]
    for batch in batches:
        step(batch)
    still = [parameter.detach().clone() for parameter in state.model.parameters()]
    state.model.pixel_std.zero_()
    bad = step(batches[0])
    state.model.pixel_std.fill_(0.25)
    after = step(batches[1])
    assert all(torch.equal(one, other) for one, other in zip(still, state.model.parameters(), strict=True))
    refuse_diverged(after, team)
    with pytest.raises(DivergedError):
        refuse_diverged(bad, team)


@pytest.mark.skipif(not has_kernel(), reason="Triton is not installed")
@pytest.mark.parametrize("num", [1, 100, 2000, 12_000])
def test_the_kernel_suppresses_as_the_cpu_does(num):
    generator = torch.Generator().manual_seed(num)
    starts = torch.rand(6, num, 2, generator=generator) * 800
    boxes = torch.cat([starts, starts + torch.rand(6, num, 2, generator=generator) * 200], dim=-1)
    is_candidate = torch.rand(6, num, generator=generator) < 0.9
    found = survivors(boxes.cuda(), is_candidate.cuda(), 0.7)
    assert torch.equal(found.cpu(), survivors(boxes, is_candidate, 0.7))


@pytest.mark.parametrize(
    "ways",
    [{}, {"captures": True}, {"captures": True, "compiled": True}],
    ids=["as written", "captured", "both"],
)
@pytest.mark.parametrize("num_images", [2, 16])
def test_images_a_second(num_images, ways):
    """Not a claim but a measurement: bf16, channels last, 7 objects an image."""
    model = build_detector(
        paper_mask_rcnn().model_copy(update={"roi_slots": "fixed", "loss_images": 2}),
        num_classes=80,
        pixel_mean=(0.485, 0.456, 0.406),
        pixel_std=(0.229, 0.224, 0.225),
    )
    model = model.cuda().to(memory_format=torch.channels_last).train()
    batch = pad_truth(random_batch((7,) * num_images, size=(800, 1344)), BucketOptions()).pin_memory()
    step, _, team = training_of(model, num_images=num_images, precision="bf16", **ways)
    for _ in range(WARM_UP):
        step(batch)
    torch.cuda.synchronize()
    began = time.perf_counter()
    taken = [step(batch) for _ in range(TIMED)]
    torch.cuda.synchronize()
    speed = TIMED * num_images / (time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 2**30
    print(f"\n{torch.cuda.get_device_name()}: {num_images} images a step, {ways or 'as written'}: "
          f"{speed:.1f} images/s, {peak:.1f} GiB")  # fmt: skip
    for one in taken:
        refuse_diverged(one, team)
