"""What is saved comes back, under any layout and aliasing."""

import torch
from torch import nn

from groundup.engine.checkpoint import checkpoint_path, load_weights, newest_checkpoint, save_checkpoint
from groundup.engine.numerics import determinism, step_seed


def test_tensors_come_back_bit_for_bit(tmp_path):
    shared = torch.randn(3, 4)
    tensors = {
        "model": {
            "strided": torch.randn(4, 6)[:, ::2],
            "channels_last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
            "one": shared,
            "other": shared,
            "view": shared[1:],
            "count": torch.tensor(5),
            "half": torch.randn(3).bfloat16(),
        }
    }
    path = save_checkpoint(tmp_path, 7, tensors, {"note": "x"}, keep=1)
    assert path == checkpoint_path(tmp_path, 7)
    found = newest_checkpoint(tmp_path)
    assert (found.images_seen, found.state["note"], found.skipped) == (7, "x", ())
    back = found.tensors("model")
    assert back.keys() == tensors["model"].keys()
    for name, value in tensors["model"].items():
        assert torch.equal(back[name], value), name
        assert back[name].dtype == value.dtype


def test_saving_the_same_state_twice_writes_once(tmp_path):
    tensors = {"model": nn.Linear(2, 2).state_dict()}
    first = save_checkpoint(tmp_path, 7, tensors, {}, keep=1).stat().st_ino
    assert save_checkpoint(tmp_path, 7, tensors, {}, keep=1).stat().st_ino == first


def test_the_weights_of_a_run_are_the_averaged_ones_where_it_has_them(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 1, {"model": {"a": torch.zeros(1)}}, {}, keep=2)
    assert load_weights(tmp_path)["a"].item() == 0
    save_checkpoint(tmp_path, 2, {"model": {"a": torch.zeros(1)}, "ema": {"a": torch.ones(1)}}, {}, keep=2)
    assert load_weights(tmp_path)["a"].item() == 1


def test_step_seeds_differ_by_seed_position_and_rank():
    seeds = {
        step_seed(seed, seen, rank) for seed in range(5) for seen in range(0, 80, 16) for rank in range(2)
    }
    assert len(seeds) == 50
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_determinism_is_lent_not_taken():
    before = torch.are_deterministic_algorithms_enabled()
    with determinism(torch.device("cpu"), strict=False):
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.are_deterministic_algorithms_enabled() == before
