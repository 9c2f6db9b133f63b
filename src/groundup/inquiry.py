"""From a user's photographs and weights to the answer: check, propose what fits the hours, carry out, report.

Nothing is guessed in silence: every choice made here is a line that is printed before training starts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from groundup.config import override, plain
from groundup.data.coco import Index, open_index
from groundup.data.doctor import examine
from groundup.data.document import find_document
from groundup.data.formats import write_conversion
from groundup.data.voc import VocOptions, convert_voc
from groundup.data.yolo import YoloOptions, convert_yolo
from groundup.errors import DataError, UsageError
from groundup.metrics.coco_ap import STANDARD_LIMIT
from groundup.models.imagenet import NAME as IMAGENET
from groundup.models.imagenet import imagenet_price, imagenet_weights, is_imagenet
from groundup.recipe import Recipe
from groundup.recipes import resolve_recipe
from groundup.study.compare import Question, usual_margin
from groundup.study.forecast import Forecast
from groundup.study.proposal import Proposal, Shape, propose_study, with_shape
from groundup.study.study import SCRATCH, Price, Study

DATA = "data"
"""Folder of converted annotations inside the study's folder."""
SIDE = 256
"""Usual shorter side: what two cores carry in an hour and small objects survive in. Source: docs/LOG.md."""
LONGEST = 5 / 3
"""Longer side at most, in shorter sides; 1333 to 800 in Detectron."""
LIMIT_STEP = 100
"""Detection limits are raised in whole hundreds."""
EVALUATIONS_A_UNIT = 2
"""Points on the curve of AP in each unit."""
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One split as the user names it."""

    path: Path
    """COCO json, a Roboflow folder, a Pascal VOC folder or a YOLO folder."""
    split: Literal["train", "val"]
    images: Path | None = None
    """Folder of the photographs; None: of the json."""
    conversion: tuple[str, ...] = ()
    """`key=value` options of the conversion, such as voc_offset=0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """What a user asks."""

    train: Source
    val: Source
    weights: str
    """`imagenet`, or whatever `start` takes."""
    hours: float = 1.0
    recipe: str | None = None
    """None: a tiny detector on EfficientNet-Lite0, with masks where the annotations have them."""
    margin: float | None = None
    """AP points that would matter; None: the usual for so many validation images."""
    side: int = SIDE
    """Shorter side of the photographs in pixels, unless the overrides set the transforms."""
    processes: int = 1
    overrides: tuple[str, ...] = field(default=())
    """`key=value` changes of the recipe in both arms."""


def prepare_split(source: Source, folder: Path, note: Note) -> tuple[Path, Path]:
    """The split as COCO json and the folder of its photographs; VOC and YOLO are converted into the study.

    Raises:
        DataError: it is none of the known layouts, or cannot be converted.
    """
    path = find_document(source.path)
    if path.is_file() and path.suffix == ".json":
        return path.absolute(), (source.images or path.parent).absolute()
    if (path / "Annotations").is_dir():
        conversion = convert_voc(path, source.split, override(VocOptions(), list(source.conversion)))
    elif path.suffix in {".yaml", ".yml"} or any(path.glob("*.yaml")):
        root = path.parent if path.is_file() else path
        conversion = convert_yolo(root, source.split, override(YoloOptions(), list(source.conversion)))
    else:
        raise DataError(
            f"{source.path}: is no COCO json, no folder with Annotations/ (Pascal VOC) and none with a "
            "data.yaml (YOLO); give one of these"
        )
    written = folder / DATA / f"{source.split}.json"
    write_conversion(conversion, written)
    for rule, count in conversion.counts.items():
        note(f"{source.split}: converted with {count} x {rule}")
    return written.absolute(), conversion.images.absolute()


def check_photographs(train: tuple[Path, Path], val: tuple[Path, Path], note: Note) -> None:
    """Have the doctor look at both splits, and at the second beside the first.

    Raises:
        DataError: it finds an error.
    """
    for name, (annotations, images), other in (("train", train, None), ("val", val, train)):
        found = examine(
            annotations,
            images,
            other=None if other is None else other[0],
            other_images=None if other is None else other[1],
        )
        *rules, total = found.lines(max_shown=1)
        note(f"{name}: {total}")
        if found.exit_code:
            first = next((line for line in rules if line.startswith("error")), "")
            raise DataError(
                f"{annotations}: {first}; `groundup data check {annotations} --images {images}` lists all"
            )


def detection_limit(most: int) -> int:
    """Detections an image that are enough for photographs of so many: COCO's 100, or whole hundreds."""
    return max(STANDARD_LIMIT["bbox"], -(-most // LIMIT_STEP) * LIMIT_STEP)


def build_base(
    inquiry: Inquiry, indices: tuple[Index, Index]
) -> tuple[str, dict[str, Any], Recipe, list[str]]:
    """The recipe's name, what is changed in it for both arms, the whole, and why, line by line.

    Raises:
        UsageError: no such recipe or option.
    """
    told = []
    has_masks = all(index.has_masks for index in indices)
    name = inquiry.recipe or ("tiny_mask_rcnn_lite0" if has_masks else "tiny_faster_rcnn_lite0")
    if inquiry.recipe is None:
        told.append(
            f"recipe     {name}: {'masks' if has_masks else 'no masks'} in the annotations (--recipe)"
        )
    changes: dict[str, Any] = {
        "transforms.short_side": [inquiry.side],
        "transforms.max_side": round(inquiry.side * LONGEST),
        "transforms.test_short_side": inquiry.side,
        "transforms.test_max_side": round(inquiry.side * LONGEST),
    }
    told.append(f"size       shorter side {inquiry.side} pixels (--side)")
    most = max(int(index.num_usable.max(initial=0)) for index in indices)
    limit = detection_limit(most)
    if limit > STANDARD_LIMIT["bbox"]:
        changes |= {"model.box_head.max_detections": limit, "evaluation.max_detections": limit}
        told.append(f"limit      {limit} detections an image: a photograph holds {most}")
    for split, index in zip(("train", "val"), indices, strict=True):
        changes[f"data.{split}.annotations"] = str(index.annotations)
        changes[f"data.{split}.images"] = str(index.images)
    recipe = resolve_recipe(name, [])
    if not isinstance(recipe, Recipe):
        raise UsageError(f"--recipe {name} trains no detector")
    given = override(recipe, list(inquiry.overrides))
    stated = {one.partition("=")[0] for one in inquiry.overrides}
    changes = {path: value for path, value in changes.items() if path not in stated}
    changes |= {path: at_path(plain(given), path) for path in stated}
    return name, changes, given, told


def at_path(values: dict[str, Any], path: str) -> Any:
    """The value at a dotted path of nested dictionaries."""
    node: Any = values
    for name in path.split("."):
        node = node[name]
    return node


def compare_question(inquiry: Inquiry, num_val: int, reference: str) -> Question:
    """The question as it is set down."""
    margin = inquiry.margin if inquiry.margin is not None else usual_margin(num_val)
    return Question(candidate=SCRATCH, reference=reference, margin=margin)


def build_proposal(inquiry: Inquiry, folder: Path, note: Note, threads: int) -> tuple[Proposal, list[str]]:
    """Check the photographs and propose the study that fits the hours; what was chosen, line by line.

    Raises:
        UsageError, DataError: what keeps it from being carried out.
    """
    splits = [prepare_split(source, folder, note) for source in (inquiry.train, inquiry.val)]
    check_photographs(splits[0], splits[1], note)
    indices = (open_index(*splits[0]), open_index(*splits[1]))
    name, changes, recipe, told = build_base(inquiry, indices)
    backbone = recipe.model.backbone.name
    weights = imagenet_weights(backbone) if inquiry.weights == IMAGENET else inquiry.weights
    is_known = is_imagenet(backbone, weights)
    reference = IMAGENET if is_known else "pre-trained"
    price = Price.model_validate(imagenet_price(backbone)) if is_known else Price()
    told.append(f"weights    {weights}; their price is {price.kind}")
    question = compare_question(inquiry, indices[1].num_images, reference)

    def build(shape: Shape, unit_images: int | None) -> Study:
        """The study of a shape."""
        unit = unit_images or unit_of(recipe, indices[0].num_images)
        batch = recipe.training.schedule.batch_size
        curve = {"training.evaluate_every": max(batch, unit // EVALUATIONS_A_UNIT)}
        bare = Study(
            name=folder.name,
            question=question.model_copy(update={"num_seeds": 1}),
            recipe=name,
            set={**curve, **changes},
            arms={SCRATCH: {"start": SCRATCH}, reference: {"start": weights}},
            seeds=[0],
            prices={reference: price},
        )
        return with_shape(bare, shape, unit_images)

    proposal = propose_study(
        build, folder, hours=inquiry.hours, processes=inquiry.processes, threads=threads, note=note
    )
    return proposal, told


def unit_of(recipe: Recipe, num_train: int) -> int:
    """Images of one unit of the recipe on so many photographs."""
    from groundup.engine.schedule import images_of_unit

    return images_of_unit(recipe.training.schedule, num_train)


def proposal_lines(proposal: Proposal, told: list[str], folder: Path) -> Iterator[str]:
    """What will be carried out and why, for reading."""
    from groundup.study.expansion import arm_differences
    from groundup.study.study import study_directory

    yield from told
    forecast = Forecast(
        study=proposal.study,
        folder=folder,
        plan=proposal.plan,
        differences=arm_differences(proposal.study, study_directory(folder)),
        hours=proposal.hours,
    )
    yield from forecast.lines()
    yield from (f"note       {line}" for line in proposal.notes)
