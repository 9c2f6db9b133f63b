"""Other systems: keypoints (figure 6), VGG-16. Source: the paper, section 5.1."""

from groundup.study.paper.setting import (
    EVALUATE_EVERY,
    PRETRAINED,
    SCALE_AUGMENTATION,
    Sources,
    imagenet_price,
    paper_question,
)
from groundup.study.paper.values import UNITS, of_arm, publication
from groundup.study.study import SCRATCH, Study

VGG_LENGTHS = {SCRATCH: 11.0, PRETRAINED: 9.0}


def keypoints(sources: Sources) -> Study:
    """Keypoint R-CNN R50 FPN GN, scratch and pre-trained, 2x and 3x."""
    arms = {SCRATCH: {"start": SCRATCH}, PRETRAINED: sources.fine_tuned("resnet50")}
    numbers = []
    for arm, value in ((SCRATCH, 65.6), (PRETRAINED, 65.5)):
        numbers.append(of_arm(arm, {"keypoints/AP": value}, "section 5.1, 2x", {UNITS: 2.0}))
        numbers.append(of_arm(arm, {"keypoints/AP": None}, "figure 6, no number", {UNITS: 3.0}))
    return Study(
        name="keypoints",
        question=paper_question(),
        recipe="keypoint_rcnn_r50_fpn_gn",
        set={**sources.data("person_keypoints"), "training.evaluate_every": EVALUATE_EVERY},
        arms=arms,
        axes={UNITS: [2.0, 3.0]},
        seeds=[0],
        prices={PRETRAINED: imagenet_price()},
        published=publication(*numbers),
    )


def figure6(sources: Sources) -> Study:
    """Keypoint AP over training: the study `keypoints` under its figure's number."""
    return keypoints(sources).model_copy(update={"name": "figure6"})


def vgg(sources: Sources) -> Study:
    """Faster R-CNN on VGG-16 without norm and FPN: scratch at 11x, pre-trained at 9x."""
    return Study(
        name="vgg",
        question=paper_question(rule="convergence"),
        recipe="faster_rcnn_vgg16",
        set={**sources.data(), **SCALE_AUGMENTATION, "training.evaluate_every": EVALUATE_EVERY},
        arms={
            SCRATCH: {"start": SCRATCH, UNITS: VGG_LENGTHS[SCRATCH]},
            PRETRAINED: {**sources.fine_tuned("vgg16", "none"), UNITS: VGG_LENGTHS[PRETRAINED]},
        },
        seeds=[0],
        prices={PRETRAINED: imagenet_price()},
        published=publication(
            of_arm(SCRATCH, {"box/AP": 35.2}, "section 5.1, 11x"),
            of_arm(PRETRAINED, {"box/AP": 35.6}, "section 5.1, 9x"),
        ),
    )
