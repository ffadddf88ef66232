"""Which environment variables a worker gets: the plan's own, merged with the shell's or refused. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cvft.errors import Problem, RunError, quote

STEERING_VARIABLES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("NPROC_PER_NODE", "NNODES", "NODE_RANK", "DS_ACCELERATOR"),
)
"""Variables that torch, DeepSpeed, accelerate or ms-swift would take ranks from, beside all that start with ACCELERATE_."""

ALLOCATOR_SETTINGS = "expandable_segments:True"
"""Lets torch's allocator on GPUs grow its segments: micro-batches of many lengths otherwise leave holes that none fits in."""


def worker_environment(run_dir: Path, *, num_threads: int, of_family: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that a worker gets beyond the shell's own.

    Args:
        run_dir: The run's folder.
        num_threads: CPU threads of each rank.
        of_family: What the model's family needs.
    """
    return {
        "PYTORCH_ALLOC_CONF": ALLOCATOR_SETTINGS,
        "OMP_NUM_THREADS": str(num_threads),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(run_dir / "cache" / "datasets"),
        "MODELSCOPE_CACHE": str(run_dir / "cache" / "modelscope"),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        **of_family,
    }


WORKER_ONLY = ("HF_DATASETS_CACHE", "MODELSCOPE_CACHE")
"""Scratch folders of the worker: what a shell says of them is for downloads, and holds there."""

SHELL_FIRST = ("PYTORCH_ALLOC_CONF",)
"""Variables that a shell may set to something else: they change no result."""


def merge_environment(planned: Mapping[str, str], shell: Mapping[str, str]) -> dict[str, str]:
    """Adds a plan's variables to the shell's.

    Args:
        planned: The plan's variables.
        shell: The shell's.

    Returns:
        Both together.

    Raises:
        RunError: when the shell sets one of them to something else, for it would not have the effect that it seems to
            have; or when it sets one that decides about ranks, for that is the recipe's part.
    """
    problems = [
        Problem(f"environment variable {name}", quote(shell[name]), quote(value), _environment_hint(name))
        for name, value in planned.items()
        if shell.get(name, value) != value and name not in (*WORKER_ONLY, *SHELL_FIRST)
    ]
    problems += [
        Problem(f"environment variable {name}", quote(value), "it unset: the recipe's `parallel` section decides", "")
        for name, value in shell.items()
        if name in STEERING_VARIABLES or name.startswith("ACCELERATE_")
    ]
    if problems:
        raise RunError("the shell", problems)
    return {**shell, **planned, **{name: shell[name] for name in SHELL_FIRST if name in shell}}


def _environment_hint(name: str) -> str:
    setting = {"OMP_NUM_THREADS": " or set parallel.num_threads"}.get(name, "")
    return f"unset {name}{setting}"
