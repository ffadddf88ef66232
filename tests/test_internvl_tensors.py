"""The tensors that config.json promises are those of transformers' models and of files that these save; parts equal peft's."""

import copy
import json
import math

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from cvft.errors import ModelError
from cvft.families.internvl.checkpoints import PUBLISHED as CHECKPOINTS
from cvft.families.internvl.parts import PARTS
from cvft.families.internvl.sizes import Sizes
from cvft.families.internvl.tensors import VISION_PREFIXES, loaded_shapes, module_of, published_shapes
from cvft.families.parts import count_adapter, count_parameters, linears_of, target_regex, weight_bytes
from cvft.families.parts import loaded_shapes as by_module
from cvft.weights.shards import read_shards
from tests.internvl_tiny import CLASS, KINDS, config_of
from tests.test_qwen_parts import CHOICES, adapt

PUBLISHED = {checkpoint.name: checkpoint.config for checkpoint in CHECKPOINTS}
NUM_BILLIONS = {"1B": 1.1, "2B": 2.3, "4B": 4.7, "8B": 8.5, "14B": 15.1, "38B": 38.4}
"""Billions of parameters by the makers' model cards."""


def changed(kind, **text):
    config = config_of(kind)
    config["text_config"] |= text
    return config


VARIANTS = {
    **{kind: config_of(kind) for kind in KINDS},
    "tied inside": changed("internvl3_5", tie_word_embeddings=True),
    "tied": {**config_of("internvl3"), "tie_word_embeddings": True},
    "biases": changed("internvl3_5", attention_bias=True),
    "one number for a side": {
        **config_of("internvl3"),
        "vision_config": {**config_of("internvl3")["vision_config"], "image_size": 56, "patch_size": 14},
    },
}


def model_of(config, *, device="meta"):
    config = copy.deepcopy(config)
    config.setdefault("tie_word_embeddings", config["text_config"]["tie_word_embeddings"])
    with torch.device(device):
        return getattr(transformers, CLASS)(transformers.InternVLConfig(**config))


def shapes_of(model):
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    return shapes


@pytest.mark.parametrize("name", [*VARIANTS, *PUBLISHED])
def test_loaded_tensors_are_those_of_transformers_models(name):
    config = {**VARIANTS, **PUBLISHED}[name]
    loaded, in_files = loaded_shapes(Sizes.from_config(config)), published_shapes(config)
    assert loaded == shapes_of(model_of(config))
    assert by_module(in_files, module_of) == loaded
    assert by_module(loaded, module_of) == loaded, "files may use today's names"
    assert all(module_of(each).startswith("model.language_model.") for each in in_files if ".layers." in each)
    of_vision = {each for each in in_files if each.startswith(VISION_PREFIXES)}
    assert of_vision == {each for each in in_files if not each.startswith("language_model.")}


@pytest.mark.parametrize("name", VARIANTS)
def test_files_that_transformers_saves_hold_them(name, tmp_path):
    model = model_of(VARIANTS[name], device="cpu")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert published_shapes(config) == published_shapes(VARIANTS[name])
    read_shards(tmp_path, published_shapes(config))  # raises for any other name or shape
    saved, held = load_file(tmp_path / "model.safetensors"), model.state_dict()
    assert all(torch.equal(tensor, held[module_of(each)]) for each, tensor in saved.items())


def test_files_may_have_the_names_of_today(tmp_path):
    shapes = loaded_shapes(Sizes.from_config(config_of("internvl3_5")))
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    published = published_shapes(config_of("internvl3_5"))
    (shard,) = read_shards(tmp_path, published, module_of=module_of)
    assert {entry.name for entry in shard.entries} == set(shapes)
    both = {**shapes, "vision_tower.embeddings.cls_token": (1, 1, 32)}
    save_file({name: torch.zeros(shape) for name, shape in both.items()}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="cls_token` unknown"):
        read_shards(tmp_path, published, module_of=module_of)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_give_the_published_numbers_of_parameters(name):
    counted = sum(math.prod(shape) for shape in published_shapes(PUBLISHED[name]).values())
    assert counted / 1e9 == pytest.approx(NUM_BILLIONS[name.split("-")[1]], abs=0.051)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_those_of_the_model(kind):
    model, shapes = model_of(config_of(kind)), loaded_shapes(Sizes.from_config(config_of(kind)))
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)} - {"lm_head"}
    found = [set(linears_of(shapes, target_regex(PARTS, "all-linear")))]
    found += [set(linears_of(shapes, each)) for each in (PARTS.tower_linear, PARTS.projector_linear)]
    assert set.union(*found) == linear
    assert sum(map(len, found)) == len(linear)
    counted = count_parameters(PARTS, shapes)
    assert counted.total == sum(p.numel() for p in model.parameters())
    assert counted.tower == sum(p.numel() for p in model.model.vision_tower.parameters())
    assert counted.projector == sum(p.numel() for p in model.model.multi_modal_projector.parameters())
    rest = sum(p.numel() for name, p in model.named_parameters() if not name.startswith(VISION_PREFIXES[2:]))
    assert weight_bytes(PARTS, shapes, value_bytes=2, with_tower=False) == 2 * rest


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_adapter_parameters_equal_pefts(choice):
    shapes = loaded_shapes(Sizes.from_config(config_of("internvl3_5")))
    with torch.device("meta"):
        model = adapt(model_of(config_of("internvl3_5")), PARTS, shapes, **choice)
    counted = count_adapter(PARTS, shapes, rank=3, **choice)
    assert counted.total == sum(p.numel() for p in model.parameters() if p.requires_grad)
