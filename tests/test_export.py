"""Merge, verification and what a merged folder is good for."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cvft.families.cogvlm2_video.network.load import load_model
from cvft.shipped import SHIPPED
from tests.project import cvft, cvft_ok, make_project
from tests.real_clips import real_clip
from tests.trained import copy_of_trained_project


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a run that went through the whole job."""
    return copy_of_trained_project(tmp_path_factory).parent / "runs" / "small"


def predictions(run: Path, which: str) -> list[str]:
    lines = (run / "eval" / which / "predictions.jsonl").read_text().splitlines()
    return [json.loads(line)["prediction"] for line in lines]


def test_the_merged_model_is_verified_on_the_val_rows(run):
    verification = json.loads((run / "merged" / "cvft_verification.json").read_text())["logits"]
    assert verification["num_rows"] == 3
    assert verification["max_logit_error"] <= 1e-4
    assert verification["num_equal_answers"] == 3
    assert verification["can_tell"]
    assert predictions(run, "merged") == ["a man", "in a car", "bikes"]


def test_adapter_and_merged_answer_the_whole_val_set_alike(run):
    cvft_ok("eval", run, "--model", "adapter")
    assert predictions(run, "adapter") == predictions(run, "merged")


def test_merged_weights_are_base_plus_scaled_update(run):
    base = load_file(SHIPPED["tiny"].folder / "model.safetensors")
    merged = load_file(run / "merged" / "model.safetensors")
    adapter = load_file(run / "adapter" / "adapter_model.safetensors")
    assert merged.keys() == base.keys()
    num_changed = 0
    for name, weight in merged.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in adapter:
            update = 16 / 8 * adapter[f"{stem}.lora_B.weight"] @ adapter[f"{stem}.lora_A.weight"]
            torch.testing.assert_close(weight, base[name] + update, rtol=0, atol=1e-6)
            num_changed += 1
        else:
            assert torch.equal(weight, base[name]), name
    assert num_changed == 25


def test_the_merged_folder_loads_with_plain_transformers(run):
    code = (
        "import sys, cvft, torch\n"
        "from transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)\n"
        "print(type(model).__name__, sum(p.numel() for p in model.parameters()))\n"
    )
    command = [sys.executable, "-c", code, str(run / "merged")]
    name, count = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert name == "CogVLM2VideoForCausalLM"
    assert int(count) == sum(p.numel() for p in load_model(run / "merged", dtype=torch.float32).parameters())


def test_a_damaged_merge_is_refused_and_leaves_nothing(run, tmp_path):
    """The verifier is run on a merge with one weight changed, through the same command that users run."""
    copy = tmp_path / "small"
    shutil.copytree(run, copy, symlinks=True)
    shutil.rmtree(copy / "merged")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from safetensors.torch import load_file, save_file\n"
        "import cvft.export.merge as merge\n"
        "honest = merge.merge_adapter\n"
        "def damaged(*args, output, **kwargs):\n"
        "    honest(*args, output=output, **kwargs)\n"
        "    weights = load_file(output / 'model.safetensors')\n"
        "    weights['model.layers.2.mlp.language_mlp.up_proj.weight'][7] *= 1.5\n"
        "    save_file(weights, output / 'model.safetensors', metadata={'format': 'pt'})\n"
        "merge.merge_adapter = damaged\n"
        "from cvft.cli.main import main\n"
        "sys.exit(main(['export', sys.argv[1]]))\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(copy)], capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert "the merged weights has 1 problem" in result.stderr
    assert "model.layers.2.mlp.language_mlp.up_proj.weight: got " in result.stderr
    assert not (copy / "merged").exists()
    assert not (copy / "merged.partial").exists()


def test_an_adapter_on_another_base_is_refused(run, tmp_path):
    other = tmp_path / "other_base"
    shutil.copytree(SHIPPED["tiny"].folder, other)
    weights = load_file(other / "model.safetensors")
    weights["lm_head.weight"] += 1e-3
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    recipe = make_project(tmp_path, model={"path": str(other)})
    target = tmp_path / "runs" / "small"
    target.mkdir(parents=True)
    shutil.copytree(run / "adapter", target / "adapter")
    shutil.copytree(run / "data", target / "data")
    (target / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace("path: tiny", f"path: {other}"))
    result = cvft("export", target)
    assert result.returncode == 2
    assert "base_fingerprint: got" in result.stderr
    assert "as in training" in result.stderr
    assert recipe.is_file()


def test_infer_needs_no_recipe(run):
    clip = real_clip("bikes.mp4")
    result = cvft_ok("infer", "--model", run / "merged", "--video", clip, "--query", "What is shown?")
    assert result.stdout.strip() == predictions(run, "merged")[2]
    assert (
        result.stdout
        == cvft_ok("infer", "--model", run / "adapter", "--video", clip, "--query", "What is shown?").stdout
    )


def test_infer_answers_a_file_whole(run, tmp_path):
    output = tmp_path / "predictions.jsonl"
    cvft_ok("infer", "--model", run / "merged", "--data", run / "data" / "val.jsonl", "--output", output)
    assert [json.loads(line)["prediction"] for line in output.read_text().splitlines()] == predictions(run, "merged")


def test_infer_refuses_a_folder_without_contract():
    result = cvft("infer", "--model", SHIPPED["tiny"].folder, "--query", "What?")
    assert result.returncode == 2
    assert (
        "cvft_contract.json: got no such file, need the contract that cvft stores beside trained weights"
        in result.stderr
    )


def test_merging_to_bf16_is_verified_within_bf16(run):
    refused = cvft("export", run, "export.dtype=bf16")
    assert refused.returncode == 2
    assert f"merged/: got weights in fp32, need bf16\n    hint: move {run / 'merged'} to another name" in refused.stderr
    shutil.move(run / "merged", run / "merged_fp32")
    try:
        cvft_ok("export", run, "export.dtype=bf16")
        weights = load_file(run / "merged" / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
        assert json.loads((run / "merged" / "cvft_verification.json").read_text())["dtype"] == "bf16"
    finally:
        shutil.rmtree(run / "merged", ignore_errors=True)
        shutil.move(run / "merged_fp32", run / "merged")
