"""A server of `cvft serve` in a process of its own, for tests that talk to it as a client does."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.project import HANG_S

KEY = "a-key-of-tests-0123456789"


@dataclass
class Running:
    url: str
    process: subprocess.Popen[str]
    log: list[str]
    headers: dict[str, str] = field(default_factory=dict)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=HANG_S)

    def post(self, path: str, body: Any) -> httpx.Response:
        with self.client() as client:
            return client.post(path, json=body)

    def show(self, content: Any, *, model: str = "tiny", **more: Any) -> httpx.Response:
        return self.post("/frames", {"model": model, "messages": [{"role": "user", "content": content}], **more})

    def ask(self, content: Any, *, model: str = "tiny", **more: Any) -> httpx.Response:
        messages = (
            content if isinstance(content, list) and "role" in content[0] else [{"role": "user", "content": content}]
        )
        return self.post("/v1/chat/completions", {"model": model, "messages": messages, **more})

    def text(self, content: Any, **more: Any) -> str:
        response = self.ask(content, **more)
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]["message"]["content"]

    def metric(self, name: str) -> float:
        with self.client() as client:
            found = re.search(rf"^cvft:{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
        assert found is not None, name
        return float(found[1])


@contextmanager
def serving(*args: object, key: str = "", stop: signal.Signals = signal.SIGINT) -> Iterator[Running]:
    """Starts a server on a free port, waits until it is ready, and stops it; nothing of it is left."""
    own = Path(tempfile.mkdtemp())
    command = [sys.executable, "-m", "cvft", "serve", "--port", "0", *map(str, args)]
    environment = {name: value for name, value in os.environ.items() if name != "CVFT_API_KEY"}
    environment |= {"CVFT_API_KEY": key} if key else {}
    environment |= {"TMPDIR": str(own)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    log: list[str] = []
    reader = threading.Thread(target=lambda: log.extend(iter(process.stderr.readline, "")), daemon=True)
    reader.start()
    try:
        running = Running(_address(process, log), process, log, {"Authorization": f"Bearer {key}"} if key else {})
        while httpx.get(f"{running.url}/health").status_code != 200:
            assert process.poll() is None, "".join(log)
            time.sleep(0.2)
        yield running
        assert process.poll() is None, "".join(log)
        assert "Traceback" not in "".join(log), "".join(log)
        process.send_signal(stop)
        assert process.wait(timeout=HANG_S) == 0, "".join(log)
        assert not list(own.glob("cvft-serve-*"))
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()
        process.stderr.close()
        shutil.rmtree(own)


def _address(process: subprocess.Popen[str], log: list[str]) -> str:
    begin_s = time.monotonic()
    while time.monotonic() - begin_s < HANG_S:
        found = re.search(r"listening (http://\S+);", "".join(log))
        if found is not None:
            return found[1].replace("0.0.0.0", "127.0.0.1")
        assert process.poll() is None, "".join(log)
        time.sleep(0.1)
    raise AssertionError("".join(log))


def clip_part(url: str) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


def frame_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
