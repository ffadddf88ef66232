"""The whole job on a folder in the published form, with two ranks under ZeRO-2: nothing in it is what the tiny folder has."""

import json
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from cvft.families.contract import read_contract
from tests.official_folder import small_config, write_official_folder
from tests.project import cvft_ok, make_project
from tests.real_clips import real_clip
from tests.test_train_run import losses_of


@pytest.mark.long
def test_the_whole_job_on_an_official_folder(tmp_path):
    base = write_official_folder(tmp_path / "cogvlm2-video-llama3-chat", config=small_config(), seed=0)
    recipe = make_project(
        tmp_path / "job",
        model={"path": str(base), "dtype": "bf16"},
        video={"max_frames": 4},
        lora={"targets": "all-linear", "rank": 8, "alpha": 16, "dropout": 0.0},
        optim={"learning_rate": 1e-2},
        train={"max_steps": 12, "save_steps": 12, "eval_steps": 12},
        export={"keep_remote_code": True},
        eval={"max_new_tokens": 4},
        parallel={"device": "cpu", "strategy": "zero2", "num_gpus": 2},
    )
    result = cvft_ok("run", recipe)
    assert "val exact match" in result.stdout
    run = tmp_path / "job" / "runs" / "small"
    assert read_contract(run / "adapter").template == "chat"
    losses = losses_of(recipe)
    assert losses[-1] < losses[0] - 3  # of 12: random weights choose from 128,256 tokens
    verification = json.loads((run / "merged" / "cvft_verification.json").read_text())
    assert verification["tensors"]["num_changed"] == 4 * 5
    assert verification["logits"]["num_rows"] == 3
    assert sorted(path.name for path in (run / "merged").glob("*.safetensors")) == sorted(
        path.name for path in base.glob("*.safetensors")
    )
    weights = load_file(run / "merged" / "model-00003-of-00006.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    config = json.loads((run / "merged" / "config.json").read_text())
    assert config["auto_map"]
    assert (run / "merged" / "modeling_cogvlm.py").is_file()
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=run / "merged", capture_output=True, check=True)
    cvft_ok("infer", "--model", run / "merged", "--video", real_clip("bikes.mp4"), "--query", "What is shown?")
    assert not list(tmp_path.rglob("CODE_RAN"))
