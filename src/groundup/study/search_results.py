"""What a study's trials came to, which of them won, and why: read from its folder. No torch.

Scores are 0 .. 1 here, as runs log them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from groundup.config import did_you_mean, fingerprint, plain
from groundup.errors import CheckpointError, DivergedError, UsageError
from groundup.records import Log, read_json, write_json
from groundup.study.results import FAILURE, LOG, PLAN, RESULT, state_of
from groundup.study.search_options import SearchOptions, winning_arm
from groundup.study.study import SEARCH, Study, load_study

WINNERS = "search.json"
"""What won, in a study's folder, written once when every trial has ended."""

TrialState: TypeAlias = Literal["missing", "partial", "done", "diverged", "failed"]
"""As of a run; `diverged` is an outcome of the values tried, `failed` a fault that is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """One trial as far as it has come."""

    key: str
    """`search:` and its folder below the search's."""
    values: dict[str, Any]
    """What it tried, by dotted path."""
    state: TrialState
    score: float | None
    """The metric at its end; None before it, and where it is undefined."""
    images: int
    """Seen so far."""
    failure: str | None

    @property
    def is_settled(self) -> bool:
        """Whether its outcome stands."""
        return self.state in {"done", "diverged"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """One search: an arm at one value of the repeated axes."""

    arm: str
    place: dict[str, Any]
    """Value of each repeated axis."""
    base: dict[str, Any]
    """The base recipe's own values of what is searched."""
    num_trials: int
    """Planned."""
    num_train: int
    """Photographs that a trial learns from."""
    num_val: int
    """Photographs that a trial is judged on."""
    trials: tuple[TrialResult, ...]
    """Those that are known; with optuna others follow from these."""
    winner: str | None
    """Key of the trial that won; None while the study's search goes on."""
    why: str
    """Why it won; empty without a winner."""

    @property
    def is_complete(self) -> bool:
        """Whether every trial has ended."""
        return len(self.trials) == self.num_trials and all(one.is_settled for one in self.trials)


@dataclass(frozen=True, slots=True)
class Winners:
    """The values that won, for all arms at all points."""

    search: SearchOptions
    values: Mapping[str, Mapping[str, Any]]
    """By `search_identity`."""

    def values_for(self, arm: str, point: Mapping[str, Any]) -> dict[str, Any]:
        """What an arm's runs at a point of the axes are trained with."""
        place = {path: point[path] for path in self.search.repeat_for}
        return dict(self.values[search_identity(winning_arm(self.search, arm), place)])


def search_identity(arm: str, place: Mapping[str, Any]) -> str:
    """Names one search of a study."""
    return fingerprint({"arm": arm, "place": dict(place)})


def trial_path(folder: Path, key: str) -> Path:
    """The folder of a trial by its key."""
    return folder / SEARCH / key.removeprefix(f"{SEARCH}:")


def is_trial(key: str) -> bool:
    """Whether the key is a trial's."""
    return key.startswith(f"{SEARCH}:")


def is_diverged(folder: Path) -> bool:
    """Whether the run in the folder ended because its loss left the finite numbers."""
    path = folder / FAILURE
    return path.exists() and read_json(path).get("exit_code") == DivergedError.exit_code


def has_diverged(folder: Path, key: str) -> bool:
    """Whether the key is of a trial of this study that diverged, which is an outcome."""
    return is_trial(key) and is_diverged(trial_path(folder, key))


def read_trial(folder: Path, key: str, values: Mapping[str, Any], metric: str) -> TrialResult:
    """A trial of the study in the folder; it need not have begun.

    Raises:
        UsageError: its evaluation knows no such metric.
    """
    path = trial_path(folder, key)
    records = list(Log(path / LOG).read())
    state, failure = state_of(path)
    score = None
    if state == "done":
        evaluations = [record for record in records if record["kind"] == "evaluation"]
        metrics = evaluations[-1]["metrics"] if evaluations else read_json(path / RESULT)["metrics"]
        if metric not in metrics:
            raise UsageError(
                f"search.metric: {metric} is no metric of {path}{did_you_mean(metric, list(metrics))}"
            )
        score = None if metrics[metric] is None else float(metrics[metric])
    return TrialResult(
        key=key,
        values=dict(values),
        state="diverged" if state == "failed" and is_diverged(path) else state,
        score=score,
        images=max((int(record["images_seen"]) for record in records), default=0),
        failure=failure,
    )


def read_searches(folder: Path) -> tuple[SearchResult, ...]:
    """Every search of the study in the folder as far as it has come; none where none is planned.

    Raises:
        UsageError: the folder is no study's.
        CheckpointError: a file of ours is damaged.
    """
    study = load_study(folder)
    if study.search is None or not (folder / PLAN).exists():
        return ()
    won = {entry["identity"]: entry for entry in winner_entries(folder, study)}
    return tuple(search_of(folder, entry, study.search.metric, won) for entry in planned_searches(folder))


def planned_searches(folder: Path) -> list[dict[str, Any]]:
    """The searches of plan.json as it has them; none without a plan."""
    return list(read_json(folder / PLAN).get("searches", ())) if (folder / PLAN).exists() else []


def search_of(
    folder: Path, entry: Mapping[str, Any], metric: str, won: Mapping[str, Mapping[str, Any]]
) -> SearchResult:
    """One search of plan.json.

    Raises:
        CheckpointError: the entry lacks what a search must have.
    """
    try:
        winner = won.get(search_identity(entry["arm"], entry["place"]), {})
        return SearchResult(
            arm=entry["arm"],
            place=dict(entry["place"]),
            base=dict(entry["base"]),
            num_trials=int(entry["num_trials"]),
            num_train=int(entry["num_train"]),
            num_val=int(entry["num_val"]),
            trials=tuple(
                read_trial(folder, trial["key"], trial["point"], metric) for trial in entry["trials"]
            ),
            winner=winner.get("winner"),
            why=winner.get("why", ""),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / PLAN}: damaged search {entry!r:.80}: {error!r}; `groundup study run` writes it anew"
        ) from None


def choose_winner(search: SearchResult, metric: str) -> tuple[TrialResult, str]:
    """The trial with the highest score and why; among equal ones that which changes least, then the first.

    Raises:
        UsageError: no trial has a score.
    """
    scored = [(trial.score, trial) for trial in search.trials if trial.score is not None]
    if not scored:
        raise UsageError(
            f"search: no trial of {search.arm} has a {metric}: all diverged or found nothing; "
            "begin a new study with another space, or longer trials"
        )
    best = max(score for score, _ in scored)
    equal = [trial for score, trial in scored if score == best]

    def num_changed(trial: TrialResult) -> int:
        """Options that the trial changes in the base recipe."""
        return sum(trial.values[path] != search.base[path] for path in trial.values)

    winner = min(equal, key=num_changed)
    why = f"highest {metric} ({best:.4f}) of {len(search.trials)} trials"
    if len(equal) > 1:
        nearest = "the base recipe" if num_changed(winner) == 0 else "nearest to the base recipe"
        why = f"{why}; {len(equal)} trials are equal, and it is {nearest}"
    return winner, why


def conclude_search(folder: Path) -> bool:
    """Write search.json if every trial has ended; whether it has.

    Raises:
        UsageError: a search has no winner.
    """
    study = load_study(folder)
    searches = read_searches(folder)
    assert study.search is not None, "asked of studies that search"
    if not all(search.is_complete for search in searches):
        return False
    entries = []
    for search in searches:
        winner, why = choose_winner(search, study.search.metric)
        entries.append(
            {
                "identity": search_identity(search.arm, search.place),
                "arm": search.arm,
                "place": search.place,
                "winner": winner.key,
                "values": winner.values,
                "why": why,
                "base": search.base,
                "trials": [asdict(trial) for trial in search.trials],
            }
        )
    record = {"search": plain(study.search), "fingerprint": fingerprint(study), "searches": entries}
    write_json(folder / WINNERS, record | {"notes": search_notes(study)})
    return True


def winner_entries(folder: Path, study: Study) -> list[dict[str, Any]]:
    """The searches of search.json; none while there is none.

    Raises:
        CheckpointError: it belongs to another study.
    """
    path = folder / WINNERS
    if not path.exists():
        return []
    record = read_json(path)
    if record.get("fingerprint") != fingerprint(study):
        raise CheckpointError(f"{path}: belongs to another study; restore it, or begin a new study")
    return list(record["searches"])


def read_winners(folder: Path, study: Study) -> Winners | None:
    """What won; None where nothing is searched or the search has not ended.

    Raises:
        CheckpointError: the record is damaged or of another study.
    """
    if study.search is None or not (folder / WINNERS).exists():
        return None
    try:
        values = {entry["identity"]: entry["values"] for entry in winner_entries(folder, study)}
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / WINNERS}: damaged: {error!r}") from None
    return Winners(study.search, values)


def search_notes(study: Study) -> list[str]:
    """What a reader of the verdict must know of how the options were searched; nothing without a search."""
    search = study.search
    if search is None:
        return []
    notes = []
    if search.judged_on == "validation":
        notes.append(
            "the search judged its trials on the validation photographs that the verdict is of, so the "
            "searched arms look better there than they are"
        )
    if search.arm is not None:
        others = ", ".join(arm for arm in study.arms if winning_arm(search, arm) != arm)
        alone = f"{search.arm} alone" if not search.also else search.arm
        if others:
            notes.append(
                f"options were searched on {alone} and carried over to {others}, which they may suit less"
            )
        if search.also:
            notes.append(
                f"{', '.join(search.also)} had a search alone, under the same budget, which the arms that "
                "carry over had not"
            )
    return notes


def protocol_lines(search: SearchOptions) -> Iterator[str]:
    """Where, over what and how long is searched, for reading."""
    where = "each arm by itself, the same budget"
    if search.arm is not None:
        rest = "all" if not search.also else f"all but {', '.join(search.also)}, searched alone besides"
        where = f"{search.arm}, carried over to {rest}"
    length = f"{search.units:g} units" if search.units is not None else f"{search.images:,} images"
    judge = (
        f"{100 * search.holdout:.3g} % of the training photographs, held out of the trials"
        if search.judged_on == "holdout"
        else "the validation photographs that the verdict is of"
    )
    yield f"{search.method} over {', '.join(search.space)}: {where}"
    yield f"{search.trials_each} trials of {length} a search, seed {search.seed}; {search.metric} on {judge}"
    if search.repeat_for:
        yield f"made anew for each value of {', '.join(search.repeat_for)}"


def scores_of(trials: Sequence[TrialResult]) -> list[tuple[dict[str, Any], float | None]]:
    """Values and score of trials in their order, as those after them are drawn from."""
    return [(trial.values, trial.score) for trial in trials]
