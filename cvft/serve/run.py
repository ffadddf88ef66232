"""`cvft serve`: checks everything that can be checked, listens, loads the models, and answers until it is stopped.

names and folders -> `FoundModel`s -> socket -> `Engine` (its thread loads them) + `Server` behind a `Guard` -> uvicorn
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cvft.data.fetch.urls import read_host
from cvft.errors import CvftError, Problem, quote
from cvft.predict.trained import FoundModel, find_model
from cvft.serve.metrics import Metrics

if TYPE_CHECKING:
    from cvft.predict.predictor import Predictor

LOG = logging.getLogger(__name__)

KEY_VARIABLE = "CVFT_API_KEY"
"""Where the key comes from: a command line can be read by everybody on a machine."""

MIN_KEY_CHARS = 16

MAX_WAITING = 32
MAX_BODY_MIB = 64
MAX_URL_MIB = 256
PREFIX_GIB = 1.0
BATCH_ROWS = 16
"""What is taken where nobody says."""

STOP_S = 5
"""What running answers get when the server is stopped."""

_NAME = re.compile(r"[A-Za-z0-9][\w.:@-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class Serving:
    """How a server is run.

    Args:
        host: Address to listen on.
        port: Port; 0 for any that is free.
        roots: Folders whose files may be shown.
        max_waiting: Requests that may wait beside those that are answered.
        max_body_mib: Largest body.
        batch_rows: Answers that run at a time.
        prefix_gib: Memory for clips that may be asked about again.
        max_new_tokens: Longest answer in tokens; None for what a prompt leaves.
        allow_urls: Whether clips may be named by URL.
        allow_hosts: Hosts of URLs that may lie in an own network; all others must be public.
        max_url_mib: Largest clip that is fetched.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    roots: Sequence[Path] = ()
    max_waiting: int = MAX_WAITING
    max_body_mib: int = MAX_BODY_MIB
    batch_rows: int = BATCH_ROWS
    prefix_gib: float = PREFIX_GIB
    max_new_tokens: int | None = None
    allow_urls: bool = False
    allow_hosts: Sequence[str] = ()
    max_url_mib: int = MAX_URL_MIB


def serve(
    model: str,
    *,
    adapters: Mapping[str, Path],
    serving: Serving,
    name: str | None = None,
    quantize: str | None = None,
    base: Path | None = None,
) -> None:
    """Serves a model, and adapters of it, until the process is told to stop.

    Args:
        model: What `find_model` takes.
        adapters: Name -> adapter folder, or run, of the same base.
        serving: How.
        name: The name of the model for clients; without it, that of its folder.
        quantize: As for `find_model`.
        base: As for `find_model`.

    Raises:
        CvftError: with everything that prevents it.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    check_serving(serving, key=key)
    found = find_models(model, adapters=adapters, name=name, quantize=quantize, base=base)
    with closing(_listen(serving)) as listening:
        _run(found, serving, listening, key=key)


def check_serving(serving: Serving, *, key: str) -> None:
    """Refuses what would not be safe, or could not be carried out.

    Raises:
        CvftError: with every such thing.
    """
    problems = []
    if not is_loopback(serving.host) and not key:
        hint = f"give clients a key: export {KEY_VARIABLE}=$(openssl rand -hex 32)"
        problems.append(Problem("--host", quote(serving.host), f"127.0.0.1, or a key in {KEY_VARIABLE}", hint))
    if key and (len(key) < MIN_KEY_CHARS or not (key.isascii() and key.isprintable()) or " " in key):
        need = f"at least {MIN_KEY_CHARS} letters, digits and signs, no blanks"
        problems.append(Problem(KEY_VARIABLE, "a key that is too short or odd", need, "openssl rand -hex 32"))
    for root in serving.roots:
        if not root.is_dir():
            problems.append(Problem("--media-root", quote(root), "a folder that exists"))
        elif root.resolve() == Path(root.resolve().anchor):
            problems.append(Problem("--media-root", quote(root), "a folder of clips, not the whole machine"))
    for option, value, least in (
        ("--max-waiting", serving.max_waiting, 0),
        ("--max-body-mib", serving.max_body_mib, 1),
        ("--batch-rows", serving.batch_rows, 1),
        ("--prefix-gib", serving.prefix_gib, 0),
        ("--max-url-mib", serving.max_url_mib, 1),
    ):
        if not value >= least:
            problems.append(Problem(option, quote(value), f"at least {least}"))
    for host in serving.allow_hosts:
        if read_host(host.strip("[]")) is None:
            problems.append(Problem("--allow-host", quote(host), "a host alone, such as `media.lan` or `10.0.0.5`"))
    if not 0 <= serving.port < 65536:
        problems.append(Problem("--port", quote(serving.port), "0 to 65535"))
    if problems:
        raise CvftError("command line", problems)


def is_loopback(host: str) -> bool:
    """Tells whether an address is only reached from this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def find_models(
    model: str, *, adapters: Mapping[str, Path], name: str | None, quantize: str | None, base: Path | None
) -> dict[str, FoundModel]:
    """Finds what is served, by the names for clients; the first is the model itself.

    Raises:
        CvftError: when something cannot be found, or cannot be served under its name.
    """
    first = find_model(model, base=base, quantize=quantize)
    found = {name or _name_of(model, first): first}
    problems = [
        Problem("the name of a model", quote(each), "letters, digits and `._:@-`", "give one with --name")
        for each in (*found, *adapters)
        if not _NAME.fullmatch(each)
    ]
    if adapters and first.adapter is not None:
        hint = "give the base as --model, and each adapter with --adapter NAME=FOLDER"
        problems.append(Problem("--adapter", "it beside a model that is an adapter", "it beside its base", hint))
    problems += [
        Problem("--adapter", f"the name {quote(each)} twice", "other names") for each in adapters if each in found
    ]
    if problems:
        raise CvftError("command line", problems)
    for each, folder in adapters.items():
        found[each] = find_model(folder, base=first.model.path, quantize=quantize)
    return found


def _name_of(model: str, found: FoundModel) -> str:
    folder = Path(model)
    if not folder.is_dir():  # a published name
        return model.rsplit("/", 1)[-1]
    parts = [part for part in found.folder.absolute().parts if part not in ("merged", "adapter")]
    return parts[-1]


def _listen(serving: Serving) -> socket.socket:
    host = serving.host.strip("[]")
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, serving.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        got = f"{host}:{serving.port}, which cannot be had ({error.strerror})"
        raise CvftError("command line", [Problem("--host, --port", got, "an address that is free")]) from error
    return listening


def _run(found: Mapping[str, FoundModel], serving: Serving, listening: socket.socket, *, key: str) -> None:
    import uvicorn

    from cvft.serve.app import Limits, Server, build_app
    from cvft.serve.clips import DecodePool, SharedClips
    from cvft.serve.engine import Engine
    from cvft.serve.guard import LOCAL_NAMES, Guard
    from cvft.serve.media import MediaStore
    from cvft.serve.protocol import PatientProtocol

    pool = DecodePool(next(iter(found.values())).how.decode)
    failures: list[BaseException] = []
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def load() -> Mapping[str, Predictor]:
        from cvft.predict.open import load_models

        return load_models(found, make_clips=lambda encoder, decode: SharedClips(pool, encoder, decode))

    def on_ready(error: BaseException | None) -> None:
        if error is None:
            LOG.info("ready     %s answers at %s", ", ".join(found), address)
            return
        failures.append(error)
        running.should_exit = True

    metrics = Metrics()
    engine = Engine(
        load,
        batch_rows=serving.batch_rows,
        prefix_bytes=int(serving.prefix_gib * 2**30),
        metrics=metrics,
        on_ready=on_ready,
    )
    limits = Limits(
        max_requests=serving.max_waiting + serving.batch_rows,
        max_body_bytes=serving.max_body_mib << 20,
        max_new_tokens=serving.max_new_tokens,
        max_choices=serving.batch_rows,
    )
    store = MediaStore(serving.roots, max_bytes=limits.max_body_bytes, fetches=serving.allow_urls)
    with closing(pool), closing(store) as media:
        web = None
        if serving.allow_urls:
            from cvft.serve.web_clips import WebClips

            web = WebClips(media, max_bytes=serving.max_url_mib << 20, allow_hosts=serving.allow_hosts)
        server = Server(engine, media, metrics, limits, web=web)
        app = Guard(build_app(server), key=key, hosts=() if key else LOCAL_NAMES)
        config = uvicorn.Config(
            app,
            http=PatientProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=STOP_S,
        )
        running = uvicorn.Server(config)
        LOG.info("listening %s; the model is being loaded", address)
        engine.start()
        try:
            running.run(sockets=[listening])
        finally:
            engine.close()
    for failure in failures:
        raise failure
