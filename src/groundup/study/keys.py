"""Names of a study's runs: they follow what a run is made of, by contents and not by paths."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from groundup.config import fingerprint, plain
from groundup.records import digest_of
from groundup.study.expansion import SCHEMES, StudyRun
from groundup.study.sharing import trunk_of
from groundup.study.study import PRETRAINING

KEY_DIGITS = 6
"""Hexadecimal digits in a run's key; arm, axes and seed are in it by name."""
NAME_CHARACTERS = 40
"""Of an arm or an axis value in a key: file systems allow 255 bytes in a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedData:
    """What a plan needs to know of a recipe's data."""

    num_train: int
    num_val: int
    train_digest: str
    val_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Data that are told by number, to plan for photographs that are not here."""

    num_train: int
    """Photographs of the whole training set."""
    num_val: int

    def opened(self, fraction: float, holdout: float | None = None, images: int | None = None) -> OpenedData:
        """A share or number of the data as if opened; with `holdout`, what a search's trials see of it."""
        train, val = images or max(1, round(fraction * self.num_train)), self.num_val
        if holdout is not None:
            val = max(1, round(holdout * train))
            train -= val
        return OpenedData(num_train=train, num_val=val, train_digest="counted", val_digest="counted")


def key_of(run: StudyRun, data: OpenedData, weights: Mapping[str | None, str | None]) -> str:
    """The run's folder name, which is a name anywhere; `weights` is what identifies each reference."""
    words = [*place_words(run.arm, run.point), f"seed-{run.seed}", digits_of(run, data, weights)]
    return "_".join(words)


def digits_of(run: StudyRun, data: OpenedData, weights: Mapping[str | None, str | None]) -> str:
    """Digits of all that the run's weights hang on."""
    values = trunk_of(plain(run.recipe))
    values["training"]["schedule"] = plain(run.recipe.training.schedule)
    values["data"] = {**values["data"], "train": data.train_digest, "val": data.val_digest}
    values["start"] = {**values["start"], "weights": weights[run.recipe.start.weights]}
    return fingerprint(values)[:KEY_DIGITS]


def place_words(arm: str, point: Mapping[str, Any]) -> list[str]:
    """An arm and values of axes as parts of a folder's name."""
    return [
        plain_name(arm),
        *(f"{path.rsplit('.', 1)[-1]}-{plain_name(value)}" for path, value in point.items()),
    ]


def plain_name(value: Any) -> str:
    """Letters, digits, points and hyphens of a value's text."""
    text = "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in str(value))
    return text.strip("-.")[:NAME_CHARACTERS] or "x"


def made_here(weights: str | None) -> str | None:
    """The study's pre-training that weights mean; None for others."""
    prefix = f"{PRETRAINING}:"
    return weights.removeprefix(prefix) if weights is not None and weights.startswith(prefix) else None


def weights_identity(reference: str | None, made: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What identifies weights before they are loaded: a digest, a library's name, the recipe that makes them.

    Raises:
        DataError: a file that is not there.
    """
    if reference is None:
        return None
    name = made_here(reference)
    if name is not None:
        return fingerprint({**made[name], "loader": None})
    if reference.partition(":")[0] in SCHEMES:
        return reference
    from groundup.models.weights import local_file

    return digest_of(local_file(reference))
