"""What the benchmarks share: run the whole job of a recipe in a process of its own, read its numbers, write a result file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def run_job(recipe: Path, *, name: str, root: Path, overrides: list[str]) -> tuple[Path, float]:
    """Runs `cvft run` once.

    Args:
        recipe: The recipe.
        name: Name of the run.
        root: Folder that gets the run.
        overrides: Settings that replace the recipe's.

    Returns:
        The run's folder, and the seconds of the whole process.
    """
    command = [sys.executable, "-m", "cvft", "run", str(recipe), f"name={name}", f"output.root={root}", *overrides]
    start = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    elapsed_s = time.perf_counter() - start
    if result.returncode:
        sys.exit(result.stderr)
    return root / name, round(elapsed_s, 1)


def read_verification(run: Path) -> dict[str, Any]:
    """Reads what the merge was held to, and insists that every answer was identical."""
    verification: dict[str, Any] = json.loads((run / "merged" / "cvft_verification.json").read_text())["logits"]
    assert verification["num_equal_answers"] == verification["num_rows"] > 0, verification
    return verification


def read_metrics(run: Path, which: str) -> dict[str, Any]:
    """Reads the val metrics of one model of a run."""
    metrics: dict[str, Any] = json.loads((run / "eval" / which / "metrics.json").read_text())["metrics"]
    return metrics


def write_result(benchmark: str, *, gpu: str | None = None, **values: Any) -> Path:
    """Writes `results/<benchmark>--<device>.json` with the device (a GPU's name, or this CPU), the commit and the versions."""
    result = {
        "benchmark": benchmark,
        "device": gpu or f"cpu, {platform.machine()}, {os.cpu_count()} cores",
        "commit": git_commit(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "ms-swift", "av")},
        "timed_region": "the whole process of `cvft run`: check, train, merge, verify, evaluate base and merged, report",
        **values,
    }
    device = gpu.lower().replace(" ", "-") if gpu else f"cpu-{platform.machine()}"
    path = RESULTS / f"{benchmark}--{device}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return path


def git_commit() -> str:
    """The commit that was measured, marked when files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
