"""The tensors that config.json promises are those of transformers' models, and of the files that these save."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from cvft.errors import ModelError
from cvft.families.parts import loaded_shapes as by_module
from cvft.families.qwen_vl.checkpoints import PUBLISHED_2_5, PUBLISHED_3, PUBLISHED_3_5, PUBLISHED_3_MOE
from cvft.families.qwen_vl.sizes import (
    LINEAR_ATTENTION,
    MODEL_TYPES,
    QWEN2_5_VL,
    QWEN3_5,
    QWEN3_5_MOE,
    QWEN3_VL,
    QWEN3_VL_MOE,
    Sizes,
)
from cvft.families.qwen_vl.tensors import VISION_PREFIXES, loaded_shapes, module_of, published_shapes
from cvft.families.table import find_family, known_checkpoints
from cvft.weights.folder import ModelFolder
from cvft.weights.shards import INDEX_FILE, read_shards
from tests.qwen_configs import PUBLISHED, TINY, flat, tiny

CLASSES = {
    QWEN2_5_VL: ("Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration"),
    QWEN3_VL: ("Qwen3VLConfig", "Qwen3VLForConditionalGeneration"),
    QWEN3_VL_MOE: ("Qwen3VLMoeConfig", "Qwen3VLMoeForConditionalGeneration"),
    QWEN3_5: ("Qwen3_5Config", "Qwen3_5ForConditionalGeneration"),
    QWEN3_5_MOE: ("Qwen3_5MoeConfig", "Qwen3_5MoeForConditionalGeneration"),
}
VARIANTS = {
    **TINY,
    "flat": flat(TINY[QWEN2_5_VL]),
    "tied": tiny(QWEN3_VL, tied=True),
    "tied inside": {
        **TINY[QWEN2_5_VL],
        "text_config": {**TINY[QWEN2_5_VL]["text_config"], "tie_word_embeddings": True},
    },
    "tied flat": {**flat(TINY[QWEN2_5_VL]), "tie_word_embeddings": True},
    "biases": tiny(QWEN3_5, attention_bias=True),
    "dense layers": tiny(QWEN3_VL_MOE, mlp_only_layers=[0], decoder_sparse_step=2),
    "layer types": tiny(
        QWEN3_5, layer_types=["full_attention", "linear_attention", "linear_attention", "full_attention"]
    ),
    "interval": tiny(QWEN3_5, full_attention_interval=2),
}


def model_of(config, *, device="meta"):
    config_class, model_class = (getattr(transformers, name) for name in CLASSES[config["model_type"]])
    with torch.device(device):
        return model_class(config_class(**json.loads(json.dumps(config))))


def shapes_of(model) -> dict[str, tuple[int, ...]]:
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    return shapes


@pytest.mark.parametrize("name", [*VARIANTS, *PUBLISHED])
def test_loaded_tensors_are_those_of_transformers_models(name):
    config = {**VARIANTS, **PUBLISHED}[name]
    assert loaded_shapes(Sizes.from_config(config)) == shapes_of(model_of(config))


@pytest.mark.parametrize("name", [*VARIANTS, *PUBLISHED])
def test_names_in_the_files_lead_to_those_in_the_model(name):
    config = {**VARIANTS, **PUBLISHED}[name]
    loaded, in_files = loaded_shapes(Sizes.from_config(config)), published_shapes(config)
    mapped = by_module(in_files, module_of)
    assert mapped.keys() == loaded.keys()
    assert len(mapped) == len(in_files)
    turned = {each for each, shape in mapped.items() if shape != loaded[each]}
    assert all(sorted(mapped[each]) == sorted(loaded[each]) and ".experts." in each for each in turned)


IS_MOE = {name: config["model_type"] in (QWEN3_VL_MOE, QWEN3_5_MOE) for name, config in VARIANTS.items()}


@pytest.mark.parametrize("name", [name for name in VARIANTS if not IS_MOE[name]])
def test_files_that_transformers_saves_hold_them(name, tmp_path):
    model = model_of(VARIANTS[name], device="cpu")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert published_shapes(config) == published_shapes(VARIANTS[name])
    read_shards(tmp_path, published_shapes(config))  # raises for any other name or shape
    saved, held = load_file(tmp_path / "model.safetensors"), model.state_dict()
    assert all(torch.equal(tensor, held[module_of(each)]) for each, tensor in saved.items())


@pytest.mark.parametrize("name", [name for name in VARIANTS if IS_MOE[name]])
def test_transformers_loads_experts_from_the_published_layout(name, tmp_path):
    """It saves them in others: those of Qwen3-VL the other way round, those of Qwen3.5 one by one."""
    model = model_of(VARIANTS[name], device="cpu")
    model.save_pretrained(tmp_path)
    config, held = json.loads((tmp_path / "config.json").read_text()), model.state_dict()
    published = published_shapes(config)
    assert published == published_shapes(VARIANTS[name])
    laid_out = {
        each: held[each] if held[each].shape == shape else held[each].transpose(1, 2).contiguous()
        for each, shape in published.items()
    }
    save_file(laid_out, tmp_path / "model.safetensors", metadata={"format": "pt"})
    read_shards(tmp_path, published)
    loaded = type(model).from_pretrained(tmp_path).state_dict()
    assert loaded.keys() == held.keys()
    assert all(torch.equal(tensor, held[each]) for each, tensor in loaded.items())


@pytest.mark.parametrize(
    "checkpoint", [*PUBLISHED_2_5, *PUBLISHED_3, *PUBLISHED_3_MOE, *PUBLISHED_3_5], ids=lambda each: each.name
)
def test_published_sizes_give_the_published_numbers_of_parameters(checkpoint):
    """Source of the numbers in `checkpoints.py`: what Hugging Face counts in the weight files."""
    counted = sum(math.prod(shape) for shape in published_shapes(checkpoint.config).values())
    if checkpoint.config["model_type"] == QWEN3_5:
        counted += extra_layer_of(Sizes.from_config(checkpoint.config))
    assert checkpoint.num_bytes == 2 * counted


@pytest.mark.parametrize(
    "checkpoint", [each for each in known_checkpoints() if each.owner == "Qwen"], ids=lambda each: each.name
)
def test_published_configs_are_carried_out_without_their_files(checkpoint):
    folder = ModelFolder(Path(checkpoint.name), checkpoint.config, is_absent=True)
    assert find_family(folder).name == checkpoint.config["model_type"]


def extra_layer_of(sizes: Sizes) -> int:
    """Values of the layer that predicts further tokens: a block with full attention, one more linear layer, three norms."""
    block = "model.language_model.layers.3."
    width = sizes.hidden_size
    in_block = sum(math.prod(shape) for name, shape in loaded_shapes(sizes).items() if name.startswith(block))
    return in_block + 2 * width * width + 3 * width


def test_published_names():
    """Source: the published index files of each family."""
    first, second, third = (published_shapes(PUBLISHED[f"Qwen{name}"]) for name in ("2.5-VL-7B", "3-VL-8B", "3.5-9B"))
    assert {"visual.merger.mlp.2.bias", "model.layers.27.self_attn.q_proj.bias", "lm_head.weight"} <= first.keys()
    assert "model.visual.deepstack_merger_list.2.linear_fc2.weight" in second
    assert "model.language_model.layers.35.self_attn.q_norm.weight" in second
    assert third["model.language_model.layers.0.linear_attn.in_proj_qkv.weight"] == (8192, 4096)
    experts = published_shapes(PUBLISHED["Qwen3-VL-30B-A3B"])
    assert experts["model.language_model.layers.0.mlp.experts.gate_up_proj"] == (128, 2048, 1536)
    for shapes in (first, second, third):
        of_vision = [name for name in shapes if name.startswith(VISION_PREFIXES)]
        assert of_vision == [name for name in shapes if module_of(name).startswith("model.visual.")]


def test_layers_that_predict_further_tokens_may_be_there_or_not(tmp_path):
    assert module_of("mtp.layers.0.self_attn.q_proj.weight") is None
    assert by_module({"mtp.fc.weight": (1,), "lm_head.weight": (2,)}, module_of) == {"lm_head.weight": (2,)}
    published = published_shapes(TINY[QWEN3_5])
    tensors = {name: torch.zeros(shape) for name, shape in published.items()}
    save_file({**tensors, "mtp.fc.weight": torch.zeros(3, 7)}, tmp_path / "model.safetensors")
    (shard,) = read_shards(tmp_path, published, module_of=module_of)
    assert "mtp.fc.weight" in {entry.name for entry in shard.entries}
    with pytest.raises(ModelError, match=r"`mtp.fc.weight` unknown"):
        read_shards(tmp_path, published)
    (tmp_path / INDEX_FILE).write_text(
        json.dumps({"weight_map": dict.fromkeys([*tensors, "mtp.fc.weight", "mtp.norm.weight"], "model.safetensors")})
    )
    with pytest.raises(ModelError, match=r"`mtp.norm.weight` missing"):  # the index promises it
        read_shards(tmp_path, published, module_of=module_of)


def test_sizes_say_what_kind_of_decoder_it_is():
    hybrid = Sizes.from_config(PUBLISHED["Qwen3.5-9B"])
    assert hybrid.layer_types.count(LINEAR_ATTENTION) == 24
    assert hybrid.delta_net.qkv_width == 8192
    assert Sizes.from_config(PUBLISHED["Qwen3-VL-8B"]).tower.num_levels == 4
    assert Sizes.from_config(PUBLISHED["Qwen2.5-VL-7B"]).tower.patch_values == 1176


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_missing_size_is_named(model_type):
    config = json.loads(json.dumps(TINY[model_type]))
    del config["text_config"]["num_hidden_layers"]
    with pytest.raises(KeyError, match="num_hidden_layers"):
        Sizes.from_config(config)


def test_counting_loads_no_torch():
    code = (
        "import sys, cvft.families.qwen_vl.parts\n"
        "print([name for name in ('torch', 'numpy', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
