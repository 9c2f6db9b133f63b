"""A training step on one GPU, bf16, 800 pixels: ours with fixed shapes, compiled, beside torchvision's v2.

    python benchmarks/gpu_step.py --out benchmarks/results/gpu_step.json

Model, pictures and replaced proposals are those of `training_step.py`. Ours has all slots of RoIs
(`model.roi_slots=fixed`), weights and maps channels last, and is compiled; torchvision's runs as its
reference does, under autocast. Steps are timed in groups, between two waits for the GPU. Where there is no
CUDA it says so.
"""

import functools
from collections.abc import Callable

import torch

from harness import OURS, Row, Side, Target, parser_for, race, report
from pictures import build_shown, pictures
from training_step import build_ours, build_peer, ours_step, peer_step

HEIGHT, WIDTH = 800, 1344
"""800/1333, padded to multiples of 32."""
AT_LEAST, IMAGES_PER_SECOND = 2.5, 100.0
"""Times as fast as torchvision's, and images a second. Source: the design, section 8."""
PEER, EAGER = "torchvision", "groundup, not compiled"
GROUP = 10
"""Steps between two waits for the GPU."""


def in_groups(step: Callable[[], None]) -> Callable[[], float]:
    """A turn of so many steps under autocast, waited for; tells the most memory of the GPU in MiB."""

    def turn() -> float:
        for _ in range(GROUP):
            with torch.autocast("cuda", torch.bfloat16):
                step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 2**20

    return turn


def ours_side(num_images: int, *, compiled: bool) -> Callable[[], float]:
    """Ours."""
    torch.manual_seed(0)
    batch = build_shown(HEIGHT, WIDTH, num_images).batch.to("cuda")
    model = build_ours(batch, roi_slots="fixed").to("cuda", memory_format=torch.channels_last)
    if compiled:
        model.losses = torch.compile(model.losses)
    return in_groups(ours_step(model, batch))


def peer_side(num_images: int) -> Callable[[], float]:
    """torchvision's."""  # noqa: D403
    torch.manual_seed(0)
    shown = build_shown(HEIGHT, WIDTH, num_images)
    model = build_peer(shown.batch).to("cuda", memory_format=torch.channels_last)
    return in_groups(peer_step(model, shown, "cuda"))


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
        OURS: functools.partial(ours_side, arguments.images, compiled=True),
        EAGER: functools.partial(ours_side, arguments.images, compiled=False),
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
