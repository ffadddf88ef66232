"""Writes the tables of README.md and docs/ from `benchmarks/results`: `python benchmarks/readme.py [--check]`.

Between `<!-- NAME:begin -->` and `<!-- NAME:end -->` nothing is written by hand, and each block stands in exactly one page. With
--check nothing is written at all, and the exit code tells whether the pages say what the results say.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"

BEGIN = re.compile(r"<!-- (\w+):begin -->")
BLOCK = re.compile(r"(<!-- (\w+):begin -->\n).*?(<!-- \2:end -->)", re.DOTALL)

WORDS = {"activations computed again": "recomputed", "features kept": "features cached"}
"""Labels in results that were measured before the words changed -> what the tables call them."""


def main() -> int:
    """Writes the tables, or checks them."""
    blocks = make_blocks()
    pages = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
    complaints = find_misplaced(pages.values(), blocks)
    renewed = {path: fill(text, blocks) for path, text in pages.items()}
    stale = [path for path, text in pages.items() if renewed[path] != text]
    if "--check" in sys.argv[1:]:
        complaints += [f"{path.relative_to(ROOT)} is out of date" for path in stale]
    elif not complaints:
        for path in stale:
            path.write_text(renewed[path], encoding="utf-8")
    print("\n".join(complaints) or f"{len(pages)} pages say what benchmarks/results say")
    return int(bool(complaints))


def make_blocks() -> dict[str, str]:
    """Returns the text of every generated block by its name."""
    demo = read("demo")
    return {
        "demo": demo_table(demo),
        "measured": measured_table(demo),
        "ladder": ladder_table(read("ladder")),
        "predictions": predictions_table(read("predictions")),
        "time_layout": layout_table(read("time_layout")),
        "full_size": full_size_line(read("full_size")),
    }


def find_misplaced(pages: Iterable[str], blocks: Mapping[str, str]) -> list[str]:
    """Says which blocks do not stand, begun and ended, in exactly one page."""
    begun: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for text in pages:
        begun.update(BEGIN.findall(text))
        whole.update(name for _, name, _ in BLOCK.findall(text))
    unknown = [f"block {name} has no results" for name in begun if name not in blocks]
    return unknown + [
        f"block {name} begins {begun[name]} times and ends {whole[name]} times, need one of each"
        for name in blocks
        if (begun[name], whole[name]) != (1, 1)
    ]


def fill(text: str, blocks: Mapping[str, str]) -> str:
    """Returns a page with its generated blocks renewed; a block of an unknown name is left as it is."""

    def renew(found: re.Match[str]) -> str:
        begin, name, end = found.groups()
        return f"{begin}{blocks[name]}\n{end}" if name in blocks else found[0]

    return BLOCK.sub(renew, text)


def in_our_words(label: str) -> str:
    """Returns the label of a result as the tables call it."""
    for old, new in WORDS.items():
        label = label.replace(old, new)
    return label


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
            lines.append(f"| {in_our_words(label)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def predictions_table(predictions: dict[str, Any]) -> str:
    lines = [
        "| one micro-batch of the tiny model, 24 frames | saved activations, model | counted by torch | error | FLOPs, model "
        "| counted by torch | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for label, case in predictions["cases"].items():
        memory, flops = case["saved_bytes"], case["flops"]
        cells = [f"{memory[key] / 1e6:.2f} MB" for key in ("predicted", "measured")] + [
            f"{100 * memory['error']:+.1f} %"
        ]
        cells += [f"{flops[key] / 1e9:.2f} G" for key in ("predicted", "measured")] + [f"{100 * flops['error']:+.1f} %"]
        lines.append(f"| {in_our_words(label)} | {' | '.join(cells)} |")
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
