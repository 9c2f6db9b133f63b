"""An answer with everything a page can show, its numbers reckoned from plain formulas; no training behind it.

Names may be replaced by hostile ones. The folder around it is a simulated study, so photographs and
predictions are there to be drawn.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundup.config import plain
from groundup.study.answer import Answer, write_answer
from groundup.study.compare import Question
from groundup.study.findings import PAPER
from groundup.study.results import read_study_results
from simulated_study import CANDIDATE, FRACTION, REFERENCE, UNITS, write_simulated_study

UNIT_IMAGES = 1_440_000
ENDPOINT_PARTS = {"AP": 1.0, "AP50": 1.52, "AP75": 1.08, "APs": 0.55, "APm": 1.08, "APl": 1.3}
ERRORS = {
    "classification": (3.1, 2.2),
    "localisation": (7.4, 6.1),
    "both": (0.9, 0.7),
    "duplicate": (0.3, 0.2),
    "background": (4.2, 4.4),
    "missed": (9.8, 6.3),
}


def draw_answer(
    question: Question,
    *,
    units: Sequence[float] = (2, 3, 6),
    fractions: Sequence[float] = (1.0,),
    kinds: Sequence[str] = ("bbox", "segm"),
    seeds: Sequence[int] = (0, 1, 2),
    categories: Sequence[str] = ("person", "bicycle", "car", "traffic light"),
    disagreements: Sequence[dict[str, Any]] = (),
    unknown_price: bool = False,
    arms: Sequence[str] = (CANDIDATE, REFERENCE),
) -> Answer:
    """An answer for two arms or more; the last unit and first fraction hold the verdict."""
    candidate, reference = arms[0], arms[1]
    points = [{UNITS: u} | ({FRACTION: f} if len(fractions) > 1 else {}) for f in fractions for u in units]
    final = points[len(units) - 1]
    comparisons = [
        {"point": point, "kind": kind, "comparison": draw_comparison(question, arms, point, kind, len(seeds))}
        for kind in kinds
        for point in points
    ]
    primary = next(c["comparison"] for c in comparisons if c["point"] == final)
    verdict = primary["verdict"]
    extra = ("kind", "delta", "interval", "margin", "alpha")
    endpoints = [
        draw_endpoint(arm, point, endpoint, kind, seeds)
        for kind in kinds
        for point in points
        for arm in arms
        for endpoint in ENDPOINT_PARTS
    ]
    return Answer(
        question=plain(question),
        sentence=verdict["sentence"],
        provisional=len(seeds) == 1,
        primary={**primary, **{name: verdict[name] for name in extra}, "endpoint": "AP"},
        notes=list(primary["notes"]),
        point=final,
        reference_point=final,
        differences=[
            {"path": "start.weights", "values": {candidate: None, reference: "resnet50_gn.safetensors"}},
            {"path": "start.weights_digest", "values": {candidate: None, reference: "9f86d081884c7d65"}},
            {"path": "start.frozen_stages", "values": {candidate: 0, reference: 2}},
        ],
        comparisons=comparisons,
        curves=[draw_curve(arm, point, kind, seeds) for kind in kinds for arm in arms for point in points],
        crossover={
            "sentence": f"From 7,200,000 training images seen on, {candidate} is not worse than {reference} "
            "by 1 AP (95 % interval over images and seeds: from 5,760,000 to not within the budget).",
            "point": 7_200_000.0,
            "low": 5_760_000.0,
            "high": None,
            "share_reached": 0.93,
            "lower_bounds": [-9.0, -3.0, -0.8],
            "x": [u * UNIT_IMAGES for u in units],
            "unit": "training images seen",
            "in_run": False,
        },
        data_size=draw_data_size(arms, fractions) if len(fractions) > 1 else None,
        endpoints=endpoints,
        errors=[
            {
                "arm": arm,
                "error": error,
                "name": error.capitalize(),
                "dAP": lost[min(row, 1)],
                "dAP_per_seed": [lost[min(row, 1)]] * len(seeds),
                "count": round(211 * lost[min(row, 1)]),
            }
            for row, arm in enumerate(arms)
            for error, lost in ERRORS.items()
        ],
        categories=draw_categories(categories),
        disagreements=list(disagreements),
        published=[],
        overfitting=[
            {
                "arm": arm,
                "point": point,
                "train_loss_end": 0.61 - 0.02 * point[UNITS],
                "val_AP_end": ap_of(arm, point, "bbox"),
                "val_AP_best": ap_of(arm, point, "bbox") + 0.2,
                "drop_from_best": 0.2,
                "train_AP_end": ap_of(arm, point, "bbox") + 9.5,
                "gap": 9.5,
            }
            for arm in arms
            for point in points
        ],
        findings=draw_findings(arms, len(seeds)),
        bill=draw_bill_rows(arms, points, unknown_price),
        decide=["about 4 more seeds an arm", "or about 12,000 more validation photographs"],
        commands=["groundup study plan paper.yaml", "groundup study run studies/paper"],
    )


def ap_of(arm: str, point: dict[str, Any], kind: str) -> float:
    """AP points at the end of a schedule."""
    units, fraction = point[UNITS], point.get(FRACTION, 1.0)
    slow = 1.6 if arm == CANDIDATE else 0.7
    grown = 41.6 - (9 if arm == CANDIDATE else 2.5) * math.exp(-units / slow / 1.2)
    return (grown - 8 * slow * math.log10(1 / fraction)) * (0.89 if kind == "segm" else 1.0)


def draw_comparison(
    question: Question, arms: Sequence[str], point: dict[str, Any], kind: str, num_seeds: int
) -> dict[str, Any]:
    """As `Comparison.to_json` has it."""
    delta = ap_of(arms[0], point, kind) - ap_of(arms[1], point, kind)
    low, high = delta - 0.75, delta + 0.75
    inner = [delta - 0.6, delta + 0.6]
    judged = "reference ahead" if high < 0 else "inconclusive"
    if -question.margin < inner[0] and inner[1] < question.margin and judged == "inconclusive":
        judged = "equivalent"
    sentence = {
        "equivalent": f"{arms[0].capitalize()} and {arms[1]} are equivalent within {question.margin:g} AP:",
        "reference ahead": f"{arms[1].capitalize()} is ahead of {arms[0]} by {-delta:.2f} AP:",
        "inconclusive": f"Inconclusive: {arms[0]} and {arms[1]} may differ by more than {question.margin:g} "
        "AP or not at all:",
    }[judged]
    sentence += f" difference {delta:+.2f} [{low:+.2f}, {high:+.2f}]"
    sentence += f" (95 % interval over images and {num_seeds} + {num_seeds} seeds)."
    secondary = {
        name: {
            "delta": delta * part,
            "interval": [delta * part - 0.9, delta * part + 0.9],
            "p_value": 0.4,
            "differs": False,
            "image_only": False,
        }
        for name, part in ENDPOINT_PARTS.items()
        if name != "AP"
    }
    return {
        "question": plain(question),
        "fingerprint": "0123456789ab",
        "num_images": 5000,
        "points": {arm: [ap_of(arm, point, kind)] * num_seeds for arm in arms[:2]},
        "se": 0.38,
        "se_image": 0.3,
        "variance_seeds": [0.04, 0.05],
        "degrees": 11.2,
        "verdict": {
            "kind": judged,
            "provisional": num_seeds == 1,
            "beyond_margin": False,
            "negligible": False,
            "delta": delta,
            "interval": [low, high],
            "equivalence_interval": inner,
            "margin": question.margin,
            "alpha": question.alpha,
            "need": None,
            "sentence": sentence,
        },
        "secondary": secondary,
        "undefined": [],
        "notes": [],
    }


def draw_endpoint(
    arm: str, point: dict[str, Any], endpoint: str, kind: str, seeds: Sequence[int]
) -> dict[str, Any]:
    """One row of the endpoints."""
    mean = ap_of(arm, point, kind) * ENDPOINT_PARTS[endpoint]
    per_seed = [mean + 0.2 * (seed - 1) for seed in seeds]
    return {"arm": arm, "point": point, "endpoint": endpoint, "kind": kind, "mean": mean, "low": mean - 0.8,
            "high": mean + 0.8, "per_seed": per_seed, "image_only": len(seeds) == 1}  # fmt: skip


def draw_curve(arm: str, point: dict[str, Any], kind: str, seeds: Sequence[int]) -> dict[str, Any]:
    """One row of the curves: slow growth at the first rate, a jump at either drop."""
    total = point[UNITS] * UNIT_IMAGES
    drops = [total - UNIT_IMAGES * 2 / 3, total - UNIT_IMAGES * 2 / 9]
    images = [total * (row + 1) / (10 * point[UNITS]) for row in range(round(10 * point[UNITS]))]
    end = ap_of(arm, point, kind)
    slow = (2.4 if arm == CANDIDATE else 0.8) * UNIT_IMAGES
    trunk = 0.82 * ap_of(arm, {**point, UNITS: 9}, kind)

    def ap_at(x: float) -> float:
        before = trunk * (
            1 - math.exp(-(x + 0.15 * UNIT_IMAGES) / slow) * (0.95 if arm == CANDIDATE else 0.6)
        )
        if x <= drops[0]:
            return before
        return end - (0.5 if x <= drops[1] else 0.0)

    mean = [ap_at(x) for x in images]
    return {"arm": arm, "point": point, "kind": kind, "seeds": list(seeds), "images": images, "mean": mean,
            "low": [v - 0.9 for v in mean], "high": [v + 0.9 for v in mean], "image_only": len(seeds) == 1,
            "drops": drops, "per_seed": [mean for _ in seeds]}  # fmt: skip


def draw_data_size(arms: Sequence[str], fractions: Sequence[float]) -> dict[str, Any]:
    """AP over sizes of the training set."""
    sizes = [round(118_287 * f) for f in sorted(fractions)]
    found = {}
    for arm in arms:
        mean = [ap_of(arm, {UNITS: 6, FRACTION: f}, "bbox") for f in sorted(fractions)]
        found[arm] = {
            "mean": mean,
            "low": [v - 1 for v in mean],
            "high": [v + 1 for v in mean],
            "per_seed": [],
        }
    return {
        "sentence": f"With {sizes[0]:,} images, {arms[1]} is worth 3.1 times the data for {arms[0]} "
        "(95 % interval over images and seeds: 2.4 to 4.2).",
        "sizes": sizes,
        "arms": found,
        "factor": {"value": 3.1, "low": 2.4, "high": 4.2, "share_reached": 1.0},
        "size": float(sizes[0]),
        "crossover": f"From 35,486 training photographs on, {arms[0]} is not worse than {arms[1]} by 1 AP.",
    }


def draw_findings(arms: Sequence[str], num_seeds: int) -> list[dict[str, Any]]:
    """The paper's findings in its own words, with every mark."""
    marks = ("confirmed", "contradicted", "undecided", "confirmed", "not asked", "undecided")
    rows = []
    for paper, mark in zip(PAPER, marks, strict=True):
        asked = mark != "not asked"
        measure = {"name": f"{arms[0]} minus {arms[1]}", "value": -1.5, "low": -2.25, "high": None if
                   paper.number == 1 else -0.75, "level": 0.95, "unit": "AP", "border": 0.0,
                   "image_only": num_seeds == 1}  # fmt: skip
        said = f"{arms[0]} minus {arms[1]} is -1.50 [-2.25, -0.75] AP." if asked else "Not asked: one share."
        rows.append({"number": paper.number, "title": paper.title, "paper": paper.says, "source": paper.where,
                     "mark": mark, "provisional": asked and num_seeds == 1, "sentence": said,
                     "beside": [f"{arms[0]} lost 0.25 AP."] if paper.number == 5 else [],
                     "measures": [measure] if asked else [],
                     "p_value": 0.0123 if asked else None})  # fmt: skip
    return rows


def draw_categories(names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows by rising delta."""
    rows = []
    for place, name in enumerate(names):
        delta = -6 + 9 * (place + 0.5) / len(names)
        reference = 38 + 20 * math.sin(place)
        spread = 0.6 + 2.5 / (1 + place % 5)
        rows.append({"name": name, "candidate": reference + delta, "reference": reference,
                     "delta": delta, "low": delta - spread, "high": delta + spread,
                     "num_instances": 40 + 977 * place})  # fmt: skip
    return rows


def draw_bill_rows(arms: Sequence[str], points: Sequence[dict[str, Any]], unknown: bool) -> dict[str, Any]:
    """The paper's own figure 2: ImageNet at 100 epochs and 224 x 224."""
    names = ("images", "instances", "pixels", "flops", "seconds")
    source = {"images": 1.28e8, "instances": 1.28e8, "pixels": 6.42e12, "flops": None, "seconds": None,
              "kind": "estimated", "source": "1.28 M images x 100 epochs (He et al. 2019)"}  # fmt: skip
    if unknown:
        source = {**dict.fromkeys(names), "kind": "unknown", "source": ""}
    rows = []
    for arm in arms:
        for point in points:
            images = point[UNITS] * UNIT_IMAGES * point.get(FRACTION, 1.0)
            own = {"images": images, "instances": 7 * images, "pixels": 1.0664e6 * images,
                   "flops": 1.1e12 * images, "seconds": images / 20}  # fmt: skip
            made = None if arm == CANDIDATE or arm != arms[1] else source
            before = made or dict.fromkeys(names, 0.0)
            total = {n: None if before[n] is None else own[n] + before[n] for n in names}
            shared = {n: None if before[n] is None else own[n] + before[n] / 5 for n in names}
            rows.append({"arm": arm, "point": point, **own, "pretraining": made, "total": total,
                         "total_amortised": shared, "downstream_uses": 5 if made else 1})  # fmt: skip
    total = {n: sum(row[n] for row in rows) for n in names}
    sharing = {"images_run": 3.12e6 * 16, "images_unshared": 7.2e6 * 16, "factor": 7.2 / 3.12}
    total["search"] = dict.fromkeys(names, 0.2 * UNIT_IMAGES)
    return {"rows": rows, "study_total": total, "sharing": sharing}


def write_answered_study(folder: Path, **options: Any) -> Path:
    """A simulated study of two schedules and one seed with a drawn answer; its pictures are there."""
    write_simulated_study(folder, units=(1, 2), seeds=(0,), num_val=8)
    results = read_study_results(folder)
    keys = [
        next(run.key for run in results.runs_of(arm) if run.point[UNITS] == 2)
        for arm in (CANDIDATE, REFERENCE)
    ]
    rows = [
        {"image_id": image, "file": f"{image}.jpg", "candidate_found": found,
         "reference_found": other, "gt": 5,
         "candidate_run": keys[0], "reference_run": keys[1],
         "ahead": CANDIDATE if found > other else REFERENCE}
        for image, found, other in ((1, 5, 2), (2, 4, 2), (3, 1, 4), (4, 2, 4))
    ]  # fmt: skip
    write_answer(folder, draw_answer(results.question, disagreements=rows, **options))
    return folder
