"""Classifiers: what a backbone is pre-trained as, and whole ImageNet networks to prove weights with.

Legend:
    B  images      H, W  height and width of the padded batch      h, w  of a feature map
    D  channels of the last stage      K  classes
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name the field uses
from jaxtyping import Float, Int, UInt8
from pydantic import Field
from torch import Tensor, nn

from groundup.config import Options
from groundup.errors import DataError
from groundup.models.backbone import BackboneOptions, build_backbone, build_timm_classifier
from groundup.models.norm import NormKind
from groundup.models.rcnn import MAX_PIXEL
from groundup.models.weights import COUNTER, IMAGENET_MEAN, IMAGENET_STD, Colour, load_weights
from groundup.ops.sampling import KEY_MASK, random_keys
from groundup.structures import Batch

DROPOUT_STREAM = 3
"""Stream of the features that the head drops; 1 and 2 choose anchors and RoIs (`ops.sampling`)."""
CLASS_STD = 0.01
"""Deviation of the last layer's first weights. Source: Detectron, `fast_rcnn_heads.py`; the same layer."""


class ClassifierOptions(Options):
    """A classifier: a detector's backbone under a head."""

    backbone: BackboneOptions = BackboneOptions()
    """The same part, under the same names, as a detector's; its tensors become a detector's start."""
    hidden: int = Field(default=0, ge=0)
    """Width of a ReLU layer between the pooled features and the classes; 0: the head is linear."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of what the last layer reads that is dropped in training, by a hash of each sample's seed."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target spread evenly over all classes. Source: Szegedy et al. (2016), section 7."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureBatch(Batch):
    """A batch whose pooled features are known, so that neither photographs nor the backbone are needed."""

    features: Float[Tensor, "B D"]


class ClassHead(nn.Module):
    """From pooled features to class logits."""

    def __init__(self, num_features: int, num_classes: int, options: ClassifierOptions) -> None:
        """Begin with random weights and bias 0."""
        super().__init__()
        self.dropout = options.dropout
        self.hidden = nn.Linear(num_features, options.hidden) if options.hidden else None
        self.fc = nn.Linear(options.hidden or num_features, num_classes)
        if self.hidden is not None:
            nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")
            nn.init.zeros_(self.hidden.bias)
            object.__setattr__(self.hidden, "init_rule", "kaiming_normal(fan_in, relu), bias 0")
        nn.init.normal_(self.fc.weight, std=CLASS_STD)
        nn.init.zeros_(self.fc.bias)
        object.__setattr__(self.fc, "init_rule", f"normal({CLASS_STD}), bias 0")

    def forward(self, features: Float[Tensor, "B D"], seeds: Int[Tensor, " B"]) -> Float[Tensor, "B K"]:
        """Logits; in training, what is dropped is a function of the samples' seeds."""
        if self.hidden is not None:
            features = self.hidden(features).relu()
        if self.training and self.dropout:
            features = drop(features, seeds, self.dropout)
        logits: Tensor = self.fc(features)
        return logits


class Classifier(nn.Module):
    """A backbone, the mean of its last stage over the photograph, and a head."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        options: ClassifierOptions,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """Begin with random weights.

        Args:
            options: of every part.
            num_classes: K.
            pixel_mean: of R, G, B in units of 0 to 1; belongs to the start's weights.
            pixel_std: as above.
        """
        super().__init__()
        self.options = options
        self.num_classes = num_classes
        self.backbone = build_backbone(options.backbone)
        self.head = ClassHead(self.backbone.channels[-1], num_classes, options)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(1, 3, 1, 1), persistent=False)

    def losses(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy, the mean over the images."""
        return {
            "loss_class": F.cross_entropy(
                self.logits(batch), batch.labels[:, 0], label_smoothing=self.options.label_smoothing
            )
        }

    @torch.no_grad()
    def classify(self, batch: Batch) -> Float[Tensor, "B K"]:
        """Probability of each class."""
        return self.logits(batch).float().softmax(dim=1)

    def logits(self, batch: Batch) -> Float[Tensor, "B K"]:
        """Class logits of each image."""
        features = batch.features if isinstance(batch, FeatureBatch) else self.features(batch)
        logits: Tensor = self.head(features, batch.seeds)
        return logits

    def features(self, batch: Batch) -> Float[Tensor, "B D"]:
        """The last stage of the backbone, its mean over each photograph's own part of the padded batch."""
        stride = self.backbone.strides[-1]
        return pool_valid(self.backbone(self.normalise(batch))[-1], batch.sizes, stride)

    def normalise(self, batch: Batch) -> Float[Tensor, "B 3 H W"]:
        """Images less their mean, over their deviation, with zeros in the padding."""
        images: UInt8[Tensor, "B 3 H W"] = batch.images
        normal = (images.to(self.pixel_mean.dtype) / MAX_PIXEL - self.pixel_mean) / self.pixel_std
        rows = covered(batch.sizes[:, 0], images.shape[2], 1)[:, None, :, None]
        columns = covered(batch.sizes[:, 1], images.shape[3], 1)[:, None, None, :]
        return normal.mul_(rows * columns)


def build_classifier(
    options: ClassifierOptions, *, num_classes: int, pixel_mean: Sequence[float], pixel_std: Sequence[float]
) -> Classifier:
    """The classifier with random weights.

    Raises:
        UsageError: timm has no such backbone.
    """
    return Classifier(options, num_classes, pixel_mean, pixel_std)


def pool_valid(
    maps: Float[Tensor, "B D h w"], sizes: Int[Tensor, "B 2"], stride: int
) -> Float[Tensor, "B D"]:
    """Mean of each map over the part that its image covers; a cell counts by the share covered.

    Args:
        maps: features of padded images.
        sizes: (height, width) of the images inside the padding, in pixels.
        stride: pixels that one cell covers.
    """
    rows = covered(sizes[:, 0], maps.shape[2], stride)
    columns = covered(sizes[:, 1], maps.shape[3], stride)
    weights = (rows[:, :, None] * columns[:, None, :]).to(maps.dtype)
    return (maps * weights[:, None]).sum(dim=(2, 3)) / weights.sum(dim=(1, 2))[:, None]


def covered(lengths: Int[Tensor, " B"], num_cells: int, stride: int) -> Float[Tensor, "B cells"]:
    """Share, 0..1, of each cell along one side that lies within the length in pixels."""
    cells = torch.arange(num_cells, device=lengths.device)
    return (lengths[:, None] / stride - cells).clamp(0, 1)


def drop(features: Float[Tensor, "B D"], seeds: Int[Tensor, " B"], rate: float) -> Float[Tensor, "B D"]:
    """The features with a share set to zero and the others scaled up, by a hash of (seed, place).

    Source: Srivastava et al. (2014), section 4; scaled in training, so that evaluation changes nothing.
    """
    codes = torch.arange(features.shape[1], device=features.device)[None]
    is_kept = random_keys(seeds, codes, DROPOUT_STREAM) >= int(rate * KEY_MASK)
    return features * is_kept / (1 - rate)


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
        return (images.float() / MAX_PIXEL - self.pixel_mean) / self.pixel_std

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
