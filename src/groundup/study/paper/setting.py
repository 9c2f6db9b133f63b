"""What the paper's studies have in common at full scale: data, starts, price, question, arms."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from groundup.engine.schedule import UNIT_BATCH, UNIT_SET
from groundup.study.compare import Question, usual_margin
from groundup.study.study import SCRATCH, Price

NUM_TRAIN, NUM_VAL = UNIT_SET, 5_000
"""Photographs of COCO train2017 and val2017."""
NUM_WITH_KEYPOINTS = 64_115
"""Photographs of train2017 with a person whose keypoints are annotated. Source: COCO's data set card."""
PRETRAINED = "pre-trained"
FROZEN_STAGES = 2
"""Stem and res2 do not learn when fine-tuning. Source: Detectron and Detectron2, `FREEZE_AT`."""
EVALUATE_EVERY = 10_000 * UNIT_BATCH
"""Ours: the curves of the figures are drawn from evaluations whose distance the paper does not say."""
MARGIN = usual_margin(NUM_VAL)
IMAGENET_EPOCHS, IMAGENET_IMAGES, IMAGENET_SIDE = 100, 1_280_000, 224
"""Source: the paper, section 4, figure 2: 1.28 M images, 100 epochs; 224 pixels a side is the usual crop."""

PUBLISHED_WEIGHTS = {
    "resnet50-gn": "timm:resnet50_gn.a1h_in1k",
    "resnet50-bn": "torchvision:ResNet50_Weights.IMAGENET1K_V1",
}
"""ImageNet weights of the paper's backbones that a library has by name. The paper's own, Detectron's, were
trained otherwise; where nothing stands here a file is asked for."""

SCALES = (640, 672, 704, 736, 768, 800)
"""Shorter sides of train-time scale augmentation. Source: Detectron; the paper gives the range."""
SCALE_AUGMENTATION: dict[str, Any] = {"transforms.short_side": list(SCALES)}

Annotations = Literal["instances", "person_keypoints"]


def imagenet_price() -> Price:
    """What ImageNet weights cost as the paper counts it in figure 2."""
    images = float(IMAGENET_EPOCHS * IMAGENET_IMAGES)
    return Price(
        images=images,
        instances=images,
        pixels=images * IMAGENET_SIDE**2,
        kind="estimated",
        source="counted as in figure 2 of the paper: 1.28 M images x 100 epochs, 1 instance and 224 x 224 px",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Photographs and weights at full scale."""

    coco: Path = Path("coco")
    """Folder of COCO as it is downloaded: `annotations`, `train2017`, `val2017`."""
    train: tuple[Path, Path] | None = None
    """Annotations and photographs in place of COCO's; None: COCO's."""
    val: tuple[Path, Path] | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    """Reference of ImageNet weights by backbone and norm, such as `resnet101-gn`."""

    def data(self, annotations: Annotations = "instances") -> dict[str, Any]:
        """The changes that point a recipe at the photographs."""
        changes = {}
        for split, given in (("train", self.train), ("val", self.val)):
            document, images = given or (
                self.coco / "annotations" / f"{annotations}_{split}2017.json",
                self.coco / f"{split}2017",
            )
            changes[f"data.{split}.annotations"] = str(document)
            changes[f"data.{split}.images"] = str(images)
        return changes

    def fine_tuned(self, backbone: str, norm: str = "gn") -> dict[str, Any]:
        """The changes of an arm that begins from ImageNet weights and freezes stem and res2.

        Weights that nobody named are a file in the current folder, which is asked for when training begins.
        """
        name = f"{backbone}-{norm}"
        reference = self.weights.get(name) or PUBLISHED_WEIGHTS.get(name)
        start = {"start": reference} if reference else {"start.weights": f"{name}.pth"}
        return {**start, "start.frozen_stages": FROZEN_STAGES}


def paper_question(candidate: str = SCRATCH, reference: str = PRETRAINED, **others: Any) -> Question:
    """The paper's question of two arms, by box AP on val2017."""
    return Question(
        text="Is training from scratch no worse than ImageNet pre-training?",
        candidate=candidate,
        reference=reference,
        margin=MARGIN,
        num_seeds=1,
        **others,
    )
