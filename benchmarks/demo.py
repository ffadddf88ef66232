"""What the demo reaches and how long its steps take: `python benchmarks/demo.py`.

Runs the demo's recipe as it stands (LoRA on qkv) and with `lora.targets=all-linear`, each as a fresh run through the command
line, checks the outcome (merged equals adapter on every val row, identical predictions), and writes
`benchmarks/results/demo--<device>.json`. Exact match is in percent of val rows, on clips never trained on.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from job import ROOT, read_metrics, read_verification, run_job, write_result

RECIPE = ROOT / "recipes" / "tiny_cpu.yaml"
TARGETS = ("qkv", "all-linear")


def main() -> None:
    """Runs both targets and writes the result."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {targets: run_once(targets, root=Path(folder)) for targets in TARGETS}
    command = "cvft run recipes/tiny_cpu.yaml lora.targets=TARGETS export.verify_rows=NUM_VAL_ROWS"
    write_result("demo", command=command, runs=runs)
    print(json.dumps(runs, indent=2))


def run_once(targets: str, *, root: Path) -> dict[str, Any]:
    """Does the whole job once with one kind of targets; checks it and returns its numbers."""
    num_val_rows = len((ROOT / "datasets" / "tiny_shapes" / "val.jsonl").read_text().splitlines())
    overrides = [f"lora.targets={targets}", f"export.verify_rows={num_val_rows}"]
    run, elapsed_s = run_job(RECIPE, name=targets.replace("-", "_"), root=root, overrides=overrides)
    verification = read_verification(run)
    assert verification["num_rows"] == num_val_rows, verification
    return {
        "elapsed_s": elapsed_s,
        "max_logit_error": verification["max_logit_error"],
        "largest_logit": verification["largest_logit"],
        "num_val_rows": num_val_rows,
        **{which: by_category(read_metrics(run, which)) for which in ("base", "merged")},
    }


def by_category(metrics: dict[str, Any]) -> dict[str, float]:
    """Exact match in percent per category and over all rows."""
    categories = {name: values["exact_match"] for name, values in metrics["categories"].items()}
    return {name: round(100 * value, 1) for name, value in {**categories, "all": metrics["exact_match"]}.items()}


if __name__ == "__main__":
    main()
