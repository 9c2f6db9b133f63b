"""Layers of a checkpoint that heads can borrow: a VGG's fc6 and fc7, and predictors class by class.

Legend:
    K  classes of the model     J  classes of the checkpoint
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

CLASSIFIER_LAYERS = {
    "box_head.fcs.0": ("pre_logits.fc1", "classifier.0"),
    "box_head.fcs.2": ("pre_logits.fc2", "classifier.3"),
}
"""Fully connected layers of ours, and timm's and torchvision's names of a VGG's fc6 and fc7.

Source: Fast R-CNN (Girshick, 2015), section 3.1: the network is cut after fc7, so both are pre-trained."""
HEAD_CONVS = "box_head.convs."
"""A box head with convolutions gives its first fully connected layer other features than a VGG's."""
PREDICTOR = re.compile(r"(?:^|\.)(classes|deltas|masks)\.(?:weight|bias)$")
ROWS_OF_A_CLASS = {"classes": 1, "deltas": 4, "masks": 1}
ROWS_OF_BACKGROUND = {"classes": 1, "deltas": 0, "masks": 0}
"""Last, as in `models.box_head`."""


def classifier_layers(
    model: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> Iterator[tuple[str, str, Tensor]]:
    """(name in the model, name in the weights, tensor) of a classifier's layers that fit the box head.

    timm keeps them as convolutions; their numbers lie in the order the box head reads its features in.
    """
    if any(name.startswith(HEAD_CONVS) for name in model):
        return
    for ours, names in CLASSIFIER_LAYERS.items():
        for leaf in ("weight", "bias"):
            target = model.get(f"{ours}.{leaf}")
            theirs = next((name for name in names if f"{name}.{leaf}" in weights), None)
            if target is None or theirs is None:
                continue
            tensor = weights[f"{theirs}.{leaf}"]
            if tensor.flatten(min(1, tensor.dim() - 1)).shape == target.shape:
                yield f"{ours}.{leaf}", f"{theirs}.{leaf}", tensor


def rows_by_class(
    name: str, target: Tensor, tensor: Tensor, ours: Sequence[str], theirs: Sequence[str]
) -> Tensor | None:
    """The target with the rows of the classes that both name, and of the background, taken over.

    None where the tensor is not a predictor's, or predicts for all classes at once.

    Args:
        name: of the tensor in the model.
        target: the model's.
        tensor: the checkpoint's.
        ours: names of the K classes, in order.
        theirs: names of the J classes, in order.
    """
    kind = PREDICTOR.search(name)
    if kind is None:
        return None
    rows, background = ROWS_OF_A_CLASS[kind[1]], ROWS_OF_BACKGROUND[kind[1]]
    fits = (
        len(target) == rows * len(ours) + background
        and len(tensor) == rows * len(theirs) + background
        and target.shape[1:] == tensor.shape[1:]
    )
    if not fits:
        return None
    filled = target.detach().clone()
    source = tensor.to(filled.dtype)
    for mine, his in shared_classes(ours, theirs):
        filled[mine * rows : (mine + 1) * rows] = source[his * rows : (his + 1) * rows]
    if background:
        filled[-background:] = source[-background:]
    return filled


def shared_classes(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """(place in ours, place in theirs) of the classes of one name, capitals aside."""
    places = {name.casefold(): place for place, name in reversed(list(enumerate(theirs)))}
    return [(mine, places[name.casefold()]) for mine, name in enumerate(ours) if name.casefold() in places]


def class_note(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """Which classes' predictors are taken over, in one line."""
    shared = [ours[mine] for mine, _ in shared_classes(ours, theirs)]
    rest = [name for name in ours if name not in shared]
    left = f"; left random: {', '.join(rest)}" if rest else ""
    return f"predictors: {len(shared)} of {len(ours)} classes found by name ({', '.join(shared)}){left}"
