"""Where clips that rows name by URL are fetched to, what a download may take, and where clips inside files are unpacked to."""

from __future__ import annotations

from pathlib import Path

from cvft.data.fetch.cache import URLS_FOLDER, ClipCache
from cvft.data.fetch.limits import FetchLimits
from cvft.data.formats.clips_inside import UNPACKED_FOLDER
from cvft.recipe import Recipe


def url_cache_dir(recipe: Recipe) -> Path:
    """Returns the folder of fetched clips: beside the runs, unless the recipe names another one."""
    return (recipe.data.cache or recipe.output.root / URLS_FOLDER).absolute()


def unpacked_dir(recipe: Recipe) -> Path:
    """Returns the folder of clips that lie inside files of rows: beside the runs, under a name that no run can have."""
    return (recipe.output.root / UNPACKED_FOLDER).absolute()


def open_url_cache(recipe: Recipe) -> ClipCache:
    """Opens the cache of fetched clips; it is made when it is first needed.

    Raises:
        CvftError: when a host that is to be allowed is none.
    """
    data = recipe.data
    limits = FetchLimits(
        max_bytes=data.max_download_mib << 20, total_s=data.download_timeout_s, allow_hosts=data.allow_hosts
    )
    return ClipCache(url_cache_dir(recipe), limits=limits)
