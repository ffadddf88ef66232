"""`lora.train_projector: full`: the projector's own weights are trained, kept exactly, merged bit for bit and loaded again."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cvft.errors import ModelError, VerifyError
from cvft.export.tensors import compare_tensors
from cvft.families.adapter_file import ADAPTER_CONFIG_FILE, PREFIX, read_adapter
from cvft.families.cogvlm2_video.tensors import PARTS, published_shapes
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE
from tests.project import ROWS, cvft, cvft_ok, make_project, with_real_clips
from tests.random_adapter import base_of, write_random_adapter
from tests.test_export_merge import merge
from tests.tiny import TINY

PROJECTOR = "model.vision.linear_proj"
LORA = {"targets": "qkv", "train_projector": "full"}
CONFIG = json.loads((TINY / "config.json").read_text())
SHAPES = published_shapes(CONFIG)
WANTED = {name: shape for name, shape in SHAPES.items() if name.startswith(f"{PROJECTOR}.")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A recipe in bf16 whose run is whole."""
    recipe = make_project(
        tmp_path_factory.mktemp("projector"),
        model={"dtype": "bf16"},
        lora=LORA,
        eval={"compare_base": False, "max_new_tokens": 2},
    )
    before = (TINY / "model.safetensors").read_bytes()
    assert "verified" in cvft_ok("run", recipe).stdout
    assert (TINY / "model.safetensors").read_bytes() == before
    return recipe


def run_folder(recipe: Path, name: str = "small") -> Path:
    return recipe.parent / "runs" / name


def weights_of(recipe: Path, name: str = "small") -> dict[str, torch.Tensor]:
    return load_file(run_folder(recipe, name) / "adapter" / ADAPTER_WEIGHTS_FILE)


def projector_of(recipe: Path, name: str = "small") -> dict[str, torch.Tensor]:
    weights = weights_of(recipe, name)
    return {key.removeprefix(PREFIX): weight for key, weight in weights.items() if ".linear_proj." in key}


def test_the_adapter_holds_the_whole_projector_in_fp32(trained):
    base, projector = load_file(TINY / "model.safetensors"), projector_of(trained)
    assert {name: tuple(weight.shape) for name, weight in projector.items()} == WANTED
    for name, weight in projector.items():
        assert weight.dtype == torch.float32
        assert (weight != weight.bfloat16().float()).any(), name  # no bf16 copy of it was trained
        assert (weight.bfloat16() != base[name].bfloat16()).any(), name


def test_merged_weights_are_the_adapters_rounded_once(trained):
    merged = load_file(run_folder(trained) / "merged" / "model.safetensors")
    for name, weight in projector_of(trained).items():
        assert torch.equal(merged[name], weight.bfloat16()), name


def test_the_plan_counts_what_is_trained(trained):
    plan = json.loads(cvft_ok("plan", trained, "name=planned", "--json").stdout)
    assert plan["parameters"]["trained"] == sum(weight.numel() for weight in weights_of(trained).values())
    num_whole = sum(math.prod(shape) for shape in WANTED.values())
    without = json.loads(cvft_ok("plan", trained, "name=planned", "lora.train_projector=false", "--json").stdout)
    assert plan["parameters"]["trained"] - without["parameters"]["trained"] == num_whole
    # its weights, its gradient and two moments, all in fp32
    for part, num_bytes in (("adapter", 4), ("gradient", 4), ("optimizer", 8)):
        assert plan["memory_bytes"][part] - without["memory_bytes"][part] == num_bytes * num_whole, part


def test_a_run_that_goes_on_ends_with_the_same_bits(trained):
    again = run_folder(trained, "again")
    shutil.copytree(run_folder(trained), again, symlinks=True)
    for path in (again / "adapter", again / "merged", again / "train" / "checkpoint-4"):
        shutil.rmtree(path)
    assert "resume    checkpoint-2" in cvft_ok("train", trained, "name=again").stderr
    first, second = weights_of(trained), weights_of(trained, "again")
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def test_a_new_run_starts_from_its_bits(trained):
    settings = (f"train.resume_from={run_folder(trained)}", "optim.learning_rate=1e-30", "train.max_steps=1")
    cvft_ok("train", trained, "name=next", *settings)
    first, second = weights_of(trained), weights_of(trained, "next")
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def test_two_ranks_train_it_like_one(tmp_path):
    """Also where a rank has rows without a clip alone, in which nothing passes through the projector."""
    rows = with_real_clips([*ROWS[3:], {"query": "Say no.", "response": "no"}])
    recipe = make_project(
        tmp_path,
        rows=rows,
        lora={**LORA, "dropout": 0.0},
        optim={"learning_rate": 1e-4},
        train={"max_steps": 2, "micro_batch_rows": 1, "gradient_checkpointing": True},
    )
    cvft_ok("train", recipe)
    cvft_ok("train", recipe, "name=ddp", "parallel.strategy=ddp", "parallel.num_gpus=2")
    first, second = weights_of(recipe), weights_of(recipe, "ddp")
    assert first.keys() == second.keys()
    assert max(float((first[key] - second[key]).abs().max()) for key in first) <= 1e-5
    base = load_file(TINY / "model.safetensors")
    assert all((weight - base[name]).abs().max() > 5e-5 for name, weight in projector_of(recipe).items())


def test_zero3_is_refused(tmp_path):
    recipe = make_project(tmp_path, lora=LORA, parallel={"strategy": "zero3", "num_gpus": 2})
    result = cvft("train", recipe)
    assert result.returncode == 2
    assert "lora.train_projector: got `full` with `parallel.strategy` zero3, need `true` or `false`" in result.stderr


# --- adapter folders and merges with damages


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    return write_random_adapter(TINY, tmp_path_factory.mktemp("random") / "adapter", targets="qkv", projector="full")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", [f"{PROJECTOR}.norm1.bias", f"{PROJECTOR}.linear_proj.weight"])
def test_one_wrong_bit_in_the_merged_projector_is_caught(adapter, tmp_path, dtype, name):
    merged = merge(TINY, adapter, tmp_path / "merged", dtype=dtype)
    check = compare_tensors(base_of(TINY), adapter_folder=adapter, merged_folder=merged, dtype=dtype)
    assert check.num_changed == CONFIG["num_hidden_layers"] + len(WANTED)
    weights = load_file(merged / "model.safetensors")
    bits = weights[name].view(-1).view({2: torch.int16, 4: torch.int32}[weights[name].element_size()])
    bits[-1] ^= 1
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VerifyError, match=r"1 of \d+ numbers that are not the adapter's"):
        compare_tensors(base_of(TINY), adapter_folder=adapter, merged_folder=merged, dtype=dtype)


def test_a_projector_that_was_not_merged_is_caught(adapter, tmp_path):
    merged = merge(TINY, adapter, tmp_path / "merged", dtype="fp32")
    weights = load_file(merged / "model.safetensors")
    weights |= {name: load_file(TINY / "model.safetensors")[name] for name in WANTED}
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VerifyError) as raised:
        compare_tensors(base_of(TINY), adapter_folder=adapter, merged_folder=merged, dtype="fp32")
    assert {problem.where for problem in raised.value.problems} == set(WANTED)


def lack_a_tensor(weights, config):
    del weights[f"{PREFIX}{PROJECTOR}.norm1.bias"]


def give_another_shape(weights, config):
    weights[f"{PREFIX}{PROJECTOR}.norm1.bias"] = torch.zeros(7)


def say_nothing_of_it(weights, config):
    config["modules_to_save"] = None


def say_it_by_its_last_name(weights, config):
    config["modules_to_save"] = ["linear_proj"]


def say_another(weights, config):
    config["modules_to_save"] = [PROJECTOR, "lm_head"]


def say_a_number(weights, config):
    config["modules_to_save"] = 3


def hold_one_more(weights, config):
    weights[f"{PREFIX}model.vision.boi"] = torch.zeros(1, 1, 128)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lack_a_tensor, "norm1.bias: got no such tensor, need (128,), by the base and modules_to_save"),
        (give_another_shape, "norm1.bias: got `(7,)`, need (128,)"),
        (say_nothing_of_it, "unknown"),
        (say_it_by_its_last_name, "modules_to_save: got"),
        (say_another, "no other module is trained wholly"),
        (say_a_number, "modules_to_save: got"),
        (hold_one_more, "boi"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_damaged_adapter_folder_is_refused(adapter, tmp_path, damage, told):
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    whole = read_adapter(folder, parts=PARTS, shapes=SHAPES)
    assert whole.modules_to_save == (PROJECTOR,)
    assert whole.replaced.keys() == WANTED.keys()
    weights, config = load_file(folder / ADAPTER_WEIGHTS_FILE), json.loads((folder / ADAPTER_CONFIG_FILE).read_text())
    damage(weights, config)
    save_file(weights, folder / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / ADAPTER_CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(ModelError) as raised:
        read_adapter(folder, parts=PARTS, shapes=SHAPES)
    assert told in str(raised.value)
