"""The tokenizer of a model folder, loaded so that digits stay whole: time indices are digits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cvft.errors import ModelError, Problem, quote

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NUM_CHECKED_INTEGERS = 24
"""Time indices that must be single tokens: the published sampling shows at most seconds 0 to 23."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Loads the fast tokenizer of a folder without looking at the folder's config or code.

    transformers 5 takes a local folder whose config has no `model_type` for a Mistral one and offers a "fix" that splits
    every digit, so the class is named here and the fix is off.

    Args:
        folder: Folder with `tokenizer.json`.

    Returns:
        The tokenizer.

    Raises:
        ModelError: when there is none, or when it does not encode each time index as one token.
    """
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"model {folder}",
            [Problem("tokenizer.json", "no such file", "the folder's fast tokenizer", "is the download complete?")],
        )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), fix_mistral_regex=False)
    split = [i for i in range(NUM_CHECKED_INTEGERS) if len(tokenizer.encode(str(i), add_special_tokens=False)) != 1]
    if split:
        raise ModelError(
            f"model {folder}",
            [
                Problem(
                    "tokenizer.json",
                    f"{quote(split[0])} in {len(tokenizer.encode(str(split[0]), add_special_tokens=False))} tokens",
                    f"one token for each integer 0..{NUM_CHECKED_INTEGERS - 1}: they are the time indices",
                    "use the tokenizer files that the checkpoint was published with",
                )
            ],
        )
    return tokenizer
