"""A built-in study on the photographs that the user chose: COCO at full scale, drawn scenes, or any set."""

from dataclasses import dataclass, replace
from pathlib import Path

from groundup.config import plain, read_assignments, read_tree
from groundup.data.coco import open_index
from groundup.data.world import Report
from groundup.errors import UsageError
from groundup.study.keys import Counted
from groundup.study.paper.catalogue import built_in
from groundup.study.paper.drawn import NUM_VAL as NUM_DRAWN_VAL
from groundup.study.paper.drawn import SIDE as DRAWN_SIDE
from groundup.study.paper.drawn import draw_objects, draw_pictures
from groundup.study.paper.miniature import UNIT_IMAGES, Miniature, reduced
from groundup.study.paper.setting import NUM_TRAIN, NUM_VAL, NUM_WITH_KEYPOINTS, Sources
from groundup.study.study import STUDY, Study, load_study

SIDE = 160
"""Shorter side in pixels of photographs in miniature, that of the tiny recipes."""
LONGEST = 5 / 3
"""Longer side at most, in shorter sides; 1333 to 800 in Detectron."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the user says about a built-in study; without data it can be planned by number alone."""

    coco: Path | None = None
    """Folder of COCO as it is downloaded: full scale."""
    world: bool = False
    """Drawn scenes: miniature."""
    data: tuple[Path, Path] | None = None
    """COCO json of both splits: miniature, or full scale with `full`."""
    images: Path | None = None
    """Folder of their photographs; None: that of each json."""
    full: bool = False
    """The published recipes and lengths on `data`."""
    weights: tuple[str, ...] = ()
    """ImageNet weights: `NAME=REFERENCE` by backbone and norm at full scale, one REFERENCE in miniature."""
    unit_images: int | None = None
    """Images of one unit in miniature."""
    seeds: tuple[int, ...] = ()
    side: int = SIDE
    """Shorter side in pixels, of photographs in miniature."""
    changes: tuple[str, ...] = ()
    """`key=value` changes of the recipe in all arms."""

    @property
    def names_data(self) -> bool:
        """Whether there is something to train on."""
        return self.world or self.coco is not None or self.data is not None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said."""
        return self == Choice()


def choose(
    name: str, folder: Path, choice: Choice, report: Report | None = None
) -> tuple[Study, Counted | None]:
    """The built-in study as it was chosen; numbers in place of data where none were named.

    Without a choice a study that was begun in the folder is that one. Scenes and objects are drawn here.

    Raises:
        UsageError: two kinds of data, or options that do not belong to what was chosen.
        DataError: data that cannot be used.
    """
    if choice.is_empty and (folder / STUDY).exists():
        return load_study(folder), None
    refuse_contradictions(choice)
    if choice.world or (choice.data is not None and not choice.full):
        study = built_in(name, Sources())
        study = reduced(study, miniature_of(study, folder, choice, report))
    else:
        study = built_in(name, sources_of(choice))
    study = changed(study, choice)
    if choice.names_data:
        return study, None
    num_train = NUM_WITH_KEYPOINTS if "keypoint" in study.recipe else NUM_TRAIN
    return study, Counted(num_train=num_train, num_val=NUM_VAL)


def refuse_contradictions(choice: Choice) -> None:
    """Refuse two kinds of data, and options of another kind.

    Raises:
        UsageError: they contradict each other.
    """
    named = [choice.coco is not None, choice.world, choice.data is not None]
    if sum(named) > 1:
        raise UsageError("choose one of --coco DIR, --world and --data TRAIN.json VAL.json")
    if choice.full and choice.data is None:
        raise UsageError("--full is of --data; --coco is at full scale, --world never")
    if choice.images is not None and choice.data is None:
        raise UsageError("--images is the folder of the photographs of --data")
    is_small = choice.world or (choice.data is not None and not choice.full)
    if choice.unit_images is not None and not is_small:
        raise UsageError("--unit-images shortens a miniature; at full scale a unit is the paper's")


def sources_of(choice: Choice) -> Sources:
    """Photographs and weights at full scale.

    Raises:
        UsageError: weights that do not say of which backbone.
    """
    weights = dict(one.partition("=")[::2] for one in choice.weights)
    for name, reference in weights.items():
        if not reference:
            raise UsageError(f"--weights {name}: write BACKBONE-NORM=FILE, such as resnet101-gn={name}")
    if choice.data is None:
        return Sources(coco=choice.coco or Path("coco"), weights=weights)
    train, val = ((path.absolute(), images_of(path, choice)) for path in choice.data)
    return Sources(train=train, val=val, weights=weights)


def images_of(annotations: Path, choice: Choice) -> Path:
    """Folder of the photographs of a json."""
    return (choice.images or annotations.parent).absolute()


def miniature_of(study: Study, folder: Path, choice: Choice, report: Report | None) -> Miniature:
    """What the study is reduced to; draws what it lacks.

    Raises:
        UsageError: several weights.
        DataError: data that cannot be used.
    """
    if len(choice.weights) > 1:
        raise UsageError("a miniature has one backbone a recipe: give --weights once, or let it pre-train")
    weights = choice.weights[0] if choice.weights else None
    unit_images, seeds = choice.unit_images or UNIT_IMAGES, choice.seeds or (0,)
    if choice.data is None:
        drawn = draw_pictures(folder, keypoints="keypoint" in study.recipe, report=report)
        scenes = drawn.scenes
        return Miniature(
            data={
                "data.train.annotations": str(scenes.train_annotations),
                "data.train.images": str(scenes.train_images),
                "data.val.annotations": str(scenes.val_annotations),
                "data.val.images": str(scenes.val_images),
            },
            num_val=NUM_DRAWN_VAL,
            side=DRAWN_SIDE,
            longest=DRAWN_SIDE,
            unit_images=unit_images,
            seeds=seeds,
            objects=None if weights else drawn.objects,
            weights=weights,
        )
    indices = [open_index(path, images_of(path, choice), masks=True) for path in choice.data]
    return Miniature(
        data=sources_of(replace(choice, weights=())).data(),
        num_val=indices[1].num_images,
        side=choice.side,
        longest=round(choice.side * LONGEST),
        has_masks=all(index.has_masks for index in indices),
        unit_images=unit_images,
        seeds=seeds,
        objects=None if weights else draw_objects(folder, report),
        weights=weights,
    )


def changed(study: Study, choice: Choice) -> Study:
    """The study with the user's seeds and changes.

    Raises:
        UsageError: a change that is no assignment or cannot be.
    """
    values = plain(study)
    if choice.seeds:
        values["seeds"] = list(choice.seeds)
        values["question"]["num_seeds"] = len(choice.seeds)
    values["set"] |= read_assignments(choice.changes)
    return read_tree(Study, values)
