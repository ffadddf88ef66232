"""The checkpoint folder of the tiny model: its configuration and how its files are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from cvft.families.cogvlm2_video.network.modeling import CogVLM2VideoForCausalLM
from cvft.tiny.tokenizer import VOCAB_SIZE, save_tokenizer

BOS_ID, EOS_ID, PAD_ID = 0, 1, 2

TINY_CONFIG: dict[str, Any] = {
    "architectures": ["CogVLM2VideoForCausalLM"],
    "bos_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 352,
    "max_position_embeddings": 2048,
    "model_type": "cogvlm2_video",
    "num_attention_heads": 4,
    "num_hidden_layers": 5,
    "num_multi_query_heads": 2,
    "pad_token_id": PAD_ID,
    "rms_norm_eps": 1e-05,
    "template_version": "chat",
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "use_cache": True,
    "vision_config": {
        "dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_size": 96,
        "image_size": 56,
        "in_channels": 3,
        "intermediate_size": 256,
        "layer_norm_eps": 1e-06,
        "num_heads": 4,
        "num_hidden_layers": 3,
        "num_positions": 17,
        "patch_size": 14,
    },
    "vocab_size": VOCAB_SIZE,
}
"""config.json: the published keys, plus model_type; unlike the published file it states that the template is "chat"."""


def _write_json(value: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_checkpoint(
    model: CogVLM2VideoForCausalLM, tokenizer: PreTrainedTokenizerFast, *, folder: Path, record: dict[str, Any]
) -> None:
    """Writes a folder that loads like a published checkpoint.

    Args:
        model: The weights; saved in fp32 under the published names.
        tokenizer: The tiny tokenizer.
        folder: Made when missing; files of the same names are replaced, the weights in one move.
        record: What training_record.json says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().float().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors.part", metadata={"format": "pt"})
    (folder / "model.safetensors.part").chmod(0o644)  # safetensors writes for the owner only
    (folder / "model.safetensors.part").replace(folder / "model.safetensors")
    save_tokenizer(tokenizer, folder=folder)
    _write_json(TINY_CONFIG, folder / "config.json")
    generation = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID, "do_sample": False}
    _write_json(generation, folder / "generation_config.json")
    _write_json(record, folder / "training_record.json")
