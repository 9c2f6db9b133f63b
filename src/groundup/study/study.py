"""A study as data: a question, its arms, what they are crossed with, and seeds, fixed before training.

Nothing here imports torch; recipes are resolved, late, by `groundup.study.expansion`.
"""

import re
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from groundup.config import Options, did_you_mean, differences, fingerprint, plain, read_tree, read_yaml
from groundup.data.regimes import share_of
from groundup.errors import UsageError
from groundup.records import read_json, write_json
from groundup.study.compare import Question, register_question
from groundup.study.publication import Publication
from groundup.study.search_options import SearchOptions, check_search

STUDY = "study.json"
"""The study as it was set down, in its folder."""
QUESTION = "question.json"
"""Its question, as `groundup.study.compare.register_question` writes it."""
RUNS = "runs"
"""Folder of the runs inside a study's folder."""
PRETRAINING = "pretraining"
"""Folder of the pre-training runs inside a study's folder, and the prefix of a start that is one of them."""
SEARCH = "search"
"""Folder of the trials of its search inside a study's folder, and the prefix of their keys."""
SCRATCH = "scratch"
"""The start that is none."""
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
"""Names that become folders: they need no escaping anywhere."""
MAX_NAME = 60
"""Characters of an arm's name, which stands in tables and figures."""
FUNCTION = "study"
"""Name of the function that a Python file describes its study with."""


class Price(Options):
    """What weights cost that were made elsewhere. A quantity that is not known is None, never 0."""

    images: float | None = None
    """Images seen in making them."""
    instances: float | None = None
    """Annotated instances in those; in classification one an image."""
    pixels: float | None = None
    """Pixels of those."""
    flops: float | None = None
    """Floating point operations, a multiply-add as two."""
    seconds: float | None = None
    """Wall clock."""
    kind: Literal["measured", "stated", "estimated", "unknown"] = "unknown"
    """How the numbers are known: by us, by who made the weights, by reckoning, or not."""
    source: str = ""
    """Where they come from."""
    downstream_uses: int = 1
    """Trainings that share the cost; 1 charges all of it to this one."""

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> "Price":
        """Refuse negative quantities, numbers of no origin and none that are said to be known."""
        known = {name: getattr(self, name) for name in ("images", "instances", "pixels", "flops", "seconds")}
        known = {name: value for name, value in known.items() if value is not None}
        for name, value in known.items():
            if value < 0:
                raise ValueError(f"{name} is {value}, but must not be negative")
        if known and self.kind == "unknown":
            raise ValueError(f"{', '.join(known)} given, so kind must be measured, stated or estimated")
        if known and not self.source:
            raise ValueError(f"{', '.join(known)} given without a source; say where the numbers come from")
        if self.downstream_uses < 1:
            raise ValueError(f"downstream_uses is {self.downstream_uses}, but must be at least 1")
        return self


class PretrainingOptions(Options):
    """A pre-training that the study carries out itself."""

    recipe: str
    """Name of a classifier recipe, or a YAML file."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Changes to it by dotted path."""


class Study(Options):
    """Arms crossed with axes and seeds, and the question that is asked of two of them."""

    name: str
    """What the study is called in messages, and its folder unless told otherwise."""
    question: Question
    """What is asked, of which arms, by which endpoint, margin and rule."""
    recipe: str
    """Name of the recipe that all arms begin with, or a YAML file."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Changes to it in all arms, by dotted path. Not `start`, which is the arms'."""
    arms: dict[str, dict[str, Any]]
    """Changes to it by arm. `start` is `scratch`, a weights file or `pretraining:NAME`."""
    axes: dict[str, list[Any]] = Field(default_factory=dict)
    """Values by dotted path that every arm is trained with, crossed."""
    seeds: list[int]
    """One training an arm and point for each."""
    pretraining: dict[str, PretrainingOptions] = Field(default_factory=dict)
    """Carried out first; an arm starts from one by `start: pretraining:NAME`."""
    prices: dict[str, Price] = Field(default_factory=dict)
    """What the weights cost that an arm starts from, where they were made elsewhere."""
    allow_equal_arms: bool = False
    """Whether arms may be the same (an A/A study); then every arm has seeds of its own."""
    search: SearchOptions | None = None
    """Options that trials find before the runs; None: nothing is searched."""
    published: Publication | None = None
    """Numbers that others have published about these arms, for the report to set beside its own."""

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_there(self, serialize: Callable[[Any], Any]) -> dict[str, Any]:
        """A study without these is written, and named by its fingerprint, as before there were any."""
        values: dict[str, Any] = serialize(self)
        for name in ("search", "published"):
            if getattr(self, name) is None:
                values.pop(name, None)
        return values

    @model_validator(mode="before")
    @classmethod
    def _count_seeds(cls, values: Any) -> Any:
        """The question plans as many seeds as the study lists, unless it says otherwise, which is refused."""
        if not isinstance(values, Mapping) or not isinstance(values.get("seeds"), list | tuple):
            return values
        question = values.get("question")
        count = {"num_seeds": len(values["seeds"])}
        if isinstance(question, Mapping) and "num_seeds" not in question:
            return {**values, "question": {**question, **count}}
        if isinstance(question, Question) and "num_seeds" not in question.model_fields_set:
            return {**values, "question": question.model_copy(update=count)}
        return values

    @field_validator("axes")
    @classmethod
    def _take_regimes(cls, axes: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The paper's data regimes may stand by name; they are kept as the shares they mean."""
        return {
            path: [share_of(value) for value in values] if path == "data.fraction" else values
            for path, values in axes.items()
        }

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        """The name is a folder's."""
        if not PLAIN_NAME.fullmatch(name):
            raise ValueError(f"{name!r} must be letters, digits, '.', '_' and '-', at most {MAX_NAME}")
        return name

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, seeds: list[int]) -> list[int]:
        """Seeds are given, different, and not negative."""
        if not seeds or len(set_of(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError(f"seeds are {seeds}, but must be different numbers from 0 on, at least one")
        return seeds

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> "Study":
        """Refuse a question about no arm, axes that are none, starts that do not exist."""
        for role in ("candidate", "reference"):
            arm = getattr(self.question, role)
            if arm not in self.arms:
                raise ValueError(
                    f"question.{role} is {arm!r}, which is no arm{did_you_mean(arm, [*self.arms])}"
                )
        if self.question.num_seeds != len(self.seeds):
            raise ValueError(
                f"question.num_seeds is {self.question.num_seeds}, but seeds lists {len(self.seeds)}"
            )
        check_arm_names(list(self.arms))
        check_axes(self.axes)
        for path in self.set:
            if path.split(".")[0] == "start":
                raise ValueError(f"set.{path}: a start belongs to an arm; write it under arms")
        places = {
            "set": self.set,
            "axes": self.axes,
            **{f"arms.{name}": arm for name, arm in self.arms.items()},
        }
        for place, changes in places.items():
            for path in changes:
                if path == "seed":
                    raise ValueError(f"{place}.seed: seeds are listed once, under seeds")
                if place != "axes" and path in self.axes:
                    raise ValueError(f"{place}.{path}: is an axis too; give it once")
        for name in self.pretraining:
            if not PLAIN_NAME.fullmatch(name):
                raise ValueError(f"pretraining.{name}: must be letters, digits, '.', '_' and '-'")
        for arm in self.arms:
            if (made := pretraining_of(self, arm)) is not None and made not in self.pretraining:
                raise ValueError(
                    f"arms.{arm}.start: no pretraining '{made}'{did_you_mean(made, list(self.pretraining))}"
                )
        for arm in self.prices:
            if arm not in self.arms:
                raise ValueError(f"prices.{arm}: no such arm{did_you_mean(arm, list(self.arms))}")
        for number in self.published.values if self.published is not None else []:
            if number.arm not in self.arms:
                raise ValueError(
                    f"published: no such arm {number.arm!r}{did_you_mean(number.arm, list(self.arms))}"
                )
        if self.search is not None:
            check_search(self.search, self.arms, self.axes)
        return self


def set_of(values: list[int]) -> frozenset[int]:
    """The different ones; `set` is a field's name where this is used."""
    return frozenset(values)


def check_arm_names(names: list[str]) -> None:
    """Refuse names that cannot stand in a table.

    Raises:
        ValueError: one does not.
    """
    for name in names:
        if not name.strip() or not name.isprintable() or len(name) > MAX_NAME:
            raise ValueError(f"arms: {name!r} is no name; at most {MAX_NAME} printable characters")


def check_axes(axes: Mapping[str, list[Any]]) -> None:
    """Refuse axes of nothing or with a value twice.

    Raises:
        ValueError: one is.
    """
    for path, values in axes.items():
        if path.split(".")[0] == "start":
            raise ValueError(f"axes.{path}: a start belongs to an arm; write it under arms")
        if not values:
            raise ValueError(f"axes.{path}: has no values")
        if any(value in values[:row] for row, value in enumerate(values)):
            raise ValueError(f"axes.{path}: {values} has a value twice")


def pretraining_of(study: Study, arm: str) -> str | None:
    """The name of the study's pre-training that an arm starts from; None where it starts from none."""
    for path in ("start", "start.weights"):
        value = study.arms[arm].get(path)
        if isinstance(value, str) and value.startswith(f"{PRETRAINING}:"):
            return value.removeprefix(f"{PRETRAINING}:")
    return None


def seeds_of(study: Study, arm: str) -> list[int]:
    """The seeds of an arm: the study's, so that arms are paired.

    Where arms may be equal they are shifted by arm, so that no two arms share one.
    """
    if not study.allow_equal_arms:
        return list(study.seeds)
    span = max(study.seeds) - min(study.seeds) + 1
    return [seed + list(study.arms).index(arm) * span for seed in study.seeds]


def read_study(source: Path | str) -> Study:
    """The study that a YAML file, a Python file or a study's folder describes.

    A Python file has a function `study()` that returns a Study; `FILE.py:NAME` names another.

    Raises:
        UsageError: one line with the file and the key that is wrong.
    """
    path = Path(source)
    if path.is_dir():
        return load_study(path)
    file, _, function = str(source).partition(".py:")
    if function or path.suffix == ".py":
        return call_study(Path(file + ".py") if function else path, function or FUNCTION)
    if path.suffix not in {".yaml", ".yml", ".json"}:
        raise UsageError(f"{source}: no study; give a .yaml or .py file, or a study's folder")
    try:
        return read_tree(Study, read_yaml(path))
    except UsageError as error:
        text = str(error).replace("a recipe is a mapping", "a study is a mapping")
        raise UsageError(text if text.startswith(f"{path}:") else f"{path}: {text}") from None


def call_study(path: Path, function: str) -> Study:
    """The study that a function of a Python file returns; the file is the user's own and is run.

    Raises:
        UsageError: no such file or function, or it does not return a study.
    """
    if not path.is_file():
        raise UsageError(f"{path}: cannot be read: no such file")
    try:
        names = runpy.run_path(str(path))
    except SyntaxError as error:
        raise UsageError(f"{path}: line {error.lineno}: {error.msg}") from None
    if not callable(names.get(function)):
        raise UsageError(f"{path}: has no function {function}() that returns a Study")
    found = names[function]()
    if not isinstance(found, Study):
        raise UsageError(f"{path}: {function}() returned {type(found).__name__}, not a Study")
    return found


def register_study(folder: Path, study: Study) -> str:
    """Set the study and its question down before training, once; the study's fingerprint.

    Beside the study stands the folder that its relative paths start from, the current one.

    Raises:
        UsageError: another study stands there, or one with another question.
    """
    if (folder / STUDY).exists():
        found = load_study(folder)
        name, was, now = changed_key(found, study)
        if name:
            raise UsageError(
                f"{folder / STUDY}: the study was set down before training and is not changed: "
                f"{name} is {was!r}, now {now!r}; give the new study a folder of its own (--out)"
            )
    register_question(folder / QUESTION, study.question)
    if not (folder / STUDY).exists():
        record = {"study": plain(study), "fingerprint": fingerprint(study), "directory": str(Path.cwd())}
        write_json(folder / STUDY, record)
    return fingerprint(study)


def load_study(folder: Path) -> Study:
    """The study that was set down in the folder.

    Raises:
        UsageError: there is none, or it was edited since.
    """
    if not (folder / STUDY).exists():
        raise UsageError(
            f"{folder}: is no study's folder ({STUDY} is missing); `groundup study run` makes one"
        )
    record = read_json(folder / STUDY)
    try:
        study = read_tree(Study, record["study"])
    except (UsageError, KeyError, TypeError) as error:
        raise UsageError(f"{folder / STUDY}: is not a study as it was set down: {error}") from None
    if record.get("fingerprint") != fingerprint(study):
        raise UsageError(
            f"{folder / STUDY}: was edited after it was set down; restore it, or begin a new study"
        )
    return study


def study_directory(folder: Path) -> Path:
    """The folder that relative paths in the study of this folder start from.

    Before it is set down, the current one.
    """
    if not (folder / STUDY).exists():
        return Path.cwd()
    return Path(read_json(folder / STUDY).get("directory", Path.cwd()))


def changed_key(first: Study, second: Study) -> tuple[str, Any, Any]:
    """The first key in which two studies differ, dotted, with both values; an empty key where they are equal.

    Order counts in none but lists.
    """
    before, after = plain(first), plain(second)
    for name, (was, now) in differences([before, after]).items():
        return name, was, now
    # An arm without changes has no leaf to differ in.
    names = dict.fromkeys([*before, *after])
    return next(
        ((name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)),
        ("", None, None),
    )
