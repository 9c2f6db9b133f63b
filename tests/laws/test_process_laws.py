"""Any number of processes trains what one process trains, and stops, fails and goes on as one."""

import os
import signal
import socket
import time

import pytest
import torch
from torch import nn

from groundup.engine.checkpoint import newest_checkpoint
from groundup.engine.distributed import joined
from groundup.engine.journal import open_log
from groundup.engine.run import run_state
from groundup.engine.stop import StopFlag
from groundup.models.losses import normalise_loss
from groundup.models.norm import build_norm
from groundup.records import read_json
from groundup.shares import Share
from processes import Processes, in_processes
from small_training import SmallModel, draw_batch, lines_of, measure, small_options, train_small

TOLERANCE = 1e-6
"""Relative, of losses and weights over a whole run in float64: only the order of sums differs."""


class Model(SmallModel):
    """The small model in float64, with a part that is never used and one that only some images use."""

    def __init__(self, group, norm="gn"):
        super().__init__(dropout=0.0, batch_norm=False)
        torch.manual_seed(8)
        if norm != "gn":
            self.norm = build_norm(norm, 8)
        self.group = group
        self.unused, self.odd = nn.Linear(3, 3), nn.Linear(4, 4)
        self.double()

    def forward(self, images):
        hidden = self.norm(self.stem(images.double() / 255)).relu()
        return self.head(hidden.mean(dim=3).flatten(1))

    def losses(self, batch):
        found, wanted = self(batch.images), batch.boxes[:, 0].double() / 16
        away = (found - wanted).square().mean(dim=1)
        is_odd = batch.image_ids % 8 == 5
        losses = {"loss_far": normalise_loss(away, torch.ones_like(away), self.group)}
        if is_odd.any():
            sums = self.odd(wanted[is_odd]).square().sum(dim=1)
            odd = torch.zeros_like(away).index_put((is_odd,), sums)
            losses["loss_odd"] = normalise_loss(odd, is_odd.double(), self.group)
        else:
            losses["loss_odd"] = away.new_zeros(())
        return losses


def train_part(folder, wishes):
    """The small training in a process of its world; what this process saw and came to."""
    size, accumulate, group = wishes.get("batch", 8), wishes.get("accumulate", 1), wishes.get("group", 1)
    seen = []
    with joined(wishes.get("timeout", 60.0)) as world, StopFlag() as stop:
        share = Share(num_images=size // accumulate, group_size=group, rank=world.rank, world_size=world.size)

        def batches(first):
            while True:
                own = range(first, first + share.num_images)[share.own]
                seen.append(list(own))
                if wishes.get("slow") == world.rank:
                    time.sleep(0.02)
                if wishes.get("sender") == world.rank and first == wishes["at"]:
                    os.kill(os.getpid(), wishes["signal"])
                batch = draw_batch(own)
                if wishes.get("poison") in own:
                    batch.boxes[0, 0, 0] = float("nan")
                yield batch
                first += share.num_images

        model = Model(group, wishes.get("norm", "gn"))
        result = train_small(
            folder,
            small_options(
                accumulate=accumulate,
                schedule={"images": wishes.get("images", 48), "batch_size": size},
                upkeep={"log_every": size, "checkpoint_every": 16},
                evaluate_every=24,
                optimizer={"ema_decay": 0.9},
            ),
            model=model,
            batches=batches,
            evaluate=lambda model, seen: world.lead(lambda: measure(model, seen)),
            stop=stop,
            world=world,
            loss_images=group,
            recipe=wishes.get("recipes", ["small"] * world.size)[world.rank],
        )
    result["exposure"].pop("seconds")
    return seen, result, {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_run(folder, other):
    """Equal logs, bills and weights, but for the order in which sums were taken."""
    ours, theirs = lines_of(folder), lines_of(other)
    assert len(ours) == len(theirs)
    for line, their_line in zip(ours, theirs, strict=True):
        assert line["images_seen"] == their_line["images_seen"]
        assert line.get("exposure") == their_line.get("exposure")
        for name, value in line.get("losses", {}).items():
            # The log's losses are float32.
            assert value == pytest.approx(their_line["losses"][name], rel=TOLERANCE, abs=1e-9), name
    results = [read_json(path / "result.json") for path in (folder, other)]
    assert results[0]["metrics"]["AP"] == pytest.approx(results[1]["metrics"]["AP"], rel=TOLERANCE)
    weights, their_weights = (newest_checkpoint(path).tensors("ema") for path in (folder, other))
    torch.testing.assert_close(weights, their_weights, rtol=TOLERANCE, atol=1e-9)


CASES = {
    "two": (2, {}),
    "four in groups, one of them slow": (4, {"group": 2, "slow": 2}),
    "unequal parts": (2, {"batch": 7, "group": 2, "images": 42}),
    "unequal parts of microbatches": (3, {"accumulate": 2}),
    "a joint norm": (2, {"norm": "syncbn"}),
    "a joint norm, unequal parts": (3, {"norm": "syncbn", "batch": 7, "images": 42, "accumulate": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_several_processes_train_what_one_trains(case, tmp_path):
    size, wishes = CASES[case]
    alone, _, _ = train_part(tmp_path / "one", wishes)
    parts = in_processes(size, train_part, tmp_path / "several", wishes)
    assert_same_run(tmp_path / "one", tmp_path / "several")
    steps = zip(*(seen for seen, _, _ in parts), strict=True)
    dealt = [[position for part in batches for position in part] for batches in steps]
    assert dealt == alone
    for _, result, weights in parts:
        assert result == parts[0][1]
        # Every copy of the weights moved alike, to the bit.
        torch.testing.assert_close(weights, parts[0][2], rtol=0, atol=0)
    assert parts[0][2]["unused.weight"].equal(Model(1).unused.weight)
    assert run_state(tmp_path / "several") == "done"


def test_a_wish_to_stop_in_any_process_stops_all_and_any_number_goes_on(tmp_path):
    straight, folder = tmp_path / "straight", tmp_path / "run"
    train_part(straight, {})
    stopped = Processes(2, train_part, folder, {"sender": 1, "at": 16, "signal": signal.SIGTERM}).endings()
    assert [ending.status for ending in stopped] == [75, 75]
    assert [ending.message is not None for ending in stopped] == [True, False]
    assert "stopped by SIGTERM after 24 of 48 images" in stopped[0].message
    assert newest_checkpoint(folder).images_seen == 24
    stopped = Processes(4, train_part, folder, {"sender": 0, "at": 32, "signal": signal.SIGINT}).endings()
    assert [ending.status for ending in stopped] == [75] * 4
    assert newest_checkpoint(folder).images_seen == 40
    train_part(folder, {})
    assert_same_run(folder, straight)
    starts = [record for record in open_log(folder).read() if record["kind"] == "start"]
    assert [record["processes"] for record in starts] == [2, 4, 1]


def test_the_same_number_of_processes_goes_on_with_the_same_bits(tmp_path):
    in_processes(2, train_part, tmp_path / "straight", {})
    Processes(2, train_part, tmp_path / "run", {"sender": 0, "at": 8, "signal": signal.SIGUSR1}).endings()
    in_processes(2, train_part, tmp_path / "run", {})
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "straight")
    newest = [newest_checkpoint(tmp_path / name).path for name in ("run", "straight")]
    for name in ("model", "ema", "optim"):
        one, other = ((path / f"{name}.safetensors").read_bytes() for path in newest)
        assert one == other


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_others_and_another_number_goes_on(killed, tmp_path):
    wishes = {"sender": killed, "at": 24, "signal": signal.SIGKILL}
    began = time.monotonic()
    endings = Processes(2, train_part, tmp_path / "run", wishes).endings()
    assert time.monotonic() - began < 30
    assert endings[killed].status == -signal.SIGKILL
    assert endings[1 - killed].status == 75
    assert "lost another one" in endings[1 - killed].message
    assert "\n" not in endings[1 - killed].message
    train_part(tmp_path / "straight", {})
    in_processes(3, train_part, tmp_path / "run", {})
    assert_same_run(tmp_path / "run", tmp_path / "straight")


def test_a_process_that_hangs_is_given_up_after_the_timeout(tmp_path):
    wishes = {"sender": 1, "at": 16, "signal": signal.SIGSTOP, "timeout": 3.0}
    processes = Processes(2, train_part, tmp_path, wishes)
    first = processes.members[0][0]
    first.join(40)
    assert first.exitcode == 75
    processes.send(1, signal.SIGKILL)
    assert processes.endings()[0].status == 75


def test_a_loss_that_is_not_finite_in_one_process_stops_all_before_the_weights_move(tmp_path):
    endings = Processes(2, train_part, tmp_path, {"poison": 20}).endings()
    assert [ending.status for ending in endings] == [4, 4]
    assert [ending.message is not None for ending in endings] == [True, False]
    assert "on images 16, 17, 18, 19, 20, 21, 22, 23;" in endings[0].message
    assert [record["kind"] for record in open_log(tmp_path).read()][-1] == "diverged"


def test_processes_that_were_started_differently_are_refused_before_anything_is_written(tmp_path):
    endings = Processes(2, train_part, tmp_path / "run", {"recipes": ["one", "other"]}).endings()
    assert [ending.status for ending in endings] == [2, 2]
    assert "fingerprint is 'other' in process 1" in endings[0].message
    assert not (tmp_path / "run").exists()


def test_what_the_first_process_cannot_write_is_everyones_error(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    endings = Processes(2, train_part, tmp_path, {}).endings()
    assert [ending.status for ending in endings] == [5, 5]
    assert [ending.message is not None for ending in endings] == [True, False]
    assert "checkpoints" in endings[0].message


def test_a_port_that_is_taken_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (ending,) = Processes(2, train_part, tmp_path, {"timeout": 5.0}, port=port, only=[0]).endings()
    assert ending.status == 2
    assert "cannot join the others" in ending.message
    assert "\n" not in ending.message


def test_losses_of_uneven_shares_add_up_to_the_loss_of_the_batch():
    generator = torch.Generator().manual_seed(0)
    for num_images, group_size, world_size in ((8, 2, 3), (7, 2, 4), (5, 1, 3), (6, 4, 2), (3, 8, 1)):
        sums = torch.rand(num_images, generator=generator, dtype=torch.float64)
        counts = torch.randint(0, 4, (num_images,), generator=generator).double()
        shares = [
            Share(num_images=num_images, group_size=group_size, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        parts = [
            share.weight * normalise_loss(sums[share.own], counts[share.own], group_size) for share in shares
        ]
        assert sum(share.num_own for share in shares) == num_images
        torch.testing.assert_close(sum(parts), normalise_loss(sums, counts, group_size))
