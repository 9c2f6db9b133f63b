"""The sections on cost and provenance: the bill, the runs, what was left out, what was typed."""

from collections.abc import Sequence
from functools import partial

from groundup.report.bars import draw_bill, lacks_price
from groundup.report.cells import Row
from groundup.report.parts import Figure, Material, Section
from groundup.report.speed import speed_table
from groundup.report.tables import (
    STATE_NAMES,
    bill_table,
    dropped_table,
    environment_table,
    runs_table,
)
from groundup.report.wording import count_text, place_text, significant


def missing_text(material: Material) -> str:
    """What trainings are missing; empty where none are."""
    runs = material.results.runs
    if not runs:
        return "Nothing has been run yet: the study has no plan."
    if material.num_done == len(runs):
        return ""
    counts = [
        f"{count} {STATE_NAMES[state]}"
        for state in ("partial", "failed", "missing")
        if (count := sum(run.state == state for run in runs))
    ]
    return f"{material.num_done} of {len(runs)} runs are done; {', '.join(counts)}."


def bill_rows(material: Material) -> list[Row]:
    """One row an arm: that of the verdict's setting, else its last."""
    answer = material.answer
    shown = []
    for arm in material.palette.arms:
        mine = [row for row in answer.bill["rows"] if row["arm"] == arm]
        place = answer.reference_point if arm == material.names[1] else answer.point
        at_place = [row for row in mine if row["point"] == place]
        shown += (at_place or mine)[-1:]
    return shown


def bill_section(material: Material) -> Section:
    """What the arms cost with what they began from, and what the study cost."""
    section = Section(name="bill", title="The bill")
    rows = bill_rows(material)
    if not rows:
        section.lead = ["Nothing has been run yet, so there is no bill."]
        return section
    section.lead = bill_text(material, rows)
    place = place_text(rows[0]["point"])
    section.figures = [
        Figure(
            name="bill",
            title="Images, instances and pixels seen in pre-training and training, by arm",
            caption=f"What one run has seen{f', {place}' if place else ''}: pre-training pale, training "
            "full. What is not known is an outline without length.",
            draw=partial(draw_bill, rows=rows, palette=material.palette),
        )
    ]
    section.tables = [bill_table(material.answer, rows, "bill", "The bill of one run")]
    if len(material.answer.bill["rows"]) > len(rows):
        every = material.answer.bill["rows"]
        section.tables.append(
            bill_table(material.answer, every, "bill_all", "The bill at every setting", is_folded=True)
        )
    sources = [
        f"Cost of what {row['arm']} starts from: {row['pretraining']['kind']}"
        + (f"; {row['pretraining']['source']}" if row["pretraining"]["source"] else "")
        for row in rows
        if row["pretraining"] is not None
    ]
    section.items = sources
    section.note = (
        "The whole study counts shared trunks once. A multiply-add is two operations. px: pixels as the "
        "model saw them, padding left out."
    )
    return section


def bill_text(material: Material, rows: Sequence[Row]) -> list[str]:
    """The reference's bill as a multiple of the candidate's, and what sharing saved."""
    lines = []
    by_arm = {row["arm"]: row for row in rows}
    first, second = (by_arm.get(name) for name in material.names)
    if first is not None and second is not None:
        parts = []
        for name in ("images", "instances", "pixels"):
            mine, other = first["total"].get(name), second["total"].get(name)
            if mine and other is not None and not lacks_price(second, name) and not lacks_price(first, name):
                parts.append(f"{significant(other / mine, 2)} times as many {name}")
        if parts:
            listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
            lines.append(
                f"With what came before, {material.names[1]} has seen {listed} as {material.names[0]}."
            )
        for name, row in zip(material.names, (first, second), strict=True):
            if any(lacks_price(row, quantity) for quantity in ("images", "instances", "pixels")):
                lines.append(f"What the weights that {name} starts from have cost is not known in full.")
    sharing = material.answer.bill.get("sharing") or {}
    run, unshared = sharing.get("images_run"), sharing.get("images_unshared")
    if run and unshared and unshared > run:
        lines.append(
            f"Schedules shared their trunks: the study trained on {count_text(run)} images where run by run "
            f"it would have been {count_text(unshared)}, {significant(unshared / run, 2)} times as many."
        )
    return lines


def runs_section(material: Material) -> Section:
    """Every training, its state and what it shared."""
    section = Section(name="runs", title="The runs")
    missing = missing_text(material)
    section.lead = [missing or f"All {len(material.results.runs)} runs are done."]
    section.items = [
        f"{run.arm}, {place_text(run.point)}, seed {run.seed} failed: {run.failure}"
        for run in material.results.runs
        if run.state == "failed"
    ]
    for name, made in material.results.pretraining.items():
        text = f"Pre-training run '{name}': {STATE_NAMES[made.state]}"
        if made.num_images:
            text += f", {count_text(made.num_images)} images in its training set"
        if "top1" in made.metrics:
            text += f", top-1 {100 * made.metrics['top1']:.1f} %"
        section.items.append(text)
    speeds = speed_table(material.results, material.palette.arms)
    if speeds.rows:
        section.tables.append(speeds)
    if material.results.runs:
        section.tables.append(runs_table(material.results))
    return section


def dropped_section(material: Material) -> Section:
    """Annotations that were not used."""
    section = Section(name="dropped", title="Annotations left out")
    table = dropped_table(material.results)
    if table.rows:
        section.lead = ["Instances that could not be learnt from, by rule; the same in all arms' data."]
        section.tables = [table]
    else:
        section.lead = ["None."]
    return section


def commands_section(material: Material) -> Section:
    """What was typed, and on what it ran."""
    section = Section(name="commands", title="Commands, versions, machine")
    section.commands = list(material.answer.commands or material.results.commands)
    table = environment_table(material.results)
    if table.rows:
        section.tables = [table]
    if section.is_empty:
        section.lead = ["Nothing has been run yet."]
    return section
