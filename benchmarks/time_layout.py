"""The price of losing time: the same LoRA run with and without the model's time indices.

    python benchmarks/time_layout.py [--seeds 3] [--recipe recipes/tiny_cpu.yaml]

Two layouts, everything else equal (rows, adapter, steps, seeds):

* `chat`: what the published model was trained on. One frame per second, each followed by its second, each on a position of
  its own.
* `swift`: what ms-swift 4.6's own `cogvlm2_video` template feeds. 24 frames evenly over the clip, no time indices, all
  frames on one position. cvft keeps it as `model.template: swift` for adapters that were trained that way.

Each run is the whole job of the recipe through the command line. Before a number counts, the run's own files are checked:
the layout that was fed, the number of val rows, and that merged and adapter agree. The result goes to
`benchmarks/results/time_layout--<device>.json`; exact match is in percent of val rows, on clips never trained on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from job import ROOT, read_metrics, read_verification, run_job, write_result

LAYOUTS = {"chat": ("chat", "chat"), "swift": ("swift", "base")}
"""Layout -> the template and sampling that its contract must state."""

SECONDS_CATEGORIES = ("appear", "disappear", "change", "first_seen", "last_seen", "interval")
"""Categories whose answer is made of seconds."""


def main() -> None:
    """Runs every layout with every seed and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="seeds per layout (%(default)s)")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "tiny_cpu.yaml")
    options = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for layout in LAYOUTS:
                runs.append(run_once(options.recipe, layout=layout, seed=seed, root=Path(folder)))
                print(json.dumps(runs[-1]), flush=True)
    summary = {layout: summarise(runs, layout) for layout in LAYOUTS}
    write_result("time_layout", recipe=options.recipe.name, runs=runs, summary=summary)
    print(table(summary))


def run_once(recipe: Path, *, layout: str, seed: int, root: Path) -> dict[str, Any]:
    """Does the whole job once, checks what it fed, and returns its val numbers."""
    overrides = [f"seed={seed}", f"model.template={layout}"]
    run, elapsed_s = run_job(recipe, name=f"{layout}_{seed}", root=root, overrides=overrides)
    contract = json.loads((run / "adapter" / "cvft_contract.json").read_text())
    assert (contract["template"], contract["sampling"]) == LAYOUTS[layout], contract
    verification = read_verification(run)
    metrics = {which: read_metrics(run, which) for which in ("base", "merged")}
    assert metrics["base"]["num_rows"] == metrics["merged"]["num_rows"]
    return {
        "layout": layout,
        "seed": seed,
        "num_val_rows": metrics["merged"]["num_rows"],
        "base": exact_match(metrics["base"]),
        "tuned": exact_match(metrics["merged"]),
        "max_logit_error": verification["max_logit_error"],
        "elapsed_s": elapsed_s,
    }


def exact_match(metrics: dict[str, Any]) -> dict[str, float]:
    """Exact match in percent per category, over the questions about seconds, and over the others."""
    categories = metrics["categories"]

    def mean(names: list[str]) -> float:
        rows = sum(categories[name]["num_rows"] for name in names)
        return 100 * sum(categories[name]["num_rows"] * categories[name]["exact_match"] for name in names) / rows

    seconds = [name for name in categories if name in SECONDS_CATEGORIES]
    others = [name for name in categories if name not in SECONDS_CATEGORIES]
    assert seconds
    assert others
    numbers = {"seconds": mean(seconds), "others": mean(others), **{name: mean([name]) for name in categories}}
    return {name: round(value, 2) for name, value in numbers.items()}


def summarise(runs: list[dict[str, Any]], layout: str) -> dict[str, Any]:
    """Median, lowest and highest exact match of the tuned model over the seeds."""
    chosen = [run["tuned"] for run in runs if run["layout"] == layout]
    return {
        name: {
            "median": statistics.median(run[name] for run in chosen),
            "min": min(run[name] for run in chosen),
            "max": max(run[name] for run in chosen),
        }
        for name in chosen[0]
    }


def table(summary: dict[str, Any]) -> str:
    """The summary as a Markdown table, for the README."""
    lines = ["| val exact match, median (min to max) | " + " | ".join(summary) + " |", "|---|" + "---|" * len(summary)]
    for name in next(iter(summary.values())):
        cells = [f"{s[name]['median']:.1f} % ({s[name]['min']:.1f} to {s[name]['max']:.1f})" for s in summary.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
