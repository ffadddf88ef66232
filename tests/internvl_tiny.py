"""Tiny random folders of InternVL's video models, in the form in which the makers publish theirs.

Everything is written from a numpy seed, tensor by tensor, so that any version of transformers opens the same weights and nothing
large is stored. `internvl3` has the decoder of InternVL3, `internvl3_5` that of 3.5, `internvl_6b` the norms of the large tower.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tests.byte_tokenizer import tokenizer_config, tokenizer_json

KINDS = ("internvl3_5", "internvl3", "internvl_6b")
CLASS = "InternVLForConditionalGeneration"
VOCAB_SIZE, FIRST_SPECIAL = 600, 460
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|vision_start|>", "<|vision_end|>"),
    *(
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
        "<img>",
        "</img>",
        "<IMG_CONTEXT>",
        "<quad>",
        "</quad>",
        "<video>",
    ),
)
NOT_SPECIAL = ("<tool_call>", "</tool_call>", "<think>", "</think>")
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen's pre-tokenizer."""
SIDE_PX, TOKENS_PER_FRAME = 56, 4

CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}{% elif content['type'] == 'text' %}"
    "{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
"""Source: what the makers' tool writes that turns their checkpoints into this form; transformers' own tool writes the same."""


def special_id(token: str) -> int:
    return FIRST_SPECIAL + (*SPECIAL, *NOT_SPECIAL).index(token)


def config_of(kind: str) -> dict[str, Any]:
    """The config.json of a tiny model, with the published keys: none about tied embeddings at the top."""
    text: dict[str, Any] = {
        "architectures": ["Qwen2ForCausalLM" if kind == "internvl3" else "Qwen3ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": special_id("<|endoftext|>"),
        "eos_token_id": special_id("<|im_end|>"),
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "max_position_embeddings": 8192,
        "max_window_layers": 3,
        "model_type": "qwen2" if kind == "internvl3" else "qwen3",
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCAB_SIZE,
    }
    if kind == "internvl3":
        text["rope_scaling"] = {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"}
    else:
        text |= {"attention_bias": False, "head_dim": 16, "rope_scaling": None}
    large = kind == "internvl_6b"
    return {
        "architectures": [CLASS],
        "downsample_ratio": 0.5,
        "image_seq_length": TOKENS_PER_FRAME,
        "image_token_id": special_id("<IMG_CONTEXT>"),
        "model_type": "internvl",
        "projector_hidden_act": "gelu",
        "text_config": text,
        "torch_dtype": "float32",
        "transformers_version": "4.52.1",
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "attention_bias": not large,
            "attention_dropout": 0.0,
            "dropout": 0.0,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "hidden_size": 32,
            "image_size": [SIDE_PX, SIDE_PX],
            "initializer_factor": 0.1,
            "initializer_range": 1e-10,
            "intermediate_size": 48,
            "layer_norm_eps": 1e-06,
            "layer_scale_init_value": 0.1,
            "model_type": "internvl_vision",
            "norm_type": "rms_norm" if large else "layer_norm",
            "num_attention_heads": 2,
            "num_channels": 3,
            "num_hidden_layers": 2,
            "patch_size": [14, 14],
            "projection_dropout": 0.0,
            "torch_dtype": "float32",
            "use_absolute_position_embeddings": True,
            "use_mask_token": False,
            "use_mean_pooling": True,
            "use_qk_norm": large,
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }


def preprocessor_config() -> dict[str, Any]:
    """preprocessor_config.json, which stands for the video processor's where there is none."""
    return {
        "crop_to_patches": False,
        "data_format": "channels_first",
        "do_center_crop": None,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "image_std": [0.229, 0.224, 0.225],
        "max_patches": 12,
        "min_patches": 1,
        "processor_class": "InternVLProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": SIDE_PX, "width": SIDE_PX},
    }


def write_internvl_files(folder: Path, kind: str, **sizes: Any) -> Path:
    """Writes everything of a tiny folder but its weights; `sizes` are keys of its decoder that get other values."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(kind)
    config["text_config"].update(sizes)
    tokenizer = tokenizer_json(first_special=FIRST_SPECIAL, special=SPECIAL, not_special=NOT_SPECIAL, pattern=PATTERN)
    files = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": special_id("<|im_end|>"), "transformers_version": "4.52.1"},
        "preprocessor_config.json": preprocessor_config(),
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": tokenizer_config(
            tokenizer,
            eos_token="<|im_end|>",
            tokenizer_class="Qwen2Tokenizer",
            context_image_token="<IMG_CONTEXT>",
            start_image_token="<img>",
            end_image_token="</img>",
            video_token="<video>",
            extra_special_tokens={
                "context_image_token": "<IMG_CONTEXT>",
                "start_image_token": "<img>",
                "end_image_token": "</img>",
                "video_token": "<video>",
            },
        ),
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1))
    return folder


def make_internvl_folder(folder: Path, kind: str, seed: int = 0, **sizes: Any) -> Path:
    """Writes a tiny folder of one of `KINDS` with weights under the published names: random, and large enough to be seen."""
    from safetensors.numpy import save_file

    write_internvl_files(folder, kind, **sizes)
    weights = {name: draw(name, shape, seed) for name, shape in tensor_shapes(folder).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """What transformers' own model holds, by the names of the published files."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = getattr(transformers, CLASS)(config)
    return {name_in_files(name): tuple(value.shape) for name, value in model.state_dict().items()}


def name_in_files(module: str) -> str:
    if module.startswith("lm_head."):
        return f"language_model.{module}"
    return module.replace("model.language_model.", "language_model.model.").removeprefix("model.")


def draw(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Draws a tensor from its name and a seed, so that no order of names matters."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = rng.standard_normal(shape).astype(np.float32)
    if "lambda_" in name:
        return np.float32(0.5) + np.float32(0.1) * values
    if len(shape) == 1:
        return np.float32(0.1) * values + np.float32(name.endswith("weight"))
    if "embed_tokens" in name or len(shape) == 3:
        return np.float32(0.5) * values
    return values * np.float32(1.5 / np.sqrt(np.prod(shape[1:])))
