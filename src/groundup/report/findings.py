"""The section on the paper's findings: what it says, what this study says, and the mark."""

from groundup.report.cells import Cell, Row, Table, words
from groundup.report.parts import Material, Section
from groundup.report.wording import NO_VALUE, interval_text, points_text, signed, typeset
from groundup.study.answer import Answer

MARKS = ("confirmed", "contradicted", "undecided", "not asked")
"""In the order in which they are counted."""
DIGITS = {"times": 2, "AP75 / AP50": 3}
"""Digits of measures by unit; of AP points two, as everywhere a difference is shown."""


def findings_section(material: Material) -> Section | None:
    """The paper's six findings as claims about the study; none where they are not asked of it."""
    found = material.answer.findings
    if not found:
        return None
    section = Section(name="findings", title="The paper's findings, on these data")
    counts = {mark: sum(row["mark"] == mark for row in found) for mark in MARKS}
    shown = ", ".join(f"{count} {mark}" for mark, count in counts.items() if count)
    section.lead = [
        "The findings of He, Girshick and Dollar (Rethinking ImageNet Pre-training, 2019), each as a claim "
        f"about this study and not about COCO: {shown}."
    ]
    if material.results.question.kind != "box":
        section.lead.append(
            f"They are judged here by {material.measure}; the paper's numbers beside them are of boxes."
        )
    section.tables = [findings_table(material.answer)]
    section.items = [f"To finding {row['number']}: {line}" for row in found for line in row["beside"]]
    section.note = (
        "Confirmed or contradicted: the interval lies wholly on one side of what the claim asks, and still "
        "does so after correction for the claims being several (Holm). A claim about the margin is judged "
        f"by its {100 * (1 - 2 * material.results.question.alpha):g} % interval, as the verdict is."
    )
    return section


def findings_table(answer: Answer) -> Table:
    """A row for every finding; the file has a row for every number behind it."""
    return Table(
        name="findings",
        title="Finding by finding",
        heads=("Finding, and what the paper says", "Mark", "This study", "Estimate"),
        rows=tuple(
            (
                words(
                    f"{row['number']}. {row['title']}",
                    note=typeset(f"{capitalised(row['paper'])} ({row['source']})."),
                ),
                mark_cell(row),
                Cell(typeset(row["sentence"]), is_number=False),
                estimate_cell(row["measures"][0]) if row["measures"] else Cell(NO_VALUE),
            )
            for row in answer.findings
        ),
        records=tuple(record for row in answer.findings for record in finding_records(row)),
    )


def capitalised(text: str) -> str:
    """With a capital at its head, the rest as it is."""
    return text[:1].upper() + text[1:]


def estimate_cell(measure: Row) -> Cell:
    """A measure with its interval; a quotient has no sign, and may have no upper end."""
    digits, is_quotient = DIGITS.get(measure["unit"], 2), measure["unit"] == "times"
    value = (points_text if is_quotient else signed)(measure["value"], digits)
    interval = interval_text(measure["low"], measure["high"], digits, sign=not is_quotient)
    if measure["high"] is None:
        interval = f"from {points_text(measure['low'], digits)}"
    return Cell(value, note=f"{interval}, {100 * measure['level']:g} %")


def mark_cell(row: Row) -> Cell:
    """The mark, with its p value and what makes it less than the last word."""
    notes = ["provisional"] if row["provisional"] else []
    if row["p_value"] is not None:
        notes.append(f"p = {row['p_value']:.3f}" if row["p_value"] >= 0.001 else "p < 0.001")
    return words(row["mark"], note=", ".join(notes), is_strong=row["mark"] in {"confirmed", "contradicted"})


def finding_records(row: Row) -> list[Row]:
    """Flat rows of a finding, one for each number behind it."""
    head = {
        "number": row["number"],
        "finding": row["title"],
        "paper": row["paper"],
        "source": row["source"],
        "mark": row["mark"],
        "provisional": row["provisional"],
        "p_value_holm": row["p_value"],
        "sentence": row["sentence"],
    }
    names = ("name", "value", "low", "high", "level", "unit", "border", "image_only")
    measures: list[Row] = row["measures"] or [dict.fromkeys(names)]
    return [{**head, **{name: measure[name] for name in names}} for measure in measures]
