"""Builds the tokenizer of the tiny Qwen3-VL: the words of the tiny world, one token for each time tag, Qwen's control tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from cvft.families.qwen_vl.tokenizer import PADDING, TURN_END
from cvft.tiny.checkpoint_files import write_json
from cvft.tiny.tokenizer import LLAMA3_PATTERN, train_words

NUM_WORDS = 765
"""Entries for text: as many as the tiny CogVLM2-Video has beside its control tokens."""

TIME_TAGS = tuple(f"<{tenths / 10:.1f} seconds>" for tenths in range(100))
"""What stands before a temporal grid of the first ten seconds; a later one falls into pieces."""

PATTERN = rf"<\p{{N}}\.\p{{N}} seconds>|{LLAMA3_PATTERN}"
"""Keeps a time tag together. Qwen's own takes every digit alone, which would make six tokens of a tag."""

SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
OTHER_ADDED_TOKENS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
"""Added tokens, in the published order; the latter are not called special. Source: the published tokenizer.json."""

FIRST_ADDED = NUM_WORDS + len(TIME_TAGS)

VOCAB_SIZE = 896
"""Entries of the embedding: more than there are tokens, and a multiple of 128, as published."""

MAX_TOKENS = 4096


def id_of(token: str) -> int:
    """Returns the id of an added token."""
    return FIRST_ADDED + (*SPECIAL_TOKENS, *OTHER_ADDED_TOKENS).index(token)


def build_qwen3_vl_tokenizer(*, seed: int = 0) -> Tokenizer:
    """Trains the words and puts the rest behind them.

    Args:
        seed: Seed of the scenes whose questions and answers make the text.
    """
    words = ("user", "assistant", "system", "seconds", "At", "When", "What", "How", "Is") * 50
    text = json.loads(train_words(special_tokens=(), vocab_size=NUM_WORDS, words=words, seed=seed).to_str())
    vocab: dict[str, int] = text["model"]["vocab"]
    assert len(vocab) == NUM_WORDS, len(vocab)
    for tag in TIME_TAGS:
        vocab[tag.replace(" ", "Ġ")] = len(vocab)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    added = [
        {
            **{"id": id_of(token), "content": token, "single_word": False, "lstrip": False, "rstrip": False},
            **{"normalized": False, "special": token in SPECIAL_TOKENS},
        }
        for token in (*SPECIAL_TOKENS, *OTHER_ADDED_TOKENS)
    ]
    text |= {
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
    }
    text["model"]["ignore_merges"] = True  # a time tag is one entry that no merge leads to
    return Tokenizer.from_str(json.dumps(text))


def as_fast_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Returns the tokenizer as transformers' class."""
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=TURN_END, pad_token=PADDING)


def save_qwen3_vl_tokenizer(tokenizer: Tokenizer, *, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json, readable by transformers 4 and 5 alike.

    Args:
        tokenizer: As `build_qwen3_vl_tokenizer` returns it.
        folder: The checkpoint folder; files there are replaced.
    """
    tokenizer.save(str(folder / "tokenizer.json"))
    added = json.loads(tokenizer.to_str())["added_tokens"]
    settings: dict[str, Any] = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in added
        },
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "errors": "replace",
        "model_max_length": MAX_TOKENS,
        "pad_token": PADDING,
        "split_special_tokens": False,
        # Qwen2Tokenizer would put its own pattern in the place of this one
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    write_json(settings, folder / "tokenizer_config.json")
