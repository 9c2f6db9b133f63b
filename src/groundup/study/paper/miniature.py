"""From a study of the paper to the same study in miniature: small recipes, small sets, short units.

What is declared here is all that changes: recipes and backbones by name, sides in pixels, rates, lengths in
images and starts. Arms, axes, lengths in units, drops in units, the search and the question stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groundup.config import plain, read_tree, vary
from groundup.data.world import ObjectFiles
from groundup.engine.schedule import UNIT_BATCH, UNIT_STEPS
from groundup.study.compare import usual_margin
from groundup.study.paper.setting import IMAGENET_EPOCHS, IMAGENET_IMAGES
from groundup.study.study import PRETRAINING, SCRATCH, Study

SYNCBN = {f"model.{part}.norm": "syncbn" for part in ("backbone", "fpn", "box_head", "mask_head")}
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "mask_rcnn_r50_fpn_gn": ("tiny_mask_rcnn", {}),
    "mask_rcnn_r101_fpn_gn": ("tiny_mask_rcnn", {"model.backbone.name": "resnet14t"}),
    "mask_rcnn_r50_fpn_syncbn": ("tiny_mask_rcnn", SYNCBN),
    "faster_rcnn_r101_fpn_gn": ("tiny_faster_rcnn", {"model.backbone.name": "resnet14t"}),
    "keypoint_rcnn_r50_fpn_gn": ("tiny_keypoint_rcnn", {}),
    "faster_rcnn_vgg16": ("tiny_faster_rcnn_vgg", {}),
}
"""Small counterpart of each recipe, and what is changed in it."""
BACKBONES = {"resnet50": "resnet10t", "resnet101": "resnet14t", "resnext152_32x8d": "resnet18"}
"""Small counterparts of backbones that arms name."""
FULL_SIDE = 800
"""Pixels that sides in a study of the paper are relative to."""
FULL_LR = 0.02
FULL_UNIT = UNIT_STEPS * UNIT_BATCH
UNIT_IMAGES = 240
"""Images of one unit unless told otherwise: a minute of two cores."""
BATCH, LR = 2, 0.01
"""Ours: of so few images, small steps make the most. Source: docs/LOG.md."""
PRETRAINING_UNITS = IMAGENET_EPOCHS * IMAGENET_IMAGES / FULL_UNIT
"""Length of the pre-training in units: 89, as the paper counts ImageNet."""
LEARNT = 50
"""Most training photographs that are evaluated too."""
RATE = "training.schedule.lr"
LENGTHS = ("training.schedule.images", "training.schedule.unit_images")


@dataclass(frozen=True, slots=True, kw_only=True)
class Miniature:
    """What a study is reduced to."""

    data: Mapping[str, str]
    """Changes that point a recipe at the photographs."""
    num_val: int
    """Photographs that arms are judged on: the margin follows."""
    side: int
    """Shorter side in pixels that stands for the paper's 800."""
    longest: int
    """Longer side at most."""
    has_masks: bool = True
    """Whether the annotations have masks; without them mask heads are left out."""
    unit_images: int = UNIT_IMAGES
    seeds: Sequence[int] = (0,)
    objects: ObjectFiles | None = None
    """Pictures that the study pre-trains its own start on; None: `weights` are the start."""
    weights: str | None = None


def reduced(study: Study, small: Miniature) -> Study:
    """The study of the paper in miniature.

    Raises:
        UsageError: weights or options that do not fit the small recipes.
    """
    recipe, own = RECIPES[study.recipe]
    values = plain(study)
    values["recipe"] = recipe
    kept = {path: small_value(path, value, small) for path, value in study.set.items() if not is_data(path)}
    values["set"] = {**common(small), **kept, **small.data, **own}
    if not small.has_masks:
        values["set"] = without_masks(values["set"])
    values["arms"], values["pretraining"] = small_arms(study, recipe, own, small)
    values["seeds"] = list(small.seeds)
    values["question"] |= {"num_seeds": len(small.seeds), "margin": usual_margin(small.num_val)}
    values["prices"] = {}
    if study.search is not None:
        values["search"]["images"] = small_value(LENGTHS[0], study.search.images, small)
        values["search"]["space"] = {
            path: [small_value(path, one, small) for one in choices]
            for path, choices in values["search"]["space"].items()
        }
    if study.published is not None:
        values["published"]["same_scale"] = False
    return read_tree(Study, values)


def without_masks(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes for annotations without masks."""
    kept = {path: value for path, value in changes.items() if not path.startswith("model.mask_head.")}
    return {**kept, "model.mask_head": None}


def is_data(path: str) -> bool:
    """Whether an option says where photographs are."""
    return path.startswith(("data.train", "data.val"))


def small_value(path: str, value: Any, small: Miniature) -> Any:
    """The counterpart of an option's value."""
    if path == "model.backbone.name":
        return BACKBONES[value]
    if path == "transforms.short_side":
        return [round(side * small.side / FULL_SIDE) for side in value]
    if path == "training.evaluate_every":
        return small.unit_images
    if path in LENGTHS and value is not None:
        return round(value * small.unit_images / FULL_UNIT)
    if path == "evaluation.train_images":
        return min(value, LEARNT)
    if path == "evaluation.tta":
        return small_views(value, small)
    if path == RATE:
        return value * LR / FULL_LR
    return value


def small_views(preset: str, small: Miniature) -> dict[str, Any]:
    """The counterpart of a published list of views at test time."""
    from groundup.engine.tta import PRESETS

    views = plain(PRESETS[preset])
    scales = [round(side * small.side / FULL_SIDE) for side in views["scales"]]
    longest = round(views["max_side"] * small.side / FULL_SIDE)
    return {**views, "scales": scales, "max_side": longest}


def common(small: Miniature) -> dict[str, Any]:
    """What every recipe in miniature has, whatever the study sets."""
    return {
        **{f"transforms.{name}": small.longest for name in ("max_side", "test_max_side")},
        "transforms.short_side": [small.side],
        "transforms.test_short_side": small.side,
        RATE: LR,
        "training.schedule.unit_images": small.unit_images,
        "training.schedule.batch_size": BATCH,
    }


def small_arms(
    study: Study, recipe: str, own: Mapping[str, Any], small: Miniature
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The arms, and the pre-trainings that they begin from: one for each backbone."""
    arms: dict[str, dict[str, Any]] = {}
    made: dict[str, dict[str, Any]] = {}
    for name, arm in study.arms.items():
        changes = {path: small_value(path, value, small) for path, value in arm.items()}
        begins = changes.pop("start", None), changes.pop("start.weights", None)
        weights = next((one for one in begins if one is not None), SCRATCH)
        if weights != SCRATCH and small.objects is not None:
            key, entry = pretraining_of_arm(recipe, {**own, **changes}, small, small.objects)
            made[key] = entry
            weights = f"{PRETRAINING}:{key}"
        elif weights != SCRATCH:
            weights = small.weights or weights
        arms[name] = {"start": weights, **changes}
    return arms, made


def pretraining_of_arm(
    recipe: str, changes: Mapping[str, Any], small: Miniature, objects: ObjectFiles
) -> tuple[str, dict[str, Any]]:
    """Name and description of the pre-training of an arm's backbone on drawn objects."""
    from groundup.recipe import Recipe
    from groundup.recipes import resolve_recipe

    base = resolve_recipe(recipe, [])
    assert isinstance(base, Recipe), "tiny counterparts are detectors"
    network = {path: value for path, value in changes.items() if path.startswith("model.")}
    backbone = vary(base, network).model.backbone
    length = round(PRETRAINING_UNITS * small.unit_images)
    return f"objects-{backbone.name}", {
        "recipe": "tiny_classifier",
        "set": {
            "data.train": str(objects.train),
            "data.val": str(objects.val),
            "transforms.crop": None,
            **{f"model.backbone.{name}": value for name, value in plain(backbone).items()},
            "training.schedule.unit_images": length,
        },
    }
