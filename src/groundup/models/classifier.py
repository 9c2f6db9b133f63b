"""Whole ImageNet classifiers, to prove a backbone's weights: what classifies right was loaded right.

Legend:
    B  images      H, W  height and width      K  classes
"""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from groundup.errors import DataError
from groundup.models.backbone import build_timm_classifier
from groundup.models.norm import NormKind
from groundup.models.weights import COUNTER, IMAGENET_MEAN, IMAGENET_STD, Colour, load_weights

WHITE = 255.0
"""The largest byte."""


class ImagenetClassifier(nn.Module):
    """timm's network with its own classifier on top, weights loaded the way a start loads them."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, network: nn.Module, pixel_mean: Colour, pixel_std: Colour) -> None:
        """Wrap a network that takes normalised images."""
        super().__init__()
        self.network = network
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(1, 3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(1, 3, 1, 1))

    def normalise(self, images: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Bytes as the network wants them: scaled to 0..1, the mean off, over the deviation."""
        return (images.float() / WHITE - self.pixel_mean) / self.pixel_std

    def forward(self, images: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """Class logits of RGB images."""
        logits: Tensor = self.network(self.normalise(images))
        return logits

    @torch.no_grad()
    def classify(self, images: UInt8[Tensor, "B 3 H W"], *, most: int = 5) -> Int[Tensor, "B most"]:
        """The most likely classes of each image, likeliest first."""
        return self.forward(images).topk(most, dim=1).indices


def build_imagenet_classifier(name: str, weights: str, *, norm: NormKind = "frozen_bn") -> ImagenetClassifier:
    """The timm model of that name with weights through the same reading and renaming as `start.load_start`.

    It is in evaluation mode. Where the constants of the weights are unknown, ImageNet's are used.

    Raises:
        DataError: the weights cannot be read, or do not fill the whole network, classifier included.
        UsageError: timm has no such model.
    """
    network = build_timm_classifier(name, norm)
    loaded = load_weights(weights)
    outcome = network.load_state_dict(loaded.tensors, strict=False)
    missing = [key for key in outcome.missing_keys if not key.endswith(COUNTER)]
    unexpected = [key for key in outcome.unexpected_keys if not key.endswith(COUNTER)]
    if missing or unexpected:
        raise DataError(
            f"{loaded.source}: is not the whole classifier {name}: {len(missing)} tensors missing "
            f"{missing[:2]}, {len(unexpected)} unexpected {unexpected[:2]}; give a file with its classifier"
        )
    mean, std = loaded.facts.mean or IMAGENET_MEAN, loaded.facts.std or IMAGENET_STD
    return ImagenetClassifier(network, mean, std).eval()
