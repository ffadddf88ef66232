"""The real Llama-3 vocabulary, from the file that the `llama-models` wheel ships (read, not imported)."""

import functools
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 cuts text before merging. Source: Meta's Llama 3 tokenizer."""

SPECIAL_TOKENS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    *(f"<|reserved_special_token_{number}|>" for number in range(254)),
]
"""Tokens from id 128000 on, as far as the published layouts show them."""


def tokenizer_model_file() -> Path:
    files = importlib.metadata.files("llama-models") or []
    (found,) = [file for file in files if file.as_posix() == "llama_models/llama3/tokenizer.model"]
    return Path(str(found.locate()))


@functools.cache
def llama3_encode() -> Callable[[str], list[int]]:
    """Returns a function that encodes text without special tokens."""
    import base64

    import tiktoken

    ranks = {}
    for line in tokenizer_model_file().read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    encoding = tiktoken.Encoding("llama3", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})
    return lambda text: encoding.encode(text, disallowed_special=())


def write_tokenizer_json(folder: Path) -> None:
    """Writes the vocabulary as the `tokenizer.json` of a published checkpoint holds it, special tokens included."""
    (folder / "tokenizer.json").write_text(_tokenizer_json(), encoding="utf-8")


@functools.cache
def _tokenizer_json() -> str:
    from transformers.convert_slow_tokenizer import TikTokenConverter

    vocabulary = str(tokenizer_model_file())
    converter = TikTokenConverter(vocabulary, pattern=SPLIT_PATTERN, extra_special_tokens=SPECIAL_TOKENS)
    tokenizer = json.loads(converter.converted().to_str())
    # older releases of the tokenizers library, such as wrote the published file, join the two halves of a merge
    tokenizer["model"]["merges"] = [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    return json.dumps(tokenizer, indent=2, ensure_ascii=False)
