"""A training step on one GPU, bf16, 800 pixels: ours with fixed shapes, compiled, beside torchvision's v2.

    python benchmarks/gpu_step.py --out benchmarks/results/gpu_step.json

Model, pictures and replaced proposals are those of `training_step.py`. Ours has all slots of RoIs
(`model.roi_slots=fixed`), truth padded as `transforms.buckets` does, weights and maps channels last, and
takes the engine's own steps, compiled and captured as a CUDA graph; torchvision's runs as its reference
does, under autocast. Steps are timed in groups, between two waits for the GPU. Where there is no CUDA it says
so.
"""

import functools
from collections.abc import Callable

import torch

from groundup.data.buckets import BucketOptions, pad_truth
from groundup.engine.distributed import World
from groundup.engine.numerics import build_scaler
from groundup.engine.optimizer import OptimizerOptions, build_optimizer
from groundup.engine.state import TrainingState
from groundup.engine.step import build_team, take_step
from groundup.shares import Share
from harness import OURS, Row, Side, Target, parser_for, race, report
from pictures import build_shown, pictures
from training_step import build_ours, build_peer, peer_step

HEIGHT, WIDTH = 800, 1344
"""800/1333, padded to multiples of 32."""
AT_LEAST, IMAGES_PER_SECOND = 2.5, 100.0
"""Times as fast as torchvision's, and images a second. Source: the design, section 8."""
PEER, EAGER = "torchvision", "groundup, as written"
COMPILED, CAPTURED = "groundup, compiled", "groundup, captured"
GROUP = 10
"""Steps between two waits for the GPU."""


def in_groups(step: Callable[[], None]) -> Callable[[], float]:
    """A turn of so many steps under autocast, waited for; tells the most memory of the GPU in MiB."""

    def turn() -> float:
        for _ in range(GROUP):
            step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 2**20

    return turn


def ours_side(num_images: int, *, compiled: bool, captures: bool) -> Callable[[], float]:
    """Ours: the engine's steps, whose losses nobody reads in between."""
    torch.manual_seed(0)
    shown = build_shown(HEIGHT, WIDTH, num_images).batch
    batch = pad_truth(shown, BucketOptions(sizes=((HEIGHT, WIDTH),))).pin_memory()
    model = build_ours(shown.to("cuda"), roi_slots="fixed").to("cuda", memory_format=torch.channels_last)
    options = OptimizerOptions()
    state = TrainingState(
        model=model,
        optimizer=build_optimizer(model, options, is_unread=True),
        average=None,
        scaler=build_scaler(torch.device("cuda"), "bf16"),
    )
    share = Share(num_images=num_images)
    team = build_team(model, state.optimizer, share, World(), reads_late=True, captures=captures)
    losses_of = torch.compile(model.losses, fullgraph=True, dynamic=False) if compiled else model.losses

    def step() -> None:
        take_step(state, [batch], losses_of, options, team, lr=1e-4, seed=0, precision="bf16")

    return in_groups(step)


def peer_side(num_images: int) -> Callable[[], float]:
    """torchvision's."""  # noqa: D403
    torch.manual_seed(0)
    shown = build_shown(HEIGHT, WIDTH, num_images)
    model = build_peer(shown.batch).to("cuda", memory_format=torch.channels_last)
    step = peer_step(model, shown, "cuda")

    def half() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            step()

    return in_groups(half)


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--images", type=int, default=8, help="a step")
    arguments = parser.parse_args()
    name = f"training step on a GPU, {arguments.images} x {HEIGHT}x{WIDTH}, bf16"
    target = Target(at_least=AT_LEAST, against=PEER)
    if not torch.cuda.is_available():
        print("no CUDA here: nothing was measured")
        report("gpu_step", [], arguments, not_measured="no CUDA here")
        return
    sides = {
        OURS: functools.partial(ours_side, arguments.images, compiled=True, captures=True),
        COMPILED: functools.partial(ours_side, arguments.images, compiled=True, captures=False),
        CAPTURED: functools.partial(ours_side, arguments.images, compiled=False, captures=True),
        EAGER: functools.partial(ours_side, arguments.images, compiled=False, captures=False),
        PEER: functools.partial(peer_side, arguments.images),
    }
    found: dict[str, Side] = race(sides, turns=arguments.turns or 5, warmups=2)
    amount = arguments.images * GROUP
    facts = {
        "device": torch.cuda.get_device_name(),
        "pictures": pictures().name,
        "gpu_peak_mib": {name: side.found for name, side in found.items()},
        "images_per_second_asked_for": IMAGES_PER_SECOND,
    }
    row = Row(name=name, sides=found, amount=amount, target=target, facts=facts)
    report("gpu_step", [row], arguments)


if __name__ == "__main__":
    main()
