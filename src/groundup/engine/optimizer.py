"""The optimizer: which parameters learn how, clipping, averaged weights, and its state as named tensors."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from groundup.config import Options
from groundup.errors import CheckpointError, UsageError

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Layers whose parameters count as a norm's. `_NormBase` covers batch, sync-batch and instance norms."""
DETECTRON_BIAS_LR = 2.0
"""Source: Detectron, `modeling/optimizer.py`: the gradient of every bias (a norm's too) is doubled."""


class OptimizerOptions(Options):
    """How gradients become steps. Rates and their schedule are `schedule`'s."""

    name: Literal["sgd", "adamw"] = "sgd"
    """`sgd` is the paper's, with momentum; `adamw` decouples the decay."""
    momentum: float = 0.9
    """SGD's momentum. The rate multiplies the velocity when it is applied, which is what Detectron's
    rescaling of its momentum at a drop amounts to. Source: He et al. (2019), section 3."""
    nesterov: bool = False
    """Whether SGD looks ahead."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's averaging. Source: Kingma and Ba (2015), section 2."""
    weight_decay: float = 1e-4
    """Source: He et al. (2019), section 3."""
    preset: Literal["detectron", "detectron2", "torchvision"] = "detectron"
    """What published systems do with biases and norms. `detectron`: every bias at twice the rate, no
    decay on biases and norms. `detectron2`: no decay on norms, biases like weights. `torchvision`: decay
    on everything."""
    clip: Literal["none", "norm", "value"] = "none"
    """Bound on the gradient: none (the paper), its L2 norm over all parameters, or each element."""
    clip_at: float | None = None
    """The bound; only with `clip`."""
    ema_decay: float | None = None
    """Keep an exponential average of the weights, with this decay a step, and evaluate that; None: none."""

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> "OptimizerOptions":
        """Refuse values outside their range and a bound without a use."""
        if (self.clip == "none") != (self.clip_at is None):
            raise ValueError(f"clip is {self.clip!r} and clip_at is {self.clip_at}; give both or neither")
        if self.clip_at is not None and self.clip_at <= 0:
            raise ValueError(f"clip_at is {self.clip_at}, but must be above 0")
        for name in ("momentum", "ema_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} is {value}, but must lie in 0 .. 1, 1 excluded")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay is {self.weight_decay}, but must not be negative")
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs name=sgd and a momentum above 0")
        return self


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name; frozen ones and second names of a shared one are left out."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def norm_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters that belong to norm layers."""
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, NORMS)
        for name, _ in module.named_parameters(recurse=False)
    }


def parameter_rules(model: nn.Module, options: OptimizerOptions) -> dict[str, tuple[float, float]]:
    """For each trained parameter the factor on the learning rate and the weight decay.

    Source: Detectron `modeling/optimizer.py`; Detectron2 `solver/build.py` (`WEIGHT_DECAY_NORM` 0, no rule
    for biases); torchvision `references/detection/train.py` (no rule at all).
    """
    norms = norm_parameters(model)
    rules = {}
    for name in trained_parameters(model):
        is_bias = name.rsplit(".", 1)[-1] == "bias"
        scale, decay = 1.0, options.weight_decay
        if options.preset == "detectron" and is_bias:
            scale, decay = DETECTRON_BIAS_LR, 0.0
        elif options.preset != "torchvision" and name in norms:
            decay = 0.0
        rules[name] = (scale, decay)
    return rules


def build_optimizer(
    model: nn.Module, options: OptimizerOptions, *, is_unread: bool = False
) -> torch.optim.Optimizer:
    """The optimizer over the parameters that learn, one group for each rule; rates are set by `apply_lr`.

    Args:
        model: where it will train.
        options: of the optimizer.
        is_unread: steps are taken before their losses are read: on a GPU everything that they hang on, rate
            included, then lies there, and one kernel takes the step or leaves it.

    Raises:
        UsageError: nothing in the model learns.
    """
    parameters = trained_parameters(model)
    if not parameters:
        raise UsageError("no parameter of the model learns: all are frozen; lower start.frozen_stages")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, rule in parameter_rules(model, options).items():
        groups.setdefault(rule, []).append(parameters[name])
    described = [
        {"params": members, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), members in groups.items()
    ]
    device = next(iter(parameters.values())).device
    fused = True if is_unread and device.type == "cuda" else None
    optimizer: torch.optim.Optimizer
    if options.name == "adamw":
        optimizer = torch.optim.AdamW(described, lr=0.0, betas=options.betas, fused=fused)
    else:
        momentum, nesterov = options.momentum, options.nesterov
        optimizer = torch.optim.SGD(described, lr=0.0, momentum=momentum, nesterov=nesterov, fused=fused)
    if fused:
        for group in optimizer.param_groups:
            group["lr"] = torch.zeros((), device=device)
    return optimizer


def is_fused(optimizer: torch.optim.Optimizer) -> bool:
    """Whether one kernel takes the whole step, and looks itself whether to."""
    return bool(optimizer.defaults.get("fused"))


def apply_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every group: `lr` times the group's own factor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr * group["lr_scale"])
        else:
            group["lr"] = lr * group["lr_scale"]


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Float[Tensor, ""]:
    """L2 norm over all gradients; not finite when any gradient is not."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def clip_gradients(
    parameters: Sequence[nn.Parameter], norm: Float[Tensor, ""], options: OptimizerOptions
) -> None:
    """Bound the gradients in place as the options say; `norm` is their `gradient_norm`."""
    if options.clip == "norm" and options.clip_at is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, options.clip_at, norm)
    elif options.clip == "value" and options.clip_at is not None:
        torch.nn.utils.clip_grad_value_(parameters, options.clip_at)


def build_average(model: nn.Module, options: OptimizerOptions) -> AveragedModel | None:
    """The averaged copy of the model (buffers too), or None where none is asked for."""
    if options.ema_decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(options.ema_decay), use_buffers=True)


@torch.no_grad()
def update_average(average: AveragedModel, model: nn.Module) -> None:
    """Move the average by a step, to the same bits as its own `update_parameters`.

    That one copies its count of steps to the weights' device every time, for which a GPU is waited for.
    """
    assert average.multi_avg_fn is not None, "it was built with one"
    alike: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for own, new in zip(tensors_of(average.module), tensors_of(model), strict=True):
        owns, news = alike.setdefault(own.dtype, ([], []))
        owns.append(own)
        news.append(new)
    is_first = int(average.n_averaged) == 0
    for owns, news in alike.values():
        if is_first:
            torch._foreach_copy_(owns, news)
        else:
            average.multi_avg_fn(owns, news, average.n_averaged)
    average.n_averaged += 1


def tensors_of(model: nn.Module) -> Iterator[Tensor]:
    """All parameters, then all buffers."""
    yield from model.parameters()
    yield from model.buffers()


def state_items(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """The optimizer's tensors under `parameter.name.key`; what it keeps is named, never numbered."""
    for name, parameter in trained_parameters(model).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                yield f"{name}.{key}", value


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors by parameter name and key, e.g. `fpn.inner.0.weight.momentum_buffer`."""
    return dict(state_items(model, optimizer))


def load_optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_state` gave.

    Raises:
        CheckpointError: a tensor for a parameter that the model does not train, or of another shape.
    """
    parameters = trained_parameters(model)
    for full_name, value in tensors.items():
        name, key = full_name.rsplit(".", 1)
        parameter = parameters.get(name)
        if parameter is None or value.shape not in (parameter.shape, torch.Size([])):
            found = "no such trained parameter" if parameter is None else f"shape {tuple(parameter.shape)}"
            raise CheckpointError(
                f"optimizer state '{full_name}' of shape {tuple(value.shape)} does not fit: {found}"
            )
        # A scalar is AdamW's step counter, which torch keeps on the CPU unless the step is one kernel; the
        # rest lives with its parameter, and lies in memory as it does: fused kernels walk both in one order.
        is_counter = value.dim() == 0 and parameter.dim() > 0
        if is_counter:
            placed = value.to(parameter.device if is_fused(optimizer) else "cpu", copy=True)
        else:
            placed = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
        optimizer.state[parameter][key] = placed
