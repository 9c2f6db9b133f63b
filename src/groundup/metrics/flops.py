"""What goes on the bill of a step: images, instances, pixels of a batch, and operations as they happen."""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from groundup.metrics.exposure import Exposure
from groundup.structures import Batch


def exposure_of(batch: Batch, *, flops: int = 0, seconds: float = 0.0) -> Exposure:
    """The bill of one step on the batch. Call it before the batch moves to a GPU: it reads numbers."""
    sizes = batch.sizes.to(torch.int64)
    return Exposure(
        images=batch.num_images,
        instances=int((batch.labels >= 0).sum()),
        pixels=int((sizes[:, 0] * sizes[:, 1]).sum()),
        flops=flops,
        seconds=seconds,
    )


def count_flops(step: Callable[[], object]) -> int:
    """Floating point operations of one call of `step`, a multiply-add as two.

    Counted are matrix products, convolutions and attention, forward and backward, recomputation
    included; this is what `torch.utils.flop_counter` knows. RoIAlign, NMS, normalisation, pointwise
    work and the optimizer are not counted. The call is real: run it on a copy if it changes weights.
    """
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())
