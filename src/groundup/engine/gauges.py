"""What is measured of a training on its device: parts of a step, memory."""

import torch
from torch import nn

from groundup.metering import PEAK_MEMORY, Stopwatch, peak_memory

PEAK_GPU_MEMORY = "peak_gpu_memory"
"""Beside `PEAK_MEMORY`, in bytes."""


def build_stopwatch(device: torch.device) -> Stopwatch:
    """One that waits for the device, where it works by itself."""
    return Stopwatch(torch.cuda.synchronize if device.type == "cuda" else None)


def memory_held(model: nn.Module) -> dict[str, float]:
    """Bytes that this process held at most, and those that tensors on its GPU took at most."""
    held: dict[str, float] = {PEAK_MEMORY: peak_memory()}
    device = next(model.parameters()).device
    if device.type == "cuda":
        held[PEAK_GPU_MEMORY] = torch.cuda.max_memory_allocated(device)
    return held
