"""Greedy answers: encoded prompts in, text out, in left-padded batches of rows with clips of any length.

rows -> one prefix per clip, whose keys and values are computed once -> [prefix | question] per row -> new tokens -> text
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TextStreamer

from cvft.families.cogvlm2_video.network.grouping import split_row
from cvft.families.family import Answer

if TYPE_CHECKING:
    from cvft.families.cogvlm2_video.network.modeling import CogVLM2VideoForCausalLM
    from cvft.families.cogvlm2_video.network.processor import CogVLM2VideoProcessor


def generate_answers(
    model: CogVLM2VideoForCausalLM,
    processor: CogVLM2VideoProcessor,
    rows: Sequence[Mapping[str, Tensor]],
    *,
    max_new_tokens: int | Sequence[int],
    clips: Sequence[Hashable] | None = None,
    on_text: Callable[[str], object] | None = None,
) -> list[Answer]:
    """Answers one batch of prompts greedily.

    Args:
        model: The model, or a peft model around it.
        processor: The processor that encoded the rows.
        rows: Prompts as `CogVLM2VideoProcessor.encode` returns them without a response.
        max_new_tokens: Longest answer in tokens, of all rows or of each; a longer one is cut there.
        clips: What tells the rows' clips apart: rows with equal values share one clip, which is computed once. None for rows
            that share none.
        on_text: Called with each piece of the answer to a single row as it comes.

    Returns:
        One answer per row.
    """
    limits = [max_new_tokens] * len(rows) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    names: list[Hashable] = list(range(len(rows))) if clips is None else list(clips)
    firsts = list(dict.fromkeys(names))
    parts = [split_row(row) for row in rows]
    prefixes = processor.collate([parts[names.index(name)][0] for name in firsts], padding_side="left")
    questions = processor.collate([question for _, question in parts], padding_side="left")
    row_to_prefix = torch.tensor([firsts.index(name) for name in names])  # on the CPU: layers may lie on several GPUs
    prefixes, questions = (
        {key: value.to(model.device) for key, value in batch.items() if key not in ("labels", "segment_ids")}
        for batch in (prefixes, questions)
    )
    with torch.inference_mode():
        cache = model(**prefixes, use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_select_indices(row_to_prefix)
        whole = {key: torch.cat((prefixes[key][row_to_prefix], value), dim=1) for key, value in questions.items()}
        sequences = model.generate(
            **whole,
            past_key_values=cache,
            max_new_tokens=max(limits),
            do_sample=False,
            num_beams=1,
            eos_token_id=model.generation_config.eos_token_id,
            pad_token_id=processor.special.vision,
            streamer=None if on_text is None else _Streamer(processor.tokenizer, on_text),
            repetition_penalty=1.0,  # all stated, because a folder's generation_config.json may say otherwise
        )
    new_ids = sequences[:, whole["input_ids"].shape[1] :].tolist()
    # a row knows nothing of the others: what it says beyond its own limit, for a longer one beside it, is not its answer
    kept = [ids[:limit] for ids, limit in zip(new_ids, limits, strict=True)]
    texts = processor.tokenizer.batch_decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [
        Answer(text.strip(), is_cut=processor.special.eos not in ids) for text, ids in zip(texts, kept, strict=True)
    ]


class _Streamer(TextStreamer):
    """Hands on text as soon as later tokens cannot change it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_text: Callable[[str], object]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        self.on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Takes a piece; called by transformers."""
        self.on_text(text)
