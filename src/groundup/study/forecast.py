"""What a plan says before anything starts: its tree, images, hours, what it can show. No torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from groundup.study.compare import usual_margin
from groundup.study.plan import LENGTHS, Plan, RunPlan
from groundup.study.power import POWER, smallest_margin
from groundup.study.probe import ImageSeconds, Speed
from groundup.study.progress import read_progress
from groundup.study.search_results import has_diverged, protocol_lines, search_notes
from groundup.study.status import axis_words
from groundup.study.study import PRETRAINING, RUNS, Study
from groundup.study.worker import run_path

ASSUMED_SEED_SD = 0.3
"""AP points by which trainings of one arm spread, at COCO's size; smaller sets spread more. Source: the
table of reliability in this project's design, after published repeats of COCO trainings."""
SMALL_SEED_SD = 1.0
"""The same on sets of hundreds of photographs. Source: spreads of Faster R-CNN on small sets in the issues of
MMDetection and Detectron2 (about 1 to 2 AP)."""
SMALL_SET = 1000
"""Validation photographs below which the larger spread is assumed as well."""
SECONDS_AN_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """Estimated time of what is left to do."""

    work: float
    """Of all runs, one after the other."""
    wall: float
    """With so many at a time: the work shared out, or the longest chain of runs, whichever is longer."""
    processes: int
    free: "Hours | None" = None
    """By the processor's clock, where the machine was busy with other work while it was measured: what it
    would take if that were gone, at least; None where it was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A plan with what is known about it before it starts."""

    study: Study
    folder: Path
    plan: Plan
    differences: Mapping[str, Sequence[Any]]
    """Options in which the arms differ, with the value in each."""
    hours: Hours | None
    """None where nothing was measured."""

    def lines(self) -> Iterator[str]:
        """The forecast for reading."""
        question = self.study.question
        yield f"study      {self.study.name} in {self.folder}"
        yield f"question   {question.text}"
        yield (
            f"           {question.candidate} against {question.reference}: {question.measure} on "
            f"{self.plan.runs[0].num_val:,} images, margin {question.margin:g}, rule: {question.rule}"
        )
        yield "arms differ in"
        yield from (f"  {line}" for line in difference_lines(list(self.study.arms), self.differences))
        yield from search_lines(self.study, self.plan, self.folder)
        yield "runs"
        yield from (f"  {line}" for line in tree_lines(self.plan, self.folder))
        yield from total_lines(self.plan, self.folder)
        yield from hour_lines(self.hours)
        yield from honesty_lines(self.study, self.plan)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        hours = self.hours
        return {
            **self.plan.to_json(),
            "differences": {name: list(values) for name, values in self.differences.items()},
            "hours": None if hours is None else asdict(hours),
            "smallest_margin": smallest_margin(ASSUMED_SEED_SD, len(self.study.seeds)),
            "assumed_seed_sd": ASSUMED_SEED_SD,
            "usual_margin": usual_margin(self.plan.runs[0].num_val),
            "margin": self.study.question.margin,
        }


def difference_lines(arms: Sequence[str], differences: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """The computed table of differences between arms."""
    if not differences:
        yield "nothing (an A/A study: seeds alone)"
    for name, values in differences.items():
        yield f"{name}: " + ", ".join(f"{arm}={value}" for arm, value in zip(arms, values, strict=True))


def search_lines(study: Study, plan: Plan, folder: Path) -> Iterator[str]:
    """What is searched before the runs, how far that is, and what is unknown until then."""
    if study.search is None:
        return
    yield "search"
    yield from (f"  {line}" for line in protocol_lines(study.search))
    for search in plan.searches:
        words = ", ".join([search.arm, *axis_words(search.place)])
        ended = sum(images_left(trial, folder) == 0 for trial in search.trials)
        yield (
            f"  {words}: {search.num_trials} trials, {search.num_train:,} images to learn from, "
            f"judged on {search.num_val:,}{f'  done {ended}' if ended else ''}"
        )
    if plan.is_open:
        held = ", ".join(f"{path}={value}" for path, value in plan.searches[0].base.items())
        yield f"  unknown until it ends: {', '.join(study.search.space)}; below stands {held} of the recipe"
    yield from (f"  note: {note}" for note in search_notes(study))


def tree_lines(plan: Plan, folder: Path) -> Iterator[str]:
    """The plan as a tree: an arm at a point of the axes, its trunk in segments, the tails that leave it.

    Seeds have the same tree, so it is drawn once and says how many there are.
    """
    for one in plan.pretraining:
        progress = read_progress(run_path(folder, f"{PRETRAINING}:{one.name}"))
        state = "" if progress.state == "missing" else f"  {progress.state}"
        yield f"{PRETRAINING} {one.name}: 0 -> {one.total_images:,} images{state}"
    groups: dict[tuple[str, str], list[RunPlan]] = {}
    for run in plan.runs:
        others = {path: value for path, value in run.point.items() if path not in LENGTHS}
        groups.setdefault((run.arm, ", ".join(axis_words(others))), []).append(run)
    for (arm, rest), runs in groups.items():
        seeds = list(dict.fromkeys(run.seed for run in runs))
        first = [run for run in runs if run.seed == seeds[0]]
        many = f"{'seed' if len(seeds) == 1 else f'{len(seeds)} seeds:'} {', '.join(map(str, seeds))}"
        yield f"{arm}{', ' if rest else ''}{rest}: {many}"
        for trunk in (run for run in first if run.parent is None):
            same = [run for run in runs if run.point == trunk.point]
            yield from segment_lines(plan, trunk, same, folder, begin=0, indent="  ")


def segment_lines(
    plan: Plan, trunk: RunPlan, same: Sequence[RunPlan], folder: Path, *, begin: int, indent: str
) -> Iterator[str]:
    """The trunk from an image count on: up to where the next branch leaves it, then that and the rest.

    `same` are the trunk's runs with all seeds, by which it is told what is done.
    """
    leaving = [run for run in plan.branches_of(trunk.key) if run.branch_images > begin]
    ahead = [run for run in plan.branches_of(trunk.key) if run.branch_images >= max(begin, 1)]
    if not leaving:
        note = done_note(same, trunk.total_images, folder)
        yield f"{indent}{begin:,} -> {trunk.total_images:,}  {length_of(trunk)}{note}"
        return
    end = leaving[0].branch_images
    sharing = [run for run in ahead if run.branch_images >= end]
    names = ", ".join(length_of(run) for run in [*sharing, trunk])
    yield f"{indent}{begin:,} -> {end:,}  shared by {names}{done_note(same, end, folder)}"
    for run in leaving:
        if run.branch_images == end:
            alike = [one for one in plan.runs if one.arm == run.arm and one.point == run.point]
            note = done_note(alike, run.total_images, folder)
            yield f"{indent}  {end:,} -> {run.total_images:,}  {length_of(run)}{note}"
    yield from segment_lines(plan, trunk, same, folder, begin=end, indent=indent + "  ")


def length_of(run: RunPlan) -> str:
    """What a run is called among those of its trunk: the value of its length, else its axes."""
    lengths = {path: value for path, value in run.point.items() if path in LENGTHS}
    return ", ".join(axis_words(lengths or run.point)) or f"{run.total_images:,} images"


def done_note(runs: Sequence[RunPlan], images: int, folder: Path) -> str:
    """How many of the seeds have come so far."""
    seen = [read_progress(folder / RUNS / run.key) for run in runs]
    done = sum(one.state == "done" or one.images_seen >= images for one in seen)
    return f"  done {done}/{len(runs)}" if done else ""


def total_lines(plan: Plan, folder: Path) -> Iterator[str]:
    """Images in all, with and without sharing, and what is left of them."""
    shared, unshared = plan.shared_images, plan.unshared_images
    left = sum(images_left(run, folder) for run in (*plan.runs, *plan.trials))
    yield f"images     {shared:,} in {len(plan.runs)} runs with shared trunks; {unshared:,} run by run " + (
        f"({unshared / shared:.2f} times as many)" if shared else ""
    )
    made = sum(one.total_images for one in plan.pretraining)
    if made:
        yield f"           {made:,} more in pre-training"
    searched = sum(search.num_trials * search.trials[0].total_images for search in plan.searches)
    if searched:
        yield f"           {searched:,} more in the search"
    yield f"left       {left:,} images"


def images_left(run: RunPlan, folder: Path) -> int:
    """Images that are still to be trained for this run itself."""
    progress = read_progress(run_path(folder, run.key))
    if progress.state == "done" or has_diverged(folder, run.key):
        return 0
    return run.own_images - max(0, progress.images_seen - run.branch_images)


def hour_lines(hours: Hours | None) -> Iterator[str]:
    """The estimated time."""
    if hours is None:
        yield "hours      not measured (without --no-probe they are)"
        return
    if hours.work == 0:
        return
    yield (
        f"hours      about {hours.wall:.2g} with {hours.processes} at a time ({hours.work:.2g} of work) by "
        "a few steps, measured alone; without pre-training and what processes cost each other"
    )
    if hours.free is not None:
        yield (
            f"           the machine was busy with other work then: about {hours.free.wall:.2g} "
            f"({hours.free.work:.2g} of work) by the processor's clock, if it were free"
        )


def honesty_lines(study: Study, plan: Plan) -> Iterator[str]:
    """What the planned seeds can show, under a spread that is assumed, before anything is trained."""
    question, num_seeds, num_val = study.question, len(study.seeds), plan.runs[0].num_val
    usual = usual_margin(num_val)
    yield f"margin     {question.margin:g} AP points; usual for {num_val:,} validation images: {usual:g}"
    if num_seeds < 2:
        yield (
            "           one seed: the spread between trainings stays unknown, so every verdict will be "
            "provisional; equivalence needs at least 2 seeds"
        )
        return
    spreads = (ASSUMED_SEED_SD, *((SMALL_SEED_SD,) if num_val < SMALL_SET else ()))
    for spread in spreads:
        least = smallest_margin(spread, num_seeds, alpha=question.alpha)
        assert least is not None, "two seeds or more support a margin"
        enough = "enough" if least <= question.margin else "NOT enough: add seeds or widen the margin"
        yield (
            f"           {num_seeds} seeds can show equivalence within {least:.2f} or more (power {POWER:g}) "
            f"if trainings spread by {spread:g} (assumed; images' error left out): {enough}"
        )


def estimate_hours(plan: Plan, speeds: Mapping[str, Speed], folder: Path, *, processes: int) -> Hours | None:
    """Hours of what is left of the runs; None where a run was not measured."""
    if any(run.key not in speeds for run in plan.runs):
        return None
    hours = hours_at(plan, speeds, folder, processes=processes)
    free = {key: speed.free for key, speed in speeds.items() if speed.free is not None}
    if len(free) < len(speeds) or not any(speed.is_loaded for speed in speeds.values()):
        return hours
    return replace(hours, free=hours_at(plan, free, folder, processes=processes))


def hours_at(plan: Plan, speeds: Mapping[str, ImageSeconds], folder: Path, *, processes: int) -> Hours:
    """Hours of what is left of the runs at these paces."""
    seconds = {run.key: seconds_left(run, speeds[run.key], folder) for run in plan.runs}
    searched, followers = search_seconds(plan, speeds, folder)
    chains = [seconds[run.key] for run in plan.runs if run.parent is None]
    for run in plan.runs:
        if run.parent is not None:
            trunk = plan.run(run.parent)
            share = run.branch_images / trunk.total_images
            chains.append(seconds[run.key] + share * seconds[trunk.key])
    work = sum(seconds.values())
    # Runs wait for the search, so the two times add up.
    wall = max([work / processes, *chains]) + max([sum(searched) / processes, *followers])
    return Hours(
        work=(work + sum(searched)) / SECONDS_AN_HOUR, wall=wall / SECONDS_AN_HOUR, processes=processes
    )


def search_seconds(
    plan: Plan, speeds: Mapping[str, ImageSeconds], folder: Path
) -> tuple[list[float], list[float]]:
    """Seconds of what is left of each search, and those that cannot be shared out, at its arm's runs' speed.

    Trials that are not known yet follow one another and take as long as the first.
    """
    work, chains = [], []
    for search in plan.searches:
        speed = next(speeds[run.key] for run in plan.runs if run.arm == search.arm)
        left = [seconds_left(trial, speed, folder) for trial in search.trials]
        first = search.trials[0]
        whole = seconds_of(first, first.total_images, speed)
        unknown = (search.num_trials - len(search.trials)) * whole
        work.append(sum(left) + unknown)
        chains.append(max(left) + unknown)
    return work, chains


def seconds_left(run: RunPlan, pace: ImageSeconds, folder: Path) -> float:
    """Seconds that the run itself still takes."""
    return seconds_of(run, images_left(run, folder), pace)


def seconds_of(run: RunPlan, left: int, pace: ImageSeconds) -> float:
    """Seconds of the run's last so many images, before late parts of the model take part and with them."""
    early = min(left, max(0, late_from(run) - (run.total_images - left)))
    evaluated = run.num_evaluations * run.num_val / max(1, run.own_images)
    early_training = pace.training if pace.early_training is None else pace.early_training
    early_evaluation = pace.evaluation if pace.early_evaluation is None else pace.early_evaluation
    return early * (early_training + evaluated * early_evaluation) + (left - early) * (
        pace.training + evaluated * pace.evaluation
    )


def late_from(run: RunPlan) -> int:
    """Images seen from which on late parts of the run's model take part; 0 where none come late.

    Source: groundup.engine.schedule, `late_point`; a test holds the two equal.
    """
    late_units = run.recipe["training"]["schedule"]["late_units"]
    return 0 if late_units is None else run.total_images - round(late_units * run.unit_images)
