"""Commands about studies: list, plan, run, status, report."""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from groundup.cli.built_in import (
    Changes,
    Coco,
    Data,
    Full,
    Images,
    Seeds,
    Side,
    UnitImages,
    Weights,
    World,
    described_study,
    folder_begun,
    refuse_counted,
)
from groundup.cli.terminal import Json, note, print_json, print_lines

app = typer.Typer(help="Studies: arms compared by runs, with an answer.", no_args_is_help=True)

Source = Annotated[
    str,
    typer.Argument(
        metavar="STUDY", help="A built-in study's name, a YAML or Python file, or a study's folder."
    ),
]
Folder = Annotated[Path, typer.Argument(help="Folder of a study.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the study; default studies/NAME.")]
Processes = Annotated[int, typer.Option("--processes", min=1, help="Runs at a time.")]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, help="Threads of each run; default: OMP_NUM_THREADS, else the cores, shared out."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but failures.")]


class Place(StrEnum):
    """Where runs are carried out."""

    LOCAL = "local"
    SLURM = "slurm"
    RAY = "ray"


@app.command("list")
def list_studies(
    folder: Annotated[Path, typer.Argument(help="Folder to look in.")] = Path("studies"),
    as_json: Json = False,
) -> None:
    """List the studies that are built in, and those in a folder with how far each is."""
    from groundup.study.paper.catalogue import BUILT_IN, summary
    from groundup.study.status import find_studies

    found = find_studies(folder)
    if as_json:
        print_json(
            {
                "built_in": {name: summary(name) for name in BUILT_IN},
                "studies": [one.to_json() for one in found],
            }
        )
        return
    width = max(map(len, BUILT_IN))
    print_lines(f"{name.ljust(width)}  {summary(name)}" for name in BUILT_IN)
    if not found:
        print_lines([f"no studies in {folder}; `groundup study run FILE.yaml` begins one"])
    else:
        print_lines(one.line() for one in found)


@app.command()
def plan(
    study: Source,
    out: Out = None,
    coco: Coco = None,
    world: World = False,
    data: Data = None,
    images: Images = None,
    full: Full = False,
    weights: Weights = None,
    unit_images: UnitImages = None,
    side: Side = None,
    seeds: Seeds = "",
    changes: Changes = None,
    no_probe: Annotated[bool, typer.Option("--no-probe", help="Measure nothing; say no hours.")] = False,
    processes: Processes = 1,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Say what a study would carry out, what is shared, how long it takes, what it can show."""
    from groundup.study.expansion import arm_differences
    from groundup.study.forecast import Forecast, estimate_hours
    from groundup.study.plan import build_plan
    from groundup.study.probe import probe_plan, read_speeds
    from groundup.study.runner import threads_each
    from groundup.study.search_results import read_winners
    from groundup.study.study import study_directory

    chosen = (coco, world, data, images, full, weights, unit_images, side, seeds, changes)
    described, folder, counted = described_study(study, out, *chosen)
    built = build_plan(described, folder, counted=counted)
    count = threads_each(processes, threads)
    if counted is not None:
        speeds = {}
        note(f"planned by number: {counted.num_train:,} and {counted.num_val:,} photographs, none opened")
    elif no_probe:
        speeds = read_speeds(built, folder, threads=count)
    else:
        speeds = probe_plan(built, folder, threads=count, note=note)
    forecast = Forecast(
        study=described,
        folder=folder,
        plan=built,
        differences=arm_differences(described, study_directory(folder), read_winners(folder, described)),
        hours=estimate_hours(built, speeds, folder, processes=processes),
    )
    if as_json:
        print_json(forecast.to_json())
    else:
        print_lines(forecast.lines())


@app.command()
def run(
    study: Source,
    out: Out = None,
    coco: Coco = None,
    world: World = False,
    data: Data = None,
    images: Images = None,
    full: Full = False,
    weights: Weights = None,
    unit_images: UnitImages = None,
    side: Side = None,
    seeds: Seeds = "",
    changes: Changes = None,
    processes: Processes = 1,
    threads: Threads = None,
    time_limit: Annotated[
        float | None,
        typer.Option(
            "--time-limit", help="Seconds after which to write checkpoints and leave with status 75."
        ),
    ] = None,
    on: Annotated[
        Place, typer.Option("--on", help="Where: processes here, jobs of Slurm (submitit), tasks of Ray.")
    ] = Place.LOCAL,
    cluster_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Of the cluster, such as slurm_partition=gpu or num_gpus=1."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Carry out what is missing of a study. The same command goes on where a stopped one was."""
    from groundup.study.launch import crew_of
    from groundup.study.runner import begin_study, run_study, threads_each
    from groundup.study.status import read_status

    chosen = (coco, world, data, images, full, weights, unit_images, side, seeds, changes)
    described, folder, counted = described_study(study, out, *chosen)
    refuse_counted(study, counted)
    begin_study(described, folder, commands=[shlex.join(["groundup", *sys.argv[1:]])])
    each = threads_each(processes, threads) if on == Place.LOCAL else threads or 1
    with crew_of(on.value, folder, each, cluster_option or []) as crew:
        outcome = run_study(
            folder, processes=processes, threads=each, time_limit=time_limit, quiet=quiet, workers=crew
        )
    print_lines(read_status(folder).lines())
    outcome.refuse_failures()


@app.command()
def status(study: Source, as_json: Json = False) -> None:
    """Show how far the runs of a study are."""
    from groundup.study.status import read_status

    found = read_status(folder_begun(study))
    if as_json:
        print_json(found.to_json())
    else:
        print_lines(found.lines())


@app.command()
def report(study: Source) -> None:
    """Answer a study from its runs and write the page, figures and tables."""
    from groundup.report.page import write_report

    print_lines([str(write_report(folder_begun(study)))])


@app.command(hidden=True)
def work(
    folder: Folder,
    key: Annotated[str, typer.Argument(help="Key of a run.")],
    tied: Annotated[bool, typer.Option("--tied", help="Stop when whoever started this ends.")] = False,
) -> None:
    """Carry out one run of a planned study in this process."""
    from groundup.study.worker import carry_out, end_with_parent

    if tied:
        end_with_parent()
    print_json({"run": key, **carry_out(folder, key, quiet=False)})
