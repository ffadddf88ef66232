"""The cache of fetched clips: each URL is fetched once, and each content is kept once, for all runs and processes.

URL -> FOLDER/urls/DIGEST/NAME, a link -> FOLDER/content/SHA256, the bytes      while it is fetched: FOLDER/partial/DIGEST

What has a name under `urls` or `content` is whole, whenever a process is killed. A clip that is there is not asked for again:
its folder under `urls` has to go for that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cvft.data.fetch.addresses import Resolve, resolve_host
from cvft.data.fetch.limits import FetchError, FetchLimits
from cvft.data.fetch.urls import ClipUrl, parse_url, read_host
from cvft.errors import CvftError, Problem, RunError, quote
from cvft.files import LockHeldError, lock, sync_folder

if TYPE_CHECKING:
    from cvft.data.fetch.download import Downloader

LOG = logging.getLogger(__name__)

T = TypeVar("T")

URLS_FOLDER = ".urls"
"""Where the cache is, beside the runs, under a name that no run can have."""

NUM_AT_ONCE = 8
"""Clips that are fetched at the same time."""

_POLL_S = 0.2


def default_folder() -> Path:
    """Returns the cache of commands without a recipe: that of recipes which say nothing of it."""
    return Path("runs", URLS_FOLDER)


def place_of(folder: Path, url: ClipUrl) -> Path:
    """Returns where the clip of a URL lies once it is fetched.

    Args:
        folder: The cache.
        url: The URL.
    """
    return folder / "urls" / url.digest[:32] / url.file_name


class ClipCache:
    """Clips by their URLs. Several processes may use one folder at a time.

    Args:
        folder: The cache; made when it is first needed.
        limits: What each download may take.
        resolve: Finds addresses of hosts.

    Raises:
        CvftError: when a host that is to be allowed is none.
    """

    def __init__(self, folder: Path, *, limits: FetchLimits | None = None, resolve: Resolve = resolve_host) -> None:
        self.folder = folder.absolute()
        self._limits = limits or FetchLimits()
        self._resolve = resolve
        problems = [
            Problem("allowed hosts", quote(host), "a host alone, such as `media.lan` or `10.0.0.5`")
            for host in self._limits.allow_hosts
            if read_host(host.strip("[]")) is None
        ]
        if problems:
            raise CvftError("the hosts that may lie anywhere", problems)

    def fetch(self, wanted: Mapping[Path, str]) -> dict[Path, FetchError]:
        """Fetches the clips that are not there yet.

        Args:
            wanted: Place -> URL, as `place_of` has them.

        Returns:
            Place -> why it could not be fetched, for those.

        Raises:
            RunError: when the cache cannot be written.
        """
        missing = {place: url for place, url in wanted.items() if not place.is_file()}
        if not missing:
            return {}
        from cvft.data.fetch.download import Downloader

        LOG.info("fetch     %d clip%s by URL", len(missing), "" if len(missing) == 1 else "s")
        downloader = Downloader(self._limits, resolve=self._resolve)
        try:
            refused = run_apart(self._fetch_all(missing, downloader))
        except* OSError as errors:
            error = next(_leaves(errors))
            problem = Problem(str(self.folder), getattr(error, "strerror", None) or str(error), "a folder to write to")
            raise RunError("the cache of clips", [problem]) from error
        LOG.info("fetch     %d of %d are there", len(missing) - len(refused), len(missing))
        return {place: refused[place] for place in missing if place in refused}

    async def _fetch_all(self, missing: Mapping[Path, str], downloader: Downloader) -> dict[Path, FetchError]:
        refused: dict[Path, FetchError] = {}
        left = iter(missing.items())

        async def work() -> None:
            for place, text in left:
                try:
                    await self._fetch_one(place, parse_url(text), downloader)
                except FetchError as error:
                    refused[place] = error

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(NUM_AT_ONCE, len(missing))):
                tasks.create_task(work())
        return refused

    async def _fetch_one(self, place: Path, url: ClipUrl, downloader: Downloader) -> None:
        partial = self.folder / "partial" / url.digest
        partial.parent.mkdir(parents=True, exist_ok=True)
        async with _locked(partial.with_name(f"{url.digest}.lock")):
            if place.is_file():  # another process has brought it meanwhile
                return
            fetched = await downloader.download(url, partial)
            assert fetched is not None, "no version was known"
            content = self.folder / "content" / fetched.sha256
            content.parent.mkdir(exist_ok=True)
            os.replace(partial, content)
            sync_folder(content.parent)
            place.parent.mkdir(parents=True, exist_ok=True)
            aside = place.with_name(f".{secrets.token_hex(4)}.tmp")
            aside.symlink_to(Path("..", "..", "content", fetched.sha256))
            os.replace(aside, place)
            sync_folder(place.parent)


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Holds a lock between processes, and lets other downloads go on while it waits for it."""
    with ExitStack() as held:
        while True:
            with suppress(LockHeldError):
                held.enter_context(lock(path, timeout_s=0, subject="a clip"))
                break
            await asyncio.sleep(_POLL_S)
        yield


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end, whether or not this thread is inside a loop already, as a notebook is."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(asyncio.run(work))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result()


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yields what a group of errors holds."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
