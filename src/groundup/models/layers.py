"""The block the necks and heads are made of: convolution, norm, ReLU.

Legend:
    B  images or RoIs     C, D  channels in and out     H, W  size of the map
"""

from jaxtyping import Float
from torch import Tensor, nn

from groundup.models.initialisation import InitKind, Part, initialise
from groundup.models.norm import NormKind, build_norm


class ConvBlock(nn.Sequential):
    """Convolution that keeps the size, norm, and ReLU where asked for.

    The convolution has a bias only without a norm, which would take it away again.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        norm: NormKind,
        *,
        init: InitKind,
        part: Part,
        has_relu: bool,
    ) -> None:
        """Begin with the first weights that `init` gives to layers of the part."""
        conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=norm == "none")
        initialise(conv, init, part)
        # Norm and ReLU are one layer, that what computes them in one go finds them together.
        activation = nn.ReLU(inplace=True) if has_relu else None
        super().__init__(conv, build_norm(norm, channels_out, activation=activation))

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:  # noqa: A002
        """The map after the layers."""
        output: Tensor = super().forward(input)
        return output
