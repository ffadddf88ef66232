"""What the name of a clip means: the file itself, or a message that says what is different."""

import hashlib
import json
import os
import time
import unicodedata
from pathlib import Path

import pytest

from cvft.data.clip_names import ClipNames
from cvft.data.rows import read_rows
from cvft.errors import DataError, ValueProblem
from cvft.predict.infer import make_question

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Café Ångström.mp4") for form in ("NFC", "NFD"))


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name in (
        "clips/a.mp4",
        "clips/b c.mp4",
        "clips/v_1.mkv",
        f"clips/{DECOMPOSED}",
        "Straße/x.mp4",
        "~literal.mp4",
    ):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"any bytes")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "h.mp4").write_bytes(b"any bytes")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("clips/a.mp4", "root/clips/a.mp4"),
        ("./clips/../clips/a.mp4", "root/clips/a.mp4"),
        ("file://{root}/clips/a.mp4", "root/clips/a.mp4"),
        ("file:{root}/clips/a.mp4", "root/clips/a.mp4"),
        ("FILE://localhost{root}/clips/b%20c.mp4", "root/clips/b c.mp4"),
        ("file://{root}/clips/b c.mp4", "root/clips/b c.mp4"),
        ("~/h.mp4", "home/h.mp4"),
        ("~literal.mp4", "root/~literal.mp4"),
        (f"clips/{COMPOSED}", f"root/clips/{DECOMPOSED}"),
        (f"clips/{DECOMPOSED}", f"root/clips/{DECOMPOSED}"),
        (unicodedata.normalize("NFD", "Straße/x.mp4"), "root/Straße/x.mp4"),
    ],
)
def test_names_of_one_file_are_found(root, name, file):
    assert ClipNames(root).find(name.format(root=root)) == root.parent / file


def test_of_two_unicode_forms_each_is_itself(root):
    (root / "clips" / COMPOSED).write_bytes(b"another")
    for name in (COMPOSED, DECOMPOSED):
        assert ClipNames(root).find(f"clips/{name}").name == name


HERE = "relative paths start from the folder of the data file, or from the video root when given"
REFUSED = {
    r"clips\a.mp4": "`clips/a.mp4` exists: write `/` between folders",
    r"clips\A.mp4": "`clips/a.mp4` exists: write `/` between folders",
    r"C:\Users\me\clips\a.mp4": "write `clips/a.mp4`, which exists in `ROOT`, if it is the clip",
    "C:/clips/a.mp4": "write `clips/a.mp4`, which exists in `ROOT`, if it is the clip",
    "file:///D:/clips/a.mp4": "write `clips/a.mp4`, which exists in `ROOT`, if it is the clip",
    r"\\server\share\no.mp4": "copy the clip to this machine and write where it is, with `/` between folders",
    "clips/A.MP4": "`clips/a.mp4` exists: letter case counts",
    "Clips/a.mp4": "`clips/a.mp4` exists: letter case counts",
    "clips/b%20c.mp4": "`clips/b c.mp4` exists: `%20` and its like are read in `file://` names only",
    "clips/ a.mp4": "`clips/a.mp4` exists: blanks count",
    "clips/\uff41.mp4": "`clips/a.mp4` exists: the name given is '\\uff41.mp4', that of the file 'a.mp4'",
    "clips/v_1.mp4": "did you mean `v_1.mkv`?",
    "clip/a.mp4": "did you mean `clips`?",
    "home/h.mp4": "`BASE/home/h.mp4` exists, but relative paths start from `ROOT`: set data.video_root to `BASE`",
    "/old/machine/clips/a.mp4": "write `clips/a.mp4`, which exists in `ROOT`, if it is the clip",
    "https://host/a.mp4": "download the clip and give its path",
    "https:/host/a.mp4": "download the clip and give its path; only `http://` and `https://` are fetched",
    "s3://bucket/a.mp4": "download the clip and give its path; only `http://` and `https://` are fetched",
    "file://clips/a.mp4": "for a file of this machine write `clips/a.mp4`, or `file:///` and the whole path",
    "data:video/mp4;base64,AAAA": "write the clip to a file and give its path",
    "nothing/like/it.avi": HERE,
    "clips": "name one of its files: `clips/CAFE`",
}


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_what_is_different_is_told(root, name):
    with pytest.raises(ValueProblem) as caught:
        ClipNames(root).find(name)
    hint = caught.value.hint.replace(str(root), "ROOT").replace(str(root.parent), "BASE").replace(DECOMPOSED, "CAFE")
    assert hint == REFUSED[name]


def test_names_that_lead_to_no_clip(root):
    (root / "empty.mp4").touch()
    (root / "loop.mp4").symlink_to("loop.mp4")
    (root / "gone.mp4").symlink_to("nothing.mp4")
    os.mkfifo(root / "pipe.mp4")
    odd = os.fsdecode(b"caf\xe9.mp4")
    (root / odd).write_bytes(b"any bytes")
    (root / "link.mp4").symlink_to(odd)
    got = {
        "empty.mp4": "`empty.mp4`, which is empty (0 bytes)",
        "loop.mp4": "`loop.mp4`, which cannot be opened (Symlink loop from 'ROOT/loop.mp4')",
        "gone.mp4": "`gone.mp4`, which does not exist at `ROOT/nothing.mp4`",
        "pipe.mp4": "`pipe.mp4`, which is not a regular file",
        "empty.mp4/x": "`empty.mp4/x`, which cannot be opened (Not a directory)",
        "x" * 300: f"`{'x' * 300}`, which cannot be opened (File name too long)",
        "~no_such_user/a.mp4": "`~no_such_user/a.mp4`, which cannot be opened (Could not determine home directory.)",
        "link.mp4": r"`link.mp4`, a file whose path is not UTF-8 (`ROOT/caf\udce9.mp4`)",
    }
    names = ClipNames(root)
    for name, expected in got.items():
        with pytest.raises(ValueProblem) as caught:
            names.find(name)
        assert caught.value.got.replace(str(root), "ROOT") == expected


def hash_of(number):
    return "v_" + hashlib.md5(str(number).encode()).hexdigest()[:11]


@pytest.mark.parametrize(
    ("name_of", "ending"),
    [(lambda number: f"video_{number:06d}", ".webm"), (hash_of, "_other.mp4")],
    ids=["numbers", "hashes"],
)
def test_missing_clips_cost_one_listing(tmp_path, name_of, ending):
    """10,000 rows beside 5,000 files: a second or so, where each row compared with each file was a quarter of an hour."""
    (tmp_path / "clips").mkdir()
    for number in range(5000):
        (tmp_path / "clips" / f"{name_of(number)}.mp4").write_bytes(b"x")
    rows = [{"query": "q", "response": "r", "videos": [f"clips/{name_of(number)}{ending}"]} for number in range(10_000)]
    path = Path(tmp_path / "rows.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    start = time.process_time()
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert time.process_time() - start < 30
    assert len(caught.value.problems) == 10_000
    lines = str(caught.value).split("\n")
    assert len(lines) == 8, lines
    assert lines[2].startswith("    hint: did you mean `")
    assert "and 9997 more like these, up to" in lines[7]


@pytest.mark.parametrize("name", ["https://host/a.mp4", r"clips\a.mp4", "clips/A.MP4", "~/none.mp4"])
def test_a_question_hears_what_rows_hear(root, monkeypatch, name):
    monkeypatch.chdir(root)
    with pytest.raises(ValueProblem) as of_rows:
        ClipNames(root).find(name)
    with pytest.raises(DataError) as of_question:
        make_question(name, "What is shown?")
    (problem,) = of_question.value.problems
    assert (problem.got, problem.need, problem.hint) == (of_rows.value.got, of_rows.value.need, of_rows.value.hint)
