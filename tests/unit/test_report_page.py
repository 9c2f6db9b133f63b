"""The page of a study: its structure, its numbers, what it does where things are missing."""

import csv
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from drawn_answer import write_answered_study
from groundup.errors import UsageError
from groundup.report.page import write_report
from groundup.report.wording import interval_text, points_text, signed, typeset
from groundup.study.answer import read_answer, write_answer
from groundup.study.study import load_study
from simulated_study import write_simulated_study

SECTIONS = [
    "answer",
    "differences",
    "curves",
    "endpoints",
    "data",
    "findings",
    "bill",
    "errors",
    "disagreements",
    "categories",
    "overfitting",
    "decide",
    "runs",
    "dropped",
    "commands",
]
VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """Elements with their attributes and all text, of a page whose elements nest."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.open, self.tables = [], [], [], {}
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "figure" and dict(attributes).get("id", "").startswith("table-"):
            self.table = self.tables.setdefault(dict(attributes)["id"].removeprefix("table-"), [])
        if tag == "tr":
            self.table.append([])
        if tag in {"th", "td"}:
            self.table[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} closes another element"

    def handle_data(self, data):
        self.words.append(data)
        if "table" in self.open and self.open[-1] != "caption" and data.strip():
            self.table[-1][-1] += data.strip() + " "

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_answered_study(
        tmp_path_factory.mktemp("study") / "paper", units=(1, 2), fractions=(1.0, 0.3, 0.1)
    )


@pytest.fixture(scope="module")
def path(study):
    return write_report(study)


@pytest.fixture(scope="module")
def page(path):
    return Page(path.read_text())


def test_the_page_loads_nothing_and_runs_nothing(path, page):
    text = path.read_text()
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        assert not [name for name in attributes if name.startswith("on") or name in {"srcset", "style"}]
        if "src" in attributes:
            assert attributes["src"].startswith("data:image/jpeg;base64,")
        if "href" in attributes:
            assert attributes["href"].startswith(("#", "figures/", "tables/"))
    assert "@import" not in text
    assert "url(" not in text
    assert "http" not in page.text


def test_all_sections_stand_in_order(page):
    found = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert found == SECTIONS


def test_the_answer_comes_first_with_its_interval(study, page):
    answer = read_answer(study)
    main = [tag for tag, _ in page.elements].index("main")
    assert page.elements[main + 1][1]["id"] == "answer"
    assert typeset(answer.sentence) in page.text
    low, high = answer.primary["interval"]
    assert f"{signed(answer.primary['delta'])} {interval_text(low, high)}" in page.text


def test_every_difference_between_arms_is_listed(study, page):
    answer = read_answer(study)
    assert [row[0].strip() for row in page.tables["differences"][1:]] == [
        row["path"] for row in answer.differences
    ]


def test_numbers_on_the_page_are_those_of_the_answer(study, page):
    answer = read_answer(study)
    rows = page.tables["endpoints_bbox"][1:]
    mine = [row for row in answer.endpoints if row["kind"] == "bbox"]
    shown = [cell.split()[0] for row in rows for cell in row[1:]]
    assert len(shown) == len(mine)
    groups = {}
    for row in mine:
        groups.setdefault((str(row["point"]), row["arm"]), []).append(points_text(row["mean"]))
    assert shown == [value for values in groups.values() for value in values]


def test_every_finding_of_the_paper_has_its_row_and_its_numbers_a_file(study, path, page):
    answer = read_answer(study)
    rows = page.tables["findings"][1:]
    assert len(rows) == len(answer.findings) == 6
    for shown, row in zip(rows, answer.findings, strict=True):
        assert shown[0].startswith(f"{row['number']}. {row['title']}")
        assert typeset(row["sentence"]) == shown[2].strip()
        assert row["mark"] in shown[1]
    assert f"To finding 5: {answer.findings[4]['beside'][0]}" in page.text
    with (path.parent / "tables" / "findings.csv").open(newline="") as file:
        records = list(csv.DictReader(file))
    measures = [measure for row in answer.findings for measure in row["measures"]]
    assert [float(one["value"]) for one in records if one["value"]] == [one["value"] for one in measures]


def test_speed_waiting_and_memory_of_each_arm_are_told(study, page):
    rows = [[cell.strip() for cell in row] for row in page.tables["speed"]]
    assert [row[0] for row in rows[1:]] == list(load_study(study).arms)
    for row in rows[1:]:
        assert row[1:4] == ["20.0", "3.0 %", "1.50 GiB"]
        assert row[4].startswith("backward 60 %, backbone 25 %")


def test_searches_are_on_the_bill(page):
    parts = [row[1].strip() for row in page.tables["bill"][1:]]
    assert parts[-2:] == ["in all", "of that, searches"]
    assert page.tables["bill"][-1][2].strip() == "288 k"


def test_tables_as_files_hold_every_number_in_full(study, path):
    answer = read_answer(study)
    with (path.parent / "tables" / "categories.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["delta"]) for row in rows] == [row["delta"] for row in answer.categories]
    with (path.parent / "tables" / "curves_bbox.csv").open(newline="") as file:
        means = [float(row["mean"]) for row in csv.DictReader(file)]
    assert means == [value for curve in answer.curves for value in curve["mean"]]


def test_every_figure_and_table_of_the_page_has_its_files(path, page):
    links = {a["href"] for tag, a in page.elements if tag == "a" and not a["href"].startswith("#")}
    there = {f"{p.parent.name}/{p.name}" for p in path.parent.glob("*/*")}
    assert links == there
    names = {
        a["id"].removeprefix("figure-") for t, a in page.elements if t == "figure" and "chart" in a["class"]
    }
    assert {p.stem for p in path.parent.glob("figures/*.svg")} == names
    assert {p.stem for p in path.parent.glob("figures/*.pdf")} == names


def test_both_directions_of_disagreement_are_shown(page):
    assert "scratch finds more" in page.text
    assert "pre-training finds more" in page.text
    assert sum(tag == "img" for tag, _ in page.elements) == 12


def test_equal_studies_give_equal_bytes(study, path, tmp_path):
    again = write_report(study, tmp_path)
    assert again == tmp_path / "report.html"
    first = {p.relative_to(path.parent): p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
    second = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert first == second


def test_a_report_replaces_the_one_before(study, tmp_path):
    out = tmp_path / "out"
    write_report(study, out)
    (out / "figures" / "of_my_own.svg").write_text("mine")
    answer = read_answer(study)
    write_answer(study, replace(answer, data_size=None))
    try:
        write_report(study, out / "page.html")
    finally:
        write_answer(study, answer)
    assert not (out / "figures" / "data_sizes.svg").exists()
    assert not (out / "tables" / "data_sizes.csv").exists()
    assert (out / "figures" / "of_my_own.svg").exists()
    assert (out / "figures" / "bill.svg").exists()


def test_what_is_unknown_is_said_to_be(tmp_path):
    folder = write_answered_study(tmp_path / "study", units=(1, 2), unknown_price=True, seeds=(0,))
    page = Page(write_report(folder).read_text())
    assert "unknown + " in page.text
    assert "not known in full" in page.text
    assert "Provisional" in page.text


def test_another_output_than_a_page_is_refused(study, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        write_report(study, tmp_path / "notes.txt")


@pytest.mark.parametrize("state", ["missing", "partial", "failed"])
def test_a_study_half_done_has_a_page_that_says_what_is_missing(tmp_path, state):
    def wanted(entry):
        return "done" if entry["arm"] == "scratch" else state

    folder = write_simulated_study(tmp_path / "study", units=(1,), seeds=(0,), num_val=6, state=wanted)
    page = Page(write_report(folder).read_text())
    assert "1 of 2 runs are done" in page.text
    assert "No answer yet" in page.text
    if state == "failed":
        assert "not finite in step 7" in page.text


def test_a_study_without_a_run_has_a_page(tmp_path):
    folder = write_simulated_study(
        tmp_path / "study", units=(1,), seeds=(0,), num_val=3, state=lambda entry: "missing"
    )
    assert "0 of 2 runs are done" in Page(write_report(folder).read_text()).text
    (folder / "plan.json").unlink()
    (folder / "answer.json").unlink()
    assert "Nothing has been run yet" in Page(write_report(folder).read_text()).text


def test_photographs_that_moved_are_said_to_be_gone(tmp_path):
    folder = write_answered_study(tmp_path / "study", units=(1, 2))
    images = next(tmp_path.glob("world/val*"), None) or tmp_path / "world"
    images.rename(tmp_path / "elsewhere")
    page = Page(write_report(folder).read_text())
    assert not any(tag == "img" for tag, _ in page.elements)
    assert "not shown" in page.text


def test_an_answer_that_is_older_than_the_runs_is_computed_anew(tmp_path):
    folder = write_simulated_study(tmp_path / "study", units=(1,), seeds=(0,), num_val=6, num_replicates=100)
    write_report(folder)
    answer = read_answer(folder)
    write_answer(folder, replace(answer, sentence="An old sentence."))
    assert "An old sentence." in Page(write_report(folder).read_text()).text
    log = next(folder.glob("runs/*/log.jsonl"))
    log.write_bytes(log.read_bytes())
    text = Page(write_report(folder).read_text()).text
    assert "An old sentence." not in text
    assert typeset(answer.sentence) in text


def test_a_page_is_made_without_torch():
    command = "import sys, groundup.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


def test_templates_lie_beside_the_code():
    folder = Path(sys.modules["groundup.report.page"].__file__).parent / "templates"
    assert {path.name for path in folder.iterdir()} == {"report.html.jinja", "report.css"}
