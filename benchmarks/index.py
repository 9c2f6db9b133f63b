"""The annotation index at the size of COCO train2017: build, warm open, private memory of workers.

    python benchmarks/index.py --out benchmarks/results/index.json

Synthesises a json (118,287 images, 860,001 instances with polygons of 24 points), builds the index beside
pycocotools' and hotcoco's reading of it, opens it warm, each time in a fresh process, and has 4 forked
workers read every image's truth once, in shuffled order, while their private memory is watched.
"""

import contextlib
import functools
import io
import itertools
import json
import multiprocessing
import random
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness import OURS, Row, Side, Step, Target, parser_for, race, report

NUM_IMAGES, NUM_INSTANCES, NUM_CATEGORIES, VERTICES = 118_287, 860_001, 80, 24
NUM_WORKERS = 4
OPEN_SECONDS, PRIVATE_MIB = 0.5, 50.0
"""Of a warm open, and of a worker. Source: the design, section 8."""
QUICK_SCALE = 0.05


def picture_name(image: int) -> str:
    """As COCO names photographs."""
    return f"{image:012d}.jpg"


def write_document(path: Path, num_images: int, num_instances: int) -> None:
    """A COCO json like train2017's, written as it is drawn."""
    draw = random.Random(0)
    with path.open("w") as file:
        file.write('{"images": [')
        for image in range(num_images):
            comma = "," if image else ""
            name = picture_name(image)
            file.write(f'{comma}{{"id":{image * 3 + 9},"file_name":"{name}","width":640,"height":480}}')
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


def building_side(path: Path) -> Step:
    """Ours, for the first time: read, checked, written as a table."""
    from groundup.data.coco import open_index

    places = itertools.count()

    def step() -> int:
        with TemporaryDirectory() as cache:
            return open_index(path, path.parent, cache=Path(cache) / str(next(places))).num_instances

    return step


def opening_side(path: Path, cache: Path) -> Step:
    """Ours, built before."""
    from groundup.data.coco import open_index

    return lambda: open_index(path, path.parent, cache=cache).num_instances


def pycocotools_side(path: Path) -> Step:
    """pycocotools."""  # noqa: D403
    from pycocotools.coco import COCO

    def step() -> int:
        with contextlib.redirect_stdout(io.StringIO()):
            return len(COCO(str(path)).anns)

    return step


def hotcoco_side(path: Path) -> Step:
    """hotcoco."""  # noqa: D403
    import hotcoco

    def step() -> int:
        with contextlib.redirect_stdout(io.StringIO()):
            return len(hotcoco.COCO(str(path)).get_ann_ids())

    return step


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


def measure_workers(path: Path, cache: Path) -> Row:
    """Private memory of forked workers after an epoch."""
    from groundup.data.coco import open_index

    index = open_index(path, path.parent, cache=cache)
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
    names = ("before", "after_a_tenth", "after_an_epoch", "seconds")
    return Row(
        name=f"private memory of {NUM_WORKERS} workers after an epoch, {index.num_images} images",
        unit="MiB",
        sides={OURS: Side(values=[row[2] for row in rows])},
        amount=index.num_images / NUM_WORKERS,
        target=Target(at_most=PRIVATE_MIB),
        facts={"workers": [dict(zip(names, row, strict=True)) for row in rows]},
    )


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    arguments = parser.parse_args()
    scale = QUICK_SCALE if arguments.quick else arguments.scale
    num_images, num_instances = round(NUM_IMAGES * scale), round(NUM_INSTANCES * scale)
    what = f"{num_images} images, {num_instances} instances"
    with TemporaryDirectory() as name:
        path, cache = Path(name) / "instances.json", Path(name) / "cache"
        write_document(path, num_images, num_instances)
        print(f"  drawn: {path.stat().st_size / 2**20:.0f} MiB", file=sys.stderr)
        peers = {
            "pycocotools": functools.partial(pycocotools_side, path),
            "hotcoco": functools.partial(hotcoco_side, path),
        }
        building = race(
            {OURS: functools.partial(building_side, path), **peers},
            turns=arguments.turns or 1,
            warmups=0,
            fresh=True,
        )
        opening = functools.partial(opening_side, path, cache)
        race({OURS: opening}, turns=1, warmups=0)  # the build
        warm = race({OURS: opening}, turns=5, warmups=0, fresh=True)
        # An epoch's readers need the peers' structures as often as they start: the warm open replaces them.
        warm |= {peer: building[peer] for peer in peers}
        rows = [
            Row(name=f"index built, {what}", sides=building, amount=num_images),
            Row(
                name=f"index opened warm, {what}",
                sides=warm,
                amount=num_images,
                target=Target(at_most=OPEN_SECONDS),
            ),
            measure_workers(path, cache),
        ]
        facts = {"json_mib": path.stat().st_size / 2**20}
    report("index", rows, arguments, **facts)


if __name__ == "__main__":
    main()
