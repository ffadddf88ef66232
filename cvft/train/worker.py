"""The worker: one process per rank that carries out a plan with ms-swift and ends.

`python -m cvft.train.worker RUN/plan.json`, started by `cvft.train.launch` with the plan's environment, directly or
through torch.distributed.run. Each training is a process of its own because ms-swift keeps state between runs of one process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cvft.errors import EXIT_USER_ERROR, CvftError, Problem, RunError, quote
from cvft.plan.plan import Plan
from cvft.runs import ERROR_HEADLINE, START_HEADLINE, RunFolder
from cvft.train.stop import STOP_FILE, StopSignals, die_with_parent

if TYPE_CHECKING:
    from cvft.clips.source import CachedClips


def main(argv: list[str]) -> None:
    """Trains as a plan says.

    Args:
        argv: The plan's file.
    """
    (plan_file,) = argv
    die_with_parent()
    plan = Plan.from_json(Path(plan_file).read_text(encoding="utf-8"))
    if plan.num_ranks > 1:
        _write_to_own_log(RunFolder(plan.run_dir).rank_log(int(os.environ["RANK"])))
    signals = StopSignals(num_ranks=plan.num_ranks)
    try:
        _check_ranks(plan)
        _train(plan, signals=signals)
    except CvftError as error:
        print(f"{ERROR_HEADLINE}\n{error}", file=sys.stderr, flush=True)
        # no clean-up: it would wait for ranks that wait for this one
        os._exit(EXIT_USER_ERROR)


def _write_to_own_log(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(log, f"{START_HEADLINE}\n".encode())
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())


def _check_ranks(plan: Plan) -> None:
    got = int(os.environ.get("WORLD_SIZE", "1"))
    if got != plan.num_ranks:
        hint = "all nodes need the same number of GPUs and the same recipe"
        raise RunError("the ranks", [Problem("number of ranks", quote(got), quote(plan.num_ranks), hint)])


def _train(plan: Plan, *, signals: StopSignals) -> None:
    # imported here: a data loader that starts by spawning imports this module again, and must not load ms-swift twice
    from swift import SftArguments, sft_main

    from cvft.train.swift_plugin import register

    features = None
    if plan.features is not None:
        features = _provide_features(plan, signals=signals)
        if features is None:
            return
    register(plan, features=features, signals=signals)
    if plan.strategy.startswith("zero"):
        _prepare_deepspeed(plan)
    sft_main(SftArguments(**plan.swift_arguments))


def _provide_features(plan: Plan, *, signals: StopSignals) -> CachedClips | None:
    from cvft.clips.provide import provide_features

    folder = RunFolder(plan.run_dir)
    rank = int(os.environ.get("RANK", "0"))
    stop_file = folder.train / STOP_FILE

    def tell(done: int, total: int) -> None:
        if rank == 0:
            with folder.progress_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time_s": time.time(), "encoded": done, "num_clips": total}) + "\n")

    def must_stop() -> bool:
        if signals.asked:
            stop_file.touch()  # tells the launcher why there will be no training
        return stop_file.exists()

    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if plan.device == "cuda" else "cpu"
    return provide_features(plan, rank=rank, device=device, tell=tell, must_stop=must_stop)


def _prepare_deepspeed(plan: Plan) -> None:
    import deepspeed

    if not plan.swift_arguments["use_cpu"]:
        return
    # the shared-memory operator would be compiled now, which needs a C++ compiler; gloo does without it
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if plan.strategy == "zero3":
        # ms-swift opens the configuration before it has counted the ranks
        deepspeed.init_distributed("gloo")


if __name__ == "__main__":
    main(sys.argv[1:])
