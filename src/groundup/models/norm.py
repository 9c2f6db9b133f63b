"""The layers that follow a convolution: one table of norms, gamma 1 and beta 0 in all of them.

The last gamma of a residual block is never zeroed: Detectron does not do so, and a comment in
Detectron2 reports that it hurts GroupNorm from scratch (paper.md 1.2).

Legend:
    B  images or RoIs      C  channels      H, W  height and width of the feature map
"""

from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

NormKind = Literal["gn", "syncbn", "bn", "frozen_bn", "none"]
"""gn: group norm; syncbn: batch norm with statistics over all processes; bn: over one process;
frozen_bn: a fixed scale and shift, only for a start with weights; none: nothing."""

NUM_GROUPS = 32
"""Source: Detectron, `GROUP_NORM.NUM_GROUPS`; Group Normalization (Wu & He, 2018), section 4."""
MIN_GROUP_SIZE = 2
"""Fewest channels in a group: the smallest group of the paper's systems (64 channels in 32 groups). One
channel in a group would be instance norm, which forgets how strong a channel is."""
GN_EPS = 1e-5
"""Source: Detectron, `GROUP_NORM.EPSILON`."""
BN_EPS = 1e-5
"""Source: Detectron and torch; TensorFlow's mobile models have 1e-3 and bring it along."""
BN_MOMENTUM = 0.1
"""Share of the newest batch in the running statistics. Source: torch."""
INIT_RULE = "gamma 1, beta 0"


def num_groups(channels: int) -> int:
    """Groups of a group norm: 32, or fewer where the channels do not allow it.

    The largest divisor of the channels that is at most 32 and leaves two channels a group. Every ResNet and
    FPN width gives 32; narrow layers of mobile networks give fewer (16 -> 8, 24 -> 12, 32 -> 16, 40 -> 20).
    """
    most = max(1, min(NUM_GROUPS, channels // MIN_GROUP_SIZE))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


class GroupNorm(nn.GroupNorm):
    """Group norm of `num_groups(channels)` groups, then the activation if there is one.

    Source: Group Normalization (Wu & He, 2018).
    """

    init_rule = INIT_RULE

    def __init__(self, channels: int, activation: nn.Module | None = None) -> None:
        """Begin with gamma 1 and beta 0."""
        super().__init__(num_groups(channels), channels, eps=GN_EPS)
        self.activation = activation

    def forward(self, input: Float[Tensor, "B C *space"]) -> Float[Tensor, "B C *space"]:  # noqa: A002
        """Each image normalised by its own statistics."""
        normed = super().forward(input)
        return normed if self.activation is None else self.activation(normed)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of one process, then the activation if there is one.

    Of no image or RoI it makes nothing, and its running statistics stay; torch's own would refuse.
    """

    init_rule = INIT_RULE

    def __init__(
        self,
        channels: int,
        activation: nn.Module | None = None,
        *,
        eps: float = BN_EPS,
        momentum: float | None = BN_MOMENTUM,
    ) -> None:
        """Begin with gamma 1, beta 0, mean 0 and variance 1."""
        super().__init__(channels, eps=eps, momentum=momentum)
        self.activation = activation

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:  # noqa: A002
        """The batch normalised by its statistics, in evaluation by the running ones."""
        if self.training and len(input) == 0:
            # Gamma and beta keep their place in the graph: their gradients are zeros.
            normed = torch.addcmul(self.bias.view(1, -1, 1, 1), input, self.weight.view(1, -1, 1, 1))
        else:
            normed = super().forward(input)
        return normed if self.activation is None else self.activation(normed)


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch norm over the images of all processes, then the activation if there is one.

    In a single process, and outside a process group, it is plain batch norm. In several, torch's own
    computes on GPUs and `joint_batch_norm` elsewhere. A process without an image or RoI takes part with a
    count of zero; where there is none at all, nothing changes.
    """

    init_rule = INIT_RULE

    def __init__(
        self,
        channels: int,
        activation: nn.Module | None = None,
        *,
        eps: float = BN_EPS,
        momentum: float | None = BN_MOMENTUM,
    ) -> None:
        """Begin with gamma 1, beta 0, mean 0 and variance 1."""
        super().__init__(channels, eps=eps, momentum=momentum)
        self.activation = activation

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:  # noqa: A002
        """The batch normalised by its statistics, in evaluation by the running ones."""
        if self.training and (num_processes() > 1 or len(input) == 0):
            is_torchs = input.device.type == "cuda" and num_processes() > 1
            normed = super().forward(input) if is_torchs else joint_batch_norm(input, self)
        else:
            normed = _BatchNorm.forward(self, input)
        return normed if self.activation is None else self.activation(normed)


class FrozenBatchNorm(nn.Module):
    """Batch norm whose statistics, gamma and beta never change, then the activation if there is one.

    All four are buffers under batch norm's own names, so its weights load into it; `eps` stays what the
    weights were trained with. One fused multiply-add: 1.1 to 1.6 times the speed of torchvision's
    (peers.md 7).

    Source: Detectron, `AffineChannel`.
    """

    init_rule = "fixed: by the loaded weights"

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, activation: nn.Module | None = None, *, eps: float = BN_EPS) -> None:
        """Begin as (almost) the identity, until weights are loaded."""
        super().__init__()
        self.num_features = channels
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.activation = activation

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The feature map scaled and shifted channel by channel."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        scale = scale.to(images.dtype).view(1, -1, 1, 1)
        shift = shift.to(images.dtype).view(1, -1, 1, 1)
        normed = torch.addcmul(shift, images, scale)
        return normed if self.activation is None else self.activation(normed)

    def extra_repr(self) -> str:
        """Channels and eps, as other norms print them."""
        return f"{self.num_features}, eps={self.eps}"


def build_norm(
    kind: NormKind,
    channels: int,
    *,
    activation: nn.Module | None = None,
    eps: float = BN_EPS,
    momentum: float | None = BN_MOMENTUM,
) -> nn.Module:
    """The layer that follows a convolution of so many channels.

    Args:
        kind: which; see `NormKind`.
        channels: of the convolution's output.
        activation: applied last; part of the norm so that fused norm-and-activation layers of a backbone
            keep the names of their weights. None for none.
        eps: of the batch norms; group norm always has 1e-5.
        momentum: share of the newest batch in the running statistics; None averages all batches.
    """
    match kind:
        case "gn":
            return GroupNorm(channels, activation)
        case "syncbn":
            return SyncBatchNorm(channels, activation, eps=eps, momentum=momentum)
        case "bn":
            return BatchNorm(channels, activation, eps=eps, momentum=momentum)
        case "frozen_bn":
            return FrozenBatchNorm(channels, activation, eps=eps)
        case "none":
            return nn.Identity() if activation is None else activation


def joint_batch_norm(images: Float[Tensor, "B C H W"], norm: nn.SyncBatchNorm) -> Float[Tensor, "B C H W"]:
    """The batch normalised by the statistics of all processes' batches; the running ones follow them."""
    assert norm.running_mean is not None, "SyncBatchNorm tracks its statistics"
    assert norm.running_var is not None, "as above"
    normed: Tensor
    normed, mean, squares, count = JointBatchNorm.apply(images, norm.weight, norm.bias, norm.eps)
    total = int(count)
    if total:
        assert norm.num_batches_tracked is not None, "as above"
        norm.num_batches_tracked.add_(1)
        momentum = norm.momentum
        share = 1.0 / float(norm.num_batches_tracked) if momentum is None else momentum
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
        # Source: torch keeps the unbiased variance.
        norm.running_var.lerp_((squares / max(total - 1, 1)).to(norm.running_var.dtype), share)
    return normed


class JointBatchNorm(torch.autograd.Function):
    """Batch norm by the statistics of all processes, forward and backward, on any device.

    Each process brings a count, a mean and a sum of squares about it; they are joined in float64, which
    keeps two processes as close to one as one is to itself with its images in another order.

    Source: Chan, Golub and LeVeque (1979) for joining; Ioffe and Szegedy (2015), section 3, for the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The normed images; mean, sum of squares about it and count over all processes."""
        values = images.transpose(0, 1).flatten(1).double()
        own_count = values.new_full((1,), values.shape[1])
        own_mean = values.sum(dim=1) / own_count.clamp(min=1)
        own_squares = (values - own_mean[:, None]).square().sum(dim=1)
        parts = gathered(torch.cat([own_count, own_mean, own_squares]))
        counts, means, squares = parts.split([1, len(own_mean), len(own_mean)], dim=1)
        count = counts.sum()
        mean = (counts * means).sum(dim=0) / count.clamp(min=1)
        total = (squares + counts * (means - mean).square()).sum(dim=0)
        scale = (total / count.clamp(min=1) + eps).rsqrt()
        ctx.save_for_backward(images, weight, mean, scale, count)
        normed = (values - mean[:, None]) * (scale * weight)[:, None] + bias[:, None]
        ctx.mark_non_differentiable(mean, total, count)
        return unflattened(normed, images), mean, total, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of the images by all processes' losses, of gamma and beta by this one's."""
        images, weight, mean, scale, count = ctx.saved_tensors
        incoming = gradients[0].transpose(0, 1).flatten(1).double()
        standard = (images.transpose(0, 1).flatten(1).double() - mean[:, None]) * scale[:, None]
        own_bias, own_weight = incoming.sum(dim=1), (incoming * standard).sum(dim=1)
        sums = gathered(torch.stack([own_bias, own_weight])).sum(dim=0) / count.clamp(min=1)
        centred = incoming - sums[0][:, None] - standard * sums[1][:, None]
        of_images = unflattened(centred * (scale * weight)[:, None], images)
        return of_images, own_weight.to(weight.dtype), own_bias.to(weight.dtype), None


def unflattened(values: Tensor, like: Tensor) -> Tensor:
    """Rows of channels back in the form, type and memory format of a batch."""
    batch, channels, *space = like.shape
    formed = values.view(channels, batch, *space).transpose(0, 1)
    return torch.empty_like(like).copy_(formed)


def gathered(values: Tensor) -> Tensor:
    """The tensor of every process, stacked in their order, which makes sums the same in all of them."""
    if num_processes() == 1:
        return values[None]
    parts = [torch.empty_like(values) for _ in range(num_processes())]
    dist.all_gather(parts, values)
    return torch.stack(parts)


def num_processes() -> int:
    """Processes that train together; 1 outside a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
