"""The worker: one process per rank that carries out a plan with ms-swift and ends.

`python -m cvft.engine.worker RUN/plan.json`, started by `cvft.engine.launch` with the plan's environment. Each training
is a process of its own because ms-swift keeps state between runs of one process.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(argv: list[str]) -> None:
    """Trains as a plan says.

    Args:
        argv: The plan's file.
    """
    (plan_file,) = argv
    # imported here: a data loader that starts by spawning imports this module again, and must not load ms-swift twice
    from swift import SftArguments, sft_main

    from cvft.engine.plan import Plan
    from cvft.engine.swift_plugin import register

    plan = Plan.from_json(Path(plan_file).read_text(encoding="utf-8"))
    register(plan)
    sft_main(SftArguments(**plan.swift_arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
