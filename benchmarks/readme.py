"""Writes the tables of the READMEs and docs/ from `benchmarks/results` and from the recipe's schema.

    python benchmarks/readme.py [--check]

Between `<!-- NAME:begin -->` and `<!-- NAME:end -->` nothing is written by hand. Each block stands in exactly one page, and in
that page's translation as well. With --check nothing is written at all, and the exit code tells whether the pages are up to date.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cvft.recipe import Recipe, schema_json
from cvft.recipe.data_section import RowFile
from cvft.recipe.explain import describe_need
from cvft.recipe.foreign import FOREIGN_NAMES, NOT_SUPPORTED
from cvft.recipe.names import iter_fields, section_of

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README, README_ZH = ROOT / "README.md", ROOT / "README.zh-CN.md"

BEGIN = re.compile(r"<!-- (\w+):begin -->")
BLOCK = re.compile(r"(<!-- (\w+):begin -->\n).*?(<!-- \2:end -->)", re.DOTALL)

MINIMAL = {"model.path": "tiny", "data.train": "train.jsonl"}
"""What every recipe states."""

WORDS = {"activations computed again": "recomputed", "features kept": "features cached"}
"""Labels in results that were measured before the words changed -> what the tables call them."""


def main() -> int:
    """Writes the tables, or checks them."""
    blocks = make_blocks()
    paths = (README, README_ZH, *sorted(ROOT.glob("docs/*.md")))
    pages = {path: path.read_text(encoding="utf-8") for path in paths}
    complaints = find_misplaced([text for path, text in pages.items() if path != README_ZH], blocks)
    if (in_chinese := whole_blocks(pages[README_ZH])) != whole_blocks(pages[README]):
        complaints.append(f"{README_ZH.name} has the blocks {in_chinese}, need those of {README.name}")
    renewed = {path: fill(text, blocks) for path, text in pages.items()}
    stale = [path for path, text in pages.items() if renewed[path] != text]
    if "--check" in sys.argv[1:]:
        complaints += [f"{path.relative_to(ROOT)} is out of date" for path in stale]
    elif not complaints:
        for path in stale:
            path.write_text(renewed[path], encoding="utf-8")
    print("\n".join(complaints) or f"{len(pages)} pages say what benchmarks/results and the recipe's schema say")
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
        "settings": settings_tables(),
        "words": words_tables(),
    }


def find_misplaced(pages: Iterable[str], blocks: Mapping[str, str]) -> list[str]:
    """Says which blocks do not stand, begun and ended, in exactly one page."""
    begun: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for text in pages:
        begun.update(BEGIN.findall(text))
        whole.update(whole_blocks(text))
    unknown = [f"block {name} has no results" for name in begun if name not in blocks]
    return unknown + [
        f"block {name} begins {begun[name]} times and ends {whole[name]} times, need one of each"
        for name in blocks
        if (begun[name], whole[name]) != (1, 1)
    ]


def whole_blocks(text: str) -> list[str]:
    """Returns the names of the blocks that begin and end in a page."""
    return [name for _, name, _ in BLOCK.findall(text)]


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


def settings_tables() -> str:
    """Returns a table of every section of a recipe: each setting with what it takes, its default and its meaning."""
    of_section: dict[str, list[str]] = {"": [setting_row("extends", "a path", "–", extends_meaning())]}
    for path, field in iter_fields():
        section, _, key = path.rpartition(".")
        row = setting_row(key, need_of(field), default_of(path), field.description or "")
        of_section.setdefault(section, []).append(row)
    lines = []
    for section, rows in of_section.items():
        kind = section_of(section) if section else None
        lines += settings_table(section or "beside the sections", (kind.__doc__ or "") if kind else "", rows)
        if section == "data":
            files = [
                setting_row(key, need_of(field), shown(field.default), field.description or "")
                for key, field in RowFile.model_fields.items()
            ]
            lines += settings_table("a file in the list of data.train", RowFile.__doc__ or "", files)
    return "\n".join(lines[1:])


def settings_table(title: str, said: str, rows: list[str]) -> list[str]:
    said = said.partition("\n")[0]
    head = ["| setting | takes | default | is |", "|---|---|---|---|"]
    return ["", f"## {title}", "", *([said, ""] if said else []), *head, *rows]


def setting_row(*cells: str) -> str:
    name, *others = (cell.replace("|", "\\|") for cell in cells)
    return f"| `{name}` | {' | '.join(others)} |"


def need_of(field: FieldInfo) -> str:
    """Returns what a setting takes; that it may be left out is said by its default."""
    return re.sub(r",? or `null`$", "", describe_need(field))


def extends_meaning() -> str:
    return str(json.loads(schema_json())["properties"]["extends"]["description"])


def default_of(path: str) -> str:
    """Returns what a setting is where a recipe does not state it, as YAML writes it."""
    if path in MINIMAL:
        return "has to be stated"
    value: Any = Recipe.model_validate(
        {section: {key: said} for name, said in MINIMAL.items() for section, key in [name.split(".")]}
    )
    for key in path.split("."):
        value = getattr(value, key)
    return shown(value)


def shown(value: object) -> str:
    if value is PydanticUndefined:
        return "has to be stated"
    if value is None or value == "":
        return "–"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value, default=str)}`".replace('"', "")


def words_tables() -> str:
    """Returns what words of other trainers are called here, and why others have no counterpart."""
    lines = ["| setting | their words |", "|---|---|"]
    lines += [f"| `{ours}` | {words} |" for ours, words in by_answer(FOREIGN_NAMES)]
    lines += ["", "| what is said | their words |", "|---|---|"]
    return "\n".join([*lines, *(f"| {why} | {words} |" for why, words in by_answer(NOT_SUPPORTED))])


def by_answer(answers: Mapping[str, str]) -> list[tuple[str, str]]:
    found: dict[str, list[str]] = {}
    for word, answer in answers.items():
        found.setdefault(answer, []).append(f"`{word}`")
    return [(answer, ", ".join(sorted(words))) for answer, words in sorted(found.items())]


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
