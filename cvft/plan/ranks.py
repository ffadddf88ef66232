"""How many ranks a training has, on which machines, and how they are started. Pure: facts of the machine come in as values."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from cvft.errors import CvftError, Problem, RecipeError, quote
from cvft.recipe import Recipe, weights_fingerprint
from cvft.recipe.values import MANY_PROCESSES

SHUTDOWN_TIMEOUT_S = 15
"""Seconds that torch's launcher gives the other ranks to end when one has failed, before it kills them."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of a training.

    Args:
        device: `cpu` or `cuda`.
        num_per_node: Ranks on each node.
        num_nodes: Machines.
    """

    device: str
    num_per_node: int
    num_nodes: int

    @property
    def num(self) -> int:
        """Ranks on all nodes."""
        return self.num_per_node * self.num_nodes


def decide_ranks(recipe: Recipe, *, num_gpus_present: int) -> Ranks:
    """Decides the device and the number of ranks.

    Args:
        recipe: The recipe.
        num_gpus_present: GPUs that this machine shows.

    Returns:
        The ranks.

    Raises:
        RecipeError: when more GPUs are asked for than there are.
    """
    device = recipe.parallel.device
    if device == "auto":
        device = "cuda" if num_gpus_present else "cpu"
    asked = recipe.parallel.num_gpus
    if recipe.parallel.strategy == "single":
        num_per_node = 1
    elif asked == "auto":
        num_per_node = num_gpus_present if device == "cuda" else 1
    else:
        num_per_node = asked
    if device == "cuda" and num_per_node > num_gpus_present:
        hint = "set parallel.num_gpus, or parallel.device=cpu to run without a GPU"
        need = f"at most the {num_gpus_present} GPUs present"
        raise RecipeError("this machine", [Problem("parallel.num_gpus", quote(num_per_node), need, hint)])
    return Ranks(device, max(num_per_node, 1), recipe.parallel.num_nodes)


def check_num_ranks(num: int, *, device: str, num_gpus_present: int) -> None:
    """Refuses more ranks that answer rows than a machine has room for: each has a GPU of its own, or is a process on a CPU.

    Args:
        num: What `--num-gpus` says.
        device: `cpu` or `cuda`.
        num_gpus_present: GPUs that this machine shows.

    Raises:
        CvftError: when there are fewer.
    """
    if device == "cuda" and num > num_gpus_present:
        need = f"at most the {num_gpus_present} GPUs present"
        raise CvftError(
            "this machine", [Problem("--num-gpus", quote(num), need, "does CUDA_VISIBLE_DEVICES hide some?")]
        )
    if num > MANY_PROCESSES:
        raise CvftError("this machine", [Problem("--num-gpus", quote(num), f"at most {MANY_PROCESSES}")])


def node_rank_of(recipe: Recipe) -> int:
    """Returns which of its nodes this machine is.

    Raises:
        RecipeError: when there are several nodes and the recipe does not say.
    """
    parallel = recipe.parallel
    if parallel.node_rank is None and parallel.num_nodes > 1:
        problem = Problem(
            "parallel.node_rank",
            "nothing",
            f"which of the {parallel.num_nodes} nodes this machine is, from 0",
            "add parallel.node_rank=0 to the command on the first machine, 1 on the second, and so on",
        )
        raise RecipeError("this machine", [problem])
    return parallel.node_rank or 0


def worker_command(recipe: Recipe, *, num_per_node: int | str, node_rank: int, plan_file: Path) -> tuple[str, ...]:
    """Returns how a node starts its ranks.

    Args:
        recipe: The recipe.
        num_per_node: Ranks on this node; a word in its place for a command that is only shown.
        node_rank: Which node this is.
        plan_file: The plan that the ranks carry out.

    Returns:
        The words of the command.
    """
    worker = ("-m", "cvft.train.worker", str(plan_file))
    parallel = recipe.parallel
    if parallel.strategy == "single":
        return (sys.executable, *worker)
    options = ["--nproc-per-node", str(num_per_node), "--shutdown-timeout", str(SHUTDOWN_TIMEOUT_S)]
    if parallel.rendezvous is None:
        options.insert(0, "--standalone")
    else:
        host, port = split_rendezvous(parallel.rendezvous)
        options += ["--nnodes", str(parallel.num_nodes), "--node-rank", str(node_rank)]
        options += ["--master-addr", host, "--master-port", str(port)]
        options += ["--rdzv-conf", f"timeout={parallel.rendezvous_timeout_s:g}"]
        # nodes with different recipes never meet
        options += ["--rdzv-id", weights_fingerprint(recipe)[:16]]
    return (sys.executable, "-m", "torch.distributed.run", *options, *worker)


def split_rendezvous(rendezvous: str) -> tuple[str, int]:
    """Splits a `host:port` that the recipe has validated."""
    host, _, port = rendezvous.rpartition(":")
    return host, int(port)
