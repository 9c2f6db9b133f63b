"""The command `compare`: photographs and weights in, an answer out."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from groundup.cli.terminal import note, print_lines

Conversion = Annotated[
    list[str] | None,
    typer.Option("--convert", metavar="KEY=VALUE", help="Options of a VOC or YOLO conversion."),
]


def compare(
    train: Annotated[
        Path, typer.Option("--train", help="Training split: COCO json, or a Roboflow, VOC or YOLO folder.")
    ],
    val: Annotated[Path, typer.Option("--val", help="Validation split, likewise.")],
    weights: Annotated[
        str,
        typer.Option("--weights", help="`imagenet`, a file, timm:NAME, torchvision:WEIGHTS, package:NAME."),
    ],
    images: Annotated[Path | None, typer.Option("--images", help="Folder of the photographs.")] = None,
    val_images: Annotated[
        Path | None, typer.Option("--val-images", help="Of the validation photographs; default: --images.")
    ] = None,
    hours: Annotated[float, typer.Option("--hours", help="Hours that the study may take.")] = 1.0,
    out: Annotated[Path, typer.Option("--out", help="Folder of the study.")] = Path("studies/compare"),
    recipe: Annotated[str | None, typer.Option("--recipe", help="Recipe of both arms.")] = None,
    margin: Annotated[
        float | None, typer.Option("--margin", help="AP points that would matter to you; default 0.5 or 1.")
    ] = None,
    side: Annotated[int, typer.Option("--side", min=32, help="Shorter side of the photographs.")] = 256,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Runs at a time.")] = 1,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Options of both arms.")
    ] = None,
    conversion: Conversion = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done, and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but the answer.")] = False,
) -> None:
    """Answer for your own photographs: do I need pre-training? The same command goes on."""
    from groundup.inquiry import Inquiry, Source, build_proposal, proposal_lines
    from groundup.report.page import write_report
    from groundup.study.answer import read_answer
    from groundup.study.runner import begin_study, run_study, threads_each
    from groundup.study.study import STUDY, load_study

    def say(text: str) -> None:
        """Tell it on stderr, unless quiet."""
        if not quiet:
            note(text)

    converted = tuple(conversion or ())
    inquiry = Inquiry(
        train=Source(path=train, split="train", images=images, conversion=converted),
        val=Source(path=val, split="val", images=val_images or images, conversion=converted),
        weights=weights,
        hours=hours,
        recipe=recipe,
        margin=margin,
        side=side,
        processes=processes,
        overrides=tuple(overrides or ()),
    )
    if (out / STUDY).exists():
        study = load_study(out)
        say(f"{out}: going on with the study that was set down there")
    else:
        proposal, told = build_proposal(inquiry, out, say, threads_each(processes))
        study = proposal.study
        if plan or not quiet:
            print_lines(proposal_lines(proposal, told, out))
    if plan:
        return
    begin_study(study, out, commands=[shlex.join(["groundup", *sys.argv[1:]])])
    outcome = run_study(out, processes=processes, quiet=quiet)
    page = write_report(out)
    print_lines([read_answer(out).sentence, str(page)])
    outcome.refuse_failures()
