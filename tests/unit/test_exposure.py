"""The bill of a run: it adds up, survives JSON, and counts what the batch holds."""

import json

import pytest
import torch
from torch import nn

from groundup.errors import DataError
from groundup.metrics.exposure import Exposure
from groundup.metrics.flops import count_flops, exposure_of
from groundup.structures import Batch


def some_batch():
    return Batch(
        images=torch.zeros(2, 3, 64, 96, dtype=torch.uint8),
        sizes=torch.tensor([[60, 90], [64, 70]], dtype=torch.int32),
        original_sizes=torch.tensor([[60, 90], [64, 70]], dtype=torch.int32),
        boxes=torch.zeros(2, 3, 4),
        labels=torch.tensor([[0, 4, -1], [-1, -1, -1]]),
        masks=None,
        keypoints=None,
        image_ids=torch.tensor([1, 2]),
        seeds=torch.tensor([1, 2]),
    )


def test_a_batch_counts_without_its_padding():
    seen = exposure_of(some_batch(), flops=7, seconds=0.5)
    assert seen == Exposure(images=2, instances=2, pixels=60 * 90 + 64 * 70, flops=7, seconds=0.5)


def test_pixels_of_a_large_batch_do_not_overflow():
    batch = some_batch()
    object.__setattr__(batch, "sizes", torch.full((2, 2), 50_000, dtype=torch.int32))
    assert exposure_of(batch).pixels == 2 * 50_000**2


def test_bills_add_up_and_start_from_nothing():
    one = Exposure(images=1, instances=2, pixels=3, flops=4, seconds=5.0)
    assert one + one == Exposure(images=2, instances=4, pixels=6, flops=8, seconds=10.0)
    assert Exposure() + one == one


def test_energy_is_known_only_where_every_part_was_measured():
    assert (Exposure(joules=2.0) + Exposure(joules=3.0)).joules == 5.0
    assert (Exposure(joules=2.0) + Exposure()).joules is None


def test_a_bill_survives_json():
    bill = Exposure(images=1, instances=2, pixels=3, flops=4 * 10**20, seconds=0.1, joules=1e9)
    assert Exposure.from_json(json.loads(json.dumps(bill.to_json()))) == bill
    with pytest.raises(DataError, match="'watts'"):
        Exposure.from_json({"watts": 3})


def test_flops_of_a_convolution_are_those_of_the_formula():
    layer = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    images = torch.randn(2, 3, 10, 12)
    forward = 2 * (2 * 8 * 10 * 12) * (3 * 3 * 3)  # two per multiply-add
    assert count_flops(lambda: layer(images)) == forward
    # the backward pass makes the gradient of the weights, as large as the forward pass;
    # that of the images is not asked for
    assert count_flops(lambda: layer(images).sum().backward()) == 2 * forward


def test_the_lines_name_every_quantity():
    lines = Exposure(images=1_440_000, pixels=1_440_000_000_000, flops=10**18, seconds=7200.0).lines()
    assert lines[0] == "images     1,440,000"
    assert "1.44 Tpixels" in lines[2]
    assert "1 EFLOP" in lines[3]
    assert "2.00 h" in lines[4]
    assert "not measured" in lines[5]
