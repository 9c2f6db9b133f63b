"""All benchmarks, one after the other, and the table of the design's section 8 with what was measured.

    python benchmarks/bench.py [--quick] [--only loader index] [--guard] [--out FOLDER]

Each benchmark is a process of its own; one that fails is named, the others run, and the status is 1. Results
go to `benchmarks/results`, and the table of them all into `docs/speed.md`; with --quick to `runs/bench`
and no page. `--guard` compares each ratio with the one that was committed (`guard.py`).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from guard import compare
from harness import HERE, OURS, RESULTS, ratio_text, target_text, write_part

SUBJECTS = (
    "start_up",
    "training_step",
    "gpu_step",
    "roi_align",
    "inference",
    "index",
    "loader",
    "evaluation",
    "bootstrap",
    "sharing",
    "demonstration",
)
"""In the order of the table; each is `benchmarks/SUBJECT.py`."""
SLOWEST = 900.0
"""Seconds after which a benchmark is given up."""
MARK = "make bench"
"""Where the page has the table."""


def run(subject: str, folder: Path, *, quick: bool) -> str | None:
    """Run one benchmark; why it failed, or None."""
    print(f"== {subject}", flush=True)
    command = [
        sys.executable,
        f"benchmarks/{subject}.py",
        "--out",
        str((folder / f"{subject}.json").absolute()),
    ]
    began = time.monotonic()
    try:
        done = subprocess.run([*command, *["--quick"] * quick], check=False, cwd=HERE.parent, timeout=SLOWEST)
    except subprocess.TimeoutExpired:
        return f"not done after {SLOWEST:.0f} s"
    print(f"   {time.monotonic() - began:.0f} s", flush=True)
    return None if done.returncode == 0 else f"status {done.returncode}"


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """By subject, those that are there."""
    paths = {subject: folder / f"{subject}.json" for subject in SUBJECTS}
    found = {subject: json.loads(path.read_text()) for subject, path in paths.items() if path.exists()}
    return {subject: result for subject, result in found.items() if result.get("subject") == subject}


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """What was measured, in Markdown."""
    lines = [
        "| what | ours | peers, and how many times as fast ours is | peak memory | target | met |",
        "|---|---|---|---|---|---|",
    ]
    for subject, result in results.items():
        lines += [f"| {' | '.join(cells(row))} |" for row in result["rows"]]
        if "not_measured" in result:
            lines.append(
                f"| {subject.replace('_', ' ')} | - | - | - | - | not measured: {result['not_measured']} |"
            )
    commands = [f"`{result['command']}`" for result in results.values()]
    return [*lines, "", "Commands: " + ", ".join(commands) + ".", *conditions(results)]


def cells(row: dict[str, Any]) -> list[str]:
    """A row's cells."""
    ours = row["sides"].get(OURS)
    peers = [
        f"{name} {figure(side)}: {ratio_text(row['ratios'][name])}"
        for name, side in row["sides"].items()
        if name in row["ratios"]
    ]
    peaks = [f"{side['peak_mib']:.0f}" for side in row["sides"].values() if side["peak_mib"] is not None]
    return [
        row["name"],
        "-" if ours is None else f"{figure(ours)} {row['unit']}",
        "; ".join(peers) or "-",
        f"{' / '.join(peaks)} MiB" if peaks else "-",
        target_text(row) if row["target"] else "-",
        {True: "yes", False: "**no**", None: "-"}[row["met"]],
    ]


def figure(side: dict[str, Any]) -> str:
    """A side's median, whole where it is large."""
    return f"{side['median']:,.0f}" if side["median"] >= 1000 else f"{side['median']:.3g}"


def conditions(results: dict[str, dict[str, Any]]) -> list[str]:
    """Machine and versions, once where they are the same."""
    said = {}
    for subject, result in results.items():
        machine = {name: value for name, value in result["machine"].items() if name != "load_before"}
        words = [
            f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB",
            ", ".join(f"{name} {number}" for name, number in result["versions"].items()),
        ]
        said.setdefault("; ".join(words), []).append(subject)
    return [f"Machine of {', '.join(subjects)}: {words}." for words, subjects in said.items()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller sizes, about a minute each")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), metavar="SUBJECT")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--guard", action="store_true", help="compare with the committed ratios")
    arguments = parser.parse_args()
    folder = arguments.out or (HERE.parent / "runs" / "bench" if arguments.quick else RESULTS)
    known, failed = read_results(RESULTS), {}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as draft:
        for subject in arguments.only:
            reason = run(subject, Path(draft), quick=arguments.quick)
            written = Path(draft) / f"{subject}.json"
            if reason is None and written.exists():
                (folder / written.name).write_bytes(written.read_bytes())
            else:
                failed[subject] = reason or "no result"
    results = read_results(folder)
    lines = table(results)
    print("\n".join(lines))
    if folder == RESULTS:
        write_part(MARK, lines)
    new = {subject: results[subject] for subject in arguments.only if subject not in failed}
    worse = compare(known, new) if arguments.guard else []
    for line in [*worse, *(f"{subject} failed: {reason}" for subject, reason in failed.items())]:
        print(line, file=sys.stderr)
    sys.exit(1 if worse or failed else 0)


if __name__ == "__main__":
    main()
