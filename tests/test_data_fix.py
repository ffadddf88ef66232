"""`cvft check --fix`: copies without what is wrong, reasons for all that is left out, and the files themselves as they were."""

import json
from pathlib import Path

import pytest

from cvft.cli.main import main
from cvft.data.doctor.check import DataFile, check_files
from cvft.data.doctor.findings import KINDS
from cvft.data.doctor.fix import fix_files
from cvft.data.rows import read_rows
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.sample import Sampling
from tests.project import files_under, make_project, write_jsonl
from tests.real_clips import real_clip


def ask(query: str, response: object = "yes", **columns) -> dict:
    return {"query": query, "response": response, **columns}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        (tmp_path / f"{number}.mp4").write_bytes(real_clip("bikes.mp4").read_bytes() + bytes([number]))
    (tmp_path / "copy.mp4").write_bytes((tmp_path / "0.mp4").read_bytes())
    (tmp_path / "bad.mp4").write_bytes(b"no clip")
    return tmp_path


def check(*files: DataFile):
    return check_files(list(files), how=DecodeSettings(Sampling()))


def reasons(path: Path) -> list[tuple[int, str]]:
    return [(line["line"], line["reason"].partition(":")[0]) for line in map(json.loads, path.read_text().splitlines())]


LINES = [
    ask("Good?", videos=["0.mp4"], category="c"),
    ask("No?", ""),
    ask("Good?", videos=["0.mp4"], category="c"),  # the same row again
    ask("Bad?", videos=["bad.mp4"]),
    ask("Which?", "red", videos=["1.mp4"]),
    ask("Which?", "blue", videos=["1.mp4"]),  # nobody knows which is right
    ask("Blank?", "N/A"),
    ask("Late?", "at second 900", videos=["2.mp4"]),
    ask("Tag?", "<video> a dog"),
    ask("Noisy?", "QA_GT_caption_based_noisy"),
    ask("Token?", "a<|im_end|>"),  # a warning, and plain text: it stays
    ask("Also good?", 3),
]


def test_rows_are_left_out_with_their_reasons_and_all_others_stay(folder):
    path = write_jsonl(folder / "rows.jsonl", LINES)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"{\n")
    before = path.read_bytes()
    (fixed,) = fix_files(check(DataFile(path)))
    assert path.read_bytes() == before
    assert reasons(folder / "rows.quarantine.jsonl") == [
        (2, "row_refused"),
        (3, "duplicate_row"),
        (4, "clip_refused"),
        (5, "conflicting_answers"),
        (6, "conflicting_answers"),
        (7, "blank_text"),
        (8, "time_beyond_clip"),
        (9, "tag_in_answer"),
        (10, "placeholder_text"),
        (13, "row_refused"),
    ]
    clean = folder / "rows.clean.jsonl"
    assert [(row.query, row.response, row.videos) for row in read_rows(clean)] == [
        ("Good?", "yes", (folder / "0.mp4",)),
        ("Token?", "a<|im_end|>", ()),
        ("Also good?", "3", ()),
    ]
    assert str(fixed) == f"fixed     {clean}: 3 rows; 10 left out: {folder / 'rows.quarantine.jsonl'}"
    kept = [json.loads(line)["row"] for line in (folder / "rows.quarantine.jsonl").read_text().splitlines()]
    assert [row is None for row in kept] == [True, *[False] * 8, True]
    again = check(DataFile(clean))
    assert [each.kind for each in again.findings if KINDS[each.kind].fix] == []
    assert fix_files(again) == []
    assert files_under(folder) == sorted([*(f"{i}.mp4" for i in range(4)), "bad.mp4", "copy.mp4", *names("rows")])


def names(stem: str) -> list[str]:
    return [f"{stem}.clean.jsonl", f"{stem}.jsonl", f"{stem}.quarantine.jsonl"]


def test_a_clip_goes_to_the_side_that_has_more_of_its_rows(folder):
    train = [ask(f"{i}?", videos=["0.mp4"]) for i in range(3)] + [
        ask("Own?", videos=["1.mp4"]),
        ask("Few?", videos=["2.mp4"]),
    ]
    val = [ask("Leaked?", videos=["copy.mp4"]), *(ask(f"Val {i}?", videos=["2.mp4"]) for i in range(2)), ask("Text?")]
    files = (
        DataFile(write_jsonl(folder / "train.jsonl", train)),
        DataFile(write_jsonl(folder / "val.jsonl", val), is_held_out=True),
    )
    fixed = fix_files(check(*files))
    queries = {
        path: [row.query for row in read_rows(folder / path)] for path in ("train.clean.jsonl", "val.clean.jsonl")
    }
    assert queries == {
        "train.clean.jsonl": ["0?", "1?", "2?", "Own?", "Leaked?"],  # a copy under another name leaks too
        "val.clean.jsonl": ["Val 0?", "Val 1?", "Text?", "Few?"],
    }
    assert [(each.num_kept, each.num_moved, each.quarantine) for each in fixed] == [(5, 1, None), (4, 1, None)]
    again = check(DataFile(folder / "train.clean.jsonl"), DataFile(folder / "val.clean.jsonl", is_held_out=True))
    assert [each.kind for each in again.findings if each.kind == "clip_on_both_sides"] == []


def test_rows_are_still_held_out_where_every_clip_leaks(folder):
    train = [ask(f"{i} {clip}?", videos=[f"{clip}.mp4"]) for clip in range(3) for i in range(4 - clip)]
    val = [ask("Val?", videos=[f"{clip}.mp4"]) for clip in range(3)]
    files = (
        DataFile(write_jsonl(folder / "train.jsonl", train)),
        DataFile(write_jsonl(folder / "val.jsonl", val), is_held_out=True),
    )
    fix_files(check(*files))
    assert {row.videos[0].name for row in read_rows(folder / "val.clean.jsonl")} == {"2.mp4"}
    assert {row.videos[0].name for row in read_rows(folder / "train.clean.jsonl")} == {"0.mp4", "1.mp4"}


def test_the_command_with_a_recipe(folder, capsys, caplog):
    caplog.set_level("INFO")
    recipe = make_project(folder)
    assert main(["check", str(recipe), "--fix"]) == 1
    out = capsys.readouterr().out
    assert "warning clip_on_both_sides: 2" in out
    assert [record.getMessage() for record in caplog.records] == [
        f"fixed     {folder / 'train.clean.jsonl'}: 4 rows",
        f"fixed     {folder / 'val.clean.jsonl'}: 2 rows, 2 of them from another file; "
        f"3 left out: {folder / 'val.quarantine.jsonl'}",  # each was a row of train.jsonl again
    ]
    cleaned = [f"data.train={folder / 'train.clean.jsonl'}", f"data.val={folder / 'val.clean.jsonl'}"]
    assert main(["check", str(recipe), *cleaned]) == 0
    assert main(["check", str(recipe), "--fix"]) == 2
    assert "train.clean.jsonl`, which exists" in capsys.readouterr().err


def test_what_cannot_be_fixed_writes_nothing(folder, capsys):
    path = write_jsonl(folder / "rows.jsonl", [ask("No?", "")])
    before = files_under(folder)
    assert main(["check", str(path), "--fix"]) == 2
    assert f"--fix has 1 problem\n  {path}: got no row that could be kept, need at least one" in capsys.readouterr().err
    assert main(["check", str(folder / "none.jsonl"), "--fix"]) == 2
    assert "got no such file" in capsys.readouterr().err
    assert main(["check", str(path), str(folder / "rows.json"), "--fix"]) == 2
    assert "`rows.jsonl` and `rows.json`, whose copies would have one name" in capsys.readouterr().err
    assert files_under(folder) == before


def test_files_with_nothing_to_mend_get_no_copy(folder, caplog):
    caplog.set_level("INFO")
    path = write_jsonl(folder / "rows.jsonl", [ask("Good?", videos=["0.mp4"])])
    before = files_under(folder)
    assert main(["check", str(path), "--fix"]) == 0
    assert files_under(folder) == before
    assert caplog.records[-1].getMessage().startswith("fixed     nothing")
