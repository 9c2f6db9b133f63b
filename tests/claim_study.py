"""Studies whose truth is built in, quickly: match tables drawn from qualities that a test sets. No torch.

Unlike those of `simulated_study` they have no photographs; an end of a run takes milliseconds.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groundup.config import read_tree
from groundup.data.world import WorldFiles
from groundup.metrics.bootstrap import bootstrap_endpoints
from groundup.metrics.match_table import MatchTable, write_table
from groundup.metrics.results import Kind
from groundup.metrics.tables import NAMES
from groundup.records import Log, write_json
from groundup.study.findings import Finding, state_findings
from groundup.study.results import EVALUATION, StudyResults, read_study_results
from groundup.study.samples import Samples
from groundup.study.study import Study, register_study
from match_tables import draw_images, draw_table
from simulated_study import CANDIDATE, FRACTION, REFERENCE, SAME, UNITS, bill_at, plan_runs

NUM_IMAGES = 150
NUM_REPLICATES = 200
THRESHOLDS = (0.5, 0.75)
Quality = Callable[[str, float, float], float]
"""From arm, units and fraction the quality of its detector, in logits: 0.1 of them are about 1.5 AP."""


def draw_study(
    folder: Path,
    quality: Quality,
    *,
    units: Sequence[float] = (1, 4),
    fractions: Sequence[float] = (0.1, 1.0),
    seeds: Sequence[int] = (0, 1, 2),
    margin: float = 5.0,
    number: int = 0,
    seed_noise: float = 0.05,
    shared_luck: float = 0.0,
    careful: str | None = None,
    lost: float = 0.0,
    is_done: Callable[[dict[str, Any]], bool] = lambda entry: True,
    question: dict[str, Any] | None = None,
    kind: Kind = "bbox",
    arms: dict[str, Any] | None = None,
) -> StudyResults:
    """A study of these qualities; `number` draws it anew.

    `shared_luck` is the spread of what a seed gives to all lengths of an arm. The `careful` arm places its
    instances better than the other. `lost` is how much better the pre-trained arm is half way than at its
    end. The tables are of the `kind`.
    """
    axes: dict[str, list[Any]] = {UNITS: list(units)} | (
        {FRACTION: list(fractions)} if len(fractions) > 1 else {}
    )
    described = {
        "name": "claims",
        "question": {
            "candidate": CANDIDATE,
            "reference": REFERENCE,
            "margin": margin,
            "num_replicates": NUM_REPLICATES,
            **(question or {}),
        },
        "recipe": "faster_rcnn_tiny",
        "arms": arms or {CANDIDATE: {}, REFERENCE: {"start": f"pretraining:{REFERENCE}"}},
        "axes": axes,
        "seeds": list(seeds),
        "pretraining": {REFERENCE: {"recipe": "classifier_tiny"}},
    }
    register_study(folder, read_tree(Study, described))
    files = WorldFiles(**{field.name: folder / field.name for field in dataclasses.fields(WorldFiles)})
    plan = list(plan_runs(files, SAME, axes, seeds, folder))
    write_json(folder / "plan.json", {"runs": plan, "pretraining": [], "commands": []})
    random = np.random.default_rng([7, number])
    images = draw_images(random, NUM_IMAGES)
    luck = {(arm, seed): shared_luck * random.normal() for arm in SAME for seed in seeds}
    for entry in filter(is_done, plan):
        arm, fraction = entry["arm"], entry["point"].get(FRACTION, 1.0)
        level = quality(arm, entry["point"][UNITS], fraction) + luck[arm, entry["seed"]]
        level += seed_noise * random.normal()
        limits = (0.5, 0.65) if arm == careful else THRESHOLDS

        def drawn(level: float, limits: tuple[float, ...] = limits) -> MatchTable:
            table = draw_table(
                random, num_images=NUM_IMAGES, quality=level, per_image=images, thresholds=limits
            )
            return dataclasses.replace(table, thresholds=np.array(THRESHOLDS))

        total = entry["total_images"]
        ends = {total: drawn(level)}
        if lost:
            ends = {total // 2: drawn(level + (lost if arm == REFERENCE else 0.0)), **ends}
        write_drawn_run(folder / "runs" / entry["key"], entry, ends, fraction, kind)
    return read_study_results(folder)


def write_drawn_run(
    folder: Path, entry: dict[str, Any], ends: dict[int, MatchTable], fraction: float, kind: Kind
) -> None:
    """A finished run's records and tables."""
    log = Log(folder / "log.jsonl")
    log.append({"kind": "start", "images_seen": 0, "step": 0, "num_images": round(1000 * fraction)})
    once = np.ones((NUM_IMAGES, 1), dtype=np.int32)
    for seen, table in ends.items():
        where = folder / EVALUATION.format(seen)
        where.mkdir(parents=True)
        write_table(where / f"matches.{kind}.npz", dataclasses.replace(table, kind=kind))
        found = bootstrap_endpoints([table], once, ["AP", "AP50", "AP75"])
        metrics = {f"{NAMES[kind]}/{name}": float(one.points[0]) / 100 for name, one in found.items()}
        log.append({"kind": "evaluation", "images_seen": seen, "step": 1, "metrics": metrics})
    bill = bill_at(entry["total_images"])
    write_json(folder / "result.json", {"images_seen": entry["total_images"], "exposure": bill})


def findings_of(results: StudyResults) -> dict[int, Finding]:
    """The findings by number."""
    return {finding.number: finding for finding in state_findings(results, Samples(results.question))}
