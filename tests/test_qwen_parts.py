"""Names of parts meet the modules of transformers' models: targets, counts and merged weights equal peft's."""

import json
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn

from cvft.errors import RecipeError
from cvft.export.adapter import Adapter
from cvft.families.adapter_file import read_adapter
from cvft.families.parts import (
    count_adapter,
    count_parameters,
    linears_of,
    modules_to_save,
    target_regex,
    weight_bytes,
)
from cvft.families.qwen_vl.parts import PARTS
from cvft.families.qwen_vl.sizes import MODEL_TYPES, QWEN2_5_VL, QWEN3_5, QWEN3_5_MOE, QWEN3_VL, QWEN3_VL_MOE, Sizes
from cvft.families.qwen_vl.tensors import loaded_shapes, module_of, published_shapes
from tests.qwen_configs import PUBLISHED, TINY, flat, tiny
from tests.test_qwen_tensors import model_of

CHOICES = [
    {"targets": "qkv"},
    {"targets": "all-linear"},
    {"targets": ["o_proj", "k_proj"]},
    {"targets": "qkv", "train_vision_tower": True},
    {"targets": "qkv", "train_projector": True},
    {"targets": "all-linear", "train_vision_tower": True, "train_projector": "full"},
]


def adapt(model, parts, shapes, *, rank=3, dora=False, **targets):
    whole = modules_to_save(parts, shapes, train_projector=targets.get("train_projector", False))
    regex = target_regex(parts, **targets)
    kinds = {"use_dora": dora, "modules_to_save": whole or None, "task_type": "CAUSAL_LM"}  # as training does
    config = LoraConfig(target_modules=regex, r=rank, lora_alpha=5, **kinds)
    return get_peft_model(model, config)


def shapes_and_parts(model_type):
    return loaded_shapes(Sizes.from_config(TINY[model_type])), PARTS[model_type]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_all_linear_means_every_linear_layer_of_the_decoder_blocks(model_type):
    shapes, parts = shapes_and_parts(model_type)
    model = model_of(TINY[model_type])
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    in_blocks = {name for name in linear if name.startswith(f"{parts.layers}.")}
    assert set(linears_of(shapes, target_regex(parts, "all-linear"))) == in_blocks
    in_tower = {name for name in linear if name.startswith("model.visual.blocks.")}
    assert set(linears_of(shapes, parts.tower_linear)) == in_tower
    in_projector = {name for name in linear if name.startswith("model.visual.") and name not in in_tower}
    assert set(linears_of(shapes, parts.projector_linear)) == in_projector
    assert {*in_blocks, *in_tower, *in_projector, "lm_head"} == linear.keys()


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_qkv_means_what_makes_queries_keys_and_values(model_type):
    shapes, parts = shapes_and_parts(model_type)
    found = {name.rpartition(".")[2] for name in linears_of(shapes, target_regex(parts, "qkv"))}
    recurrent = {"in_proj_qkv"} if model_type in (QWEN3_5, QWEN3_5_MOE) else set()
    assert found == {"q_proj", "k_proj", "v_proj"} | recurrent


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_adapter_parameters_equal_pefts(model_type, choice):
    shapes, parts = shapes_and_parts(model_type)
    with torch.device("meta"):
        model = adapt(model_of(TINY[model_type]), parts, shapes, dora=choice["targets"] == "qkv", **choice)
    counted = count_adapter(parts, shapes, rank=3, dora=choice["targets"] == "qkv", **choice)
    assert counted.total == sum(p.numel() for p in model.parameters() if p.requires_grad)
    in_vision = sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and ".visual." in n)
    assert counted.tower + counted.projector + counted.whole_projector == in_vision


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_parameters_by_part_equal_those_of_the_model(model_type):
    shapes, parts = shapes_and_parts(model_type)
    model, counted = model_of(TINY[model_type]), count_parameters(parts, shapes)
    assert counted.total == sum(p.numel() for p in model.parameters())
    mergers = [model.model.visual.merger, *getattr(model.model.visual, "deepstack_merger_list", [])]
    assert counted.projector == sum(p.numel() for merger in mergers for p in merger.parameters())
    assert counted.tower + counted.projector == sum(p.numel() for p in model.model.visual.parameters())
    assert counted.output_layer == counted.embedding == model.lm_head.weight.numel()


def test_a_tied_output_layer_counts_once():
    config = tiny(QWEN3_VL, tied=True)
    counted = count_parameters(PARTS[QWEN3_VL], loaded_shapes(Sizes.from_config(config)))
    assert counted.output_layer == 0
    assert counted.total == sum(p.numel() for p in model_of(config).parameters())


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_without_the_tower_nothing_of_vision_is_in_memory(model_type):
    shapes, parts = shapes_and_parts(model_type)
    model = model_of(TINY[model_type])
    rest = sum(p.numel() for name, p in model.named_parameters() if ".visual." not in name)
    assert weight_bytes(parts, shapes, value_bytes=2, with_tower=False) == 2 * rest


def test_published_adapters():
    """Parameters of rank 8 on `all-linear`; source: 8 (in + out) per layer, by hand for the 7B."""
    shapes = loaded_shapes(Sizes.from_config(PUBLISHED["Qwen2.5-VL-7B"]))
    counted = count_adapter(PARTS[QWEN2_5_VL], shapes, targets="all-linear", rank=8)
    of_block = 2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944)
    assert counted.total == 28 * 8 * of_block


def test_names_of_other_models_are_explained():
    with pytest.raises(RecipeError, match="`wq` is `q_proj` here"):
        target_regex(PARTS[QWEN3_VL], ["wq"])
    with pytest.raises(RecipeError, match="linear layers of a decoder block"):
        target_regex(PARTS[QWEN3_VL_MOE], ["gate_proj"])  # experts are no linear layers
    for parts in PARTS.values():
        assert {"qkv", *(each.rpartition(".")[2] for each in parts.linear)} >= set(parts.aliases.values())
        assert re.fullmatch(parts.block, "model.language_model.layers.17")


@pytest.mark.parametrize(
    ("config", "choice"),
    [
        (flat(TINY[QWEN2_5_VL]), {"targets": "all-linear", "train_vision_tower": True, "train_projector": True}),
        (TINY[QWEN3_VL], {"targets": "qkv", "train_projector": "full"}),
        (TINY[QWEN3_5], {"targets": "all-linear", "train_vision_tower": True}),
    ],
    ids=["2.5", "3", "3.5"],
)
def test_weights_merge_under_their_names_in_the_files(config, choice, tmp_path: Path):
    parts, shapes = PARTS[config["model_type"]], loaded_shapes(Sizes.from_config(config))
    torch.manual_seed(0)
    model = model_of(config, device="cpu")
    model.save_pretrained(tmp_path / "base")
    adapted = adapt(model, parts, shapes, **choice)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    base = load_file(tmp_path / "base" / "model.safetensors")
    extra = {"mtp.layers.0.self_attn.q_proj.weight": (9, 9)}  # files of Qwen3.5 hold more than the model loads
    in_files = {**published_shapes(config), **extra}
    adapter = Adapter(tmp_path / "adapter", parts=parts, shapes=in_files, module_of=module_of)
    merged = adapted.merge_and_unload().state_dict()
    assert len(adapter.changed) + len(adapter.replaced) > 10
    for name in adapter.changed:
        assert torch.equal(adapter.merge(name, base[name]), merged[module_of(name)])
    for name, tensor in adapter.replaced.items():
        assert torch.equal(tensor, merged[module_of(name)])
    untouched = base.keys() - set(adapter.changed) - adapter.replaced.keys()
    assert all(torch.equal(base[name], merged[module_of(name)]) for name in untouched)


def test_a_list_of_last_names_does_not_mean_layers_that_are_left_out(tmp_path: Path):
    """peft matches a list by the ends of names, and the layers that predict further tokens end alike."""
    parts, shapes = PARTS[QWEN3_5], loaded_shapes(Sizes.from_config(TINY[QWEN3_5]))
    model = get_peft_model(
        model_of(TINY[QWEN3_5], device="cpu"), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == ["q_proj"]
    in_files = {**shapes, "mtp.layers.0.self_attn.q_proj.weight": (9, 9)}
    read = read_adapter(tmp_path, parts=parts, shapes=in_files, module_of=module_of)
    assert list(read.layers) == ["model.language_model.layers.3.self_attn.q_proj"]
