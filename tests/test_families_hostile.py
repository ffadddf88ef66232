"""Model and adapter folders that nobody made in good faith: one clear error that names the key, at once, whatever they hold."""

import dataclasses
import json
import os
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from cvft.errors import ContractError, ModelError, quote
from cvft.export.merge import merge_adapter
from cvft.export.tensors import compare_tensors
from cvft.families.adapter_file import ADAPTER_CONFIG_FILE, NEEDS, read_adapter
from cvft.families.cogvlm2_video.config_file import ACTIVATIONS
from cvft.families.cogvlm2_video.generation_file import GENERATION_FILE, stop_tokens
from cvft.families.cogvlm2_video.network.load import load_config, load_model
from cvft.families.cogvlm2_video.tensors import PARTS, published_shapes
from cvft.families.cogvlm2_video.tokenizer import load_encoder
from cvft.families.contract import CONTRACT_FILE, read_contract
from cvft.families.parts import count_parameters
from cvft.families.table import find_family
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE, ModelFolder
from cvft.weights.header import read_header
from cvft.weights.shards import INDEX_FILE, read_shards
from tests.broken_json import broken_forms
from tests.mutations import mutations
from tests.random_adapter import base_of, contract_of, write_random_adapter
from tests.tiny import TINY, copy_tiny

CONFIG: dict[str, Any] = json.loads((TINY / "config.json").read_text())
SHAPES = published_shapes(CONFIG)

GENERATION: dict[str, Any] = {
    **{"eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 2, "do_sample": True, "temperature": 0.6, "top_p": 0.9},
    **{
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "use_cache": True,
        "max_length": 100,
        "transformers_version": "4.43.1",
    },
}


def write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A folder to change files in; each test writes back what it changed."""
    return copy_tiny(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    return write_random_adapter(TINY, tmp_path_factory.mktemp("adapter") / "adapter", targets="qkv")


def names(message: str, key: str) -> bool:
    return key[:70] in message or quote(key).strip("`").removesuffix("...") in message


def try_each(documents, check, *, error=ModelError) -> int:
    """Lets each document be checked; those that are refused must name their key. Returns how many were accepted."""
    num_accepted = 0
    for document, key in documents:
        start = time.process_time()
        try:
            check(document)
            num_accepted += 1
        except error as raised:
            if not names(str(raised), key):
                raise AssertionError(f"the message does not name {key!r} of {document}") from raised
        assert time.process_time() - start < 20, document
    return num_accepted


def test_two_thousand_configs_are_carried_out_or_refused_by_the_key(model):
    def check(config):
        folder = ModelFolder(model, json.loads(json.dumps(config)))
        if folder.config.get("architectures") != CONFIG["architectures"]:
            with pytest.raises(ModelError, match="architectures"):
                find_family(folder)
            return
        family = find_family(folder)
        assert family.context_tokens(folder.config) > 0
        assert len(family.tensors(folder.config)) > 10
        assert count_parameters(family.parts, family.tensors(folder.config)).total > 0
        assert load_config(folder).vision.num_tokens_per_frame > 2

    assert 100 < try_each(mutations(CONFIG, count=2000, seed=7), check) < 1500


def test_generation_configs_are_carried_out_or_refused_by_the_key(model):
    path = model / GENERATION_FILE
    whole = path.read_bytes()

    def check(values):
        write_json(path, values)
        folder = ModelFolder(model, CONFIG)
        find_family(folder)
        assert CONFIG["eos_token_id"] in stop_tokens(folder)

    assert 40 < try_each(mutations(GENERATION, count=400, seed=8), check) < 360
    path.write_bytes(whole)


def test_two_thousand_adapter_configs_are_carried_out_or_refused_by_the_key(adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "adapter")
    path = tmp_path / "adapter" / ADAPTER_CONFIG_FILE
    whole = json.loads(path.read_text())

    def check(values):
        write_json(path, values)
        read = read_adapter(path.parent, parts=PARTS, shapes=SHAPES)
        assert peft.LoraConfig(**read.peft_settings()).r == read.rank == 4

    assert 200 < try_each(mutations(whole, count=2000, seed=9), check) < 1500


def test_contracts_of_any_form_are_read_or_refused(tmp_path):
    whole = contract_of(TINY).to_dict()

    def check(values):
        write_json(tmp_path / CONTRACT_FILE, values)
        assert read_contract(tmp_path).max_frames > 0

    assert 20 < try_each(mutations(whole, count=500, seed=10), check, error=ContractError) < 450


@pytest.mark.parametrize("name", ["config.json", GENERATION_FILE, "tokenizer_config.json", INDEX_FILE])
def test_broken_files_of_a_model_are_one_clear_error(model, name):
    path = model / name
    whole = path.read_bytes() if path.is_file() else index_of(model)
    num_refused = 0
    for form in broken_forms(whole, seed=3):
        path.write_bytes(form)
        try:
            folder = ModelFolder.of(model)
            family = find_family(folder)
            read_shards(model, family.tensors(folder.config))
        except ModelError:
            num_refused += 1
    assert num_refused > 60
    path.write_bytes(whole) if name != INDEX_FILE else path.unlink()


def index_of(model: Path) -> bytes:
    placed = {name: "model.safetensors" for name in list(SHAPES)}
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": dict(list(placed.items())[:3])}).encode()


def test_broken_files_of_an_adapter_are_one_clear_error(adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "adapter")
    path = tmp_path / "adapter" / ADAPTER_CONFIG_FILE
    for form in broken_forms(path.read_bytes(), seed=4):
        path.write_bytes(form)
        try:
            read_adapter(path.parent, parts=PARTS, shapes=SHAPES)
        except ModelError as error:
            assert "adapter_" in str(error)  # noqa: PT017 - many forms, one test


def test_broken_headers_are_one_clear_error(tmp_path):
    path = tmp_path / "x.safetensors"
    header = {"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    for form in broken_forms(json.dumps(header).encode(), seed=5):
        path.write_bytes(struct.pack("<Q", len(form)) + form + bytes(16))
        try:
            read = read_header(path)
        except ValueError:
            continue
        assert all(isinstance(value, str) for value in read.metadata.values())
        assert all(min(entry.shape, default=0) >= 0 and entry.begin >= 8 for entry in read.entries)
    path.write_bytes(struct.pack("<Q", 2**62) + bytes(100))
    with pytest.raises(ValueError, match="too few for its header"):
        read_header(path)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 6 * 2**30))
        file.truncate(6 * 2**30 + 8)  # takes no room
    with pytest.raises(ValueError, match="bytes of header, more than"):
        read_header(path)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nothing"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", INDEX_FILE, GENERATION_FILE])
def test_what_is_no_file_is_not_opened(tmp_path, name, kind):
    folder = copy_tiny(tmp_path / "model")
    path = folder / name
    path.unlink(missing_ok=True)
    {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "folder": path.mkdir,
        "nothing": lambda: path.symlink_to("gone"),
    }[kind]()
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        read_shards(folder, find_family(ModelFolder.of(folder)).tensors(CONFIG))


@pytest.mark.parametrize("place", ["../model.safetensors", "/etc/passwd", "a\\b.safetensors", "model.bin", 5, None])
def test_an_index_names_files_of_its_folder(tmp_path, place):
    folder = copy_tiny(tmp_path / "model")
    write_json(folder / INDEX_FILE, {"weight_map": dict.fromkeys(SHAPES, place)})
    with pytest.raises(ModelError, match=r"weight_map: got .*, need an object, from tensors to names of"):
        read_shards(folder, SHAPES)


EFFECTS: dict[str, Any] = {
    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    "attention_bias": True,
    "mlp_bias": True,
    "sliding_window": 128,
    "partial_rotary_factor": 0.5,
    "logit_scale": 0.5,
    "head_dim": 64,
    "num_key_value_heads": 4,
    "rope_theta": 10_000.0,
    "hidden_act": "sigmoid_of_mine",
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "_attn_implementation": "somebody/kernel",
    "use_something_new": True,
    "encodes_frames": False,
}
"""Keys that another library would obey; here each would change nothing, and answers would be wrong without a word."""


@pytest.mark.parametrize("key", EFFECTS)
def test_a_key_without_effect_is_refused_by_its_name(tmp_path, key):
    folder = copy_tiny(tmp_path / "model")
    write_json(folder / "config.json", CONFIG | {key: EFFECTS[key]})
    with pytest.raises(ModelError, match="rope_theta|inv_freq" if key == "rope_theta" else f"config.json: {key}: got "):
        load_model(folder, dtype=torch.float32)


def test_keys_that_ask_for_nothing_change_nothing(tmp_path):
    folder = copy_tiny(tmp_path / "model")
    neutral = {
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0,
        "sliding_window": None,
        "head_dim": 32,
    }
    more = {
        "_name_or_path": "/else/where",
        "_attn_implementation": "sdpa",
        "num_key_value_heads": 2,
        "rope_theta": 500000,
    }
    write_json(folder / "config.json", CONFIG | neutral | more)
    assert load_config(folder).to_dict() == load_config(TINY).to_dict()


def test_activations_are_those_of_transformers():
    from transformers.activations import ACT2FN

    assert set(ACTIVATIONS) <= set(ACT2FN)


def test_every_setting_of_peft_is_carried_out_or_refused(adapter, tmp_path):
    """A setting with another value than its default either has its line in `NEEDS`, or is refused by name."""
    shutil.copytree(adapter, tmp_path / "adapter")
    path = tmp_path / "adapter" / ADAPTER_CONFIG_FILE
    whole = json.loads(path.read_text())
    for field in dataclasses.fields(peft.LoraConfig):
        if field.name in NEEDS:
            continue
        write_json(path, whole | {field.name: ["something"]})
        with pytest.raises(ModelError, match=f"adapter_config.json: {field.name}: got "):
            read_adapter(path.parent, parts=PARTS, shapes=SHAPES)


@pytest.mark.parametrize(
    "targets",
    [
        *("(.*.*)*.*(.*.*)*.*x", "(a|a|m|o|d|e|l|\\.|.)*(.+)+$z", "(", "all-linear", "model.layers.0.*"),
        *(["q_proj"], ["language_expert_dense"], [".*"], ["language_expert_query_key_value", "lm_head"]),
    ],
)
def test_targets_of_others_are_matched_by_us(adapter, tmp_path, targets):
    shutil.copytree(adapter, tmp_path / "adapter")
    path = tmp_path / "adapter" / ADAPTER_CONFIG_FILE
    write_json(path, json.loads(path.read_text()) | {"target_modules": targets})
    start = time.process_time()
    with pytest.raises(ModelError, match=r"target_modules: got |target_modules of adapter_config\.json names"):
        read_adapter(path.parent, parts=PARTS, shapes=SHAPES)
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    "targets", [["language_expert_query_key_value"], ["self_attn.language_expert_query_key_value"]]
)
def test_lists_of_names_are_what_peft_takes_them_for(adapter, tmp_path, targets):
    shutil.copytree(adapter, tmp_path / "adapter")
    path = tmp_path / "adapter" / ADAPTER_CONFIG_FILE
    write_json(path, json.loads(path.read_text()) | {"target_modules": targets})
    read = read_adapter(path.parent, parts=PARTS, shapes=SHAPES)
    assert read == dataclasses.replace(read_adapter(adapter, parts=PARTS, shapes=SHAPES), folder=path.parent)
    assert len(read.layers) == CONFIG["num_hidden_layers"]
    assert (path.parent / ADAPTER_WEIGHTS_FILE).is_file()


def test_an_expression_of_a_tokenizer_that_never_ends_is_given_up(tmp_path):
    folder = copy_tiny(tmp_path / "model")
    values = json.loads((folder / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    write_json(folder / "tokenizer.json", values | {"pre_tokenizer": split})
    with pytest.raises(ModelError, match=r"tokenizer\.json: got an expression that gives up on a text"):
        load_encoder(folder)("a" * 40 + "!")


def test_a_tied_base_merges_and_stays_tied(tmp_path):
    base = copy_tiny(tmp_path / "base")
    write_json(base / "config.json", CONFIG | {"tie_word_embeddings": True})
    weights = load_file(base / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    folder = write_random_adapter(base, tmp_path / "adapter", targets="all-linear")
    merged = merge_adapter(
        base_of(base),
        adapter_folder=folder,
        output=tmp_path / "merged",
        dtype="fp32",
        keep_remote_code=False,
        wanted=contract_of(base),
    )
    compared = compare_tensors(base_of(base), adapter_folder=folder, merged_folder=merged, dtype="fp32")
    assert compared.num_compared == len(weights)
    model = load_model(merged, dtype=torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, weights["model.embed_tokens.weight"])
