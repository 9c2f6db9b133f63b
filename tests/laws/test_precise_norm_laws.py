"""Precise batch norm: statistics of the whole set of images, and nothing of it stays in the training."""

import pytest
import torch
from torch import nn

from groundup.engine.checkpoint import EVALUATIONS, STATISTICS, load_weights, newest_checkpoint
from groundup.engine.distributed import World, joined
from groundup.engine.precise_norm import precise_norms, save_statistics
from groundup.models.norm import build_norm
from groundup.shares import Share
from processes import in_processes
from small_training import SmallModel, draw_batch, train_small

IMAGES = 20


def model_of(norm):
    model = SmallModel(dropout=0.2)
    model.norm = build_norm(norm, 8)
    with torch.no_grad():
        model.norm.running_mean.fill_(3.0)
    return model


def stream(world, size=5):
    share = Share(num_images=size, rank=world.rank, world_size=world.size)
    for first in range(0, IMAGES, size):
        yield draw_batch(range(first, first + size)[share.own])


def features(model):
    return model.stem(draw_batch(range(IMAGES)).images.float() / 255)


@pytest.mark.parametrize("norm", ["bn", "syncbn"])
def test_statistics_are_those_of_all_images_and_are_taken_back(norm):
    model = model_of(norm).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole = features(model).transpose(0, 1).flatten(1)
    with precise_norms(model, stream(World()), IMAGES // 5, World()) as statistics:
        torch.testing.assert_close(model.norm.running_mean, whole.mean(dim=1), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model.norm.running_var, whole.var(dim=1), rtol=1e-5, atol=1e-6)
        assert sorted(statistics) == ["norm.running_mean", "norm.running_var"]
        assert not any(part.training for part in model.modules())
        assert all(parameter.grad is None for parameter in model.parameters())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def statistics_of_part():
    with joined(30.0) as world:
        model = model_of("syncbn")
        with precise_norms(model, stream(world), IMAGES // 5, world) as statistics:
            return statistics


def test_processes_share_the_images_and_agree():
    model = model_of("syncbn")
    with precise_norms(model, stream(World()), IMAGES // 5, World()) as alone:
        pass
    for statistics in in_processes(3, statistics_of_part):
        torch.testing.assert_close(statistics, alone, rtol=1e-6, atol=1e-7)


def test_a_model_without_batch_norm_is_left_alone():
    model = nn.Sequential(nn.Linear(2, 2))
    model.losses = lambda batch: {}
    with precise_norms(model, stream(World()), 1, World()) as statistics:
        assert statistics == {}


def test_a_run_judged_precisely_trains_as_one_that_is_not_and_is_used_as_it_was_judged(tmp_path):
    def evaluate(folder):
        def judge(model, seen):
            with precise_norms(model, stream(World()), IMAGES // 5, World()) as statistics:
                save_statistics(folder / EVALUATIONS / f"images_{seen:09d}", statistics)
                return {"AP": sum(loss.item() for loss in model.losses(draw_batch(range(8))).values())}

        return judge

    train_small(tmp_path / "precise", evaluate=evaluate(tmp_path / "precise"))
    train_small(tmp_path / "plain")
    precise, plain = (newest_checkpoint(tmp_path / name).tensors("model") for name in ("precise", "plain"))
    torch.testing.assert_close(precise, plain, rtol=0, atol=0)
    used = load_weights(tmp_path / "precise")
    changed = {name for name, tensor in used.items() if not tensor.equal(plain[name])}
    assert changed == {"norm.running_mean", "norm.running_var"}
    (tmp_path / "precise" / EVALUATIONS / "images_000000040" / STATISTICS).unlink()
    torch.testing.assert_close(load_weights(tmp_path / "precise"), plain, rtol=0, atol=0)
