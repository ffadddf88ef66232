"""Writes the rows of any format as native JSONL, all of them or none.

file of rows -> OUT.jsonl, and a folder beside it for clips that lay inside a parquet or tar file
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from cvft.data.fetch.cache import URLS_FOLDER
from cvft.data.rows import read_rows, write_rows
from cvft.errors import CvftError, Problem
from cvft.files import check_output
from cvft.row_formats import FormatName


@dataclass(frozen=True)
class Converted:
    """What was written.

    Args:
        target: The file.
        num_rows: Its rows.
        num_objects: Objects of the old file that they come from.
        format: The format of the old file.
        clips: Folder with the clips that lay inside the old file; None where none did.
    """

    target: Path
    num_rows: int
    num_objects: int
    format: str
    clips: Path | None

    def __str__(self) -> str:
        source = f"{self.num_objects} objects ({self.format})"
        clips = "" if self.clips is None else f"; its clips are in {self.clips}"
        return f"{self.num_rows} rows of {source} written to {self.target}{clips}"


def convert_file(
    source: Path, target: Path, *, format: FormatName = "auto", video_root: Path | None = None
) -> Converted:
    """Reads a file of rows and writes them as native JSONL, with absolute paths of clips; URLs of clips stay as they are.

    Args:
        source: The file.
        target: A new `.jsonl` file.
        format: How `source` is written; `auto` finds out.
        video_root: Folder that relative clip paths start from; by default the folder of `source`.

    Raises:
        CvftError: with every row that cannot be read; then nothing is written.
    """
    if target.suffix != ".jsonl":
        raise CvftError("command line", [Problem("OUT", f"`{target}`", "a name that ends with `.jsonl`")])
    check_output(target, subject="command line", where="OUT")
    clips = target.with_name(f"{target.stem}_clips")
    is_new = not os.path.lexists(clips)
    try:
        rows = read_rows(
            source,
            video_root=video_root,
            require_response=False,
            format=format,
            clips=clips,
            url_cache=Path(URLS_FOLDER),  # only names: nothing is fetched, and a URL stays one
        )
    except CvftError:
        if is_new:
            shutil.rmtree(clips, ignore_errors=True)
        raise
    write_rows(rows, target)
    places = {(row.line, row.is_item) for row in rows}
    return Converted(target, len(rows), len(places), rows[0].format, clips if is_new and clips.is_dir() else None)
