"""A tiny random folder of GLM-4.1V's shape, in the form in which the makers publish theirs.

Everything is written from a numpy seed, tensor by tensor, so that any version of transformers opens the same weights and nothing
large is stored. Special tokens have other ids than the published ones.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tests.byte_tokenizer import tokenizer_config, tokenizer_json

KINDS = ("glm4v",)
CLASS = "Glm4vForConditionalGeneration"
VOCAB_SIZE, FIRST_SPECIAL = 600, 460
SPECIAL = (
    *("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>"),
    *("<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
    *("<|image|>", "<|video|>"),
)
NOT_SPECIAL = ("<think>", "</think>", "<answer>", "</answer>")
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""The pre-tokenizer of GLM-4."""

CHAT_TEMPLATE = (
    "[gMASK]<sop>\n{%- for msg in messages %}\n    {%- if msg.role == 'system' %}\n<|system|>\n{{ msg.content }}\n"
    "    {%- elif msg.role == 'user' %}\n<|user|>{{ '\\n' }}\n\n        {%- if msg.content is string %}\n"
    "{{ msg.content }}\n        {%- else %}\n            {%- for item in msg.content %}\n"
    "                {%- if item.type == 'video' or 'video' in item %}\n<|begin_of_video|><|video|><|end_of_video|>\n"
    "                {%- elif item.type == 'image' or 'image' in item %}\n<|begin_of_image|><|image|><|end_of_image|>\n"
    "                {%- elif item.type == 'text' %}\n{{ item.text }}\n                {%- endif %}\n"
    "            {%- endfor %}\n        {%- endif %}\n    {%- elif msg.role == 'assistant' %}\n"
    "<|assistant|>\n{{ msg.content }}\n    {%- endif %}\n{%- endfor %}\n"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""Source: chat_template of GLM-4.1V-9B-Thinking, without tool calls."""


def special_id(token: str) -> int:
    return FIRST_SPECIAL + (*SPECIAL, *NOT_SPECIAL).index(token)


def config_of(kind: str = "glm4v") -> dict[str, Any]:
    """The config.json of a tiny model, with the published keys."""
    assert kind in KINDS
    return {
        "architectures": [CLASS],
        "model_type": "glm4v",
        "image_start_token_id": special_id("<|begin_of_image|>"),
        "image_end_token_id": special_id("<|end_of_image|>"),
        "video_start_token_id": special_id("<|begin_of_video|>"),
        "video_end_token_id": special_id("<|end_of_video|>"),
        "image_token_id": special_id("<|image|>"),
        "video_token_id": special_id("<|video|>"),
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.57.1",
        "text_config": {
            "model_type": "glm4v_text",
            "attention_bias": True,
            "attention_dropout": 0.0,
            "pad_token_id": special_id("<|endoftext|>"),
            "eos_token_id": [special_id("<|endoftext|>"), special_id("<|user|>")],
            "hidden_act": "silu",
            "hidden_size": 64,
            "initializer_range": 0.02,
            "intermediate_size": 96,
            "max_position_embeddings": 8192,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1]},
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "use_cache": True,
            "vocab_size": VOCAB_SIZE,
        },
        "vision_config": {
            "model_type": "glm4v",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "depth": 2,
            "hidden_act": "silu",
            "hidden_size": 32,
            "image_size": 56,
            "in_channels": 3,
            "initializer_range": 0.02,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "rms_norm_eps": 1e-05,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }


def write_glm4v_files(folder: Path, kind: str = "glm4v", **sizes: Any) -> Path:
    """Writes everything of a tiny folder but its weights; `sizes` are keys of its decoder that get other values."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(kind)
    config["text_config"].update(sizes)
    tokenizer = tokenizer_json(first_special=FIRST_SPECIAL, special=SPECIAL, not_special=NOT_SPECIAL, pattern=PATTERN)
    ends = [special_id(token) for token in ("<|endoftext|>", "<|user|>", "<|observation|>", "</answer>")]
    files = {
        "config.json": config,
        "generation_config.json": {"do_sample": True, "eos_token_id": ends, "pad_token_id": ends[0], "top_k": 2},
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": tokenizer_config(
            tokenizer, eos_token="<|endoftext|>", tokenizer_class="PreTrainedTokenizerFast"
        ),
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


def make_glm4v_folder(folder: Path, kind: str = "glm4v", seed: int = 0, **sizes: Any) -> Path:
    """Writes a tiny folder with weights under the published names: random, and large enough to be seen."""
    import torch
    import transformers
    from safetensors.numpy import save_file

    write_glm4v_files(folder, kind, **sizes)
    with torch.device("meta"):
        model = getattr(transformers, CLASS)(transformers.AutoConfig.from_pretrained(folder))
    weights = {name: draw(name, tuple(value.shape), seed) for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def draw(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Draws a tensor from its name and a seed, so that no order of names matters."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = rng.standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        return np.float32(0.1) * values + np.float32(name.endswith("weight"))
    if "embed_tokens" in name or "position_embedding" in name:
        return np.float32(0.5) * values
    return values * np.float32(1.5 / np.sqrt(np.prod(shape[1:])))
