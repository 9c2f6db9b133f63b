"""What shared trunks save: the lengths of one arm and seed, trained with one trunk and run by run, same bits.

    python benchmarks/sharing.py studies/miniature --arm scratch --out benchmarks/results/sharing.json

Takes the arm's runs from a planned study, carries them out both ways in a temporary folder, one after the
other in one process, evaluations included, and compares seconds, images and the bytes of the final weights.
The longest run is the same work either way and is carried out once.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from groundup.allocator import keep_freed_memory
from groundup.config import read_tree
from groundup.engine.checkpoint import newest_checkpoint
from groundup.records import digest_of
from groundup.run import Recipe, train_run
from groundup.study.plan import RunPlan, read_plan
from groundup.study.study import RUNS
from groundup.study.worker import carry_out, with_own_weights

RECORDS = ("study.json", "question.json", "plan.json", "pretraining")


def chosen_runs(study: Path, arm: str, seed: int, point: dict[str, Any]) -> list[RunPlan]:
    """The arm's runs of one seed at one value of the other axes, the trunk first."""
    runs = [
        run
        for run in read_plan(study).runs
        if run.arm == arm and run.seed == seed and point.items() <= run.point.items()
    ]
    return sorted(runs, key=lambda run: run.parent is not None)


def final_weights(folder: Path) -> str:
    """Digest of the weights a run ended with."""
    checkpoint = newest_checkpoint(folder)
    assert checkpoint is not None
    return digest_of(checkpoint.path / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--arm", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--point", type=json.loads, default={}, help='such as {"data.fraction": 1.0}')
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    keep_freed_memory()
    runs = chosen_runs(arguments.study, arguments.arm, arguments.seed, arguments.point)
    with tempfile.TemporaryDirectory() as name:
        shared, apart = Path(name) / "shared", Path(name) / "apart"
        shared.mkdir()
        for record in RECORDS:
            source = arguments.study / record
            if source.is_dir():
                shutil.copytree(source, shared / record)
            elif source.exists():
                shutil.copy(source, shared / record)
        rows = []
        for run in runs:
            begun = time.perf_counter()
            carry_out(shared, run.key, quiet=True)
            row = {"run": run.key, "images": run.total_images, "own_images": run.own_images}
            row["shared_seconds"] = time.perf_counter() - begun
            row["apart_seconds"] = row["shared_seconds"]
            if run.parent is not None:
                begun = time.perf_counter()
                train_run(
                    read_tree(Recipe, with_own_weights(run.recipe, shared)), apart / run.key, quiet=True
                )
                row["apart_seconds"] = time.perf_counter() - begun
                row["same_bits"] = final_weights(shared / RUNS / run.key) == final_weights(apart / run.key)
            rows.append(row)
            print(row, flush=True)
    totals = {name: sum(row[name] for row in rows) for name in ("shared_seconds", "apart_seconds")}
    images = sum(row["images"] for row in rows) / sum(row["own_images"] for row in rows)
    report = {
        "rows": rows,
        **totals,
        "times_fewer_seconds": totals["apart_seconds"] / totals["shared_seconds"],
        "times_fewer_images": images,
        "same_bits": all(row.get("same_bits", True) for row in rows),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps({key: value for key, value in report.items() if key != "rows"}, indent=2))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
