"""The recipes that ship: each is planned as its head says, and trains at small size on folders in the published form."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cvft.recipe import load_recipe
from tests.official_folder import small_config, write_official_folder
from tests.project import ROWS, cvft_ok, with_real_clips, write_jsonl

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from recipe_plans import PLAN_LINE, RECIPES, Workbench  # noqa: E402 - a script beside the package

ONE_MACHINE = ("parallel.num_nodes=1", "parallel.rendezvous=null")


@pytest.fixture(scope="module")
def workbench(tmp_path_factory) -> Workbench:
    return Workbench(tmp_path_factory.mktemp("plans"))


def test_every_recipe_but_the_demo_states_its_plan():
    assert {path for path in (ROOT / "recipes").glob("*.yaml") if path not in RECIPES} == {
        ROOT / "recipes" / "tiny_cpu.yaml"
    }


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_plan_in_the_head_is_what_cvft_plans(workbench, recipe):
    assert PLAN_LINE.search(recipe.read_text(encoding="utf-8"))[0] == workbench.plan_line(recipe)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[Path, Path]:
    """Run folders of all recipes, each trained for a step; two at a time, since most of it is imports."""
    folder = tmp_path_factory.mktemp("small")
    small = write_official_folder(folder / "mock", config=small_config(hidden_size=128, intermediate_size=256), seed=0)
    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(
            zip(
                RECIPES, pool.map(lambda recipe: train_small(recipe, folder / recipe.stem, small), RECIPES), strict=True
            )
        )


def train_small(recipe: Path, folder: Path, small: Path) -> Path:
    loaded = load_recipe(recipe).recipe
    folder.mkdir()
    model = folder / Path(loaded.model.path).name
    model.symlink_to(small)
    rows = [row for row in ROWS if "history" not in row]  # the base template has no place for it
    train = write_jsonl(folder / "train.jsonl", with_real_clips(rows * 8))
    val = write_jsonl(folder / "val.jsonl", with_real_clips(rows[:2]))
    overrides = [
        f"model.path={model}",
        f"data.train={train}",
        f"data.val={val}",
        "data.val_fraction=null",
        "video.max_frames=2",
        "train.epochs=null",
        "train.max_steps=1",
        "parallel.device=cpu",
        f"output.root={folder / 'runs'}",
    ]
    if loaded.parallel.num_nodes > 1:
        overrides += ONE_MACHINE
    if loaded.parallel.strategy != "single":
        overrides += ["parallel.num_gpus=2"]
    cvft_ok("train", recipe, *overrides)
    return folder / "runs" / recipe.stem


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_trains_at_small_size(runs, recipe):
    plan = json.loads((runs[recipe] / "plan.json").read_text())
    assert plan["worker"]["preprocessing"]["template"] == ("base" if "base" in recipe.stem else "chat")
    assert plan["worker"]["loading"]["quantize"] == ("nf4" if "qlora" in recipe.stem else "none")
    assert (runs[recipe] / "adapter" / "adapter_model.safetensors").is_file()
