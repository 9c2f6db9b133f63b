"""How numbers are computed in a step: precision, determinism, random streams."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import Any, Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]
SEED_BYTES = 8
"""torch takes seeds of 64 bits."""


def step_seed(seed: int, images_seen: int, rank: int = 0) -> int:
    """Seed of whatever a step draws besides `Batch.seeds`, such as dropout.

    No random state survives a step, so a resumed run draws what the straight run draws.
    """
    text = f"{seed}/{images_seen}/{rank}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=SEED_BYTES).digest(), "big") >> 1


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of a forward pass in that precision; fp32 computes as written."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


def build_scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """The loss scale that keeps fp16 gradients from vanishing; does nothing in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


@contextlib.contextmanager
def determinism(device: torch.device, *, strict: bool) -> Iterator[None]:
    """Use deterministic kernels: always on a CPU, where they cost little; on a GPU when `strict`.

    Without them a CPU adds the gradients of gathered rows in the order its threads arrive. Kernels that
    have no deterministic form raise when `strict` and warn otherwise.
    """
    enabled, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    if strict:
        # cuBLAS reads this once, when it starts. Source: PyTorch notes on reproducibility.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if strict or device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=not strict)
        # Filling every empty tensor with NaN finds defects, but costs a write of all memory.
        memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill
