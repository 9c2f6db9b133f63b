"""Gradients added up over processes, in buckets of fixed content and order, while backward runs.

Each process leaves its part of the gradient of the whole batch's loss in its parameters
(`shares.Share.weight` is in it already), so a plain sum is the gradient that one process would have computed.
A parameter without a gradient in one process counts as zero there; without one in all it stays without, so
that the optimizer leaves it alone as it would in one process.

Written here and not left to DistributedDataParallel, which wraps the model's `forward`, divides by the number
of processes, and either fails or searches the graph where parts of a model are not used.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from groundup.engine.distributed import World

BUCKET_BYTES = 25 * 2**20
"""Gradients sent in one message. Source: DistributedDataParallel, `bucket_cap_mb`."""


@dataclass(slots=True, eq=False)
class Bucket:
    """Parameters whose gradients travel together."""

    parameters: list[nn.Parameter]
    missing: int = 0
    """Gradients of this pass that are not there yet."""
    flat: Tensor | None = None
    """On its way, once sent."""
    work: Any = None

    def send(self, group: Any) -> None:
        """Begin to add up."""
        self.flat = torch.cat(
            [
                (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1)  # a view where it can be
                for p in self.parameters
            ]
        )
        self.work = dist.all_reduce(self.flat, group=group, async_op=True)

    def receive(self, counts: Sequence[int]) -> None:
        """Put the sums back; `counts` says in how many processes each parameter has a gradient."""
        assert self.flat is not None, "sent before"
        self.work.wait()
        parts = self.flat.split([p.numel() for p in self.parameters])
        for parameter, part, count in zip(self.parameters, parts, counts, strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(part.view_as(parameter))
            elif count:
                # It lies in memory as the parameter does: fused kernels walk both in one order.
                parameter.grad = torch.empty_like(parameter).copy_(part.view_as(parameter))
        self.flat = self.work = None


class GradientSum:
    """Adds up the gradients of all processes; does nothing in one."""

    def __init__(self, model: nn.Module, parameters: Sequence[nn.Parameter], world: World) -> None:
        """Sort the parameters into buckets, last ones first, as backward reaches them.

        Joint batch norms send messages of their own during backward, and two streams of messages must
        never cross differently in two processes: with them, gradients wait until backward is over.
        """
        self._world = world
        self._buckets = fill_buckets(parameters) if world.size > 1 else []
        self._overlaps = not any(isinstance(part, nn.SyncBatchNorm) for part in model.modules())
        self._is_last, self._num_sent = False, 0
        # The gradients' own group: their messages overtake nothing that the model sends.
        self._group = dist.new_group() if world.size > 1 else None
        if self._overlaps:
            for bucket in self._buckets:
                for parameter in bucket.parameters:
                    parameter.register_post_accumulate_grad_hook(self._arrived(bucket))

    def _arrived(self, bucket: Bucket) -> Any:
        def hook(_parameter: Tensor) -> None:
            if self._is_last:
                bucket.missing -= 1
                self._send(only_complete=True)

        return hook

    def _send(self, *, only_complete: bool) -> None:
        """Send buckets in their order, so that all processes send alike whatever arrives first."""
        while self._num_sent < len(self._buckets):
            bucket = self._buckets[self._num_sent]
            if only_complete and bucket.missing:
                return
            bucket.send(self._group)
            self._num_sent += 1

    @contextlib.contextmanager
    def last_pass(self) -> Iterator[None]:
        """The step's last backward pass runs inside: gradients that are complete leave at once."""
        self._num_sent = 0
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)
        self._is_last = True
        try:
            yield
        finally:
            self._is_last = False

    def finish(self) -> None:
        """Wait until every parameter has the sum of its gradients."""
        if not self._buckets:
            return
        self._send(only_complete=False)
        has_one = [int(p.grad is not None) for bucket in self._buckets for p in bucket.parameters]
        counts = iter(self._world.sum_counts(has_one))
        for bucket in self._buckets:
            bucket.receive([next(counts) for _ in bucket.parameters])


def fill_buckets(parameters: Sequence[nn.Parameter]) -> list[Bucket]:
    """Buckets of at most so many bytes (or one parameter) and one kind of number each, from the last on."""
    buckets: list[Bucket] = []
    filled = 0
    for parameter in reversed(parameters):
        size = parameter.numel() * parameter.element_size()
        is_new = not buckets or filled + size > BUCKET_BYTES
        if is_new or buckets[-1].parameters[0].dtype != parameter.dtype:
            buckets.append(Bucket(parameters=[]))
            filled = 0
        buckets[-1].parameters.append(parameter)
        filled += size
    return buckets
