"""How cost grows: with the number of images, objects an image, the image's side, loader workers, processes.

    python benchmarks/growth.py [--only images objects] [--quick] [--out FILE]

Each cost is measured at several sizes, each in a fresh process, and fitted by size to a power: 1 is linear. A
fixed cost flattens small sizes, so the power between the two largest is told beside that of all, and what is
worse than linear there is named. Without --quick the result goes to `benchmarks/results` and `docs/speed.md`;
tables of other costs stay there as they were.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from harness import HERE, OURS, RESULTS, Side, Step, machine, parser_for, race, shown, versions, write_part

SIZES: Mapping[str, tuple[int, ...]] = {
    "images": (1_000, 4_000, 16_000, 64_000, 118_287),
    "objects": (1, 10, 100, 500, 1_000, 2_000),
    "side": (128, 256, 512, 800, 1_333),
    "workers": (0, 1, 2, 4),
    "processes": (1, 2, 4),
}
QUICK: Mapping[str, tuple[int, ...]] = {
    "images": (1_000, 4_000),
    "objects": (1, 100, 2_000),
    "side": (128, 256),
    "workers": (0, 1),
    "processes": (1, 2),
}
INSTANCES_PER_IMAGE = 7.27
"""Source: COCO train2017, 860,001 of 118,287."""
PICTURE_SIDES = (320, 480)
"""Height and width of the training step whose objects grow."""
WORSE = 1.15
"""A power above this is worse than linear: what is measured is some percent apart."""
MARK = "make growth"
"""Where the page has the table."""
MEMORY_LIMIT_MIB = 4096
"""Of a step with 2,000 objects. Source: issue 5 of this project."""
REPEATS = 5
"""Of what takes milliseconds; the least counts, which other work on the machine disturbs least."""
BATCHES = 24
"""Of two photographs, that workers are timed with."""


class Table(dict[str, Any]):
    """One cost by size."""


def growth(name: str, sizes: Sequence[int], costs: Sequence[float], unit: str = "s", **more: Any) -> Table:
    """The table of a cost with its powers; `more` are other columns."""
    known = [(size, cost) for size, cost in zip(sizes, costs, strict=True) if size > 0 and cost > 0]
    return Table(
        name=name,
        unit=unit,
        sizes=list(sizes),
        costs=list(costs),
        power=power(known),
        power_at_the_end=power(known[-2:]),
        is_worse_than_linear=(power(known[-2:]) or 0.0) > WORSE,
        **{key: list(values) for key, values in more.items()},
    )


def power(points: Sequence[tuple[float, float]]) -> float | None:
    """The power of size that fits the costs best; None of fewer than two sizes."""
    if len({size for size, _ in points}) < 2:
        return None
    sizes, costs = np.log(np.array(points)).T
    return float(np.polyfit(sizes, costs, 1)[0])


def alone(build: Callable[[], Step], *, turns: int = 1, warmups: int = 1) -> Side:
    """One side in a fresh process."""
    return race({OURS: build}, turns=turns, warmups=warmups)[OURS]


# Images


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def index_side(path: Path, images: Path) -> Step:
    """Index, order and first batch of one annotation file, each timed by itself."""
    from groundup.allocator import keep_freed_memory
    from groundup.data.coco import open_index
    from groundup.data.loader import LoaderOptions, train_batches, training_order, usable_rows
    from groundup.data.transforms import TransformOptions

    keep_freed_memory()

    def step() -> dict[str, float]:
        with TemporaryDirectory() as cache:
            build, _ = timed(lambda: open_index(path, images, cache=Path(cache)))
            warm, index = timed(lambda: open_index(path, images, cache=Path(cache)))
            order, _ = timed(lambda: next(training_order(index, usable_rows(index), 0, 0, 2)))
            options = LoaderOptions(num_workers=0)
            batches = train_batches(index, TransformOptions(short_side=(64,)), options, batch_size=2, seed=0)
            first, _ = timed(lambda: next(batches))
        return {"build": build, "open": warm, "order": order, "first": first}

    return step


def grow_images(sizes: Sequence[int]) -> Iterator[Table]:
    """What opening a set and beginning to read it cost."""
    from index import write_document

    rows, peaks = [], []
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder, max(sizes))
        for size in sizes:
            path = folder / f"{size}.json"
            write_document(path, size, round(size * INSTANCES_PER_IMAGE))
            side = alone(functools.partial(index_side, path, folder), warmups=0)
            rows.append(side.found)
            peaks.append(side.peak_mib)
            path.unlink()
    names = {
        "build": "index built",
        "open": "index opened warm",
        "order": "an epoch's order",
        "first": "first batch, order included",
    }
    for key, label in names.items():
        more = {"peak_mib": peaks} if key == "build" else {}
        yield growth(f"images: {label}", sizes, [row[key] for row in rows], **more)


def write_pictures(folder: Path, count: int) -> None:
    """One grey picture under all names."""
    import cv2

    from index import picture_name

    cv2.imwrite(str(folder / "picture.jpg"), np.full((480, 640, 3), 128, np.uint8))
    for image in range(count):
        (folder / picture_name(image)).symlink_to(folder / "picture.jpg")


# Objects


def objects_side(count: int) -> Step:
    """A training step with so many objects in one image."""
    import torch

    from groundup.allocator import keep_freed_memory
    from pictures import build_batch
    from training_step import build_ours, ours_step

    keep_freed_memory()
    torch.manual_seed(0)
    batch = build_batch(*PICTURE_SIDES, 1, count)
    return ours_step(build_ours(batch), batch)


def targets_side(count: int) -> Step:
    """What lies between decoded pixels and a batch: truth, masks, padding; and the RPN's targets."""
    import torch

    from groundup.data.collate import build_batch, build_sample
    from groundup.ops.matching import match_boxes
    from pictures import build_shown

    shown_pictures = build_shown(*PICTURE_SIDES, 1, count)
    image = np.ascontiguousarray(shown_pictures.batch.images[0].permute(1, 2, 0).numpy())
    truth = shown_pictures.truths[0]
    torch.manual_seed(0)
    corners = torch.rand(40_000, 2) * 400
    anchors = torch.cat([corners, corners + 32], dim=1)

    def collate() -> Any:
        return build_batch([build_sample(image, truth, PICTURE_SIDES, 0, 0)])

    def match() -> None:
        batch = shown_pictures.batch
        match_boxes(batch.boxes, batch.labels, anchors[None], fg_iou=0.7, bg_iou=0.3, keeps_best=True)

    def step() -> dict[str, float]:
        works = {"collate": collate, "match": match}
        return {name: min(timed(work)[0] for _ in range(REPEATS)) for name, work in works.items()}

    return step


def grow_objects(sizes: Sequence[int]) -> Iterator[Table]:
    """What objects cost before the model and in it."""
    before = [alone(functools.partial(targets_side, count), turns=3).found for count in sizes]
    steps = [alone(functools.partial(objects_side, count)) for count in sizes]
    yield growth("objects: truth to batch", sizes, [row["collate"] for row in before])
    yield growth("objects: 40,000 anchors matched", sizes, [row["match"] for row in before])
    peaks = [side.peak_mib for side in steps]
    table = growth("objects: training step", sizes, [median(side.values) for side in steps], peak_mib=peaks)
    yield table
    yield growth("objects: memory of that step", sizes, [peak or 0.0 for peak in peaks], unit="MiB")


# Sides


def side_side(side: int) -> Step:
    """A training step on one square image."""
    import torch

    from groundup.allocator import keep_freed_memory
    from pictures import build_batch
    from training_step import build_ours, ours_step

    keep_freed_memory()
    torch.manual_seed(0)
    batch = build_batch(side, side, 1)
    return ours_step(build_ours(batch), batch)


def grow_sides(sizes: Sequence[int]) -> Iterator[Table]:
    """What pixels cost; the sizes are numbers of pixels."""
    steps = [alone(functools.partial(side_side, side)) for side in sizes]
    pixels = [side * side for side in sizes]
    costs, peaks = [median(one.values) for one in steps], [one.peak_mib for one in steps]
    yield growth("pixels: training step", pixels, costs, sides=sizes, peak_mib=peaks)


# Workers and processes


WORKERS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import growth
print(json.dumps(growth.time_workers(int(sys.argv[2]))))
"""


def time_workers(count: int) -> dict[str, float]:
    """Seconds until the first batch of so many workers, and photographs a second after that."""
    from groundup.allocator import keep_freed_memory
    from groundup.data.loader import LoaderOptions, train_batches
    from groundup.data.transforms import TransformOptions
    from pictures import open_pictures

    keep_freed_memory()
    options, transforms = LoaderOptions(num_workers=count), TransformOptions(short_side=(800,))
    batches = train_batches(open_pictures(), transforms, options, batch_size=2, seed=0)
    start, _ = timed(lambda: next(batches))
    rest, _ = timed(lambda: [next(batches) for _ in range(BATCHES)])
    return {"start": start, "rate": 2 * BATCHES / rest}


def workers_alone(count: int) -> dict[str, float]:
    """The same in a program of its own, as a training is."""
    command = [sys.executable, "-c", WORKERS, str(HERE), str(count)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def grow_workers(sizes: Sequence[int]) -> Iterator[Table]:
    """What workers bring; there are only so many cores."""
    rows = [workers_alone(count) for count in sizes]
    yield growth("workers: first batch", sizes, [row["start"] for row in rows])
    yield growth("workers: input", sizes, [row["rate"] for row in rows], unit="images/s")


def grow_processes(sizes: Sequence[int]) -> Iterator[Table]:
    """What processes (gloo) bring that share this machine's cores."""
    from groundup.data.world import WorldOptions, write_world
    from processes import speed_of

    rates = []
    with TemporaryDirectory() as name:
        world = Path(name) / "world"
        write_world(world, 64, 4, 0, WorldOptions())
        for count in sizes:
            threads = max(1, (os.cpu_count() or 1) // count)
            rates.append(speed_of(world, Path(name) / str(count), 120, count, threads))
    yield growth("processes: tiny_mask_rcnn, batches of 8", sizes, rates, unit="images/s")


SUBJECTS: Mapping[str, Callable[[Sequence[int]], Iterator[Table]]] = {
    "images": grow_images,
    "objects": grow_objects,
    "side": grow_sides,
    "workers": grow_workers,
    "processes": grow_processes,
}


def markdown(tables: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The tables as they stand in a page."""
    yield "| cost | at | is | power (at the end) | peak memory, MiB |"
    yield "|---|---|---|---|---|"
    for table in tables:
        is_rate = table["unit"] == "images/s"
        powers = "-"
        if table["power"] is not None and not is_rate:
            powers = f"{table['power']:.2f} ({table['power_at_the_end']:.2f})"
            powers += " **worse than linear**" if table["is_worse_than_linear"] else ""
        sizes = " / ".join(f"{size:,}" for size in table["sizes"])
        costs = " / ".join(number(cost) for cost in table["costs"])
        peaks = " / ".join(f"{peak:,.0f}" for peak in table.get("peak_mib", ())) or "-"
        yield f"| {table['name']} | {sizes} | {costs} {table['unit']} | {powers} | {peaks} |"


def number(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def check_memory(tables: Sequence[Mapping[str, Any]]) -> str | None:
    """What is wrong where the most objects take more than they may."""
    for table in tables:
        if table["name"] == "objects: training step" and max(table["peak_mib"]) > MEMORY_LIMIT_MIB:
            return f"{max(table['sizes'])} objects took {max(table['peak_mib']):.0f} MiB"
    return None


def main() -> None:
    parser: argparse.ArgumentParser = parser_for(__doc__)
    parser.add_argument("--only", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else SIZES
    is_committed = arguments.out is None and not arguments.quick
    if is_committed:
        arguments.out = RESULTS / "growth.json"
    tables = kept_tables(arguments)
    for subject in arguments.only:
        print(f"== {subject}", file=sys.stderr, flush=True)
        new = list(SUBJECTS[subject](sizes[subject]))
        print("\n".join(markdown(new)), flush=True)
        names = {table["name"] for table in new}
        tables = [table for table in tables if table["name"] not in names] + new
        keep(tables, arguments)
        if is_committed:
            write_part(MARK, list(markdown(tables)))
    fault = check_memory(tables)
    if fault is not None:
        raise SystemExit(fault)


def keep(tables: Sequence[Table], arguments: argparse.Namespace) -> None:
    """Write the result, if it has a place."""
    if arguments.out is None:
        return
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "subject": "growth",
        "command": " ".join(["python", "benchmarks/growth.py", *shown(sys.argv[1:])]),
        "quick": arguments.quick,
        "machine": machine(),
        "versions": versions(),
        "rows": [],
        "tables": tables,
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


def kept_tables(arguments: argparse.Namespace) -> list[Table]:
    """Those of subjects that are not measured now, where the result has some."""
    if arguments.out is None or not arguments.out.exists():
        return []
    return [Table(table) for table in json.loads(arguments.out.read_text())["tables"]]


if __name__ == "__main__":
    main()
