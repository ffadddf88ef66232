"""An answer on its way to a client: collected, or event by event, for as long as the client is there.

`Asked` -> pieces of its choices -> one object, or a stream of chunks
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from cvft.serve.engine import Asked, Said
from cvft.serve.errors import ApiError
from cvft.serve.replies import DONE, Reply, event
from cvft.serve.request import ChatRequest


def _indices(answer: Asked, *, num_choices: int) -> list[list[int]]:
    """Returns, for each answer that is computed, the choices that it is: all of them where there is only one."""
    return [[*range(num_choices)]] if len(answer.choices) == 1 else [[number] for number in range(num_choices)]


async def collect(answer: Asked, reply: Reply, *, num_choices: int) -> dict[str, Any]:
    """Hears an answer to its end, and returns it as one object.

    Args:
        answer: What is being answered.
        reply: Its form.
        num_choices: How many choices the client wants.

    Raises:
        ApiError: when the model failed.
    """
    texts, ends = [""] * num_choices, [Said("", 0)] * num_choices
    indices = _indices(answer, num_choices=num_choices)
    try:
        async for number, said in answer.listen():
            for index in indices[number]:
                if isinstance(said, Said):
                    ends[index] = said
                else:
                    texts[index] += said
    except Exception as error:
        raise our_fault() from error
    choices = [(text, said.reason) for text, said in zip(texts, ends, strict=True)]
    return reply.whole(choices, num_tokens=sum(said.num_tokens for said in ends))


async def stream(answer: Asked, reply: Reply, asked: ChatRequest) -> AsyncIterator[bytes]:
    """Yields an answer as it comes, as server-sent events."""
    usage_follows, num_tokens = asked.include_usage, 0
    indices = _indices(answer, num_choices=asked.num_choices)
    for index in range(asked.num_choices):
        yield reply.chunk({"role": "assistant", "content": ""}, index=index, usage_follows=usage_follows)
    try:
        async for number, said in answer.listen():
            for index in indices[number]:
                if not isinstance(said, Said):
                    yield reply.chunk({"content": said}, index=index, usage_follows=usage_follows)
                    continue
                yield reply.chunk({}, index=index, reason=said.reason, usage_follows=usage_follows)
                num_tokens += said.num_tokens
        if usage_follows:
            yield reply.usage_chunk(num_tokens)
    except Exception:  # it is logged where it happened; the head of the response has been sent
        yield event(our_fault().body())
    yield DONE


class EventStream(StreamingResponse):
    """Gives back what a request held whenever it ends: also when its client has gone before the first piece."""

    def __init__(self, pieces: AsyncIterator[bytes], *, on_end: Callable[[], object]) -> None:
        super().__init__(pieces, media_type="text/event-stream")
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events; called by FastAPI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


async def unless_gone(request: Request, work: Any) -> Any:
    """Returns what comes of some work, or None when the client has gone before."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, watching):
            task.cancel()


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def our_fault() -> ApiError:
    """Makes the error of a model that failed."""
    return ApiError(500, "the model could not answer; the server's log says why", code="internal_error")
