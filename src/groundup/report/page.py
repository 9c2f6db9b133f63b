"""A study's page: one HTML file that needs nothing else, with its figures and tables as files beside it."""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from groundup import __version__
from groundup.config import fingerprint, plain
from groundup.errors import CheckpointError, UsageError
from groundup.records import read_json, write_json, write_whole
from groundup.report.accounts import missing_text
from groundup.report.accuracy import question_text, strip_figure
from groundup.report.cells import csv_text
from groundup.report.frame import WIDE_WIDTH
from groundup.report.parts import Figure, Material, Section, build_palette
from groundup.report.pdf import file_pdf
from groundup.report.sections import build_sections
from groundup.report.svg import file_svg, stylesheet
from groundup.report.wording import neutral, typeset
from groundup.study.answer import ANSWER, Answer, answer_study, read_answer, write_answer
from groundup.study.results import PLAN, StudyResults, read_study_results
from groundup.study.study import PRETRAINING, RUNS, SEARCH, STUDY

REPORT = "report"
"""Folder of the report inside a study's folder."""
PAGE = "report.html"
FILES = "files.json"
"""What the last report wrote, so that the next can take away what it no longer has."""
FIGURES, TABLES = "figures", "tables"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What the browser may do for the page: show it. Source: Content Security Policy Level 3."""


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a study, its figures and its tables; the path of the page.

    A study half done has a page too, which says what is missing. `out` is a folder (None: the study's
    `report`) or the path of the page with the ending .html. What an earlier report left there is replaced.

    Raises:
        UsageError: the folder is no study's; `out` is a file of another kind.
        CheckpointError: a record of the study is damaged, or the report cannot be written.
    """
    page = page_path(folder, out)
    results = read_study_results(folder)
    answer = current_answer(folder, results)
    material = Material(results=results, answer=answer, palette=build_palette(results))
    strip, sections = strip_figure(material), build_sections(material)
    written = [
        write_file(page.parent, name, content)
        for name, content in attachments(([strip] if strip else []), sections)
    ]
    html = render(material, strip, sections)
    write_whole(page, html)
    replace_listing(page.parent, written)
    return page


def page_path(folder: Path, out: Path | None) -> Path:
    """Where the page goes.

    Raises:
        UsageError: not a folder, nor a page.
    """
    if out is None:
        return folder / REPORT / PAGE
    if out.suffix.lower() in {".html", ".htm"} and not out.is_dir():
        return out
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: a report goes to a folder or to a file that ends in .html")
    return out / PAGE


def current_answer(folder: Path, results: StudyResults) -> Answer:
    """The answer on disk where nothing has been trained since, else computed anew and written."""
    path = folder / ANSWER
    if path.exists() and path.stat().st_mtime_ns >= newest_record(folder):
        try:
            return read_answer(folder)
        except CheckpointError:  # damaged, or of another version: the runs say the same
            pass
    answer = answer_study(results)
    write_answer(folder, answer)
    return answer


def newest_record(folder: Path) -> int:
    """When a record that answers are made from was last written, in nanoseconds."""
    times = [path.stat().st_mtime_ns for path in (folder / PLAN, folder / STUDY) if path.exists()]
    for pattern in ("log.jsonl", "result.json", "failure.json"):
        times += [path.stat().st_mtime_ns for path in (folder / RUNS).glob(f"*/{pattern}")]
        times += [path.stat().st_mtime_ns for path in (folder / PRETRAINING).glob(f"*/{pattern}")]
        times += [path.stat().st_mtime_ns for path in (folder / SEARCH).glob(f"*/*/{pattern}")]
    return max(times, default=0)


def attachments(strip: list[Figure], sections: list[Section]) -> Iterator[tuple[str, str | bytes]]:
    """Name below the report's folder and content of every file beside the page."""
    for figure in [*strip, *(figure for section in sections for figure in section.figures)]:
        drawing = figure.draw(WIDE_WIDTH)
        yield f"{FIGURES}/{figure.name}.svg", file_svg(drawing, figure.title)
        yield f"{FIGURES}/{figure.name}.pdf", file_pdf(drawing, figure.title)
        if figure.records:
            yield f"{TABLES}/{figure.name}.csv", csv_text(figure.records)
    for table in (table for section in sections for table in section.tables):
        yield f"{TABLES}/{table.name}.csv", csv_text(table.records)


def write_file(folder: Path, name: str, content: str | bytes) -> str:
    """Write one file below the folder; its name."""
    write_whole(folder / name, content)
    return name


def replace_listing(folder: Path, written: list[str]) -> None:
    """Take away figures and tables of an earlier report that this one lacks, and list those it has."""
    listing = folder / FILES
    known = read_json(listing) if listing.exists() else []
    for name in known if isinstance(known, list) else []:
        parts = Path(str(name)).parts
        if name not in written and len(parts) == 2 and parts[0] in {FIGURES, TABLES} and parts[1] != "..":
            (folder / parts[0] / parts[1]).unlink(missing_ok=True)
    write_json(listing, written)


def render(
    material: Material, strip: Figure | None, sections: list[Section], *, policy: str | None = POLICY
) -> str:
    """The page's text. Everything that is not ours is escaped, on one line and in one direction."""
    templates = files("groundup.report") / "templates"
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: neutral(value) if type(value) is str else value,
    )
    environment.filters["typeset"] = typeset
    template = environment.from_string((templates / "report.html.jinja").read_text(encoding="utf-8"))
    style = (templates / "report.css").read_text(encoding="utf-8")
    question = material.results.question
    return template.render(
        answer=material.answer,
        badges=badges_of(material),
        fingerprint=fingerprint(question),
        missing=missing_text(material),
        palette=material.palette,
        policy=policy,
        question=plain(question),
        sections=sections,
        set_down=question_text(material),
        strip=strip,
        study=plain(material.results.study),
        style=Markup(stylesheet() + style),  # noqa: S704 - our own text
        tone=tone_of(material),
        version=__version__,
    )


def badges_of(material: Material) -> list[str]:
    """The verdict's kind, and that it is provisional."""
    primary: dict[str, Any] | None = material.answer.primary
    if primary is None:
        return ["No answer yet"]
    kind = str(primary["kind"])
    names = dict(zip(("candidate", "reference"), material.names, strict=True))
    words = [names.get(word, word) for word in kind.split()]
    text = " ".join(words)
    badges = [text[:1].upper() + text[1:]]
    return [*badges, "Provisional"] if material.answer.provisional else badges


def tone_of(material: Material) -> str:
    """The colour of the arm that is ahead."""
    kind = (material.answer.primary or {}).get("kind")
    if kind == "candidate ahead":
        return material.palette.tone(material.names[0])
    return material.palette.tone(material.names[1]) if kind == "reference ahead" else "ink"
