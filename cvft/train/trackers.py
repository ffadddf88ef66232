"""Trackers of experiments, each behind the same four calls. A process of its own uses one; see `cvft.train.track_main`.

Nothing is imported before it is used. Addresses, projects and keys come from the environment, which each package reads itself;
`cvft.plan.environment.tracker_environment` says what it finds there where a shell says nothing.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

ANSWER_COLUMNS = ("line", "query", "expected", "prediction", "is_exact_match")
"""What is sent of an answer to a val row."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run.

    Args:
        name: Its name.
        id: What it is known by, over all its starts.
        settings: Its recipe: key path -> value.
    """

    name: str
    id: str
    settings: Mapping[str, Any] = field(default_factory=dict)


class Tracker(Protocol):
    """What is asked of a tracker; each call may raise whatever its package does."""

    def start(self, run: TrackedRun) -> str:
        """Begins a run, or goes on with it; returns where it can be looked at, or an empty text."""

    def log(self, numbers: Mapping[str, float], *, step: int) -> None:
        """Sends numbers of a step."""

    def show(self, answers: Sequence[Sequence[Any]], *, step: int) -> None:
        """Sends answers of a step, in the columns of `ANSWER_COLUMNS`."""

    def finish(self) -> None:
        """Ends the run, once all is sent."""


class WandbTracker:
    """Weights & Biases."""

    def start(self, run: TrackedRun) -> str:
        """See `Tracker`."""
        self._wandb: Any = importlib.import_module("wandb")
        self._run = self._wandb.init(name=run.name, id=run.id, resume="allow", config=dict(run.settings))
        return self._run.url or ""

    def log(self, numbers: Mapping[str, float], *, step: int) -> None:
        """See `Tracker`."""
        self._run.log(dict(numbers), step=step)

    def show(self, answers: Sequence[Sequence[Any]], *, step: int) -> None:
        """See `Tracker`."""
        table = self._wandb.Table(columns=list(ANSWER_COLUMNS), data=[list(row) for row in answers])
        self._run.log({"answers": table}, step=step)

    def finish(self) -> None:
        """See `Tracker`."""
        self._run.finish()


class SwanlabTracker:
    """SwanLab."""

    def start(self, run: TrackedRun) -> str:
        """See `Tracker`."""
        self._swanlab: Any = importlib.import_module("swanlab")
        self._swanlab.init(name=run.name, id=run.id, resume="allow", config=dict(run.settings))
        return ""

    def log(self, numbers: Mapping[str, float], *, step: int) -> None:
        """See `Tracker`."""
        self._swanlab.log(dict(numbers), step=step)

    def show(self, answers: Sequence[Sequence[Any]], *, step: int) -> None:
        """See `Tracker`."""
        texts = [self._swanlab.Text(str(said), caption=f"{query} -> {right}") for _, query, right, said, _ in answers]
        self._swanlab.log({"answers": texts}, step=step)

    def finish(self) -> None:
        """See `Tracker`."""
        self._swanlab.finish()


class TrackioTracker:
    """Trackio: the machine's own dashboard, unless the environment names a space or a server."""

    def start(self, run: TrackedRun) -> str:
        """See `Tracker`."""
        self._trackio: Any = importlib.import_module("trackio")
        project = os.environ["TRACKIO_PROJECT"]
        self._trackio.init(project=project, name=run.name, config=dict(run.settings), resume="allow", embed=False)
        return ""

    def log(self, numbers: Mapping[str, float], *, step: int) -> None:
        """See `Tracker`."""
        self._trackio.log(dict(numbers), step=step)

    def show(self, answers: Sequence[Sequence[Any]], *, step: int) -> None:
        """See `Tracker`."""
        table = self._trackio.Table(columns=list(ANSWER_COLUMNS), data=[list(row) for row in answers])
        self._trackio.log({"answers": table}, step=step)

    def finish(self) -> None:
        """See `Tracker`."""
        self._trackio.finish()


class MlflowTracker:
    """MLflow."""

    def start(self, run: TrackedRun) -> str:
        """See `Tracker`."""
        self._mlflow: Any = importlib.import_module("mlflow")
        experiment = self._mlflow.set_experiment(os.environ["MLFLOW_EXPERIMENT_NAME"])
        earlier = self._mlflow.search_runs(
            [experiment.experiment_id], f"tags.cvft_id = '{run.id}'", max_results=1, output_format="list"
        )
        if earlier:
            self._mlflow.start_run(run_id=earlier[0].info.run_id)
        else:
            self._mlflow.start_run(run_name=run.name, tags={"cvft_id": run.id})
            self._mlflow.log_params({key: str(value)[:MLFLOW_MAX_CHARS] for key, value in run.settings.items()})
        return ""

    def log(self, numbers: Mapping[str, float], *, step: int) -> None:
        """See `Tracker`."""
        self._mlflow.log_metrics({key: value for key, value in numbers.items()}, step=step)

    def show(self, answers: Sequence[Sequence[Any]], *, step: int) -> None:
        """See `Tracker`."""
        rows = [dict(zip(ANSWER_COLUMNS, row, strict=True)) for row in answers]
        self._mlflow.log_dict({"step": step, "answers": rows}, f"answers/step-{step}.json")

    def finish(self) -> None:
        """See `Tracker`."""
        self._mlflow.end_run()


MLFLOW_MAX_CHARS = 500
"""Longest parameter that every version of MLflow's servers takes."""

TRACKERS: dict[str, type[Tracker]] = {
    "wandb": WandbTracker,
    "swanlab": SwanlabTracker,
    "trackio": TrackioTracker,
    "mlflow": MlflowTracker,
}
"""By their names in `train.report_to`, which are those of their packages; TensorBoard's files are written by the worker."""
