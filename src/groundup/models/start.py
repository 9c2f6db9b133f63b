"""Where training begins: random numbers or weights, and what of them stays frozen.

`start` is the one thing in which the arms of the central question differ, so nothing about it is guessed:
what does not fit is an error, and `load_start` reports what became of every tensor.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from groundup.config import Options
from groundup.errors import DataError, UsageError
from groundup.models.backbone import NUM_STAGES, Backbone, BackboneOptions
from groundup.models.borrowed_layers import class_note, classifier_layers, rows_by_class
from groundup.models.load_report import LoadReport, Outcome, TensorReport
from groundup.models.norm import BatchNorm, FrozenBatchNorm, GroupNorm, NormKind, SyncBatchNorm
from groundup.models.weights import (
    COUNTER,
    IMAGENET_MEAN,
    IMAGENET_STD,
    NO_WEIGHTS,
    Colour,
    Facts,
    Weights,
    facts_of,
    load_weights,
)

LEAST_PERCENT = 90.0
"""Share of the backbone that weights must fill: below it they are another network's."""
COLOUR_TOLERANCE = 1e-3
"""Largest difference at which two normalisation constants count as the same (0.485 and 0.4850)."""
STATISTICS_NORMS: tuple[NormKind, ...] = ("bn", "syncbn", "frozen_bn")
"""Norms that need the running statistics of a network with batch norm."""
NORM_CLASSES = (GroupNorm, BatchNorm, SyncBatchNorm, FrozenBatchNorm)
TAKEN: tuple[Outcome, ...] = ("loaded", "reshaped", "by class")
"""Outcomes after which a tensor of the model holds numbers of the weights."""
EXAMPLES = 3
"""Names shown in a message about many tensors."""


class StartOptions(Options):
    """Where weights begin, and which of them never move."""

    weights: str | None = None
    """A file (.pth, .pt, .safetensors, or .pkl of Detectron and Detectron2), a run folder, timm:NAME,
    torchvision:WEIGHTS, or package:NAME; null begins with random numbers."""
    digest: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """SHA-256 the weights must have; null accepts any. The path does not identify weights, this does."""
    part: Literal["backbone", "all"] = "backbone"
    """backbone: load it alone, as from a classifier, of which a box head that fits also takes fc6 and fc7
    (a VGG's); all: also the neck and heads, from a detector: a run of ours, torchvision's, Detectron2's."""
    frozen_stages: int = Field(default=0, ge=0, le=NUM_STAGES)
    """Stages that do not learn, counted from the stem; 2 (stem and res2) is the usual fine-tuning."""
    allow_norm_mismatch: bool = False
    """Of weights trained with another norm, load the convolutions only; norms begin with gamma 1, beta 0."""
    pixel_mean: Colour = IMAGENET_MEAN
    """Subtracted from RGB in 0..1 (a byte over 255). It follows the weights."""
    pixel_std: Colour = IMAGENET_STD
    """Divides RGB in 0..1 after the mean is taken off. It follows the weights."""

    @model_validator(mode="after")
    def check_whole(self) -> "StartOptions":
        """Refuse a start that could not mean what it says."""
        if self.weights is None and self.frozen_stages > 0:
            raise ValueError(
                f"start.frozen_stages is {self.frozen_stages}, but random weights must not be frozen: "
                "set start.weights, or start.frozen_stages=0"
            )
        only_with_weights = {
            "digest": self.digest is not None,
            "part=all": self.part == "all",
            "allow_norm_mismatch": self.allow_norm_mismatch,
        }
        for name, is_set in only_with_weights.items():
            if self.weights is None and is_set:
                raise ValueError(
                    f"start.{name} speaks of weights, but start.weights is null: set it, or drop this"
                )
        if min(self.pixel_std) <= 0:
            raise ValueError(f"start.pixel_std is {self.pixel_std}: each must be above 0")
        if max(self.pixel_mean) > 1 or max(self.pixel_std) > 1:
            raise ValueError(
                f"start.pixel_mean {self.pixel_mean} and pixel_std {self.pixel_std} are in 0..1: "
                "divide constants of bytes by 255"
            )
        return self


def check_start(start: StartOptions, backbone: BackboneOptions) -> None:
    """Refuse a start and a backbone that together could not mean what they say.

    Raises:
        ValueError: frozen batch norm on random weights.
    """
    if start.weights is None and backbone.norm == "frozen_bn":
        raise ValueError(
            "model.backbone.norm is frozen_bn, but there are no statistics to freeze in random weights: "
            "set start.weights, or a norm that learns (gn, syncbn)"
        )


def normalisation_of(weights: str | None) -> tuple[Colour, Colour] | None:
    """(mean, std) of RGB in 0..1 that weights were trained with; None where it is not known.

    Raises:
        DataError, UsageError: as `weights.facts_of`.
    """
    facts = facts_of(weights) if weights is not None else None
    return (facts.mean, facts.std) if facts and facts.mean and facts.std else None


def load_start(model: nn.Module, start: StartOptions, classes: Sequence[str] | None = None) -> LoadReport:
    """Put the start's weights into the model and freeze what it says, or leave it as it is for scratch.

    Args:
        model: a `Backbone`, or a model that has one in its attribute `backbone`.
        start: checked against the model's backbone before anything is changed.
        classes: names of a detector's classes; with part=all, and where the weights know the names of theirs,
            predictors are taken over class by class.

    Raises:
        DataError: the weights cannot be read, have another digest, fill less than 90 % of the backbone, or
            leave a tensor random that would be frozen.
        UsageError: their norm, or the constants they were trained with, are not those of the recipe.
    """
    backbone = backbone_of(model)
    check_start(start, backbone.options)
    if start.weights is None:
        return LoadReport(source="scratch", digest=None, title=None, top1=None, frozen_stages=0, tensors=())
    weights = load_weights(start.weights)
    check_weights(weights, start, backbone)
    plan = [*match_backbone(model, backbone, weights), *match_rest(model, backbone, weights, start.part)]
    notes = weights.facts.notes
    theirs = weights.facts.classes if start.part == "all" else None
    if classes is not None and theirs is not None and list(classes) != list(theirs):
        plan = [by_class(match, classes, theirs) for match in plan]
        notes = (*notes, class_note(classes, theirs))
    report = LoadReport(
        source=weights.source,
        digest=weights.digest,
        title=weights.facts.title,
        top1=weights.facts.top1,
        frozen_stages=start.frozen_stages,
        tensors=tuple(line for line, _, _ in plan),
        notes=notes,
    )
    check_share(report, weights, backbone)
    check_frozen(report, model, backbone)
    backbone.freeze(start.frozen_stages)
    with torch.no_grad():
        for line, target, tensor in plan:
            if target is not None and tensor is not None and line.outcome in TAKEN:
                target.copy_(tensor.reshape(target.shape))
    return report


def backbone_of(model: nn.Module) -> Backbone:
    """The model's backbone, which may be the model itself."""
    backbone = model if isinstance(model, Backbone) else getattr(model, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise TypeError(f"{type(model).__name__} has no backbone to load weights into")
    return backbone


def check_weights(weights: Weights, start: StartOptions, backbone: Backbone) -> None:
    """Refuse weights other than those named, or trained under another norm or other constants.

    Raises:
        DataError: another digest.
        UsageError: another norm, or other constants.
    """
    if start.digest is not None and weights.digest != start.digest:
        raise DataError(
            f"{weights.source}: has sha256 {weights.digest}, but start.digest is {start.digest}; "
            "give the file that was meant, or drop start.digest"
        )
    check_norm(weights, start, backbone)
    check_constants(weights.facts, start)


def check_norm(weights: Weights, start: StartOptions, backbone: Backbone) -> None:
    """Refuse weights trained under another norm, unless that is allowed by name."""
    norm = backbone.options.norm
    has = weights.has_running_statistics
    if has == (norm in STATISTICS_NORMS) or start.allow_norm_mismatch:
        return
    theirs, way = ("with", "norm=frozen_bn or norm=bn") if has else ("without", "norm=gn")
    raise UsageError(
        f"norm mismatch: {weights.source} was trained {theirs} batch norm, but model.backbone.norm is "
        f"{norm}; use {way}, weights that fit, or start.allow_norm_mismatch=true (loads only convolutions)"
    )


def check_constants(facts: Facts, start: StartOptions) -> None:
    """Refuse normalisation constants other than those the weights were trained with."""
    for name, theirs, others, ours in (
        ("pixel_mean", facts.mean, (), start.pixel_mean),
        ("pixel_std", facts.std, facts.other_stds, start.pixel_std),
    ):
        if theirs and not any(is_same_colour(ours, known) for known in (theirs, *others)):
            right = ",".join(map(str, theirs))
            raise UsageError(
                f"start.{name} is {list(ours)}, but {facts.title} was trained with {list(theirs)}; "
                f"set start.{name}=[{right}]"
            )


def is_same_colour(first: Colour, second: Colour) -> bool:
    """Whether two constants differ by no more than their printed digits."""
    return max(abs(a - b) for a, b in zip(first, second, strict=True)) <= COLOUR_TOLERANCE


Match = tuple[TensorReport, Tensor | None, Tensor | None]
"""What becomes of a tensor, the model's, and the one from the weights."""


def match_backbone(model: nn.Module, backbone: Backbone, weights: Weights) -> Iterator[Match]:
    """What becomes of each tensor of the backbone, and of each of the weights that it lacks."""
    prefix = "" if model is backbone else "backbone."
    norms_differ = weights.has_running_statistics != (backbone.options.norm in STATISTICS_NORMS)
    norm_names = {
        f"{name}.{leaf}"
        for name, module in backbone.body.named_modules()
        if isinstance(module, NORM_CLASSES)
        for leaf in module.state_dict()
    }
    found = {name: tensor for name, tensor in weights.tensors.items() if not name.endswith(COUNTER)}
    used = set()
    for name, target in backbone.body.state_dict(keep_vars=True).items():
        if name.endswith(COUNTER):
            continue
        theirs = name if name in found else timm_name(name)
        used.add(theirs)
        tensor = found.get(theirs)
        is_kept = norms_differ and name in norm_names
        yield matched(f"{prefix}body.{name}", target, tensor, is_kept=is_kept, in_backbone=True)
    state = model.state_dict(keep_vars=True) if model is not backbone else {}
    for name, theirs, tensor in classifier_layers(state, found):
        used.add(theirs)
        yield borrowed(name, state[name], tensor)
    for name, tensor in found.items():
        if name not in used:
            yield matched(name, None, tensor, in_backbone=False)


def match_rest(
    model: nn.Module, backbone: Backbone, weights: Weights, part: Literal["backbone", "all"]
) -> Iterator[Match]:
    """What becomes of the tensors beside the backbone, in the model and in the weights."""
    if part == "backbone":
        for name, tensor in weights.aside.items():
            yield outside(name, tensor), None, tensor
        return
    mine = {id(tensor) for tensor in backbone.state_dict(keep_vars=True).values()}
    rest: Mapping[str, Tensor] = {
        name: target
        for name, target in model.state_dict(keep_vars=True).items()
        if id(target) not in mine and not name.endswith(NO_WEIGHTS)
    }
    for name, target in rest.items():
        yield matched(name, target, weights.aside.get(name), in_backbone=False)
    for name, tensor in weights.aside.items():
        if name not in rest and not name.endswith(NO_WEIGHTS):
            yield matched(name, None, tensor, in_backbone=False)


def matched(
    name: str, target: Tensor | None, tensor: Tensor | None, *, in_backbone: bool, is_kept: bool = False
) -> Match:
    """What becomes of one tensor, from what the model has and what the weights have."""
    shape = None if target is None else tuple(target.shape)
    found = None if tensor is None else tuple(tensor.shape)
    outcome: Outcome
    if shape is None:
        outcome = "unexpected"
    elif is_kept:
        outcome = "kept"
    elif found is None:
        outcome = "missing"
    elif shape == found:
        outcome = "loaded"
    elif [side for side in shape if side != 1] == [side for side in found if side != 1]:
        outcome = "reshaped"  # a linear layer as a 1x1 convolution
    else:
        outcome = "wrong shape"
    line = TensorReport(name=name, outcome=outcome, shape=shape, found=found, in_backbone=in_backbone)
    return line, target, tensor


def borrowed(name: str, target: Tensor, tensor: Tensor) -> Match:
    """What becomes of a tensor of a head that a classifier's layer fills."""
    outcome: Outcome = "loaded" if target.shape == tensor.shape else "reshaped"
    shape, found = tuple(target.shape), tuple(tensor.shape)
    line = TensorReport(name=name, outcome=outcome, shape=shape, found=found, in_backbone=False)
    return line, target, tensor


def by_class(match: Match, ours: Sequence[str], theirs: Sequence[str]) -> Match:
    """The same, or, of a predictor's tensor, the rows of the classes that both name."""
    line, target, tensor = match
    if target is None or tensor is None:
        return match
    filled = rows_by_class(line.name, target, tensor, ours, theirs)
    return match if filled is None else (replace(line, outcome="by class"), target, filled)


def outside(name: str, tensor: Tensor) -> TensorReport:
    """The report of a tensor that was not asked for."""
    return TensorReport(
        name=name, outcome="outside", shape=None, found=tuple(tensor.shape), in_backbone=False
    )


def timm_name(name: str) -> str:
    """Give the name of a tensor before timm joined its first two levels to cut the model for features."""
    return re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", name)


def check_share(report: LoadReport, weights: Weights, backbone: Backbone) -> None:
    """Refuse weights of another network.

    Raises:
        DataError: they fill less than 90 % of the backbone; says what is missing and what was found instead.
    """
    if report.percent >= LEAST_PERCENT:
        return
    lacking = [tensor.name for tensor in report.of("missing", "wrong shape") if tensor.in_backbone]
    raise DataError(
        f"{weights.source}: fills {report.percent:.1f} % of backbone {backbone.options.name}, "
        f"at least {LEAST_PERCENT:.0f} % are needed: {len(lacking)} tensors are missing or of another shape "
        f"({', '.join(lacking[:EXAMPLES])}), it holds {', '.join(list(weights.tensors)[:EXAMPLES])}; "
        "choose weights of this backbone, or change model.backbone.name"
    )


def check_frozen(report: LoadReport, model: nn.Module, backbone: Backbone) -> None:
    """Refuse to freeze what the weights did not fill.

    Raises:
        DataError: naming the tensors.
    """
    state = model.state_dict(keep_vars=True)
    fixed = {id(t) for stage in backbone.stages[: report.frozen_stages] for m in stage for t in tensors_of(m)}
    fixed |= {id(t) for m in backbone.modules() if isinstance(m, FrozenBatchNorm) for t in m.buffers()}
    unfilled = [t.name for t in report.of("missing", "wrong shape", "kept") if id(state.get(t.name)) in fixed]
    if unfilled:
        raise DataError(
            f"{report.source}: {len(unfilled)} tensors that would be frozen are not in the weights "
            f"({', '.join(unfilled[:EXAMPLES])}): random numbers must not be frozen; "
            "lower start.frozen_stages, or choose weights and a norm that fit"
        )


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, those of inner modules included."""
    return [*module.parameters(), *module.buffers()]
