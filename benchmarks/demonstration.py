"""Seconds from a cold start of `groundup demo` to the written page.

    python benchmarks/demonstration.py --out benchmarks/results/demonstration.json

`--quick` draws its pictures only.
"""

import functools
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from harness import OURS, Row, Step, Target, parser_for, race, report

LIMIT = 600.0
"""Seconds on two cores. Source: the design, section 8."""
DRAW = "import sys; from pathlib import Path; from groundup.demo import draw_pictures; \
draw_pictures(Path(sys.argv[1]), 0)"


def side(*, is_whole: bool) -> Step:
    """One demonstration in a folder of its own."""

    def step() -> None:
        with TemporaryDirectory() as folder:
            words = (
                ("-m", "groundup", "demo", "--quiet", "--out", folder) if is_whole else ("-c", DRAW, folder)
            )
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
            assert not is_whole or list(Path(folder).glob("study/report/*.html")), "no page"

    return step


def main() -> None:
    arguments = parser_for(__doc__).parse_args()
    is_whole = not arguments.quick
    found = race({OURS: functools.partial(side, is_whole=is_whole)}, turns=arguments.turns or 1, warmups=0)
    name = "groundup demo" if is_whole else "the pictures of groundup demo"
    target = Target(at_most=LIMIT) if is_whole else None
    report("demonstration", [Row(name=name, sides=found, per="demo", target=target)], arguments)


if __name__ == "__main__":
    main()
