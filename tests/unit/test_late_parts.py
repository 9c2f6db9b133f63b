"""Parts of a model that join in late: nothing moves them before, and no cut or branch of a run shows."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from groundup.engine.branch import seed_run
from groundup.engine.checkpoint import checkpoint_path, newest_checkpoint
from groundup.engine.journal import open_log
from groundup.engine.late import HasLateParts, enter_phase, parameters_in_use
from groundup.engine.optimizer import OptimizerOptions, build_average, build_optimizer
from groundup.engine.schedule import ScheduleOptions, check_schedule, is_late, late_point
from groundup.engine.state import TrainingState
from groundup.errors import Interrupted, UsageError
from groundup.study.sharing import agreed_images
from small_training import SIDE, SmallModel, StopAfter, batches_from, lines_of, small_options, train_small

LATE = 24
"""Images after which the late part joins in: 16 of 40 are left."""
LATE_UNITS = 16 / 30


class LateModel(SmallModel):
    """A second head, which begins as a copy of the first one."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.late = LateHead(8 * SIDE, 4)

    def losses(self, batch):
        losses = super().losses(batch)
        if self.late.is_on:
            hidden = self.norm(self.stem(batch.images.float() / 255)).relu().mean(dim=3).flatten(1)
            losses["loss_late"] = (self.late(hidden) - batch.boxes[:, 0] / SIDE).abs().mean()
        return losses

    @property
    def has_late_parts(self):
        return True

    def use_late_parts(self, is_on):
        if is_on == self.late.is_on:
            return False
        self.late.is_on = is_on
        if is_on:
            self.late.weight.data.copy_(self.head.weight)
            self.late.bias.data.copy_(self.head.bias)
        return True

    def idle_parameters(self):
        if not self.late.is_on:
            yield from self.late.parameters()


class LateHead(nn.Linear):
    def __init__(self, *sides):
        super().__init__(*sides)
        self.is_on = True

    def get_extra_state(self):
        return torch.tensor(self.is_on)

    def set_extra_state(self, state):
        self.is_on = bool(state)


def late_options(units=LATE_UNITS, images=40, **changes):
    return small_options(
        schedule={"images": images, "late_units": units},
        evaluate_every=8,
        optimizer={"ema_decay": 0.9},
        **changes,
    )


def final_bytes(folder):
    return {file.name: file.read_bytes() for file in newest_checkpoint(folder).path.glob("*.safetensors")}


@pytest.mark.parametrize("cut", range(10))
def test_a_run_stopped_at_any_step_equals_the_straight_run_bit_for_bit(cut, tmp_path):
    train_small(tmp_path / "straight", late_options(), model=LateModel())
    with pytest.raises(Interrupted):
        train_small(tmp_path / "cut", late_options(), model=LateModel(), stop=StopAfter(cut))
    train_small(tmp_path / "cut", late_options(), model=LateModel())
    assert final_bytes(tmp_path / "cut") == final_bytes(tmp_path / "straight")
    assert lines_of(tmp_path / "cut") == lines_of(tmp_path / "straight")


def tensors_at(folder, images_seen):
    path = checkpoint_path(folder, images_seen)
    return {name: load_file(path / f"{name}.safetensors") for name in ("model", "ema", "optim")}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_until_they_join_in_late_parts_rest_whatever_the_optimizer_does(name, tmp_path):
    first = {f"late.{key}": value.clone() for key, value in LateModel().late.named_parameters()}
    options = small_options(
        schedule={"late_units": LATE_UNITS},
        optimizer={"name": name, "weight_decay": 0.5, "ema_decay": 0.9, "preset": "torchvision"},
        upkeep={"keep_at": (LATE,)},
    )
    train_small(tmp_path, options, model=LateModel())
    before, after = tensors_at(tmp_path, LATE), tensors_at(tmp_path, 40)
    for key, value in first.items():
        assert torch.equal(before["model"][key], value)
        assert torch.equal(before["ema"][key], value)
        assert not torch.equal(after["model"][key], value)
    assert not any(key.startswith("late.") for key in before["optim"])
    assert any(key.startswith("late.") for key in after["optim"])
    assert [bool(found["model"]["late._extra_state"]) for found in (before, after)] == [False, True]


def test_the_steps_before_are_those_of_a_run_without_late_parts(tmp_path):
    options = small_options(
        schedule={"late_units": LATE_UNITS}, optimizer={"ema_decay": 0.9}, upkeep={"keep_at": (LATE,)}
    )
    plain = small_options(optimizer={"ema_decay": 0.9}, upkeep={"keep_at": (LATE,)})
    train_small(tmp_path / "late", options, model=LateModel())
    train_small(tmp_path / "plain", plain, model=SmallModel(dropout=0.0))
    late, without = tensors_at(tmp_path / "late", LATE), tensors_at(tmp_path / "plain", LATE)
    for kind, tensors in without.items():
        for key, value in tensors.items():
            assert torch.equal(late[kind][key], value), key


def test_what_is_in_use_is_what_gets_a_gradient():
    model, batch = LateModel(), next(batches_from(0))
    for is_on in (True, False, True):
        model.use_late_parts(is_on)
        model.zero_grad()
        sum(model.losses(batch).values()).backward()
        learnt = {name for name, p in model.named_parameters() if p.grad is not None}
        assert set(parameters_in_use(model)) == learnt
        assert ("late.weight" in learnt) == is_on
    assert set(parameters_in_use(SmallModel())) == {name for name, _ in SmallModel().named_parameters()}


def test_averaged_late_parts_begin_with_the_averages_own():
    model, options = LateModel(), OptimizerOptions(ema_decay=0.9)
    state = TrainingState(
        model=model,
        optimizer=build_optimizer(model, options),
        average=build_average(model, options),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )
    assert isinstance(model, HasLateParts)
    enter_phase(state, is_late=False)
    with torch.no_grad():
        model.head.weight.add_(1.0)
    state.flops_per_pixel = 5.0
    enter_phase(state, is_late=False)
    assert state.flops_per_pixel == 5.0
    enter_phase(state, is_late=True)
    assert state.flops_per_pixel is None
    assert torch.equal(model.late.weight, model.head.weight)
    assert torch.equal(state.judged.late.weight, state.judged.head.weight)
    assert not torch.equal(state.judged.late.weight, model.late.weight)


def test_operations_and_losses_on_the_bill_are_those_of_each_phase(tmp_path):
    options = small_options(schedule={"late_units": LATE_UNITS}, upkeep={"log_every": 16})
    bill = train_small(tmp_path, options, model=LateModel())["exposure"]
    plain = 2 * (2 * 8 * 27 * 256) + 3 * (2 * 128 * 4)
    # The late head's own path runs through the stem a second time.
    late = 2 * plain
    assert bill["flops"] == pytest.approx(LATE * plain + (40 - LATE) * late, rel=1e-3)
    records = [record for record in open_log(tmp_path).read() if record["kind"] == "train"]
    assert [record["images_seen"] for record in records] == [16, 32, 40]
    assert ["loss_late" in record["losses"] for record in records] == [False, True, True]
    # Half of the second window had no such loss: its mean is over those that had.
    straight = train_small(
        tmp_path / "fine", small_options(schedule={"late_units": LATE_UNITS}, upkeep={"log_every": 4}),
        model=LateModel(),
    )  # fmt: skip
    assert straight["images_seen"] == 40
    steps = [record for record in open_log(tmp_path / "fine").read() if record["kind"] == "train"]
    values = [record["losses"]["loss_late"] for record in steps if LATE < record["images_seen"] <= 32]
    assert len(values) == 2
    assert records[1]["losses"]["loss_late"] == pytest.approx(sum(values) / 2)


@pytest.mark.parametrize(
    ("trunk", "branch"),
    [({"units": 4 / 30}, {"units": 16 / 30}), ({"units": 16 / 30, "images": 60}, {"units": 16 / 30})],
)
def test_a_branch_into_another_beginning_of_late_parts_equals_the_straight_run(trunk, branch, tmp_path):
    parent, own = late_options(**trunk), late_options(**branch)
    cut = agreed_images(parent.schedule, own.schedule, 30)
    assert cut == 20  # the first drop of the shorter one
    sooner = late_options(units=24 / 30)
    assert agreed_images(parent.schedule, sooner.schedule, 30) == 16  # late parts join in before any drop
    for name, options, point in (("own", own, cut), ("sooner", sooner, 16)):
        folder = tmp_path / name
        kept = parent.model_copy(update={"upkeep": parent.upkeep.model_copy(update={"keep_at": (point,)})})
        train_small(folder / "trunk", kept, model=LateModel(), recipe="trunk")
        assert seed_run(folder / "trunk", folder / "branch", point, recipe=name, documents={})
        branched = train_small(folder / "branch", options, model=LateModel(), recipe=name)
        straight = train_small(folder / "straight", options, model=LateModel(), recipe=name)
        assert final_bytes(folder / "branch") == final_bytes(folder / "straight")
        assert lines_of(folder / "branch") == lines_of(folder / "straight")
        assert branched["exposure"]["flops"] == straight["exposure"]["flops"]


def test_runs_of_which_one_has_late_parts_from_the_start_share_nothing():
    late, never = ScheduleOptions(late_units=0.5), ScheduleOptions()
    assert agreed_images(late, never, 1000) == agreed_images(never, late, 1000) == 0


def test_the_papers_cascade_joins_in_for_the_last_270_thousand_steps():
    schedule = ScheduleOptions(units=9, late_units=3)
    point = late_point(schedule, 118_287)
    assert point == (810_000 - 270_000) * 16
    assert not is_late(point - 16, schedule, 118_287)
    assert is_late(point, schedule, 118_287)
    assert is_late(0, ScheduleOptions(), 118_287)


def test_late_parts_that_are_not_late_or_not_there_are_refused(tmp_path):
    for units in (2, 3):
        with pytest.raises(UsageError, match="late_units=null for the whole run"):
            check_schedule(ScheduleOptions(units=2, late_units=units), 1000)
    with pytest.raises(UsageError, match="no parts that can come late"):
        train_small(tmp_path, late_options())
