"""Foreign checkpoints in: fetched, read, checked, under timm's names, with what is known about them.

A reference to weights is a path (.pth, .pt, .safetensors, or a run folder of ours), `timm:NAME`,
`torchvision:WEIGHTS` or `package:NAME` (an installed package that holds one weights file).
"""

import hashlib
import logging
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants as hub_constants
from torch import Tensor

from groundup.config import did_you_mean, one_line
from groundup.errors import DataError, UsageError
from groundup.models.detectron_names import NOTES, is_detectron, is_detectron2
from groundup.models.foreign_names import named_as_timm
from groundup.models.weight_files import newest_model, package_file, read_tensors
from groundup.records import digest_of, read_json

Colour = tuple[float, float, float]

IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)
"""Of RGB in 0..1. Source: torchvision, `references/classification/presets.py`."""
HALF: Colour = (0.5, 0.5, 0.5)
"""Mean and deviation that scale 0..1 to -1..1. Source: TensorFlow's EfficientNet-Lite."""

DETECTRON_MEAN: Colour = (122.7717 / 255, 115.9465 / 255, 102.9801 / 255)
"""Source: Detectron, `PIXEL_MEANS` (there BGR, of bytes)."""
DETECTRON2_MEAN: Colour = (123.675 / 255, 116.28 / 255, 103.53 / 255)
"""Source: Detectron2, `PIXEL_MEAN` (there BGR, of bytes)."""
BYTE_STD: Colour = (1 / 255, 1 / 255, 1 / 255)
"""Bytes left undivided. Source: Detectron; Detectron2's default `PIXEL_STD` of 1."""

BACKGROUNDS = ("__background__", "no person")
"""What torchvision's detectors call class 0; its Keypoint R-CNN the second."""
COUNTER = "num_batches_tracked"
"""Batch norm's counter: no weight, ignored on both sides."""
NO_WEIGHTS = (COUNTER, "_extra_state")
"""Ends of names of all that is no weight: also torch's extra state, as of a cascade that is off or on."""
RUN_RECIPE = "recipe.json"
"""The recipe of a run of ours, in its folder."""
RUN_RECORD = "record.json"
"""What else identifies it, the names of its classes among that."""
RUN_DEPTH = 2
"""Folders between a run and its tensors: RUN/checkpoints/STEP/model.safetensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known about weights beyond their tensors; None where it is not."""

    title: str
    """Which network, trained by whom."""
    mean: Colour | None = None
    """Of RGB in 0..1 that the network was trained with."""
    std: Colour | None = None
    top1: float | None = None
    """Published ImageNet-1k validation accuracy, percent."""
    other_stds: tuple[Colour, ...] = ()
    """Deviations that weights of this layout may have been trained with instead of `std`."""
    classes: tuple[str, ...] | None = None
    """Names of a detector's classes, in the order of its predictor."""
    notes: tuple[str, ...] = ()
    """What its user must know, one line each."""


KNOWN: dict[str, Facts] = {
    # Source of the accuracies: TensorFlow TPU repository, efficientnet/lite; torchvision 0.29,
    # MobileNet_V2_QuantizedWeights. Constants as each file's source trained it.
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db": Facts(
        title="EfficientNet-Lite0, TensorFlow", mean=HALF, std=HALF, top1=75.1
    ),
    "d92ae0dfdda5ae6e10872e155c83dde396177c24941e44d1e23c4160690188e6": Facts(
        title="MobileNetV2, torchvision, quantised and back, batch norm folded into the convolutions",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        top1=71.658,
    ),
    "c120a33b76804a128ca69d6ff1e8ccca3d31c17368a4009aae95c431de9edfd5": Facts(
        title="MobileNetV2 features", mean=IMAGENET_MEAN, std=IMAGENET_STD
    ),
}
"""Facts about files by the digest of their bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Tensors that came from outside, under timm's names."""

    source: str
    """The reference they were asked for by, made exact where it left a choice."""
    digest: str
    """SHA-256 of the file; of names and values where a library does not say which file it read."""
    facts: Facts
    tensors: dict[str, Tensor]
    """Those of the backbone and of what follows it in a classifier."""
    aside: dict[str, Tensor]
    """Those beside the backbone, under their own names: a detector's neck and heads, a momentum copy."""

    @property
    def has_running_statistics(self) -> bool:
        """Whether they come from a network with batch norm."""
        return any(name.endswith("running_mean") for name in self.tensors)


def load_weights(reference: str) -> Weights:
    """Fetch, read, check and rename weights.

    Raises:
        DataError: no such file, no network, no weights inside, or numbers that are not finite.
        UsageError: a name that the library does not know, or that leaves a choice.
    """
    kind, colon, name = reference.partition(":")
    if colon and kind == "timm":
        return from_timm(name)
    if colon and kind == "torchvision":
        return from_torchvision(name)
    return from_file(local_file(reference))


def facts_of(reference: str) -> Facts | None:
    """What is known about weights without fetching them; None where nothing is.

    Raises:
        DataError: a file that is not there.
        UsageError: a name that the library does not know, or that leaves a choice.
    """
    kind, colon, name = reference.partition(":")
    if colon and kind == "timm":
        return timm_facts(name)
    if colon and kind == "torchvision":
        return torchvision_facts(torchvision_weights(name))
    path = local_file(reference)
    return file_facts(path, digest_of(path)) or layout_facts(path, read_tensors(path))


def local_file(reference: str) -> Path:
    """The file a reference means: of a path, of a run folder, or of an installed package.

    Raises:
        DataError: there is none.
        UsageError: the package is not installed, or holds several.
    """
    kind, colon, name = reference.partition(":")
    if colon and kind == "package":
        return package_file(name)
    path = Path(reference).expanduser()
    if path.is_dir():
        return newest_model(path)
    if not path.is_file():
        import timm

        known = timm.is_model(reference)
        hint = (
            f"did you mean 'timm:{reference}'?" if known else "give a path, timm:NAME or torchvision:WEIGHTS"
        )
        raise DataError(f"{reference}: no such weights file; {hint}")
    return path


def from_file(path: Path) -> Weights:
    """Weights of one file."""
    digest = digest_of(path)
    found = read_tensors(path)
    tensors, aside = named_as_timm(found)
    facts = file_facts(path, digest) or layout_facts(path, found) or Facts(title=path.name)
    return checked(Weights(source=str(path), digest=digest, facts=facts, tensors=tensors, aside=aside))


def file_facts(path: Path, digest: str) -> Facts | None:
    """What is known about a file: by its digest, or, inside a run of ours, by the run's recipe."""
    run = path.resolve().parents[RUN_DEPTH] if len(path.resolve().parents) > RUN_DEPTH else path.parent
    if digest in KNOWN or not (run / RUN_RECIPE).is_file():
        return KNOWN.get(digest)
    start = read_json(run / RUN_RECIPE).get("start", {})
    mean, std = start.get("pixel_mean"), start.get("pixel_std")
    categories = read_json(run / RUN_RECORD).get("categories", []) if (run / RUN_RECORD).is_file() else []
    return Facts(
        title=f"run {run.name}",
        mean=mean and colour(mean),
        std=std and colour(std),
        classes=tuple(str(category["name"]) for category in categories) or None,
    )


def layout_facts(path: Path, tensors: Mapping[str, Tensor]) -> Facts | None:
    """What is known about a file by the names in it; None where that is nothing."""
    if is_detectron(tensors):
        return Facts(title=f"Detectron, {path.name}", mean=DETECTRON_MEAN, std=BYTE_STD, notes=NOTES)
    if not is_detectron2(tensors):
        return None
    mean, std = DETECTRON2_MEAN, BYTE_STD
    is_told = "pixel_mean" in tensors and "pixel_std" in tensors  # versions before 2020 kept them
    if is_told:
        mean, std = (rgb_of_bytes(tensors[name]) for name in ("pixel_mean", "pixel_std"))
    return Facts(
        title=f"Detectron2, {path.name}",
        mean=mean,
        std=std,
        other_stds=() if is_told else (IMAGENET_STD,),
        notes=NOTES,
    )


def rgb_of_bytes(bgr: Tensor) -> Colour:
    """Three numbers for blue, green and red bytes as those for red, green and blue in 0..1."""
    return colour([value / 255 for value in bgr.flatten().flip(0).tolist()])


def checked(weights: Weights) -> Weights:
    """The weights, if all their numbers are finite.

    Raises:
        DataError: naming the first tensor that holds another.
    """
    for name, tensor in (weights.tensors | weights.aside).items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise DataError(
                f"{weights.source}: {count} of {tensor.numel()} numbers of '{name}' are not finite; "
                "the file is damaged or its training diverged; use another"
            )
    return weights


def from_timm(name: str) -> Weights:
    """Pre-trained weights by timm's name, `resnet50` or `resnet50.a1_in1k`, fetched if need be."""
    import timm

    facts = timm_facts(name)
    with fetching(f"timm:{name}"):
        state = timm.create_model(name, pretrained=True).state_dict()
    return checked(
        Weights(
            source=f"timm:{facts.title}",
            digest=digest_of_tensors(state),
            facts=facts,
            tensors=state,
            aside={},
        )
    )


def timm_facts(name: str) -> Facts:
    """What timm says of its weights; the title tells which of several it means.

    Raises:
        UsageError: timm has no such weights.
    """
    import timm

    try:
        known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:
        known = None
    if known is None or not known.has_weights:
        raise UsageError(f"timm has no weights '{name}'{did_you_mean(name, timm.list_pretrained())}")
    title = f"{known.architecture}.{known.tag}" if known.tag else str(known.architecture)
    return Facts(title=title, mean=colour(known.mean), std=colour(known.std))


def from_torchvision(name: str) -> Weights:
    """Pre-trained weights by torchvision's name, `ResNet50_Weights.IMAGENET1K_V1`, fetched if need be."""
    chosen = torchvision_weights(name)
    with fetching(f"torchvision:{chosen}"):
        state = chosen.get_state_dict(progress=False, check_hash=True, weights_only=True)
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(chosen.url).name
    tensors, aside = named_as_timm(state)
    return checked(
        Weights(
            source=f"torchvision:{chosen}",
            digest=digest_of(path),
            facts=torchvision_facts(chosen),
            tensors=tensors,
            aside=aside,
        )
    )


def torchvision_weights(name: str) -> Any:
    """The member of a torchvision weights enumeration.

    Raises:
        UsageError: unknown, or a model's name where there are several weights: which is not ours to say.
    """
    from torchvision import models

    try:
        if "." in name:
            return models.get_weight(name)
        choices = list(models.get_model_weights(name))
    except (ValueError, AttributeError, KeyError):
        near = did_you_mean(name, models.list_models())
        raise UsageError(
            f"torchvision has no weights '{name}'{near or '; write them as ResNet50_Weights.IMAGENET1K_V1'}"
        ) from None
    if len(choices) != 1:
        raise UsageError(
            f"torchvision has {len(choices)} weights for '{name}': write torchvision:"
            f"{' or torchvision:'.join(str(choice) for choice in choices)}"
        )
    return choices[0]


def torchvision_facts(chosen: Any) -> Facts:
    """What torchvision says of its weights."""
    preset = chosen.transforms()
    metrics = chosen.meta.get("_metrics", {}).get("ImageNet-1K", {})
    return Facts(
        title=str(chosen),
        # Detection presets have no constants: there the model normalises, with ImageNet's.
        mean=colour(getattr(preset, "mean", IMAGENET_MEAN)),
        std=colour(getattr(preset, "std", IMAGENET_STD)),
        top1=metrics.get("acc@1"),
        classes=detector_classes(chosen.meta.get("categories", ())),
    )


def detector_classes(categories: Sequence[str]) -> tuple[str, ...] | None:
    """Names of a torchvision detector's classes without the background, which it has first; else None."""
    return tuple(categories[1:]) if categories and categories[0] in BACKGROUNDS else None


def colour(values: Sequence[float]) -> Colour:
    """Three numbers, red first."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue


@contextmanager
def fetching(what: str) -> Iterator[None]:
    """Turn whatever a download raises into one line, and keep its retries quiet.

    Raises:
        DataError: it failed.
    """
    log = logging.getLogger("huggingface_hub")
    level, offline = log.level, hub_constants.HF_HUB_OFFLINE
    log.setLevel(logging.CRITICAL)
    # Without a network the hub tries again for most of a minute; told so, it looks in its cache and is done.
    hub_constants.HF_HUB_OFFLINE = offline or not is_reachable(hub_constants.ENDPOINT)
    try:
        yield
    except Exception as error:  # libraries raise many kinds when there is no network
        raise DataError(
            f"{what}: cannot be fetched ({type(error).__name__}: {one_line(error)[:160]}); "
            "connect to the network, or fetch the file elsewhere and give its path"
        ) from None
    finally:
        log.setLevel(level)
        hub_constants.HF_HUB_OFFLINE = offline


def is_reachable(address: str) -> bool:
    """Whether the host of a web address can be found, or a proxy is there to find it."""
    if urllib.request.getproxies():
        return True
    try:
        return bool(socket.getaddrinfo(urllib.parse.urlsplit(address).hostname, 443))
    except OSError:
        return False


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
