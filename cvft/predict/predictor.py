"""A model that answers rows, always fed as its contract says: a base, an adapter on its base, or a merged model.

rows -> clips (decoded, or their cached features) -> `Prompt`s -> answers in batches, one piece at a time, or logits
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cvft.clips.source import ClipSource
from cvft.data.rows import Row
from cvft.data.video.spec import ClipRef
from cvft.dtypes import BY_NAME
from cvft.errors import ClipError, CvftError, DataError
from cvft.families.answering import Answer, OnText
from cvft.families.runtime import Encoder, Runtime
from cvft.plan.lengths import check_answers_fit
from cvft.predict.batches import AnsweredBatch, make_batches
from cvft.predict.pieces import Pieces


@dataclass(frozen=True, eq=False)
class Prompt:
    """A row that is ready to be answered.

    Args:
        tensors: The row encoded without its response.
        clips: What tells its clips apart from those of others; none for a row of text only.
        max_new_tokens: Longest answer in tokens.
    """

    tensors: Mapping[str, Tensor]
    clips: tuple[ClipRef, ...]
    max_new_tokens: int

    @property
    def num_tokens(self) -> int:
        """Its length, the clip's tokens included."""
        return len(self.tensors["input_ids"])


class Predictor:
    """A model with everything that turns rows into its inputs.

    Args:
        model: The model, or a peft model around it.
        runtime: Torch half of its family.
        encoder: Turns rows into inputs.
        clips: Gives clips.
        uses_adapter: Whether an adapter that is loaded takes part; without it, the base answers.
        adapter: Which one, where several are loaded.
    """

    def __init__(
        self,
        model: Any,
        *,
        runtime: Runtime,
        encoder: Encoder,
        clips: ClipSource,
        uses_adapter: bool = True,
        adapter: str | None = None,
    ) -> None:
        self.model = model
        self.runtime = runtime
        self.encoder = encoder
        self.clips = clips
        self.uses_adapter = uses_adapter
        self.adapter = adapter

    def encode(self, row: Row, *, with_response: bool = False) -> dict[str, Tensor]:
        """Encodes a row, as a prompt or with its answer.

        Raises:
            ClipError: when one of its clips cannot be decoded.
        """
        clips = [self.clips.load(clip) for clip in row.videos]
        return self.encoder.encode(row, clips, with_response=with_response)

    def prepare(self, row: Row, *, max_new_tokens: int | None) -> Prompt:
        """Makes a row ready to be answered; the model takes no part in it.

        Args:
            row: The row; its response is not looked at.
            max_new_tokens: Longest answer in tokens; None as in `answer`.

        Raises:
            DataError: as `answer`.
            ClipError: when one of its clips cannot be decoded.
        """
        tensors = self.encode(row)
        (limit,) = check_answers_fit(
            [row],
            [len(tensors["input_ids"])],
            max_new_tokens=max_new_tokens,
            max_tokens=self.encoder.max_tokens,
        )
        return Prompt(tensors, row.videos, limit)

    def answer_prompts(
        self,
        prompts: Sequence[Prompt],
        *,
        on_text: OnText | None = None,
    ) -> list[Answer]:
        """Answers one batch greedily.

        Args:
            prompts: What `prepare` returned, at least one.
            on_text: As of `Runtime.generate`.

        Returns:
            One answer per prompt, in order.
        """
        with self.taking_part():
            return self.runtime.generate(
                self.model,
                self.encoder,
                [prompt.tensors for prompt in prompts],
                max_new_tokens=[prompt.max_new_tokens for prompt in prompts],
                clips=[prompt.clips or None for prompt in prompts],
                on_text=on_text,
            )

    def answer(
        self,
        rows: Sequence[Row],
        *,
        batch_rows: int,
        max_new_tokens: int | None,
        on_progress: Callable[[int], object] | None = None,
    ) -> list[Answer]:
        """Answers rows greedily.

        Args:
            rows: The rows; their responses are not looked at.
            batch_rows: Rows answered at a time.
            max_new_tokens: Longest answer in tokens; None takes what the prompt leaves, up to `MAX_NEW_TOKENS`.
            on_progress: Called with the number of rows of each finished batch.

        Returns:
            One answer per row, in order.

        Raises:
            DataError: when a row cannot be laid out, or leaves no room for its answer.
            ClipError: when a clip cannot be decoded.
        """
        answers: dict[int, Answer] = {}
        for batch in self.answer_batches(rows, batch_rows=batch_rows, max_new_tokens=max_new_tokens):
            for error in batch.bad.values():
                raise error
            answers.update(batch.answers)
            if on_progress is not None:
                on_progress(len(batch.answers))
        return [answers[number] for number in range(len(rows))]

    def answer_batches(
        self,
        rows: Sequence[Row],
        *,
        batch_rows: int,
        max_new_tokens: int | None,
        done: Collection[int] = (),
        share: tuple[int, int] = (0, 1),
    ) -> Generator[AnsweredBatch, None, None]:
        """Answers rows greedily, batch by batch; a row that cannot be shown to the model keeps no other from its answer.

        Args:
            rows: The rows; their responses are not looked at.
            batch_rows: Rows answered at a time.
            max_new_tokens: Longest answer in tokens; None as in `answer`.
            done: Numbers of rows, from 0, that have their answers already. The others are answered as if these were answered too,
                in the same batches, so that what was begun goes on with the same bits.
            share: Rank and number of ranks that share the batches out among them; every batch is the same for any number.

        Yields:
            The outcome of each batch.
        """
        rank, num_ranks = share
        for numbers in make_batches(rows, batch_rows)[rank::num_ranks]:
            prompts: dict[int, Prompt] = {}
            bad: dict[int, CvftError] = {}
            for number in numbers:
                if number in done:
                    continue
                try:
                    prompts[number] = self.prepare(rows[number], max_new_tokens=max_new_tokens)
                except (ClipError, DataError) as error:
                    bad[number] = error
            said = self.answer_prompts(list(prompts.values())) if prompts else []
            if prompts or bad:
                yield AnsweredBatch(dict(zip(prompts, said, strict=True)), bad)

    def stream(self, row: Row, *, max_new_tokens: int | None) -> Generator[str, None, Answer]:
        """Answers one row greedily, piece by piece as it comes.

        Args:
            row: The row; its response is not looked at.
            max_new_tokens: Longest answer in tokens; None as in `answer`.

        Yields:
            Pieces that together are the answer of `answer`.

        Returns:
            The whole answer. Whoever closes the generator before, or is interrupted, stops the model at its next token.

        Raises:
            DataError: as `answer`.
            ClipError: when its clip cannot be decoded.
        """
        prompt = self.prepare(row, max_new_tokens=max_new_tokens)
        pieces: queue.SimpleQueue[str | Answer | BaseException] = queue.SimpleQueue()

        stopped = threading.Event()

        def hand_on(number: int, piece: str) -> bool:
            pieces.put(piece)
            return not stopped.is_set()

        def generate() -> None:
            try:
                (answer,) = self.answer_prompts([prompt], on_text=hand_on)
                pieces.put(answer)
            except BaseException as error:  # it belongs to the thread that asks
                pieces.put(error)

        thread = threading.Thread(target=generate, daemon=True)
        thread.start()
        shown = Pieces()
        try:
            while not isinstance(piece := pieces.get(), Answer):
                if isinstance(piece, BaseException):
                    raise piece
                if text := shown.add(piece):
                    yield text
        finally:
            stopped.set()
            thread.join()  # one question at a time has the model
        return piece

    def score(
        self, rows: Sequence[Row], *, dtype: str | None = "fp64", on_progress: Callable[[int], object] | None = None
    ) -> list[Tensor]:
        """Scores the answers that rows hold, one row at a time.

        Args:
            rows: The rows.
            dtype: Precision to compute in: fp64 shows the weights and nothing else. None leaves the model as it is.
            on_progress: Called with 1 after each row.

        Returns:
            Per row, (number of answer tokens, V) in the precision of the computation, on the CPU.
        """
        encoded = [self.encode(row, with_response=True) for row in rows]
        logits = []
        with contextlib.nullcontext() if dtype is None else self.computing_in(dtype):
            for row in encoded:
                with self.taking_part():
                    scored = self.runtime.label_logits(self.model, self.encoder.collate([row]))
                logits.append(scored.cpu())
                if on_progress is not None:
                    on_progress(1)
        return logits

    @contextlib.contextmanager
    def computing_in(self, dtype: str, *, rounded_to: str | None = None) -> Iterator[None]:
        """Lets the model compute in a precision; afterwards every number is what it was.

        Args:
            dtype: `bf16`, `fp32` or `fp64`. An adapter's own weights are only ever made finer.
            rounded_to: Precision that all other weights are rounded to before.
        """
        kind, coarse = (getattr(torch, BY_NAME[name].torch_name) for name in (dtype, rounded_to or dtype))
        named = [*self.model.named_parameters(), *self.model.named_buffers()]
        before = []
        try:
            for name, tensor in named:
                if not tensor.is_floating_point():
                    continue
                own = tensor.data
                if "lora_" in name:
                    converted = own.to(torch.promote_types(own.dtype, kind))
                else:
                    converted = (own.to(coarse) if coarse.itemsize < own.dtype.itemsize else own).to(kind)
                # what is only made finer can be made again from it; anything else has to be kept
                is_finer = "lora_" in name or min(coarse.itemsize, kind.itemsize) >= own.dtype.itemsize
                before.append((tensor, own.dtype, None if is_finer else own))
                tensor.data = converted
            yield
        finally:
            for tensor, own_dtype, kept in before:
                tensor.data = tensor.data.to(own_dtype) if kept is None else kept

    @property
    def cut(self) -> Mapping[ClipRef, str]:
        """What is not shown of clips that were asked about, in a sentence each, where it is known."""
        return self.clips.cut

    @property
    def num_bytes(self) -> int:
        """What its weights take in memory."""
        return sum(parameter.nbytes for parameter in self.model.parameters())

    def close(self) -> None:
        """Ends the decode process."""
        self.clips.close()

    def taking_part(self) -> contextlib.AbstractContextManager[Any]:
        """Lets the right adapter, or none, take part in what the model computes."""
        if self.uses_adapter or not hasattr(self.model, "disable_adapter"):
            if self.adapter is not None and self.model.active_adapter != self.adapter:
                self.model.set_adapter(self.adapter)
            return contextlib.nullcontext()
        context: contextlib.AbstractContextManager[Any] = self.model.disable_adapter()
        return context
