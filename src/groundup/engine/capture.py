"""Work on a GPU, captured as CUDA graphs and repeated: the host launches one step, not a thousand kernels.

Work of one shape is done as written the first time it is met (which also warms up whatever chooses kernels or
compiles), captured the second time, and repeated from then on. Every time counts: nothing is done twice, and
nothing that it changed has to be put back.

What is captured must leave its results in the tensors it finds: gradients are added to those that lie there,
parameters move in place. It may ask the device nothing (`tests/laws/test_static_laws.py`).
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from groundup.errors import UsageError
from groundup.metering import part
from groundup.structures import Record

Inputs = TypeVar("Inputs", bound=Record | Tensor)
Outputs = dict[str, Tensor]


def check_capture(device: torch.device, num_processes: int) -> None:
    """Refuse to capture where it cannot be.

    Raises:
        UsageError: no CUDA device, or several processes, whose messages are not captured.
    """
    if device.type != "cuda":
        raise UsageError(
            f"training.capture is true, but steps run on {device.type}: only an NVIDIA GPU repeats captured "
            "steps; write training.capture=false"
        )
    if num_processes > 1:
        raise UsageError(
            f"training.capture is true, but {num_processes} processes train together: sums over processes "
            "are not captured; write training.capture=false, or start one process"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A graph with the tensors that it reads and writes."""

    graph: Any
    """torch.cuda.CUDAGraph."""
    inputs: Record | Tensor
    outputs: Outputs


class Repeater:
    """Captured work by name and shape. All graphs share one pool of memory: one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        """Begin with nothing captured."""
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._met: set[Hashable] = set()
        self._captured: dict[Hashable, Captured] = {}

    @property
    def num_captured(self) -> int:
        """How many graphs there are."""
        return len(self._captured)

    def forget(self) -> None:
        """Drop all graphs, as the model has changed its form."""
        torch.cuda.synchronize(self._device)
        self._met.clear()
        self._captured.clear()
        # torch refuses a pool of which all graphs are gone, and anything of which still lives.
        self._pool = torch.cuda.graph_pool_handle()

    @part("captured", is_whole=True)  # its parts cannot be told apart: the host does not walk them
    def run(self, name: Hashable, inputs: Inputs, work: Callable[[Inputs], Outputs]) -> Outputs:
        """What `work` makes of the inputs, which may still lie on the CPU.

        Args:
            name: of the work with all that it depends on beside its inputs.
            inputs: tensors, whose shapes are part of what is captured.
            work: gives tensors that hang on nothing but the inputs and what lies still in memory.
        """
        key = (name, shape_of(inputs))
        if key not in self._met:
            self._met.add(key)
            return self._as_written(inputs, work)
        if key not in self._captured:
            self._captured[key] = self._capture(inputs, work)
        captured = self._captured[key]
        copy_into(captured.inputs, inputs)
        captured.graph.replay()
        return {name: output.clone() for name, output in captured.outputs.items()}

    def _as_written(self, inputs: Inputs, work: Callable[[Inputs], Outputs]) -> Outputs:
        """Do the work on the stream of captures, as torch's notes on CUDA graphs ask for."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            outputs = work(on_device(inputs, self._device))
        current.wait_stream(self._stream)
        return outputs

    def _capture(self, inputs: Inputs, work: Callable[[Inputs], Outputs]) -> Captured:
        """Record the work; nothing is computed."""
        held = on_device(inputs, self._device)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.empty_cache()  # what the first time took from the common pool, the graph's will need
        # The loader's thread pins memory meanwhile: only this thread must keep from what cannot be captured.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            outputs = work(held)
        return Captured(graph=graph, inputs=held, outputs=outputs)


def on_device(inputs: Inputs, device: torch.device) -> Inputs:
    """A copy of the inputs there; never the inputs themselves."""

    def moved(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device=device).copy_(tensor, non_blocking=True)

    copied: Any = inputs.map(moved) if isinstance(inputs, Record) else moved(inputs)
    return copied  # type: ignore[no-any-return]


def shape_of(inputs: Record | Tensor) -> Hashable:
    """All of the inputs but their numbers."""
    return tuple(
        (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else value
        for value in parts_of(inputs)
    )


def copy_into(held: Record | Tensor, inputs: Record | Tensor) -> None:
    """Put the numbers of the inputs in the place of those held; both have one shape."""
    for place, value in zip(parts_of(held), parts_of(inputs), strict=True):
        if isinstance(place, Tensor):
            place.copy_(value, non_blocking=True)


def parts_of(inputs: Record | Tensor) -> Iterator[Any]:
    """The tensors and other values of the inputs, in one order."""
    if isinstance(inputs, Tensor):
        yield inputs
        return
    for field in fields(inputs):
        value = getattr(inputs, field.name)
        if isinstance(value, Record):
            yield from parts_of(value)
        else:
            yield value
