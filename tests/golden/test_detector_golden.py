"""Recorded losses and RoIs of the small detector: what a change of any part would move.

`python tests/golden/test_detector_golden.py` (with `tests` on the path) records them anew; review the
difference like code.
"""

import json
from pathlib import Path

import pytest
import torch

from detector_worlds import NUM_CLASSES, random_batch, tiny_detector
from groundup.models.rois import sample_rois

RECORD = Path(__file__).with_name("detector.json")
TOLERANCE = 1e-3
"""Convolutions differ in the last bits between processors, and chosen RoIs' features with them."""


def measured():
    """Losses of two batches, and the true boxes of the RoIs chosen from equal proposals."""
    model = tiny_detector(seed=0)
    losses = [
        {name: value.item() for name, value in model.losses(random_batch(objects, seed=seed)).items()}
        for seed, objects in enumerate([(3, 2), (7, 0)])
    ]
    batch = random_batch((4, 3), seed=3)
    found = model.rpn(model.pyramid(batch), (128, 160))
    found.logits.zero_()
    found.deltas.zero_()
    proposals = model.rpn.propose(found, batch.sizes, is_training=True, group_size=2)
    rois = sample_rois(proposals, batch, model.options.rois, NUM_CLASSES)
    return {"losses": losses, "labels": rois.labels.tolist(), "boxes": rois.boxes[:, -1].tolist()}


def test_the_small_detector_still_gives_the_recorded_numbers():
    recorded, values = json.loads(RECORD.read_text()), None
    with torch.no_grad():
        values = measured()
    for expected, losses in zip(recorded["losses"], values["losses"], strict=True):
        assert losses == pytest.approx(expected, rel=TOLERANCE, abs=1e-7)
    assert values["labels"] == recorded["labels"]
    for expected, box in zip(recorded["boxes"], values["boxes"], strict=True):
        assert box == pytest.approx(expected)


if __name__ == "__main__":
    with torch.no_grad():
        RECORD.write_text(json.dumps(measured(), indent=1) + "\n")
