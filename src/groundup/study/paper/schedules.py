"""Scratch against pre-training over lengths of schedule: figures 1 to 4, tables 1 and 2.

Every length drops its rate 60k and 20k iterations before its end; lengths of one arm share a trunk.
Source: the paper, sections 3 and 5.1.
"""

from typing import Any

from groundup.study.paper.setting import (
    EVALUATE_EVERY,
    PRETRAINED,
    Sources,
    imagenet_price,
    paper_question,
)
from groundup.study.paper.values import (
    BEST_LENGTHS,
    LENGTHS,
    METRICS,
    TABLE_1,
    TABLE_2,
    UNITS,
    at_lengths,
    of_arm,
    publication,
)
from groundup.study.publication import Publication
from groundup.study.study import SCRATCH, Study

BACKBONES = {"R50": "resnet50", "R101": "resnet101"}


def figure1(sources: Sources) -> Study:
    """Box AP over training: Mask R-CNN R50 FPN GN, scratch and pre-trained, 2x to 6x."""
    return one_backbone("figure1", "mask_rcnn_r50_fpn_gn", "R50", sources)


def figure2(sources: Sources) -> Study:
    """Images, instances and pixels seen by both arms, pre-training included: the bill of figure 1's runs."""
    study = one_backbone("figure2", "mask_rcnn_r50_fpn_gn", "R50", sources)
    lengths = {SCRATCH: 6.0, PRETRAINED: 2.0}
    arms = {arm: {**changes, UNITS: lengths[arm]} for arm, changes in study.arms.items()}
    kept = [one for one in published_of(study).values if one.point[UNITS] == lengths[one.arm]]
    values = [one.model_copy(update={"point": {}}) for one in kept]
    paper = published_of(study).model_copy(update={"values": values})
    return study.model_copy(update={"arms": arms, "axes": {}, "published": paper})


def figure3(sources: Sources) -> Study:
    """Box AP over training: Mask R-CNN R101 FPN GN, scratch and pre-trained, 2x to 6x."""
    return one_backbone("figure3", "mask_rcnn_r101_fpn_gn", "R101", sources)


def figure4(sources: Sources) -> Study:
    """Box AP over training with SyncBN in place of GN, R50: the study `syncbn` under its figure's number."""
    return syncbn(sources).model_copy(update={"name": "figure4"})


def syncbn(sources: Sources) -> Study:
    """Mask R-CNN R50 FPN with SyncBN, scratch and pre-trained, 2x to 6x."""
    arms = {SCRATCH: {"start": SCRATCH}, PRETRAINED: sources.fine_tuned("resnet50", "bn")}
    unknown = (None,) * len(LENGTHS)
    values = publication(*(at_lengths(arm, unknown, "section 5.1, a figure") for arm in arms))
    return lengths_study("syncbn", "mask_rcnn_r50_fpn_syncbn", arms, values, sources)


def table1(sources: Sources) -> Study:
    """Box AP of R50 and R101, scratch and pre-trained, at 2x to 6x: 3.12 M iterations by shared trunks."""
    values = publication(*(at_lengths(arm, row, "table 1") for arm, row in TABLE_1.items()))
    return two_backbones("table1", values, sources, rule="iterations")


def table2(sources: Sources) -> Study:
    """All metrics of boxes and masks, each arm at its best schedule: R50 and R101."""
    values = publication(
        *(
            of_arm(arm, dict(zip(METRICS, row, strict=True)), "table 2", {UNITS: BEST_LENGTHS[arm]})
            for arm, row in TABLE_2.items()
        )
    )
    return two_backbones("table2", values, sources, rule="convergence")


def one_backbone(name: str, recipe: str, backbone: str, sources: Sources) -> Study:
    """Both starts of one backbone with GN at the lengths of table 1."""
    arms = {SCRATCH: {"start": SCRATCH}, PRETRAINED: sources.fine_tuned(BACKBONES[backbone])}
    rows = ((arm, TABLE_1[f"{backbone} {arm}"]) for arm in arms)
    values = publication(*(at_lengths(arm, row, "table 1") for arm, row in rows))
    return lengths_study(name, recipe, arms, values, sources)


def two_backbones(name: str, published: Publication, sources: Sources, *, rule: str) -> Study:
    """Both starts of R50 and R101; the question is asked of R50, R101 stands beside it."""
    arms: dict[str, dict[str, Any]] = {}
    for title, backbone in BACKBONES.items():
        network = {"model.backbone.name": backbone}
        arms[f"{title} scratch"] = {"start": SCRATCH, **network}
        arms[f"{title} {PRETRAINED}"] = {**sources.fine_tuned(backbone), **network}
    study = lengths_study(name, "mask_rcnn_r50_fpn_gn", arms, published, sources)
    question = paper_question("R50 scratch", f"R50 {PRETRAINED}", rule=rule)
    return study.model_copy(update={"question": question})


def lengths_study(
    name: str, recipe: str, arms: dict[str, dict[str, Any]], published: Publication, sources: Sources
) -> Study:
    """Arms crossed with the lengths of table 1, on COCO."""
    return Study(
        name=name,
        question=paper_question(*list(arms)[:2]),
        recipe=recipe,
        set={**sources.data(), "training.evaluate_every": EVALUATE_EVERY},
        arms=arms,
        axes={UNITS: list(LENGTHS)},
        seeds=[0],
        prices={arm: imagenet_price() for arm in arms if arm.endswith(PRETRAINED)},
        published=published,
    )


def published_of(study: Study) -> Publication:
    """The numbers that a study of the paper has."""
    assert study.published is not None, "every study of the paper has numbers"
    return study.published
