"""What shared trunks save: the lengths of one arm, trained with one trunk and run by run, the same bits.

    python benchmarks/sharing.py --out benchmarks/results/sharing.json

Draws the demonstration's scenes, fewer of them, plans its scratch arm at one value of the other axes, carries
the runs out both ways, one after the other in one process, evaluations included, and compares images, seconds
and the bytes of the final weights. The longest run is the same work either way and is carried out once. The
iterations of the paper's first table are counted besides, from its plan.
"""

import tempfile
import time
from pathlib import Path

from groundup.allocator import keep_freed_memory
from groundup.config import read_tree
from groundup.data.world import write_world
from groundup.demo import SCENE_SIDE, SCENES, demo_study
from groundup.engine.checkpoint import newest_checkpoint
from groundup.engine.schedule import UNIT_BATCH, UNIT_SET, ScheduleOptions, total_images
from groundup.recipe import Recipe
from groundup.records import digest_of
from groundup.run import train_run
from groundup.study.plan import RunPlan, read_plan
from groundup.study.runner import begin_study
from groundup.study.sharing import share_trunks
from groundup.study.study import RUNS, SCRATCH
from groundup.study.worker import carry_out, with_own_weights
from harness import OURS, Row, Side, Target, cpu_seconds, parser_for, peak_mib, report

LENGTHS = (2.0, 3.0, 4.0, 5.0, 6.0)
"""Units of the paper's first table."""
TIMES_FEWER = 2.3
"""Iterations run by run over those with shared trunks. Source: the design, section 8."""
APART = "run by run"
GROUPS = 4
"""Of five lengths each: R50 and R101, from scratch and pre-trained."""


def count_table1() -> Row:
    """Iterations of the paper's first table, by our plan and run by run."""
    schedules = [ScheduleOptions(units=units) for units in LENGTHS]
    totals = [total_images(schedule, UNIT_SET) for schedule in schedules]
    shares = share_trunks(schedules, UNIT_SET)
    own = [total - share.branch_images for total, share in zip(totals, shares, strict=True)]
    iterations = {OURS: GROUPS * sum(own) / UNIT_BATCH, APART: GROUPS * sum(totals) / UNIT_BATCH}
    return Row(
        name="the paper's first table",
        unit="iterations",
        sides={name: Side(values=[count]) for name, count in iterations.items()},
        per="table",
        target=Target(at_least=TIMES_FEWER, against=APART),
    )


def small_study(folder: Path, unit_images: int, lengths: list[int]) -> list[RunPlan]:
    """Plan the scratch arm of one seed in the folder; its runs, the trunk first."""
    scenes = folder / "scenes"
    write_world(scenes, 4 * unit_images, SCENE_SIDE // 4, 0, SCENES)
    study = demo_study(folder, 0)
    alone = study.model_copy(
        update={
            "set": {
                **study.set,
                "training.schedule.unit_images": unit_images,
                "training.schedule.warmup_images": unit_images // 10,
                "loader.num_workers": 0,
            },
            "arms": {name: {"start": SCRATCH} for name in study.arms},
            "allow_equal_arms": True,
            "axes": {"training.schedule.units": lengths},
            "seeds": [0],
            "pretraining": {},
        }
    )
    begin_study(alone, folder / "study")
    runs = [run for run in read_plan(folder / "study").runs if run.arm == SCRATCH]
    return sorted(runs, key=lambda run: run.parent is not None)


def final_weights(folder: Path) -> str:
    """Digest of the weights a run ended with."""
    checkpoint = newest_checkpoint(folder)
    assert checkpoint is not None
    return digest_of(checkpoint.path / "model.safetensors")


def train_both_ways(unit_images: int, lengths: list[int]) -> Row:
    """The runs with one trunk, and each by itself."""
    keep_freed_memory()
    sides, runs, same_bits = {OURS: Side(), APART: Side()}, [], True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds, cpu = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0.0)
        for run in small_study(folder, unit_images, lengths):
            for side in sides if run.parent is not None else (OURS,):
                begun, used = time.perf_counter(), cpu_seconds()
                if side == OURS:
                    carry_out(folder / "study", run.key, quiet=True)
                else:
                    recipe = read_tree(Recipe, with_own_weights(run.recipe, folder / "study"))
                    train_run(recipe, folder / run.key, quiet=True)
                seconds[side] += time.perf_counter() - begun
                cpu[side] += cpu_seconds() - used
            if run.parent is None:
                seconds[APART], cpu[APART] = seconds[APART] + seconds[OURS], cpu[APART] + cpu[OURS]
            else:
                shared = folder / "study" / RUNS / run.key
                same_bits = same_bits and final_weights(shared) == final_weights(folder / run.key)
            runs.append({"run": run.key, "images": run.total_images, "own_images": run.own_images})
    for side, found in sides.items():
        found.values, found.cpu, found.peak_mib = [seconds[side]], [cpu[side]], peak_mib()
    totals = [sum(run[name] for run in runs) for name in ("images", "own_images")]
    return Row(
        name=f"a study of {len(runs)} lengths, unit {unit_images} images",
        sides=sides,
        amount=totals[0],
        target=Target(at_least=1.0, against=APART),
        facts={"runs": runs, "times_fewer_images": totals[0] / totals[1], "same_bits": same_bits},
    )


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--unit", type=int, default=160, help="images of a unit")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    rows = [count_table1(), train_both_ways(40 if arguments.quick else arguments.unit, arguments.lengths)]
    report("sharing", rows, arguments)
    if not rows[1].facts["same_bits"]:
        raise SystemExit("shared and separate runs ended with other weights")


if __name__ == "__main__":
    main()
