"""The paper in miniature, longer: as `miniature.py`, nearer to where training from scratch has caught up.

Draw the pictures, then carry the study out (an hour and a half on one core):

    groundup data world runs/miniature_long/scenes --train 2000 --val 300 --set 'forms=[star]' \
        --set 'textures=[dots]' --set min_side=64 --set max_side=64 --set max_objects=2 --set min_size=0.4 \
        --set max_size=0.8 --set crowd_ratio=0 --set max_distractors=0
    groundup data world runs/miniature_long/objects --objects --train 6000 --val 300 \
        --set 'forms=[heart,arrow,ring]' --set 'textures=[dots,stripes]' --set side=64 --set max_distractors=0
    groundup study run studies/miniature_long.py --processes 2

It is the demonstration's study, longer, with one seed more, and with one category and at most two large
objects in scenes of 64 pixels: what a classifier of boxes learns last is then out of the way, and a few
thousand images come closer to the end. With scenes of 96 pixels, three objects and lengths up to 2,400 images
scratch was still behind at the end: docs/LOG.md.
"""

import runpy
from pathlib import Path

from groundup.config import vary
from groundup.study.study import Study

SIDE = 64
UNIT_IMAGES = 1_000


def study() -> Study:
    """The study, on the pictures under runs/miniature_long."""
    short = runpy.run_path(str(Path(__file__).with_name("miniature.py")))
    base: Study = short["miniature"]("miniature_long", UNIT_IMAGES)
    sides = {f"transforms.{name}": SIDE for name in ("max_side", "test_short_side", "test_max_side")}
    return vary(base, {"set": {**base.set, "transforms.short_side": [SIDE], **sides}})
