"""Model folders in the published form: file set, six shards with the published headers and sizes, code that must not run.

python -m tests.official_folder FOLDER            full size, sparse: 25 GB that take a few MB of disk
python -m tests.official_folder FOLDER --small    the same form with small shapes and random weights
"""

import argparse
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from cvft.dtypes import BY_SAFETENSORS
from cvft.families.cogvlm2_video.tensors import published_shapes
from cvft.families.parts import Shape
from cvft.weights.header import make_header
from cvft.weights.shards import INDEX_FILE
from tests.llama3 import SPECIAL_TOKENS, write_tokenizer_json

SHARD_BYTES = 5_000_000_000
"""Most bytes of tensors in a shard, filled greedily. Source: Hugging Face's default; it explains all published sizes."""

NUM_SHARDS = 6

CONFIG: dict[str, Any] = {
    "architectures": ["CogVLMVideoForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_cogvlm.CogVLMConfig",
        "AutoModelForCausalLM": "modeling_cogvlm.CogVLMVideoForCausalLM",
    },
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 2048,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_multi_query_heads": 8,
    "pad_token_id": 128002,
    "rms_norm_eps": 1e-05,
    "template_version": "base",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1",
    "use_cache": True,
    "vision_config": {
        "dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_size": 1792,
        "image_size": 224,
        "in_channels": 3,
        "intermediate_size": 15360,
        "layer_norm_eps": 1e-06,
        "num_heads": 16,
        "num_hidden_layers": 63,
        "num_positions": 257,
        "patch_size": 14,
    },
    "vocab_size": 128256,
}
"""The published config.json: all of its keys and values."""

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_multi_query_heads": 2,
}
SMALL_VISION = {"hidden_size": 48, "intermediate_size": 96, "num_heads": 4, "num_hidden_layers": 5}

CODE_FILES = ("configuration_cogvlm.py", "model_config.py", "modeling_cogvlm.py", "util.py", "visual.py")

ALIGNED_FIRST = {"F64": 0, "F32": 1, "BF16": 2, "F16": 2}


def small_config(**sizes: int) -> dict[str, Any]:
    """The published config with small shapes, or others; vocabulary and frames keep their sizes."""
    return {**CONFIG, **SMALL, **sizes, "vision_config": {**CONFIG["vision_config"], **SMALL_VISION}}


def write_official_folder(folder: Path, *, config: Mapping[str, Any] = CONFIG, seed: int | None = None) -> Path:
    """Writes an official folder; its code files write `CODE_RAN` beside them when anything runs them.

    Args:
        folder: Folder to make.
        config: Its config.json.
        seed: Of random weights; without it there is a hole in place of every weight, which reads as zeros.

    Returns:
        `folder`.
    """
    folder.mkdir(parents=True)
    shapes = published_shapes(config)
    most = SHARD_BYTES
    if config != CONFIG:  # so that there are as many shards, filled in the same way
        most = next(most for most in range(0, SHARD_BYTES, 4096) if len(share_out(shapes, most)) <= NUM_SHARDS)
    shards = [{name: shapes[name] for name in names} for names in share_out(shapes, most)]
    weights = {} if seed is None else _random_weights(config, shapes, seed)
    weight_map = {}
    for number, held in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_shard(folder / name, held, weights)
        weight_map |= dict.fromkeys(held, name)
    total = sum(_num_bytes(shape) for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_tokenizer_json(folder)
    _write_tokenizer_config(folder)
    generation = {"bos_token_id": 128000, "eos_token_id": 128001, "pad_token_id": 128002, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    (folder / "configuration.json").write_text('{"framework": "pytorch", "task": "text-generation"}\n')
    for name in ("README.md", "README_zh.md", "LICENSE", "LLAMA3_LICENSE", ".gitattributes"):
        (folder / name).write_text(f"{name} of the published checkpoint\n")
    for name in CODE_FILES:
        planted = f"open({str(folder / 'CODE_RAN')!r}, 'w').close()\nraise RuntimeError('{name} was run')\n"
        (folder / name).write_text(planted)
    return folder


def share_out(shapes: Mapping[str, Shape], most: int) -> list[list[str]]:
    """Fills shards with tensors in their order, greedily, up to `most` bytes each."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        if filled + _num_bytes(shape) > most and shards[-1]:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += _num_bytes(shape)
    return shards


def _num_bytes(shape: Shape) -> int:
    return math.prod(shape) * BY_SAFETENSORS["BF16"].num_bytes


def _write_shard(path: Path, shapes: Mapping[str, Shape], weights: Mapping[str, torch.Tensor]) -> None:
    names = sorted(shapes)  # all are of one type, and safetensors writes names of one type in order
    head = make_header(((name, "BF16", shapes[name]) for name in names), {"format": "pt"})
    with path.open("xb") as file:
        file.write(head)
        if weights:
            for name in names:
                file.write(weights[name].to(torch.bfloat16).flatten().view(torch.uint8).numpy().tobytes())
        else:
            file.truncate(len(head) + sum(_num_bytes(shapes[name]) for name in names))


def _random_weights(config: Mapping[str, Any], shapes: Mapping[str, Shape], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    for name, shape in shapes.items():
        if name.endswith("inv_freq"):
            weights[name] = 500000.0 ** -(torch.arange(0, head_dim, 2) / head_dim)
        elif "norm" in name:
            weights[name] = torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
        else:
            fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
            scale = 0.02 if name.endswith("bias") or len(shape) == 1 else fan_in**-0.5
            weights[name] = torch.randn(shape, generator=generator) * (1.0 if "embed_tokens" in name else scale)
    return weights


def _write_tokenizer_config(folder: Path) -> None:
    special = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "added_tokens_decoder": {
            str(128000 + number): {"content": token, **special} for number, token in enumerate(SPECIAL_TOKENS)
        },
        "bos_token": "<|begin_of_text|>",
        "clean_up_tokenization_spaces": True,
        "eos_token": "<|end_of_text|>",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 1000000000000000019884624838656,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokens = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens, indent=2) + "\n")


def main(args: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(None if args is None else list(args))
    if options.small:
        write_official_folder(options.folder, config=small_config(), seed=0)
    else:
        write_official_folder(options.folder)


if __name__ == "__main__":
    main()
