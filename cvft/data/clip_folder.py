"""The clips of a folder and of all folders in it, told by what is in the files, whatever they are called.

folder -> files in the order of their names -> clips by their first bytes, or by their names -> a row for each
"""

from __future__ import annotations

import mimetypes
import os
from dataclasses import replace
from pathlib import Path

from cvft.data.rows import Row
from cvft.data.video.kinds import name_kind
from cvft.errors import DataError, Problem, quote

_TS_SYNC = 0x47
_TS_PACKETS = ((0, 188), (4, 192))
"""Where a transport stream's first packet begins, and how long its packets are. Source: ISO/IEC 13818-1, and BDAV."""


def find_clips(folder: Path) -> tuple[list[Path], int]:
    """Finds the clips of a folder.

    Args:
        folder: The folder. Hidden files and folders are not looked at, and links to folders not followed.

    Returns:
        The clips in the order of their names, folder by folder, and how many other files there are. A file that is named as a
        clip counts as one whatever is in it: if it is damaged, whoever shows it says so.

    Raises:
        DataError: when there is no such folder, or a part of it cannot be read.
    """
    if not folder.is_dir():
        got = "a file" if folder.exists() else "no such folder"
        raise DataError(f"folder {folder}", [Problem(str(folder), got, "a folder of clips")])
    problems: list[Problem] = []

    def refuse(error: OSError) -> None:
        problems.append(
            Problem(str(error.filename), f"a folder that cannot be read ({error.strerror})", "a readable one")
        )

    clips: list[Path] = []
    num_others = 0
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(place, name)
            if name.startswith(".") or not path.is_file():
                continue
            if _is_clip(path):
                clips.append(path)
            else:
                num_others += 1
    if problems:
        raise DataError(f"folder {folder}", problems)
    return sorted(clips, key=lambda path: path.relative_to(folder).parts), num_others


def rows_of_folder(folder: Path, question: Row) -> tuple[list[Row], int]:
    """Asks one question about every clip of a folder.

    Args:
        folder: The folder.
        question: The question, without a clip.

    Returns:
        A row for each clip, named by the clip's place in the folder, and how many other files there are.

    Raises:
        DataError: when there is no such folder, or no clip in it.
    """
    clips, num_others = find_clips(folder)
    if not clips:
        got = f"no clip, and {num_others} other files" if num_others else "nothing that could be a clip"
        raise DataError(f"folder {folder}", [Problem(str(folder), got, "a folder with clips in it")])
    rows = []
    for number, clip in enumerate(clips, 1):
        name = clip.relative_to(folder).as_posix()
        try:
            name.encode()
        except UnicodeEncodeError:
            need = "a name in UTF-8, for it stands in the answers"
            raise DataError(
                f"folder {folder}", [Problem(quote(clip), "a name that is no text", need, "rename it")]
            ) from None
        rows.append(replace(question, videos=(clip.resolve(),), id=name, source=folder, line=number, is_item=True))
    return rows, num_others


def _is_clip(path: Path) -> bool:
    if (mimetypes.guess_type(path.name)[0] or "").startswith("video/"):
        return True
    try:
        kind = name_kind(path)
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError:
        return False
    if kind is not None:
        return kind.is_clip
    return any(
        len(head) > start + size and head[start] == head[start + size] == _TS_SYNC for start, size in _TS_PACKETS
    )
