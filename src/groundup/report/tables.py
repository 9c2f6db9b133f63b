"""Tables of the page, from an answer and the runs it came from."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from groundup.report.bars import error_name
from groundup.report.cells import Cell, Row, Table, estimate, words
from groundup.report.charts import ENDPOINT_NAMES
from groundup.report.wording import (
    NO_VALUE,
    count_text,
    duration_text,
    interval_text,
    large_text,
    place_text,
    points_text,
    signed,
    value_text,
)
from groundup.study.answer import Answer
from groundup.study.results import StudyResults

KIND_NAMES = {"bbox": "Box", "segm": "Mask", "keypoints": "Keypoint"}
OVERLAP_NAMES = {"bbox": "IoU of boxes", "segm": "IoU of masks", "keypoints": "OKS"}
"""By what a detection of each kind is held against the truth."""
STATE_NAMES = {"done": "done", "partial": "under way", "missing": "not begun", "failed": "failed"}
MOST_OPEN_ROWS = 8
"""A longer table of every setting is folded."""
QUANTITIES = ("images", "instances", "pixels", "flops", "seconds")
HEADS = {
    "images": "Images",
    "instances": "Instances",
    "pixels": "Pixels",
    "flops": "Compute",
    "seconds": "Time",
}


def differences_table(answer: Answer, arms: Sequence[str]) -> Table:
    """Every leaf of the recipes in which the arms differ."""
    rows = tuple(
        (
            words(row["path"], is_strong=True),
            *(words(value_text(row["values"][arm]) if arm in row["values"] else NO_VALUE) for arm in arms),
        )
        for row in answer.differences
    )
    return Table(
        name="differences",
        title="Differences between arms",
        heads=("Option", *arms),
        rows=rows,
        records=tuple(
            {"option": row["path"], **{arm: row["values"].get(arm) for arm in arms}}
            for row in answer.differences
        ),
    )


def curves_records(answer: Answer) -> tuple[Row, ...]:
    """The points of all curves."""
    return tuple(
        {"arm": c["arm"], **c["point"], "kind": c["kind"], "images": x, "mean": m, "low": low, "high": high}
        for c in answer.curves
        for x, m, low, high in zip(c["images"], c["mean"], c["low"], c["high"], strict=True)
    )


def comparisons_table(answer: Answer, kinds: Sequence[str]) -> Table:
    """The primary endpoint at every setting where both arms are done."""
    rows, records = [], []
    for row in answer.comparisons:
        verdict = row["comparison"]["verdict"]
        low, high = verdict["interval"]
        place = place_text(row["point"]) or "all runs"
        kind = verdict["kind"] + (" (provisional)" if verdict["provisional"] else "")
        cells = [words(place), Cell(signed(verdict["delta"])), Cell(interval_text(low, high)), words(kind)]
        rows.append(tuple(cells if len(kinds) < 2 else [words(KIND_NAMES[row["kind"]]), *cells]))
        records.append(
            {
                **row["point"],
                "kind": row["kind"],
                "delta": verdict["delta"],
                "low": low,
                "high": high,
                "equivalence_low": verdict["equivalence_interval"][0],
                "equivalence_high": verdict["equivalence_interval"][1],
                "margin": verdict["margin"],
                "verdict": verdict["kind"],
                "provisional": verdict["provisional"],
            }
        )
    heads = ("Setting", "Difference", "Interval", "Verdict")
    return Table(
        name="comparisons",
        title="Difference at every setting",
        heads=heads if len(kinds) < 2 else ("AP of", *heads),
        rows=tuple(rows),
        records=tuple(records),
        is_folded=True,
    )


def judged_word(row: Row) -> str:
    """What a secondary endpoint's corrected p value comes to; of one seed nothing, whatever the value."""
    if row["image_only"]:
        return "not judged: one seed"
    return "differs" if row["differs"] else "not shown to differ"


def secondary_table(answer: Answer) -> Table:
    """The secondary endpoints of the primary comparison."""
    found = (answer.primary or {}).get("secondary", {})
    rows = tuple(
        (
            words(ENDPOINT_NAMES.get(name, name)),
            Cell(signed(row["delta"])),
            Cell(interval_text(*row["interval"])),
            Cell(f"{row['p_value']:.3f}" if row["p_value"] >= 0.001 else "< 0.001"),
            words(judged_word(row)),
        )
        for name, row in found.items()
    )
    records = tuple(
        {
            "endpoint": name,
            "delta": row["delta"],
            "low": row["interval"][0],
            "high": row["interval"][1],
            "p_value_holm": row["p_value"],
            "differs": row["differs"],
        }
        for name, row in found.items()
    )
    return Table(
        name="secondary",
        title="Secondary endpoints",
        heads=("Endpoint", "Difference", "Interval", "p (Holm)", "Judged"),
        rows=rows,
        records=records,
        note="Intervals are not corrected for being several; p values are (Holm).",
    )


def endpoints_table(answer: Answer, kind: str) -> Table:
    """Every endpoint of one kind at the end of every schedule."""
    mine = [row for row in answer.endpoints if row["kind"] == kind]
    endpoints = list(dict.fromkeys(row["endpoint"] for row in mine))
    groups: list[tuple[Row, str]] = []
    for row in mine:
        if (row["point"], row["arm"]) not in groups:
            groups.append((row["point"], row["arm"]))
    has_settings = any(point for point, _ in groups)
    rows = []
    for point, arm in groups:
        cells = [words(arm, arm=arm, note=place_text(point) if has_settings else "")]
        for endpoint in endpoints:
            found = [r for r in mine if r["point"] == point and r["arm"] == arm and r["endpoint"] == endpoint]
            cells.append(
                estimate(found[0]["mean"], found[0]["low"], found[0]["high"]) if found else Cell(NO_VALUE)
            )
        rows.append(tuple(cells))
    return Table(
        name=f"endpoints_{kind}",
        title=f"{KIND_NAMES[kind]} AP at the end of every schedule",
        is_folded=len(rows) > MOST_OPEN_ROWS,
        heads=("Arm", *(ENDPOINT_NAMES.get(name, name) for name in endpoints)),
        rows=tuple(rows),
        records=tuple(
            {
                "arm": r["arm"],
                **r["point"],
                "endpoint": r["endpoint"],
                "mean": r["mean"],
                "low": r["low"],
                "high": r["high"],
                "per_seed": r["per_seed"],
                "images_only": r["image_only"],
            }
            for r in mine
        ),
    )


def data_sizes_table(answer: Answer, arms: Sequence[str]) -> Table:
    """AP of the arms at every size of the training set."""
    found = answer.data_size or {"sizes": [], "arms": {}}
    shown = [arm for arm in arms if arm in found["arms"]]
    rows, records = [], []
    for place, size in enumerate(found["sizes"]):
        parts = [found["arms"][arm] for arm in shown]
        ends = [(p["mean"][place], p["low"][place], p["high"][place]) for p in parts]
        rows.append((words(count_text(size)), *(estimate(*end) for end in ends)))
        records += [
            {"images": size, "arm": arm, "mean": mean, "low": low, "high": high}
            for arm, (mean, low, high) in zip(shown, ends, strict=True)
        ]
    return Table(
        name="data_sizes",
        title="AP by size of the training set",
        heads=("Images in the training set", *shown),
        rows=tuple(rows),
        records=tuple(records),
    )


def amount_text(name: str, value: float | None) -> str:
    """An amount of the bill."""
    if name == "seconds":
        return duration_text(value)
    return large_text(value, {"pixels": "px", "flops": "FLOP"}.get(name, ""))


def bill_table(
    answer: Answer, bills: Sequence[Row], name: str, title: str, *, is_folded: bool = False
) -> Table:
    """What single runs cost, with what they began from, and the whole study."""
    rows, records = [], []
    for row in bills:
        source = row["pretraining"]
        parts: list[tuple[str, Row | None]] = [("training", {q: row[q] for q in QUANTITIES})]
        if source is not None:
            parts.insert(0, (f"pre-training ({source['kind']})", source))
            parts.append(("in all", row["total"]))
            if row["downstream_uses"] > 1:
                parts.append((f"in all, shared by {row['downstream_uses']} uses", row["total_amortised"]))
        for place, (part, amounts) in enumerate(parts):
            arm = words(row["arm"], arm=row["arm"], note=place_text(row["point"])) if not place else words("")
            cells = [Cell(amount_text(q, (amounts or {}).get(q))) for q in QUANTITIES]
            rows.append((arm, words(part, is_strong=part == "in all"), *cells))
            records.append(
                {
                    "arm": row["arm"],
                    **row["point"],
                    "part": part,
                    **{q: (amounts or {}).get(q) for q in QUANTITIES},
                    "source": (source or {}).get("source", "") if amounts is source else "",
                }
            )
    for part, amounts in study_parts(answer):
        head = words("the whole study", is_strong=True) if part == "in all" else words("")
        cells = [Cell(amount_text(q, amounts.get(q))) for q in QUANTITIES]
        rows.append((head, words(part, is_strong=part == "in all"), *cells))
        records.append({"arm": "", "part": f"study, {part}", **{q: amounts.get(q) for q in QUANTITIES}})
    return Table(
        name=name,
        title=title,
        is_folded=is_folded,
        heads=("Arm", "Part", *(HEADS[q] for q in QUANTITIES)),
        rows=tuple(rows),
        records=tuple(records),
    )


def study_parts(answer: Answer) -> list[tuple[str, Row]]:
    """What the whole study cost, and how much of it its own pre-training and its searches took."""
    total = answer.bill["study_total"]
    parts: list[tuple[str, Row]] = [("in all", total)]
    for name, words_of_it in (
        ("pretraining", "of that, its own pre-training"),
        ("search", "of that, searches"),
    ):
        amounts = total.get(name)
        if amounts and amounts.get("images"):
            parts.append((words_of_it, amounts))
    return parts


def errors_table(answer: Answer, arms: Sequence[str]) -> Table:
    """What every kind of error costs, and how often it is made."""
    kinds = list(dict.fromkeys(row["error"] for row in answer.errors))
    shown = [arm for arm in arms if any(row["arm"] == arm for row in answer.errors)]
    rows = []
    for kind in kinds:
        cells = [words(error_name(kind))]
        for arm in shown:
            found = [row for row in answer.errors if row["error"] == kind and row["arm"] == arm]
            cells += [
                Cell(points_text(found[0]["dAP"]) if found else NO_VALUE),
                Cell(mean_count(found[0]["count"]) if found else NO_VALUE),
            ]
        rows.append(tuple(cells))
    return Table(
        name="errors",
        title="Errors by arm",
        heads=("Error", *(head for arm in shown for head in (f"{arm}: AP50 lost", "errors"))),
        rows=tuple(rows),
        records=tuple(
            {name: row.get(name) for name in ("arm", "error", "dAP", "count")} for row in answer.errors
        ),
        is_folded=True,
    )


def categories_table(answer: Answer, names: tuple[str, str]) -> Table:
    """AP of every category in both arms."""
    rows = tuple(
        (
            words(str(row["name"])),
            Cell(count_text(row["num_instances"])),
            Cell(points_text(row["candidate"])),
            Cell(points_text(row["reference"])),
            Cell(signed(row["delta"], 1), interval_text(row["low"], row["high"], 1)),
        )
        for row in answer.categories
    )
    return Table(
        name="categories",
        title="Every category",
        heads=("Category", "Instances", *names, "Difference"),
        rows=rows,
        records=tuple(dict(row) for row in answer.categories),
        is_folded=True,
    )


def overfitting_table(answer: Answer) -> Table:
    """Training loss and validation AP at the end, the best AP on the way, the AP of training photographs."""
    has_gap = any(row["gap"] is not None for row in answer.overfitting)
    rows = tuple(
        (
            words(row["arm"], arm=row["arm"], note=place_text(row["point"])),
            Cell(NO_VALUE if row["train_loss_end"] is None else f"{row['train_loss_end']:.3f}"),
            Cell(points_text(row["val_AP_end"])),
            Cell(points_text(row["val_AP_best"])),
            Cell(points_text(row["drop_from_best"])),
            *((Cell(points_text(row["train_AP_end"])), Cell(points_text(row["gap"]))) if has_gap else ()),
        )
        for row in answer.overfitting
    )
    heads = ("Arm", "Training loss, end", "AP, end", "AP, best", "Lost since best")
    return Table(
        name="overfitting",
        title="Loss and AP at the end, and the best AP on the way",
        is_folded=len(rows) > MOST_OPEN_ROWS,
        heads=(*heads, "AP, training images", "Gap") if has_gap else heads,
        rows=rows,
        records=tuple(
            {**row["point"], **{k: v for k, v in row.items() if k != "point"}} for row in answer.overfitting
        ),
    )


def runs_table(results: StudyResults) -> Table:
    """Every run and how far it has come."""
    rows, records = [], []
    for run in results.runs:
        state = STATE_NAMES[run.state]
        rows.append(
            (
                words(run.arm, arm=run.arm, note=place_text(run.point)),
                Cell(str(run.seed)),
                words(state, note=run.failure or "", is_strong=run.state == "failed"),
                Cell(f"{count_text(run.images_seen)} of {count_text(run.total_images)}"),
                Cell(count_text(run.branch_images) if run.parent else NO_VALUE),
            )
        )
        records.append(
            {
                "key": run.key,
                "arm": run.arm,
                **run.point,
                "seed": run.seed,
                "state": run.state,
                "images_seen": run.images_seen,
                "total_images": run.total_images,
                "own_images": run.own_images,
                "parent": run.parent,
                "failure": run.failure,
            }
        )
    return Table(
        name="runs",
        title="Every run",
        heads=("Arm", "Seed", "State", "Images seen", "of a shared trunk"),
        rows=tuple(rows),
        records=tuple(records),
        is_folded=True,
    )


def dropped_table(results: StudyResults) -> Table:
    """Annotations that could not be used, by rule and arm's largest count."""
    rules: dict[str, int] = {}
    for run in results.runs:
        for rule, count in run.dropped.items():
            rules[rule] = max(rules.get(rule, 0), count)
    return Table(
        name="dropped",
        title="By rule",
        heads=("Rule", "Annotations"),
        rows=tuple((words(rule), Cell(count_text(count))) for rule, count in sorted(rules.items())),
        records=tuple({"rule": rule, "annotations": count} for rule, count in sorted(rules.items())),
    )


def environment_table(results: StudyResults) -> Table:
    """Versions and machines of the runs; what differs between runs is listed with all its values."""
    found: dict[str, dict[str, None]] = {}
    for run in results.runs:
        for name, value in flat(run.environment):
            found.setdefault(name, {})[value_text(value)] = None
    rows = [(name, ", ".join(values)) for name, values in found.items()]
    return Table(
        name="environment",
        title="Versions and machine",
        heads=("What", "Value"),
        rows=tuple((words(name), words(value)) for name, value in rows),
        records=tuple({"what": name, "value": value} for name, value in rows),
    )


def mean_count(value: float) -> str:
    """A count that is a mean over seeds: whole where it is."""
    return count_text(value) if float(value).is_integer() else f"{value:,.1f}"


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """The leaves of nested dictionaries under dotted names."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
