"""The sections behind the verdict: errors, pictures, categories, overfitting, what would decide."""

from functools import partial

from groundup.report.bars import draw_errors
from groundup.report.forests import Estimate, draw_forest
from groundup.report.parts import Figure, Material, Section
from groundup.report.photographs import LEAST_SCORE, draw_disagreements
from groundup.report.tables import (
    KIND_NAMES,
    OVERLAP_NAMES,
    categories_table,
    errors_table,
    overfitting_table,
)
from groundup.report.wording import place_text, points_text
from groundup.study.errors_by_arm import ERROR_TYPES

MOST_CATEGORIES = 24
"""Categories in the figure; of more, the outermost of both ends."""


def errors_section(material: Material) -> Section:
    """TIDE's kinds of errors by arm."""
    section = Section(name="errors", title="Where the errors are")
    if not material.answer.errors:
        section.items = [note for note in material.answer.notes if note.startswith(ERROR_TYPES)]
        if not section.items:
            section.lead = ["No errors to sort yet: both arms must have been evaluated."]
        return section
    kind = material.results.question.table_kind
    name = f"{KIND_NAMES[kind]} AP50"
    section.figures = [
        Figure(
            name="errors",
            title=f"{name} lost to each kind of error, by arm",
            caption=f"{name} points that mending all errors of one kind alone would win (TIDE, by "
            f"{OVERLAP_NAMES[kind]}).",
            draw=partial(draw_errors, rows=material.answer.errors, palette=material.palette),
        )
    ]
    section.tables = [errors_table(material.answer, material.palette.arms)]
    return section


def disagreements_section(material: Material) -> Section:
    """Images where the arms disagree most, both ways."""
    section = Section(name="disagreements", title="Where the arms disagree")
    groups, problems = draw_disagreements(
        material.results, material.answer.disagreements, palette=material.palette
    )
    section.disagreements = groups
    section.items = problems
    if groups:
        section.lead = [
            "The images with the largest difference in instances found, in both directions. They were "
            "chosen for that and say nothing of the average. Detections of a score of "
            f"{material.answer.disagreements[0].get('least_score', LEAST_SCORE):g} or more."
        ]
    elif not problems:
        section.lead = ["No image to show: the arms found the same, or have not been evaluated."]
    return section


def categories_section(material: Material) -> Section | None:
    """The difference in every category; none where there is only one."""
    rows = [row for row in material.answer.categories if row["delta"] is not None]
    if len(material.answer.categories) < 2:
        return None
    section = Section(name="categories", title="By category")
    name = f"{KIND_NAMES[material.results.question.table_kind]} AP"
    shown = rows
    lead = "Intervals are over images alone, and not corrected for being many: some miss by chance."
    if len(rows) > MOST_CATEGORIES:
        half = MOST_CATEGORIES // 2
        shown = [*rows[:half], *rows[-half:]]
        lead += f" Shown are the {half} at either end of {len(rows)}; the table has all."
    section.lead = [lead]
    estimates = [
        Estimate(
            name=str(row["name"]),
            delta=float(row["delta"]),
            low=float(row["delta"] if row["low"] is None else row["low"]),
            high=float(row["delta"] if row["high"] is None else row["high"]),
        )
        for row in shown
    ]
    if estimates:
        section.figures = [
            Figure(
                name="categories",
                title=f"Difference in {name} by category with intervals",
                caption=f"{material.names[0]} minus {material.names[1]} in {name}, by category.",
                draw=partial(
                    draw_forest,
                    estimates=estimates,
                    margin=None,
                    names=material.names,
                    palette=material.palette,
                    digits=1,
                ),
            )
        ]
    section.tables = [categories_table(material.answer, material.names)]
    return section


def overfitting_section(material: Material) -> Section:
    """Whether AP fell while the training loss went on falling."""
    section = Section(name="overfitting", title="Overfitting")
    if not material.answer.overfitting:
        section.lead = ["No run has come far enough to tell."]
        return section
    worst = max(material.answer.overfitting, key=lambda row: row["drop_from_best"] or 0.0)
    lost = worst["drop_from_best"] or 0.0
    place = place_text(worst["point"])
    section.lead = [
        f"The most that was lost after the best evaluation is {points_text(lost)} {material.measure} points "
        f"({worst['arm']}{f', {place}' if place else ''})."
        if lost > 0
        else f"No arm lost {material.measure} after its best evaluation."
    ]
    gaps = [row for row in material.answer.overfitting if row["gap"] is not None]
    if gaps:
        widest = max(gaps, key=lambda row: row["gap"])
        place = place_text(widest["point"])
        section.lead.append(
            f"On photographs it has learnt from, {widest['arm']}{f', {place},' if place else ''} has "
            f"{points_text(widest['train_AP_end'])} {material.measure}, on the others "
            f"{points_text(widest['val_AP_end'])}: the widest gap of all arms."
        )
    section.tables = [overfitting_table(material.answer)]
    return section


def decide_section(material: Material) -> Section | None:
    """What would decide; none where it is decided."""
    if not material.answer.decide:
        return None
    return Section(name="decide", title="What would decide", items=list(material.answer.decide))
