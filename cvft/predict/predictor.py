"""A model that answers rows, always fed as its contract says: a base, an adapter on its base, or a merged model.

rows -> clips (decoded, or their cached features) -> prompts -> greedy answers in batches, one piece at a time, or logits
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvft.clips.source import ClipSource
from cvft.data.rows import Row
from cvft.families.family import Answer, Encoder, Runtime


class Predictor:
    """A model with everything that turns rows into its inputs.

    Args:
        model: The model, or a peft model around it.
        runtime: Torch half of its family.
        encoder: Turns rows into inputs.
        clips: Gives clips.
        uses_adapter: Whether an adapter that is loaded takes part; without it, the base answers.
    """

    def __init__(
        self, model: Any, *, runtime: Runtime, encoder: Encoder, clips: ClipSource, uses_adapter: bool = True
    ) -> None:
        self.model = model
        self.runtime = runtime
        self.encoder = encoder
        self.clips = clips
        self.uses_adapter = uses_adapter

    def encode(self, row: Row, *, with_response: bool = False) -> dict[str, Tensor]:
        """Encodes a row, as a prompt or with its answer.

        Raises:
            ClipError: when its clip cannot be decoded.
        """
        clip = None if row.video is None else self.clips.load(row.video)
        return self.encoder.encode(row, clip, with_response=with_response)

    def answer(
        self,
        rows: Sequence[Row],
        *,
        batch_rows: int,
        max_new_tokens: int,
        on_progress: Callable[[int], object] | None = None,
    ) -> list[Answer]:
        """Answers rows greedily.

        Args:
            rows: The rows; their responses are not looked at.
            batch_rows: Rows answered at a time.
            max_new_tokens: Longest answer in tokens.
            on_progress: Called with the number of rows of each finished batch.

        Returns:
            One answer per row, in order.
        """
        # rows of one clip side by side: its prefix is computed once for all of them in a batch
        first_with: dict[Path | int, int] = {}
        clips = [number if row.video is None else row.video for number, row in enumerate(rows)]
        order = sorted(range(len(rows)), key=lambda number: first_with.setdefault(clips[number], number))
        answers: dict[int, Answer] = {}
        for start in range(0, len(rows), batch_rows):
            numbers = order[start : start + batch_rows]
            batch = [self.encode(rows[number]) for number in numbers]
            with self._variant():
                said = self.runtime.generate(
                    self.model,
                    self.encoder,
                    batch,
                    max_new_tokens=max_new_tokens,
                    clips=[clips[number] for number in numbers],
                )
            answers.update(zip(numbers, said, strict=True))
            if on_progress is not None:
                on_progress(len(batch))
        return [answers[number] for number in range(len(rows))]

    def stream(self, row: Row, *, max_new_tokens: int) -> Generator[str, None, Answer]:
        """Answers one row greedily, piece by piece as it comes.

        Args:
            row: The row; its response is not looked at.
            max_new_tokens: Longest answer in tokens.

        Yields:
            Pieces that together are the answer of `answer`.

        Returns:
            The whole answer.
        """
        prompt = self.encode(row)
        pieces: queue.SimpleQueue[str | Answer | BaseException] = queue.SimpleQueue()

        def generate() -> None:
            try:
                with self._variant():
                    (answer,) = self.runtime.generate(
                        self.model, self.encoder, [prompt], max_new_tokens=max_new_tokens, on_text=pieces.put
                    )
                pieces.put(answer)
            except BaseException as error:  # it belongs to the thread that asks
                pieces.put(error)

        thread = threading.Thread(target=generate, daemon=True)
        thread.start()
        held_back = ""  # white space at the edges is no part of an answer
        has_begun = False
        while not isinstance(piece := pieces.get(), Answer):
            if isinstance(piece, BaseException):
                raise piece
            text = held_back + piece if has_begun else piece.lstrip()
            shown = text.rstrip()
            held_back = text[len(shown) :]
            if shown:
                has_begun = True
                yield shown
        thread.join()
        return piece

    def score(self, rows: Sequence[Row], *, on_progress: Callable[[int], object] | None = None) -> list[Tensor]:
        """Scores the answers that rows hold, one row at a time; fp32 weights in fp64, so that what is seen is the weights.

        Args:
            rows: The rows.
            on_progress: Called with 1 after each row.

        Returns:
            Per row, (number of answer tokens, V) fp64 on the CPU.
        """
        is_fp32 = self.model.dtype == torch.float32
        encoded = [self.encode(row, with_response=True) for row in rows]
        logits = []
        try:
            if is_fp32:
                self.model.double()
            for row in encoded:
                with self._variant():
                    scored = self.runtime.label_logits(self.model, self.encoder.collate([row]))
                logits.append(scored.double().cpu())
                if on_progress is not None:
                    on_progress(1)
        finally:
            if is_fp32:
                self.model.float()  # every fp32 number survives the way there and back
        return logits

    @property
    def num_bytes(self) -> int:
        """What its weights take in memory."""
        return sum(parameter.nbytes for parameter in self.model.parameters())

    def close(self) -> None:
        """Ends the decode process."""
        self.clips.close()

    def _variant(self) -> contextlib.AbstractContextManager[Any]:
        if self.uses_adapter or not hasattr(self.model, "disable_adapter"):
            return contextlib.nullcontext()
        context: contextlib.AbstractContextManager[Any] = self.model.disable_adapter()
        return context
