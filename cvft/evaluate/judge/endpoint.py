"""One call to an OpenAI-compatible endpoint: a request -> a `Reply`, or an error that says what to do about it.

The key comes from the environment and goes into one header. It stands in no file, no log and no message: texts of the endpoint
are searched for it, and those that refuse the key are not shown at all. Redirects are not followed; answers end at a size and a
time.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from time import time
from types import TracebackType
from typing import Any

import httpx

from cvft.errors import CvftError, Problem, RunError, quote
from cvft.evaluate.judge.store import Reply

KEY_VARIABLE = "CVFT_JUDGE_API_KEY"
"""Environment variable with the key; without it, none is sent."""

MAX_BYTES = 4 << 20
"""Longest body of an answer that is read."""

LONGEST_PAUSE_S = 300.0
"""Most of what an endpoint may ask to wait (`Retry-After`)."""

_AGAIN = (408, 409, 425, 429)
_ABOUT_THE_REQUEST = (400, 413, 422)
_HIDDEN = "***"


class NoReplyError(Exception):
    """A call without a reply, which may have one the next time.

    Args:
        reason: Why.
        pause_s: How long the endpoint asks to wait; None where it does not say.
    """

    def __init__(self, reason: str, *, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class DeclinedError(Exception):
    """The endpoint will not take this request: it would say the same again."""


def read_key() -> str | None:
    """Reads the key from the environment.

    Raises:
        CvftError: when it cannot be one; it is not shown.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        need = "printable ASCII without spaces, as keys are"
        raise CvftError("environment", [Problem(KEY_VARIABLE, "a text that no HTTP header can hold", need)])
    return key


def check_url(url: str) -> str:
    """Returns an endpoint's address without a slash at its end.

    Raises:
        CvftError: when it is none, or when it could hold a key, which would then stand in files.
    """
    need = "an address such as `http://127.0.0.1:8000/v1`, up to and with `/v1`"
    got, hint = quote(url), ""
    try:
        parsed = httpx.URL(url)
        good = parsed.scheme in ("http", "https") and bool(parsed.host)
    except (httpx.InvalidURL, ValueError, TypeError):
        good = False
    if good and (parsed.userinfo or parsed.query or parsed.fragment):
        good, got = False, "an address with a user, a query or a fragment, where keys stand"
        hint = f"a key belongs into the environment: {KEY_VARIABLE}"
    elif good and parsed.path.rstrip("/").endswith("/chat/completions"):
        good, hint = False, "leave `/chat/completions` out"
    if not good:
        raise CvftError("command line", [Problem("--url", got, need, hint)])
    return url.rstrip("/")


class Endpoint:
    """An open connection to an endpoint.

    Args:
        url: Its address, as `check_url` returned it.
        key: The key, or None.
        timeout_s: Seconds that a call may take, all in all.
    """

    def __init__(self, url: str, *, key: str | None, timeout_s: float) -> None:
        self.url = url
        self._key = key
        self._timeout_s = timeout_s
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # the deadline is the call's: a server that sends a byte now and then has no other
        self._client = httpx.AsyncClient(headers=headers, timeout=None)

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def ask(self, request: Mapping[str, Any]) -> Reply:
        """Makes one call.

        Args:
            request: Body of a chat completion.

        Raises:
            NoReplyError: when there is no reply this time.
            DeclinedError: when there will be none.
            RunError: when no call at all can have one: address, key or model are wrong.
        """
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream("POST", f"{self.url}/chat/completions", json=request) as response,
            ):
                body = await _read_body(response)
        except TimeoutError:
            raise NoReplyError(f"no answer within {self._timeout_s:g} s") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise NoReplyError(f"{type(error).__name__}: {self._clean(str(error))}".rstrip(": ")) from None
        status = response.status_code
        if status == 200:
            return self._read_reply(body)
        if status in _AGAIN or status >= 500:
            raise NoReplyError(f"HTTP {status}", pause_s=_pause_s(response.headers.get("retry-after")))
        if status in _ABOUT_THE_REQUEST:
            raise DeclinedError(f"HTTP {status}{self._quote_body(body)}")
        raise self._refusal(status, body)

    def _refusal(self, status: int, body: bytes) -> RunError:
        where, hint = f"POST {self.url}/chat/completions", ""
        got = f"HTTP {status}"
        if status in (401, 403):  # such answers repeat the key, or half of it
            hint = f"the key in {KEY_VARIABLE} is not accepted" if self._key else f"put the key into {KEY_VARIABLE}"
        else:
            got += self._quote_body(body)
            if status == 404:
                hint = "is the address complete, up to and with `/v1`, and the model's name right?"
        return RunError("the judge", [Problem(where, got, "an OpenAI-compatible endpoint that answers", hint)])

    def _read_reply(self, body: bytes) -> Reply:
        try:
            value = json.loads(body)
            choice = value["choices"][0]
            text = choice["message"]["content"]
        except (ValueError, RecursionError, LookupError, TypeError):
            raise NoReplyError(f"an answer that is no chat completion{self._quote_body(body)}") from None
        if isinstance(text, list):  # in parts
            parts = [part.get("text") for part in text if isinstance(part, dict)]
            text = "".join(part for part in parts if isinstance(part, str))
        if text is not None and not isinstance(text, str):
            raise NoReplyError(f"an answer that is no chat completion{self._quote_body(body)}")
        usage = value.get("usage")
        counts = (
            {name: count for name, count in usage.items() if type(count) is int} if isinstance(usage, dict) else None
        )
        return Reply(
            self._clean(text or ""),
            self._clean_or_none(choice.get("finish_reason")),
            self._clean_or_none(value.get("model")),
            counts,
        )

    def _quote_body(self, body: bytes) -> str:
        text = " ".join(self._clean(body.decode("utf-8", errors="replace")).split())
        return f": {quote(text)}" if text else ""

    def _clean_or_none(self, value: object) -> str | None:
        return self._clean(value) if isinstance(value, str) else None

    def _clean(self, text: str) -> str:
        """Takes the key out of a text, and writes out half characters, which UTF-8 cannot hold."""
        text = text.encode("utf-8", errors="backslashreplace").decode()
        return text.replace(self._key, _HIDDEN) if self._key else text


async def _read_body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > MAX_BYTES:
            raise NoReplyError(f"an answer of more than {MAX_BYTES:,} bytes")
    return bytes(body)


def _pause_s(text: str | None) -> float | None:
    """Reads `Retry-After`: seconds, or a date. Source: RFC 9110, section 10.2.3."""
    if text is None:
        return None
    seconds: float | None = None
    with suppress(ValueError):
        seconds = float(text)
    if seconds is None:
        with suppress(ValueError, TypeError):
            seconds = parsedate_to_datetime(text).timestamp() - time()
    return None if seconds is None or seconds != seconds else min(max(seconds, 0.0), LONGEST_PAUSE_S)
