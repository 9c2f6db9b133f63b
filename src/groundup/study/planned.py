"""A plan as data: runs, pre-trainings and searches, how they are written and read. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from groundup.errors import UsageError
from groundup.records import read_json, write_json
from groundup.study.results import PLAN
from groundup.study.search_results import WINNERS


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """One training: an arm at one point of the axes with one seed."""

    key: str
    """Name of its folder under `runs/`: arm, values of the axes, seed, digits of its identity."""
    arm: str
    point: dict[str, Any]
    """Value of each axis by dotted path."""
    seed: int
    total_images: int
    """Images it sees, those of its trunk included."""
    drops: tuple[int, ...]
    """Images seen from which on each drop of the rate holds, rising."""
    warmup: int
    """Images of the warm-up."""
    unit_images: int
    """Images of one unit."""
    parent: str | None
    """Key of the run whose trunk it shares; None where it begins by itself."""
    branch_images: int
    """Images taken over from the parent; 0 without one."""
    own_images: int
    """Images that are trained for it alone: the total without the branch's."""
    num_train: int
    """Photographs of its training set."""
    num_val: int
    """Photographs it is evaluated on."""
    num_evaluations: int
    """Evaluations it makes itself."""
    pretraining: str | None
    """The study's pre-training that it starts from."""
    recipe: dict[str, Any]
    """Plain resolved recipe; a start from the study's own pre-training is `pretraining:NAME` in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingPlan:
    """One pre-training of the study."""

    name: str
    total_images: int
    num_train: int
    num_val: int
    num_evaluations: int
    recipe: dict[str, Any]
    """Plain resolved recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """One search: an arm at one value of the repeated axes."""

    arm: str
    place: dict[str, Any]
    """Value of each repeated axis."""
    point: dict[str, Any]
    """Value of every axis but lengths, as trials are trained with."""
    base: dict[str, Any]
    """The base recipe's own values of what is searched."""
    num_trials: int
    num_train: int
    """Photographs that a trial learns from."""
    num_val: int
    """Photographs that a trial is judged on."""
    trials: tuple[RunPlan, ...]
    """Those that are known; with optuna others follow from these. The values tried stand in `point`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything a study carries out."""

    runs: tuple[RunPlan, ...]
    """In the order of the study: arms, points, seeds."""
    pretraining: tuple[PretrainingPlan, ...]
    searches: tuple[SearchPlan, ...] = ()
    """Carried out before the runs."""
    is_open: bool = False
    """Whether the search goes on: then the runs stand here with the base recipe's own values in place of
    those that will win, their keys will be others, and none of them is begun."""
    commands: tuple[str, ...] = ()
    """What carries the study out, line by line, for the report."""

    @property
    def shared_images(self) -> int:
        """Images to train, pre-training left out, where what is equal is trained once."""
        return sum(run.own_images for run in self.runs)

    @property
    def unshared_images(self) -> int:
        """The same run by run."""
        return sum(run.total_images for run in self.runs)

    @property
    def trials(self) -> tuple[RunPlan, ...]:
        """The trials of all searches that are known."""
        return tuple(trial for search in self.searches for trial in search.trials)

    def run(self, key: str) -> RunPlan:
        """The run or trial of that key."""
        return next(run for run in (*self.runs, *self.trials) if run.key == key)

    def branches_of(self, key: str) -> tuple[RunPlan, ...]:
        """The runs that share this one's trunk, those that leave it first first."""
        found = [run for run in self.runs if run.parent == key]
        return tuple(sorted(found, key=lambda run: run.branch_images))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "runs": [asdict(run) for run in self.runs],
            "pretraining": [asdict(one) for one in self.pretraining],
            "searches": [asdict(search) for search in self.searches],
            "is_open": self.is_open,
            "commands": list(self.commands),
            "shared_images": self.shared_images,
            "unshared_images": self.unshared_images,
        }


def write_plan(folder: Path, plan: Plan) -> None:
    """Write plan.json.

    Raises:
        UsageError: other runs stand there: data or weights have changed since the study was begun.
    """
    path = folder / PLAN
    if path.exists():
        before = read_json(path)
        was = {trial["key"] for search in before.get("searches", ()) for trial in search["trials"]}
        now = {trial.key for trial in plan.trials}
        was_open = before.get("is_open", False)
        if plan.is_open and not was_open:
            raise UsageError(f"{folder / WINNERS}: is gone; restore it, or begin a new study")
        if not was_open:
            was |= {str(run["key"]) for run in before.get("runs", ())}
            now |= {run.key for run in plan.runs}
        # Trials follow one another and runs follow the search: while it goes on more may come.
        if was - now or (now - was and not was_open):
            gone, new = min(was - now, default="nothing"), min(now - was, default="nothing")
            raise UsageError(
                f"{path}: data or weights have changed since the study was begun (it plans {gone}, "
                f"now it would be {new}); restore them, or begin a new study"
            )
    write_json(path, plan.to_json())


def read_plan(folder: Path) -> Plan:
    """The plan that was written.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    path = folder / PLAN
    if not path.exists():
        raise UsageError(f"{folder}: has no {PLAN}; `groundup study run` writes it")
    values = read_json(path)
    try:
        return Plan(
            runs=read_runs(values["runs"]),
            pretraining=tuple(PretrainingPlan(**one) for one in values["pretraining"]),
            searches=tuple(
                SearchPlan(**{**search, "trials": read_runs(search["trials"])})
                for search in values.get("searches", ())
            ),
            is_open=values.get("is_open", False),
            commands=tuple(values["commands"]),
        )
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path}: damaged: {error}; remove it and run `groundup study run` again") from None


def read_runs(entries: Sequence[Mapping[str, Any]]) -> tuple[RunPlan, ...]:
    """Runs as plan.json has them."""
    return tuple(RunPlan(**{**run, "drops": tuple(run["drops"])}) for run in entries)
