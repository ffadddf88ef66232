"""Tiny random folders of the Qwen video families, in the form in which the makers publish theirs.

Everything is written from a numpy seed, tensor by tensor, so that any version of transformers opens the same weights and nothing
large is stored. The vocabulary is small: 256 bytes, whole words of a toy world, and Qwen's special tokens at other ids than the
published ones, so that whoever states an id instead of reading it is found out.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("qwen2_5_vl", "qwen3_vl", "qwen3_5")
MOE_KINDS = ("qwen3_vl_moe", "qwen3_5_moe")
"""Decoders of experts; all else of them is that of `generation_of` them."""

CLASSES = {
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
    "qwen3_5_moe": "Qwen3_5MoeForConditionalGeneration",
}

VOCAB_SIZE = 600
FIRST_SPECIAL = 560

SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
"""In the published order; the published ids begin at 151643 (Qwen2.5-VL, Qwen3-VL) and 248044 (Qwen3.5)."""
NOT_SPECIAL = ("<tool_call>", "</tool_call>", "<think>", "</think>")
"""Added tokens that the published files do not call special; Qwen2.5-VL has only the first two."""

WORDS = (
    *(
        "system",
        "user",
        "assistant",
        "seconds",
        "You",
        "are",
        "helpful",
        "What",
        "happens",
        "here",
        "How",
        "many",
        "Where",
    ),
    *(
        "does",
        "when",
        "color",
        "is",
        "the",
        "it",
        "moves",
        "appears",
        "red",
        "green",
        "blue",
        "yellow",
        "circle",
        "square",
    ),
    *("triangle", "left", "right", "up", "down", "yes", "no", "at", "second", "video", "clip", "person", "dog", "cat"),
    *("opens", "door", "bird", "waits"),
)
"""More than there is room for before `FIRST_SPECIAL`: special tokens must follow the vocabulary without a gap."""

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen's pre-tokenizer."""
PATTERN_3_5 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
"""Qwen3.5's, in which marks belong to words."""


def generation_of(kind: str) -> str:
    return kind.removesuffix("_moe")


def special_id(token: str) -> int:
    return FIRST_SPECIAL + (*SPECIAL, *NOT_SPECIAL).index(token)


def config_of(kind: str) -> dict[str, Any]:
    """The config.json of a tiny model, with the published keys: a flat text half in Qwen2.5-VL, `rope_scaling` before Qwen3.5."""
    text: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "tie_word_embeddings": False,
        "bos_token_id": special_id("<|endoftext|>"),
        "eos_token_id": special_id("<|im_end|>"),
    }
    vision: dict[str, Any] = {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 48,
        "out_hidden_size": 64,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    shared: dict[str, Any] = {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "image_token_id": special_id("<|image_pad|>"),
        "video_token_id": special_id("<|video_pad|>"),
        "vision_start_token_id": special_id("<|vision_start|>"),
        "vision_end_token_id": special_id("<|vision_end|>"),
        "tie_word_embeddings": False,
    }
    if kind == "qwen2_5_vl":
        vision |= {
            "model_type": "qwen2_5_vl",
            "hidden_act": "silu",
            "in_chans": 3,
            "patch_size": 14,
            "spatial_patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        }
        return {
            **shared,
            **text,
            "vision_token_id": special_id("<|vision_pad|>"),
            "torch_dtype": "float32",
            "transformers_version": "4.41.2",
            "use_sliding_window": False,
            "sliding_window": 32768,
            "max_window_layers": 3,
            "rope_theta": 1000000.0,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
            "vision_config": vision,
        }
    vision |= {
        "model_type": kind,
        "hidden_act": "gelu_pytorch_tanh",
        "in_channels": 3,
        "initializer_range": 0.02,
        "patch_size": 16,
        "num_position_embeddings": 144,
        "deepstack_visual_indexes": [0, 1] if generation_of(kind) == "qwen3_vl" else [],
    }
    if kind in MOE_KINDS:
        text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "router_aux_loss_coef": 0.001}
    if generation_of(kind) == "qwen3_vl":
        if kind in MOE_KINDS:
            text |= {"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True}
        text |= {
            "model_type": f"{kind}_text",
            "attention_bias": False,
            "dtype": "float32",
            "head_dim": 16,
            "rope_theta": 5000000,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"},
        }
        return {**shared, "text_config": text, "vision_config": vision, "transformers_version": "4.57.0.dev0"}
    if kind in MOE_KINDS:
        text.pop("intermediate_size")
        text["shared_expert_intermediate_size"] = 40
    text |= {
        "model_type": f"{kind}_text",
        "attention_bias": False,
        "attn_output_gate": True,
        "dtype": "float32",
        "full_attention_interval": 3,
        "head_dim": 32,
        "layer_types": ["linear_attention", "linear_attention", "full_attention"],
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "rope_parameters": {
            "mrope_interleaved": True,
            "mrope_section": [2, 1, 1],
            "rope_type": "default",
            "rope_theta": 10000000,
            "partial_rotary_factor": 0.25,
        },
    }
    return {**shared, "text_config": text, "vision_config": vision, "transformers_version": "4.57.0.dev0"}


def generation_config_of(kind: str) -> dict[str, Any]:
    """generation_config.json with the published values; Qwen2.5-VL's asks for a repetition penalty."""
    ends = {
        "bos_token_id": special_id("<|endoftext|>"),
        "pad_token_id": special_id("<|endoftext|>"),
        "eos_token_id": [special_id("<|im_end|>"), special_id("<|endoftext|>")],
        "do_sample": True,
    }
    if kind == "qwen2_5_vl":
        return {**ends, "repetition_penalty": 1.05, "temperature": 0.000001, "transformers_version": "4.49.0"}
    return {**ends, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "transformers_version": "4.57.0.dev0"}


def tokenizer_of(kind: str) -> dict[str, Any]:
    """A tokenizer.json: byte-level BPE that knows the toy world's words, with and without a space before them."""
    letters = _byte_letters()
    vocab = {letter: number for number, letter in enumerate(letters.values())}
    merges = []
    for word in sorted({*WORDS, *(f" {word}" for word in WORDS)}):
        whole = ""
        for letter in (letters[byte] for byte in word.encode()):
            if whole and whole + letter not in vocab:
                if len(vocab) == FIRST_SPECIAL:
                    break
                vocab[whole + letter] = len(vocab)
                merges.append([whole, letter])
            whole += letter
    added = [
        {
            **{"id": special_id(token), "content": token, "single_word": False, "lstrip": False, "rstrip": False},
            **{"normalized": False, "special": token in SPECIAL},
        }
        for token in (*SPECIAL, *NOT_SPECIAL)
        if kind != "qwen2_5_vl" or "think" not in token
    ]
    assert len(vocab) == FIRST_SPECIAL, len(vocab)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    pattern = PATTERN_3_5 if generation_of(kind) == "qwen3_5" else PATTERN
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            **{"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": ""},
            **{"end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False},
            **{"vocab": vocab, "merges": merges},
        },
    }


def tokenizer_config_of(kind: str) -> dict[str, Any]:
    added = tokenizer_of(kind)["added_tokens"]
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in added
        },
        "additional_special_tokens": list(SPECIAL[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 262144,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def write_qwen_files(folder: Path, kind: str, **sizes: int) -> Path:
    """Writes everything of a tiny folder but its weights; `sizes` are keys of its decoder that get other values."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(kind)
    config.get("text_config", config).update(sizes)
    files = {
        "config.json": config,
        "generation_config.json": generation_config_of(kind),
        "tokenizer.json": tokenizer_of(kind),
        "tokenizer_config.json": tokenizer_config_of(kind),
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1))
    return folder


def make_qwen_folder(folder: Path, kind: str, seed: int = 0, **sizes: int) -> Path:
    """Writes a tiny folder of one of `KINDS` with weights under the published names: random, and large enough to be seen.

    Args:
        folder: Folder to make.
        kind: One of `KINDS` or `MOE_KINDS`.
        seed: Of the weights.
        sizes: Keys of the decoder's config.json that get other values, such as `intermediate_size`.
    """
    from safetensors.numpy import save_file

    write_qwen_files(folder, kind, **sizes)
    weights = {name: draw(name, shape, kind, seed) for name, shape in tensor_shapes(folder, kind).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def tensor_shapes(folder: Path, kind: str) -> dict[str, tuple[int, ...]]:
    """What transformers' own model holds, by the names of the published files."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = getattr(transformers, CLASSES[kind])(config)
    shapes = {name_in_files(name, kind): tuple(value.shape) for name, value in model.state_dict().items()}
    if kind == "qwen3_vl_moe":  # published the other way round than the classes of transformers 5 hold them
        text = config.text_config
        for name in shapes:
            if name.endswith("experts.gate_up_proj"):
                shapes[name] = (text.num_experts, text.hidden_size, 2 * text.moe_intermediate_size)
            elif name.endswith("experts.down_proj"):
                shapes[name] = (text.num_experts, text.moe_intermediate_size, text.hidden_size)
    return shapes


def name_in_files(module: str, kind: str) -> str:
    """Qwen2.5-VL was published before its classes got their common shape."""
    if kind == "qwen2_5_vl":
        return module.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
    return module


def draw(name: str, shape: tuple[int, ...], kind: str, seed: int) -> np.ndarray:
    """Draws a tensor from its name and a seed, so that no order of names matters."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = rng.standard_normal(shape).astype(np.float32)
    if name.endswith("A_log"):
        return np.log(rng.uniform(0.005, 0.1, shape)).astype(np.float32)  # forgets half in 10 to 200 tokens
    if len(shape) == 1:
        # the decoder of Qwen3.5 adds one to the weights of all its norms but the gated one
        adds_one = generation_of(kind) == "qwen3_5" and "language_model" in name and "linear_attn" not in name
        return np.float32(0.1) * values + np.float32(name.endswith("weight") and not adds_one)
    if "embed" in name:
        return np.float32(0.5) * values
    num_in = (
        shape[-2] if ".experts." in name and kind == "qwen3_vl_moe" else np.prod(shape[1 + (".experts." in name) :])
    )
    return values * np.float32(1.5 / np.sqrt(num_in))


def _byte_letters() -> dict[int, str]:
    """The letter that byte-level BPE writes for each byte. Source: GPT-2."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + number) for number, byte in enumerate(hidden)}
