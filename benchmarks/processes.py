"""How fast two processes of one thread train against one process of two threads, on drawn scenes.

    python benchmarks/processes.py [IMAGES]

Prints images a second of steps (loading included, evaluation and start left out) and their ratio.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from groundup.data.world import WorldOptions, write_world

KINDS = {"one process, two threads": (1, 2), "two processes, one thread": (2, 1)}
ROUNDS = 2
"""The kinds take turns, so that a change of the machine's load meets both; the best of each counts."""


def speed_of(world: Path, folder: Path, images: int, processes: int, threads: int) -> float:
    """Images a second, the first record left out, in which operations are counted."""
    data = [
        f"data.{split}.{name}={path}"
        for split in ("train", "val")
        for name, path in (
            ("annotations", world / "annotations" / f"instances_{split}.json"),
            ("images", world / split),
        )
    ]
    options = [
        "training.schedule.units=null",
        f"training.schedule.images={images}",
        f"training.schedule.unit_images={images}",
        "training.schedule.batch_size=8",
        "training.schedule.warmup_images=8",
        "training.upkeep.log_every=40",
        "training.upkeep.tensorboard=false",
        "loader.num_workers=0",
    ]
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    subprocess.run(
        [*start, "-m", "groundup", "train", "tiny_mask_rcnn", *data, *options, "--out", folder, "--quiet"],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        check=True,
        capture_output=True,
    )
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    records = [line for line in lines if line["kind"] == "train"][1:]
    return 40 * len(records) / sum(record["timing"]["seconds"] for record in records)


def main() -> None:
    """Measure and print."""
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 320
    with tempfile.TemporaryDirectory() as place:
        world = Path(place) / "world"
        write_world(world, 64, 4, 0, WorldOptions())
        best = dict.fromkeys(KINDS, 0.0)
        for number in range(ROUNDS):
            for kind, (processes, threads) in KINDS.items():
                folder = Path(place) / f"{number}-{processes}"
                found = speed_of(world, folder, images, processes, threads)
                print(f"round {number}: {kind}: {found:.2f} images/s", flush=True)
                best[kind] = max(best[kind], found)
    one, two = best.values()
    print(f"best: {one:.2f} and {two:.2f} images/s, ratio {two / one:.2f}")


if __name__ == "__main__":
    main()
