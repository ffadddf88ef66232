"""Clips of requests: files under the roots, data URLs, uploads -> a name in the server's own folder that stands for one content.

`file:///root/a.mp4`, `a.mp4` -> resolved, under a root, a regular file -> SPOOL/IDENTITY (a link)
`data:video/mp4;base64,...`   -> decoded within the limit                -> SPOOL/SHA256 (a file)
`clip:SHA256`                 -> what was uploaded before                -> SPOOL/SHA256
`https://host/a.mp4`          -> fetched by `WebClips`, if at all        -> SPOOL/SHA256

Whatever is kept of a clip later (pixels, keys and values) is kept under that name, so that a file that has changed is another
clip. A file that is missing and a file that may not be shown are told in the same words.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
import tempfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cvft.serve.errors import GONE, ApiError, refused
from cvft.serve.messages import ClipKind

_DATA = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)(?:;[\w=.+\"-]+)*;base64,", re.ASCII)
_CLIP = re.compile(r"clip:(?P<sha256>[0-9a-f]{64})")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_TYPES: Mapping[ClipKind, tuple[str, ...]] = {
    "video": ("video/", "application/octet-stream", "image/gif"),
    "picture": ("image/", "application/octet-stream"),
}
_EXAMPLES: Mapping[ClipKind, str] = {"video": "video/mp4", "picture": "image/png"}
"""What a data URL may say that it holds, and such a word for messages."""

MAX_NAME_CHARS = 4096
"""Longest name of a file. Source: PATH_MAX of Linux."""

SPOOL_BYTES = 2 << 30
"""Most bytes of clips that were sent; those that were not asked about longest make room."""


class MediaStore:
    """Clips by how requests name them. Safe to use from several threads.

    Args:
        roots: Folders whose files may be shown.
        max_bytes: Largest clip that may be sent.
        fetches: Whether `WebClips` beside it take URLs, for messages.
    """

    def __init__(self, roots: Sequence[Path], *, max_bytes: int, fetches: bool = False) -> None:
        self.fetches = fetches
        self.roots = [root.resolve(strict=True) for root in roots]
        self.max_bytes = max_bytes
        self._folder = tempfile.TemporaryDirectory(prefix="cvft-serve-")
        self.spool = Path(self._folder.name).resolve()
        self._sizes: OrderedDict[Path, int] = OrderedDict()
        self._num_bytes = 0
        self._users: Counter[Path] = Counter()
        self._lock = threading.Lock()

    def open(self, name: str, *, param: str, kind: ClipKind = "video") -> Path:
        """Returns where a clip, or a picture that is a frame of one, lies; `release` it when the request is done.

        Args:
            name: How a request names it.
            param: The field that does.
            kind: Which of the two it is. A file is only looked at when it is decoded.

        Raises:
            ApiError: when there is no such clip, or none that may be shown.
        """
        if name[:5].lower() == "data:":
            return self.add(self._decode(name, param=param, kind=kind), in_use=True)
        if _CLIP.fullmatch(name):
            path = self.spool / name.removeprefix("clip:")
            if not self.hold(path):
                raise _gone(param)
            return path
        return self._link(self._find(name, param=param), param=param)

    def hold(self, path: Path) -> bool:
        """Takes a clip that was sent or fetched for a request, until `release`; returns whether it is still there.

        Args:
            path: Where it lay.
        """
        with self._lock:
            if path not in self._sizes:
                return False
            self._sizes.move_to_end(path)
            self._users[path] += 1
            return True

    def take(self, file: Path, *, sha256: str) -> Path:
        """Keeps a clip that was fetched, for a request that holds it until `release`.

        Args:
            file: Its bytes, in the server's own folder; the name goes.
            sha256: Their hash.

        Returns:
            Where it lies.
        """
        path = self.spool / sha256
        with self._lock:
            size = file.stat().st_size
            file.replace(path)
            self._count(path, size)
            self._users[path] += 1
            self._make_room(keep=path)
        return path

    def release(self, path: Path) -> None:
        """Says that a request is done with a clip."""
        with self._lock:
            self._users[path] -= 1
            self._make_room()

    def add(self, content: bytes, *, in_use: bool = False) -> Path:
        """Keeps a clip that was sent.

        Args:
            content: Its bytes.
            in_use: Whether a request holds it, until `release`.

        Returns:
            Where it lies; its name is the hash of its bytes.
        """
        path = self.spool / hashlib.sha256(content).hexdigest()
        with self._lock:
            if path not in self._sizes:
                aside = path.with_suffix(".partial")
                aside.write_bytes(content)
                aside.rename(path)
            self._count(path, len(content))
            self._users[path] += in_use
            self._make_room(keep=path)
        return path

    def close(self) -> None:
        """Removes what was sent."""
        self._folder.cleanup()

    def _count(self, path: Path, size: int) -> None:
        self._num_bytes += size - self._sizes.get(path, 0)
        self._sizes[path] = size
        self._sizes.move_to_end(path)

    def _make_room(self, *, keep: Path | None = None) -> None:
        if self._num_bytes <= SPOOL_BYTES:
            return
        for path in list(self._sizes):
            if self._users[path] <= 0 and path != keep:
                path.unlink(missing_ok=True)
                self._num_bytes -= self._sizes.pop(path)
            if self._num_bytes <= SPOOL_BYTES:
                return

    def _decode(self, url: str, *, param: str, kind: ClipKind) -> bytes:
        head = _DATA.match(url, 0, 256)
        if head is None:
            raise refused(param, "another data URL", f"`data:{_EXAMPLES[kind]};base64,` and the bytes of the {kind}")
        if not head["type"].lower().startswith(_TYPES[kind]):
            need = f"the type of a {kind}, such as `{_EXAMPLES[kind]}`"
            raise refused(param, f"a data URL of type `{head['type']}`", need)
        # a third is known before anything is decoded
        if (len(url) - head.end()) * 3 // 4 > self.max_bytes + 2:
            raise too_large(self.max_bytes, param=param)
        try:
            content = base64.b64decode(url[head.end() :], validate=True)
        except (binascii.Error, ValueError) as error:
            raise refused(param, "a data URL that is no base64", f"base64 of the bytes of the {kind}") from error
        if not content:
            raise refused(param, "a data URL with nothing in it", f"base64 of the bytes of the {kind}")
        return content

    def _find(self, name: str, *, param: str) -> Path:
        """Returns the file that a name means, with all links resolved."""
        scheme = _SCHEME.match(name)
        if scheme is not None and scheme[0].lower() != "file:":
            need = "a data URL, or a file below the server's media roots: nothing is fetched from elsewhere"
            if self.fetches:
                need = "an http, https or data URL, or a file below the server's media roots"
            raise refused(param, f"a URL that begins with `{scheme[0][:20]}`", need)
        path = name
        if scheme is not None:
            try:
                parts = urlsplit(name)
            except ValueError:
                raise _gone(param) from None
            if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
                raise _gone(param)
            path = unquote(parts.path)
        # not normalised away: `a/../b` is refused, wherever it leads
        if len(path) > MAX_NAME_CHARS or "\0" in path or ".." in path.split("/") or not path.strip("/"):
            raise _gone(param)
        for root in self.roots:
            found = _resolve(Path(path) if path.startswith("/") else root / path, root)
            if found is not None:
                return found
        raise _gone(param)

    def _link(self, found: Path, *, param: str) -> Path:
        try:
            facts = found.stat()
        except OSError:
            raise _gone(param) from None
        identity = (str(found), facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
        link = self.spool / f"root-{hashlib.sha256(repr(identity).encode()).hexdigest()}"
        with self._lock:
            if not link.is_symlink():
                link.symlink_to(found)
            self._users[link] += 1
        return link


def too_large(max_bytes: int, *, param: str | None = None) -> ApiError:
    """Makes the error of a body, or a clip in it, that is too large."""
    message = f"got more than {max_bytes} bytes, need at most as many"
    return ApiError(413, message, param=param, code="too_large")


def _resolve(path: Path, root: Path) -> Path | None:
    """Returns the regular, readable file below the root that a path leads to, or None."""
    try:
        found = path.resolve(strict=True)
        is_file = stat.S_ISREG(found.stat().st_mode)
    except (OSError, RuntimeError, ValueError):
        return None
    return found if is_file and found.is_relative_to(root) and os.access(found, os.R_OK) else None


def _gone(param: str) -> ApiError:
    return ApiError(400, f"{param}: {GONE}", param=param, code="clip_not_found")
