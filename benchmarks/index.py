"""The annotation index at the size of COCO train2017: build, warm open, private memory of workers.

    python benchmarks/index.py --out benchmarks/results/index.json

Synthesises a json (118,287 images, 860,001 instances with polygons of 24 points), builds the index, opens
it warm in fresh processes beside pycocotools, and has 4 forked workers read every image's truth once, in
shuffled order, while their private memory is watched.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

NUM_IMAGES, NUM_INSTANCES, NUM_CATEGORIES, VERTICES = 118_287, 860_001, 80, 24
NUM_WORKERS = 4
OPEN = """
import resource, sys, time
from pathlib import Path
from groundup.data.coco import open_index
start = time.perf_counter()
index = open_index(Path(sys.argv[1]), Path(sys.argv[2]))
print(time.perf_counter() - start, index.num_instances, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
PEER = """
import contextlib, io, resource, sys, time
from pycocotools.coco import COCO
start = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()):
    COCO(sys.argv[1])
print(time.perf_counter() - start, 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write_document(path: Path, scale: float) -> None:
    """A COCO json of the size of train2017 times the scale, written as it is drawn."""
    draw = random.Random(0)
    num_images, num_instances = round(NUM_IMAGES * scale), round(NUM_INSTANCES * scale)
    with path.open("w") as file:
        file.write('{"images": [')
        for image in range(num_images):
            comma = "," if image else ""
            file.write(
                f'{comma}{{"id":{image * 3 + 9},"file_name":"{image:012d}.jpg","width":640,"height":480}}'
            )
        file.write('],"annotations":[')
        for row in range(num_instances):
            x, y = draw.uniform(0, 500), draw.uniform(0, 380)
            w, h = draw.uniform(8, 140), draw.uniform(8, 100)
            points = ",".join(
                f"{x + w * draw.random():.2f},{y + h * draw.random():.2f}" for _ in range(VERTICES - 2)
            )
            ring = f"{x:.2f},{y:.2f},{points},{x + w:.2f},{y + h:.2f}"
            comma = "," if row else ""
            file.write(
                f'{comma}{{"id":{row + 1},"image_id":{draw.randrange(num_images) * 3 + 9},'
                f'"category_id":{draw.randrange(NUM_CATEGORIES) + 1},"iscrowd":0,"area":{w * h / 2:.2f},'
                f'"bbox":[{x:.2f},{y:.2f},{w:.2f},{h:.2f}],"segmentation":[[{ring}]]}}'
            )
        categories = [{"id": c + 1, "name": f"category {c}"} for c in range(NUM_CATEGORIES)]
        file.write(f'],"categories":{json.dumps(categories)}}}')


def private_mib() -> float:
    """Memory of this process that it shares with none."""
    rows = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("Private_")) / 1024


def read_epoch(index: Any, worker: int, barrier: Any, answers: Any) -> None:
    """One worker's share of an epoch.

    Pages of the mapped file count as private to the last process that still maps them: nobody leaves early.
    """
    import gc

    gc.freeze()
    before = private_mib()
    rows = list(range(worker, index.num_images, NUM_WORKERS))
    random.Random(worker).shuffle(rows)
    early, start = 0.0, time.perf_counter()
    for place, row in enumerate(rows):
        index.truth(row)
        if place == len(rows) // 10:
            early = private_mib()
    seconds = time.perf_counter() - start
    barrier.wait()
    answers.put((before, early, private_mib(), seconds))
    barrier.wait()


def run_apart(code: str, *arguments: str) -> tuple[float, int]:
    """Seconds and peak KiB that the code prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    seconds, _, peak = done.stdout.split()
    return float(seconds), int(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "instances.json"
        write_document(path, arguments.scale)
        words = (str(path), str(folder))
        built, build_peak = run_apart(OPEN, *words)
        warm = [run_apart(OPEN, *words) for _ in range(5)]
        peer, peer_peak = run_apart(PEER, str(path))

        from groundup.data.coco import open_index

        index = open_index(path, folder)
        context = multiprocessing.get_context("fork")
        answers = context.Queue()
        barrier = context.Barrier(NUM_WORKERS)
        workers = [
            context.Process(target=read_epoch, args=(index, w, barrier, answers)) for w in range(NUM_WORKERS)
        ]
        for worker in workers:
            worker.start()
        rows = [answers.get() for _ in workers]
        for worker in workers:
            worker.join()
        report = {
            "json_mib": path.stat().st_size / 2**20,
            "build_seconds": built,
            "build_peak_mib": build_peak / 1024,
            "warm_open_seconds": median(seconds for seconds, _ in warm),
            "pycocotools_seconds": peer,
            "pycocotools_peak_mib": peer_peak / 1024,
            "worker_private_mib": [
                dict(zip(("before", "after_a_tenth", "after_an_epoch", "seconds"), row, strict=True))
                for row in rows
            ],
            "parent_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "cores": os.cpu_count(),
        }
    print(json.dumps(report, indent=2))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
