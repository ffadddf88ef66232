"""Downloads one clip over HTTP, within limits; the only file of this package that speaks HTTP as a client of clips.

URL -> host resolved once, addresses looked at -> GET to exactly that address (its name in `Host` and TLS) -> bytes, and their
version, so that a download that was cut goes on where it stopped. Each redirect begins with its own host anew.

Proxies that the environment names are not used: a proxy resolves hosts by itself, out of sight of these checks. Cookies, `.netrc`
and passwords are not sent. A response that is packed (`Content-Encoding`) is refused: sizes and ranges would mean something else.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from cvft import __version__
from cvft.data.fetch.addresses import Resolve, is_address, is_public, resolve_host
from cvft.data.fetch.limits import FetchError, FetchLimits, HostError
from cvft.data.fetch.urls import PORTS, ClipUrl, read_host
from cvft.data.video.kinds import READ_KINDS, READ_PICTURES, name_kind
from cvft.errors import Problem, RunError, ValueProblem, quote
from cvft.files import hash_file, write_whole

NUM_ADDRESSES = 4
"""Addresses of one host that are tried, one after the other."""

_REDIRECTS = (301, 302, 303, 307, 308)
_LATER = (408, 425, 429, 500, 502, 503, 504)
"""Statuses after which another try may bring the clip. Source: RFC 9110 15, RFC 6585 4, RFC 8470 5.2."""

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_TEXTS = ("text/", "application/json", "application/xhtml", "application/xml")


@dataclass(frozen=True)
class Version:
    """What tells one content of a URL from a later one, as its server says.

    Args:
        etag: `ETag`, or empty.
        modified: `Last-Modified`, or empty.
    """

    etag: str = ""
    modified: str = ""

    def ask_whether_changed(self) -> dict[str, str]:
        """Returns headers that ask for the content only if it is another one by now; none where nothing tells."""
        if self.etag:
            return {"If-None-Match": self.etag}
        return {"If-Modified-Since": self.modified} if self.modified else {}


@dataclass(frozen=True)
class Downloaded:
    """A clip that was fetched whole.

    Args:
        sha256: Hash of its bytes.
        num_bytes: Its size.
        version: Its version.
    """

    sha256: str
    num_bytes: int
    version: Version


class _CutError(Exception):
    """A try that came to nothing; another one may do better.

    Args:
        error: What is said if none does.
    """

    def __init__(self, error: FetchError) -> None:
        super().__init__(str(error))
        self.error = error


class Downloader:
    """Downloads clips.

    Args:
        limits: What each may take.
        resolve: Finds addresses of hosts.

    Raises:
        RunError: when the certificates that `SSL_CERT_FILE` names cannot be read.
    """

    def __init__(self, limits: FetchLimits, *, resolve: Resolve = resolve_host) -> None:
        self._limits = limits
        self._resolve = resolve
        self._tls = _open_certificates()
        self._allowed = {read_host(host.strip("[]")) for host in limits.allow_hosts}

    async def download(self, url: ClipUrl, partial: Path, *, known: Version | None = None) -> Downloaded | None:
        """Downloads a clip.

        Args:
            url: Its URL.
            partial: The file to write. What an earlier download has left there is gone on with if it is of the same version.
                After an error, what can be gone on with is left, and nothing else.
            known: The version that is there already, to fetch it only if it has changed.

        Returns:
            What was fetched; None where the known version is still the one.

        Raises:
            FetchError: when it cannot be fetched.
            OSError: when it cannot be written.
        """
        try:
            async with asyncio.timeout(self._limits.total_s):
                return await self._try_often(url, partial, known)
        except TimeoutError:
            _discard_unless_resumable(partial)
            need = f"the whole clip in {self._limits.total_s:g} s"
            raise _problem(url, "a download that takes longer", need) from None
        except BaseException:  # Ctrl-C and a client that hangs up too: what cannot be resumed is not kept
            _discard_unless_resumable(partial)
            raise

    async def _try_often(self, url: ClipUrl, partial: Path, known: Version | None) -> Downloaded | None:
        num_failed = 0
        while True:
            before = _size(partial)
            try:
                downloaded = await self._try(url, partial, known)
            except _CutError as error:
                num_failed = 1 if _version_file(partial).is_file() and _size(partial) > before else num_failed + 1
                if num_failed >= self._limits.num_tries:
                    raise error.error from None
                await asyncio.sleep(self._limits.pause_s * 2 ** (num_failed - 1))
            except FetchError:
                _discard(partial)
                raise
            else:
                _version_file(partial).unlink(missing_ok=True)
                return downloaded

    async def _try(self, url: ClipUrl, partial: Path, known: Version | None) -> Downloaded | None:
        token = _read_token(partial)
        begin = _size(partial) if token else 0
        headers = {"Range": f"bytes={begin}-", "If-Range": token} if begin else {}
        if not begin and known is not None:
            headers = known.ask_whether_changed()
        async with AsyncExitStack() as stack:
            try:
                response = await self._follow(url, headers, stack)
                if response.status_code == 304 and known is not None and not begin:
                    return None
                size = await self._receive(url, response, partial, begin=begin)
            except httpx.TimeoutException as error:
                need = f"a byte at least every {self._limits.stall_s:g} s"
                raise _CutError(_problem(url, "a download that stands still", need)) from error
            except httpx.HTTPError as error:
                reason = visible_reason(error)
                raise _CutError(_problem(url, f"a download that was cut ({reason})", "the whole clip")) from error
        kind = name_kind(partial)
        if kind is not None and self._limits.pictures and not kind.is_picture:
            raise _problem(url, kind.name, READ_PICTURES)
        if kind is not None and not self._limits.pictures and not kind.is_clip:
            raise _problem(url, kind.name, READ_KINDS, kind.hint)
        sha256 = await asyncio.to_thread(_sync_and_hash, partial)
        return Downloaded(sha256, size, _version_of(response))

    async def _follow(self, url: ClipUrl, headers: Mapping[str, str], stack: AsyncExitStack) -> httpx.Response:
        """Asks for a URL, and for where it leads, until something else comes than a redirect."""
        target = url
        for _ in range(self._limits.num_redirects + 1):
            response = await self._ask(url, target, headers, stack)
            if response.status_code not in _REDIRECTS:
                return response
            try:
                target = target.follow(response.headers.get("location", ""))
            except ValueProblem as error:
                raise HostError(_SUBJECT, [error.at(url.shown)]) from error
        raise _problem(url, "ever further redirects", f"at most {self._limits.num_redirects}")

    async def _ask(
        self, url: ClipUrl, target: ClipUrl, headers: Mapping[str, str], stack: AsyncExitStack
    ) -> httpx.Response:
        limits = self._limits
        addresses = await self._find_addresses(url, target)
        # one of its own: a connection that is kept would be taken for any host of that address. Without a client around it, which
        # would log whole URLs, keep cookies and read `.netrc`
        transport = httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False)
        stack.push_async_callback(transport.aclose)
        timeout = httpx.Timeout(limits.stall_s, connect=limits.connect_s).as_dict()
        sent = {
            "Host": target.authority,
            "User-Agent": f"cvft/{__version__}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
            **headers,
        }
        reason = ""
        for address in addresses:
            extensions = {"sni_hostname": target.host, "timeout": timeout}
            request = httpx.Request("GET", target.at(address), headers=sent, extensions=extensions)
            try:
                response = await transport.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                reason = visible_reason(error)
                continue
            stack.push_async_callback(response.aclose)
            return response
        hint = "proxies that the environment names are not used" if any(map(os.environ.get, _PROXIES)) else ""
        got = f"no connection to {quote(target.authority)} ({reason})"
        raise _CutError(HostError(_SUBJECT, [Problem(url.shown, got, "a host that answers", hint)]))

    async def _find_addresses(self, url: ClipUrl, target: ClipUrl) -> Sequence[str]:
        """Returns where a host lies, as it was found this once.

        Raises:
            HostError: when it may not be asked.
        """
        is_allowed = target.host in self._allowed
        hint = f"if you trust it, allow it by name: {quote(target.host)} in data.allow_hosts, or --allow-host"
        if not is_allowed and target.port not in PORTS.values():
            got = f"the port {target.port} of {quote(target.host)}"
            raise HostError(_SUBJECT, [Problem(url.shown, got, "the port 80 or 443", hint)])
        try:
            if is_address(target.host):
                found: Sequence[str] = [target.host]
            else:
                work = asyncio.to_thread(self._resolve, target.host, target.port)
                found = await asyncio.wait_for(work, self._limits.connect_s)
        except (OSError, UnicodeError) as error:  # TimeoutError is one of them
            reason = getattr(error, "strerror", None) or "no answer"
            got = f"the host {quote(target.host)}, which is not found ({reason})"
            raise _CutError(HostError(_SUBJECT, [Problem(url.shown, got, "a host that is known")])) from error
        refused = [] if is_allowed else [address for address in found if not is_public(address)]
        if refused or not found:
            at = f" at {quote(refused[0])}" if refused and refused[0] != target.host else ""
            got = f"the host {quote(target.host)}{at}, which is no public address"
            raise HostError(_SUBJECT, [Problem(url.shown, got, "a host of the public Internet", hint)])
        return found[:NUM_ADDRESSES]

    async def _receive(self, url: ClipUrl, response: httpx.Response, partial: Path, *, begin: int) -> int:
        """Writes what a response brings; returns the size of the whole clip."""
        status, headers = response.status_code, response.headers
        if status == 416 or (status == 206 and begin and _range_of(headers, begin) is None):
            _discard(partial)
            got = "another part than was asked for"
            raise _CutError(_problem(url, got, "the rest of the clip, or all of it"))
        if status in _LATER:
            raise _CutError(_problem(url, f"status {status}", "status 200"))
        if status != 200 and not (status == 206 and begin):
            raise _problem(url, f"status {status}", "status 200")
        if (packed := headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
            raise _problem(url, f"a response that is packed ({quote(packed)})", "the bytes of the clip as they are")
        if headers.get("content-type", "").strip().lower().startswith(_TEXTS):
            got = f"a page or a message ({quote(headers['content-type'])})"
            raise _problem(url, got, "the clip itself", "a URL that a browser shows as a page is not the clip's")
        begin, total = (begin, _range_of(headers, begin)) if status == 206 else (0, None)
        if total is None and (length := headers.get("content-length", "")).isdecimal():
            total = begin + int(length)
        self._check_size(url, total or 0)
        if not begin:
            _begin_anew(partial, token=_token_of(headers))
        size = begin
        with open(partial, "ab") as file:
            async for chunk in response.aiter_raw():
                size += len(chunk)
                self._check_size(url, size)
                file.write(chunk)
                file.flush()  # a kill costs what is under way, and not what has come
        if total is not None and size != total:
            raise _CutError(_problem(url, f"{size:,} of {total:,} bytes", "the whole clip"))
        if not size:
            raise _problem(url, "nothing (0 bytes)", "a clip")
        return size

    def _check_size(self, url: ClipUrl, size: int) -> None:
        if size > (most := self._limits.max_bytes):
            hint = "data.max_download_mib of a recipe allows more"
            raise _problem(url, f"more than {most:,} bytes", f"at most {most / 2**20:g} MiB", hint)


_SUBJECT = "the download of a clip"


def _open_certificates() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        got = f"{quote(os.environ.get('SSL_CERT_FILE', ''))}: {error.strerror or error}"
        need = "a file of certificates, or nothing"
        raise RunError(_SUBJECT, [Problem("SSL_CERT_FILE", got, need)]) from error


def _problem(url: ClipUrl, got: str, need: str, hint: str = "") -> FetchError:
    return FetchError(_SUBJECT, [Problem(url.shown, got, need, hint)])


def visible_reason(error: httpx.HTTPError) -> str:
    """Says in a few words why a request failed."""
    return quote(str(error) or type(error).__name__, most=100).strip("`")


def _range_of(headers: httpx.Headers, begin: int) -> int | None:
    """Returns the size of the whole clip where a response brings its rest from `begin` on, else None."""
    found = _RANGE.fullmatch(headers.get("content-range", ""))
    if found is None or int(found[1]) != begin or found[3] == "*" or int(found[2]) + 1 != int(found[3]):
        return None
    return int(found[3])


def _version_of(response: httpx.Response) -> Version:
    return Version(response.headers.get("etag", ""), response.headers.get("last-modified", ""))


def _token_of(headers: httpx.Headers) -> str:
    """Returns what may be sent in `If-Range`, or an empty text. Source: RFC 9110 13.1.5, 8.8.2.2."""
    etag = headers.get("etag", "")
    if etag:
        return "" if etag.startswith("W/") else etag
    try:
        modified, sent = (parsedate_to_datetime(headers[name]) for name in ("last-modified", "date"))
        return headers["last-modified"] if sent - modified >= timedelta(seconds=1) else ""
    except (KeyError, ValueError, TypeError):
        return ""


def _version_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.version")


def _read_token(partial: Path) -> str:
    try:
        return _version_file(partial).read_text()
    except FileNotFoundError:
        return ""


def _begin_anew(partial: Path, *, token: str) -> None:
    """Empties a file and notes which version is written to it; killed at any point, no version is noted of bytes of another."""
    _discard(partial)
    partial.touch()
    if token:
        write_whole(_version_file(partial), token)


def _discard(partial: Path) -> None:
    _version_file(partial).unlink(missing_ok=True)
    partial.unlink(missing_ok=True)


def _discard_unless_resumable(partial: Path) -> None:
    if not _version_file(partial).is_file():
        partial.unlink(missing_ok=True)


def _size(partial: Path) -> int:
    return partial.stat().st_size if partial.is_file() else 0


def _sync_and_hash(path: Path) -> str:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return hash_file(path)
