"""tokenizer.json of tiny models: byte-level BPE that knows the words of a toy world, with special tokens behind it."""

from collections.abc import Mapping, Sequence
from typing import Any

WORDS = (
    *(
        "system",
        "user",
        "assistant",
        "Frame",
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
        "circle",
        "square",
        "dog",
    ),
    *("left", "right", "up", "down", "yes", "no", "at", "second", "video", "clip", "person", "cat", "door", "bird"),
)


def tokenizer_json(
    *, first_special: int, special: Sequence[str], not_special: Sequence[str], pattern: str
) -> dict[str, Any]:
    """The vocabulary ends before `first_special`, and special tokens follow it without a gap: whoever states a published id
    instead of reading it is found out."""
    letters = byte_letters()
    vocab = {letter: number for number, letter in enumerate(letters.values())}
    merges = []
    for word in sorted({*WORDS, *(f" {word}" for word in WORDS)}):
        whole = ""
        for letter in (letters[byte] for byte in word.encode()):
            if whole and whole + letter not in vocab:
                if len(vocab) == first_special:
                    break
                vocab[whole + letter] = len(vocab)
                merges.append([whole, letter])
            whole += letter
    assert len(vocab) == first_special, len(vocab)
    added = [
        {
            **{"id": first_special + number, "content": token, "single_word": False, "lstrip": False, "rstrip": False},
            **{"normalized": False, "special": token in special},
        }
        for number, token in enumerate((*special, *not_special))
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
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


def tokenizer_config(tokenizer: Mapping[str, Any], **values: Any) -> dict[str, Any]:
    """tokenizer_config.json of it."""
    added = tokenizer["added_tokens"]
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in added
        },
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "unk_token": None,
        **values,
    }


def byte_letters() -> dict[int, str]:
    """The letter that byte-level BPE writes for each byte. Source: GPT-2."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + number) for number, byte in enumerate(hidden)}
