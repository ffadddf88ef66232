"""Turns the `videos` of a row into its clips, and refuses pictures, sound and what else a row may mean by media.

`["one.mp4", "other.mp4"]` -> the files

A hint never costs a row its meaning: frames become a clip, and nobody is told to train without what they show.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cvft.data.clip_names import PICTURES, hint_frames
from cvft.errors import ValueProblem, quote, visible

OTHER_MEDIA = ("images", "audios")
"""Columns of other media: a picture stands in place of a clip, and nothing stands for sound."""

_OTHER_NAMES = ("image", "img", "frames", "frame", "audio", "sound")
"""Columns that are only extra beside a clip, but not in its place."""

MEDIA_COLUMNS = frozenset((*OTHER_MEDIA, *_OTHER_NAMES))
"""All of them: a row without any has nothing for `check_other_media`."""

_MOVIE = re.compile(r"\.(mp4|m4v|mov|avi|mkv|webm|wmv|flv|mpe?g|m2ts|3gp|ogv|gif)", re.IGNORECASE)
"""Ends of the names of clips, to see that a column holds one. Whether a file is a clip, only decoding tells."""

_PATH_KEYS = (
    "video",
    "path",
    "file",
    "filename",
    "name",
    "url",
    "video_url",
    "video_path",
    "image",
    "image_url",
    "content",
)
"""Where an object such as `{"type": "video", "video": "a.mp4"}` holds the name of its file."""

COLUMN_OF_KEY = {
    **dict.fromkeys(("start", "video_start", "start_time", "start_s", "begin"), "start"),
    **dict.fromkeys(("end", "video_end", "end_time", "end_s"), "end"),
    **{name: name for name in ("seconds", "max_frames", "fps")},
}
"""Where it says what of the clip is meant, as Qwen's makers and others write it -> the column of the row that does."""

_NEED = "a list of paths"
_BLANK = "name the clip; only a row that needs none has `[]`"


def read_videos(videos: Any, find: Callable[[str], Path]) -> tuple[Path, ...]:
    """Returns the files of a row's clips.

    Args:
        videos: The row's `videos`.
        find: Finds the file that a name means.

    Returns:
        The files; none for a row of text only.

    Raises:
        ValueProblem: when it is no list of clips, with a way to make it one.
    """
    if videos is None or videos == []:
        return ()
    if isinstance(videos, list) and len(videos) == 1 and isinstance(videos[0], str) and _is_plain(videos[0]):
        return (find(videos[0]),)
    paths = list(_paths_in(videos))
    if len(paths) > 1 and all(is_picture(path) for path in paths):
        raise ValueProblem(f"{len(paths)} pictures", _NEED, hint_frames(paths[0]))
    if len(paths) > 1 and (picture := next(filter(is_picture, paths), None)):
        hint = "a row shows clips in `videos`, or pictures in `images`"
        raise ValueProblem(f"{quote(picture)} beside a clip", "clips alone", hint)
    if isinstance(videos, list) and videos == paths:
        return tuple(map(find, paths))
    if len(paths) > 1:
        raise ValueProblem(show(videos), _NEED, _hint_clips(videos, paths))
    is_wrapped = isinstance(videos, list) and len(videos) == 1
    got = f"a list with {show(videos[0])}" if is_wrapped else show(videos)
    raise ValueProblem(got, _NEED, _hint_clips(videos, paths) if paths else _BLANK)


def read_images(images: Any) -> list[str]:
    """Returns the names of a row's pictures.

    Args:
        images: The row's `images`, which hold something.

    Raises:
        ValueProblem: when it is no list of pictures.
    """
    paths = list(_paths_in(images))
    if holds_clip(images):
        raise ValueProblem("a clip", "pictures in `images`, and clips in `videos`", _hint_clips(images, paths))
    if not isinstance(images, list) or images != paths:
        hint = f'write `"images": {visible(json.dumps(paths, ensure_ascii=False))}`' if paths else ""
        raise ValueProblem(show(images), _NEED, hint)
    if other := next((path for path in paths if not is_picture(path)), None):
        raise ValueProblem(quote(other), f"a picture, by its name one of {', '.join(PICTURES)}")
    return paths


def check_other_media(columns: Mapping[str, Any]) -> Iterator[tuple[str, ValueProblem]]:
    """Finds pictures and sound that a row would be trained without.

    Args:
        columns: The row.

    Yields:
        Column and what is wrong with it.
    """
    has_clip, has_image = bool(columns.get("videos")), bool(columns.get("images"))
    names = ("images", "audios") if has_clip else ("audios",) if has_image else ("audios", *_OTHER_NAMES)
    for name in names:
        value = columns.get(name)
        if not value:
            continue
        paths = list(_paths_in(value))
        if name in ("audios", "audio", "sound"):
            got, hint = "sound", "leave out rows that are about sound: no model here hears"
        elif has_clip:
            got = f"{_count(paths)} beside a clip"
            hint = "leave the row out: a row shows clips in `videos`, or pictures in `images`"
        elif holds_clip(value):
            got, hint = "a clip", _hint_clips(value, paths)
        else:
            got, hint = _count(paths), _hint_pictures(paths)
        yield name, ValueProblem(got, "clips in `videos`, or pictures in `images`", hint)


def holds_clip(value: Any) -> bool:
    """Says whether a column of any name holds the name of a clip."""
    return any(_MOVIE.fullmatch(os.path.splitext(path)[1]) for path in _paths_in(value))


def show(value: Any) -> str:
    """Names a JSON value with its type, as messages do."""
    if value is None:
        return "null"
    if isinstance(value, bool | float):
        return f"the {'boolean' if isinstance(value, bool) else 'number'} {quote(json.dumps(value))}"
    names = {int: "the number", str: "the string", list: "the list"}
    return f"{names.get(type(value), 'the object')} {quote(value)}"


def _paths_in(value: Any) -> Iterator[str]:
    """Finds the names of files in a value: text, lists in lists, and objects such as `{"type": "video", "video": "a.mp4"}`."""
    if isinstance(value, str):
        if not _is_plain(value) and value.strip():
            try:
                yield from _paths_in(json.loads(value))
                return
            except (ValueError, RecursionError):
                pass
        if value.strip():
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from _paths_in(item)
    elif isinstance(value, dict):
        yield from next((paths for key in _PATH_KEYS if (paths := list(_paths_in(value.get(key))))), [])


def _is_plain(text: str) -> bool:
    """Says whether a text names a file, and is no JSON that holds names."""
    return text.lstrip()[:1] not in ("", "[", "{")


def _hint_clips(videos: Any, paths: Sequence[str]) -> str:
    columns: dict[str, Any] = {"videos": list(paths)}
    for part in [] if len(paths) > 1 else _objects_in(videos):
        for key, column in COLUMN_OF_KEY.items():
            if key in part:
                columns[column] = part[key]
    return f"write `{visible(json.dumps(columns, ensure_ascii=False)[1:-1])}`"


def _objects_in(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _objects_in(item)


def _hint_pictures(paths: list[str]) -> str:
    if len(paths) == 1 and is_picture(paths[0]):
        return f'write `"images": {visible(json.dumps(paths, ensure_ascii=False))}`'
    return hint_frames(next(filter(is_picture, paths), "frames/0001.jpg"))


def _count(paths: list[str]) -> str:
    return f"{len(paths)} picture{'s' if len(paths) > 1 else ''}" if paths else "pictures"


def is_picture(path: str) -> bool:
    """Says whether a file is a picture, by its name."""
    return path.lower().endswith(PICTURES)
