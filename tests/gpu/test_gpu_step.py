"""The step on a GPU: `python -m pytest -m gpu tests/gpu`; skipped without one.

Captured steps against steps as written, half precision against full, suppression against the CPU's. How fast
they are says `benchmarks/gpu_step.py`.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from groundup.engine.optimizer import OptimizerOptions
from groundup.engine.step import refuse_diverged
from groundup.errors import DivergedError
from groundup.ops.suppression import has_kernel, survivors
from paired_steps import SIZES, compare, stream, training

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_captured_steps_are_those_as_written(name):
    optimizer = OptimizerOptions(name=name, clip="norm", clip_at=5.0)
    # Adam moves a weight whose gradient is but rounding as far as any other.
    moved = {"sgd": 0.05, "adamw": 0.2}[name]
    team = compare(
        {"optimizer": optimizer},
        {"optimizer": optimizer, "captures": True},
        rtol=1e-2,
        atol=1e-3,
        moved=moved,
    )
    assert team.repeater.num_captured == len(SIZES) + 1


def test_the_step_in_fixed_shapes_is_the_compact_one():
    compare({}, {"slots": "real"}, rtol=1e-2, atol=1e-3)


COMPILED = """
import sys
sys.path[:0] = sys.argv[1:]
from paired_steps import compare
compare({}, {"compiled": True, "captures": True}, rtol=2e-2, atol=2e-3)
"""


def test_compiled_and_captured_steps_are_those_as_written():
    # In a process of its own: the checks of shapes that tests run with are no part of what is compiled.
    places = [str(Path(__file__).parents[1]), *sys.path]
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILED, *places],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]


def test_half_precision_is_near_full_precision():
    (step, _, _), (half_step, _, _) = training(), training(precision="bf16", captures=True)
    exact = step(next(stream(1))).values
    halves = [half_step(batch).values for batch in stream()]
    torch.testing.assert_close(halves[0], exact, rtol=5e-2, atol=2e-2)
    assert torch.stack(halves).isfinite().all()


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_captured_steps_ask_the_device_nothing():
    step, _, _ = training(captures=True, precision="bf16")
    *batches, last = stream()
    for batch in batches:
        step(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(last)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_captured_step_that_is_not_finite_moves_nothing_and_neither_do_those_after_it():
    step, state, team = training(captures=True)
    batches = list(stream())
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
