"""Several processes that carry out one run: who they are, and the few ways in which they speak.

torchrun starts the processes and says in environment variables which is which. All of them compute; the
first (rank 0) alone writes the run folder. Whatever decides what happens next is agreed on by all, so that
none waits for a message that another will never send: an error of one is everyone's, a wish to stop is
everyone's.

Short messages travel over the CPU (gloo), tensors over the backend of their device (gloo or NCCL).
"""

import contextlib
import datetime
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from groundup.errors import GroundupError, LostProcess, UsageError

Value = TypeVar("Value")
Outcome = tuple[Any, Exception | None]
"""What a piece of work gave, or how it failed."""

TIMEOUT = 600.0
"""Seconds that one process waits for another before it counts as lost; a killed one is noticed at once."""
VARIABLES = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
"""What torchrun sets, and what one process alone has."""
BROKEN = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Timed out")
"""Words in torch's errors about a process that is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process among those of the run. One process alone needs no group and waits for nobody."""

    rank: int = 0
    """0 writes the run folder. Not stable over elastic restarts: nothing on disk is named by it."""
    size: int = 1
    local_rank: int = 0
    """Number on this machine; chooses the device."""
    control: Any = None
    """Process group of the short messages; None where there is one process."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def lead(self, work: Callable[[], Value]) -> Value:
        """What `work` gives in the first process, in all of them; its error is everyone's."""
        if self.size == 1:
            return work()
        parcel: list[Any] = [outcome_of(work) if self.leads else None]
        own = parcel[0]
        if own is not None and own[1] is not None:
            parcel = [(None, portable(own[1], 0))]
        dist.broadcast_object_list(parcel, src=0, group=self.control)
        value, error = parcel[0] if own is None else own
        if error is not None:
            raise error
        result: Value = value
        return result

    def together(self, work: Callable[[], Value]) -> Value:
        """Each process's own result of `work`, once all have one; an error of any is everyone's."""
        if self.size == 1:
            return work()
        value, error = outcome_of(work)
        told: list[Exception | None] = [None] * self.size
        dist.all_gather_object(
            told, None if error is None else portable(error, self.rank), group=self.control
        )
        first = next((rank for rank, one in enumerate(told) if one is not None), None)
        if first is not None:
            raise error if error is not None and first == self.rank else (told[first] or RuntimeError)
        result: Value = value
        return result

    def gather(self, work: Callable[[], Value]) -> list[Value]:
        """The results of all processes, by rank, in the first one; an empty list in the others."""
        value = self.together(work)
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.leads else None
        dist.gather_object(value, values, dst=0, group=self.control)
        return values or []

    def in_turn(self, work: Callable[[], Value]) -> Value:
        """Each process's own result of work that leaves a file behind: one of each machine goes first."""
        if self.size == 1:
            return work()
        results: list[Value] = []
        for is_turn in (self.local_rank == 0, self.local_rank != 0):
            self.together(lambda is_turn=is_turn: results.append(work()) if is_turn else None)  # type: ignore[misc]
        return results[0]

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        """Whether any process says yes, question by question."""
        if self.size == 1:
            return list(flags)
        votes = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self.control)
        return [bool(vote) for vote in votes.tolist()]

    def first_of(self, text: str | None) -> str | None:
        """The text of the first process that has one."""
        if self.size == 1:
            return text
        texts: list[str | None] = [None] * self.size
        dist.all_gather_object(texts, text, group=self.control)
        return next((one for one in texts if one is not None), None)

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        """The sums over all processes."""
        if self.size == 1:
            return list(counts)
        sums = torch.tensor(counts, dtype=torch.int64)
        dist.all_reduce(sums, group=self.control)
        return [int(count) for count in sums.tolist()]

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place of the tensor's values."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def agree_on(self, facts: Mapping[str, Any]) -> None:
        """Refuse to go on with processes that were started differently.

        Raises:
            UsageError: naming a fact that they do not share.
        """
        if self.size == 1:
            return
        known: list[Any] = [None] * self.size
        dist.all_gather_object(known, (socket.gethostname(), dict(facts)), group=self.control)
        for rank, (host, theirs) in enumerate(known):
            for name, value in known[0][1].items():
                if theirs[name] != value:
                    raise UsageError(
                        f"{name} is {theirs[name]!r} in process {rank} ({host}), but {value!r} in process 0 "
                        f"({known[0][0]}); start all with the same command, data and versions"
                    )

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the first one's buffers; running statistics of a batch norm are each one's own.

        Without it each would evaluate its photographs by statistics that nobody keeps.
        """
        if self.size == 1:
            return
        for buffer in model.buffers():
            # Not on the buffer itself: gloo and NCCL want dense memory.
            dense = buffer.detach().contiguous()
            dist.broadcast(dense, src=0)
            buffer.copy_(dense)


def outcome_of(work: Callable[[], Any]) -> Outcome:
    """What the work gave or how it failed; being killed is no outcome."""
    try:
        return work(), None
    except Exception as error:  # it is raised again, in every process
        return None, error


def portable(error: Exception, rank: int) -> Exception:
    """The error as another process can raise it; its own process is the one that says it."""
    if isinstance(error, GroundupError):
        told = type(error)(*error.args)
        told.is_told = True
        return told
    with contextlib.suppress(Exception):
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
        return error
    return RuntimeError(f"process {rank}: {type(error).__name__}: {error}")


def read_world(environment: Mapping[str, str] | None = None) -> World:
    """The place that torchrun's variables describe; one process where there are none. Nobody is joined.

    Raises:
        UsageError: a variable that is no whole number, or a rank that the world does not have.
    """
    source = os.environ if environment is None else environment
    values = {}
    for name, default in VARIABLES:
        text = source.get(name, str(default))
        if not text.isdecimal():
            raise UsageError(f"{name} is {text!r}, but torchrun sets it to a whole number; unset it")
        values[name] = int(text)
    if values["RANK"] >= values["WORLD_SIZE"]:
        raise UsageError(
            f"RANK is {values['RANK']}, but WORLD_SIZE is {values['WORLD_SIZE']}; start the processes "
            "with torchrun, or unset both"
        )
    return World(rank=values["RANK"], size=values["WORLD_SIZE"], local_rank=values["LOCAL_RANK"])


@contextlib.contextmanager
def joined(timeout: float = TIMEOUT) -> Iterator[World]:
    """Inside, the processes that torchrun started are one run; each has its own GPU where there are any.

    Args:
        timeout: seconds one waits for another before it counts as lost.

    Raises:
        UsageError: they cannot find one another, or a machine has fewer GPUs than processes.
        LostProcess: another process died or stopped answering; the newest checkpoint stands.
    """
    place = read_world()
    if place.size == 1:
        yield place
        return
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "nccl"
        if place.local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"LOCAL_RANK is {place.local_rank}, but this machine has {torch.cuda.device_count()} GPUs; "
                "start one process a GPU, or hide the GPUs with CUDA_VISIBLE_DEVICES="
            )
        torch.cuda.set_device(place.local_rank)
    wait = datetime.timedelta(seconds=timeout)
    try:
        dist.init_process_group(backend, timeout=wait)
        control = dist.new_group(backend="gloo", timeout=wait)
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"process {place.rank} of {place.size} cannot join the others: {first_line(error)}; start them "
            "with torchrun, which sets MASTER_ADDR and MASTER_PORT; --master-port names a free port"
        ) from None
    is_lost = False
    try:
        yield World(rank=place.rank, size=place.size, local_rank=place.local_rank, control=control)
    except RuntimeError as error:
        if not is_broken(error):
            raise
        is_lost = True
        raise LostProcess(
            f"process {place.rank} of {place.size} lost another one ({first_line(error)}); "
            "the same command goes on from the newest checkpoint"
        ) from None
    finally:
        # A group that broke is left as it is: taking it down could wait for the one that is gone.
        if not is_lost:
            dist.destroy_process_group()


def is_broken(error: RuntimeError) -> bool:
    """Whether torch says that a process is gone."""
    return isinstance(error, dist.DistError) or any(word in str(error) for word in BROKEN)


def first_line(error: Exception) -> str:
    """The first line of a message."""
    return (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")
