"""The folder of a reader who has done what the pages say: rows, clips, a recipe and its finished run, under the pages' names."""

import json
import re
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from cvft.shipped import SHIPPED
from tests.docs_pages import README, ROOT, blocks_of
from tests.fixtures_video import draw_number, make_clip
from tests.project import ROWS, write_jsonl
from tests.real_clips import real_clip
from tests.trained import copy_of_trained_project

RENAMED = ("recipe.yaml", "adapter/recipe.yaml", "merged/recipe.yaml")


def make_docs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with everything that commands and Python blocks of the pages name."""
    folder = copy_of_trained_project(tmp_path_factory).parent
    run = folder / "runs" / "my"
    (folder / "runs" / "small").rename(run)
    (folder / "small.yaml").rename(folder / "my.yaml")
    (folder / "my").mkdir()
    for name in ("train.jsonl", "val.jsonl"):  # the run's own; commands may write over those beside the recipe
        shutil.copy(folder / name, folder / "my" / name)
    for path in (folder / "my.yaml", *(run / name for name in RENAMED)):
        text = re.sub(r"(train|val)\.jsonl", r"my/\1.jsonl", path.read_text())
        path.write_text(text.replace("name: small", "name: my"))
    for link in filter(Path.is_symlink, (run / "model_view").iterdir()):  # relative to where the run was made
        link.unlink()
        link.symlink_to(SHIPPED["tiny"].folder / link.name)
    for name in ("first", "second"):
        (folder / "runs" / name).symlink_to(run)
    (folder / "runs" / "tiny_cpu").symlink_to(run)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "moved").symlink_to(SHIPPED["tiny"].folder)
    for name in ("recipes", "benchmarks", "datasets", "docs"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "readme.yaml").write_text(blocks_of(README, "yaml")[0])  # the page's own, for a model that is not here
    make_clips(folder)
    rows = [row | ({"videos": ["clip.mp4"]} if "videos" in row else {}) for row in ROWS]
    write_jsonl(folder / "rows.jsonl", rows)
    write_jsonl(folder / "test.jsonl", rows[:2])
    talks = [{"conversations": [{"from": "human", "value": "<video>Who?"}, {"from": "gpt", "value": "A man."}]}]
    (folder / "old.json").write_text(json.dumps([talk | {"videos": ["clip.mp4"]} for talk in talks]))
    table = pyarrow.Table.from_pylist([talk | {"video": "clip.mp4"} for talk in talks])
    pyarrow.parquet.write_table(table, folder / "old.parquet")
    return folder


def make_clips(folder: Path) -> None:
    """Writes `clip.mp4`, a film of more than two minutes, and folders of clips and of frames."""
    (folder / "clips").mkdir()
    for name in ("clip.mp4", "a.mp4", "b.mp4", "clips/hall.mp4"):
        shutil.copy(real_clip("bikes.mp4"), folder / name)
    make_clip(folder / "film.mp4", num_frames=140, fps=1, width=80, height=48)
    for frames in (folder / "f", folder / "clips" / "f"):  # as they lie here, and below what a server may show
        frames.mkdir()
        for number in (1, 2, 3):
            Image.fromarray(draw_number(number, width=80, height=48)).save(frames / f"{number}.jpg")
