"""The paper's data regimes by name: shares of COCO's train2017 that any other set can be cut to as well."""

COCO_TRAIN_IMAGES = 118_287
"""Photographs of train2017. Source: He et al. (2019), 3 (118k); the json's own list."""
REGIMES = {
    "35k": 35_000 / COCO_TRAIN_IMAGES,
    "10k": 10_000 / COCO_TRAIN_IMAGES,
    "3.5k": 3_500 / COCO_TRAIN_IMAGES,
    "1k": 1_000 / COCO_TRAIN_IMAGES,
}
"""Shares 0.296, 0.0845, 0.0296 and 0.00845. Source: He et al. (2019), 5.1 and 5.2. Which images were
drawn is not published, nor whether 35k are the 35,504 of val35k, whose size they have."""


def share_of(value: object) -> object:
    """The share that a regime's name stands for; any other value as it is."""
    return REGIMES.get(value, value) if isinstance(value, str) else value
