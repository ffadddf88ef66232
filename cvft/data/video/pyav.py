"""Reads a clip with PyAV: a table of frame times, then only the wanted frames.

    packets tell the frames:  seek to the key frame before each wanted frame, skip what no wanted frame needs, convert
                              the wanted ones
    only the decoder tells:   decode all frames in order, twice: once for the table, once for the wanted frames

Refuses damaged frames, clips whose container states more than is there, and a wanted frame that does not come out:
nothing is repeated in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cvft.data.video.container import decode_all, decode_packet, find_stream, open_container, read_packets
from cvft.data.video.frame_table import FrameTable, decode_table, scan_packets
from cvft.data.video.hdr import find_tone_map
from cvft.data.video.picture import Display, RGBConverter, read_display
from cvft.data.video.reader import (
    Frames,
    OnDuration,
    TableChanged,
    check_work,
    clip_error,
    describe_non_clip,
)
from cvft.data.video.sample import Float32s
from cvft.data.video.truncation import Ending, check_length, find_ending

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame


class PyAVReader:
    """An open clip; see `cvft.data.video.reader.Reader`.

    Args:
        path: The clip.
        container: The open container; whoever opened it closes it.
        ending: What the container states about its end; found when it is not given.
        allowed_s: Seconds that decoding may take; None for no limit.
    """

    def __init__(
        self, path: Path, container: InputContainer, *, ending: Ending | None = None, allowed_s: float | None = None
    ) -> None:
        self._path = path
        self._container = container
        self._allowed_s = allowed_s
        self._stream = find_stream(container, path)
        codec = self._stream.codec_context
        self._frame_px = codec.width * codec.height
        self._stated_rate = self._stream.average_rate
        scan, table = scan_packets(container, self._stream, path)
        self._file_notes = check_length(path, ending or find_ending(path), scan, decoder="pyav")
        self._num_packets = scan.num_packets
        if table is None:
            table = self._decode_table()
        self._use(table)
        self._converter = RGBConverter(path)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on the clip for the user, complete after `read`."""
        tone_map = self._converter.tone_map
        return self._file_notes if tone_map is None else (*self._file_notes, tone_map.note)

    @property
    def is_turned(self) -> bool:
        """Whether pictures are stored otherwise than upright, complete after `read`."""
        return self._converter.is_turned

    @property
    def is_decoded(self) -> bool:
        """Tells whether the table was made by decoding every frame."""
        return self._table.is_sequential

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width of a frame as it is stored."""
        codec = self._stream.codec_context
        return codec.height, codec.width

    def read(self, frame_indices: Sequence[int]) -> Frames:
        """Returns the frames with these ascending, distinct indices, uint8 `(len, H, W, 3)`.

        Raises:
            ClipError: One of them is damaged or does not come out of the decoder.
            TableChanged: The packets told of frames that the decoder does not show; `timestamps_s` is right now.
        """
        table = self._table
        slots = {frame: slot for slot, frame in enumerate(frame_indices)}
        collector = _Collector(self._path, self.timestamps_s, slots, self._converter)
        if table.is_sequential:
            with open_container(self._path) as container:
                for frame_index, (frame, _) in enumerate(decode_all(container, self._path)):
                    if frame_index in slots:
                        collector.add(frame_index, frame, is_suspect=frame_index in table.suspects)
                    if collector.is_complete():
                        break
            return collector.finish()
        groups = self._group_by_key(frame_indices)
        self._check_work(sum(count for _, count in groups.values()))
        self._read_by_seeking(collector, {key: wanted for key, (wanted, _) in groups.items()})
        if not collector.is_complete():
            self._use(self._decode_table(needs_all=table))
            raise TableChanged
        return collector.finish()

    def check_plain(self, *, decoder: str) -> None:
        """Raises `ClipError` for a clip that another decoder would show as it is stored, unlike a player: mirrored or HDR.

        Args:
            decoder: That decoder, for the message.
        """
        with open_container(self._path) as container:
            frame, _ = next(decode_all(container, self._path))
            tone_map = find_tone_map(frame.color_trc, frame.color_primaries)
            display = read_display(frame, self._path)
            self._converter.is_turned = display != Display()
            got = "mirrored frames" if display.is_mirrored else ""
            got = f"{tone_map.name} colours" if tone_map else got
        if got:
            need = "frames that are shown as they are stored"
            raise clip_error(self._path, decoder=decoder, got=got, need=need, hint="try decoder `pyav`")

    def _use(self, table: FrameTable) -> None:
        self._table = table
        self.times_s, self.timestamps_s = table.times_s, table.timestamps_s
        self.duration_s = table.duration_s
        self.avg_fps = table.rate(self._stated_rate)

    def _decode_table(self, *, needs_all: FrameTable | None = None) -> FrameTable:
        """Decodes every frame for the table.

        Args:
            needs_all: A table from packets. Fewer frames than it has are refused if the decoder met damage on the way.
        """
        self._check_work(2 * self._num_packets)
        with open_container(self._path) as again:
            table, log = decode_table(again, self._path)
        if needs_all is not None and log.num_errors and len(table.pts) < len(needs_all.pts):
            lost = sorted(set(needs_all.pts) - set(table.pts), key=str)
            first_s = min(float(needs_all.timestamps_s[needs_all.pts.index(pts)]) for pts in lost) if lost else 0.0
            got = f"{len(needs_all.pts) - len(table.pts)} damaged frames, the first at {first_s:.2f} s"
            hint = "copy or download the clip again"
            raise clip_error(self._path, decoder="pyav", got=got, need="frames without damage", hint=hint)
        return table

    def _check_work(self, num_frames: int) -> None:
        check_work(num_frames, self._frame_px, allowed_s=self._allowed_s, path=self._path, decoder="pyav")

    def _group_by_key(self, frame_indices: Sequence[int]) -> dict[int, tuple[dict[int, int], int]]:
        """Returns for each key frame to seek to: time -> index of the wanted frames, and how many must be decoded."""
        pts, keys = self._table.pts, np.asarray(self._table.keys)
        first = {key: index for index, key in enumerate(pts)}
        groups: dict[int, tuple[dict[int, int], int]] = {}
        for frame_index in frame_indices:
            frame_pts = pts[frame_index]
            assert frame_pts is not None, "indexed clips have a time for every frame"
            key = int(keys[max(int(np.searchsorted(keys, frame_pts, side="right")) - 1, 0)])
            wanted, _ = groups.get(key, ({}, 0))
            groups[key] = ({**wanted, frame_pts: frame_index}, frame_index - first.get(key, 0) + 1)
        return groups

    def _read_by_seeking(self, collector: _Collector, groups: Mapping[int, dict[int, int]]) -> None:
        """Decodes from the key frame before each wanted frame, without the frames that no other frame refers to."""
        codec = self._stream.codec_context
        for key_pts, wanted in groups.items():
            self._container.seek(key_pts, backward=True, stream=self._stream)
            is_suspect = False
            for packet in read_packets(self._container, self._stream):
                codec.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
                frames = decode_packet(packet)
                if frames is None:
                    is_suspect = True
                    continue
                for frame in frames:
                    is_suspect = frame.is_corrupt or (is_suspect and not frame.key_frame)
                    if frame.pts in wanted:
                        collector.add(wanted.pop(frame.pts), frame, is_suspect=is_suspect)
                if not wanted:
                    break
        codec.skip_frame = "DEFAULT"


class _Collector:
    """Converts wanted frames into one array, and refuses to hand it out until each is there.

    Args:
        path: The clip, for messages.
        timestamps_s: Start of every frame of the clip, for messages.
        slots: Frame index -> its position in the array.
        converter: Makes pictures of frames.
    """

    def __init__(self, path: Path, timestamps_s: Float32s, slots: Mapping[int, int], converter: RGBConverter):
        self._path = path
        self._timestamps_s = timestamps_s
        self._slots = dict(slots)
        self._num_wanted = len(slots)
        self._array: Frames | None = None
        self._converter = converter

    def add(self, frame_index: int, frame: VideoFrame, *, is_suspect: bool) -> None:
        if is_suspect:
            got = f"a damaged frame at {self._timestamps_s[frame_index]:.2f} s"
            hint = "copy or download the clip again"
            raise clip_error(self._path, decoder="pyav", got=got, need="frames without damage", hint=hint)
        image = self._converter.convert(frame)
        if self._array is None:
            self._array = np.empty((self._num_wanted, *image.shape), dtype=np.uint8)
        if image.shape != self._array.shape[1:]:
            (old_height, old_width, _), (height, width, _) = self._array.shape[1:], image.shape
            got = f"frames of {old_width} x {old_height} and of {width} x {height} pixels"
            raise clip_error(self._path, decoder="pyav", got=got, need="one size", hint="re-encode the clip")
        self._array[self._slots.pop(frame_index)] = image

    def is_complete(self) -> bool:
        return not self._slots

    def finish(self) -> Frames:
        if self._array is None or self._slots:
            first = min(self._slots)
            got = f"no frame at {self._timestamps_s[first]:.2f} s"
            need = f"each of the {self._num_wanted} chosen frames"
            raise clip_error(self._path, decoder="pyav", got=got, need=need, hint="re-encode the clip")
        return self._array


@contextmanager
def open_pyav(path: Path, *, on_duration: OnDuration, ending: Ending | None = None) -> Iterator[PyAVReader]:
    """Opens a clip with PyAV, and closes it: an open container keeps memory and threads until collected.

    Args:
        path: A regular file.
        on_duration: Called with the length that the container promises, if any, before anything is decoded.
        ending: What the container states about its end; found when it is not given.

    Yields:
        The open clip.

    Raises:
        ClipError: It is not a clip that FFmpeg can read, or PyAV is not installed.
        MemoryError: This process has not enough memory for it.
    """
    try:
        import av
    except ImportError as error:
        raise clip_error(
            path, decoder="pyav", got="no such package", need="the av package", hint="pip install 'av>=17.1'"
        ) from error
    try:
        with open_container(path) as container:
            promised_s = container.duration / av.time_base if container.duration else 0.0
            yield PyAVReader(path, container, ending=ending, allowed_s=on_duration(promised_s))
    except av.error.MemoryError as error:
        raise MemoryError(str(error)) from error  # of this process, not of the clip alone
    except av.error.FFmpegError as error:
        raise describe_non_clip(path, decoder="pyav", reason=error.strerror) from error
