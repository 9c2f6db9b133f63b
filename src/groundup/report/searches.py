"""The section on what was searched before the runs: every trial, its score, and what won."""

from collections.abc import Sequence

from groundup.report.cells import Cell, Row, Table, words
from groundup.report.parts import Material, Section
from groundup.report.tables import MOST_OPEN_ROWS
from groundup.report.wording import NO_VALUE, count_text, place_text, points_text
from groundup.study.search_results import (
    SearchResult,
    TrialResult,
    protocol_lines,
    read_searches,
    search_notes,
)

OUTCOMES = {
    "done": "done",
    "diverged": "diverged",
    "partial": "under way",
    "missing": "not begun",
    "failed": "failed",
}
"""States of trials in words."""
SHOWN_DIGITS = 2
"""Of scores in AP points: trials are often close."""


def search_section(material: Material) -> Section | None:
    """What was tried, on which arm and what won; none where the study searches nothing."""
    study = material.results.study
    if study.search is None:
        return None
    section = Section(name="search", title="What was searched")
    searches = read_searches(material.results.folder)
    section.lead = [f"{line[:1].upper()}{line[1:]}." for line in protocol_lines(study.search)]
    if not searches:
        section.lead.append("Nothing has been tried yet.")
        return section
    section.lead += [f"{note[:1].upper()}{note[1:]}." for note in search_notes(study)]
    winners = [winner_text(search) for search in searches]
    if len(winners) == 1:
        section.lead.insert(0, f"{winners[0]}.")
    else:
        section.items = winners
    section.tables = [trials_table(searches, study.search.metric)]
    judge = ", ".join(dict.fromkeys(count_text(search.num_val) for search in searches))
    section.note = (
        f"A score is the {study.search.metric} of a trial's last evaluation, on {judge} photographs, in "
        "points. The bill counts the images of all trials."
    )
    return section


def winner_text(search: SearchResult) -> str:
    """What won one search and why, or how far it is."""
    title = ", ".join(part for part in (search.arm, place_text(search.place)) if part)
    won = next((trial for trial in search.trials if trial.key == search.winner), None)
    if won is None:
        ended = sum(trial.is_settled for trial in search.trials)
        return f"{title}: {ended} of {search.num_trials} trials have ended; nothing has won yet"
    own = " (the recipe's own values)" if won.values == search.base else ""
    return f"{title}: {place_text(won.values)}{own} won: {search.why}"


def trials_table(searches: Sequence[SearchResult], metric: str) -> Table:
    """A row for every trial."""
    rows, records = [], []
    for search in searches:
        for number, trial in enumerate(search.trials):
            is_winner = trial.key == search.winner
            arm = (
                words(search.arm, arm=search.arm, note=place_text(search.place)) if not number else words("")
            )
            rows.append((arm, Cell(str(number)), *trial_cells(trial, is_winner=is_winner)))
            records.append(trial_record(search, number, trial, metric))
    return Table(
        name="search",
        title="Every trial",
        heads=("Arm", "Trial", "Values", "Score", "Images", "Outcome"),
        rows=tuple(rows),
        records=tuple(records),
        is_folded=len(rows) > MOST_OPEN_ROWS,
    )


def trial_cells(trial: TrialResult, *, is_winner: bool) -> tuple[Cell, ...]:
    """Values, score, images and outcome of a trial."""
    score = NO_VALUE if trial.score is None else points_text(100 * trial.score, SHOWN_DIGITS)
    return (
        words(place_text(trial.values), is_strong=is_winner),
        Cell(score),
        Cell(count_text(trial.images)),
        words(
            "won" if is_winner else OUTCOMES[trial.state],
            note=(trial.failure or "") if trial.state == "failed" else "",
            is_strong=is_winner,
        ),
    )


def trial_record(search: SearchResult, number: int, trial: TrialResult, metric: str) -> Row:
    """A trial as a row of the file; scores 0 .. 1 as it was logged."""
    return {
        "arm": search.arm,
        **search.place,
        "trial": number,
        **trial.values,
        metric: trial.score,
        "images": trial.images,
        "state": trial.state,
        "winner": trial.key == search.winner,
        "failure": trial.failure,
    }
