"""Enhanced baselines: figure 5 and table 3. Scale augmentation, cascade heads, test-time augmentation.

Source: the paper, section 5.1; what it leaves open is ours and says so.
"""

from typing import Any

from groundup.study.paper.setting import (
    EVALUATE_EVERY,
    PRETRAINED,
    SCALE_AUGMENTATION,
    Sources,
    imagenet_price,
    paper_question,
)
from groundup.study.paper.values import (
    METRICS,
    TABLE_2,
    TABLE_3,
    UNITS,
    X152_PRETRAINED,
    of_arm,
    publication,
)
from groundup.study.publication import PublishedValue
from groundup.study.study import SCRATCH, Study

CASCADE: dict[str, Any] = {"model.cascade": {}, "model.box_head.class_agnostic": True}
"""Further box heads; masks by one head, on the last one's boxes."""
LATE = {"training.schedule.late_units": 3.0}
"""From scratch the cascade's heads join in for the last 270k iterations; ours: fine-tuned they are there from
the beginning, as in a Cascade R-CNN. Source: the paper, section 5.1."""
TEST_AUGMENTATION: dict[str, Any] = {"evaluation.tta": "detectron"}
VOTED_TEST_AUGMENTATION: dict[str, Any] = {"evaluation.tta": "detectron_x152"}
"""Source: Detectron's shipped list; that it is the paper's is an assumption."""
LENGTH = {SCRATCH: 6.0, PRETRAINED: 6.0}
"""Units of the plain systems."""
LONGER = {SCRATCH: 9.0, PRETRAINED: 6.0}
"""Units with scale augmentation. Source: the paper, section 5.1."""
SYSTEMS = ("plain", "scale augmentation", "cascade", "test augmentation")
"""Of figure 5, each with all that stands before it."""


def figure5(sources: Sources) -> Study:
    """R50 and R101: plain, with scale augmentation, cascade heads and test-time augmentation, both starts."""
    arms: dict[str, dict[str, Any]] = {}
    for title, backbone in (("R50", "resnet50"), ("R101", "resnet101")):
        for start in (SCRATCH, PRETRAINED):
            for system in SYSTEMS:
                changes = enhanced(system, start, sources, backbone)
                arms[f"{title} {start}, {system}"] = {"model.backbone.name": backbone, **changes}
    return Study(
        name="figure5",
        question=paper_question("R50 scratch, cascade", "R50 pre-trained, cascade"),
        recipe="mask_rcnn_r50_fpn_gn",
        set={**sources.data(), "training.evaluate_every": EVALUATE_EVERY},
        arms=arms,
        seeds=[0],
        prices={arm: imagenet_price() for arm in arms if PRETRAINED in arm},
        published=publication(figure5_numbers(list(arms))),
    )


def enhanced(system: str, start: str, sources: Sources, backbone: str) -> dict[str, Any]:
    """The changes of one system and start."""
    rank = SYSTEMS.index(system)
    changes: dict[str, Any] = {"start": SCRATCH} if start == SCRATCH else dict(sources.fine_tuned(backbone))
    changes[UNITS] = (LONGER if rank else LENGTH)[start]
    if rank >= 1:
        changes |= SCALE_AUGMENTATION
    if rank >= 2:
        changes |= CASCADE | (LATE if start == SCRATCH else {})
    if rank >= 3:
        changes |= TEST_AUGMENTATION
    return changes


def figure5_numbers(arms: list[str]) -> list[PublishedValue]:
    """What is known of the bars; the others are unknown."""
    known: dict[str, dict[str, float | None]] = {
        **{f"{arm}, plain": {"box/AP": row[0], "mask/AP": row[3]} for arm, row in TABLE_2.items()},
        "R101 scratch, scale augmentation": {"box/AP": 45.0, "mask/AP": 39.5},
        "R101 scratch, cascade": {"box/AP": 47.4, "mask/AP": 40.5},
        "R50 scratch, test augmentation": {"box/AP": None, "mask/AP": 41.6},
        "R50 pre-trained, test augmentation": {"box/AP": None, "mask/AP": 40.9},
        "R101 scratch, test augmentation": {"box/AP": None, "mask/AP": 42.5},
        "R101 pre-trained, test augmentation": {"box/AP": None, "mask/AP": 41.9},
    }
    sources = {
        "R101 scratch, scale augmentation": "table 3",
        "R101 scratch, cascade": "figure 5 as read by tensorpack's authors",
    }
    unknown: dict[str, float | None] = {"box/AP": None, "mask/AP": None}
    found = []
    for arm in arms:
        plain = "table 2" if arm.endswith("plain") else "figure 5"
        found += of_arm(arm, known.get(arm, unknown), sources.get(arm, plain))
    return found


def table3(sources: Sources) -> Study:
    """From scratch: R101 and X152 32x8d, cascade, test-time augmentation; X152 pre-trained beside it."""
    x152 = {"model.backbone.name": "resnext152_32x8d"}
    augmented = {"start": SCRATCH, UNITS: LONGER[SCRATCH], **SCALE_AUGMENTATION}
    cascade = {**augmented, **x152, **CASCADE, **LATE}
    tuned = "X152 pre-trained, test augmentation"
    rows = list(TABLE_3)
    arms = {
        rows[0]: {"model.backbone.name": "resnet101", **augmented},
        rows[1]: {**augmented, **x152},
        rows[2]: cascade,
        rows[3]: {**cascade, **VOTED_TEST_AUGMENTATION},
        tuned: {
            **sources.fine_tuned("resnext152_32x8d"),
            UNITS: LONGER[PRETRAINED],
            **SCALE_AUGMENTATION,
            **x152,
            **CASCADE,
            **VOTED_TEST_AUGMENTATION,
        },
    }
    numbers = [of_arm(arm, dict(zip(METRICS, row, strict=True)), "table 3") for arm, row in TABLE_3.items()]
    known: dict[str, float | None] = dict(zip(("box/AP", "mask/AP"), X152_PRETRAINED, strict=True))
    return Study(
        name="table3",
        question=paper_question(rows[3], tuned),
        recipe="mask_rcnn_r101_fpn_gn",
        set={**sources.data(), "training.evaluate_every": EVALUATE_EVERY},
        arms=arms,
        seeds=[0],
        prices={tuned: imagenet_price()},
        published=publication(*numbers, of_arm(tuned, known, "section 5.1")),
    )
