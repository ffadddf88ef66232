"""The streaming merge: bit for bit what peft makes of the whole model, in the base's files, in the memory of one layer."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from cvft.dtypes import BY_NAME
from cvft.errors import ModelError, RunError
from cvft.export.merge import merge_adapter
from cvft.export.tensors import compare_tensors
from cvft.families.cogvlm2_video.network.load import load_model
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE, CHECKSUM_FILE, read_config_json
from cvft.weights.shards import INDEX_FILE
from tests.official_folder import small_config, write_official_folder
from tests.random_adapter import base_of, contract_of, write_random_adapter
from tests.tiny import TINY

KINDS = {
    "qkv": {"targets": "qkv"},
    "all-linear": {"targets": "all-linear"},
    "rslora": {"targets": "all-linear", "use_rslora": True},
    "dora": {"targets": "all-linear", "use_dora": True},
    "dora-tower-projector": {"targets": "all-linear", "use_dora": True, "tower": True},
    "tower-projector": {"targets": ("up_proj",), "tower": True},
    "whole-projector": {"targets": "qkv", "projector": "full"},
    "dora-tower-whole-projector": {"targets": "all-linear", "use_dora": True, "tower": True, "projector": "full"},
}


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    return write_official_folder(
        tmp_path_factory.mktemp("base") / "cogvlm2-video-llama3-chat", config=small_config(), seed=0
    )


def merge(base: Path, adapter: Path, output: Path, *, dtype="fp32", **settings) -> Path:
    settings = {"keep_remote_code": False, **settings}
    return merge_adapter(
        base_of(base), adapter_folder=adapter, output=output, dtype=dtype, wanted=contract_of(base), **settings
    )


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("base", "dtype"), [("tiny", "fp32"), ("tiny", "bf16"), ("official", "bf16")])
def test_a_merge_has_the_bits_of_peft(official, tmp_path, kind, base, dtype):
    folder = TINY if base == "tiny" else official
    adapter = write_random_adapter(folder, tmp_path / "adapter", **KINDS[kind])
    merged = read_weights(merge(folder, adapter, tmp_path / "merged", dtype=dtype))
    # peft's own merge in fp32, rounded once: in bf16 it would add rounded numbers, and round again
    whole = PeftModel.from_pretrained(load_model(folder, dtype=torch.float32), str(adapter))
    kind = getattr(torch, BY_NAME[dtype].torch_name)
    expected = {name: tensor.to(kind) for name, tensor in whole.merge_and_unload(safe_merge=True).state_dict().items()}
    assert merged.keys() == expected.keys()
    assert [name for name in merged if not torch.equal(merged[name], expected[name])] == []
    opened = base_of(folder)
    check = compare_tensors(opened, adapter_folder=adapter, merged_folder=tmp_path / "merged", dtype=dtype)
    assert check.num_compared == len(merged)
    assert 0 < check.max_error_share <= 1


@pytest.fixture(scope="module")
def adapter(official, tmp_path_factory) -> Path:
    return write_random_adapter(official, tmp_path_factory.mktemp("adapter") / "adapter", targets="all-linear")


@pytest.fixture(scope="module")
def merged(official, adapter, tmp_path_factory) -> Path:
    return merge(official, adapter, tmp_path_factory.mktemp("merged") / "merged", dtype="bf16")


def test_the_merged_folder_has_the_bases_files_and_headers(official, merged):
    for path in official.glob("*.safetensors"):
        ours = (merged / path.name).read_bytes()
        theirs = path.read_bytes()
        assert len(ours) == len(theirs)
        num_head = 8 + int.from_bytes(theirs[:8], "little")
        assert ours[:num_head] == theirs[:num_head]
    assert (merged / INDEX_FILE).read_bytes() == (official / INDEX_FILE).read_bytes()
    config = read_config_json(merged)
    assert config["model_type"] == "cogvlm2_video"
    assert config["template_version"] == "chat"
    assert "auto_map" not in config
    assert not list(merged.glob("*.py"))
    for name in ("tokenizer.json", "generation_config.json", "LICENSE", "special_tokens_map.json"):
        assert (merged / name).read_bytes() == (official / name).read_bytes()


def test_checksums_are_what_sha256sum_reads(merged):
    command = ["sha256sum", "-c", CHECKSUM_FILE]
    assert subprocess.run(command, cwd=merged, capture_output=True, text=True, check=True).stdout.count(": OK") == 6
    assert len((merged / CHECKSUM_FILE).read_text().splitlines()) == 6


def test_kept_code_comes_with_the_published_config(official, adapter, tmp_path):
    folder = merge(official, adapter, tmp_path / "merged", dtype="bf16", keep_remote_code=True)
    base = read_config_json(official)
    assert read_config_json(folder) == base | {"template_version": "chat"}
    assert {path.name for path in official.glob("*.py")} == {path.name for path in folder.glob("*.py")} != set()
    assert load_model(folder, dtype=torch.bfloat16) is not None
    assert not (official / "CODE_RAN").exists()


def test_merging_to_fp32_doubles_the_files_and_keeps_their_names(official, adapter, merged, tmp_path):
    wide = merge(official, adapter, tmp_path / "merged", dtype="fp32")
    total = json.loads((wide / INDEX_FILE).read_text())["metadata"]["total_size"]
    assert total == 2 * json.loads((merged / INDEX_FILE).read_text())["metadata"]["total_size"]
    assert {tensor.dtype for tensor in read_weights(wide).values()} == {torch.float32}
    check = compare_tensors(base_of(official), adapter_folder=adapter, merged_folder=wide, dtype="fp32")
    assert check.max_error_share <= 1


def test_a_merged_folder_is_a_base_like_any_other(merged, tmp_path):
    again = write_random_adapter(merged, tmp_path / "adapter", targets="qkv", seed=1)
    folder = merge(merged, again, tmp_path / "merged", dtype="bf16")
    sums = (folder / CHECKSUM_FILE).read_text()
    assert sums != (merged / CHECKSUM_FILE).read_text()
    assert hashlib.sha256((folder / "model-00003-of-00006.safetensors").read_bytes()).hexdigest() in sums


def edit_weights(folder: Path, edit) -> None:
    weights = load_file(folder / ADAPTER_WEIGHTS_FILE)
    edit(weights)
    save_file(weights, folder / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})


def drop_a_layer(weights):
    del weights["base_model.model.model.layers.1.self_attn.language_expert_dense.lora_A.weight"]
    del weights["base_model.model.model.layers.1.self_attn.language_expert_dense.lora_B.weight"]


def halve_a_layer(weights):
    del weights["base_model.model.model.layers.1.self_attn.language_expert_dense.lora_B.weight"]


def add_a_layer(weights):
    weights["base_model.model.lm_head.lora_A.weight"] = torch.zeros(4, 64)


def add_an_unknown(weights):
    weights["base_model.model.lm_head.weight"] = torch.zeros(4, 64)


def cut_a_matrix(weights):
    name = "base_model.model.model.layers.0.self_attn.language_expert_dense.lora_A.weight"
    weights[name] = weights[name][:2].contiguous()


def poison(weights):
    weights["base_model.model.model.layers.0.self_attn.language_expert_dense.lora_A.weight"][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            drop_a_layer,
            "adapter_model.safetensors: got `model.layers.1.self_attn.language_expert_dense` missing, need w",
        ),
        (halve_a_layer, "model.layers.1.self_attn.language_expert_dense: got "),
        (add_a_layer, "adapter_model.safetensors: got `lm_head` unknown"),
        (add_an_unknown, "weights: got `base_model.model.lm_head.weight` unknown, need LoRA weights of layers"),
        (cut_a_matrix, r"language_expert_dense: got .*\(2, 64\).*, need .*\(4, 64\)"),
        (poison, "language_expert_dense.lora_A.weight: got 1 numbers that are infinite or nan"),
    ],
)
def test_an_unfit_adapter_is_one_clear_error(official, adapter, tmp_path, edit, message):
    shutil.copytree(adapter, tmp_path / "adapter")
    edit_weights(tmp_path / "adapter", edit)
    with pytest.raises(ModelError, match=message):
        merge(official, tmp_path / "adapter", tmp_path / "merged", dtype="bf16")


def test_a_broken_adapter_file_is_one_clear_error(official, adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "adapter")
    data = (adapter / ADAPTER_WEIGHTS_FILE).read_bytes()
    (tmp_path / "adapter" / ADAPTER_WEIGHTS_FILE).write_bytes(data[: len(data) // 2])
    with pytest.raises(
        ModelError, match=r"adapter_model.safetensors: got \d+ bytes, need \d+ bytes, as its header says"
    ):
        merge(official, tmp_path / "adapter", tmp_path / "merged", dtype="bf16")


def test_a_full_disk_is_told_before_anything_is_written(official, adapter, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(RunError, match=r"0\.0 GB free, need 0\.0 GB for the merged weights"):
        merge(official, adapter, tmp_path / "merged", dtype="bf16")
    assert not (tmp_path / "merged").exists()


MEASURE = """
import resource, sys
from pathlib import Path
import cvft.export.tensors, cvft.export.merge, peft
from tests.random_adapter import base_of
from tests.test_export_merge import merge
base, adapter, merged = map(Path, sys.argv[1:])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
merge(base, adapter, merged, dtype="bf16")
cvft.export.tensors.compare_tensors(base_of(base), adapter_folder=adapter, merged_folder=merged, dtype="bf16")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.dist
def test_a_merge_needs_the_memory_of_one_layer(tmp_path):
    config = small_config(hidden_size=512, intermediate_size=1792, num_hidden_layers=16)
    base = write_official_folder(tmp_path / "base", config=config)
    num_bytes = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    adapter = write_random_adapter(base, tmp_path / "adapter", targets="all-linear")
    command = [sys.executable, "-c", MEASURE, str(base), str(adapter), str(tmp_path / "merged")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert num_bytes > 380e6
    assert grown < 150e6
