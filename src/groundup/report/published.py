"""The section that sets published numbers beside the study's own."""

from groundup.report.cells import Cell, Row, Table, estimate, words
from groundup.report.parts import Material, Section
from groundup.report.tables import KIND_NAMES, MOST_OPEN_ROWS
from groundup.report.wording import NO_VALUE, place_text, points_text, signed
from groundup.study.publication import Publication

METRIC_NAMES = {"box": KIND_NAMES["bbox"], "mask": KIND_NAMES["segm"], "keypoints": KIND_NAMES["keypoints"]}
"""What the first part of a logged metric is called."""


def published_section(material: Material) -> Section | None:
    """Published numbers beside measured ones; none where no numbers were set down."""
    paper, rows = material.results.study.published, material.answer.published
    if paper is None or not rows:
        return None
    section = Section(name="published", title="Beside published numbers")
    lead = f"The numbers of {paper.title} for these arms, as they were set down before training."
    if paper.same_scale:
        lead += " " + counted_text(rows)
    else:
        lead += (
            " They are of other data at another scale and stand here for orientation: differences between "
            "the two columns mean nothing; that the arms stand in the same order may."
        )
    section.lead = [lead]
    section.tables = [published_table(paper, rows)]
    if any(row["published"] is None for row in rows):
        section.note = "A dash under the published number: the publication shows it in a figure alone."
    return section


def counted_text(rows: list[Row]) -> str:
    """How many of the numbers are met within their tolerance."""
    judged = [row for row in rows if row["difference"] is not None and row["tolerance"] is not None]
    if not judged:
        return "None of them can be compared yet."
    met = sum(is_met(row) for row in judged)
    return f"{met} of the {len(judged)} that can be compared are met within their tolerance."


def is_met(row: Row) -> bool:
    """Whether the measured value is as near as trainings of one recipe are by chance."""
    return bool(abs(row["difference"]) <= row["tolerance"])


def published_table(paper: Publication, rows: list[Row]) -> Table:
    """A row for every number."""
    head = "Published" if paper.same_scale else "Published (other data, other scale)"
    heads = ["Arm", "Metric", head, "Measured"]
    if paper.same_scale:
        heads += ["Difference", "Within tolerance"]
    return Table(
        name="published",
        title=f"{paper.title} beside this study",
        heads=(*heads, "Source"),
        rows=tuple(published_cells(paper, row) for row in rows),
        records=tuple({name: value for name, value in row.items() if name != "point"} for row in rows),
        is_folded=len(rows) > 2 * MOST_OPEN_ROWS,
    )


def published_cells(paper: Publication, row: Row) -> tuple[Cell, ...]:
    """One number beside ours."""
    cells = [
        words(row["arm"], arm=row["arm"], note=place_text(row["point"])),
        words(metric_text(row["metric"])),
        Cell(points_text(row["published"])),
        estimate(row["measured"], row["low"], row["high"]),
    ]
    if paper.same_scale:
        judged = row["difference"] is not None and row["tolerance"] is not None
        met = ("yes" if is_met(row) else "no") if judged else NO_VALUE
        note = f"of {points_text(row['tolerance'])}" if judged else ""
        cells += [Cell(signed(row["difference"], 1)), words(met, note=note)]
    return (*cells, words(row["source"]))


def metric_text(metric: str) -> str:
    """`box/AP50` as `Box AP50`."""
    kind, _, endpoint = metric.partition("/")
    return f"{METRIC_NAMES.get(kind, kind)} {endpoint}"
