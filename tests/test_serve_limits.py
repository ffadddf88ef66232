"""A server that others may reach, with little room: its key, its limits, and places that are freed."""

import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.served import CLIPS, NAMES, data_url, error_of
from tests.server import KEY, clip_part, serving, text_part
from tests.tiny import make_endless

MOST_TOKENS = 1900
"""Of an answer that has no end: several seconds."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server that others may reach, with little room, whose answers have no end."""
    model = make_endless(tmp_path_factory.mktemp("endless"))
    limits = ("--max-waiting", 1, "--batch-rows", 1, "--max-body-mib", 1, "--max-new-tokens", MOST_TOKENS)
    with serving(
        "--model", model, "--name", "endless", "--host", "0.0.0.0", *limits, key=KEY, stop=signal.SIGTERM
    ) as running:
        yield running


def endless() -> dict:
    content = [clip_part(data_url(CLIPS / NAMES[0])), text_part("What is shown?")]
    return {"model": "endless", "messages": [{"role": "user", "content": content}], "stream": True}


def wait_for(condition) -> None:
    begin_s = time.monotonic()
    while not condition():
        assert time.monotonic() - begin_s < 300
        time.sleep(0.05)


def test_a_key_is_needed_for_all_but_the_page(guarded):
    with httpx.Client(base_url=guarded.url) as nobody:
        for path in ("/v1/models", "/metrics"):
            assert error_of(nobody.get(path), 401)["type"] == "authentication_error"
        for path in ("/v1/chat/completions", "/clips", "/frames", "/times"):
            assert error_of(nobody.post(path, json={}), 401)["code"] == "invalid_api_key"
        for given in (f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY, "Bearer", "Bearer é".encode()):
            assert nobody.get("/v1/models", headers={"authorization": given}).status_code == 401
        assert nobody.get("/health").json() == {"status": "ok"}
        assert nobody.get("/").status_code == 200
    with guarded.client() as client:
        (listed,) = client.get("/v1/models").json()["data"]
        assert (listed["id"], listed["takes_images"]) == ("endless", False)
    error = error_of(guarded.ask("?", model="endless", max_tokens=MOST_TOKENS + 1))
    assert error["param"] == "max_completion_tokens"


def test_a_client_that_hangs_up_frees_its_place_and_a_full_queue_says_so(guarded):
    running = "num_requests_running"
    with guarded.client() as first, guarded.client() as second:
        with first.stream("POST", "/v1/chat/completions", json=endless()) as answer:
            lines = answer.iter_lines()  # kept: httpx hangs up when its iterator is gone
            next(lines)
            wait_for(lambda: guarded.metric(running) == 1)
            with ThreadPoolExecutor(1) as threads:
                whole = {**endless(), "stream": False, "max_tokens": 3}
                waiting = threads.submit(second.post, "/v1/chat/completions", json=whole)
                wait_for(lambda: guarded.metric("num_requests_waiting") == 1)
                full = guarded.post("/v1/chat/completions", endless())
                assert error_of(full, 429)["code"] == "queue_full"
                assert int(full.headers["retry-after"]) >= 1
                answer.close()
                said = waiting.result()
        assert said.json()["usage"]["completion_tokens"] == 3
    # one that waits for a whole answer is noticed as well
    with socket.create_connection(("127.0.0.1", int(guarded.url.rpartition(":")[2]))) as connection:
        body = json.dumps({**endless(), "stream": False}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        connection.sendall(
            f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        wait_for(lambda: guarded.metric(running) == 1)
    wait_for(lambda: guarded.metric(running) == 0)
    assert guarded.metric('request_success_total{finished_reason="abort"}') == 2
    assert guarded.metric("generation_tokens_total") < MOST_TOKENS


def test_a_body_beyond_the_limit_is_refused_while_it_comes(guarded):
    def parts():
        for _ in range(64):
            yield b" " * 65536

    with guarded.client() as client:
        kind = {"content-type": "application/json"}
        for content in (b" " * (2 << 20), parts()):
            try:
                response = client.post("/v1/chat/completions", content=content, headers=kind)
            except httpx.TransportError:  # it may be told while it still sends
                continue
            assert error_of(response, 413)["code"] == "too_large"
    assert guarded.ask("?", model="endless", max_tokens=1).status_code == 200
