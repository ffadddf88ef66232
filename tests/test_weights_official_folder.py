"""Folders in the published form: what is read of them, that their code never runs, and every way in which they can be unfit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cvft.errors import ModelError
from cvft.families.cogvlm2_video.family import COGVLM2_VIDEO
from cvft.families.cogvlm2_video.network.load import load_config, load_model, load_tower
from cvft.families.cogvlm2_video.network.modeling import CogVLM2VideoForCausalLM
from cvft.families.cogvlm2_video.tensors import published_shapes
from cvft.families.cogvlm2_video.tokenizer import load_encoder
from cvft.weights.folder import make_clean_view, read_config_json
from cvft.weights.shards import INDEX_FILE, read_shards
from tests.official_folder import CONFIG, small_config, write_official_folder
from tests.project import cvft, make_project
from tests.tiny import TINY

PUBLISHED_SHARDS = [
    (4976699712, 74),
    (4999803504, 91),
    (4915917160, 89),
    (4956242104, 438),
    (4115863248, 336),
    (1050673280, 1),
]
"""Bytes and number of tensors of each. Source: the listing of the caption checkpoint's repository."""


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Path:
    return write_official_folder(tmp_path_factory.mktemp("full") / "cogvlm2-video-llama3-chat")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return write_official_folder(
        tmp_path_factory.mktemp("small") / "cogvlm2-video-llama3-chat", config=small_config(), seed=0
    )


@pytest.fixture
def copy(small, tmp_path) -> Path:
    """A folder to damage; its files are links until a test replaces them."""
    shutil.copytree(small, tmp_path / "copy", copy_function=os.link)
    return tmp_path / "copy"


def test_the_mock_has_the_published_sizes(full):
    files = sorted(full.glob("*.safetensors"))
    shards = read_shards(full, published_shapes(read_config_json(full)))
    assert [(path.stat().st_size, len(shard.entries)) for path, shard in zip(files, shards, strict=True)] == (
        PUBLISHED_SHARDS
    )
    sizes = {INDEX_FILE: 100_996, "config.json": 1010, "special_tokens_map.json": 73}
    assert {name: (full / name).stat().st_size for name in sizes} == sizes


@pytest.mark.parametrize("config", [CONFIG, read_config_json(TINY)], ids=["published", "tiny"])
def test_the_listed_tensors_are_those_of_the_model(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = CogVLM2VideoForCausalLM(load_config(tmp_path))
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == published_shapes(config)


INSPECT = """
import resource, sys
from pathlib import Path
import torch
from cvft.families.cogvlm2_video.family import COGVLM2_VIDEO
from cvft.families.cogvlm2_video.network.load import load_config
from cvft.families.cogvlm2_video.tensors import PARTS, published_shapes
from cvft.weights.folder import make_clean_view, read_config_json, tower_fingerprint, weights_fingerprint
from cvft.families.cogvlm2_video.network.modeling import CogVLM2VideoForCausalLM
from cvft.families.cogvlm2_video.network.processor import CogVLM2VideoProcessor
from cvft.weights.shards import read_shards
from transformers import AutoConfig, AutoTokenizer
folder, view = map(Path, sys.argv[1:])
config = read_config_json(folder)
read_shards(folder, published_shapes(config)), weights_fingerprint(folder), tower_fingerprint(folder, PARTS.tower)
with torch.device("meta"):
    model = CogVLM2VideoForCausalLM(load_config(folder))
print(sum(parameter.numel() for parameter in model.parameters()))
print(CogVLM2VideoProcessor.from_pretrained(folder, template="chat").lay_out("Hi", time_indices=[10]).input_ids[:4])
make_clean_view(folder, view, config=COGVLM2_VIDEO.clean_config(config))
print(AutoConfig.from_pretrained(view).model_type, len(AutoTokenizer.from_pretrained(view)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_a_full_size_folder_is_inspected_in_little_memory_and_its_code_never_runs(full, tmp_path):
    command = [sys.executable, "-c", INSPECT, str(full), str(tmp_path / "view")]
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert result.returncode == 0, result.stderr
    parameters, layout, view, peak_bytes = result.stdout.splitlines()
    assert parameters == "12507530496"
    assert json.loads(layout)[:2] == [128000, 128002]
    assert view == "cogvlm2_video 128256"
    assert int(peak_bytes) < 3e9
    assert not list((tmp_path / "view").glob("*.py"))
    assert not (full / "CODE_RAN").exists()


def replace(path: Path, data: bytes) -> None:
    """Writes a file anew, so that the one it was linked to stays as it was."""
    path.unlink()
    path.write_bytes(data)


def shard(folder: Path, number: int) -> Path:
    return folder / f"model-{number:05}-of-00006.safetensors"


def edit_index(folder: Path, edit) -> None:
    index = json.loads((folder / INDEX_FILE).read_text())
    edit(index["weight_map"])
    replace(folder / INDEX_FILE, json.dumps(index).encode())


def lose_a_shard(folder):
    shard(folder, 3).unlink()


def cut_a_shard(folder):
    replace(shard(folder, 2), shard(folder, 2).read_bytes()[:-1000])


def cut_a_header(folder):
    replace(shard(folder, 2), shard(folder, 2).read_bytes()[:100])


def break_a_header(folder):
    data = shard(folder, 4).read_bytes()
    replace(shard(folder, 4), data[:8] + b"?" + data[9:])


def add_a_shard(folder):
    shutil.copyfile(shard(folder, 3), folder / "model-00007-of-00007.safetensors")


def change_a_shape(folder):
    weights = load_file(shard(folder, 3))
    name = next(name for name, tensor in weights.items() if tensor.ndim == 2)
    weights[name] = weights[name][:-1].contiguous()
    shard(folder, 3).unlink()
    save_file(weights, shard(folder, 3), metadata={"format": "pt"})


def rename_a_tensor(folder):
    weights = load_file(shard(folder, 2))
    weights["model.layers.0.mlp.vision_mlp.up_proj.weight"] = weights.pop(
        "model.layers.0.mlp.language_mlp.up_proj.weight"
    )
    shard(folder, 2).unlink()
    save_file(weights, shard(folder, 2), metadata={"format": "pt"})


def lose_the_index(folder):
    (folder / INDEX_FILE).unlink()


def break_the_index(folder):
    replace(folder / INDEX_FILE, b"{}")


def mix_up_the_index(folder):
    edit_index(folder, lambda listed: listed.update({"model.norm.weight": shard(folder, 1).name}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lose_a_shard,
            "model-00003-of-00006.safetensors: got no such file, need the shard that model.safetensors.index",
        ),
        (cut_a_shard, r"model-00002-of-00006.safetensors: got \d+ bytes, need \d+ bytes, as its header says"),
        (
            cut_a_header,
            "model-00002-of-00006.safetensors: got 100 bytes, need a safetensors file; its header alone would",
        ),
        (break_a_header, r"model-00004-of-00006.safetensors: got a broken header \(.*\), need a safetensors file"),
        (add_a_shard, "model-00007-of-00007.safetensors: got a weight file that belongs to nothing"),
        (
            change_a_shape,
            r"model-00003-of-00006.safetensors: model.layers.*got shape \[\d+, \d+\], need \[\d+, \d+\], by c",
        ),
        (rename_a_tensor, "weights: got `model.layers.0.mlp.language_mlp.up_proj.weight` missing, need exactly"),
        (rename_a_tensor, "weights: got `model.layers.0.mlp.vision_mlp.up_proj.weight` unknown, need exactly"),
        (lose_the_index, "model.safetensors.index.json: got no such file, need it beside 6 weight files"),
        (
            break_the_index,
            "model.safetensors.index.json: weight_map: got nothing, need an object, from tensors to names",
        ),
        (
            mix_up_the_index,
            "model.safetensors.index.json: got `model.norm.weight` in other files, need what the shards hold",
        ),
    ],
)
def test_an_unfit_folder_is_one_clear_error(copy, damage, message):
    damage(copy)
    for load in (lambda: load_model(copy, dtype=torch.bfloat16), lambda: load_tower(copy, dtype=torch.bfloat16)):
        with pytest.raises(ModelError, match=message):
            load()


def use_the_tiny_tokenizer(folder):
    replace(folder / "tokenizer.json", (TINY / "tokenizer.json").read_bytes())


def drop_special_tokens(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = tokenizer["added_tokens"][:1]
    replace(folder / "tokenizer.json", json.dumps(tokenizer).encode())


def cut_the_tokenizer(folder):
    replace(folder / "tokenizer.json", (folder / "tokenizer.json").read_bytes()[:1000])


def shrink_the_vocabulary(folder):
    config = read_config_json(folder) | {"vocab_size": 128000}
    replace(folder / "config.json", json.dumps(config).encode())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            use_the_tiny_tokenizer,
            "config.json: bos_token_id: got `128000`, need the id of a special token of tokenizer.json",
        ),
        (
            drop_special_tokens,
            "config.json: eos_token_id: got `128001`, need the id of a special token of tokenizer.json",
        ),
        (cut_the_tokenizer, r"tokenizer.json: got a broken file \(.*\), need the folder's fast tokenizer"),
        (shrink_the_vocabulary, "tokenizer.json: got 128256 tokens, need at most 128000, by config.json"),
    ],
)
def test_a_wrong_tokenizer_is_one_clear_error(copy, damage, message):
    damage(copy)
    with pytest.raises(ModelError, match=message):
        load_encoder(copy)


def test_all_problems_are_told_before_any_training(copy, tmp_path):
    for damage in (add_a_shard, lose_a_shard, cut_a_shard):
        damage(copy)
    recipe = make_project(tmp_path / "job", model={"path": str(copy), "dtype": "bf16"})
    result = cvft("train", recipe)
    assert result.returncode == 2
    assert f"model {copy} has 3 problems" in result.stderr
    assert not (tmp_path / "job" / "runs").exists()


def test_a_folder_without_code_files_cannot_keep_them(tmp_path):
    recipe = make_project(tmp_path, export={"keep_remote_code": True})
    result = cvft("train", recipe)
    assert result.returncode == 2
    assert "export.keep_remote_code: got no *.py file in" in result.stderr


def test_the_clean_view_links_shards_and_leaves_code_behind(small, tmp_path):
    config = COGVLM2_VIDEO.clean_config(read_config_json(small))
    view = make_clean_view(small, tmp_path / "view", config=config)
    assert len(list(view.glob("*.safetensors"))) == 6
    assert not list(view.glob("*.py"))
    assert "auto_map" not in json.loads((view / "config.json").read_text())
    with pytest.raises(RuntimeError, match="was run"):  # the trap is armed
        exec(compile((small / "visual.py").read_text(), "visual.py", "exec"))
    (small / "CODE_RAN").unlink()
