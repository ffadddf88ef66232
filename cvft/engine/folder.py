"""The run folder: where everything of a run lies, and which recipe it belongs to.

runs/<name>/  recipe.yaml  plan.json  manifest.json  data/  train/  adapter/  merged/  eval/  report.html

A folder belongs to one recipe. The same recipe continues in it; another one is refused, never mixed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cvft.data.files import write_text_atomically
from cvft.errors import CvftError, Problem, RunError, quote
from cvft.recipe import LoadedRecipe, dump_recipe, load_recipe, weights_fingerprint

COMPLETE_MARK = "cvft_complete.json"
"""Written into a checkpoint after everything else, so that a half-written one is never resumed from."""

PROGRESS_FILE = "progress.jsonl"
"""Under `train/`: the worker's steps and losses, one JSON object per line, for the launcher's progress bar."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run.

    Args:
        path: The run's folder, absolute.
    """

    path: Path

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe, every setting stated."""
        return self.path / "recipe.yaml"

    @property
    def plan_file(self) -> Path:
        """What the worker carries out."""
        return self.path / "plan.json"

    @property
    def manifest_file(self) -> Path:
        """Versions, hashes and device of the run."""
        return self.path / "manifest.json"

    @property
    def data(self) -> Path:
        """The rows that really train and evaluate."""
        return self.path / "data"

    @property
    def train_rows(self) -> Path:
        """Rows to train on."""
        return self.data / "train.jsonl"

    @property
    def val_rows(self) -> Path:
        """Rows held out; absent when there are none."""
        return self.data / "val.jsonl"

    @property
    def model_view(self) -> Path:
        """Clean view of the base model's folder."""
        return self.path / "model_view"

    @property
    def train(self) -> Path:
        """ms-swift's output: logging.jsonl, checkpoints, TensorBoard."""
        return self.path / "train"

    @property
    def adapter(self) -> Path:
        """The trained adapter with its contract."""
        return self.path / "adapter"

    @property
    def merged(self) -> Path:
        """Base and adapter as one model folder."""
        return self.path / "merged"

    @property
    def eval(self) -> Path:
        """Predictions and metrics."""
        return self.path / "eval"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"


def claim_run_folder(loaded: LoadedRecipe) -> RunFolder:
    """Makes a recipe's run folder, or takes up the one that it has.

    Args:
        loaded: The recipe.

    Returns:
        The folder, holding the recipe's snapshot.

    Raises:
        RunError: when the folder belongs to a recipe that would train other weights, or to no recipe at all.
    """
    folder = RunFolder(loaded.recipe.run_dir.absolute())
    subject = f"run folder {loaded.recipe.run_dir}"
    hint = "give this run a name of its own (name=...), or remove the folder"
    if folder.recipe_file.is_file():
        try:
            earlier = load_recipe(folder.recipe_file).recipe
        except CvftError as error:
            problem = Problem("recipe.yaml", "a recipe that does not load", "the snapshot that cvft wrote", hint)
            raise RunError(subject, [problem]) from error
        if weights_fingerprint(earlier) != weights_fingerprint(loaded.recipe):
            changed = ", ".join(quote(path) for path in differing_settings(earlier.to_dict(), loaded.recipe.to_dict()))
            need = "the settings that this folder was trained with"
            raise RunError(subject, [Problem(changed, "another value", need, hint)])
    elif folder.path.is_dir() and any(folder.path.iterdir()):
        raise RunError(
            subject, [Problem("folder", "files that no run of cvft wrote", "an empty or absent folder", hint)]
        )
    folder.path.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder.recipe_file, dump_recipe(loaded.recipe))
    return folder


def differing_settings(first: dict[str, object], second: dict[str, object], *, prefix: str = "") -> list[str]:
    """Returns the key paths at which two recipes' values differ, `name` and `output` left out."""
    paths: list[str] = []
    for key, value in first.items():
        path = f"{prefix}{key}"
        if path in ("name", "output"):
            continue
        other = second.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            paths += differing_settings(value, other, prefix=f"{path}.")
        elif value != other:
            paths.append(path)
    return paths
