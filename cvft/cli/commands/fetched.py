"""Arguments of commands without a recipe that fetch clips by URL: where they are kept, and which hosts may lie anywhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cvft.data.fetch.cache import ClipCache


def add_urls(parser: argparse.ArgumentParser) -> None:
    """Takes what decides how clips of URLs are fetched."""
    parser.add_argument(
        "--cache", metavar="FOLDER", type=Path, help="where clips named by URL are fetched to; else runs/.urls"
    )
    parser.add_argument(
        "--allow-host",
        metavar="HOST",
        action="append",
        default=[],
        help="a host of URLs that may lie in an own network, at any port; may be given again; else public hosts alone",
    )


def open_cache(options: argparse.Namespace) -> ClipCache:
    """Returns the cache that `add_urls` took.

    Raises:
        CvftError: when a host is none.
    """
    from cvft.data.fetch.cache import ClipCache, default_folder
    from cvft.data.fetch.limits import FetchLimits

    limits = FetchLimits(allow_hosts=tuple(options.allow_host))
    return ClipCache(options.cache or default_folder(), limits=limits)
