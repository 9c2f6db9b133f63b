"""The losses in fixed shapes are one graph for torch.compile, and compiled they are the same numbers.

In float64, since in float32 the law would ask for too much: where one activation of 100,000 lies within
rounding of a ReLU's corner, its share of the gradient is there in one order of summation and not in another
(mask detector: 6e-4 of a gradient of 0.3).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: the checks of shapes that tests run with are no part of what is compiled.
SCRIPT = """
import sys
backend, name = sys.argv[1:3]
sys.path[:0] = sys.argv[3:]
import torch
torch.set_num_threads(1)
from detector_worlds import tiny_detector
import test_static_laws as laws
def exact(values):
    return values.double() if values.is_floating_point() else values
batch = laws.bounded(laws.batch_for(name)).map(exact)
numbers = []
for compiled in (False, True):
    model = tiny_detector(roi_slots="fixed", **laws.DETECTORS[name]).double()
    losses_of = model.losses
    if compiled:
        losses_of = torch.compile(losses_of, fullgraph=True, dynamic=False, backend=backend)
    losses = losses_of(batch)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {path: parameter.grad for path, parameter in model.named_parameters()}
    numbers.append(({path: loss.detach() for path, loss in losses.items()}, gradients))
(written, compiled) = numbers
torch.testing.assert_close(compiled[0], written[0], rtol=1e-10, atol=1e-12)
torch.testing.assert_close(compiled[1], written[1], rtol=1e-8, atol=1e-10)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", ["faster", "mask", "keypoint", "cascade", "shared proposals"])
def test_compiled_losses_are_one_graph_with_the_numbers_of_those_as_written(name, backend):
    places = [str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path]
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, backend, name, *places],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]


WITHOUT = """
import sys
sys.path[:0] = sys.argv[1:]
from groundup.engine.train import losses_method
from groundup.errors import UsageError
from small_training import SmallModel, draw_batch
try:
    losses_method(SmallModel(), compiled=True, captured=False)(draw_batch(range(4)))
except UsageError as error:
    print(error)
"""


@pytest.mark.slow
def test_without_a_compiler_compiled_losses_are_refused_in_one_line(tmp_path):
    places = [str(Path(__file__).parents[1]), *sys.path]
    without = {"CXX": "no-such-compiler", "PATH": "", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT, *places],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **without, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
    )
    (line,) = ended.stdout.splitlines()
    assert "torch cannot compile here" in line
    assert "write training.compile=false" in line
