"""Pascal VOC. Source: the paper, section 5.2; what it leaves open is ours and says so."""

from typing import Any

from groundup.engine.schedule import UNIT_BATCH, UNIT_STEPS
from groundup.study.paper.setting import (
    EVALUATE_EVERY,
    PRETRAINED,
    Sources,
    imagenet_price,
    paper_question,
)
from groundup.study.paper.values import IMAGES, UNITS, of_arm, publication
from groundup.study.study import SCRATCH, Study

VOC_SCALES = tuple(range(480, 801, 32))
"""Source: Detectron2, its VOC configurations; the paper says that there is scale augmentation."""
VOC_STEPS = {SCRATCH: 144_000, PRETRAINED: 18_000}
VOC_TAIL = (1 / 3, 1 / 9)
"""Parts of the length after each drop. Source: Detectron2, VOC at 18k iterations (drops at 12k and 16k); ours
for 144k, of which the paper gives the length alone."""


def voc(sources: Sources) -> Study:
    """Pascal VOC, Faster R-CNN R101 FPN GN: scratch for 144k iterations, pre-trained for 18k."""
    starts = {SCRATCH: {"start": SCRATCH}, PRETRAINED: sources.fine_tuned("resnet101")}
    arms = {arm: {**start, **voc_schedule(VOC_STEPS[arm])} for arm, start in starts.items()}
    return Study(
        name="voc",
        question=paper_question(rule="convergence", endpoint="AP50", secondary=("AP", "AP75")),
        recipe="faster_rcnn_r101_fpn_gn",
        set={
            **sources.data(),
            "transforms.short_side": list(VOC_SCALES),
            "evaluation.voc": "voc2012",
            "training.evaluate_every": EVALUATE_EVERY,
            "training.schedule.unit_images": UNIT_STEPS * UNIT_BATCH,
        },
        arms=arms,
        seeds=[0],
        prices={PRETRAINED: imagenet_price()},
        published=publication(
            of_arm(SCRATCH, {"voc/AP50": 77.6}, "section 5.2, 144k iterations"),
            of_arm(PRETRAINED, {"voc/AP50": 82.7}, "section 5.2, 18k iterations"),
        ),
    )


def voc_schedule(steps: int) -> dict[str, Any]:
    """A length in iterations with drops at two thirds and eight ninths of it."""
    return {
        UNITS: None,
        IMAGES: steps * UNIT_BATCH,
        "training.schedule.drops": [part * steps / UNIT_STEPS for part in VOC_TAIL],
    }
