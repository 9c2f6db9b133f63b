"""What a study cost: each arm's training with the making of its start, and all that was run, once.

A quantity that is not known is None; a sum with a part that is not known is None, never too small.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundup.metrics.exposure import Exposure
from groundup.records import Log
from groundup.study.points import Place, Point, done_runs, lengths_beside, starts_from_nothing
from groundup.study.results import LOG, RunResult, StudyResults, branch_exposure, exposure_of_run
from groundup.study.study import SEARCH, pretraining_of

QUANTITIES = ("images", "instances", "pixels", "flops", "seconds")
"""What is billed, in this order."""

Row = dict[str, Any]
Cost = dict[str, float | None]
"""Value of each quantity; None where it is not known."""


def study_bill(results: StudyResults, place: Place, notes: list[str]) -> Row:
    """The bill of the answer: a row for each arm, the study's total, and what sharing trunks saved."""
    rows = []
    for arm in results.study.arms:
        point = place.candidate if arm == results.question.candidate else place.reference
        rows.append(arm_row(results, arm, point, notes))
    return {
        "rows": rows,
        "study_total": study_total(results),
        "sharing": sharing(results.runs),
    }


def arm_row(results: StudyResults, arm: str, point: Point, notes: list[str]) -> Row:
    """One training of the arm, the mean over its seeds, and the making of its start.

    Where it is not done at the point, its longest schedule that is done stands for it.
    """
    runs = done_runs(results, arm, point)
    if not runs:
        others = [p for p in lengths_beside(results, arm, point) if done_runs(results, arm, p)]
        if others:
            point, runs = others[-1], done_runs(results, arm, others[-1])
            notes.append(
                f"bill: {arm} is not done at the primary comparison's point; a shorter one is billed"
            )
    own = mean_cost([run.exposure for run in runs if run.exposure is not None])
    made = cost_of_start(results, arm)
    uses = int(made["downstream_uses"]) if made else 1
    return {
        "arm": arm,
        "point": point,
        **own,
        "num_runs": len(runs),
        "pretraining": made,
        "total": added(own, made),
        "total_amortised": added(own, made, share=1 / uses),
        "downstream_uses": uses,
    }


def cost_of_start(results: StudyResults, arm: str) -> Row | None:
    """What the arm's start cost, with how that is known; None from scratch."""
    if starts_from_nothing(results, arm):
        return None
    price = results.study.prices.get(arm)
    made = pretraining_of(results.study, arm)
    if made is not None:
        uses = price.downstream_uses if price else 1
        exposure = results.pretraining[made].exposure
        if exposure is None:
            missing = f"pre-training '{made}' of this study, not begun"
            return {**cost_of(None), "kind": "unknown", "source": missing, "downstream_uses": uses}
        state = results.pretraining[made].state
        source = f"pre-training '{made}' of this study" + ("" if state == "done" else ", not ended yet")
        return {**cost_of(exposure), "kind": "measured", "source": source, "downstream_uses": uses}
    if price is None:
        return {**cost_of(None), "kind": "unknown", "source": "no price is given", "downstream_uses": 1}
    values = {name: getattr(price, name) for name in QUANTITIES}
    return {
        **values,
        "kind": price.kind,
        "source": price.source,
        "downstream_uses": price.downstream_uses,
    }


def cost_of(exposure: Exposure | None) -> Cost:
    """A bill as quantities."""
    return {name: None if exposure is None else float(getattr(exposure, name)) for name in QUANTITIES}


def mean_cost(bills: Sequence[Exposure]) -> Cost:
    """The mean of several bills; not known without any."""
    if not bills:
        return cost_of(None)
    return {name: sum(float(getattr(one, name)) for one in bills) / len(bills) for name in QUANTITIES}


def added(own: Cost, made: Row | None, share: float = 1.0) -> Cost:
    """Training and a share of the start's making; not known where either is not."""
    total: Cost = {}
    for name in QUANTITIES:
        training, start = own[name], 0.0 if made is None else made[name]
        total[name] = None if training is None or start is None else training + share * start
    return total


def study_total(results: StudyResults) -> Row:
    """All that was run in this study so far, trunks once; weights made elsewhere are not in it."""
    runs = sum((own_exposure(run.exposure, run.trunk_exposure) for run in results.runs), Exposure())
    made = sum((one.exposure or Exposure() for one in results.pretraining.values()), Exposure())
    searched = searched_exposure(results.folder)
    return {
        **cost_of(runs + made + searched),
        "num_runs": sum(run.state == "done" for run in results.runs),
        "pretraining": cost_of(made),
        "search": cost_of(searched),
    }


def searched_exposure(folder: Path) -> Exposure:
    """What the study's searches cost, trunks once."""
    total = Exposure()
    for log in sorted((folder / SEARCH).rglob(LOG)):
        records = list(Log(log).read())
        total = total + own_exposure(exposure_of_run(log.parent, records), branch_exposure(records))
    return total


def own_exposure(exposure: Exposure | None, trunk: Exposure) -> Exposure:
    """What a run added: its bill without the trunk that another run paid."""
    if exposure is None:
        return Exposure()
    return Exposure(
        images=exposure.images - trunk.images,
        instances=exposure.instances - trunk.instances,
        pixels=exposure.pixels - trunk.pixels,
        flops=exposure.flops - trunk.flops,
        seconds=exposure.seconds - trunk.seconds,
    )


def sharing(runs: Sequence[RunResult]) -> Row:
    """Images of the whole plan with and without shared trunks, and how many times fewer they are."""
    run, unshared = sum(one.own_images for one in runs), sum(one.total_images for one in runs)
    return {"images_run": run, "images_unshared": unshared, "factor": unshared / run if run else 1.0}
