"""What can go wrong by a user's hand, and the exit status that says so.

The command line catches `GroundupError` once, prints its message as one line and exits with
`exit_code`. Everything else is a defect of ours and keeps its traceback.
"""

from typing import ClassVar

EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_RESUMABLE = 75
"""A checkpoint was written and the same command goes on. Source: sysexits.h, EX_TEMPFAIL."""
EXIT_INTERRUPTED = 130


class GroundupError(Exception):
    """A fault a user can mend; the message says what was found, where, and what to do."""

    exit_code: ClassVar[int] = EXIT_INTERNAL
    is_told: bool = False
    """Whether another process of the run has said it already."""


class UsageError(GroundupError):
    """A command, option or recipe that cannot mean anything."""

    exit_code: ClassVar[int] = 2


class DataError(GroundupError):
    """A photograph, annotation, prediction or weights file that cannot be used."""

    exit_code: ClassVar[int] = 3


class DivergedError(GroundupError):
    """The loss left the finite numbers."""

    exit_code: ClassVar[int] = 4


class CheckpointError(GroundupError):
    """A run folder or checkpoint that cannot be read, written or gone on with."""

    exit_code: ClassVar[int] = 5


class Interrupted(GroundupError):  # noqa: N818 - no fault: the run was asked to stop
    """The run was asked to stop; it wrote a checkpoint and can go on."""

    exit_code: ClassVar[int] = EXIT_RESUMABLE


class LostProcess(GroundupError):  # noqa: N818 - no fault of this process
    """Another process of the run is gone; the newest checkpoint stands and the same command goes on."""

    exit_code: ClassVar[int] = EXIT_RESUMABLE
