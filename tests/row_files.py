"""Small files of rows, and what is wrong with them."""

import json

import pytest

from cvft.data.rows import read_rows
from cvft.errors import DataError

GOOD = {"query": "q", "response": "r"}


def make_folder(tmp_path):
    (tmp_path / "video_path").write_bytes(b"any bytes: whether it is a video is not the business of rows")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "sub").mkdir()
    return tmp_path


def write(folder, *lines, name="train.jsonl"):
    path = folder / name
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), "utf-8")
    return path


def problems_of(path, **options):
    with pytest.raises(DataError) as caught:
        read_rows(path, **options)
    return [str(problem).replace(f"{path.parent}/", "") for problem in caught.value.problems]
