"""Pickles of Detectron and Detectron2, read without running what they ask for.

A pickle is a program: it names functions, and reading calls them. Here it may name only what rebuilds arrays
of numbers; anything else is refused before it is looked up.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from groundup.config import one_line
from groundup.errors import DataError

NUMBER_KINDS = "fiu"
"""numpy's kinds of floating point, signed and unsigned numbers."""
PYTHON_2 = "latin1"
"""How Detectron's pickles, written by Python 2, spell bytes. Source: Detectron2, `DetectionCheckpointer`."""
CORES = ("numpy.core", "numpy._core")
"""Where numpy keeps what rebuilds arrays, before and since 2.0."""


def read_pickle(path: Path) -> Any:
    """The nested mapping inside, arrays of numbers as tensors.

    Raises:
        DataError: damaged, or it asks for anything but arrays and plain data.
    """
    try:
        with path.open("rb") as file:
            payload = ArraysOnly(file, path).load()
    except DataError:
        raise
    except Exception as error:  # damaged bytes make pickle raise nearly anything
        raise DataError(
            f"{path}: damaged pickle: {type(error).__name__}: {one_line(error)[:120]}; fetch it again"
        ) from None
    return with_tensors(payload)


class ArraysOnly(pickle.Unpickler):
    """An unpickler that knows arrays, numbers, text, lists and mappings, and nothing else."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        """Read from the open file; the path is for messages."""
        super().__init__(file, encoding=PYTHON_2)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """What the pickle names, if it is harmless.

        Raises:
            DataError: it is not.
        """
        known = harmless().get((module, name))
        if known is None:
            raise DataError(
                f"{self.path}: asks to run '{module}.{name}' while it is read, which is refused; "
                "only arrays are read: convert the file to .safetensors where you trust it"
            )
        return known


def harmless() -> dict[tuple[str, str], Callable[..., Any]]:
    """What a pickle of arrays may name."""
    multiarray, numeric = import_module("numpy._core.multiarray"), import_module("numpy._core.numeric")
    known: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): bytes_of,
    }
    for core in CORES:
        known[f"{core}.multiarray", "_reconstruct"] = multiarray._reconstruct
        known[f"{core}.multiarray", "scalar"] = multiarray.scalar
        known[f"{core}.numeric", "_frombuffer"] = numeric._frombuffer
    return known


def bytes_of(text: str, encoding: str) -> bytes:
    """Bytes that a pickle of Python 2's protocol spells as text, in the one encoding it uses for that."""
    if encoding != PYTHON_2:
        raise ValueError(f"bytes spelled in {encoding}")
    return text.encode(PYTHON_2)


def with_tensors(node: Any) -> Any:
    """The same mappings with tensors in the place of arrays of numbers."""
    if isinstance(node, Mapping):
        return {key: with_tensors(value) for key, value in node.items()}
    if isinstance(node, np.ndarray) and node.dtype.kind in NUMBER_KINDS:
        return as_tensor(node)
    return node


def as_tensor(array: np.ndarray) -> Tensor:
    """The array's numbers in this machine's byte order, in memory of their own."""
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
