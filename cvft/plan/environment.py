"""Which environment variables a worker gets: the plan's own, and the shell's as far as they say nothing else. Pure.

A shell that says what every training of one process says (`WORLD_SIZE=1`), or that sets what the plan sets, is overruled and told
so. One that says that there are other processes is refused: each of them would train the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cvft.errors import Problem, RunError, quote

ONE_PROCESS = {
    **dict.fromkeys(("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK"), ("0", "-1", "")),
    **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "NPROC_PER_NODE", "NNODES"), ("1", "")),
}
"""Variables that torch, DeepSpeed, accelerate or ms-swift would take ranks from -> what they say where there is one process."""

OF_MPI = (
    *("PMI_RANK", "PMI_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK"),
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
)
"""What accelerate and DeepSpeed read as well; Slurm sets it for one command per machine, too, which is how cvft is started."""

MEETING = ("MASTER_ADDR", "MASTER_PORT")
"""Where several processes would meet. The recipe says that; a cluster sets them for single processes too."""

STEERING = ("DS_ACCELERATOR",)
"""Variables that decide how is computed, beside those that start with ACCELERATE_."""

ONLY_WORDS = ("ACCELERATE_LOG_LEVEL", "ACCELERATE_DISABLE_RICH", "ACCELERATE_ENABLE_RICH")
"""Of those, the ones that decide what is printed."""

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


def check_shell(shell: Mapping[str, str]) -> None:
    """Refuses a shell that decides what is the recipe's to decide.

    Args:
        shell: Its variables.

    Raises:
        RunError: when it says that this is one of several processes, or how they compute.
    """
    problems = []
    for name, value in sorted(shell.items()):
        if value.strip() not in ONE_PROCESS.get(name, (value.strip(),)):
            need = f"{quote(ONE_PROCESS[name][0])}, or it unset: the recipe's `parallel` section decides"
            hint = f"start cvft once on each machine, not once per process, and unset {name}"
            problems.append(Problem(f"environment variable {name}", quote(value), need, hint))
        elif name in STEERING or (name.startswith("ACCELERATE_") and name not in ONLY_WORDS):
            need = "it unset: the recipe's `parallel` section decides"
            problems.append(Problem(f"environment variable {name}", quote(value), need, f"unset {name}"))
    if problems:
        raise RunError("the shell", problems)


def merge_environment(planned: Mapping[str, str], shell: Mapping[str, str]) -> dict[str, str]:
    """Adds a plan's variables to those of a shell that `check_shell` has let pass; `find_overruled` says what changes.

    Args:
        planned: The plan's variables.
        shell: The shell's.

    Returns:
        Both together. The plan's count, but for those that change no result; what speaks of processes is left out.
    """
    kept = {name: value for name, value in shell.items() if name not in (*ONE_PROCESS, *MEETING, *OF_MPI)}
    return {**kept, **planned, **{name: shell[name] for name in SHELL_FIRST if name in shell}}


def find_overruled(planned: Mapping[str, str], shell: Mapping[str, str]) -> list[str]:
    """Says which of the shell's variables a worker does not get as they are, a sentence for each."""
    notes = []
    for name, value in sorted(shell.items()):
        if name in ONE_PROCESS or name in MEETING:
            notes.append(
                f"environment variable {name}={value} is not passed on: the recipe's `parallel` section decides"
            )
        elif planned.get(name, value) != value and name not in (*WORKER_ONLY, *SHELL_FIRST):
            setting = {"OMP_NUM_THREADS": ", which is parallel.num_threads"}.get(name, "")
            notes.append(
                f"environment variable {name}={value} does not count: the training has {planned[name]}{setting}"
            )
    return notes


def tracker_environment(train_folder: Path, shell: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables of a process that sends to a tracker: the shell's, and what trackers find where it says nothing.

    Args:
        train_folder: Folder of the training: what trackers keep on this machine goes there, but for those that have a place of
            their own for all runs.
        shell: The shell's variables.
    """
    return {
        **dict.fromkeys(("WANDB_PROJECT", "SWANLAB_PROJ_NAME", "TRACKIO_PROJECT", "MLFLOW_EXPERIMENT_NAME"), "cvft"),
        "WANDB_DIR": str(train_folder),
        "WANDB_CONSOLE": "off",  # it would send what this process prints
        "SWANLAB_LOG_DIR": str(train_folder / "swanlog"),
        **shell,
    }
