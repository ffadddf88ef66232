"""Rows that are answered together, token by token: any may join at any step, and any may leave.

clip -> its prefix, computed beside others or kept -> cache (1, P), for each of its questions
questions (b, Q) behind their prefixes, or whole prompts without a clip -> caches, and logits of the first tokens
all caches -> one (B, L), padded on the left -> at every step, one token (B, 1) in and logits of the next one out
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from cvft.families.answering import Answer, Drawing, Token
from cvft.families.network.cache import join_caches, take_rows
from cvft.families.network.detokenize import Detokenizer
from cvft.families.network.drawing import TokenDraw
from cvft.families.network.grouping import CLIP_KEYS, split_row
from cvft.families.network.prefixes import KeptPrefixes

PREFIX_TOKENS_TOGETHER = 1024
"""Most tokens of several prefixes that are computed in one call, padding included: beyond, a call takes as long as its tokens,
and a clip of a full-size model is always computed alone."""

_Sequence = Mapping[str, Tensor]


class Batcher(Protocol):
    """What makes a model's inputs of rows."""

    tokenizer: Any

    pads_questions: bool
    """Whether prefixes and questions of other lengths may be padded: a recurrent layer would read the padding."""

    @property
    def padding_id(self) -> int:
        """Id that fills up a batch."""

    def collate(
        self, rows: Sequence[Mapping[str, Tensor]], *, padding_side: Literal["left", "right"] = "right"
    ) -> dict[str, Any]:
        """Pads rows to one batch (B, L)."""

    def model_inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns what of a batch the model is called with to answer."""


@dataclass(eq=False)
class _Row:
    number: int
    limit: int
    detokenizer: Detokenizer | None
    draw: TokenDraw | None
    ids: list[int] = field(default_factory=list)
    has_ended: bool = False


@dataclass
class _Batch:
    """What rows have behind them.

    Args:
        rows: Which rows.
        cache: Their keys, values and states (B, L).
        seen: (B, L) 0 for padding.
        last: Position of the last token of each, (B, 1) or (B, 1, 3).
        logits: (B, V) of the next token.
    """

    rows: list[_Row]
    cache: Any
    seen: Tensor
    last: Tensor
    logits: Tensor


class RunningRows:
    """One batch; see `cvft.families.answering.Answering`.

    Args:
        model: The model, or a peft model around it.
        batcher: What encoded the rows.
        kept: Prefixes of clips, from and for other batches of the same model.
        with_text: Whether tokens come with the text that they make certain.
    """

    def __init__(
        self, model: Any, batcher: Batcher, *, kept: KeptPrefixes | None = None, with_text: bool = True
    ) -> None:
        self._model = model
        self._device = model.device
        self._batcher = batcher
        self._kept = KeptPrefixes(0) if kept is None else kept
        self._with_text = with_text
        stop = model.generation_config.eos_token_id
        self._stops = set(stop if isinstance(stop, list) else [stop])
        self._numbers = itertools.count()
        self._batch: _Batch | None = None

    @torch.inference_mode()
    def join(
        self,
        prompts: Sequence[Mapping[str, Tensor]],
        *,
        max_new_tokens: Sequence[int],
        clips: Sequence[Hashable],
        drawings: Sequence[Drawing | None],
    ) -> list[Token]:
        """Adds rows, and returns their first tokens."""
        rows = [
            _Row(
                number=next(self._numbers),
                limit=limit,
                detokenizer=Detokenizer(self._batcher.tokenizer) if self._with_text else None,
                draw=None if drawing is None else TokenDraw(drawing),
            )
            for limit, drawing in zip(max_new_tokens, drawings, strict=True)
        ]
        parts = [split_row(prompt) for prompt in prompts]
        split = self._split(parts)
        with_clips = [number for numbers, has_prefix in split if has_prefix for number in numbers]
        keys = {number: _key(clips[number], parts[number][0]) for number in with_clips}
        prefixes = self._prefixes({keys[number]: parts[number][0] for number in reversed(with_clips)})
        batches = []
        for numbers, has_prefix in split:
            those = [rows[number] for number in numbers]
            if has_prefix:
                of_each = [prefixes[keys[number]] for number in numbers]
                batches.append(self._read([parts[number][1] for number in numbers], rows=those, prefixes=of_each))
            else:
                batches.append(self._read([prompts[number] for number in numbers], rows=those))
        tokens = {token.row: token for batch in batches for token in self._say(batch)}
        self._drop_ended()
        self._batch = _join([*([] if self._batch is None else [self._batch]), *batches])
        return [tokens[row.number] for row in rows]

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """Returns one more token for every row that runs."""
        self._drop_ended()
        batch = self._batch
        if batch is None:
            return []
        positions, seen = batch.last + 1, torch.cat((batch.seen, torch.ones_like(batch.seen[:, :1])), dim=1)
        tokens = torch.tensor([[row.ids[-1]] for row in batch.rows], device=self._device)
        inputs = self._batcher.model_inputs({"input_ids": tokens, "attention_mask": seen, "position_ids": positions})
        outputs = self._model(**inputs, past_key_values=batch.cache, use_cache=True)
        self._batch = _Batch(batch.rows, outputs.past_key_values, seen, positions, outputs.logits[:, -1])
        return self._say(self._batch)

    def leave(self, row: int) -> Answer:
        """Ends a row that runs, and returns what it has said."""
        assert self._batch is not None, "a row that runs"
        (found,) = (each for each in self._batch.rows if each.number == row)
        found.has_ended = True
        return self._answer(found)

    def _split(self, parts: Sequence[tuple[_Sequence, _Sequence]]) -> list[tuple[list[int], bool]]:
        """Returns the numbers of prompts that are read together, and whether they are questions behind the prefix of a clip.

        What a question's first token is predicted from must be computed with it: one without a token is read as a whole.
        """
        together: dict[tuple[bool, int], list[int]] = {}
        for number, (prefix, question) in enumerate(parts):
            num_asked = len(question["input_ids"])
            has_prefix = num_asked > 0 and any(key in prefix for key in CLIP_KEYS)
            length = num_asked if has_prefix else len(prefix["input_ids"]) + num_asked
            together.setdefault((has_prefix, 0 if self._batcher.pads_questions else length), []).append(number)
        return [(numbers, has_prefix) for (has_prefix, _), numbers in together.items()]

    def _prefixes(self, prefixes: Mapping[Hashable, _Sequence]) -> dict[Hashable, Any]:
        """Returns the cache (1, P) of each clip's prefix: kept, or computed beside others."""
        found = {clip: self._kept.find(clip) for clip in prefixes}
        new = {clip: len(prefixes[clip]["input_ids"]) for clip, cache in found.items() if cache is None}
        for clips in self._together(new):
            batch = self._padded([prefixes[clip] for clip in clips], side="right")
            # none of a prefix's tokens sees what is padded behind them: nothing needs to be masked
            batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
            inputs = self._batcher.model_inputs(batch)
            cache = self._model(**inputs, use_cache=True, logits_to_keep=1).past_key_values
            for row, clip in enumerate(clips):
                own = cache if len(clips) == 1 else take_rows(cache, torch.tensor([row]), end=new[clip])
                found[clip] = own
                self._kept.keep(clip, own)
        return found

    def _together(self, lengths: Mapping[Hashable, int]) -> Iterator[list[Hashable]]:
        """Yields prefixes that are computed in one call, those of like length beside each other."""
        batch: list[Hashable] = []
        for clip in sorted(lengths, key=lengths.__getitem__):
            fits = (len(batch) + 1) * lengths[clip] <= PREFIX_TOKENS_TOGETHER
            # a recurrent layer would read the padding
            if batch and not (fits and (self._batcher.pads_questions or lengths[batch[0]] == lengths[clip])):
                yield batch
                batch = []
            batch.append(clip)
        if batch:
            yield batch

    def _read(
        self, prompts: Sequence[Mapping[str, Tensor]], *, rows: list[_Row], prefixes: Sequence[Any] = ()
    ) -> _Batch:
        """Computes prompts up to their first token, behind the prefixes of their clips if any."""
        batch = self._padded(prompts, side="left")
        cache = join_caches(prefixes) if prefixes else None
        if prefixes:
            lengths = torch.tensor([prefix.get_seq_length() for prefix in prefixes])
            places = torch.arange(int(lengths.max()))
            before = (places >= lengths.max() - lengths[:, None]).to(batch["attention_mask"])
            batch["attention_mask"] = torch.cat((before, batch["attention_mask"]), dim=1)
        inputs = self._batcher.model_inputs(batch)
        outputs = self._model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return _Batch(
            rows,
            outputs.past_key_values,
            batch["attention_mask"],
            batch["position_ids"][:, -1:],
            outputs.logits[:, -1],
        )

    def _padded(self, rows: Sequence[Mapping[str, Tensor]], *, side: Literal["left", "right"]) -> dict[str, Tensor]:
        """Returns the tensors of rows as one padded batch on the model's device."""
        batch = self._batcher.collate(rows, padding_side=side)
        return {key: value.to(self._device) for key, value in batch.items() if isinstance(value, Tensor)}

    def _say(self, batch: _Batch) -> list[Token]:
        """Chooses the next token of each row of a batch."""
        ids = batch.logits.argmax(dim=-1).tolist()
        tokens = []
        for place, row in enumerate(batch.rows):
            token = ids[place] if row.draw is None else row.draw.draw(batch.logits[place])
            row.ids.append(token)
            row.has_ended = token in self._stops or len(row.ids) >= row.limit
            piece = "" if row.detokenizer is None else row.detokenizer.add(token, is_last=row.has_ended)
            tokens.append(Token(row.number, piece, self._answer(row) if row.has_ended else None))
        return tokens

    def _answer(self, row: _Row) -> Answer:
        text = self._batcher.tokenizer.decode(row.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Answer(text.strip(), is_cut=row.ids[-1] not in self._stops)

    def _drop_ended(self) -> None:
        batch = self._batch
        if batch is None or not any(row.has_ended for row in batch.rows):
            return
        places = [place for place, row in enumerate(batch.rows) if not row.has_ended]
        if not places:
            self._batch = None
            return
        rows = torch.tensor(places)
        own = rows.to(batch.seen.device)
        start = int(batch.seen[own].any(dim=0).int().argmax())
        self._batch = _Batch(
            [batch.rows[place] for place in places],
            take_rows(batch.cache, rows, start=start),
            batch.seen[own, start:],
            batch.last[own],
            batch.logits[own],
        )


def _key(clip: Hashable, prefix: _Sequence) -> Hashable:
    """Returns what tells a prefix from others: its clip, and its ids, for rows may have system texts of their own before it."""
    return clip, prefix["input_ids"].cpu().numpy().tobytes()


def _join(batches: Sequence[_Batch]) -> _Batch:
    """Puts rows together; those with less behind them are padded on the left."""
    if len(batches) == 1:
        return batches[0]
    longest = max(batch.seen.shape[1] for batch in batches)
    seen = [torch.nn.functional.pad(batch.seen, (longest - batch.seen.shape[1], 0)) for batch in batches]
    return _Batch(
        [row for batch in batches for row in batch.rows],
        join_caches([batch.cache for batch in batches]),
        torch.cat(seen),
        torch.cat([batch.last for batch in batches]),
        torch.cat([batch.logits for batch in batches]),
    )
