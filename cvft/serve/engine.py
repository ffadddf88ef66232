"""The one thread that has the model: what is asked joins at the next token, and leaves when it has ended or nobody listens.

`Asked` in the queue -> joins the batch of its model, behind the kept prefix of its clip -> one token for all, again and again
-> pieces of text to each listener

Each model has a batch of its own, and all of them take a step in turn.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cvft.families.answering import Drawing, Token
from cvft.predict.pieces import Pieces
from cvft.serve.metrics import Metrics

if TYPE_CHECKING:
    from cvft.predict.predictor import Predictor, Prompt
    from cvft.predict.running import RunningPrompts

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


Event = tuple[int, str | Said] | Exception
"""Number of a choice with a piece of its text or its end; or what went wrong in the model."""


@dataclass(eq=False)
class Asked:
    """A request on its way through the model; made in the thread of its event loop.

    Args:
        model: Which model answers.
        prompt: What it is asked.
        drawings: How the tokens of each choice are drawn; None takes the likeliest.
        stops: Texts that end a choice.
        in_pieces: Whether text is told as it comes; else with the end of its choice.
    """

    model: str
    prompt: Prompt
    drawings: Sequence[Drawing | None] = (None,)
    stops: Sequence[str] = ()
    in_pieces: bool = True
    has_gone: bool = False
    begin_s: float = field(default_factory=time.monotonic)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        self.choices = [_Choice(self, number) for number in range(len(self.drawings))]
        self.num_open = len(self.choices)

    def cancel(self) -> None:
        """Ends the answer at the next token: nobody listens any more."""
        self.has_gone = True

    async def listen(self) -> AsyncIterator[tuple[int, str | Said]]:
        """Yields pieces of text with the number of their choice, and how each choice ended.

        Raises:
            Exception: what went wrong in the model.
        """
        num_ended = 0
        while num_ended < len(self.choices):
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            num_ended += isinstance(event[1], Said)

    def hear(self, event: Event) -> None:
        """Takes an event, in the thread of its loop."""
        self._events.put_nowait(event)


class _Choice:
    """One answer of a request.

    Args:
        asked: The request.
        number: Which of its choices.
    """

    def __init__(self, asked: Asked, number: int) -> None:
        self.asked = asked
        self.number = number
        self.num_tokens = 0
        self._pieces = Pieces(asked.stops)
        self._held = ""

    @property
    def is_wanted(self) -> bool:
        """Whether the rest is still wanted."""
        return not (self.asked.has_gone or self._pieces.has_stopped)

    def add(self, piece: str) -> str:
        """Takes the text of one more token; returns what is to be told now."""
        self.num_tokens += 1
        return self._hold(self._pieces.add(piece))

    def end(self, *, is_cut: bool) -> tuple[str, Said]:
        """Returns the rest of the text, and how the answer ended."""
        reason = "length" if is_cut and not self._pieces.has_stopped else "stop"
        return self._held + self._pieces.rest(), Said(reason, self.num_tokens)

    def _hold(self, text: str) -> str:
        if self.asked.in_pieces:
            return text
        self._held += text
        return ""


@dataclass
class _Model:
    """A model, what it keeps of clips, and its answers that run, by the numbers of their rows."""

    predictor: Predictor
    kept: Any
    batch: RunningPrompts
    running: dict[int, _Choice] = field(default_factory=dict)


class Engine:
    """Answers requests, which begin in the order in which they came.

    Args:
        models: Gives what answers, by the names of the models; called once, in the engine's thread.
        batch_rows: Answers that run at a time.
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
        self._changed = threading.Condition()
        self._is_closed = False
        self.models: Mapping[str, Predictor] = {}
        """The models, once they are loaded."""
        self._running: dict[str, _Model] = {}
        self._events: dict[asyncio.AbstractEventLoop, list[tuple[Asked, Event]]] = {}
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        """Begins to load the models."""
        self._thread.start()

    def put(self, asked: Asked) -> None:
        """Lets a request wait for its places; all of its choices, at most as many as may run, join together."""
        assert len(asked.choices) <= self._batch_rows, "it would wait for ever"
        with self._changed:
            self._waiting.append(asked)
            self._changed.notify()

    def close(self) -> None:
        """Ends all answers, and then the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(CLOSE_S)

    # --- all below runs in the engine's thread ---

    def _run(self) -> None:
        try:
            models = self._load()
            for name, predictor in models.items():
                kept = predictor.runtime.keep_prefixes(self._prefix_bytes)
                self._running[name] = _Model(predictor, kept, self._start_batch(predictor, kept))
        except BaseException as error:
            self._on_ready(error)
            return
        self.models = models
        gc.freeze()  # what has been loaded stays: no answer waits while it is searched for what nobody needs any more
        self._on_ready(None)
        while (joining := self._take()) is not None:
            for name, model in self._running.items():
                own = [asked for asked in joining if asked.model == name]
                if own:
                    self._join(model, own)
                    self._tell()
                if model.running:
                    self._answer(model, list(model.running.values()), model.batch.step)
                    self._tell()
        for model in self._running.values():
            for choice in model.running.values():
                choice.asked.cancel()
            self._let_go(model)
        self._tell()

    @staticmethod
    def _start_batch(predictor: Predictor, kept: Any) -> RunningPrompts:
        from cvft.predict.running import RunningPrompts

        return RunningPrompts(predictor, kept=kept)

    def _take(self) -> list[Asked] | None:
        """Lets go whom nobody listens to, and returns who joins now; waits while there is nothing to do, None when it is over."""
        with self._changed:
            while True:
                for model in self._running.values():
                    self._let_go(model)
                for gone in [asked for asked in self._waiting if asked.has_gone]:
                    self._waiting.remove(gone)
                num_running = sum(len(model.running) for model in self._running.values())
                joining = list(self._fitting(self._batch_rows - num_running))
                self._metrics.waiting.set(len(self._waiting))
                self._metrics.running.set(num_running + sum(len(asked.choices) for asked in joining))
                if self._is_closed:
                    return None
                if joining or num_running:
                    return joining
                self._changed.wait()

    def _let_go(self, model: _Model) -> None:
        for row, choice in list(model.running.items()):
            if choice.asked.has_gone:
                model.batch.leave(row)
                self._end(model, row, is_cut=True)

    def _fitting(self, room: int) -> Iterator[Asked]:
        """Takes requests out of the queue as long as there are places for all choices of the first one."""
        while self._waiting and len(self._waiting[0].choices) <= room:
            room -= len(self._waiting[0].choices)
            yield self._waiting.popleft()

    def _join(self, model: _Model, joining: list[Asked]) -> None:
        """Lets requests join; those that run go on at the next step, also where these cannot be answered."""
        begin_s = time.monotonic()
        choices = [choice for asked in joining for choice in asked.choices]
        before = model.kept.num_asked, model.kept.num_found

        def join() -> list[Token]:
            tokens = model.batch.join(
                [choice.asked.prompt for choice in choices],
                drawings=[choice.asked.drawings[choice.number] for choice in choices],
            )
            model.running.update({token.row: choice for token, choice in zip(tokens, choices, strict=True)})
            return tokens

        for asked in joining:
            self._metrics.queue_time.observe(begin_s - asked.begin_s)
            self._metrics.prompt_tokens.inc(asked.prompt.num_tokens)
        if self._answer(model, choices, join):
            for asked in joining:
                self._metrics.time_to_first_token.observe(time.monotonic() - asked.begin_s)
        self._metrics.prefix_queries.inc(model.kept.num_asked - before[0])
        self._metrics.prefix_hits.inc(model.kept.num_found - before[1])

    def _answer(self, model: _Model, choices: list[_Choice], compute: Callable[[], list[Token]]) -> bool:
        """Computes a token for some choices, and hands it on; what goes wrong costs these, and no others."""
        try:
            for token in compute():
                self._hand_on(model, token)
            return True
        except Exception as error:
            requests = list(dict.fromkeys(choice.asked for choice in choices))
            LOG.exception("a batch of %d requests could not be answered", len(requests))
            lost = {choice for asked in requests for choice in asked.choices}
            model.running = {row: choice for row, choice in model.running.items() if choice not in lost}
            if not model.running:
                model.batch = self._start_batch(model.predictor, model.kept)
            for asked in requests:
                self._put_event(asked, error)
            return False

    def _hand_on(self, model: _Model, token: Token) -> None:
        choice = model.running[token.row]
        if text := choice.add(token.piece):
            self._put_event(choice.asked, (choice.number, text))
        if token.answer is not None:
            self._end(model, token.row, is_cut=token.answer.is_cut)
        elif not choice.is_wanted:
            model.batch.leave(token.row)
            self._end(model, token.row, is_cut=True)

    def _end(self, model: _Model, row: int, *, is_cut: bool) -> None:
        choice = model.running.pop(row)
        asked = choice.asked
        rest, said = choice.end(is_cut=is_cut)
        if rest:
            self._put_event(asked, (choice.number, rest))
        self._put_event(asked, (choice.number, said))
        self._metrics.generation_tokens.inc(choice.num_tokens)
        self._metrics.success.labels("abort" if asked.has_gone else said.reason).inc()
        asked.num_open -= 1
        if not asked.num_open:
            self._metrics.latency.observe(time.monotonic() - asked.begin_s)

    def _put_event(self, asked: Asked, event: Event) -> None:
        self._events.setdefault(asked.loop, []).append((asked, event))

    def _tell(self) -> None:
        """Hands on what a step has brought, to each loop at once: every call wakes it up."""
        for loop, events in self._events.items():
            try:
                loop.call_soon_threadsafe(_deliver, events)
            except RuntimeError:  # the loop has ended, and with it whoever listened
                for asked, _ in events:
                    asked.cancel()
        self._events = {}


def _deliver(events: list[tuple[Asked, Event]]) -> None:
    for asked, event in events:
        asked.hear(event)
