"""Decoder blocks in 4 or 8 bits: what becomes coarse and by how much, training and merging over it, and every refusal."""

import json
import os
import sys

import pytest
import torch
from safetensors.torch import load_file

from cvft.errors import ModelError
from cvft.families.cogvlm2_video.network.load import load_model
from cvft.families.cogvlm2_video.tensors import PARTS
from cvft.families.parts import QUANTIZED_BYTES, weight_bytes
from tests.official_folder import small_config, write_official_folder
from tests.project import cvft, cvft_ok, make_project
from tests.real_clips import real_clip
from tests.test_train_run import losses_of
from tests.tiny import TINY

SIZES = {"hidden_size": 128, "intermediate_size": 256}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "cogvlm2-video-llama3-chat"
    return write_official_folder(folder, config=small_config(**SIZES), seed=0)


@pytest.fixture(scope="module")
def plain(base):
    return load_model(base, dtype=torch.bfloat16)


@pytest.mark.parametrize(("kind", "largest_share"), [("nf4", 0.12), ("int8", 0.015)])
def test_only_decoder_blocks_become_coarse(base, plain, kind, largest_share):
    model = load_model(base, dtype=torch.bfloat16, quantize=kind)
    coarse = {name for name, weight in model.named_parameters() if weight.dtype in (torch.uint8, torch.int8)}
    assert coarse == {
        name for name, _ in plain.named_parameters() if name.startswith("model.layers.") and "norm" not in name
    }
    kept = [name for name, _ in plain.named_parameters() if name not in coarse]
    ours, theirs = dict(model.named_parameters()), dict(plain.named_parameters())
    assert all(torch.equal(ours[name], theirs[name]) for name in kept)

    layer, exact = (each.model.layers[1].mlp["language_mlp"].gate_proj for each in (model, plain))
    hidden = torch.randn(7, SIZES["hidden_size"], generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        got, want = layer(hidden).float(), exact(hidden).float()
    share = ((got - want).norm() / want.norm()).item()
    assert 0 < share < largest_share


def test_the_memory_model_counts_what_is_stored(base):
    model = load_model(base, dtype=torch.bfloat16, quantize="nf4")
    weight = model.model.layers[0].mlp["language_mlp"].gate_proj.weight
    state = weight.quant_state
    stored = weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    num_values = SIZES["hidden_size"] * SIZES["intermediate_size"]
    shape = (SIZES["intermediate_size"], SIZES["hidden_size"])

    def count(name, shape, *, quantize):
        return weight_bytes(PARTS, {f"model.layers.0.{name}.weight": shape}, value_bytes=2, quantize=quantize)

    assert count("mlp.language_mlp.gate_proj", shape, quantize="nf4") < num_values
    assert count("input_layernorm", shape[:1], quantize="nf4") == 2 * shape[0]
    assert count("self_attn.language_expert_dense", shape, quantize="none") == 2 * num_values
    assert stored == pytest.approx(count("mlp.language_mlp.gate_proj", shape, quantize="nf4"), rel=0.01)
    assert stored == pytest.approx(num_values * QUANTIZED_BYTES["nf4"], rel=0.01)
    weight = (
        load_model(base, dtype=torch.bfloat16, quantize="int8").model.layers[0].mlp["language_mlp"].gate_proj.weight
    )
    assert weight.nbytes == num_values * QUANTIZED_BYTES["int8"]


@pytest.mark.dist
def test_qlora_trains_merges_into_plain_weights_and_answers(base, tmp_path):
    recipe = make_project(
        tmp_path / "job",
        model={"path": str(base), "dtype": "bf16", "quantize": "nf4"},
        video={"max_frames": 4},
        lora={"targets": "all-linear", "dropout": 0.0},
        optim={"learning_rate": 1e-2},
        train={"max_steps": 12, "save_steps": 12, "eval_steps": 12},
        eval={"max_new_tokens": 4},
    )
    cvft_ok("run", recipe)
    losses = losses_of(recipe)
    assert losses[-1] < losses[0] - 3
    run = tmp_path / "job" / "runs" / "small"
    assert json.loads((run / "merged" / "cvft_verification.json").read_text())["logits"]["num_rows"] == 3
    names = {"model.layers.0.mlp.language_mlp.gate_proj.weight"}
    merged = [load_file(path) for path in sorted((run / "merged").glob("*.safetensors"))]
    assert {weights[name].dtype for weights in merged for name in names & weights.keys()} == {torch.bfloat16}
    question = ("--video", real_clip("bikes.mp4"), "--query", "What is shown?")
    cvft_ok("infer", "--model", run / "adapter", *question)
    cvft_ok("infer", "--model", run / "merged", "--quantize", "int8", *question)


def test_unfit_widths_are_refused_before_any_clip_is_decoded(tmp_path):
    recipe = make_project(tmp_path, model={"dtype": "bf16", "quantize": "nf4"})
    result = cvft("train", recipe)
    assert result.returncode == 2
    assert "model.quantize: got `nf4` for layers 352 wide, need multiples of 64" in result.stderr
    with pytest.raises(ModelError, match="layers 352 wide"):
        load_model(TINY, dtype=torch.bfloat16, quantize="nf4")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"quantize": "nf4"}}, "model.quantize: got `nf4` with `model.dtype` fp32, need `model.dtype: bf16`"),
        (
            {"model": {"dtype": "bf16", "quantize": "int8"}, "parallel": {"strategy": "zero3", "num_gpus": 2}},
            "model.quantize: got `int8` with `parallel.strategy` zero3, need a strategy that leaves weights whole",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, sections, message):
    result = cvft("train", make_project(tmp_path, **sections))
    assert result.returncode == 2
    assert message in result.stderr


def test_a_missing_package_is_told_with_the_command_that_installs_it(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'bitsandbytes' else find(name, package)\n"
    )
    recipe = make_project(tmp_path / "job", model={"dtype": "bf16", "quantize": "int8"})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    result = cvft("train", recipe, env=environment)
    assert result.returncode == 2
    assert "model.quantize: got `int8`, need the package bitsandbytes" in result.stderr
    assert "hint: pip install 'cvft[quantized]'" in result.stderr
