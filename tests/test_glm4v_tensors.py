"""The tensors that config.json promises are those of transformers' models and of files that these save; parts equal peft's."""

import copy
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from cvft.families.glm4v.checkpoints import CONFIG
from cvft.families.glm4v.parts import PARTS
from cvft.families.glm4v.sizes import Sizes
from cvft.families.glm4v.tensors import tensor_shapes
from cvft.families.parts import count_adapter, count_parameters, linears_of, target_regex
from cvft.weights.shards import read_shards
from tests.glm4v_tiny import CLASS, config_of
from tests.test_qwen_parts import CHOICES, adapt

VARIANTS = {
    "published": CONFIG,
    "tiny": config_of(),
    "tied": {**config_of(), "tie_word_embeddings": True},
    "bias": {**config_of(), "vision_config": {**config_of()["vision_config"], "attention_bias": True}},
}


def model_of(config, *, device="meta"):
    with torch.device(device):
        return getattr(transformers, CLASS)(transformers.Glm4vConfig(**copy.deepcopy(config)))


@pytest.mark.parametrize("name", VARIANTS)
def test_tensors_are_those_of_transformers_models(name):
    model = model_of(VARIANTS[name])
    shapes = {each: tuple(tensor.shape) for each, tensor in model.state_dict().items()}
    if name == "tied":
        del shapes["lm_head.weight"]
    assert tensor_shapes(Sizes.from_config(VARIANTS[name])) == shapes
    if name == "published":
        assert round(sum(p.numel() for p in model.parameters()) / 1e9, 1) == 10.3


def test_files_that_transformers_saves_hold_them(tmp_path):
    model = model_of(config_of(), device="cpu")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    read_shards(tmp_path, tensor_shapes(Sizes.from_config(config)))  # raises for any other name or shape
    saved, held = load_file(tmp_path / "model.safetensors"), model.state_dict()
    assert all(torch.equal(tensor, held[each]) for each, tensor in saved.items())


def test_parts_are_those_of_the_model():
    model, shapes = model_of(config_of()), tensor_shapes(Sizes.from_config(config_of()))
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)} - {"lm_head"}
    found = [set(linears_of(shapes, target_regex(PARTS, "all-linear")))]
    found += [set(linears_of(shapes, each)) for each in (PARTS.tower_linear, PARTS.projector_linear)]
    assert set.union(*found) == linear
    assert sum(map(len, found)) == len(linear)
    counted, visual = count_parameters(PARTS, shapes), model.model.visual
    assert counted.total == sum(p.numel() for p in model.parameters())
    merger = sum(p.numel() for part in (visual.merger, visual.downsample) for p in part.parameters())
    assert counted.projector == merger
    assert counted.tower == sum(p.numel() for p in visual.parameters()) - merger


@pytest.mark.parametrize("choice", [each for each in CHOICES if each["targets"] != ["o_proj", "k_proj"]], ids=str)
def test_adapter_parameters_equal_pefts(choice):
    shapes = tensor_shapes(Sizes.from_config(config_of()))
    with torch.device("meta"):
        model = adapt(model_of(config_of()), PARTS, shapes, **choice)
    counted = count_adapter(PARTS, shapes, rank=3, **choice)
    assert counted.total == sum(p.numel() for p in model.parameters() if p.requires_grad)
