"""Clips that requests name by URL: fetched as training fetches them, within tighter limits, and asked for anew each time.

`https://host/a.mp4` -> `cvft.data.fetch` -> a file in the server's own folder, named by its content

A clip that the server of the URL says is unchanged is not sent again. What is wrong is told without a word of where a host lies.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from cvft.data.fetch.download import Downloader, Version
from cvft.data.fetch.limits import FetchError, FetchLimits, HostError
from cvft.data.fetch.urls import is_url, parse_url
from cvft.errors import ValueProblem
from cvft.serve.errors import ApiError, refused
from cvft.serve.media import MediaStore, too_large
from cvft.serve.messages import AskedClip, ClipKind

NUM_AT_ONCE = 4
"""Clips that are fetched at the same time; others wait, and their time counts."""

TOTAL_S = 60.0
"""Longest time until a clip is there."""

MAX_VERSIONS = 1000
"""URLs of which it is remembered what they gave last."""


class WebClips:
    """Fetches clips for requests; used in the server's own loop alone.

    Args:
        media: Keeps the clips.
        max_bytes: Largest clip; of one in frames, all of them together.
        allow_hosts: Hosts that may lie in an own network.
        total_s: Longest time until a clip is there.
    """

    def __init__(
        self, media: MediaStore, *, max_bytes: int, allow_hosts: Collection[str] = (), total_s: float = TOTAL_S
    ) -> None:
        self._media = media
        self._max_bytes = max_bytes
        self._total_s = total_s
        limits = FetchLimits(
            max_bytes=max_bytes, total_s=total_s, connect_s=5.0, stall_s=10.0, num_tries=2, allow_hosts=allow_hosts
        )
        self._downloaders: dict[ClipKind, Downloader] = {
            "video": Downloader(limits),
            "picture": Downloader(replace(limits, pictures=True)),
        }
        self._places = asyncio.Semaphore(NUM_AT_ONCE)
        self._given: dict[str, tuple[Path, Version]] = {}

    async def open_all(self, clip: AskedClip) -> list[Path | None]:
        """Returns where the video or the frames of a clip lie, None for those that are not named by a URL; `release` them.

        Frames come one after the other, so that a request has one of the places; their bytes and their time count together.

        Args:
            clip: How a request names them.

        Raises:
            ApiError: when one cannot be had; then none is held.
        """
        opened: list[Path | None] = []
        num_bytes = 0
        param = clip.params[0]
        try:
            async with asyncio.timeout(self._total_s):
                for name, param in zip(clip.names, clip.params, strict=True):
                    path = await self.open(name, param=param, kind=clip.kind) if is_url(name) else None
                    opened.append(path)
                    num_bytes += 0 if path is None else path.stat().st_size
                    if num_bytes > self._max_bytes:
                        raise too_large(self._max_bytes, param=param)
            return opened
        except BaseException as error:
            for path in filter(None, opened):
                self._media.release(path)
            if isinstance(error, TimeoutError):
                raise self._too_slow(param) from error
            raise

    def _too_slow(self, param: str) -> ApiError:
        return refused(param, "a URL that is too slow", f"the whole clip in {self._total_s:g} s")

    async def open(self, name: str, *, param: str, kind: ClipKind) -> Path:
        """Returns where a clip, or a picture that is a frame of one, lies; `MediaStore.release` it when the request is done.

        Args:
            name: The URL.
            param: The field that names it.
            kind: Which of the two it is.

        Raises:
            ApiError: when it cannot be had.
        """
        try:
            url = parse_url(name)
        except ValueProblem as error:
            need = f"an http or https URL of a {kind}, with a host by its name, and without user, password and `#`"
            raise refused(param, "a URL that is not fetched", need) from error
        given = self._given.get(url.digest)
        kept = given[0] if given is not None and self._media.hold(given[0]) else None
        partial = self._media.spool / f"{secrets.token_hex(16)}.partial"
        path, is_unchanged = None, False
        try:
            async with asyncio.timeout(self._total_s), self._places:
                known = given[1] if given is not None and kept is not None else None
                fetched = await self._downloaders[kind].download(url, partial, known=known)
            if fetched is None:
                path, is_unchanged = kept, True
            else:
                path = self._media.take(partial, sha256=fetched.sha256)
                self._remember(url.digest, path, fetched.version)
        except HostError as error:
            raise refused(param, "a URL whose host cannot be asked", "a public host, at port 80 or 443") from error
        except FetchError as error:
            (problem,) = error.problems
            raise refused(param, f"a URL that gives {problem.got}", problem.need) from error
        except TimeoutError as error:
            raise self._too_slow(param) from error
        finally:
            if kept is not None and not is_unchanged:  # what was sent anew is held by itself, even where it is the same
                self._media.release(kept)
            partial.unlink(missing_ok=True)
            partial.with_name(f"{partial.name}.version").unlink(missing_ok=True)
        assert path is not None, "what is known is kept"
        return path

    def _remember(self, digest: str, path: Path, version: Version) -> None:
        self._given.pop(digest, None)
        self._given[digest] = (path, version)
        while len(self._given) > MAX_VERSIONS:
            del self._given[next(iter(self._given))]
