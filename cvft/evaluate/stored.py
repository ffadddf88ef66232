"""Evaluations that are there, found by the name of their run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cvft.errors import Problem, RunError
from cvft.evaluate.run import Evaluation
from cvft.runs import RunFolder, read_metrics

TUNED = ("merged", "adapter")
"""Which evaluation of a run is meant where none is named: the first that is there."""


def find_evaluation(name: str) -> Evaluation | Problem:
    """Finds an evaluation.

    Args:
        name: `RUN` or `RUN:MODEL`: a run's folder, and which of its evaluations (`base`, `merged`, or any other folder of
            RUN/eval). Without one, the merged model's, else the adapter's.

    Returns:
        The evaluation, or what is wrong with the name.

    Raises:
        RunError: when its metrics are not what an evaluation wrote.
    """
    path, _, model = name.rpartition(":") if not Path(name).is_dir() and ":" in name else (name, "", "")
    folder = RunFolder(Path(path).absolute())
    candidates = (model,) if model else TUNED
    for candidate in candidates:
        stored = read_metrics(folder.evaluation(candidate))
        if stored is not None:
            return Evaluation(folder.evaluation(candidate), dict(stored["metrics"]))
    there = sorted(each.name for each in folder.eval.iterdir()) if folder.eval.is_dir() else []
    hint = f"evaluated there: {', '.join(there)}" if there else f"run `cvft eval {path} --model {candidates[0]}` first"
    return Problem(name, "no evaluation", f"a run's folder with eval/{' or eval/'.join(candidates)}", hint)


def find_evaluations(names: Sequence[str], *, subject: str) -> dict[str, Evaluation]:
    """Finds evaluations by their names; see `find_evaluation`.

    Raises:
        RunError: with every name that leads to none.
    """
    found = {name: find_evaluation(name) for name in names}
    problems = [each for each in found.values() if isinstance(each, Problem)]
    if problems:
        raise RunError(subject, problems)
    return {name: each for name, each in found.items() if isinstance(each, Evaluation)}
