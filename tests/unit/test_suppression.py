"""Suppression that answers with a mask, against torchvision's rows; the GPU's kernel, interpreted."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from groundup.ops.suppression import floor_to_single, survivors


def some_groups(seed, num_groups=3, num=70):
    generator = torch.Generator().manual_seed(seed)
    starts = torch.rand(num_groups, num, 2, generator=generator) * 60
    sides = torch.rand(num_groups, num, 2, generator=generator) * 40
    boxes = torch.cat([starts, starts + sides], dim=-1).round()  # whole pixels: many overlaps are equal
    return boxes, torch.rand(num_groups, num, generator=generator) < 0.85


def expected(boxes, is_candidate, threshold):
    mask = torch.zeros_like(is_candidate)
    for group, (own, counts) in enumerate(zip(boxes, is_candidate, strict=True)):
        rows = counts.nonzero()[:, 0]
        mask[group, rows[nms(own[rows], -rows.float(), threshold)]] = True
    return mask


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_survivors_are_torchvisions(threshold):
    for seed in range(4):
        boxes, is_candidate = some_groups(seed)
        assert torch.equal(
            survivors(boxes, is_candidate, threshold), expected(boxes, is_candidate, threshold)
        )


def test_nothing_survives_of_nothing():
    assert survivors(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool), 0.5).shape == (2, 0)
    assert not survivors(torch.rand(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool), 0.5).any()


def test_the_operator_keeps_the_rules_of_operators():
    torch.library.opcheck(torch.ops.groundup.survivors.default, (*some_groups(0), 0.5))


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0])
def test_a_single_threshold_divides_single_numbers_as_the_double_does(threshold):
    near = np.float32(threshold)
    for number in (np.nextafter(near, np.float32(-1)), near, np.nextafter(near, np.float32(2))):
        assert (float(number) > threshold) == (number > np.float32(floor_to_single(threshold)))


KERNEL = """
import sys
sys.path[:0] = sys.argv[1:]
import torch
from test_suppression import expected, some_groups
from groundup.ops.suppression import floor_to_single
from groundup.ops.suppression_kernel import launch
for seed, threshold in enumerate((0.0, 0.3, 0.5, 0.7)):
    for num in (1, 70, 128):
        boxes, is_candidate = some_groups(seed, 2, num)
        found = launch(boxes, is_candidate, floor_to_single(threshold))
        assert torch.equal(found, expected(boxes, is_candidate, threshold)), (seed, num)
"""


def test_the_gpus_kernel_gives_torchvisions_survivors():
    pytest.importorskip("triton")
    places = [str(Path(__file__).parent), *sys.path]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KERNEL, *places],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    if "only 0-dimensional arrays can be converted" in ended.stderr:
        pytest.skip("this Triton's interpreter does not work with this NumPy (3.6 with 2.4)")
    assert ended.returncode == 0, ended.stderr[-3000:]
