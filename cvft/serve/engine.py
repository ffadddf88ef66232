"""The one thread that has the model: requests wait in a queue, and those that wait together are answered together.

`Prompt` -> `Asked` in the queue -> batch of greedy requests to one model, or one that is drawn -> pieces of text to each listener

Every request hears its answer token by token, and ends by itself: at its stop text, at its limit, or when its client has gone.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cvft.families.family import Drawing
from cvft.predict.pieces import Pieces
from cvft.serve.metrics import Metrics

if TYPE_CHECKING:
    from cvft.predict.predictor import Predictor, Prompt

LOG = logging.getLogger(__name__)

CLOSE_S = 10.0
"""What the thread gets to end; a model that is still being loaded goes with the process."""


@dataclass(frozen=True)
class Said:
    """The end of an answer.

    Args:
        reason: `stop` or `length`, as OpenAI's API has it.
        num_tokens: Tokens of the answer, its end included.
    """

    reason: str
    num_tokens: int


@dataclass(eq=False)
class Asked:
    """A request on its way through the model; made in the thread of its event loop.

    Args:
        model: Which model answers.
        prompt: What it is asked.
        drawing: How its tokens are drawn, or None.
        stops: Texts that end its answer.
    """

    model: str
    prompt: Prompt
    drawing: Drawing | None = None
    stops: Sequence[str] = ()
    has_gone: bool = False
    num_tokens: int = 0
    begin_s: float = field(default_factory=time.monotonic)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _events: asyncio.Queue[str | Said | Exception] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        self.pieces = Pieces(self.stops)

    def cancel(self) -> None:
        """Ends the answer at the next token: nobody listens any more."""
        self.has_gone = True

    async def listen(self) -> AsyncIterator[str | Said]:
        """Yields pieces of text, and then how the answer ended.

        Raises:
            Exception: what went wrong in the model.
        """
        while True:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Said):
                return

    def tell(self, event: str | Said | Exception) -> None:
        """Hands on an event from the model's thread."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop has ended, and with it whoever listened
            self.has_gone = True


class Engine:
    """Answers requests, in the order in which they came.

    Args:
        models: Gives what answers, by the names of the models; called once, in the engine's thread.
        batch_rows: Requests answered together.
        prefix_bytes: Most bytes of keys and values kept for later questions about the same clips, for each model.
        metrics: What is counted.
        on_ready: Called when the models are loaded, or with what prevented it.
    """

    def __init__(
        self,
        models: Callable[[], Mapping[str, Predictor]],
        *,
        batch_rows: int,
        prefix_bytes: int,
        metrics: Metrics,
        on_ready: Callable[[BaseException | None], object],
    ) -> None:
        self._load = models
        self._batch_rows = batch_rows
        self._prefix_bytes = prefix_bytes
        self._metrics = metrics
        self._on_ready = on_ready
        self._waiting: deque[Asked] = deque()
        self._running: list[Asked] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self.models: Mapping[str, Predictor] = {}
        """The models, once they are loaded."""
        self._kept: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        """Begins to load the models."""
        self._thread.start()

    def put(self, asked: Asked) -> None:
        """Lets a request wait for its turn."""
        with self._changed:
            self._waiting.append(asked)
            self._count()
            self._changed.notify()

    def close(self) -> None:
        """Ends all answers, and then the thread."""
        with self._changed:
            self._is_closed = True
            for asked in (*self._waiting, *self._running):
                asked.cancel()
            self._changed.notify()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        try:
            self.models = self._load()
            for name, predictor in self.models.items():
                self._kept[name] = predictor.runtime.keep_prefixes(self._prefix_bytes)
        except BaseException as error:
            self._on_ready(error)
            return
        self._on_ready(None)
        while batch := self._take():
            try:
                self._answer(batch)
            except Exception as error:  # of the model: these requests are lost, and no other
                LOG.exception("a batch of %d requests could not be answered", len(batch))
                for asked in batch:
                    asked.tell(error)
            with self._changed:
                self._running = []
                self._count()

    def _take(self) -> list[Asked]:
        """Waits for requests; returns those to answer together, or none when it is over."""
        with self._changed:
            while True:
                for gone in [asked for asked in self._waiting if asked.has_gone]:
                    self._waiting.remove(gone)
                self._count()
                if self._waiting or self._is_closed:
                    break
                self._changed.wait()
            if self._is_closed:
                return []
            first = self._waiting.popleft()
            batch = [first]
            if first.drawing is None:
                beside = [each for each in self._waiting if each.model == first.model and each.drawing is None]
                for each in beside[: self._batch_rows - 1]:
                    self._waiting.remove(each)
                    batch.append(each)
            self._running = batch
            self._count()
            return batch

    def _answer(self, batch: list[Asked]) -> None:
        begin_s = time.monotonic()
        for asked in batch:
            self._metrics.queue_time.observe(begin_s - asked.begin_s)
        kept = self._kept[batch[0].model]
        before = kept.num_asked, kept.num_found

        def hand_on(number: int, piece: str) -> bool:
            asked = batch[number]
            asked.num_tokens += 1
            if asked.num_tokens == 1:
                self._metrics.time_to_first_token.observe(time.monotonic() - asked.begin_s)
            if text := asked.pieces.add(piece):
                asked.tell(text)
            return not (asked.has_gone or asked.pieces.has_stopped)

        answers = self.models[batch[0].model].answer_prompts(
            [asked.prompt for asked in batch], on_text=hand_on, drawing=batch[0].drawing, kept=kept
        )
        self._metrics.prefix_queries.inc(kept.num_asked - before[0])
        self._metrics.prefix_hits.inc(kept.num_found - before[1])
        for asked, answer in zip(batch, answers, strict=True):
            if rest := asked.pieces.rest():
                asked.tell(rest)
            reason = "length" if answer.is_cut and not asked.pieces.has_stopped else "stop"
            self._metrics.prompt_tokens.inc(asked.prompt.num_tokens)
            self._metrics.generation_tokens.inc(asked.num_tokens)
            self._metrics.success.labels("abort" if asked.has_gone else reason).inc()
            self._metrics.latency.observe(time.monotonic() - asked.begin_s)
            asked.tell(Said(reason, asked.num_tokens))

    def _count(self) -> None:
        self._metrics.waiting.set(len(self._waiting))
        self._metrics.running.set(len(self._running))
