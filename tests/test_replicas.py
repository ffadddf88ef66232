"""The balancer of the docs, run by nginx: who is down is passed over, streams come through, a browser stays with one server."""

import base64
import json
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.project import HANG_S
from tests.server import clip_part, serving, text_part

ROOT = Path(__file__).parent.parent
CLIP = ROOT / "datasets" / "tiny_shapes" / "clips" / "val_000.mp4"
QUERY = "What shape is the white object?"
BROWSER = {"Sec-Fetch-Site": "same-origin"}

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx here")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def balancing(folder, *ports):
    """Runs nginx with the committed file, its ports and its place of rest replaced; yields its address."""
    own = free_port()
    text = (ROOT / "docs" / "replicas" / "nginx.conf").read_text()
    changes = {"/tmp/cvft-nginx.pid": f"{folder}/pid", "127.0.0.1:8080": f"127.0.0.1:{own}"}
    changes |= {f"127.0.0.1:{8001 + number}": f"127.0.0.1:{port}" for number, port in enumerate(ports)}
    for before, after in changes.items():
        assert text.count(before) == 1
        text = text.replace(before, after)
    (folder / "nginx.conf").write_text(text)
    command = ["nginx", "-p", folder, "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off;"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        begin_s = time.monotonic()
        while True:
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", own)) == 0:
                    break
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() - begin_s < HANG_S
            time.sleep(0.05)
        yield f"http://127.0.0.1:{own}"
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


@contextmanager
def answering(status):
    """A server that answers everything with one status, and counts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_server_that_is_down_is_passed_over_and_streams_come_through(tmp_path):
    url = f"data:video/mp4;base64,{base64.b64encode(CLIP.read_bytes()).decode()}"
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": [clip_part(url), text_part(QUERY)]}],
        "max_completion_tokens": 8,
    }
    with serving("--model", "tiny") as running, httpx.Client(timeout=HANG_S) as client:
        said = client.post(f"{running.url}/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        port = httpx.URL(running.url).port
        with balancing(tmp_path, free_port(), port) as balanced:
            for _ in range(4):  # by chance to the one or the other
                answer = client.post(f"{balanced}/v1/chat/completions", json=body)
                assert answer.status_code == 200, answer.text
                assert answer.json()["choices"][0]["message"]["content"] == said
            with client.stream("POST", f"{balanced}/v1/chat/completions", json={**body, "stream": True}) as stream:
                assert stream.headers["content-type"].startswith("text/event-stream")
                chunks = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
            assert chunks.pop() == "[DONE]"
            deltas = [json.loads(chunk)["choices"][0]["delta"].get("content", "") for chunk in chunks]
            assert "".join(deltas) == said
            # the page sends a clip and asks about it later: both have to reach the same server
            sent = client.post(
                f"{balanced}/clips", content=CLIP.read_bytes(), headers={**BROWSER, "Content-Type": "video/mp4"}
            )
            asked = {"model": "tiny", "messages": [{"role": "user", "content": [clip_part(sent.json()["url"])]}]}
            shown = client.post(f"{balanced}/frames", json=asked, headers=BROWSER)
            assert shown.status_code == 200, shown.text


def test_a_full_server_hands_on(tmp_path):
    with answering(429) as (full, asked_full), answering(200) as (free, asked_free), httpx.Client() as client:
        with balancing(tmp_path, full, free) as balanced:
            for _ in range(40):
                assert client.post(f"{balanced}/v1/chat/completions", json={}).status_code == 200
        assert len(asked_free) == 40
        assert asked_full


def test_when_all_are_full_their_answer_comes_through(tmp_path):
    with (
        answering(429) as (first, asked_first),
        answering(429) as (second, asked_second),
        balancing(tmp_path, first, second) as balanced,
        httpx.Client() as client,
    ):
        for _ in range(10):
            assert client.post(f"{balanced}/v1/chat/completions", json={}).status_code == 429
    assert len(asked_first) == len(asked_second) == 10


def test_programs_reach_all_servers_and_a_browser_one(tmp_path):
    with (
        answering(200) as (first, asked_first),
        answering(200) as (second, asked_second),
        balancing(tmp_path, first, second) as balanced,
        httpx.Client() as client,
    ):
        for _ in range(40):
            client.post(f"{balanced}/v1/chat/completions", json={})
        before = (len(asked_first), len(asked_second))
        assert min(before) > 4  # by chance less than once in 10,000 times
        for _ in range(10):
            client.post(f"{balanced}/frames", json={}, headers=BROWSER)
        assert sorted((len(asked_first) - before[0], len(asked_second) - before[1])) == [0, 10]
