"""Names that want to act: a page that shows them as text, asked of a browser."""

import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from drawn_answer import write_answered_study
from groundup.report.accuracy import strip_figure
from groundup.report.page import attachments, render
from groundup.report.parts import Material, build_palette
from groundup.report.sections import build_sections
from groundup.study.answer import read_answer
from groundup.study.results import read_study_results

ACT = "document.documentElement.setAttribute('data-canary','1')"
HOSTILE = (
    f"<script>{ACT}</script>",
    f'"><img src=x onerror="{ACT}">',
    f"</style><script>{ACT}</script>",
    f'</title></text></svg><svg onload="{ACT}">',
    f'<a href="javascript:{ACT}" autofocus onfocus="{ACT}" tabindex=1>x</a>',
    "{{ 7 * 7 }}{% raw %}",
    r"$\frac{1}{2}$ $\bad{",
    "\u202egnp.exe\u2066",
    "x" * 10_000,
    '=HYPERLINK("http://example.org")',
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A study in which every name, message and source is hostile."""
    folder = write_answered_study(
        tmp_path_factory.mktemp("hostile") / "study", units=(1, 2), categories=HOSTILE
    )
    results, answer = read_study_results(folder), read_answer(folder)
    arms = (HOSTILE[0], HOSTILE[1])
    question = results.question.model_copy(
        update={"text": HOSTILE[2], "candidate": arms[0], "reference": arms[1]}
    )
    study = results.study.model_copy(update={"name": HOSTILE[3], "arms": {arm: {} for arm in arms}})
    swap = dict(zip(("scratch", "pre-training"), arms, strict=True))
    runs = tuple(
        replace(
            run,
            arm=swap[run.arm],
            state="failed",
            failure=HOSTILE[row % len(HOSTILE)],
            environment={HOSTILE[2]: HOSTILE[3], "machine": {"cpu": HOSTILE[0]}},
            dropped={HOSTILE[1]: 3},
        )
        for row, run in enumerate(results.runs)
    )
    results = replace(results, question=question, study=study, runs=runs)
    bill = {**answer.bill, "rows": [{**row, "arm": swap[row["arm"]]} for row in answer.bill["rows"]]}
    for row in bill["rows"]:
        if row["pretraining"]:
            row["pretraining"] = {**row["pretraining"], "source": HOSTILE[2]}
    answer = replace(
        answer,
        sentence=HOSTILE[0],
        notes=list(HOSTILE),
        decide=list(HOSTILE),
        commands=list(HOSTILE),
        bill=bill,
        differences=[{"path": name, "values": dict.fromkeys(arms, name)} for name in HOSTILE],
        curves=[{**row, "arm": swap[row["arm"]]} for row in answer.curves],
        endpoints=[{**row, "arm": swap[row["arm"]]} for row in answer.endpoints],
        errors=[{**row, "arm": swap[row["arm"]]} for row in answer.errors],
        overfitting=[
            {**row, "arm": swap[row["arm"]], "point": {HOSTILE[1]: HOSTILE[0]}} for row in answer.overfitting
        ],
        disagreements=[{**row, "file": HOSTILE[0]} for row in answer.disagreements],
        crossover={**(answer.crossover or {}), "sentence": HOSTILE[3]},
    )
    return Material(results=results, answer=answer, palette=build_palette(results))


@pytest.fixture(scope="module")
def sections(material):
    return build_sections(material)


@pytest.fixture(scope="module")
def browser():
    found = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no browser: neither chromium nor google-chrome is on the path")
    return found


def opened(browser, path, profile):
    """The document after the browser has opened it and run whatever it runs."""
    command = [browser, *FLAGS.split(), f"--user-data-dir={profile}", "--dump-dom", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def acted(document):
    """Whether a canary set its mark on the outermost element."""
    head = re.search(r"<(html|svg)\b[^>]*>", document)
    assert head is not None
    return "data-canary" in head.group(0)


def test_a_canary_that_is_not_escaped_is_seen(browser, tmp_path):
    path = tmp_path / "open.html"
    path.write_text(f"<!doctype html><html><body>{HOSTILE[1]}</body></html>")
    assert acted(opened(browser, path, tmp_path / "profile"))


def test_no_name_acts_on_the_page_even_without_its_policy(browser, material, sections, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(render(material, strip_figure(material), sections, policy=None))
    document = opened(browser, path, tmp_path / "profile")
    assert not acted(document)
    assert "<script" not in document
    assert not re.search(r"<[^>]*\son\w+=", re.sub(r'"[^"]*"', '""', document))
    assert "&lt;script&gt;" in document


def test_no_name_acts_in_a_figure_or_a_table_file(browser, sections, tmp_path):
    files = dict(attachments([], sections))
    figure = next(text for name, text in files.items() if name.endswith("categories.svg"))
    path = tmp_path / "figure.svg"
    path.write_text(figure)
    assert not acted(opened(browser, path, tmp_path / "profile"))
    for name, text in files.items():
        if name.endswith(".csv"):
            assert not re.search(r"(^|,)\"?[=@]", text, re.MULTILINE), name


def test_nothing_on_the_page_turns_the_direction_of_writing(material, sections):
    text = render(material, strip_figure(material), sections)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f]", text)
    assert "Content-Security-Policy" in text
    assert "{{ 7 * 7 }}" in text
