"""Commands about runs: recipes, config, train, evaluate, predict, demo."""

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from groundup.cli.terminal import Json, counting, print_json, print_lines

RecipeName = Annotated[str, typer.Argument(help="A recipe's name (see `groundup recipes`) or a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Options of the recipe by dotted path, such as seed=3."),
]
Run = Annotated[Path, typer.Argument(help="Folder of a run.")]
TTA = Annotated[
    str | None,
    typer.Option(
        "--tta",
        help="Test-time augmentation instead of the recipe's: flip, detectron, detectron_x152, null, or "
        "options such as '{scales: [120, 200], max_side: 320}'.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size", min=1, help="Photographs at once, where they are alike; default: as the recipe."
    ),
]
TimeLimit = Annotated[
    float | None,
    typer.Option("--time-limit", help="Seconds after which to write a checkpoint and leave with status 75."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]


def recipes() -> None:
    """List the recipes."""
    from groundup.recipes import RECIPES

    width = max(map(len, RECIPES))
    print_lines(f"{name:{width}}  {(build.__doc__ or '').splitlines()[0]}" for name, build in RECIPES.items())


def config(
    recipe: RecipeName,
    overrides: Overrides = None,
    init: Annotated[bool, typer.Option("--init", help="Print how every module's weights begin.")] = False,
    as_json: Json = False,
) -> None:
    """Print a recipe, resolved, with what each option means."""
    from groundup.classification import class_init_lines
    from groundup.config import documented_lines, plain
    from groundup.recipe import Recipe
    from groundup.recipes import resolve_recipe
    from groundup.run import init_lines

    resolved = resolve_recipe(recipe, overrides or [])
    if init:
        print_lines(init_lines(resolved) if isinstance(resolved, Recipe) else class_init_lines(resolved))
    elif as_json:
        print_json(plain(resolved))
    else:
        print_lines(documented_lines(resolved))


def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the run; default runs/NAME-FINGERPRINT.")
    ] = None,
    coco: Annotated[
        Path | None, typer.Option("--coco", help="Learn from COCO 2017 in this folder (see `data coco`).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    time_limit: TimeLimit = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Log where a step's time goes; changes no bit of the weights.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train a recipe. The same command goes on where a stopped run was."""
    from groundup.classification import class_plan_lines, train_classifier_run
    from groundup.engine.distributed import read_world
    from groundup.recipe import Recipe
    from groundup.recipes import resolve_recipe
    from groundup.run import plan_lines, train_run
    from groundup.run_folder import run_folder

    assigned = [] if coco is None else data_of_coco(recipe, coco)
    assigned += ["training.upkeep.profile=true"] * profile
    resolved = resolve_recipe(recipe, [*assigned, *(overrides or [])])
    folder = out or run_folder(resolved)
    if isinstance(resolved, Recipe):
        plan, carry_out = partial(plan_lines, resolved, folder), partial(train_run, resolved, folder)
    else:
        plan = partial(class_plan_lines, resolved, folder)
        carry_out = partial(train_classifier_run, resolved, folder)
    if dry_run:
        print_lines(plan())
    else:
        result = carry_out(time_limit=time_limit, quiet=quiet)
        if read_world().leads:
            print_json({"run": str(folder), **result})


def data_of_coco(recipe: str, folder: Path) -> list[str]:
    """The assignments that give a recipe COCO in the folder: persons where it finds keypoints."""
    from groundup.data.coco_release import coco_assignments
    from groundup.recipes import resolve_recipe

    model = resolve_recipe(recipe, []).model
    return coco_assignments(folder, keypoints=getattr(model, "keypoint_head", None) is not None)


def evaluate(
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a run, evaluated on its own val split.")
    ] = None,
    annotations: Annotated[Path | None, typer.Option(help="COCO json to evaluate on instead.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of its photographs; for a classifier: other class folders.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Score this results json, of any framework, instead of a run.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for predictions, metrics, pictures.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Photographs to draw, found beside true.")] = 0,
    max_detections: Annotated[int | None, typer.Option(help="Detections an image that AP may use.")] = None,
    tta: TTA = None,
    batch_size: BatchSize = None,
    voc: Annotated[
        Literal["voc2007", "voc2012"] | None,
        typer.Option("--voc", help="By Pascal VOC's rules too: mean at 11 recalls, or area under the curve."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score a run, or a results json of any framework, as COCO does; a classifier by top-1 and top-5."""
    from groundup.classification import evaluate_classifier_run, is_classifier_run
    from groundup.detector import evaluate_foreign, evaluate_run
    from groundup.engine.classify import ClassEvaluation
    from groundup.engine.distributed import read_world
    from groundup.engine.evaluate import Evaluation
    from groundup.errors import UsageError

    evaluation: Evaluation | ClassEvaluation
    if (run is None) == (results is None):
        raise UsageError(
            "evaluate takes either a run's folder or --results FILE.json with --annotations FILE.json"
        )
    is_classifier = run is not None and is_classifier_run(run)
    if images is not None and annotations is None and not is_classifier:
        raise UsageError("--images are the photographs of --annotations FILE.json, which is not given")
    if results is not None:
        if annotations is None:
            raise UsageError("--results needs the annotations it is scored against: --annotations FILE.json")
        if pictures:
            raise UsageError("--pictures shows what a run finds; with --results there is none")
        if tta is not None:
            raise UsageError("--tta is how a run looks at photographs; with --results there is none")
        if batch_size is not None:
            raise UsageError("--batch-size is how many photographs a run sees; with --results there is none")
        if read_world().size > 1:
            raise UsageError("--results are scored by one process: start it without torchrun")
        evaluation = evaluate_foreign(
            results, annotations, images, max_detections=max_detections, voc=voc, out=out
        )
    elif is_classifier:
        assert run is not None
        if (
            annotations is not None
            or pictures
            or any(one is not None for one in (max_detections, tta, voc, batch_size))
        ):
            raise UsageError(
                f"{run} is a classifier, which is scored on class folders: give --images FOLDER, or nothing"
            )
        with counting("evaluating", quiet=not read_world().leads) as report:
            evaluation = evaluate_classifier_run(run, images, out=out, report=report)
    else:
        assert run is not None
        with counting("evaluating", quiet=not read_world().leads) as report:
            evaluation = evaluate_run(
                run,
                annotations,
                images,
                max_detections=max_detections,
                tta=tta,
                batch_size=batch_size,
                voc=voc,
                out=out,
                num_pictures=pictures,
                report=report,
            )
    if not read_world().leads:
        return
    if as_json:
        print_json(evaluation.to_json())
    else:
        print_lines(evaluation.lines())


def predict(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="Photographs, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for overlays and predictions.json.")] = Path(
        "predictions"
    ),
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Least score that is drawn; the json holds all.")
    ] = 0.5,
    tta: TTA = None,
    batch_size: BatchSize = None,
    as_json: Json = False,
) -> None:
    """Detect in photographs: an overlay each, and one json."""
    from groundup.prediction import predict_run

    with counting("detecting") as report:
        found = predict_run(
            run, images, out, threshold=threshold, tta=tta, batch_size=batch_size, report=report
        )
    if as_json:
        print_json(found)
    else:
        for photograph in found:
            shown = sum(one["score"] >= threshold for one in photograph["detections"])
            print_lines([f"{photograph['file']}: {shown} found, drawn in {photograph['overlay']}"])


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the pictures, the study and its report.")
    ] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Names the pictures and the trainings.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Answer the question on drawn scenes: pre-train, train both arms, compare, report."""
    from groundup.demo import carry_out, draw_pictures

    with counting("drawing", quiet=quiet) as report:
        draw_pictures(out, seed, report)
    command = shlex.join(["groundup", "demo", "--out", str(out), "--seed", str(seed)])
    print_lines(carry_out(out, seed, command=command, quiet=quiet))
