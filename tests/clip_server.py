"""A server of clips on this machine that does what servers of the web do: also what they should not.

Each path of `/KIND/anything` behaves as its kind says; `asked` lists what was asked for, with the headers.
"""

import contextlib
import gzip
import ssl
import threading
import time
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

CLIPS = Path(__file__).parent.parent / "datasets" / "tiny_shapes" / "clips"
CLIP = (CLIPS / "val_000.mp4").read_bytes()
OTHER = (CLIPS / "val_001.mp4").read_bytes()
ETAG = '"one"'
PAGE = b"<!doctype html><title>Sign in</title>"
DRIP_S = 0.05


class ClipServer:
    """A running server; `stop` lets those go that stand still."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.counts: Counter[str] = Counter()
        self.sent = threading.Event()
        self.stop = threading.Event()
        self.files: dict[str, bytes] = {}
        handler = type("BoundHandler", (Handler,), {"clips": self})
        self.server = Quiet(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def __enter__(self) -> "ClipServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()

    def asked_for(self, path: str) -> list[dict[str, str]]:
        return [headers for asked, headers in self.asked if asked == path]


class Quiet(ThreadingHTTPServer):
    def handle_error(self, *_):
        """A client that goes is no news."""


class Handler(BaseHTTPRequestHandler):
    clips: ClipServer

    def log_message(self, *_args):
        pass

    def do_GET(self) -> None:
        self.clips.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.clips.counts[self.path] += 1
        kind = self.path.split("/")[1].partition("?")[0]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, f"give_{kind}")()
        self.close_connection = True

    @property
    def time(self) -> int:
        """How often the path was asked for, with this time."""
        return self.clips.counts[self.path]

    def head(self, status: int = 200, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def give(self, body: bytes = CLIP, *, most: int | None = None, etag: str | None = ETAG, **headers: object) -> None:
        """Gives a body as a good server does, up to so many bytes of it."""
        tag = {} if etag is None else {"ETag": etag}
        if etag is not None and self.headers.get("If-None-Match") == etag:
            self.head(304, **tag)
            return
        begin, status = 0, 200
        asked = self.headers.get("Range")
        if asked and self.headers.get("If-Range") in (etag, headers.get("Last_Modified")):
            begin, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
            headers["Content_Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
        self.head(status, Content_Length=len(body) - begin, **{"Content_Type": "video/mp4", **tag, **headers})
        self.wfile.write(body[begin:most])
        self.clips.sent.set()

    def give_good(self) -> None:
        self.give()

    def give_file(self) -> None:
        """What a test has put there."""
        self.give(self.clips.files[self.path], Content_Type="image/png", etag=None)

    def give_other(self) -> None:
        self.give(OTHER)

    def give_untagged(self) -> None:
        self.give(etag=None)

    def give_cut(self) -> None:
        """Cut in the middle, twice."""
        self.give(most=None if self.time > 2 else self.time * len(CLIP) // 3)

    def give_dated(self) -> None:
        self.give(
            most=None if self.time > 1 else len(CLIP) // 2, etag=None, Last_Modified=formatdate(1_000_000, usegmt=True)
        )

    def give_nameless(self) -> None:
        """Cut, and nothing says whether it is the same the next time."""
        self.give(most=None if self.time > 1 else len(CLIP) // 2, etag=None)

    def give_changed(self) -> None:
        if self.time == 1:
            self.give(most=len(CLIP) // 2)
        else:
            self.give(OTHER, etag='"two"')

    def give_turns(self) -> None:
        """Another clip from the second time on."""
        self.give(*((CLIP,) if self.time == 1 else (OTHER,)), etag='"one"' if self.time == 1 else '"two"')

    def give_elsewhere(self) -> None:
        """Answers a range with another one."""
        if self.time == 2:
            self.head(206, Content_Range=f"bytes 0-{len(CLIP) - 1}/{len(CLIP)}", Content_Length=len(CLIP))
            self.wfile.write(CLIP)
        else:
            self.give(most=len(CLIP) // 2 if self.time == 1 else None)

    def give_gone(self) -> None:
        """Does not know the range any more."""
        if self.time == 2:
            self.head(416, Content_Length=0)
        else:
            self.give(most=len(CLIP) // 2 if self.time == 1 else None)

    def give_loose(self) -> None:
        """Gives rests without their size, and the first one cut."""
        if self.time == 1:
            self.give(most=len(CLIP) // 3)
            return
        begin = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.head(206, ETag=ETAG, Content_Range=f"bytes {begin}-{len(CLIP) - 1}/{len(CLIP)}")
        self.wfile.write(CLIP[begin : None if self.time > 2 else 2 * len(CLIP) // 3])

    def give_always_cut(self) -> None:
        self.give(most=len(CLIP) // 2, etag=None)

    def give_stall(self) -> None:
        self.give(most=len(CLIP) // 2)
        self.clips.stop.wait()

    def give_stall_once(self) -> None:
        self.give(most=len(CLIP) // 2 if self.time == 1 else None)
        if self.time == 1:
            self.clips.stop.wait()

    def give_drip(self) -> None:
        self.head(Content_Length=len(CLIP))
        self.drip()

    def give_head_drip(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        self.drip()

    def drip(self) -> None:
        while not self.clips.stop.wait(DRIP_S):
            self.wfile.write(b"a")

    def give_short(self) -> None:
        """Says less than there is."""
        self.head(Content_Length=len(CLIP) // 2)
        self.wfile.write(CLIP)

    def give_long(self) -> None:
        """Says more than there is."""
        self.head(Content_Length=2 * len(CLIP))
        self.wfile.write(CLIP)

    def give_large(self) -> None:
        self.head(Content_Length=1 << 40)

    def give_endless(self) -> None:
        """Never says how much there is."""
        self.head(Content_Type="video/mp4")
        while not self.clips.stop.is_set():
            self.wfile.write(bytes(1 << 16))

    def give_page(self) -> None:
        self.give(PAGE, Content_Type="text/html; charset=utf-8")

    def give_hidden_page(self) -> None:
        self.give(PAGE)

    def give_gzip(self) -> None:
        self.give(gzip.compress(CLIP), Content_Encoding="gzip")

    def give_missing(self) -> None:
        self.head(404, Content_Length=0)

    def give_busy(self) -> None:
        """Has no time, once."""
        if self.time == 1:
            self.head(503, Content_Length=0)
        else:
            self.give()

    def give_empty(self) -> None:
        self.give(b"")

    def give_to(self) -> None:
        """Leads to the URL behind `?`."""
        self.head(302, Location=unquote(self.path.partition("?")[2]), Content_Length=0)

    def give_loop(self) -> None:
        self.head(307, Location=self.path, Content_Length=0)

    def give_nowhere(self) -> None:
        self.head(302, Content_Length=0)

    def give_slow(self) -> None:
        """Takes its time, so that others come meanwhile."""
        self.head(Content_Length=len(CLIP), ETag=ETAG)
        for begin in range(0, len(CLIP), 4096):
            self.wfile.write(CLIP[begin : begin + 4096])
            self.clips.sent.set()
            time.sleep(0.02)
