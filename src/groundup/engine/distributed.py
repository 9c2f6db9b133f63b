"""What torchrun says about this process."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from groundup.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process among those of the run."""

    rank: int = 0
    """0 writes the run folder. Not stable over elastic restarts: nothing on disk is named by it."""
    size: int = 1
    local_rank: int = 0
    """Number on this machine; chooses the device."""


def read_world(environment: Mapping[str, str] | None = None) -> World:
    """The world that torchrun's variables describe; one process where there are none.

    Raises:
        UsageError: a variable that is no whole number, or more than one process, which the loop
            cannot yet keep in step.
    """
    source = os.environ if environment is None else environment
    values = {}
    for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        text = source.get(name, default)
        if not text.isdecimal():
            raise UsageError(f"{name} is {text!r}, but torchrun sets it to a whole number; unset it")
        values[name] = int(text)
    if values["WORLD_SIZE"] != 1:
        raise UsageError(
            f"WORLD_SIZE is {values['WORLD_SIZE']}: training over several processes is not supported yet; "
            "start one process (accumulate= makes its batches as large)"
        )
    return World(rank=values["RANK"], size=values["WORLD_SIZE"], local_rank=values["LOCAL_RANK"])
