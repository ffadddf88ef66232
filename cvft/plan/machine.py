"""What this machine has: its GPUs, their memory, the tools that a strategy needs. Loads no torch."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from cvft.errors import Problem, RecipeError, quote
from cvft.families.packages import find_missing_package
from cvft.files import why_unwritable
from cvft.plan.gpus import find_gpu
from cvft.plan.ranks import Ranks
from cvft.recipe import Recipe
from cvft.runs import RunFolder

USABLE_GPU_SHARE = 0.965
"""Share of the memory that the driver states which a GPU out of our table leaves to programs; see `costs.gpus`."""


@dataclass(frozen=True)
class GpuFacts:
    """A GPU of this machine.

    Args:
        name: What the driver calls it.
        memory_bytes: What it leaves to programs.
    """

    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Machine:
    """What a machine has.

    Args:
        gpus: Its GPUs, as far as they are shown.
        host_bytes: Memory of the host.
    """

    gpus: tuple[GpuFacts, ...]
    host_bytes: int


def read_gpus() -> list[GpuFacts]:
    """Asks the driver for the GPUs that a worker on this machine would see; none without a driver."""
    gpus = []
    for line in ask_driver("name,memory.total"):
        name, _, memory_mib = line.rpartition(", ")
        known = find_gpu(name)
        stated_bytes = int(memory_mib) * 2**20 if memory_mib.isdecimal() else 0
        gpus.append(GpuFacts(name, known.memory_bytes if known else int(USABLE_GPU_SHARE * stated_bytes)))
    return visible_gpus(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))


def ask_driver(columns: str) -> list[str]:
    """Asks NVIDIA's driver for a line about each GPU; none without a driver that answers.

    Args:
        columns: What `nvidia-smi --help-query-gpu` lists, with commas between.
    """
    query = ["nvidia-smi", f"--query-gpu={columns}", "--format=csv,noheader,nounits"]
    try:
        listing = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listing.stdout.splitlines() if listing.returncode == 0 else []


def visible_gpus(gpus: list[GpuFacts], chosen: str | None) -> list[GpuFacts]:
    """Leaves the GPUs that CUDA would show.

    Args:
        gpus: All GPUs, in the driver's order.
        chosen: `CUDA_VISIBLE_DEVICES`: numbers or UUIDs; what follows an unknown number is not shown. None shows all.
    """
    if chosen is None:
        return gpus
    shown = []
    for word in chosen.split(","):
        is_number = word.strip().lstrip("-").isdecimal()
        number = int(word) if is_number else 0
        # a UUID tells nothing here of which card it is: machines with cards of several kinds are rare
        if not word.strip() or not 0 <= number < len(gpus):
            break
        shown.append(gpus[number])
    return shown


def device_of_rank(rank: int, chosen: str | None) -> str:
    """Returns what `CUDA_VISIBLE_DEVICES` is for a rank that uses one GPU of those that are shown.

    Args:
        rank: Number of the rank, from 0.
        chosen: `CUDA_VISIBLE_DEVICES` of the command; None shows all.
    """
    return str(rank) if chosen is None else chosen.split(",")[rank].strip()


def read_machine() -> Machine:
    """Looks at this machine once."""
    return Machine(tuple(read_gpus()), host_bytes=psutil.virtual_memory().total)


def memory_per_rank(ranks: Ranks, machine: Machine) -> int | None:
    """Returns the bytes that each rank's device has; None when they are not known."""
    if ranks.device == "cuda":
        return min((gpu.memory_bytes for gpu in machine.gpus[: ranks.num_per_node]), default=0) or None
    return machine.host_bytes // ranks.num_per_node


def check_output(recipe: Recipe, run: RunFolder, *, features_root: Path) -> None:
    """Checks that a run's folder can be written, and that of its features; leaves nothing there.

    Raises:
        RecipeError: when one of them cannot be.
    """
    places = {run.path: "output.root", features_root: "output.features" if recipe.output.features else "output.root"}
    problems: dict[str, Problem] = {}
    for place, key in places.items():
        if why := why_unwritable(place):
            hint = f"set {key} to a folder of yours, with room on its disk"
            problems.setdefault(key, Problem(key, f"{quote(place)} ({why})", "a folder that can be written", hint))
    if problems:
        raise RecipeError("this machine", problems.values())


def check_packages(recipe: Recipe) -> None:
    """Checks that what a recipe needs beyond torch is there.

    Raises:
        RecipeError: when a tracker is not installed; when DeepSpeed is not installed and the strategy is one of its
            stages, or when the tools are missing with which it compiles its optimizer for offloading; when weights are to be
            quantized without bitsandbytes.
    """
    strategy = recipe.parallel.strategy
    missing_package = find_missing_package(recipe.model.quantize)
    problems = [] if missing_package is None else [missing_package]
    if strategy.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        problems.append(Problem("parallel.strategy", quote(strategy), "DeepSpeed", "pip install 'cvft[deepspeed]'"))
    for name in recipe.train.report_to:
        if importlib.util.find_spec(name) is None:
            hint = f"pip install {name}, or leave it out of train.report_to"
            problems.append(
                Problem("train.report_to", quote(name), f"the package {name}, which is not installed", hint)
            )
    missing_tools = [tool for tool in ("c++", "ninja") if shutil.which(tool) is None]
    if strategy == "zero2_offload" and recipe.parallel.deepspeed_config is None and missing_tools:
        need = f"{' and '.join(quote(tool) for tool in missing_tools)} on PATH: DeepSpeed compiles its optimizer for the CPU"
        hint = "install them, or give a parallel.deepspeed_config with `zero_force_ds_cpu_optimizer: false`"
        problems.append(Problem("parallel.strategy", quote(strategy), need, hint))
    if problems:
        raise RecipeError("this machine", problems)
