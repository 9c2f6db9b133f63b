"""AP over images seen of several runs, as a picture and a table.

    python benchmarks/curves.py --out docs/results/bccd scratch=runs/bccd_scratch imagenet=runs/bccd_imagenet

writes OUT.svg, OUT.csv and OUT.md from the logs; no torch is needed.
"""

import argparse
import csv
from pathlib import Path

import matplotlib.pyplot as plt

from groundup.records import Log, read_json

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--title", default="")
    arguments = parser.parse_args()
    runs = dict(run.split("=", 1) for run in arguments.runs)
    points, results = {}, {}
    for name, folder in runs.items():
        log = list(Log(Path(folder) / "log.jsonl").read())
        points[name] = [(r["images_seen"], r["metrics"]) for r in log if r["kind"] == "evaluation"]
        results[name] = read_json(Path(folder) / "result.json")
    kinds = [
        kind for kind in ("box", "mask") if any(f"{kind}/AP" in m for p in points.values() for _, m in p)
    ]
    figure, axes = plt.subplots(1, len(kinds), figsize=(4.6 * len(kinds), 3.2), squeeze=False)
    for axis, kind in zip(axes[0], kinds, strict=True):
        for name, rows in points.items():
            axis.plot([s for s, _ in rows], [100 * m.get(f"{kind}/AP", 0) for _, m in rows], "o-", label=name)
        axis.set(xlabel="images seen", ylabel=f"{kind} AP", ylim=(0, None), title=arguments.title)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.tight_layout()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out.with_suffix(".svg"), metadata={"Date": None})
    with arguments.out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "images_seen", *(f"{kind}/{m}" for kind in kinds for m in METRICS)])
        for name, rows in points.items():
            for seen, metrics in rows:
                values = [metrics.get(f"{kind}/{m}") for kind in kinds for m in METRICS]
                writer.writerow([name, seen, *("" if v is None else f"{100 * v:.2f}" for v in values)])
    head = ["run", "images", "instances", "TFLOP", "minutes", *(f"{k} {m}" for k in kinds for m in METRICS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, result in results.items():
        bill, metrics = result["exposure"], result["metrics"]
        cells = [name, f"{bill['images']:,}", f"{bill['instances']:,}", f"{bill['flops'] / 1e12:,.0f}"]
        cells.append(f"{bill['seconds'] / 60:.1f}")
        for kind in kinds:
            cells += [
                f"{100 * metrics[f'{kind}/{m}']:.1f}" if f"{kind}/{m}" in metrics else "-" for m in METRICS
            ]
        lines.append("| " + " | ".join(cells) + " |")
    arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
