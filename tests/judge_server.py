"""An OpenAI-compatible endpoint on a free port of this machine, which misbehaves as it is told and counts every call."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SAYS: dict[str, tuple[int, dict[str, str], str]] = {
    "429": (429, {"Retry-After": "0"}, '{"error": {"message": "slow down"}}'),
    "500": (500, {}, "oops"),
    "html": (200, {"Content-Type": "text/html"}, "<html><body>Bad gateway: score 3</body></html>"),
    "truncated": (200, {}, '{"choices": [{"message": {"content": "{\\"score\\": 3'),
    "400": (400, {}, '{"error": {"message": "content policy"}}'),
}
"""Misbehaviour -> status, headers and body. `hang` sends nothing; anything else is what the judge says."""


def completion(text: str, **choice: Any) -> str:
    message = {"role": "assistant", "content": text}
    return json.dumps(
        {
            "model": "judge-served",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        }
    )


@dataclass
class JudgeServer:
    """What the server has seen, and what it says.

    Args:
        url: Its address, with `/v1`.
        says: Prediction and number of the call about it, from 1 -> a key of `SAYS`, `hang`, or the judge's reply.
        calls: Prediction -> calls.
        replied: Prediction -> calls whose whole answer was sent.
        headers: Headers of the last call.
        bodies: Bodies of all calls.
    """

    url: str
    says: Callable[[str, int], str]
    calls: Counter[str] = field(default_factory=Counter)
    replied: Counter[str] = field(default_factory=Counter)
    headers: dict[str, str] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    now: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    released: threading.Event = field(default_factory=threading.Event)


@contextmanager
def judging(says: Callable[[str, int], str]) -> Iterator[JudgeServer]:
    """Starts a server; what hangs in it is let go at the end."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = json.loads(body["messages"][1]["content"])
            about = content["questions"][0] if "questions" in content else content
            prediction = about["predicted_answer"]
            with seen.lock:
                seen.calls[prediction] += 1
                seen.bodies.append(body)
                seen.headers = dict(self.headers)
                seen.now += 1
                seen.most_at_once = max(seen.most_at_once, seen.now)
                said = seen.says(prediction, seen.calls[prediction])
            try:
                if self.path != "/v1/chat/completions":
                    self.answer(404, {}, '{"error": {"message": "no such path"}}')
                elif said == "hang":
                    seen.released.wait()
                    self.close_connection = True
                else:
                    self.answer(*SAYS.get(said, (200, {}, said if said.startswith('{"model"') else completion(said))))
                    with seen.lock:
                        seen.replied[prediction] += 1
            finally:
                with seen.lock:
                    seen.now -= 1

        def answer(self, status: int, headers: dict[str, str], text: str) -> None:
            data = text.encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that was killed is no error of the server's."""

    server = Server(("127.0.0.1", 0), Handler)
    seen = JudgeServer(f"http://127.0.0.1:{server.server_port}/v1", says)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield seen
    finally:
        seen.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
