"""Commands about data sets: check, stats, index, subset, convert, coco, world."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from groundup.cli.terminal import Json, counting, note, print_json, print_lines

app = typer.Typer(
    help="Check, describe, index, cut, convert and draw data sets.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Annotations = Annotated[Path, typer.Argument(help="COCO json, or a folder in Roboflow's layout.")]
Described = Annotated[
    Path, typer.Argument(help="COCO json, a folder in Roboflow's layout, or a folder of class folders.")
]
Images = Annotated[
    Path | None, typer.Option("--images", help="Folder of the photographs; default: of the json.")
]


@app.command()
def check(
    annotations: Described,
    images: Images = None,
    train: Annotated[
        Path | None,
        typer.Option("--train", help="The training json this one is to validate: overlap, categories."),
    ] = None,
    train_images: Annotated[
        Path | None, typer.Option("--train-images", help="Folder of its photographs.")
    ] = None,
    decode: Annotated[bool, typer.Option(help="Decode every photograph, not only its header.")] = True,
    masks: Annotated[bool, typer.Option(help="Examine segmentations.")] = True,
    as_json: Json = False,
) -> None:
    """List every problem of a data set; leave with status 3 if one is an error."""
    from groundup.data.doctor import examine
    from groundup.data.folder import is_class_folder

    if is_class_folder(annotations):
        check_classes(annotations, decode=decode, as_json=as_json)
        return
    examination = examine(
        annotations, images, other=train, other_images=train_images, decode=decode, masks=masks
    )
    if as_json:
        print_json(examination.to_json())
    else:
        print_lines(examination.lines())
    if examination.exit_code:
        raise typer.Exit(examination.exit_code)


def check_classes(root: Path, *, decode: bool, as_json: bool) -> None:
    """List every problem of a folder of class folders; leave with status 3 if one is an error."""
    from groundup.data.folder import class_faults, open_class_folder
    from groundup.data.images import ImagePolicy
    from groundup.errors import DataError

    folder = open_class_folder(root)
    with counting("examining") as report:
        faults = class_faults(folder, ImagePolicy(), decode=decode, report=report)
    if as_json:
        print_json({"root": str(root), "classes": folder.counts(), "errors": faults,
                    "notes": list(folder.problems)})  # fmt: skip
    else:
        print_lines(f"error: {fault}" for fault in faults)
        print_lines(f"note: {problem}" for problem in folder.problems)
        print_lines([f"{len(folder)} photographs in {len(folder.classes)} classes: {len(faults)} errors"])
    if faults:
        raise typer.Exit(DataError.exit_code)


@app.command()
def stats(
    annotations: Described,
    images: Images = None,
    page: Annotated[
        Path | None, typer.Option("--page", help="Draw pictures with their annotations here.")
    ] = None,
    num_pictures: Annotated[int, typer.Option("--pictures", min=1, help="How many.")] = 12,
    seed: Annotated[int, typer.Option(help="Names the choice of pictures.")] = 0,
    as_json: Json = False,
) -> None:
    """Describe a data set, and draw a page of its pictures with their annotations."""
    from groundup.data.coco import open_index
    from groundup.data.folder import describe_classes, is_class_folder
    from groundup.data.statistics import describe_index, draw_page

    if is_class_folder(annotations):
        if as_json:
            print_json(describe_classes(annotations).to_json())
        else:
            print_lines(describe_classes(annotations).lines())
        return
    index = open_index(annotations, images)
    description = describe_index(index)
    if as_json:
        print_json(description.to_json())
    else:
        print_lines(description.lines())
    if page is not None:
        draw_page(index, page, num_pictures, seed)
        note(f"drawn {page}")


@app.command()
def preview(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Its options, such as data's.")
    ] = None,
    page: Annotated[Path, typer.Option("--page", help="The picture to write.")] = Path("preview.png"),
    num_pictures: Annotated[int, typer.Option("--pictures", min=1, help="How many samples.")] = 12,
) -> None:
    """Draw the first training samples of a detector's recipe as the model sees them."""
    from groundup.data.preview import draw_samples
    from groundup.errors import UsageError
    from groundup.recipe import Recipe
    from groundup.recipes import resolve_recipe
    from groundup.splits import open_splits

    resolved = resolve_recipe(recipe, overrides or [])
    if not isinstance(resolved, Recipe):
        raise UsageError(f"{recipe} trains a classifier; a preview shows what a detector learns from")
    draw_samples(
        open_splits(resolved).train,
        resolved.transforms,
        resolved.data.policy,
        page,
        num_pictures=num_pictures,
        seed=resolved.seed,
        group_size=resolved.model.loss_images,
    )
    note(f"drawn {page}")


@app.command()
def index(annotations: Annotations, images: Images = None, as_json: Json = False) -> None:
    """Build the columnar index of a COCO json, or open the one there is."""
    import time

    from groundup.data.coco import open_index

    start = time.perf_counter()
    opened = open_index(annotations, images)
    value = {
        "annotations": str(opened.annotations),
        "digest": opened.digest,
        "images": opened.num_images,
        "instances": opened.num_instances,
        "categories": len(opened.categories),
        "has_masks": opened.has_masks,
        "keypoints": opened.num_keypoints,
        "difficult": opened.num_difficult[0],
        "dropped": {rule: len(ids) for rule, ids in opened.dropped.items()},
        "seconds": round(time.perf_counter() - start, 3),
    }
    if as_json:
        print_json(value)
    else:
        print_lines(f"{name:12} {entry}" for name, entry in value.items())


@app.command()
def subset(
    annotations: Annotations,
    out: Annotated[Path, typer.Option("--out", help="The json to write.")],
    fraction: Annotated[float | None, typer.Option(help="Share of the images, such as 0.1.")] = None,
    count: Annotated[int | None, typer.Option(help="Number of images instead of a share.")] = None,
    images: Images = None,
    seed: Annotated[
        int, typer.Option(help="Names the draw; smaller shares are contained in larger ones.")
    ] = 0,
) -> None:
    """Write a share of a data set as COCO json; file names stay relative to the same folder."""
    from groundup.data.coco import open_index
    from groundup.data.subset import subset_rows, write_subset
    from groundup.errors import UsageError

    if (fraction is None) == (count is None):
        raise UsageError("give the size of the part once: --fraction SHARE or --count IMAGES")
    opened = open_index(annotations, images)
    rows = subset_rows(opened, 1.0 if fraction is None else fraction, seed, count)
    write_subset(opened, rows, out)
    note(f"{out}: {len(rows)} of {opened.num_images} images")


@app.command()
def convert(
    kind: Annotated[Literal["voc", "yolo"], typer.Argument(help="Layout of the folder.")],
    roots: Annotated[list[Path], typer.Argument(help="The data set's folder; with voc several.")],
    out: Annotated[Path, typer.Option("--out", help="The COCO json to write.")],
    splits: Annotated[
        list[str] | None,
        typer.Option(
            "--split", help="train (default), val, test, ...; once for all folders or once for each."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Options, such as voc_offset=0.")
    ] = None,
) -> None:
    """Convert Pascal VOC xml (of one year or several) or a YOLO folder to COCO json, listing what is odd."""
    from groundup.config import override
    from groundup.data.formats import write_conversion
    from groundup.data.voc import Part, VocOptions, convert_parts
    from groundup.data.yolo import YoloOptions, convert_yolo
    from groundup.errors import UsageError

    named = splits or ["train"]
    if len(named) not in {1, len(roots)}:
        raise UsageError(
            f"{len(named)} times --split for {len(roots)} folders; give it once, or once for each"
        )
    if kind == "voc":
        named = named if len(named) == len(roots) else named * len(roots)
        parts = [Part(root, split) for root, split in zip(roots, named, strict=True)]
        conversion = convert_parts(parts, override(VocOptions(), overrides or []))
    elif len(roots) > 1:
        raise UsageError(f"{len(roots)} folders; only voc takes several")
    else:
        conversion = convert_yolo(roots[0], named[0], override(YoloOptions(), overrides or []))
    for problem in conversion.problems:
        note(problem.line())
    write_conversion(conversion, out)
    document = conversion.document
    note(
        f"{out}: {len(document['images'])} images, {len(document['annotations'])} annotations; "
        f"images={conversion.images}; {sum(conversion.counts.values())} notes, warnings and errors"
    )


@app.command()
def coco(
    folder: Annotated[Path, typer.Argument(help="Folder with annotations/, train2017/ and val2017/.")],
    digests: Annotated[bool, typer.Option(help="Compare archives that lie there byte by byte.")] = False,
    as_json: Json = False,
) -> None:
    """Compare a download of COCO 2017 with the official release; leave with status 3 if something lacks."""
    from groundup.data.coco_release import examine_release

    release = examine_release(folder, digests=digests)
    if as_json:
        print_json(release.to_json())
    else:
        print_lines(release.lines())
    if release.exit_code:
        raise typer.Exit(release.exit_code)


@app.command()
def world(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    train: Annotated[int, typer.Option(help="Training scenes.")] = 1000,
    val: Annotated[int, typer.Option(help="Validation scenes.")] = 200,
    seed: Annotated[int, typer.Option(help="Names the scenes.")] = 0,
    objects: Annotated[
        bool,
        typer.Option("--objects", help="One centred object of other categories a picture, in class folders."),
    ] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Options, such as max_side=256.")
    ] = None,
) -> None:
    """Draw a world: scenes as COCO json and JPEG, or object-centric pictures in class folders."""
    from groundup.config import override
    from groundup.data.world import ObjectOptions, WorldOptions, write_object_world, write_world

    with counting("drawing") as report:
        if objects:
            options = override(ObjectOptions(), overrides or [])
            write_object_world(out, train, val, seed, options, report=report)
        else:
            write_world(out, train, val, seed, override(WorldOptions(), overrides or []), report=report)
    note(f"drawn {out}")
