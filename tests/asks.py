"""Steps on tensors without numbers: whatever needs a number, or a shape that hangs on one, is an error.

On a GPU such a need is a wait for the device, and a captured step cannot have it. Tensors without numbers can
lie on a GPU that is not there, so a GPU's own ways through the code are walked too.
"""

import contextlib

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode


class NoCopies(TorchDispatchMode):
    """Refuses what passes between host and device: tensors made of the host's numbers, and moved ones."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.lift_fresh.default:
            raise AssertionError("a tensor is made of the host's numbers within the step")
        devices = {value.device for value in (*args, result) if isinstance(value, torch.Tensor)}
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default) and len(devices) > 1:
            raise AssertionError("a tensor moves between host and device within the step")
        return result


@contextlib.contextmanager
def without_numbers(build, device="cpu"):
    """What `build` builds of tensors without numbers; it is given what takes a tensor's numbers."""
    with FakeTensorMode() as mode:
        built = build(lambda tensor: mode.from_tensor(tensor).to(device))
        with NoCopies() if device == "cuda" else contextlib.nullcontext():
            yield built
