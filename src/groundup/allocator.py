"""What glibc does with large blocks that are freed: kept for the next step instead of given back.

A training step frees and asks for the same large tensors again and again. glibc maps each from the kernel
and unmaps it, and the kernel zeroes every page each time: a sixth to a quarter of a step on a CPU.
Measured by `benchmarks/training_step.py`.
"""

import ctypes
import os
import sys

SWITCH = "GROUNDUP_ALLOCATOR"
"""Environment variable; `system` leaves glibc as it is."""
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Names of the settings. Source: glibc, malloc.h; mallopt(3)."""
NEVER = 2**31 - 1
"""Free bytes at the end of the heap from which on it is trimmed: the largest that mallopt takes."""
STRIDE = 64 * 2**20
"""Bytes by which the heap grows at once."""


_settled: list[str] = []


def keep_freed_memory() -> None:
    """Have the allocator of this process, and of processes forked from it, keep freed memory.

    Costs a few percent more resident memory. Settings of the user's own (`MALLOC_...`, `GLIBC_TUNABLES`,
    or another allocator in `LD_PRELOAD`) stand.
    """
    _settled[:] = [settle()]


def allocator_line() -> str:
    """What holds in this process, for the log and the record: one line."""
    return _settled[0] if _settled else "allocator: as the system has it"


def settle() -> str:
    """Set what may be set; the line that says what holds then."""
    theirs = [
        name for name in os.environ if name.startswith("MALLOC_") or name in {"GLIBC_TUNABLES", "LD_PRELOAD"}
    ]
    if os.environ.get(SWITCH) == "system":
        return f"allocator: as the system has it ({SWITCH}=system)"
    if theirs:
        return f"allocator: as {theirs[0]} says"
    if sys.platform != "linux":
        return "allocator: as the system has it"
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return "allocator: as the system has it (no mallopt)"
    taken = [mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, NEVER), mallopt(M_TOP_PAD, STRIDE)]
    if not all(taken):
        return "allocator: as the system has it (mallopt refused)"
    return f"allocator: keeps freed memory ({SWITCH}=system switches that off)"
