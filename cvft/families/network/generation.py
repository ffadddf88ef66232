"""Answers: encoded prompts in, text out, in left-padded batches of rows with clips of any length. Greedy, unless they are drawn.

rows -> one prefix per clip, whose keys and values are computed once -> [prefix | question] per row -> new tokens -> text
rows without a question -> a batch of their own, computed whole
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from cvft.families.family import Answer, Drawing, OnText
from cvft.families.network.cache import select_rows
from cvft.families.network.grouping import split_row
from cvft.families.network.listening import Listeners
from cvft.families.network.prefixes import KeptPrefixes


class Batcher(Protocol):
    """What makes a model's inputs of rows."""

    tokenizer: Any

    pads_questions: bool
    """Whether questions of other lengths may be padded behind their prefix: a recurrent layer would read the padding."""

    @property
    def padding_id(self) -> int:
        """Id that fills up a batch."""

    def collate(
        self, rows: Sequence[Mapping[str, Tensor]], *, padding_side: Literal["left", "right"] = "right"
    ) -> dict[str, Any]:
        """Pads rows to one batch (B, L)."""

    def model_inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns what of a batch the model is called with to answer."""


def generate_answers(
    model: Any,
    batcher: Batcher,
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
        batcher: What encoded the rows.
        rows: Prompts, encoded without a response.
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
    lengths = [len(split_row(row)[1]["input_ids"]) for row in rows]
    bare = [number for number, length in enumerate(lengths) if not length]
    asked_together: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        if length:
            asked_together.setdefault(0 if batcher.pads_questions else length, []).append(number)
    answers: dict[int, Answer] = {}
    stop = model.generation_config.eos_token_id
    stops = set(stop if isinstance(stop, list) else [stop])
    for numbers in (bare, *asked_together.values()):
        if not numbers:
            continue
        asked = [rows[number] for number in numbers]
        of_each = [limits[number] for number in numbers]
        listeners = Listeners(batcher.tokenizer, numbers=numbers, limits=of_each, stops=stops, on_text=on_text)
        with torch.inference_mode(), _drawing(model, drawing) as choice:
            if numbers is bare:
                inputs = batcher.model_inputs(_left_padded(model, batcher, asked))
            else:
                of_rows = [names[number] for number in numbers]
                inputs = _compute_prefixes(model, batcher, asked, clips=of_rows, kept=kept)
            sequences = model.generate(
                **inputs,
                **choice,
                max_new_tokens=max(of_each),
                num_beams=1,
                eos_token_id=model.generation_config.eos_token_id,
                pad_token_id=batcher.padding_id,
                streamer=listeners,
                stopping_criteria=StoppingCriteriaList([listeners]),
                repetition_penalty=1.0,  # all stated, because a folder's generation_config.json may say otherwise
            )
        new_ids = sequences[:, inputs["input_ids"].shape[1] :].tolist()
        # a row knows nothing of the others: what it says beyond its own limit, for a longer one beside it, is not its answer
        own_ids = [ids[: limits[number]] for number, ids in zip(numbers, new_ids, strict=True)]
        texts = batcher.tokenizer.batch_decode(own_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for number, ids, text in zip(numbers, own_ids, texts, strict=True):
            answers[number] = Answer(text.strip(), is_cut=stops.isdisjoint(ids))
    return [answers[number] for number in range(len(rows))]


def _left_padded(model: Any, batcher: Batcher, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Returns the tensors of rows as one left-padded batch on the model's device."""
    batch = batcher.collate(rows, padding_side="left")
    return {key: value.to(model.device) for key, value in batch.items() if isinstance(value, Tensor)}


def _compute_prefixes(
    model: Any,
    batcher: Batcher,
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
    questions = _left_padded(model, batcher, [question for _, question in parts])
    row_to_prefix = torch.tensor([firsts.index(clip) for clip in clips])  # on the CPU: layers may lie on several GPUs
    found = kept.find(firsts[0]) if kept is not None and len(firsts) == 1 else None
    if found is not None:
        prefixes, cache = found
    else:
        prefixes = _left_padded(model, batcher, [parts[clips.index(clip)][0] for clip in firsts])
        cache = model(**batcher.model_inputs(prefixes), use_cache=True, logits_to_keep=1).past_key_values
        prefixes = {key: prefixes[key] for key in questions if key in prefixes}
        if kept is not None and len(firsts) == 1:
            kept.keep(firsts[0], prefixes, cache)
    select_rows(cache, row_to_prefix)
    whole = {
        key: torch.cat((prefixes[key][row_to_prefix], value), dim=1)
        for key, value in questions.items()
        if key in prefixes
    }
    return {**batcher.model_inputs(whole), "past_key_values": cache}


@contextlib.contextmanager
def _drawing(model: Any, drawing: Drawing | None) -> Iterator[dict[str, Any]]:
    """Gives the settings of generation, with random numbers from the drawing's seed; afterwards the generators are as before."""
    if drawing is None:
        yield {"do_sample": False}
        return
    with torch.random.fork_rng():
        torch.manual_seed(drawing.seed)
        yield {"do_sample": True, "temperature": drawing.temperature, "top_p": drawing.top_p, "top_k": 0}
