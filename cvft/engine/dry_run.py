"""What a training would start on each machine, as text: no data, no weights and no GPU are needed to say it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from cvft.engine.folder import RunFolder
from cvft.engine.ranks import worker_command, worker_environment
from cvft.errors import quote
from cvft.recipe import Recipe

AUTO_GPUS = "NUM_GPUS"
"""Stands in a shown command for a number that each machine decides."""


def describe_commands(recipe: Recipe, *, typed: Sequence[str]) -> str:
    """Describes the batch, what to type on each machine, and what that executes there.

    Args:
        recipe: The recipe.
        typed: The command that the user has typed, without `--dry-run`.

    Returns:
        The text.
    """
    parallel = recipe.parallel
    folder = RunFolder(recipe.run_dir.absolute())
    num_per_node: int | str = parallel.num_gpus
    if parallel.strategy == "single":
        num_per_node = 1
    elif num_per_node == "auto":
        num_per_node = AUTO_GPUS
    lines = [_describe_batch(recipe, num_per_node)]
    environment = worker_environment(folder.path, num_threads=parallel.num_threads)
    for node_rank in range(parallel.num_nodes):
        words = [word for word in typed if not word.startswith("parallel.node_rank=")]
        if parallel.num_nodes > 1:
            words.append(f"parallel.node_rank={node_rank}")
        command = worker_command(recipe, num_per_node=num_per_node, node_rank=node_rank, plan_file=folder.plan_file)
        lines += ["", f"machine {node_rank}", f"  type      {shlex.join(words)}", f"  executes  {shlex.join(command)}"]
    lines += ["", "with these variables beside the shell's own"]
    lines += [f"  {name}={shlex.quote(value)}" for name, value in environment.items()]
    return "\n".join(lines)


def _describe_batch(recipe: Recipe, num_per_node: int | str) -> str:
    train, num_nodes = recipe.train, recipe.parallel.num_nodes
    if isinstance(num_per_node, str):
        return (
            f"batch     {train.global_batch_rows} rows per step; accumulation follows from the number of GPUs, "
            f"which each machine counts ({quote('parallel.num_gpus: auto')})"
        )
    num_ranks = num_per_node * num_nodes
    return (
        f"batch     {train.global_batch_rows} rows per step = {train.micro_batch_rows} rows "
        f"x {recipe.accumulation_steps(num_ranks=num_ranks)} accumulated x {num_ranks} ranks "
        f"({num_per_node} on {num_nodes} machine{'s' if num_nodes > 1 else ''}, {recipe.parallel.strategy})"
    )
