"""Bodies of requests, read within limits: of size while they come, of time, and of all that is held at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request

from cvft.serve.errors import ApiError
from cvft.serve.media import too_large

IDLE_S = 15.0
"""Longest time between two parts of a body."""

TOTAL_S = 300.0
"""Longest time for a whole body."""

NUM_HELD = 4
"""All bodies together may be as large as so many of the largest."""


class Bodies:
    """Reads bodies, one for each request.

    Args:
        max_bytes: Largest body.
        idle_s: Longest time between two parts of a body.
    """

    def __init__(self, max_bytes: int, *, idle_s: float = IDLE_S) -> None:
        self.max_bytes = max_bytes
        self.idle_s = idle_s
        self._num_held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Gives a request's body, which counts until the end of the context.

        Raises:
            ApiError: when it is too large or too slow, or when others take all the room.
        """
        stated = request.headers.get("content-length", "")
        if stated.isdigit() and int(stated) > self.max_bytes:
            raise too_large(self.max_bytes)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(TOTAL_S):
                chunks = request.stream().__aiter__()
                while (chunk := await self._next(chunks)) is not None:
                    size += len(chunk)
                    self._num_held += len(chunk)
                    if size > self.max_bytes:
                        raise too_large(self.max_bytes)
                    if self._num_held > NUM_HELD * self.max_bytes:
                        raise ApiError(
                            429, "others are sending large clips: try again", code="busy", headers={"Retry-After": "2"}
                        )
                    parts.append(chunk)
            body = b"".join(parts)
            parts.clear()
            yield body
        except TimeoutError as error:
            raise ApiError(408, "the body: got it too slowly, need it faster", code="too_slow") from error
        except ClientDisconnect as error:
            raise ApiError(499, "the client has gone", code="gone") from error
        finally:
            self._num_held -= size

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        async with asyncio.timeout(self.idle_s):
            return await anext(chunks, None)
