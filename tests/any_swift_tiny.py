"""Tiny random folders of models that are trained through ms-swift's templates, in the form in which they are published.

ms-swift's templates state some ids of the published vocabularies, so these models have vocabularies with a hole in it.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tests.byte_tokenizer import tokenizer_config, tokenizer_json
from tests.internvl_tiny import PATTERN

FIRST_SPECIAL = 460
SIDE_PX, PATCH_PX = 56, 14

CLASSES = {
    "llava_onevision": "LlavaOnevisionForConditionalGeneration",
    "idefics3": "Idefics3ForConditionalGeneration",
}
KINDS = tuple(CLASSES)
ONEVISION_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
IDEFICS_TOKENS = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<fake_token_around_image>", "<image>", "<end_of_utterance>"),
    *("<global-img>", *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))),
)
IDS = {
    "llava_onevision": dict(zip(ONEVISION_TOKENS, range(151643, 151648), strict=True)),
    "idefics3": {token: 128254 + number for number, token in enumerate(IDEFICS_TOKENS)},
}
"""Ids behind the hole. Source: the published tokenizers, of which `<image>` stands in ms-swift's templates as a number."""
PINPOINTS = [[56, 56], [56, 112], [112, 56], [112, 112]]


def text_config(model_type: str, vocab_size: int, *, is_tied: bool) -> dict[str, Any]:
    return {
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 48,
        "max_position_embeddings": 8192,
        "model_type": model_type,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": is_tied,
        "vocab_size": vocab_size,
    }


TOWER = {
    "hidden_size": 32,
    "image_size": SIDE_PX,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "patch_size": PATCH_PX,
}


def config_of(kind: str) -> dict[str, Any]:
    ids = IDS[kind]
    vocab_size = max(ids.values()) + 1
    if kind == "idefics3":
        return {
            "architectures": [CLASSES[kind]],
            "image_token_id": ids["<image>"],
            "model_type": kind,
            "pad_token_id": ids["<|end_of_text|>"],
            "scale_factor": 2,
            "text_config": {
                **text_config("llama", vocab_size, is_tied=False),
                "bos_token_id": ids["<|begin_of_text|>"],
                "eos_token_id": ids["<|end_of_text|>"],
                "pad_token_id": ids["<|end_of_text|>"],
            },
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "vision_config": {**TOWER, "model_type": "idefics3_vision"},
        }
    return {
        "architectures": [CLASSES[kind]],
        "image_grid_pinpoints": PINPOINTS,
        "image_token_index": ids["<image>"],
        "model_type": kind,
        "projector_hidden_act": "gelu",
        "text_config": text_config("qwen2", vocab_size, is_tied=True),
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "video_token_index": ids["<video>"],
        "vision_aspect_ratio": "anyres_max_9",
        "vision_config": {**TOWER, "model_type": "siglip_vision_model", "vision_use_head": False},
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }


def tokenizer_of(ids: dict[str, int]) -> dict[str, Any]:
    tokenizer = tokenizer_json(first_special=FIRST_SPECIAL, special=tuple(ids), not_special=(), pattern=PATTERN)
    for token in tokenizer["added_tokens"]:
        token["id"] = tokenizer["model"]["vocab"][token["content"]] = ids[token["content"]]
    return tokenizer


def processor_files(kind: str) -> dict[str, Any]:
    """Files of the processor, with the published keys."""
    common = {
        **{"do_convert_rgb": True, "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True},
        **{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "rescale_factor": 1 / 255},
    }
    if kind == "idefics3":
        images = {
            **common,
            "do_image_splitting": True,
            "image_processor_type": "Idefics3ImageProcessor",
            "max_image_size": {"longest_edge": SIDE_PX},
            "processor_class": "Idefics3Processor",
            "resample": 1,
            "size": {"longest_edge": 2 * SIDE_PX},
        }
        num_tokens = (SIDE_PX // PATCH_PX // 2) ** 2
        return {
            "preprocessor_config.json": images,
            "processor_config.json": {"image_seq_len": num_tokens, "processor_class": "Idefics3Processor"},
        }
    images = {
        **common,
        "image_grid_pinpoints": PINPOINTS,
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "processor_class": "LlavaOnevisionProcessor",
        "resample": 3,
        "size": {"height": SIDE_PX, "width": SIDE_PX},
    }
    whole = {
        "image_token": "<image>",
        "num_image_tokens": (SIDE_PX // PATCH_PX) ** 2,
        "processor_class": "LlavaOnevisionProcessor",
        "video_token": "<video>",
        "vision_feature_select_strategy": "full",
    }
    return {"preprocessor_config.json": images, "processor_config.json": whole}


def write_files(folder: Path, kind: str) -> None:
    """Writes everything of a tiny folder but its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_of(IDS[kind])
    named = (
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<|end_of_text|>"}
        if kind == "idefics3"
        else {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "tokenizer_class": "Qwen2Tokenizer"}
    )
    end = "<end_of_utterance>" if kind == "idefics3" else "<|im_end|>"
    files = {
        "config.json": config_of(kind),
        "generation_config.json": {"eos_token_id": IDS[kind][end]},
        **processor_files(kind),
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": tokenizer_config(tokenizer, **named),
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1))


def make_any_swift_folder(folder: Path, kind: str, seed: int = 0) -> Path:
    """Writes a tiny folder with weights under the published names: random, and large enough to be seen."""
    from safetensors.numpy import save_file

    write_files(folder, kind)
    first = min(IDS[kind].values())
    weights = {
        name: draw(name, shape, seed, first_special=first) for name, shape in tensor_shapes(folder, kind).items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def tensor_shapes(folder: Path, kind: str) -> dict[str, tuple[int, ...]]:
    """What transformers' own model holds, by the names of the published files."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = getattr(transformers, CLASSES[kind])(config)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    spell = name_in_files if kind == "llava_onevision" else str
    return {spell(name): tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}


def name_in_files(module: str) -> str:
    if module.startswith("lm_head."):
        return f"language_model.{module}"
    module = module.replace("model.language_model.", "language_model.model.").removeprefix("model.")
    return module.replace("vision_tower.", "vision_tower.vision_model.")


def draw(name: str, shape: tuple[int, ...], seed: int, *, first_special: int) -> np.ndarray:
    """Draws a tensor from its name and a seed, so that no order of names matters."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = rng.standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        return np.float32(0.1) * values + np.float32(name.endswith("weight"))
    if "embed_tokens" in name or "lm_head" in name:
        values[FIRST_SPECIAL:first_special] = 0  # ids that the tokenizer does not have are never the likeliest
    if "embed" in name:
        return np.float32(0.5) * values
    return values * np.float32(1.5 / np.sqrt(np.prod(shape[1:])))
