"""Small pictures of what the model saw: clip -> WebP files with their seconds, each clip once, within a budget."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cvft.data.video.loader import DecodeSettings
from cvft.data.video.spec import ClipRef, name_of
from cvft.errors import ClipError

MAX_FRAMES = 12
"""Most pictures of a clip where nobody says."""

MAX_BYTES = 10_000_000
"""Size of all pictures together, which keeps the page under 15 MB: base64 takes four bytes for three."""

SIDE_PX = 200
"""Longer side of a picture."""

_QUALITY = 60


@dataclass(frozen=True)
class ClipFrames:
    """Pictures of one clip.

    Args:
        name: Its short name.
        seconds: The second of each picture, as the model was given it.
        pictures: WebP files.
        reason: Why there are none.
    """

    name: str
    seconds: Sequence[float] = ()
    pictures: Sequence[bytes] = ()
    reason: str = ""


def collect_frames(
    clips: Iterable[ClipRef], *, decode: DecodeSettings, max_bytes: int = MAX_BYTES, most: int = MAX_FRAMES
) -> Mapping[ClipRef, ClipFrames]:
    """Decodes each clip as in training, and makes pictures of it.

    Args:
        clips: The clips, in the order in which they get their share of the budget.
        decode: How clips became frames in training.
        max_bytes: Size of all pictures together. With more clips than it can hold at `most` each, clips get fewer; a clip that
            does not fit any more gets none, and says so.
        most: Most pictures of a clip, evenly spread over the frames that the model saw.

    Returns:
        Clip -> its pictures; a clip that cannot be decoded has the reason instead, for a page must not fail on a lost file.
    """
    distinct = list(dict.fromkeys(clips))
    found: dict[ClipRef, ClipFrames] = {}
    left = max_bytes
    process = decode.make_process()
    try:
        for index, asked in enumerate(distinct):
            share = left // (len(distinct) - index)
            try:
                clip = process.decode(asked, sampling=decode.sampling, decoder=decode.decoder)
            except ClipError as error:
                problem = error.problems[0]
                found[asked] = ClipFrames(
                    name_of(asked), reason=f"{problem.where}: got {problem.got}, need {problem.need}"
                )
                continue
            pictures: list[tuple[float, bytes]] = []
            for chosen in spread(len(clip.frames), most):
                pictures.append((round(float(clip.timestamps_s[chosen]), 2), to_webp(clip.frames[chosen])))
            kept = _fit(pictures, share)
            left -= sum(len(picture) for _, picture in kept)
            reason = "" if kept else "the page would be too large with pictures of more clips"
            found[asked] = ClipFrames(
                name_of(asked), [second for second, _ in kept], [picture for _, picture in kept], reason
            )
    finally:
        process.close()
    return found


def spread(count: int, most: int) -> list[int]:
    """Returns up to `most` indices of `count`, evenly spread from the first on.

    Example:
        >>> spread(10, 4), spread(2, 4)
        ([0, 2, 5, 7], [0, 1])
    """
    return [index * count // min(count, most) for index in range(min(count, most))]


def _fit(pictures: Sequence[tuple[float, bytes]], max_bytes: int) -> list[tuple[float, bytes]]:
    """The most pictures, evenly spread, that together are no larger than the share."""
    for count in range(len(pictures), 0, -1):
        picked = [pictures[index] for index in spread(len(pictures), count)]
        if sum(len(picture) for _, picture in picked) <= max_bytes:
            return picked
    return []


def to_webp(frame: object) -> bytes:
    """Returns a frame, uint8 (H, W, 3), as a small WebP file."""
    from PIL import Image

    picture = Image.fromarray(frame)
    picture.thumbnail((SIDE_PX, SIDE_PX))
    with io.BytesIO() as file:
        picture.save(file, "WEBP", quality=_QUALITY)
        return file.getvalue()
