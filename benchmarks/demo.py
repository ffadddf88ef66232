"""What the demo reaches and how long its steps take: `python benchmarks/demo.py`.

Runs the demo's recipe as it stands (LoRA on qkv) and with `lora.targets=all-linear`, each as a fresh run through the command
line, checks the outcome (merged equals adapter on every val row, identical predictions), and writes
`benchmarks/results/demo--<device>.json`. Exact match is in percent of val rows, on clips never trained on.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "tiny_cpu.yaml"
TARGETS = ("qkv", "all-linear")


def main() -> None:
    """Runs both targets and writes the result."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {targets: run_once(targets, root=Path(folder)) for targets in TARGETS}
    result = {
        "benchmark": "demo",
        "device": f"cpu, {platform.machine()}, {os.cpu_count()} cores",
        "commit": git_commit(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "ms-swift", "av")},
        "command": "cvft run recipes/tiny_cpu.yaml lora.targets=TARGETS export.verify_rows=NUM_VAL_ROWS",
        "timed_region": "the whole process of `cvft run`, Python's start included",
        "runs": runs,
    }
    path = ROOT / "benchmarks" / "results" / f"demo--cpu-{platform.machine()}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(runs, indent=2))


def run_once(targets: str, *, root: Path) -> dict[str, Any]:
    """Does the whole job once with one kind of targets; checks it and returns its numbers."""
    name = targets.replace("-", "_")
    num_val_rows = len((ROOT / "datasets" / "tiny_shapes" / "val.jsonl").read_text().splitlines())
    overrides = [f"name={name}", f"lora.targets={targets}", f"output.root={root}", f"export.verify_rows={num_val_rows}"]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "cvft", "run", str(RECIPE), *overrides], check=True, capture_output=True)
    elapsed_s = time.perf_counter() - start
    run = root / name
    verification = json.loads((run / "merged" / "cvft_verification.json").read_text())
    assert verification["num_equal_answers"] == verification["num_rows"] == num_val_rows, verification
    metrics = {which: read_metrics(run, which) for which in ("base", "merged")}
    return {
        "elapsed_s": round(elapsed_s, 1),
        "max_logit_error": verification["max_logit_error"],
        "largest_logit": verification["largest_logit"],
        "num_val_rows": num_val_rows,
        **{which: by_family(metrics[which]) for which in metrics},
    }


def read_metrics(run: Path, which: str) -> dict[str, Any]:
    return json.loads((run / "eval" / f"metrics_{which}.json").read_text())["metrics"]


def by_family(metrics: dict[str, Any]) -> dict[str, float]:
    """Exact match in percent per family and over all rows."""
    families = {name: values["exact_match"] for name, values in metrics["families"].items()}
    return {name: round(100 * value, 1) for name, value in {**families, "all": metrics["exact_match"]}.items()}


def git_commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
