"""Losses read late: the same run to the bit; what is not finite stops it before anything moves."""

import pytest
import torch
from pydantic import ValidationError

from groundup.engine.capture import check_capture, copy_into, on_device, shape_of
from groundup.engine.checkpoint import newest_checkpoint
from groundup.engine.optimizer import OptimizerOptions, apply_lr, build_optimizer, optimizer_state
from groundup.engine.readings import Guard
from groundup.engine.training import TrainOptions
from groundup.errors import DivergedError, Interrupted, UsageError
from small_training import SmallModel, StopAfter, draw_batch, lines_of, small_options, train_small


def final_bytes(folder):
    path = newest_checkpoint(folder).path
    return {file.name: file.read_bytes() for file in path.glob("*.safetensors")}


def late_options(read_every, **changes):
    return small_options(read_every=read_every, evaluate_every=8, optimizer={"ema_decay": 0.9}, **changes)


@pytest.mark.parametrize("read_every", [3, 100])
def test_when_losses_are_read_changes_neither_weights_nor_log(read_every, tmp_path):
    results = [train_small(tmp_path / str(every), late_options(every)) for every in (1, read_every)]
    assert final_bytes(tmp_path / "1") == final_bytes(tmp_path / str(read_every))
    assert lines_of(tmp_path / "1") == lines_of(tmp_path / str(read_every))
    for result in results:
        result["exposure"].pop("seconds")
    assert results[0] == results[1]


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_a_run_read_late_and_stopped_anywhere_equals_the_straight_run(cut, tmp_path):
    train_small(tmp_path / "straight", late_options(1))
    with pytest.raises(Interrupted, match=f"after {cut * 4} of 40 images"):
        train_small(tmp_path / "cut", late_options(100), stop=StopAfter(cut))
    train_small(tmp_path / "cut", late_options(3))
    assert final_bytes(tmp_path / "cut") == final_bytes(tmp_path / "straight")
    assert lines_of(tmp_path / "cut") == lines_of(tmp_path / "straight")


@pytest.mark.parametrize("clip", [{}, {"clip": "norm", "clip_at": 0.1}])
def test_what_is_not_finite_moves_nothing_even_if_it_is_read_late(clip, tmp_path):
    model, losses_of, before = SmallModel(), SmallModel.losses, {}

    def poisoned(batch):
        found = losses_of(model, batch)
        if 12 in batch.image_ids:
            before.update({name: p.detach().clone() for name, p in model.named_parameters()})
            found["loss_far"] = found["loss_far"] * torch.nan
        return found

    model.losses = poisoned
    options = small_options(read_every=100, optimizer=clip, upkeep={"checkpoint_every": 12, "log_every": 40})
    with pytest.raises(
        DivergedError, match=r"step 3 \(after 12 images.*loss_far nan.*images 12, 13, 14, 15.*not moved"
    ):
        train_small(tmp_path, options, model=model)
    assert newest_checkpoint(tmp_path).images_seen == 12
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_fused_step_leaves_weights_and_state_alone_where_the_flag_is_up(name):
    """What a GPU's kernel is trusted with; torch's CPU has the same kernel."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(5))
    late = torch.nn.Parameter(torch.randn(3))
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]
    extra = {"momentum": 0.9} if name == "sgd" else {}
    fused, plain = (
        kind([{"params": [weight, late], "lr_scale": 1.0}], lr=0.1, fused=is_fused, **extra)
        for is_fused in (True, None)
    )
    guard = Guard(torch.device("cpu"))
    weight.grad = torch.randn(5)
    start = weight.detach().clone()
    guard.step(fused)
    moved = weight.detach().clone()
    with torch.no_grad():
        weight.copy_(start)
    plain.step()
    torch.testing.assert_close(weight.detach(), moved)
    late.grad = torch.randn(3)  # a part that joins late
    guard.step(fused)
    assert len(fused.state) == 2
    guard.watch(torch.tensor([1.0, torch.inf]))
    guard.watch(torch.tensor([1.0, 1.0]))
    state = [value.clone() for one in fused.state.values() for value in one.values()]
    still = [weight.detach().clone(), late.detach().clone()]
    guard.step(fused)
    assert torch.equal(weight, still[0])
    assert torch.equal(late, still[1])
    after = [value for one in fused.state.values() for value in one.values()]
    assert all(torch.equal(one, other) for one, other in zip(state, after, strict=True))


def test_fp16_is_read_at_every_step():
    for changes in ({"read_every": 2}, {"capture": True}):
        with pytest.raises(ValidationError, match="write precision=bf16"):
            TrainOptions(precision="fp16", **changes)
    with pytest.raises(ValidationError, match="read_every is 0"):
        TrainOptions(read_every=0)


def test_capture_needs_one_process_on_a_gpu(tmp_path):
    with pytest.raises(UsageError, match=r"steps run on cpu.*capture=false"):
        train_small(tmp_path, small_options(capture=True))
    with pytest.raises(UsageError, match="2 processes train together"):
        check_capture(torch.device("cuda"), 2)


def test_what_a_graph_reads_is_a_copy_of_one_shape():
    batch, other = draw_batch(range(2)), draw_batch(range(5, 7))
    held = on_device(batch, torch.device("cpu"))
    assert held.images.data_ptr() != batch.images.data_ptr()
    assert shape_of(held) == shape_of(other) != shape_of(draw_batch(range(3)))
    copy_into(held, other)
    assert torch.equal(held.images, other.images)
    assert torch.equal(held.seeds, other.seeds)


def test_rates_and_states_are_the_same_for_both_kinds_of_optimizer():
    model = SmallModel()
    for is_unread in (False, True):
        optimizer = build_optimizer(model, OptimizerOptions(), is_unread=is_unread)
        apply_lr(optimizer, 0.5)
        assert {float(group["lr"]) for group in optimizer.param_groups} == {0.5, 1.0}
        assert optimizer_state(model, optimizer) == {}
