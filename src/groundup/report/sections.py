"""The parts of the page in their order: what each says, shows and lists."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from markupsafe import Markup

from groundup.report.bars import draw_bill, draw_errors, lacks_price
from groundup.report.charts import draw_curves, draw_data_sizes, draw_endpoints
from groundup.report.drawing import Drawing, inline_svg
from groundup.report.forests import Estimate, draw_forest, draw_strip, estimate_of
from groundup.report.frame import NARROW_WIDTH, WIDE_WIDTH, Palette
from groundup.report.photographs import LEAST_SCORE, Disagreement, draw_disagreements
from groundup.report.tables import (
    KIND_NAMES,
    STATE_NAMES,
    Row,
    Table,
    bill_table,
    categories_table,
    comparisons_table,
    curves_records,
    data_sizes_table,
    differences_table,
    dropped_table,
    endpoints_table,
    environment_table,
    errors_table,
    overfitting_table,
    runs_table,
    secondary_table,
)
from groundup.report.wording import count_text, place_text, points_text
from groundup.study.answer import Answer
from groundup.study.compare import RULES
from groundup.study.results import StudyResults

MOST_CATEGORIES = 24
"""Categories in the figure; of more, the outermost of both ends."""
SCHEDULE = ".schedule."
"""Part of the path of an axis that makes a run longer or shorter; such runs share one figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure for the page and for files."""

    name: str
    title: str
    """What it shows, for those who cannot see it."""
    caption: str
    draw: Callable[[float], Drawing]
    records: tuple[Row, ...] = ()
    """Its numbers, where no table of the page has them."""
    is_folded: bool = False

    @property
    def wide(self) -> Markup:
        """For a page."""
        return inline_svg(self.draw(WIDE_WIDTH), self.title, "wide")

    @property
    def narrow(self) -> Markup:
        """For a phone."""
        return inline_svg(self.draw(NARROW_WIDTH), self.title, "narrow")


@dataclass(kw_only=True)
class Section:
    """One part of the page."""

    name: str
    """Its anchor."""
    title: str
    lead: list[str] = field(default_factory=list)
    """Paragraphs."""
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    disagreements: list[Disagreement] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    """A list after the paragraphs."""
    commands: list[str] = field(default_factory=list)
    """Lines to be typed."""
    note: str = ""
    """Small print at the end."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing stands in it."""
        return not (
            self.lead or self.figures or self.tables or self.disagreements or self.items or self.commands
        )


@dataclass(frozen=True, kw_only=True)
class Material:
    """What every section is made from."""

    results: StudyResults
    answer: Answer
    palette: Palette

    @property
    def names(self) -> tuple[str, str]:
        """Candidate and reference."""
        return self.results.question.candidate, self.results.question.reference

    @property
    def kinds(self) -> list[str]:
        """Kinds of AP that the answer speaks of, boxes first."""
        found = {row["kind"] for rows in (self.answer.curves, self.answer.endpoints) for row in rows}
        return [kind for kind in KIND_NAMES if kind in found]

    @property
    def endpoint(self) -> str:
        """The primary endpoint."""
        return self.results.question.endpoint

    @property
    def num_done(self) -> int:
        """Runs that have ended."""
        return sum(run.state == "done" for run in self.results.runs)


def build_palette(results: StudyResults) -> Palette:
    """Colours of the arms: the candidate first, the reference second."""
    names = (results.question.candidate, results.question.reference)
    return Palette((*names, *(arm for arm in results.study.arms if arm not in names)))


def build_sections(material: Material) -> list[Section]:
    """All parts after the answer, in order; a part that has nothing to say says so or is left out."""
    builders = (
        differences_section,
        curves_section,
        endpoints_section,
        data_section,
        bill_section,
        errors_section,
        disagreements_section,
        categories_section,
        overfitting_section,
        decide_section,
        runs_section,
        dropped_section,
        commands_section,
    )
    sections = (builder(material) for builder in builders)
    return [section for section in sections if section is not None]


def missing_text(material: Material) -> str:
    """What trainings are missing; empty where none are."""
    runs = material.results.runs
    if not runs:
        return "Nothing has been trained yet: the study has no plan."
    if material.num_done == len(runs):
        return ""
    counts = [
        f"{count} {STATE_NAMES[state]}"
        for state in ("partial", "failed", "missing")
        if (count := sum(run.state == state for run in runs))
    ]
    return f"{material.num_done} of {len(runs)} trainings are done; {', '.join(counts)}."


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
        f"Difference: {candidate} minus {reference} in {material.endpoint} points, on "
        f"{count_text(primary['num_images'])} validation photographs. Thin line: {level:g} % interval, by "
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
            endpoint=material.endpoint,
        ),
    )


def question_text(material: Material) -> str:
    """What was set down before training."""
    question = material.results.question
    return (
        f"Set down before training: primary endpoint {question.endpoint}, margin {question.margin:g} points, "
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
        section.lead = ["No training has been evaluated yet."]
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
    bands = "over photographs and seeds"
    if all(curve["image_only"] for curve in answer.curves):
        bands = "over photographs only, as there is one seed"
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
            place = place_text(answer.point)
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
            title=f"{title} over training photographs",
            caption=f"{title} at the end of training, over the number of training photographs (each step of "
            "the axis multiplies). Bands are 95 % intervals.",
            draw=partial(draw_data_sizes, data_size=found, palette=material.palette, title=title),
        )
    ]
    section.tables = [data_sizes_table(material.answer, material.palette.arms)]
    return section


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
        section.lead = ["Nothing has been trained yet, so there is no bill."]
        return section
    section.lead = bill_text(material, rows)
    place = place_text(rows[0]["point"])
    section.figures = [
        Figure(
            name="bill",
            title="Images, instances and pixels seen in pre-training and training, by arm",
            caption=f"What one training has seen{f', {place}' if place else ''}: pre-training pale, training "
            "full. What is not known is an outline without length.",
            draw=partial(draw_bill, rows=rows, palette=material.palette),
        )
    ]
    section.tables = [bill_table(material.answer, rows, "bill", "The bill of one training")]
    if len(material.answer.bill["rows"]) > len(rows):
        every = material.answer.bill["rows"]
        section.tables.append(
            bill_table(material.answer, every, "bill_all", "The bill at every setting", is_folded=True)
        )
    sources = [
        f"{row['arm']}: pre-training {row['pretraining']['kind']}"
        + (f"; {row['pretraining']['source']}" if row["pretraining"]["source"] else "")
        for row in rows
        if row["pretraining"] is not None
    ]
    section.items = sources
    section.note = (
        "A multiply-add counts as two operations. px: pixels as the model saw them, padding left out."
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
                parts.append(f"{other / mine:.2g} times as many {name}")
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
            f"it would have been {count_text(unshared)}, {unshared / run:.2g} times as many."
        )
    return lines


def errors_section(material: Material) -> Section:
    """TIDE's kinds of errors by arm."""
    section = Section(name="errors", title="Where the errors are")
    if not material.answer.errors:
        section.lead = ["No errors to sort yet: both arms must have been evaluated."]
        return section
    section.figures = [
        Figure(
            name="errors",
            title="AP50 lost to each kind of error, by arm",
            caption="AP50 points that mending all errors of one kind alone would win (TIDE).",
            draw=partial(draw_errors, rows=material.answer.errors, palette=material.palette),
        )
    ]
    section.tables = [errors_table(material.answer, material.palette.arms)]
    return section


def disagreements_section(material: Material) -> Section:
    """Photographs where the arms disagree most, both ways."""
    section = Section(name="disagreements", title="Where the arms disagree")
    groups, problems = draw_disagreements(
        material.results, material.answer.disagreements, palette=material.palette
    )
    section.disagreements = groups
    section.items = problems
    if groups:
        section.lead = [
            "The photographs with the largest difference in instances found, in both directions. They were "
            "chosen for that and say nothing of the average. Drawn are detections of a score of "
            f"{LEAST_SCORE:g} or more."
        ]
    elif not problems:
        section.lead = ["No photograph to show: the arms found the same, or have not been evaluated."]
    return section


def categories_section(material: Material) -> Section | None:
    """The difference in every category; none where there is only one."""
    rows = [row for row in material.answer.categories if row["delta"] is not None]
    if len(material.answer.categories) < 2:
        return None
    section = Section(name="categories", title="By category")
    shown = rows
    lead = "Intervals are over photographs alone, and not corrected for being many: some miss by chance."
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
                title="Difference in AP by category with intervals",
                caption=f"{material.names[0]} minus {material.names[1]} in AP, by category.",
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
        section.lead = ["No training has come far enough to tell."]
        return section
    worst = max(material.answer.overfitting, key=lambda row: row["drop_from_best"] or 0.0)
    lost = worst["drop_from_best"] or 0.0
    place = place_text(worst["point"])
    section.lead = [
        f"The most that was lost after the best evaluation is {points_text(lost)} {material.endpoint} points "
        f"({worst['arm']}{f', {place}' if place else ''})."
        if lost > 0
        else "No arm lost AP after its best evaluation."
    ]
    section.tables = [overfitting_table(material.answer)]
    return section


def decide_section(material: Material) -> Section | None:
    """What would decide; none where it is decided."""
    if not material.answer.decide:
        return None
    return Section(name="decide", title="What would decide", items=list(material.answer.decide))


def runs_section(material: Material) -> Section:
    """Every training, its state and what it shared."""
    section = Section(name="runs", title="The trainings")
    missing = missing_text(material)
    section.lead = [missing or f"All {len(material.results.runs)} trainings are done."]
    section.items = [
        f"{run.arm}, {place_text(run.point)}, seed {run.seed} failed: {run.failure}"
        for run in material.results.runs
        if run.state == "failed"
    ]
    for name, made in material.results.pretraining.items():
        text = f"Pre-training {name}: {STATE_NAMES[made.state]}"
        if made.num_images:
            text += f", {count_text(made.num_images)} photographs"
        if "top1" in made.metrics:
            text += f", top-1 {100 * made.metrics['top1']:.1f} %"
        section.items.append(text)
    if material.results.runs:
        section.tables = [runs_table(material.results)]
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
