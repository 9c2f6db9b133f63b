"""A study's folder as training would leave it: detections are simulated, all that follows from them is real.

The pictures are drawn scenes, the match tables, predictions and metrics come from our evaluation of the
simulated detections, the records have the form of a run's. Nothing here imports torch.
"""

import json
import math
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from groundup.config import fingerprint, read_tree
from groundup.data.world import WorldFiles, WorldOptions, write_world
from groundup.metrics.coco_ap import coco_ap
from groundup.metrics.match_table import build_match_table, write_table
from groundup.metrics.results import Kind, write_results
from groundup.metrics.tables import NAMES
from groundup.records import Log, write_json
from groundup.study.study import Study, register_study

BATCH = 4
NUM_TRAIN = 100
UNIT = 12.17
UNITS, FRACTION = "training.schedule.units", "data.fraction"
DROPS = (2 / 3, 2 / 9)
CANDIDATE, REFERENCE = "scratch", "pre-training"


@dataclass(frozen=True, kw_only=True)
class Skill:
    """How an arm's detector gets on; qualities are in logits, about 0.3 of them are 5 AP."""

    level: float = 1.0
    """Quality after endless training on all data."""
    behind: float = 2.0
    """How much worse it is before training."""
    tau: float = 0.6
    """Units in which it makes up for 63 % of that."""
    per_halving: float = 0.4
    """Quality lost by each halving of the data."""

    def quality(self, units_seen: float, drops: int, fraction: float) -> float:
        """After so many units and drops of the rate."""
        grown = self.level - self.behind * math.exp(-units_seen / self.tau)
        return grown - self.per_halving * math.log2(1 / fraction) - 0.2 * (2 - drops)


SKILLS = {CANDIDATE: Skill(behind=3.0, tau=1.0), REFERENCE: Skill(behind=1.0, tau=0.5)}
SAME = {CANDIDATE: Skill(), REFERENCE: Skill()}

Wanted = Callable[[dict[str, Any]], str]
"""From an entry of plan.json the state its run shall be in: missing, partial, done or failed."""


def write_simulated_study(
    folder: Path,
    *,
    skills: Mapping[str, Skill] = SKILLS,
    units: Sequence[float] = (1, 2, 4),
    fractions: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0, 1, 2),
    num_val: int = 40,
    margin: float = 2.0,
    rule: str = "iterations",
    num_replicates: int = 200,
    seed_noise: float = 0.1,
    masks: bool = False,
    state: Wanted = lambda entry: "done",
    study: Mapping[str, Any] | None = None,
    world: Path | None = None,
) -> Path:
    """Write the study and everything its runs would have left; `study` replaces keys of its description."""
    files = write_world(world or folder.parent / "world", 2, num_val, 5, WorldOptions(max_objects=6))
    axes: dict[str, list[Any]] = {UNITS: list(units)}
    if len(fractions) > 1:
        axes[FRACTION] = list(fractions)
    described = {
        "name": "simulated",
        "question": {
            "candidate": CANDIDATE,
            "reference": REFERENCE,
            "margin": margin,
            "rule": rule,
            "num_replicates": num_replicates,
        },
        "recipe": "faster_rcnn_tiny",
        "arms": {name: {"start": f"pretraining:{REFERENCE}"} for name in skills} | {CANDIDATE: {}},
        "axes": axes,
        "seeds": list(seeds),
        "pretraining": {REFERENCE: {"recipe": "classifier_tiny"}},
        **(study or {}),
    }
    register_study(folder, read_tree(Study, described))
    plan = list(plan_runs(files, skills, axes, seeds, folder))
    write_json(
        folder / "plan.json",
        {"runs": plan, "pretraining": [], "commands": [f"groundup study run {folder.name}"]},
    )
    if described["pretraining"]:
        write_pretraining(folder / "pretraining" / REFERENCE)
    document = json.loads(files.val_annotations.read_text())
    shared: dict[tuple[Any, ...], Path] = {}
    for entry in plan:
        write_run(folder / "runs" / entry["key"], entry, document, skills, seed_noise, masks, state, shared)
    return folder


def plan_runs(
    files: WorldFiles,
    skills: Mapping[str, Skill],
    axes: Mapping[str, list[Any]],
    seeds: Sequence[int],
    folder: Path,
) -> Iterator[dict[str, Any]]:
    """Entries of plan.json, the longest schedule of each trunk being the parent of the others."""
    longest = max(axes[UNITS])
    for arm in skills:
        for fraction in axes.get(FRACTION, [1.0]):
            unit = round(UNIT * NUM_TRAIN * fraction)
            for seed in seeds:
                for length in axes[UNITS]:
                    total = math.ceil(length * unit / BATCH) * BATCH
                    drops = [total - round(drop * unit) for drop in DROPS]
                    branch = 0 if length == longest else drops[0] // BATCH * BATCH
                    point = {UNITS: length} | ({FRACTION: fraction} if FRACTION in axes else {})
                    yield {
                        "key": key_of(arm, length, fraction, seed),
                        "arm": arm,
                        "point": point,
                        "seed": seed,
                        "total_images": total,
                        "drops": drops,
                        "warmup": 8,
                        "unit_images": unit,
                        "parent": key_of(arm, longest, fraction, seed) if branch else None,
                        "branch_images": branch,
                        "own_images": total - branch,
                        "recipe": recipe_of(files, arm, length, fraction, seed, folder),
                    }


def key_of(arm: str, length: float, fraction: float, seed: int) -> str:
    """Name of a run's folder."""
    text = f"{arm}-u{length:g}-f{fraction:g}-s{seed}"
    return f"{text}-{zlib.crc32(text.encode()) & 0xFFFFFF:06x}"


def recipe_of(
    files: WorldFiles, arm: str, length: float, fraction: float, seed: int, folder: Path
) -> dict[str, Any]:
    """The part of a plain recipe that an answer and its report read."""
    weights = None if arm == CANDIDATE else str(folder / "pretraining" / REFERENCE / "backbone.safetensors")
    return {
        "name": "faster_rcnn_tiny",
        "data": {
            "train": {"annotations": str(files.train_annotations), "images": str(files.train_images)},
            "val": {"annotations": str(files.val_annotations), "images": str(files.val_images)},
            "fraction": fraction,
        },
        "model": {"backbone": {"name": "resnet18", "norm": "gn"}},
        "start": {"weights": weights, "frozen_stages": 0},
        "training": {
            "schedule": {"units": length, "batch_size": BATCH, "lr": 0.02},
            # One arm alone keeps a checkpoint for others: no difference between the arms.
            "upkeep": {"keep_at": [8] if arm == CANDIDATE else []},
        },
        "seed": seed,
    }


def write_run(
    folder: Path,
    entry: dict[str, Any],
    document: dict[str, Any],
    skills: Mapping[str, Skill],
    seed_noise: float,
    masks: bool,
    state: Wanted,
    shared: dict[tuple[Any, ...], Path],
) -> None:
    """A run's folder in the wanted state; a partial or failed one ends half way."""
    wanted = state(entry)
    if wanted == "missing":
        return
    total, unit, drops = entry["total_images"], entry["unit_images"], entry["drops"]
    arm, seed, fraction = entry["arm"], entry["seed"], entry["point"].get(FRACTION, 1.0)
    end = total if wanted == "done" else total // 2 // BATCH * BATCH
    write_json(folder / "recipe.json", entry["recipe"])
    record = {
        "identity": {"name": entry["key"]},
        "fingerprint": fingerprint({"name": entry["key"]}),
        "categories": document["categories"],
        "dropped": {"box without area": 2},
        "command": ["groundup", "study", "run", folder.parents[1].name],
        "environment": {"python": "3.11", "threads": 1, "device": "cpu", "versions": {"torch": "2.11"}},
    }
    write_json(folder / "record.json", record)
    log = Log(folder / "log.jsonl")
    num_images = round(NUM_TRAIN * fraction)
    branch = entry["branch_images"] if entry["branch_images"] < end else 0
    heads = [{"kind": "branch", "images_seen": branch, "step": branch // BATCH, "parent": entry["parent"]}]
    heads = [*(heads if branch else []), {"kind": "start", "images_seen": branch, "step": branch // BATCH,
             "num_images": num_images, "total_images": total, "drop_points": drops}]  # fmt: skip
    evaluated = [seen for seen in range(unit // BATCH * BATCH, total, unit // BATCH * BATCH)
                 if total - seen > unit // 2] + [total]  # fmt: skip
    logged = sorted(
        {*range(unit // 5 // BATCH * BATCH + BATCH, end, unit // 5 // BATCH * BATCH + BATCH), end}
    )
    luck = random_of("luck", arm, fraction, seed).normal() * seed_noise
    for seen in sorted({*logged, *(e for e in evaluated if e <= end)}):
        while heads and seen > branch:
            log.append({**heads.pop(0), "time": "2026-01-01T00:00:00+00:00"})
        dropped = sum(seen > drop for drop in drops)
        quality = skills[arm].quality(seen / unit, dropped, fraction) + luck
        if seen in logged:
            log.append(train_record(seen, quality))
        if seen in evaluated:
            where = folder / "evaluations" / f"images_{seen:09d}"
            trunk = (arm, fraction, seed, seen) if dropped == 0 else (entry["key"], seen)
            if trunk in shared:
                shutil.copytree(shared[trunk], where)
            else:
                random = random_of(*trunk)
                evaluate_simulated(
                    where, document, quality + 0.5 * seed_noise * random.normal(), random, masks
                )
                shared[trunk] = where
            metrics = json.loads((where / "metrics.json").read_text())["metrics"]
            log.append({"kind": "evaluation", "images_seen": seen, "step": seen // BATCH, "metrics": metrics,
                        "timing": {"seconds": 1.0}, "time": "2026-01-01T00:00:00+00:00"})  # fmt: skip
    if wanted == "done":
        bill = bill_at(end)
        write_json(folder / "result.json", {"images_seen": end, "metrics": metrics, "exposure": bill})
    if wanted == "failed":
        failure = {"message": "not finite in step 7", "exit_code": 4, "time": "2026-01-01T00:00:00+00:00"}
        write_json(folder / "failure.json", failure)


def bill_at(images: int) -> dict[str, Any]:
    """The bill after so many images of a detector, linear in them."""
    return {"images": images, "instances": 4 * images, "pixels": 160 * 160 * images,
            "flops": 3_000_000_000 * images, "seconds": 0.05 * images, "joules": None}  # fmt: skip


PACE = {"seconds": 5.0, "images_per_second": 20.0, "data_wait": 0.03, "peak_memory": 3 << 29,
        "part/backward": 3.0, "part/backbone": 1.25, "part/data wait": 0.15, "part/other": 0.6}  # fmt: skip
"""How each stretch between two records went."""


def train_record(seen: int, quality: float) -> dict[str, Any]:
    """A record of the losses."""
    bill = bill_at(seen)
    loss = 0.4 + math.exp(-quality)
    return {"kind": "train", "images_seen": seen, "step": seen // BATCH, "loss": loss,
            "losses": {"loss_box": loss / 2, "loss_class": loss / 2}, "lr": 0.02,
            "timing": {"exposure_seconds": bill.pop("seconds"), **PACE}, "exposure": bill,
            "time": "2026-01-01T00:00:00+00:00"}  # fmt: skip


def write_pretraining(folder: Path, images: int = 5000) -> None:
    """A classifier's run: 64 x 64 pictures of one object each."""
    log = Log(folder / "log.jsonl")
    log.append({"kind": "start", "images_seen": 0, "step": 0, "num_images": 500, "total_images": images})
    metrics = {"top1": 0.9, "top5": 0.99}
    log.append({"kind": "evaluation", "images_seen": images, "step": 1, "metrics": metrics, "timing": {}})
    bill = {"images": images, "instances": images, "pixels": 64 * 64 * images,
            "flops": 200_000_000 * images, "seconds": 0.005 * images, "joules": None}  # fmt: skip
    write_json(folder / "result.json", {"images_seen": images, "metrics": metrics, "exposure": bill})


def random_of(*words: Any) -> np.random.Generator:
    """A generator named by words."""
    return np.random.default_rng(zlib.crc32(" ".join(map(str, words)).encode()))


def evaluate_simulated(
    folder: Path, document: dict[str, Any], quality: float, random: np.random.Generator, masks: bool
) -> None:
    """Simulated detections, evaluated and written as an evaluation's folder."""
    found = simulate_detections(document, quality, random)
    kinds: dict[Kind, list[dict[str, Any]]] = {"bbox": [{k: v for k, v in one.items() if k != "segmentation"}
                                                        for one in found]}  # fmt: skip
    if masks:
        kinds["segm"] = [{k: v for k, v in one.items() if k != "bbox"} for one in found]
    values = []
    for kind, results in kinds.items():
        values.append(coco_ap(document, results, kind))
        write_results(folder / f"predictions.{kind}.json", results)
        write_table(folder / f"matches.{kind}.npz", build_match_table(document, results, kind))
    metrics = {f"{NAMES[one.kind]}/{name}": value for one in values for name, value in one.values().items()}
    write_json(folder / "metrics.json", {"metrics": metrics} | {NAMES[v.kind]: v.to_json() for v in values})


def simulate_detections(
    document: dict[str, Any], quality: float, random: np.random.Generator
) -> list[dict[str, Any]]:
    """What a detector of that quality finds; how hard pictures and instances are is the same for all."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    category_ids = [category["id"] for category in document["categories"]]
    hardness = np.random.default_rng(1).normal(size=len(document["annotations"]))
    found = []

    def add(image: int, category: int, score: float, box: np.ndarray, outline: Any) -> None:
        height, width = sizes[image]
        x1, y1 = np.clip(box[0], 0, width - 2), np.clip(box[1], 0, height - 2)
        w, h = np.clip(box[2], 1, width - x1), np.clip(box[3], 1, height - y1)
        if outline is None:
            outline = [[x1, y1, x1 + w, y1, x1 + w, y1 + h, x1, y1 + h]]
        mask = rle.merge(rle.frPyObjects(outline, height, width))
        found.append(
            {
                "image_id": image,
                "category_id": category,
                "score": score,
                "bbox": [float(v) for v in (x1, y1, w, h)],
                "segmentation": {"size": [height, width], "counts": mask["counts"].decode()},
            }
        )

    for hard, annotation in zip(hardness, document["annotations"], strict=True):
        if annotation["iscrowd"]:
            continue
        box = np.array(annotation["bbox"])
        for duplicate in range(1 + (random.random() < 0.1)):
            ease = quality - 0.7 * hard + 0.7 * random.normal()
            if ease < -1:
                continue
            shift = random.normal(size=4) * 0.12 * math.exp(-0.5 * ease) * np.tile(box[2:], 2)
            category = annotation["category_id"]
            if random.random() < 0.3 / (1 + math.exp(2 * ease)):
                category = int(random.choice(category_ids))
            score = 1 / (1 + math.exp(-ease - 0.5 * random.normal() + duplicate))
            outline = [[v + shift[i % 2] for i, v in enumerate(ring)] for ring in annotation["segmentation"]]
            add(annotation["image_id"], category, score, box + shift, outline)
    for image, (height, width) in sizes.items():
        for _ in range(random.poisson(1.5)):
            box = np.array(
                [random.uniform(0, width - 20), random.uniform(0, height - 20), *random.uniform(10, 60, 2)]
            )
            score = 1 / (1 + math.exp(1 + 0.5 * quality + random.normal()))
            add(image, int(random.choice(category_ids)), score, box, None)
    return found
