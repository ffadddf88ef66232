"""Turns decoded frames into upright 8-bit RGB pictures: the pixels that players show.

    frame (any pixel format) -> RGB through FFmpeg's own filters -> HDR mapped to SDR -> turned, mirrored: uint8 (H, W, 3)

Pixels equal decord's bit for bit on 8-bit 4:2:0 clips with even sizes.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cvft.data.video.hdr import ToneMap, find_tone_map
from cvft.data.video.reader import Frames, check_frame_size, clip_error

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_SMALLEST_PART = 0.02
"""A display matrix whose smaller entries are below this share of the larger ones turns by right angles only."""


class RGBConverter:
    """Converts frames to upright RGB through FFmpeg's own filters, whose pixels decord has too.

    `VideoFrame.to_ndarray` takes another path, which differs on interlaced and 10-bit clips.

    Args:
        path: The clip, for messages.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made_for: tuple[object, ...] = ()
        self.tone_map: ToneMap | None = None
        self.is_turned = False

    def convert(self, frame: VideoFrame) -> Frames:
        """Returns one frame as uint8 `(H, W, 3)`, as a player shows it.

        Raises:
            ClipError: It is too large, or turned by another angle than a right one.
        """
        check_frame_size(frame.width, frame.height, path=self._path, decoder="pyav")
        tone_map = find_tone_map(frame.color_trc, frame.color_primaries)
        made_for = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, tone_map)
        if made_for != self._made_for:
            self._graph, self._made_for = _make_graph(frame, "rgb48le" if tone_map else "rgb24"), made_for
        display = read_display(frame, self._path)
        self.is_turned = self.is_turned or display != Display()
        self._graph.vpush(frame)
        image = self._graph.vpull().to_ndarray()
        if tone_map is not None:
            self.tone_map = tone_map
            image = tone_map.apply(cast(Any, image))
        return display.apply(cast(Frames, image))


def _make_graph(frame: VideoFrame, pixels: str) -> Any:
    import av

    graph = av.filter.Graph()
    graph.threads = 1
    graph.link_nodes(
        graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=frame.time_base or Fraction(1, 1000),
        ),
        graph.add("scale", "flags=bicubic"),
        graph.add("format", pixels),
        graph.add("buffersink"),
    ).configure()
    return graph


@dataclass(frozen=True)
class Display:
    """How a decoded picture becomes upright: axes swapped first, then mirrored.

    Args:
        swaps: Rows become columns.
        mirrors_x: Left becomes right.
        mirrors_y: Top becomes bottom.
    """

    swaps: bool = False
    mirrors_x: bool = False
    mirrors_y: bool = False

    @property
    def is_mirrored(self) -> bool:
        """Tells whether no rotation alone does this."""
        return self.swaps ^ self.mirrors_x ^ self.mirrors_y

    def apply(self, image: Frames) -> Frames:
        """Turns a picture `(H, W, 3)`."""
        image = image.swapaxes(0, 1) if self.swaps else image
        image = image[:, ::-1] if self.mirrors_x else image
        return image[::-1] if self.mirrors_y else image


def read_display(frame: VideoFrame, path: Path) -> Display:
    """Returns how a frame is to be turned, from the display matrix that its container carries.

    Raises:
        ClipError: It is turned by another angle than a right one.

    Source: FFmpeg's libavutil/display.h: x' = a x + c y, y' = b x + d y, with entries a b u, c d v, x y w in rows.
    """
    side_data = cast(Any, frame.side_data)  # iterates over its items, unlike what its types say
    matrix = next((bytes(data) for data in side_data if data.type.name == "DISPLAYMATRIX"), b"")
    if len(matrix) != 36:
        return Display()
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    straight, crossed = max(abs(a), abs(d)), max(abs(b), abs(c))
    if min(straight, crossed) > _SMALLEST_PART * max(straight, crossed):
        got = f"frames rotated by {math.degrees(math.atan2(b, a)):.0f} degrees"
        raise clip_error(path, decoder="pyav", got=got, need="a multiple of 90 degrees", hint="re-encode the clip")
    if crossed > straight:
        return Display(swaps=True, mirrors_x=c < 0, mirrors_y=b < 0)
    return Display(mirrors_x=a < 0, mirrors_y=d < 0)
