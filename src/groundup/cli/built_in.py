"""The built-in studies on the command line: their options, and which study words mean."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundup.cli.terminal import counting
from groundup.errors import UsageError

if TYPE_CHECKING:
    from groundup.study.keys import Counted
    from groundup.study.study import Study

Coco = Annotated[
    Path | None, typer.Option("--coco", help="Built-in studies: COCO's folder, as downloaded; full scale.")
]
World = Annotated[bool, typer.Option("--world", help="Built-in studies: drawn scenes; miniature.")]
Data = Annotated[
    tuple[Path, Path] | None,
    typer.Option("--data", metavar="TRAIN.json VAL.json", help="Built-in studies: any COCO json; miniature."),
]
Images = Annotated[Path | None, typer.Option("--images", help="Folder of the photographs of --data.")]
Full = Annotated[bool, typer.Option("--full", help="With --data: the published recipes and lengths.")]
Weights = Annotated[
    list[str] | None,
    typer.Option("--weights", help="Built-in studies: resnet101-gn=FILE at full scale, FILE in miniature."),
]
UnitImages = Annotated[int | None, typer.Option("--unit-images", min=1, help="Miniature: images of 1x.")]
Side = Annotated[
    int | None, typer.Option("--side", min=32, help="Miniature of --data: shorter side in pixels.")
]
Seeds = Annotated[str, typer.Option("--seeds", help="Built-in studies: seeds, as in 0,1,2.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="Built-in studies: key=value in the recipe of all arms.")
]


def described_study(
    source: str,
    out: Path | None,
    coco: Path | None,
    world: bool,
    data: tuple[Path, Path] | None,
    images: Path | None,
    full: bool,
    weights: list[str] | None,
    unit_images: int | None,
    side: int | None,
    seeds: str,
    changes: list[str] | None,
) -> "tuple[Study, Path, Counted | None]":
    """The study that is meant and its folder; what a built-in one is planned by where no data were named.

    Raises:
        UsageError: options of built-in studies with another one.
        DataError: data that cannot be used.
    """
    from groundup.study.paper.catalogue import BUILT_IN
    from groundup.study.paper.choice import SIDE, Choice, choose
    from groundup.study.study import read_study

    choice = Choice(
        coco=coco,
        world=world,
        data=data,
        images=images,
        full=full,
        weights=tuple(weights or ()),
        unit_images=unit_images,
        side=side or SIDE,
        seeds=read_seeds(seeds),
        changes=tuple(changes or ()),
    )
    if source not in BUILT_IN:
        if not choice.is_empty:
            raise UsageError(f"{source}: is no built-in study, so its file says what it trains on")
        study = read_study(source)
        return study, folder_of(source, study.name, out), None
    folder = folder_of(source, source, out)
    with counting("drawing") as report:
        study, counted = choose(source, folder, choice, report)
    return study, folder, counted


def refuse_counted(source: str, counted: "Counted | None") -> None:
    """Refuse to carry out a study for which no data were named.

    Raises:
        UsageError: none were.
    """
    if counted is not None:
        raise UsageError(
            f"{source}: say what to train on: --coco DIR at full scale; --world (drawn scenes) or "
            "--data TRAIN.json VAL.json in miniature"
        )


def read_seeds(text: str) -> tuple[int, ...]:
    """`0,1,2` as numbers.

    Raises:
        UsageError: anything else.
    """
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise UsageError(f"--seeds {text}: write whole numbers with commas between them") from None


def folder_of(source: str, name: str, out: Path | None) -> Path:
    """The study's folder: the one given, the source itself where it is one, or one of its name."""
    if out is not None:
        return out
    return Path(source) if Path(source).is_dir() else Path("studies") / name


def folder_begun(source: str) -> Path:
    """The folder of a study that was begun: the source itself, or where its name or file leads."""
    if Path(source).is_dir():
        return Path(source)
    from groundup.study.paper.catalogue import BUILT_IN
    from groundup.study.study import read_study

    if source in BUILT_IN:
        return folder_of(source, source, None)
    return folder_of(source, read_study(source).name, None) if Path(source).is_file() else Path(source)
