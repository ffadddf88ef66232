"""The worker: one process per rank that carries out a plan with ms-swift and ends.

`python -m cvft.train.worker RUN/plan.json`, started by `cvft.train.launch` with the plan's environment, directly or
through torch.distributed.run. Each training is a process of its own because ms-swift keeps state between runs of one process.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

from cvft.data.features.key import FeatureKey
from cvft.data.features.store import FeatureStore
from cvft.errors import EXIT_USER_ERROR, CvftError, Problem, RunError, quote
from cvft.imports import collect_less_often, importing_for_good
from cvft.plan.plan import Plan, WorkerPlan
from cvft.processes import die_with_parent, end_without_launcher
from cvft.runs import ERROR_HEADLINE, START_HEADLINE, RunFolder
from cvft.train.stop import STOP_FILE, StopSignals

LOG = logging.getLogger(__name__)


def main(argv: list[str]) -> None:
    """Trains as a plan says.

    Args:
        argv: The plan's file.
    """
    (plan_file,) = argv
    collect_less_often()
    die_with_parent()
    end_without_launcher()
    plan = Plan.from_json(Path(plan_file).read_text(encoding="utf-8"))
    if plan.worker.num_ranks > 1:
        _write_to_own_log(RunFolder(plan.worker.run_dir).rank_log(int(os.environ["RANK"])))
    _log_to_stdout()
    signals = StopSignals(num_ranks=plan.worker.num_ranks)
    try:
        _check_ranks(plan.worker.num_ranks)
        _train(plan, signals=signals)
    except CvftError as error:
        LOG.error("%s\n%s", ERROR_HEADLINE, error)
        # no clean-up: it would wait for ranks that wait for this one
        os._exit(EXIT_USER_ERROR)


def _log_to_stdout() -> None:
    """Gives our lines a way of their own into the log: libraries configure the root logger as they like."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    ours = logging.getLogger("cvft")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False


def _write_to_own_log(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(log, f"{START_HEADLINE}\n".encode())
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())


def _check_ranks(num_ranks: int) -> None:
    got = int(os.environ.get("WORLD_SIZE", "1"))
    if got != num_ranks:
        hint = "all nodes need the same number of GPUs and the same recipe"
        raise RunError("the ranks", [Problem("number of ranks", quote(got), quote(num_ranks), hint)])


def _train(plan: Plan, *, signals: StopSignals) -> None:
    # imported here: a data loader that starts by spawning imports this module again, and must not load ms-swift twice
    with importing_for_good():
        from swift import SftArguments, sft_main

        from cvft.train.swift_plugin import register

    if plan.worker.cache_key is not None and not _provide(plan.worker, key=plan.worker.cache_key, signals=signals):
        return
    register(plan, signals=signals)
    if plan.worker.strategy.startswith("zero"):
        _prepare_deepspeed(plan)
    sft_main(SftArguments(**plan.swift))
    _leave_ranks()


def _leave_ranks() -> None:
    """Ends the talk with the other ranks in order: threads that live on to the interpreter's end can abort a finished process."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _provide(plan: WorkerPlan, *, key: FeatureKey, signals: StopSignals) -> bool:
    from cvft.clips.build import BuildSource
    from cvft.clips.provide import provide
    from cvft.data.check import count_processes
    from cvft.data.records import read_records
    from cvft.families.runtime import load_runtime
    from cvft.families.table import family_named
    from cvft.weights.folder import ModelFolder

    folder = RunFolder(plan.run_dir)
    rank = int(os.environ.get("RANK", "0"))
    stop_file = folder.train / STOP_FILE

    def report(done: int, total: int) -> None:
        if rank == 0:
            with folder.progress_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time_s": time.time(), key.made: done, "num_clips": total}) + "\n")

    def must_stop() -> bool:
        if signals.asked:
            stop_file.touch()  # tells the launcher why there will be no training
        return stop_file.exists()

    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if plan.device == "cuda" else "cpu"
    source = BuildSource(
        load_runtime(family_named(plan.family)),
        ModelFolder.of(plan.model_view),
        plan.preprocessing,
        dtype=plan.loading.dtype,
        device=device,
        num_workers=max(1, count_processes() * plan.num_nodes // plan.num_ranks),
    )
    return provide(
        FeatureStore(plan.features_root, key),
        read_records(folder.clip_records),
        source=source,
        rank=rank,
        num_ranks=plan.num_ranks,
        report=report,
        must_stop=must_stop,
    )


def _prepare_deepspeed(plan: Plan) -> None:
    import deepspeed

    if not plan.swift["use_cpu"]:
        return
    # the shared-memory operator would be compiled now, which needs a C++ compiler; gloo does without it
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if plan.worker.strategy == "zero3":
        # ms-swift opens the configuration before it has counted the ranks
        deepspeed.init_distributed("gloo")


if __name__ == "__main__":
    main(sys.argv[1:])
