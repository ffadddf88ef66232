"""Answers: encoded prompts in, text out, in left-padded batches of rows with clips of any length. Greedy, unless they are drawn.

rows -> one prefix per clip, whose keys and values are computed once -> [prefix | question] per row -> new tokens -> text
rows without a question -> a batch of their own, computed whole
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from cvft.families.cogvlm2_video.network.grouping import split_row
from cvft.families.cogvlm2_video.network.listening import Listeners
from cvft.families.cogvlm2_video.network.prefixes import KeptPrefixes
from cvft.families.family import Answer, Drawing, OnText

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
    on_text: OnText | None = None,
    drawing: Drawing | None = None,
    kept: KeptPrefixes | None = None,
) -> list[Answer]:
    """Answers one batch of prompts.

    Args:
        model: The model, or a peft model around it.
        processor: The processor that encoded the rows.
        rows: Prompts as `CogVLM2VideoProcessor.encode` returns them without a response.
        max_new_tokens: Longest answer in tokens, of all rows or of each; a longer one is cut there.
        clips: What tells the rows' clips apart: rows with equal values share one clip, which is computed once. None for rows
            that share none.
        on_text: See `cvft.families.family.Runtime.generate`.
        drawing: How to draw each token of a single row; None takes the likeliest.
        kept: Prefixes of earlier batches. Only a batch about one clip uses and fills it: the numbers are then those of the same
            batch without it, bit for bit.

    Returns:
        One answer per row.
    """
    assert drawing is None or len(rows) == 1, "what is drawn for a row must not depend on the rows beside it"
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
        of_each = [limits[number] for number in numbers]
        listeners = Listeners(processor.tokenizer, numbers=numbers, limits=of_each, stops=stops, on_text=on_text)
        with torch.inference_mode(), _drawing(model, drawing) as choice:
            if numbers is bare:
                inputs = _model_inputs(model, processor, asked)
            else:
                of_rows = [names[number] for number in numbers]
                inputs = _compute_prefixes(model, processor, asked, clips=of_rows, kept=kept)
            sequences = model.generate(
                **inputs,
                **choice,
                max_new_tokens=max(of_each),
                num_beams=1,
                eos_token_id=model.generation_config.eos_token_id,
                pad_token_id=processor.special.vision,
                streamer=listeners,
                stopping_criteria=StoppingCriteriaList([listeners]),
                repetition_penalty=1.0,  # all stated, because a folder's generation_config.json may say otherwise
            )
        new_ids = sequences[:, inputs["input_ids"].shape[1] :].tolist()
        # a row knows nothing of the others: what it says beyond its own limit, for a longer one beside it, is not its answer
        own_ids = [ids[: limits[number]] for number, ids in zip(numbers, new_ids, strict=True)]
        texts = processor.tokenizer.batch_decode(own_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for number, ids, text in zip(numbers, own_ids, texts, strict=True):
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
    kept: KeptPrefixes | None,
) -> dict[str, Any]:
    """Returns rows as one batch, with the keys and values of each clip's prefix, computed once.

    Every row must have a question: what its first token is predicted from would lie in the cache otherwise.
    """
    firsts = list(dict.fromkeys(clips))
    parts = [split_row(row) for row in rows]
    questions = _model_inputs(model, processor, [question for _, question in parts])
    row_to_prefix = torch.tensor([firsts.index(clip) for clip in clips])  # on the CPU: layers may lie on several GPUs
    found = kept.find(firsts[0]) if kept is not None and len(firsts) == 1 else None
    if found is not None:
        prefixes, cache = found
    else:
        prefixes = _model_inputs(model, processor, [parts[clips.index(clip)][0] for clip in firsts])
        cache = model(**prefixes, use_cache=True, logits_to_keep=1).past_key_values
        if kept is not None and len(firsts) == 1:
            kept.keep(firsts[0], {key: prefixes[key] for key in questions}, cache)
    cache.batch_select_indices(row_to_prefix)
    whole = {key: torch.cat((prefixes[key][row_to_prefix], value), dim=1) for key, value in questions.items()}
    return {**whole, "past_key_values": cache}


@contextlib.contextmanager
def _drawing(model: CogVLM2VideoForCausalLM, drawing: Drawing | None) -> Iterator[dict[str, Any]]:
    """Gives the settings of generation, with random numbers from the drawing's seed; afterwards the generators are as before."""
    if drawing is None:
        yield {"do_sample": False}
        return
    with torch.random.fork_rng():
        torch.manual_seed(drawing.seed)
        yield {"do_sample": True, "temperature": drawing.temperature, "top_p": drawing.top_p, "top_k": 0}
