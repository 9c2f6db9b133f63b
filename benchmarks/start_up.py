"""Seconds until `groundup --help` has answered, beside Python alone.

python benchmarks/start_up.py --out benchmarks/results/start_up.json
"""

import functools
import subprocess
import sys

from harness import OURS, Row, Step, Target, parser_for, race, report

LIMIT = 0.5
"""Seconds. Source: the design, section 8."""


def command(*words: str) -> Step:
    """Start Python with these words and wait for its end."""

    def step() -> None:
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)

    return step


def main() -> None:
    arguments = parser_for(__doc__).parse_args()
    turns = arguments.turns or 7
    rows = []
    for name, words in {
        "groundup --help": ("-m", "groundup", "--help"),
        "import groundup": ("-c", "import groundup"),
    }.items():
        sides = {
            OURS: functools.partial(command, *words),
            "python alone": functools.partial(command, "-c", "pass"),
        }
        found = race(sides, turns=turns)
        rows.append(Row(name=name, sides=found, per="start", target=Target(at_most=LIMIT)))
    report("start_up", rows, arguments)


if __name__ == "__main__":
    main()
