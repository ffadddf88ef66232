"""HTTP/1.1 as uvicorn speaks it, with a time limit for the head of a request: a client that sends it byte by byte is let go."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_TIMEOUT_S = 15.0
"""Longest time from the first byte of a connection, or of a further request on it, to the end of the request's head."""


class PatientProtocol(H11Protocol):
    """One connection."""

    head_timeout_s = HEAD_TIMEOUT_S
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begins to wait; called by asyncio."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Takes bytes; called by asyncio."""
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends; called by asyncio."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        is_in_head = self.conn.their_state is h11.IDLE
        if not is_in_head:
            self._stop()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._let_go)

    def _stop(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _let_go(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()
