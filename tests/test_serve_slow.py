"""What goes wrong costs nobody else anything: heads and bodies that never end, and a model that fails."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from safetensors.torch import load_file, save_file
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cvft.serve.body import NUM_HELD, Bodies
from cvft.serve.errors import ApiError
from cvft.serve.protocol import PatientProtocol
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE
from tests.project import HANG_S
from tests.project import cvft as command
from tests.random_adapter import write_served_adapter

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
SOON_S = 0.3


class Hasty(PatientProtocol):
    head_timeout_s = SOON_S


@contextmanager
def reading(bodies: Bodies) -> Iterator[int]:
    """Runs a server that says how large a body is; gives its port."""

    async def app(scope, receive, send) -> None:
        request = Request(scope, receive, send)
        try:
            async with bodies.read(request) as body:
                answer: Response = JSONResponse({"size": len(body)})
        except ApiError as error:
            answer = JSONResponse(error.body(), status_code=error.status)
        await answer(scope, receive, send)

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, http=Hasty, ws="none", lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def said_after(port: int, *sent: bytes) -> bytes:
    """Sends bytes and nothing more; returns what comes until the server hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=HANG_S) as connection:
        for part in sent:
            connection.sendall(part)
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                said += part
                if b"}" in said:
                    break
    return said


def test_a_head_that_never_ends_is_let_go():
    with reading(Bodies(1000)) as port:
        assert said_after(port) == b""
        assert said_after(port, b"POST / HT") == b""
        assert said_after(port, HEAD) == b""
        whole = HEAD.replace(b"1000", b"2") + b"\r\nab"
        assert b'{"size":2}' in said_after(port, whole)
        with socket.create_connection(("127.0.0.1", port), timeout=HANG_S) as connection:  # a second request on it
            connection.sendall(whole)
            assert b"200 OK" in connection.recv(65536)
            connection.sendall(HEAD)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(65536):
                    pass
        assert httpx.post(f"http://127.0.0.1:{port}/", content=b"abc").json() == {"size": 3}


def test_a_body_that_stops_coming_is_let_go():
    with reading(Bodies(1000, idle_s=SOON_S)) as port:
        assert b"408" in said_after(port, HEAD + b"\r\n", b"a").split(b"\r\n")[0]
        assert httpx.post(f"http://127.0.0.1:{port}/", content=b"abc").json() == {"size": 3}


def test_all_bodies_together_have_their_limit():
    bodies = Bodies(1000, idle_s=HANG_S)
    with reading(bodies) as port:
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(NUM_HELD)]
        for connection in held:
            connection.sendall(HEAD + b"\r\n" + b"a" * 999)
        while bodies._num_held < NUM_HELD * 999:
            time.sleep(0.01)
        assert httpx.post(f"http://127.0.0.1:{port}/", content=b"a" * 5).status_code == 429
        for connection in held:
            connection.close()
        while bodies._num_held:
            time.sleep(0.01)
        assert httpx.post(f"http://127.0.0.1:{port}/", content=b"a" * 5).json() == {"size": 5}
        assert httpx.post(f"http://127.0.0.1:{port}/", content=b"a" * 1001).status_code == 413


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path):
    adapter = write_served_adapter(tmp_path)
    weights = load_file(adapter / ADAPTER_WEIGHTS_FILE)
    name = next(iter(weights))
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, adapter / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})
    done = command("serve", "--model", "tiny", "--adapter", f"tuned={adapter}", "--port", "0")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert name.removesuffix(".weight") in done.stderr
