"""The paper in miniature: its question on drawn scenes, three seeds, three lengths, all data and a tenth.

Draw the pictures, then carry the study out (about half an hour on two cores):

    groundup data world runs/miniature/scenes --train 2000 --val 300 --set 'forms=[star]' \
        --set 'textures=[dots]' --set min_side=96 --set max_side=96 --set max_objects=3 --set min_size=0.3 \
        --set max_size=0.7 --set crowd_ratio=0 --set max_distractors=0
    groundup data world runs/miniature/objects --objects --train 6000 --val 300 \
        --set 'forms=[heart,arrow,ring]' --set 'textures=[dots,stripes]' --set side=64 --set max_distractors=0
    groundup study run studies/miniature.py --processes 2

It is the demonstration's study, longer, with one seed more, and with one category in place of three: what a
classifier of boxes learns last is then out of the way, and a few thousand images come closer to the end.
"""

from pathlib import Path

from groundup.config import vary
from groundup.demo import demo_study
from groundup.study.study import Study

UNIT_IMAGES = 400
LENGTHS = (1, 2, 6)
SEEDS = (0, 1, 2)
PRETRAINING_IMAGES = 24_000


def study() -> Study:
    """The study, on the pictures under runs/miniature."""
    return miniature("miniature", UNIT_IMAGES)


def miniature(name: str, unit_images: int) -> Study:
    """The study of that name, on the pictures under runs/NAME, 1x being so many images."""
    base = demo_study(Path("runs") / name, 0)
    changes = dict(base.set)
    changes["training.schedule.unit_images"] = unit_images
    changes["training.evaluate_every"] = unit_images
    objects = base.pretraining["objects"]
    longer = {**objects.set, "training.schedule.unit_images": PRETRAINING_IMAGES}
    return vary(
        base,
        {
            "name": name,
            "set": changes,
            "axes": {**base.axes, "training.schedule.units": list(LENGTHS)},
            "seeds": list(SEEDS),
            "question.num_seeds": len(SEEDS),
            "pretraining": {"objects": {"recipe": objects.recipe, "set": longer}},
        },
    )
