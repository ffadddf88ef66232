"""config.json of CogVLM2-Video: every key is carried out, known to change nothing, or refused by its name. No torch.

A key that another library would obey and the model here would not is no detail: the answers would be wrong without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cvft.errors import Problem
from cvft.families.cogvlm2_video.layout import TEMPLATES
from cvft.json_files import (
    ANYTHING,
    FLAG,
    NULL,
    OBJECT,
    Need,
    check_object,
    either,
    number,
    one_of,
    show,
    text,
    whole_number,
)

CONFIG_FILE = "config.json"

ACTIVATIONS = ("silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu")
"""Activations that may be named. Source: transformers' `ACT2FN`; the published ones are `silu` and `gelu`."""

MAX_LAYERS = 512
MAX_HEADS = 1024
MAX_WIDTH = 131_072
MAX_VOCABULARY = 4_000_000
MAX_POSITIONS = 4_000_000
"""Largest sizes that are believed, several times those of the largest models there are."""

EPSILON = number(1e-12, 0.1)

SIZES = {
    "vocab_size": whole_number(1, MAX_VOCABULARY),
    "hidden_size": whole_number(1, MAX_WIDTH),
    "intermediate_size": whole_number(1, MAX_WIDTH),
    "num_hidden_layers": whole_number(1, MAX_LAYERS),
    "num_attention_heads": whole_number(1, MAX_HEADS),
    "num_multi_query_heads": whole_number(1, MAX_HEADS),
    "max_position_embeddings": whole_number(1, MAX_POSITIONS),
}

TOKEN_ID = Need("the id of one token", whole_number(0, MAX_VOCABULARY).accepts)

CARRIED_OUT = {
    **SIZES,
    "bos_token_id": TOKEN_ID,
    "eos_token_id": TOKEN_ID,
    "pad_token_id": TOKEN_ID,
    "vision_config": Need("an object with the tower's sizes", OBJECT.accepts),
    "hidden_act": one_of(*ACTIVATIONS),
    "rms_norm_eps": EPSILON,
    "rope_theta": number(1.0, 1e12),
    "rope_precision": one_of("checkpoint", "fp32"),
    "template_version": one_of(*TEMPLATES),
    "tie_word_embeddings": FLAG,
}
"""Keys that decide what the model is."""

OPTIONAL = ("hidden_act", "rms_norm_eps", "rope_theta", "rope_precision", "template_version", "tie_word_embeddings")

VISION_CARRIED_OUT = {
    "hidden_size": whole_number(1, MAX_WIDTH),
    "intermediate_size": whole_number(1, MAX_WIDTH),
    "num_hidden_layers": whole_number(1, MAX_LAYERS),
    "num_heads": whole_number(1, MAX_HEADS),
    "image_size": whole_number(2, 16_384),
    "patch_size": whole_number(1, 4096),
    "in_channels": one_of(3),
    "num_positions": whole_number(2, 1 << 20),
    "hidden_act": one_of(*ACTIVATIONS),
    "layer_norm_eps": EPSILON,
    "dropout_prob": Need("0.0: the published tower has no dropout", number(0, 0).accepts),
}

VISION_OPTIONAL = ("hidden_act", "layer_norm_eps", "dropout_prob")

RECORDED = {
    "architectures": ANYTHING,  # by which the family is found
    "auto_map": OBJECT,
    "model_type": text(),
    "torch_dtype": either(text(), NULL),
    "dtype": either(text(), NULL),
    "transformers_version": either(text(), NULL),
    "_name_or_path": ANYTHING,
    "_commit_hash": ANYTHING,
    "initializer_range": number(0, 1000),
    "use_cache": FLAG,
    "encodes_frames": one_of(True),
    "keys_to_ignore_at_inference": ANYTHING,
    "tokenizer_class": ANYTHING,
    "task_specific_params": ANYTHING,
    "id2label": ANYTHING,
    "label2id": ANYTHING,
    "num_labels": ANYTHING,
    "problem_type": ANYTHING,
    "finetuning_task": ANYTHING,
}
"""Keys that change nothing of what is computed here: names, versions, fresh weights, tasks of other kinds."""

SAMPLING = (
    *("do_sample", "temperature", "top_k", "top_p", "typical_p", "min_p", "epsilon_cutoff", "eta_cutoff"),
    *("max_length", "max_new_tokens"),
)
"""Keys of sampled answers, and their length, which every command is told by its own settings. Answers here are greedy."""

NEUTRAL: dict[str, Any] = {
    "add_cross_attention": False,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "attn_logit_softcapping": None,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "embedding_multiplier": 1.0,
    "final_logit_softcapping": None,
    "hidden_dropout_prob": 0.0,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "mlp_bias": False,
    "num_experts": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "partial_rotary_factor": 1.0,
    "pretraining_tp": 1,
    "pruned_heads": {},
    "residual_multiplier": 1.0,
    "return_dict": True,
    "sliding_window": None,
    "tie_encoder_decoder": False,
    "torchscript": False,
    "use_bfloat16": False,
    "use_qk_norm": False,
    "use_sliding_window": False,
}
"""Keys of relatives and of transformers itself -> the value with which they change nothing, which the model here does."""

KERNELS = ("eager", "sdpa", "flash_attention_2", None)

INSTEAD = {
    "quantization_config": "no quantized weights: a recipe quantizes them with `model.quantize`",
    "rope_scaling": "no scaling, or `rope_theta` alone",
    "rope_parameters": "no scaling, or `rope_theta` alone",
}


def check_config(config: Mapping[str, Any]) -> list[Problem]:
    """Compares a config.json with what the model here carries out.

    Args:
        config: Keys and values of the file.

    Returns:
        A problem for every key that is absent, of another kind, or would have no effect.
    """
    problems = check_object(
        config, {**CARRIED_OUT, **RECORDED}, where=CONFIG_FILE, optional=(*OPTIONAL, *RECORDED), others=_judge
    )
    vision = config.get("vision_config")
    if isinstance(vision, dict):
        where = f"{CONFIG_FILE}: vision_config"
        problems += [
            Problem(problem.where.replace(f"{where}: ", f"{where}."), problem.got, problem.need, problem.hint)
            for problem in check_object(
                vision, VISION_CARRIED_OUT, where=where, optional=VISION_OPTIONAL, others=_judge_vision
            )
        ]
    return problems or _find_misfits(config)


def _judge(key: str, value: Any) -> Problem | None:
    """Says what is wrong with a key that is neither carried out nor recorded."""
    where = f"{CONFIG_FILE}: {key}"
    if value is None or key in SAMPLING:
        return None
    if key in ("_attn_implementation", "attn_implementation", "_attn_implementation_internal"):
        return None if value in KERNELS else Problem(where, show(value), " or ".join(map(show, KERNELS)))
    if key in ("rope_scaling", "rope_parameters") and _is_no_scaling(value):
        return None
    if key in ("num_key_value_heads", "head_dim"):  # told apart from what they follow from, below
        return None
    if key in INSTEAD:
        return Problem(where, show(value), INSTEAD[key])
    if key in NEUTRAL:
        neutral = NEUTRAL[key]
        same = value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
        return None if same else Problem(where, show(value), f"{show(neutral)}: the model has nothing else")
    hint = "remove the key if it changes nothing of what the model computes"
    return Problem(where, show(value), "no such key: nothing here would obey it", hint)


def _judge_vision(key: str, value: Any) -> Problem | None:
    if value is None or key in ("model_type", "torch_dtype", "dtype", "transformers_version", "architectures"):
        return None
    hint = "remove the key if it changes nothing of what the tower computes"
    return Problem(f"{CONFIG_FILE}: vision_config: {key}", show(value), "no such key: nothing here would obey it", hint)


def _is_no_scaling(value: Any) -> bool:
    return isinstance(value, dict) and value in ({}, {"rope_type": "default"}, {"type": "default"})


def _find_misfits(config: Mapping[str, Any]) -> list[Problem]:
    """Checks that sizes which are right by themselves fit each other."""
    problems = []

    def refuse(key: str, got: Any, need: str) -> None:
        problems.append(Problem(f"{CONFIG_FILE}: {key}", show(got), need))

    width, heads, shared = (config[key] for key in ("hidden_size", "num_attention_heads", "num_multi_query_heads"))
    if width % (2 * heads):
        refuse(
            "hidden_size", width, f"a multiple of twice num_attention_heads, {heads}: positions rotate pairs of a head"
        )
    if heads % shared:
        refuse("num_attention_heads", heads, f"a multiple of num_multi_query_heads, {shared}")
    if config.get("num_key_value_heads", shared) not in (shared, None):
        refuse("num_key_value_heads", config["num_key_value_heads"], f"num_multi_query_heads, {shared}, or none")
    if width % heads == 0 and config.get("head_dim", width // heads) not in (width // heads, None):
        refuse("head_dim", config["head_dim"], f"hidden_size / num_attention_heads, {width // heads}, or none")
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if config[key] >= config["vocab_size"]:
            refuse(key, config[key], f"an id below vocab_size, {config['vocab_size']}")
    vision = config["vision_config"]
    if vision["hidden_size"] % vision["num_heads"]:
        refuse("vision_config.hidden_size", vision["hidden_size"], f"a multiple of num_heads, {vision['num_heads']}")
    side = vision["image_size"] // vision["patch_size"]
    if vision["image_size"] % vision["patch_size"] or side % 2 or vision["num_positions"] != side * side + 1:
        sizes = {key: vision[key] for key in ("image_size", "patch_size", "num_positions")}
        need = "an even number of patches along a side, and num_positions of its square plus one"
        refuse("vision_config", sizes, need)
    return problems
