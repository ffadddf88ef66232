"""Who may ask: the key, the host that a browser thinks it talks to, and what every response says to browsers.

A server without a key answers only on this machine. Its `Host` is checked, because a page from elsewhere can make a browser on
this machine ask it under another name; and its bodies must be declared as JSON or a video, which such a page may not send.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cvft.serve.errors import ApiError

PAGE_SCRIPTS = ("words.js", "tools.js", "server.js", "camera.js", "pictures.js", "events.js", "code.js", "page.js")
OPEN_PATHS = frozenset(("/", *(f"/{name}" for name in (*PAGE_SCRIPTS, "page.css")), "/health"))
"""What needs no key: the page, which asks for it, and whether the server is there."""

LOCAL_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": PAGE_POLICY,
    "cache-control": "no-store",
}


class Guard:
    """Wraps the application.

    Args:
        app: What answers.
        key: What a client must send; empty where none is needed.
        hosts: Names that clients may use for this server; empty for any.
    """

    def __init__(self, app: ASGIApp, *, key: str, hosts: Collection[str] = LOCAL_NAMES) -> None:
        self._app = app
        self._key = key.encode()
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                said = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *said]}
            await send(message)

        refusal = self._refuse(scope)
        if refusal is None:
            await self._app(scope, receive, send_safely)
            return
        body = json.dumps(refusal.body()).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send_safely({"type": "http.response.start", "status": refusal.status, "headers": raw})
        await send_safely({"type": "http.response.body", "body": body})

    def _refuse(self, scope: Scope) -> ApiError | None:
        headers = dict(scope["headers"])
        if self._hosts:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
            if name not in self._hosts:
                return ApiError(403, "the header Host: got another name, need `localhost`", code="wrong_host")
        if not self._key or scope["path"] in OPEN_PATHS:
            return None
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._key):
            return None
        message = "the header Authorization: got no valid key, need `Bearer KEY` with the key of this server"
        return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
