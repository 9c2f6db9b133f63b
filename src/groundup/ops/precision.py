"""Of which precision numbers are from which losses and boxes are made."""

import torch
from jaxtyping import Float
from torch import Tensor


def in_full_precision(values: Float[Tensor, "*v"]) -> Float[Tensor, "*v"]:
    """The values in float32, or in float64 where they are that: half precision is for layers alone.

    float64 is for laws that rounding would hide.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))
