"""A share of a check: decodes its clips and records what it finds, so that the check of all of them need not.

DataFiles -> rows -> those of the share -> its clips decoded, and looked at where sides are compared -> the catalog
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cvft.data.catalog import ClipCatalog
from cvft.data.check import fetch_clips, inspect_clips, look_at_clips
from cvft.data.doctor.check import DataFile, read_files
from cvft.data.doctor.clips import pair_files
from cvft.data.fetch.cache import ClipCache
from cvft.data.shares import Share, take_share
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.process import ClipInfo
from cvft.data.video.spec import content_of, whole_of
from cvft.row_formats import FormatName


@dataclass(frozen=True)
class ShareDone:
    """What a share of a check has done.

    Args:
        share: Which.
        num_clips: Its clips.
        num_decoded: Those among them that were decoded now, or could not be fetched.
        num_bad: Those that do not decode: the check of all tries them again, and names them.
    """

    share: Share
    num_clips: int
    num_decoded: int
    num_bad: int

    def __str__(self) -> str:
        bad = f", {self.num_bad} do not decode" if self.num_bad else ""
        return (
            f"share {self.share}: {self.num_clips} clips, {self.num_decoded} decoded now{bad}; "
            "when all shares are through, the same command without --shard says what they found"
        )


def prove_share(
    files: Sequence[DataFile],
    share: Share,
    *,
    how: DecodeSettings,
    catalog: ClipCatalog,
    video_root: Path | None = None,
    format: FormatName = "auto",
    clips: Path | None = None,
    cache: ClipCache | None = None,
    num_workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ShareDone:
    """Decodes the clips of a share.

    Args:
        files: See `cvft.data.doctor.check.check_files`.
        share: The share.
        how: See there.
        catalog: The catalog of this share.
        video_root: See there.
        format: See there.
        clips: See there.
        cache: See there.
        num_workers: See there.
        on_progress: See there.

    Raises:
        CvftError: when clips cannot be decoded at all on this machine.
    """
    # the check of all names what is wrong
    rows, _ = read_files(files, video_root=video_root, format=format, clips=clips, cache=cache)
    mine = take_share(rows, share)
    asked = list(dict.fromkeys(clip for row in mine for clip in row.videos))
    refused = {} if cache is None else fetch_clips(mine, cache)
    inspected, num_decoded = inspect_clips(
        [clip for clip in asked if clip not in refused],
        sampling=how.sampling,
        decoder=how.decoder,
        timeout_s=how.timeout_s,
        memory_limit_gib=how.memory_gib,
        num_workers=num_workers,
        catalog=catalog,
        on_progress=on_progress,
    )
    good = {clip: outcome for clip, outcome in inspected.items() if isinstance(outcome, ClipInfo)}
    sources = list(dict.fromkeys(row.source for row in rows if row.videos))
    held_out = {file.path for file in files if file.is_held_out}
    compared = {source for pair in pair_files(sources, held_out) for source in pair}
    contents = {
        whole_of(clip): content_of(whole_of(clip), good[clip].sha256)
        for row in mine
        if row.source in compared
        for clip in row.videos
        if clip in good
    }
    if contents:
        look_at_clips(contents, decode=how, num_workers=num_workers, catalog=catalog, on_progress=on_progress)
    catalog.finish()
    return ShareDone(share, len(asked), num_decoded + len(refused), len(asked) - len(good))
