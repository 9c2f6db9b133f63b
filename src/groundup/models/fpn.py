"""Feature pyramid: maps of one width at strides 4 to 64 from a backbone's maps.

Legend:
    B  images     C  channels, each level its own     D  channels of the pyramid
"""

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812 - the name the field uses
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from groundup.config import Options
from groundup.metering import part
from groundup.models.initialisation import InitKind
from groundup.models.layers import ConvBlock
from groundup.models.norm import NormKind

LAST_STRIDE_FACTOR = 2
"""P6 is every second cell of P5. Source: FPN (Lin et al., 2017), footnote 2; paper.md 4."""


class FPNOptions(Options):
    """The neck between backbone and heads."""

    channels: int = Field(256, ge=1)
    """Width of every level of the pyramid."""
    norm: NormKind = "gn"
    """Norm after the lateral and output convolutions; they have a bias only without one."""


class FPN(nn.Module):
    """Feature pyramid network.

    Source: FPN (Lin et al., 2017), section 3; norms as in paper.md 1.1.
    """

    def __init__(self, options: FPNOptions, channels: Sequence[int], init: InitKind) -> None:
        """Begin with lateral and output convolutions for maps of the given widths, finest first."""
        super().__init__()
        self.channels = options.channels
        self.laterals = nn.ModuleList(
            ConvBlock(width, self.channels, 1, options.norm, init=init, part="fpn", has_relu=False)
            for width in channels
        )
        self.outputs = nn.ModuleList(
            ConvBlock(self.channels, self.channels, 3, options.norm, init=init, part="fpn", has_relu=False)
            for _ in channels
        )

    @part("FPN")
    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B D _ _"]]:
        """P2 to P6 from C2 to C5, finest first."""
        laterals = [lateral(level) for lateral, level in zip(self.laterals, maps, strict=True)]
        for fine in range(len(laterals) - 2, -1, -1):
            coarse = F.interpolate(laterals[fine + 1], size=laterals[fine].shape[-2:], mode="nearest")
            laterals[fine] = laterals[fine] + coarse
        pyramid = [output(level) for output, level in zip(self.outputs, laterals, strict=True)]
        return [*pyramid, F.max_pool2d(pyramid[-1], kernel_size=1, stride=LAST_STRIDE_FACTOR)]
