"""Markdown tables for the docs page of TinyMIM, beside the paper's, from what runs left on disk.

python benchmarks/tinymim_tables.py runs/tinymim-quick [MORE ...]
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from heredity.systems.tinymim.config import ARMS

# ImageNet-1K top-1 of a ViT-B taught by MAE-L, 100 epochs (the paper's ablations); ADE20K mIoU of 300 epochs.
PAPER = {
    "scratch": "81.2 (300 epochs)",
    "mae": "83.6 (1600 epochs)",
    "cls": "80.6",
    "feature": "83.7",
    "feature-ffn": "84.2",
    "feature-attention": "84.1",
    "feature-attention-after": "81.3",
    "feature-qkv": "84.3",
    "relations": "84.6 (drop path 0.1), 84.3 (0)",
    "last-block": "84.4",
    "first-half": "83.6",
    "no-softmax": "84.4",
    "qq-kk-vv": "84.5",
    "masked": "83.9",
    "reconstruction": "84.0",
    "drop-path-0.1": "84.6",
    "drop-path-0.3": "84.1",
    "teacher-drop-path": "83.9",
}


def main() -> None:
    """Print a table of arms for each run: mean and standard deviation over its seeds."""
    for place in map(Path, sys.argv[1:]):
        results: dict[str, Any] = json.loads((place / "results.json").read_text(encoding="utf-8"))
        runs = results.get("runs", [results])
        seeds = ", ".join(str(run["seed"]) for run in runs)
        print(f"{place}: seeds {seeds}, ablation {results.get('ablation')}\n")
        print("| arm | taught | accuracy % | linear probe % | mIoU % | the paper's, ImageNet top-1 |")
        print("|---|---|---|---|---|---|")
        arms = [name.partition("/")[2] for name in runs[0]["metrics"] if name.startswith("accuracy/")]
        for arm in arms:
            cells = [cell(runs, f"{kind}/{arm}") for kind in ("accuracy", "probe", "miou")]
            text = ARMS[arm].text if arm in ARMS else "masked autoencoding, the larger model"
            print(f"| `{arm}` | {text} | {' | '.join(cells)} | {PAPER.get(arm, '–')} |")
        print()


def cell(runs: list[dict[str, Any]], name: str) -> str:
    """Mean and spread of one metric, or a dash."""
    values = [run["metrics"][name]["value"] for run in runs if name in run["metrics"]]
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
