"""Writes the README's tables from `benchmarks/results`: `python benchmarks/readme.py [--check]`.

Between `<!-- NAME:begin -->` and `<!-- NAME:end -->` nothing is written by hand; with --check nothing is written at all, and
the exit code tells whether the README says what the results say.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def main() -> int:
    """Writes the tables, or checks them."""
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = fill(old)
    if "--check" in sys.argv[1:]:
        print("README.md says what benchmarks/results say" if new == old else "README.md is out of date")
        return int(new != old)
    readme.write_text(new, encoding="utf-8")
    return 0


def fill(text: str) -> str:
    """Returns the README with every generated block renewed."""
    demo, layout = read("demo"), read("time_layout")
    blocks = {
        "demo": demo_table(demo),
        "measured": measured_table(demo),
        "ladder": ladder_table(read("ladder")),
        "predictions": predictions_table(read("predictions")),
        "time_layout": layout_table(layout),
        "full_size": full_size_line(read("full_size")),
    }
    for name, body in blocks.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        before, rest = text.split(begin)
        text = before + begin + body + "\n" + end + rest.split(end)[1]
    return text


def read(name: str) -> dict[str, Any]:
    (path,) = RESULTS.glob(f"{name}--*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def full_size_line(result: dict[str, Any]) -> str:
    inspect, merge, copy = result["inspect"], result["merge"], result["copy"]
    return (
        f"`benchmarks/full_size.py` on {result['device']}: a folder of {result['gigabytes']} GB is inspected in "
        f"{inspect['seconds']:.0f} s with {inspect['peak_gib']:.1f} GiB; an all-linear adapter merges into it with "
        f"{merge['peak_gib']:.1f} GiB resident in {merge['seconds'] / copy['seconds']:.1f} times what copying the files takes "
        f"({merge['seconds']:.0f} s), with {result['num_bit_equal_tensors']} tensors compared bit for bit."
    )


def demo_table(demo: dict[str, Any]) -> str:
    run = demo["runs"]["qkv"]
    lines = ["```", "val exact match        base    merged"]
    for name, value in run["base"].items():
        lines.append(f"  {name:<17} {value:>6.1f}%   {run['merged'][name]:>6.1f}%")
    return "\n".join([*lines, "```"])


def measured_table(demo: dict[str, Any]) -> str:
    lines = [
        f"`benchmarks/demo.py` on {demo['device']}; {demo['runs']['qkv']['num_val_rows']} val rows on clips never trained on.",
        "",
        "| `cvft run recipes/tiny_cpu.yaml` | LoRA on `qkv` | LoRA on `all-linear` |",
        "|---|---|---|",
    ]
    qkv, all_linear = demo["runs"]["qkv"], demo["runs"]["all-linear"]

    def row(label: str, show: Any) -> None:
        lines.append(f"| {label} | {show(qkv)} | {show(all_linear)} |")

    skill = "interval"
    row("the skill left out of pre-training, base", lambda run: f"{run['base'][skill]} %")
    row("the same, fine-tuned", lambda run: f"{run['merged'][skill]} %")
    row("all val rows, base", lambda run: f"{run['base']['all']} %")
    row("the same, fine-tuned", lambda run: f"{run['merged']['all']} %")
    row(
        "merged against adapter, every val row",
        lambda run: (
            f"answers identical, logits up to {run['largest_logit']:.0f} within {run['max_logit_error']:.1g} (in fp64)"
        ),
    )
    row("whole run: check, train, merge, verify, evaluate twice", lambda run: f"{run['elapsed_s']:.0f} s")
    return "\n".join(lines)


def ladder_table(ladder: dict[str, Any]) -> str:
    lines = [f"`benchmarks/ladder.py` on {ladder['device']}."]
    for name, case in ladder["cases"].items():
        losses = max(rung["largest_loss_difference"] for rung in case["rungs"].values())
        lines += [
            "",
            f"| {name} ({case['num_rows']} rows, losses within {losses:.0e}) | rows/s | times the first | tokens/s computed "
            "| tokens/s of the rows | waiting for rows | peak memory | FLOPs of a step by the model |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for label, rung in case["rungs"].items():
            per_epoch = rung["seconds"] / case["epochs"]
            cells = [
                f"{rung['rows_per_s']:.1f}",
                f"**{rung['times_stock']:.1f}**",
                f"{rung['physical_tokens_per_epoch'] / per_epoch:.0f}",
                f"{rung['logical_tokens_per_epoch'] / per_epoch:.0f}",
                f"{100 * rung['waited_s'] / rung['seconds']:.0f} %",
                f"{rung['peak_bytes'] / 2**30:.2f} GiB",
                f"{rung['predicted_flops_per_epoch']:.2g}",
            ]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def predictions_table(predictions: dict[str, Any]) -> str:
    lines = [
        "| one pass of the tiny model, 24 frames | kept activations, model | counted by torch | error | FLOPs, model "
        "| counted by torch | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for label, case in predictions["cases"].items():
        memory, flops = case["saved_bytes"], case["flops"]
        cells = [f"{memory[key] / 1e6:.2f} MB" for key in ("predicted", "measured")] + [
            f"{100 * memory['error']:+.1f} %"
        ]
        cells += [f"{flops[key] / 1e9:.2f} G" for key in ("predicted", "measured")] + [f"{100 * flops['error']:+.1f} %"]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def layout_table(layout: dict[str, Any]) -> str:
    summary, num_seeds = layout["summary"], max(run["seed"] for run in layout["runs"]) + 1
    lines = [
        f"| median of {num_seeds} seeds (lowest to highest) | `chat`, with time | `swift`, without |",
        "|---|---|---|",
    ]
    for name in summary["chat"]:
        cells = [
            f"{summary[key][name]['median']:.1f} % ({summary[key][name]['min']:.1f} to {summary[key][name]['max']:.1f})"
            for key in ("chat", "swift")
        ]
        label = {"seconds": "**all questions about seconds**", "others": "**all others**"}.get(name, name)
        lines.append(f"| {label} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
