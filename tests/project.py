"""A small project for tests of the whole job: rows about real clips, a recipe, and the command line as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from cvft.data.catalog import CLIPS_FOLDER
from tests.real_clips import real_clip

ROWS = [
    {"query": "What is shown?", "response": "a man", "videos": ["carphone_pristine.mp4"]},
    {"query": "Where is he?", "response": "in a car", "videos": ["carphone_pristine.mp4"], "category": "where"},
    {
        "query": "And now?",
        "response": "still a man",
        "history": [["What is shown?", "a man"]],
        "videos": ["carphone_pristine.mp4"],
    },
    {"query": "What is shown?", "response": "bikes", "videos": ["bikes.mp4"]},
    {"query": "When?", "response": "at second 3", "videos": ["bikes.mp4"]},
    {"query": "Say yes.", "response": "yes"},
]

HANG_S = 1500
"""Seconds after which a command hangs; how long one takes is no test's business."""

RECIPE: dict[str, Any] = {
    "model": {"path": "tiny", "dtype": "fp32"},
    "data": {"train": "train.jsonl", "val": "val.jsonl"},
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
    "optim": {"learning_rate": 1e-3},
    "train": {
        "max_steps": 4,
        "global_batch_rows": 4,
        "micro_batch_rows": 2,
        "logging_steps": 1,
        "save_steps": 2,
        "eval_steps": 2,
        "num_workers": 0,
        "gradient_checkpointing": False,
    },
    "eval": {"max_new_tokens": 8, "batch_rows": 2},
    "parallel": {"device": "cpu"},
    "output": {"root": "OUT"},
}


def with_real_clips(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**row, "videos": [str(real_clip(name)) for name in row["videos"]]} if "videos" in row else row for row in rows
    ]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_project(folder: Path, *, rows=None, val_rows=None, **sections: dict[str, Any]) -> Path:
    """Writes rows and a recipe into a folder; returns the recipe's path. Sections are merged over the small recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "train.jsonl", with_real_clips(ROWS) if rows is None else rows)
    write_jsonl(folder / "val.jsonl", with_real_clips(ROWS[:2] + ROWS[3:4]) if val_rows is None else val_rows)
    recipe = {key: {**RECIPE.get(key, {}), **sections.get(key, {})} for key in {**RECIPE, **sections}}
    recipe["output"] = {"root": str(folder / "runs")}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def cvft(*args: object, cwd: Path | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own."""
    command = [sys.executable, "-m", "cvft", *(str(arg) for arg in args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=HANG_S, check=False, **options)


def cvft_ok(*args: object, **options: Any) -> subprocess.CompletedProcess[str]:
    result = cvft(*args, **options)
    assert result.returncode == 0, result.stderr[-4000:]
    return result


def files_under(folder: Path) -> list[str]:
    """Every file but the catalog of clips, which every command that looks at clips may write."""
    paths = (path for path in folder.rglob("*") if path.is_file() and CLIPS_FOLDER not in path.parts)
    return sorted(str(path.relative_to(folder)) for path in paths)
