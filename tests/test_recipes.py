"""The recipes that ship: each is planned as its head says; one of each kind trains a step on a small folder of its family.

What a step at small size can show of a recipe is its `Kind`. Sizes, budgets of frames and lengths of training are what the plan
shows; each generation of a family's models trains in the tests of that family.
"""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from cvft.families.family import Family
from cvft.families.table import FAMILIES, known_checkpoints
from cvft.recipe import load_recipe
from cvft.weights.checkpoints import Checkpoint, find_checkpoint
from tests.official_folder import CONFIG, write_official_folder
from tests.project import HANG_S, ROWS, with_real_clips, write_jsonl
from tests.qwen_tiny import make_qwen_folder
from tests.tiny import TINY

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from recipe_plans import PLAN_LINE, RECIPES, Workbench  # noqa: E402 - a script beside the package


class Kind(NamedTuple):
    """What a step at small size can show of a recipe: which code runs the model, and how."""

    runtime: str
    template: str
    quantize: str
    strategy: str
    has_several_nodes: bool


def checkpoint_of(path: Path) -> Checkpoint:
    checkpoint = find_checkpoint(load_recipe(path).recipe.model.path, known_checkpoints())
    assert checkpoint, path
    return checkpoint


def family_of(path: Path) -> Family:
    (family,) = (family for family in FAMILIES if checkpoint_of(path) in family.checkpoints)
    return family


def kind_of(path: Path) -> Kind:
    model, parallel = (getattr(load_recipe(path).recipe, name) for name in ("model", "parallel"))
    template = checkpoint_of(path).template
    return Kind(family_of(path).runtime, template, model.quantize, parallel.strategy, parallel.num_nodes > 1)


REPRESENTATIVES = {kind_of(path): path for path in reversed(RECIPES)}
"""The first recipe of each kind."""


@pytest.fixture(scope="module")
def workbench(tmp_path_factory) -> Workbench:
    return Workbench(tmp_path_factory.mktemp("plans"))


def test_every_recipe_but_the_demos_states_its_plan():
    without = {path.stem for path in (ROOT / "recipes").glob("*.yaml")} - {path.stem for path in RECIPES}
    assert without == {"tiny_cpu", "tiny_qwen3_vl"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_plan_in_the_head_is_what_cvft_plans(workbench, recipe):
    assert PLAN_LINE.search(recipe.read_text(encoding="utf-8"))[0] == workbench.plan_line(recipe)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_what_is_planned_leaves_a_tenth_of_the_memory(workbench, recipe):
    planned = workbench.plan(recipe)
    assert planned.memory.peak <= 0.9 * planned.memory_bytes


SMALL_WIDTHS = {"hidden_size": 128, "intermediate_size": 256}
"""Multiples of 64, in blocks of which 4 bits are packed."""


def write_small_cogvlm2(folder: Path) -> Path:
    """Shards and files in the published form, with the vocabulary of the tiny model: 128,256 tokens would be half of the time."""
    config = {**json.loads((TINY / "config.json").read_text()), **SMALL_WIDTHS}
    config |= {
        key: CONFIG[key] for key in ("architectures", "template_version")
    }  # the template follows from the folder's name
    del config["model_type"]
    write_official_folder(folder, config=config, seed=0)
    for file in (*TINY.glob("*token*.json"), TINY / "generation_config.json"):
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """A small model of each family that trains, by the family's name."""
    folder, models = tmp_path_factory.mktemp("models"), {}
    for name in set(family_of(path).name for path in REPRESENTATIVES.values()):
        if name == "cogvlm2_video":
            models[name] = write_small_cogvlm2(folder / name)
        else:
            models[name] = make_qwen_folder(folder / name, name, intermediate_size=128)
    return models


def train_small(recipe: Path, kind: Kind, folder: Path, small: Path) -> Path:
    """Trains a step; a recipe of several nodes on as many commands of this machine, which meet as machines do."""
    folder.mkdir()
    loaded = load_recipe(recipe).recipe
    model = folder / Path(loaded.model.path).name  # the first family's template follows from the name
    model.symlink_to(small)
    rows = [row for row in ROWS if "history" not in row]  # the base template has no place for it
    overrides = [
        f"model.path={model}",
        f"data.train={write_jsonl(folder / 'train.jsonl', with_real_clips(rows * 4))}",
        f"data.val={write_jsonl(folder / 'val.jsonl', with_real_clips(rows[:2]))}",
        "data.val_fraction=null",
        "video.max_frames=4",
        "train.epochs=null",
        "train.max_steps=1",
        "parallel.device=cpu",
        f"output.root={folder / 'runs'}",
    ]
    commands = [overrides]
    if kind.has_several_nodes:
        with socket.create_server(("127.0.0.1", 0)) as server:
            overrides += [f"parallel.rendezvous=127.0.0.1:{server.getsockname()[1]}", "parallel.num_gpus=1"]
        commands = [[*overrides, f"parallel.node_rank={rank}"] for rank in range(loaded.parallel.num_nodes)]
    elif kind.strategy != "single":
        overrides += ["parallel.num_gpus=2"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "cvft", "train", str(recipe), *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    said = [process.communicate(timeout=HANG_S)[1] for process in processes]
    assert not any(process.returncode for process in processes), said
    return folder / "runs" / recipe.stem


def is_trained_elsewhere(kind: Kind) -> bool:
    """Tests of ranks and families train the plain kinds, also under ZeRO-2; those of quantizing, the first family in 4 bits."""
    is_plain = (kind.template, kind.quantize, kind.has_several_nodes) == ("chat", "none", False)
    return is_plain or (kind.quantize == "nf4" and "cogvlm2_video" in kind.runtime)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.long] * is_trained_elsewhere(kind)) for kind in REPRESENTATIVES],
    ids=[recipe.stem for recipe in REPRESENTATIVES.values()],
)
def test_one_recipe_of_each_kind_trains_at_small_size(models, kind, tmp_path):
    recipe = REPRESENTATIVES[kind]
    family = family_of(recipe).name
    run = train_small(recipe, kind, tmp_path / recipe.stem, models[family])
    worker = json.loads((run / "plan.json").read_text())["worker"]
    assert worker["family"] == family
    assert worker["preprocessing"]["template"] == kind.template
    assert worker["loading"]["quantize"] == kind.quantize
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
