"""The sections on AP: the verdict, what the arms differ in, curves, endpoints, data."""

from functools import partial
from typing import Any

from groundup.report.cells import Row
from groundup.report.charts import draw_curves, draw_data_sizes, draw_endpoints
from groundup.report.forests import draw_forest, draw_strip, estimate_of
from groundup.report.parts import Figure, Material, Section
from groundup.report.tables import (
    KIND_NAMES,
    comparisons_table,
    curves_records,
    data_sizes_table,
    differences_table,
    endpoints_table,
    secondary_table,
)
from groundup.report.wording import count_text, place_text
from groundup.study.answer import Answer
from groundup.study.compare import RULES

SCHEDULE = ".schedule."
"""Part of the path of an axis that makes a run longer or shorter; such runs share one figure."""


def strip_figure(material: Material) -> Figure | None:
    """The primary difference against its margin."""
    primary = material.answer.primary
    if primary is None:
        return None
    candidate, reference = material.names
    question = material.results.question
    one = estimate_of(primary, f"{candidate} \u2212 {reference}")
    place = place_text(material.answer.point)
    other = place_text(material.answer.reference_point)
    where = "" if not place else f" Both stand at {place}."
    if place != other:
        where = f" {candidate} stands at {place or 'its end'}, {reference} at {other or 'its end'}."
    level = 100 * (1 - question.alpha)
    caption = (
        f"Difference: {candidate} minus {reference} in {material.measure} points, on "
        f"{count_text(primary['num_images'])} validation images. Thin line: {level:g} % interval, by "
        f"which a difference is judged; thick line: {100 * (1 - 2 * question.alpha):g} % interval, by which "
        f"equivalence is judged.{where}"
    )
    return Figure(
        name="answer",
        title=f"Difference between {candidate} and {reference} with its interval and the margin",
        caption=caption,
        draw=partial(
            draw_strip,
            estimate=one,
            margin=question.margin,
            names=material.names,
            palette=material.palette,
            endpoint=material.measure,
        ),
    )


def question_text(material: Material) -> str:
    """What was set down before training."""
    question = material.results.question
    return (
        f"Set down before training: primary endpoint {question.measure}, margin {question.margin:g} points, "
        f"alpha {question.alpha:g}, {question.num_seeds} {'seed' if question.num_seeds == 1 else 'seeds'} an "
        f"arm, {question.num_replicates:,} bootstrap replicates; held equal: {RULES[question.rule]}."
    )


def differences_section(material: Material) -> Section:
    """The computed table of what the arms differ in."""
    section = Section(name="differences", title="What the arms differ in")
    if material.answer.differences:
        section.lead = ["Computed from the recipes as they were carried out: what is not listed is equal."]
        section.tables = [differences_table(material.answer, material.palette.arms)]
    elif material.results.recipes:
        section.lead = ["In nothing but their seeds: the recipes of the arms are equal."]
    else:
        section.lead = ["No recipe has been carried out yet."]
    return section


def split_point(point: Row) -> tuple[tuple[str, Any], ...]:
    """The part of a point that is not the length of the schedule."""
    return tuple((path, value) for path, value in point.items() if SCHEDULE not in f".{path}")


def curves_section(material: Material) -> Section:
    """AP over images seen; a figure for each kind and setting, those after the first of a kind folded."""
    answer = material.answer
    section = Section(name="curves", title="AP over images seen")
    if not answer.curves:
        section.lead = ["No run has been evaluated yet."]
        return section
    if answer.crossover is not None:
        section.lead.append(answer.crossover["sentence"])
    first = split_point(answer.point)
    for kind in material.kinds:
        mine = [curve for curve in answer.curves if curve["kind"] == kind]
        places = list(dict.fromkeys(repr(split_point(curve["point"])) for curve in mine))
        places.sort(key=lambda place: place != repr(first))
        for row, place in enumerate(places):
            curves = [curve for curve in mine if repr(split_point(curve["point"])) == place]
            section.figures.append(curves_figure(material, kind, row, curves))
    if section.figures:
        section.note = curves_note(answer)
    return section


def curves_figure(material: Material, kind: str, row: int, curves: list[Row]) -> Figure:
    """The curves of one kind at one setting, all lengths of schedule together."""
    place = place_text(dict(split_point(curves[0]["point"])))
    title = f"{KIND_NAMES[kind]} {material.endpoint}" + (f", {place}" if place else "")
    is_first = kind == material.kinds[0] and row == 0
    return Figure(
        name=f"curves_{kind}" + (f"_{row + 1}" if row else ""),
        title=f"{title} over images seen",
        caption=title + ".",
        draw=partial(
            draw_curves,
            curves=curves,
            palette=material.palette,
            title=title,
            crossover=material.answer.crossover if is_first else None,
        ),
        records=curves_records(material.answer) if is_first else (),
        is_folded=row > 0,
    )


def curves_note(answer: Answer) -> str:
    """How to read the curves."""
    bands = "over images and seeds"
    if all(curve["image_only"] for curve in answer.curves):
        bands = "over images only, as there is one seed"
    note = (
        f"Bands are 95 % intervals {bands}. A short upright line marks where the learning rate drops. "
        "Shorter schedules leave the trunk of the longest at their first drop, with its noise up to there."
    )
    if answer.crossover is not None and answer.crossover.get("in_run"):
        note += " Catching up is read inside one schedule here, an illustration: drops make curves jump."
    return note


def endpoints_section(material: Material) -> Section:
    """AP at all endpoints: figures at the setting of the verdict, tables of all settings."""
    answer = material.answer
    section = Section(name="endpoints", title="By overlap and size")
    if not answer.endpoints:
        section.lead = ["No schedule has come to its end yet."]
        return section
    for kind in material.kinds:
        rows = [row for row in answer.endpoints if row["kind"] == kind and stands_at(material, row)]
        if rows:
            title = f"{KIND_NAMES[kind]} AP"
            place = place_text(rows[0]["point"])
            figure = Figure(
                name=f"endpoints_{kind}",
                title=f"{title} by endpoint and arm",
                caption=f"{title}{f', {place}' if place else ''}, with 95 % intervals.",
                draw=partial(draw_endpoints, rows=rows, palette=material.palette, kind=title),
            )
            section.figures.append(figure)
        section.tables.append(endpoints_table(answer, kind))
    if answer.primary is not None and answer.primary.get("secondary"):
        section.tables.insert(0, secondary_table(answer))
    if len(answer.comparisons) > 1:
        section.figures += [comparisons_figure(material, kind) for kind in material.kinds]
        section.tables.append(comparisons_table(answer, material.kinds))
    return section


def comparisons_figure(material: Material, kind: str) -> Figure:
    """The primary endpoint of one kind at every setting; that of the verdict is set in bold."""
    rows = [row for row in material.answer.comparisons if row["kind"] == kind]
    is_first = kind == material.kinds[0]
    estimates = [
        estimate_of(
            row["comparison"],
            place_text(row["point"]) or "all runs",
            strong=is_first and row["point"] == material.answer.point,
        )
        for row in rows
    ]
    title = f"{KIND_NAMES[kind]} {material.endpoint}: {material.names[0]} minus {material.names[1]}"
    return Figure(
        name=f"comparisons_{kind}",
        title=f"{title}, at every setting with its interval",
        caption=f"{title} at every setting; the shade is the margin. "
        + ("Only the setting in bold is the verdict's." if any(e.strong for e in estimates) else ""),
        draw=partial(
            draw_forest,
            estimates=estimates,
            margin=material.results.question.margin,
            names=material.names,
            palette=material.palette,
        ),
        is_folded=not is_first,
    )


def stands_at(material: Material, row: Row) -> bool:
    """Whether the row is of the verdict's setting."""
    answer = material.answer
    place = answer.reference_point if row["arm"] == material.names[1] else answer.point
    places = [other["point"] for other in answer.endpoints]
    return bool(row["point"] == (place if place in places else places[-1]))


def data_section(material: Material) -> Section | None:
    """AP over sizes of the training set; none where the study has one size."""
    found = material.answer.data_size
    if found is None:
        return None
    section = Section(name="data", title="With less data", lead=[found["sentence"]])
    if found.get("crossover"):
        section.lead.append(str(found["crossover"]))
    title = f"{KIND_NAMES[material.kinds[0]] if material.kinds else ''} {material.endpoint}".strip()
    section.figures = [
        Figure(
            name="data_sizes",
            title=f"{title} over images in the training set",
            caption=f"{title} at the end of training, over the number of images in the training set "
            "(each step of the axis multiplies). Bands are 95 % intervals.",
            draw=partial(draw_data_sizes, data_size=found, palette=material.palette, title=title),
        )
    ]
    section.tables = [data_sizes_table(material.answer, material.palette.arms)]
    return section
