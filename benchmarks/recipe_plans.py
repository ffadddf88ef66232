"""Writes what `cvft plan` says into the heads of the recipes for real hardware: `python benchmarks/recipe_plans.py`.

Each recipe names its GPU in its `# Plan` line. It is planned over a folder of the published form (sparse: no weights are read)
and clips of 24 seconds with questions and answers of random words. Memory and time are a model's, not measurements.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from job import ROOT
from workload import make_rows

sys.path.insert(0, str(ROOT))

from cvft.plan.forecast import Forecast, forecast
from cvft.plan.gpus import find_gpu
from cvft.recipe import load_recipe
from tests.official_folder import write_official_folder

RECIPES = tuple(path for path in sorted((ROOT / "recipes").glob("*.yaml")) if "# Plan" in path.read_text("utf-8"))
PLAN_LINE = re.compile(r"^# Plan     (?P<gpu>[^:\n]+?)(?: x \d+)?(?::.*)?$", re.MULTILINE)

NUM_CLIPS = 16
ROWS_PER_CLIP = {"cogvlm2_caption_lora": 1, "visionreward_video_lora": 29}
"""How many questions a clip has; 8 elsewhere. VisionReward-Video's own list has 29 per clip at the least (an assumption)."""
ANSWER_WORDS = {"cogvlm2_caption_lora": (150, 250), "visionreward_video_lora": (1, 1)}


def main() -> None:
    """Plans every recipe and rewrites its line."""
    with tempfile.TemporaryDirectory() as name:
        workbench = Workbench(Path(name))
        for path in RECIPES:
            line = workbench.plan_line(path)
            text = path.read_text(encoding="utf-8")
            path.write_text(PLAN_LINE.sub(lambda _, line=line: line, text), encoding="utf-8")
            print(f"{path.name}\n  {line}")


class Workbench:
    """A folder with the mock of the checkpoint and rows of each kind.

    Args:
        folder: Where they go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_official_folder(folder / "mock")

    def plan_line(self, path: Path) -> str:
        """Returns the line that a recipe's head should have."""
        match = PLAN_LINE.search(path.read_text(encoding="utf-8"))
        assert match, path
        gpu = find_gpu(match["gpu"])
        assert gpu, match["gpu"]
        rows_per_clip = ROWS_PER_CLIP.get(path.stem, 8)
        planned = self.plan(path, gpu.name, rows_per_clip=rows_per_clip)
        assert not planned.refused, (path, planned.refused)
        assert planned.memory_bytes
        assert planned.epoch_s
        num_ranks = planned.ranks.num
        activations = "recomputed" if planned.plan.swift["gradient_checkpointing"] else "kept"
        questions = "1 question" if rows_per_clip == 1 else f"{rows_per_clip} questions"
        return (
            f"# Plan     {gpu.name}{f' x {num_ranks}' if num_ranks > 1 else ''}: {planned.memory.peak / 1e9:.1f} of "
            f"{planned.memory_bytes / 1e9:.1f} GB, activations {activations}, "
            f"{len(planned.prepared.row_facts.train) / planned.epoch_s:.1f} rows/s at {questions} per clip; a model, not measured"
        )

    def plan(self, path: Path, gpu: str, *, rows_per_clip: int) -> Forecast:
        """Plans a recipe over the mock."""
        recipe = load_recipe(path).recipe
        model = self.folder / Path(recipe.model.path).name
        if not model.exists():
            model.symlink_to("mock")
        rows = self.folder / f"rows-{rows_per_clip}"
        if not rows.exists():
            words = ANSWER_WORDS.get(path.stem, (20, 80))
            make_rows(
                rows, num_clips=NUM_CLIPS, rows_per_clip=rows_per_clip, question_words=(8, 20), answer_words=words
            )
        overrides = [
            f"model.path={model}",
            f"data.train={rows / 'rows.jsonl'}",
            "data.val_fraction=0",
            f"output.root={self.folder / 'runs'}",
        ]
        if recipe.parallel.num_nodes > 1:
            overrides.append("parallel.node_rank=0")
        return forecast(load_recipe(path, overrides=overrides), gpu_name=gpu)


if __name__ == "__main__":
    main()
