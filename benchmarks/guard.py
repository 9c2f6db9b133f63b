"""Whether a new run of the benchmarks is slower than the committed one, by ratios to peers, never by seconds.

    python benchmarks/guard.py runs/bench [--committed benchmarks/results]

Both sides of a ratio ran in turns on one machine, so ratios of different machines can be compared where
seconds cannot. A ratio may fall by a twentieth, and by half of what either run's own turns were apart. Exit
status 1 where one fell further. Rows of the same name are compared; a `--quick` run has names of its own
where it is smaller.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FREE = 0.05
"""Part of a ratio that may always be lost: repeats on one machine are 2 to 8 % apart."""


def compare(known: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A line for every ratio that fell further than chance explains; says how many were compared."""
    worse, compared = [], 0
    old_ratios = {name: ratio for subject in known.values() for name, ratio in ratios_of(subject)}
    for subject in new.values():
        for name, ratio in ratios_of(subject):
            old = old_ratios.get(name)
            if old is None:
                continue
            compared += 1
            allowed = tolerance(old, ratio)
            if ratio["median"] < old["median"] * (1 - allowed):
                worse.append(
                    f"slower: {' against '.join(name)}: {ratio['median']:.2f}, "
                    f"committed {old['median']:.2f}, allowed {old['median'] * (1 - allowed):.2f}"
                )
    print(f"guard: {compared} ratios compared, {len(worse)} worse")
    return worse


def ratios_of(subject: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], dict[str, float]]]:
    """((row, peer), ratio) of a result."""
    for row in subject["rows"]:
        for peer, ratio in row["ratios"].items():
            yield (row["name"], peer), ratio


def tolerance(*ratios: Mapping[str, float]) -> float:
    """The part of a ratio that may be lost by chance."""
    return FREE + sum((ratio["most"] - ratio["least"]) / ratio["median"] / 2 for ratio in ratios)


def read_folder(folder: Path) -> dict[str, Any]:
    """All results in a folder."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the new results")
    parser.add_argument("--committed", type=Path, default=Path(__file__).resolve().parent / "results")
    arguments = parser.parse_args()
    worse = compare(read_folder(arguments.committed), read_folder(arguments.folder))
    print(*worse, sep="\n", file=sys.stderr)
    sys.exit(1 if worse else 0)


if __name__ == "__main__":
    main()
