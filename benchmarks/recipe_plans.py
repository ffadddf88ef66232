"""Writes what `cvft plan` says into the heads of the recipes for real hardware: `python benchmarks/recipe_plans.py`.

Each recipe names its GPU in its `# Plan` line. It is planned over clips with questions and answers of random words. Where one
states a rate and a number of frames, clips are so long and so large that they take all the frames and tokens that they may;
elsewhere they have 24 seconds. Memory and time are a model's, not measurements.

No weights are read. CogVLM2-Video is there as a folder of the published form (sparse). Qwen's checkpoints are planned from what
cvft knows of them, as for somebody who has not downloaded them: tokens of clips are exact, those of texts estimated.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

from job import ROOT
from workload import make_rows

sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client

from cvft.families.cogvlm2_video.checkpoints import PUBLISHED
from cvft.plan.forecast import Forecast, forecast
from cvft.recipe import load_recipe
from tests.official_folder import write_official_folder

RECIPES = tuple(path for path in sorted((ROOT / "recipes").glob("*.yaml")) if "# Plan" in path.read_text("utf-8"))
PLAN_LINE = re.compile(r"^# Plan     (?P<gpu>[^:\n]+?)(?: x \d+)?(?::.*)?$", re.MULTILINE)

NUM_CLIPS = 8
CLIP_S = 24
CLIP_FPS, CLIP_SIZE_PX = 2, (640, 480)
"""No more frames than are looked at, and more pixels than the tokens of any recipe hold."""
ROWS_PER_CLIP = {"cogvlm2_caption_lora": 1, "visionreward_video_lora": 29}
"""How many questions a clip has; 8 elsewhere. VisionReward-Video's own list has 29 per clip at the least (an assumption)."""
ANSWER_WORDS = {"cogvlm2_caption_lora": (150, 250), "visionreward_video_lora": (1, 1)}
NOWHERE = "0" * 40
"""A commit that no cache holds: a checkpoint that was downloaded here is planned like everywhere."""


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
    """A folder with the mock of the first family's checkpoint and rows of each kind.

    Args:
        folder: Where they go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.planned: dict[Path, Forecast] = {}
        write_official_folder(folder / "mock")

    def plan_line(self, path: Path) -> str:
        """Returns the line that a recipe's head should have."""
        planned = self.plan(path)
        assert not planned.refused, (path, planned.refused)
        assert planned.memory_bytes
        assert planned.memory
        assert planned.epoch_s
        assert planned.gpu
        rows, num_ranks = planned.prepared.row_facts.train, planned.ranks.num
        activations = "recomputed" if planned.plan.swift["gradient_checkpointing"] else "kept"
        rows_per_clip, clip_tokens = len(rows) // NUM_CLIPS, max(sum(row.num_clip_tokens) for row in rows)
        return (
            f"# Plan     {planned.gpu.name}{f' x {num_ranks}' if num_ranks > 1 else ''}: {planned.memory.peak / 1e9:.1f} of "
            f"{planned.memory_bytes / 1e9:.1f} GB, activations {activations}, {len(rows) / planned.epoch_s:.1f} rows/s "
            f"at {rows_per_clip} question{'s' * (rows_per_clip > 1)} per clip of {clip_tokens:,} tokens; "
            "a model, not measured"
        )

    def plan(self, path: Path) -> Forecast:
        """Plans a recipe, once."""
        if path not in self.planned:
            match = PLAN_LINE.search(path.read_text(encoding="utf-8"))
            assert match, path
            self.planned[path] = forecast(load_recipe(path, overrides=self._overrides(path)), gpu_name=match["gpu"])
        return self.planned[path]

    def _overrides(self, path: Path) -> list[str]:
        recipe = load_recipe(path).recipe
        name = Path(recipe.model.path).name
        model = f"model.revision={NOWHERE}"
        if name in {checkpoint.name for checkpoint in PUBLISHED}:
            model = f"model.path={self.folder / name}"
            if not (self.folder / name).exists():
                (self.folder / name).symlink_to("mock")
        return [
            model,
            f"data.train={self._rows_for(path)}",
            "data.val_fraction=0",
            f"output.root={self.folder / 'runs'}",
            *(["parallel.node_rank=0"] if recipe.parallel.num_nodes > 1 else []),
        ]

    def _rows_for(self, path: Path) -> Path:
        video, rows_per_clip = load_recipe(path).recipe.video, ROWS_PER_CLIP.get(path.stem, 8)
        clip_s = int(video.max_frames / video.fps) if video.max_frames and video.fps else CLIP_S
        folder = self.folder / f"rows-{rows_per_clip}-{clip_s}"
        if not folder.exists():
            make_rows(
                folder,
                num_clips=NUM_CLIPS,
                rows_per_clip=rows_per_clip,
                clip_s=clip_s,
                clip_fps=CLIP_FPS,
                size_px=CLIP_SIZE_PX,
                question_words=(8, 20),
                answer_words=ANSWER_WORDS.get(path.stem, (20, 80)),
            )
        return folder / "rows.jsonl"


if __name__ == "__main__":
    main()
