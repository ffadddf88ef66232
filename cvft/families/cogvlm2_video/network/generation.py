"""Greedy answers: encoded prompts in, text out, in left-padded batches of rows with clips of any length.

rows -> one prefix per clip, whose keys and values are computed once -> [prefix | question] per row -> new tokens -> text
rows without a question -> a batch of their own, computed whole
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
    bare = [number for number, row in enumerate(rows) if not len(split_row(row)[1]["input_ids"])]
    answers: dict[int, Answer] = {}
    stop = model.generation_config.eos_token_id
    stops = set(stop if isinstance(stop, list) else [stop])
    for numbers in (bare, [number for number in range(len(rows)) if number not in bare]):
        if not numbers:
            continue
        asked = [rows[number] for number in numbers]
        with torch.inference_mode():
            if numbers is bare:
                inputs = _model_inputs(model, processor, asked)
            else:
                inputs = _compute_prefixes(model, processor, asked, clips=[names[number] for number in numbers])
            sequences = model.generate(
                **inputs,
                max_new_tokens=max(limits[number] for number in numbers),
                do_sample=False,
                num_beams=1,
                eos_token_id=model.generation_config.eos_token_id,
                pad_token_id=processor.special.vision,
                streamer=None if on_text is None else _Streamer(processor.tokenizer, on_text),
                repetition_penalty=1.0,  # all stated, because a folder's generation_config.json may say otherwise
            )
        new_ids = sequences[:, inputs["input_ids"].shape[1] :].tolist()
        # a row knows nothing of the others: what it says beyond its own limit, for a longer one beside it, is not its answer
        kept = [ids[: limits[number]] for number, ids in zip(numbers, new_ids, strict=True)]
        texts = processor.tokenizer.batch_decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for number, ids, text in zip(numbers, kept, texts, strict=True):
            answers[number] = Answer(text.strip(), is_cut=stops.isdisjoint(ids))
    return [answers[number] for number in range(len(rows))]


def _model_inputs(
    model: CogVLM2VideoForCausalLM, processor: CogVLM2VideoProcessor, rows: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Returns rows as one left-padded batch on the model's device."""
    batch = processor.collate(rows, padding_side="left")
    return {key: value.to(model.device) for key, value in batch.items() if key not in ("labels", "segment_ids")}


def _compute_prefixes(
    model: CogVLM2VideoForCausalLM,
    processor: CogVLM2VideoProcessor,
    rows: Sequence[Mapping[str, Tensor]],
    *,
    clips: Sequence[Hashable],
) -> dict[str, Any]:
    """Returns rows as one batch, with the keys and values of each clip's prefix, computed once.

    Every row must have a question: what its first token is predicted from would lie in the cache otherwise.
    """
    firsts = list(dict.fromkeys(clips))
    parts = [split_row(row) for row in rows]
    prefixes = _model_inputs(model, processor, [parts[clips.index(clip)][0] for clip in firsts])
    questions = _model_inputs(model, processor, [question for _, question in parts])
    row_to_prefix = torch.tensor([firsts.index(clip) for clip in clips])  # on the CPU: layers may lie on several GPUs
    cache = model(**prefixes, use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_select_indices(row_to_prefix)
    whole = {key: torch.cat((prefixes[key][row_to_prefix], value), dim=1) for key, value in questions.items()}
    return {**whole, "past_key_values": cache}


class _Streamer(TextStreamer):
    """Hands on text as soon as later tokens cannot change it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_text: Callable[[str], object]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        self.on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Takes a piece; called by transformers."""
        self.on_text(text)
