"""Builds the tokenizers of the tiny models: byte-level BPE under the pre-tokenizer of Llama 3.

Generated text -> `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`. Every integer 0..99 is one token,
as every integer 0..999 is in the published vocabulary, so a time index is one token. Any text can be encoded: what is not
a known word falls back to bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from cvft.tiny.questions import CATEGORIES, ask
from cvft.tiny.world import MAX_SECONDS, sample_scene

VOCAB_SIZE = 768
BOS_TOKEN = "<|begin_of_text|>"
EOS_TOKEN = "<|end_of_text|>"
PAD_TOKEN = "<|reserved_special_token_0|>"
"""Padding, and the placeholder under vision tokens. Source: the published model uses this very token for both."""

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Pre-tokenizer of Llama 3: digits in groups of one to three. Source: the published tokenizer.json."""

GENERAL_ENGLISH = (
    "Please describe this video in detail. The video shows a person in a room. Is there anything on the left or on the "
    "right? Yes, it is. No, it is not. How long does it take until the light turns green? The driver must stop, go or "
    "wait. Give the answer as a list: start, end, begin, before, after, between, during, then, while, first, second, "
    "third. "
    "Which one was it, and where did it come from? They were there with him and her for about two hours this morning. "
    "A man, a woman and a child walk along the street; cars, people and a dog move slowly or quickly past the house. "
    "Someone opens the door, takes the cup from the table, puts it down again and looks at the camera. "
    "Why would you think so? Because most other things have been made by hand, and only some of these could be used. "
    "The background is dark, the foreground is bright; small, large, top, bottom, up, down, near, far, black, orange. "
)
"""A little text beyond the world, so that a user's own words split into fewer pieces."""


TEXT_CATEGORIES: tuple[str, ...] = tuple(name for name in CATEGORIES if name != "first_and_last")
"""Categories whose text is learnt; the one left out came later and has no word of its own, so the ids could stay."""


def _corpus(*, num_scenes: int, seed: int, words: tuple[str, ...]) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    for _ in range(num_scenes):
        scene = sample_scene(rng, num_seconds=int(rng.integers(3, MAX_SECONDS + 1)))
        for category in TEXT_CATEGORIES:
            for question, answer in ask(scene, category=category):
                yield f"Question: {question} Answer:"
                yield answer
    for _ in range(20):
        yield from GENERAL_ENGLISH.split(". ")
    for _ in range(50):
        # twice as often as any other pair of digits could come, so that each is merged
        yield from (str(number) for number in range(10, 100))
        yield from words


def train_words(
    *, special_tokens: tuple[str, ...], vocab_size: int, words: tuple[str, ...] = (), num_scenes: int = 300, seed: int
) -> Tokenizer:
    """Trains the byte-level BPE that the tiny models share.

    Args:
        special_tokens: What comes first in the vocabulary.
        vocab_size: Entries.
        words: Words that the world's text lacks.
        num_scenes: Scenes whose questions and answers make the text.
        seed: Seed of the scenes.
    """
    tokenizer = Tokenizer(BPE())
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated", invert=False)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(num_scenes=num_scenes, seed=seed, words=words), trainer=trainer)
    return tokenizer


def build_tokenizer(*, num_scenes: int = 300, seed: int = 0) -> PreTrainedTokenizerFast:
    """Trains the tokenizer of the tiny CogVLM2-Video.

    Args:
        num_scenes: Scenes whose questions and answers make the text.
        seed: Seed of the scenes.

    Returns:
        A tokenizer of `VOCAB_SIZE` entries with bos, eos and pad set.
    """
    tokenizer = train_words(
        special_tokens=(BOS_TOKEN, EOS_TOKEN, PAD_TOKEN), vocab_size=VOCAB_SIZE, num_scenes=num_scenes, seed=seed
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS_TOKEN,
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, *, folder: Path) -> None:
    """Writes the tokenizer files into a checkpoint folder, readable by transformers 4 and 5 alike.

    Args:
        tokenizer: As `build_tokenizer` returns it.
        folder: The checkpoint folder; files there are replaced.
    """
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    # transformers 5 writes its own class name, which version 4 does not know
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    names = {"bos_token": BOS_TOKEN, "eos_token": EOS_TOKEN, "pad_token": PAD_TOKEN}
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=2) + "\n")
