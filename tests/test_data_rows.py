"""Rows: published examples load as they stand, and every mistake is told with its place."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cvft.data.rows import Row, category_of, check_written, extra_columns, make_rows, read_rows, write_rows
from cvft.errors import DataError
from tests.row_files import GOOD, make_folder, problems_of, write


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path)


PUBLISHED = [
    {"query": "55555", "response": "66666", "videos": ["video_path"]},
    {"query": "eeeee", "response": "fffff", "history": [], "videos": ["video_path"]},
    {
        "query": "EEEEE",
        "response": "FFFFF",
        "history": [["AAAAA", "BBBBB"], ["CCCCC", "DDDDD"]],
        "videos": ["video_path"],
    },
]


def test_published_examples_load_as_they_stand(folder):
    path = write(folder, *PUBLISHED)
    video = (folder / "video_path").resolve()
    assert read_rows(path) == [
        Row("55555", "66666", (), (video,), path, 1),
        Row("eeeee", "fffff", (), (video,), path, 2),
        Row("EEEEE", "FFFFF", (("AAAAA", "BBBBB"), ("CCCCC", "DDDDD")), (video,), path, 3),
    ]


def test_json_array_gives_the_same_rows_by_item(folder):
    path = folder / "train.json"
    path.write_text(json.dumps(PUBLISHED, indent=2))
    rows = read_rows(path)
    assert [(row.query, row.line, row.is_item) for row in rows] == [
        ("55555", 1, True),
        ("eeeee", 2, True),
        ("EEEEE", 3, True),
    ]
    assert rows[2].location == f"{path}: item 3"


@pytest.mark.parametrize("videos", [{}, {"videos": []}, {"videos": None}], ids=["absent", "empty", "null"])
def test_rows_without_a_clip_are_text_only(folder, videos):
    (row,) = read_rows(write(folder, {"query": "q", "response": "r", "history": None, **videos}))
    assert not row.videos
    assert row.history == ()


def test_blank_lines_and_windows_line_ends_keep_line_numbers(folder):
    path = folder / "train.jsonl"
    path.write_bytes(b'\r\n{"query": "q", "response": "r"}\r\n\n{"query": "a\xe2\x80\xa8b", "response": "r"}')
    assert [(row.line, row.query) for row in read_rows(path)] == [(2, "q"), (4, "a\u2028b")]


def test_video_root_replaces_the_folder_of_the_file(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    path = write(elsewhere, {"query": "q", "response": "r", "videos": ["video_path"]})
    assert read_rows(path, video_root=folder)[0].videos == (folder / "video_path",)
    assert len(problems_of(path)) == 1


def test_absolute_path_and_link_name_the_same_clip(folder):
    (folder / "link").symlink_to(folder / "video_path")
    base = {"query": "q", "response": "r"}
    rows = read_rows(
        write(folder, {**base, "videos": [str(folder / "video_path")]}, {**base, "videos": ["sub/../link"]})
    )
    assert rows[0].videos[0] == rows[1].videos[0] == (folder / "video_path").resolve()


def test_all_problems_of_a_file_are_told_together(folder):
    path = write(
        folder,
        {"query": "q", "response": None},
        {"query": "q", "respones": "r"},
        {"query": "q", "response": "r", "videos": ["video_pth"]},
        "{",
        {"query": "q", "response": "r", "videos": ["video_path"]},
    )
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert str(caught.value).replace(f"{folder}/", "") == (
        "data train.jsonl has 4 problems\n"
        "  train.jsonl:1 `response`: got null, need a string that is not empty\n"
        "  train.jsonl:2 `response`: got no such column, need a string that is not empty\n"
        "    hint: did you mean `response` by `respones`?\n"
        "  train.jsonl:3 `videos`: got `video_pth`, which does not exist at `video_pth`, need an existing file\n"
        "    hint: did you mean `video_path`?\n"
        "  train.jsonl:4: got invalid JSON (Expecting property name enclosed in double quotes, column 2), "
        "need one JSON object\n"
        "    hint: the object does not end on its line: write one whole object per line, "
        "and copy a file again that was cut off"
    )


def test_answers_may_be_absent_when_none_is_needed(folder):
    path = write(folder, {"query": "q"}, {"query": "q", "response": None}, {"query": "q", "response": "r"})
    assert [row.response for row in read_rows(path, require_response=False)] == ["", "", "r"]
    path = write(folder, {"query": "q", "response": [5]}, {"query": "q", "respones": "r"})
    assert len(problems_of(path, require_response=False)) == 2


def test_extra_columns_are_kept_and_counted(folder):
    path = write(
        folder,
        {**GOOD, "score": 1, "source": {"a": [1]}, "video_id": "v", "videos": [], "idx": 3},
        {**GOOD, "score": 2, "histories": 1, "history": []},
    )
    rows = read_rows(path)
    assert rows[0].extra == {"score": 1, "source": {"a": [1]}, "video_id": "v", "idx": 3}
    assert extra_columns(rows) == {"score": 2, "histories": 1, "idx": 1, "source": 1, "video_id": 1}


@pytest.mark.parametrize(
    ("columns", "category", "unused"),
    [
        ({"category": "colour"}, "colour", []),
        ({"family": "colour"}, "colour", []),  # the column's older name
        ({"category": "colour", "family": "cats"}, "colour", ["family"]),
        ({"category": None, "family": "colour"}, "colour", []),
        ({"category": 3}, "3", []),
        ({"category": True}, "true", []),
        ({"category": 1.5}, "1.5", []),
        ({"category": " "}, None, []),
        ({"category": None}, None, []),
        ({"kind": "colour"}, None, ["kind"]),
    ],
)
def test_the_kind_of_a_question_is_a_column_of_its_row(folder, columns, category, unused):
    rows = read_rows(write(folder, {**GOOD, **columns}))
    assert category_of(rows[0]) == category
    assert list(extra_columns(rows)) == unused
    assert rows[0].extra == columns


def test_written_rows_read_back_equal_apart_from_their_place(folder, tmp_path_factory):
    lines = [*PUBLISHED, {**GOOD, "id": 7, "score": [1, "é\u2028"], "video_id": "v", "videos": []}]
    rows = read_rows(write(folder, *lines))
    target = tmp_path_factory.mktemp("run") / "deep" / "val.jsonl"
    write_rows(rows, target)
    again = read_rows(target)
    assert [row.to_json() for row in again] == [row.to_json() for row in rows]
    assert [(row.videos, row.id, row.extra) for row in again] == [(row.videos, row.id, row.extra) for row in rows]
    assert [row.line for row in again] == [1, 2, 3, 4]
    assert hash(again[0]) == hash(again[0])
    assert os.listdir(target.parent) == ["val.jsonl"]


def test_a_row_that_would_be_another_one_once_written_is_refused(folder):
    good = read_rows(write(folder, *PUBLISHED, {**GOOD, "query": "<video> What?", "videos": ["video_path"]}))
    check_written(good)
    check_written([])
    bad = read_rows(write(folder, GOOD, {**GOOD, "query": "<<video>video> What?", "videos": ["video_path"]}))
    with pytest.raises(DataError) as caught:
        check_written(bad)
    assert str(caught.value).replace(f"{folder}/", "") == (
        "the rows has 1 problem\n"
        "  train.jsonl:2: got a row that becomes `What?` when it is read again, need a row that stays as it is"
    )


def test_failed_write_leaves_the_old_file(folder, monkeypatch):
    rows = read_rows(write(folder, GOOD))
    target = folder / "val.jsonl"
    write_rows(rows, target)
    before = target.read_bytes()

    def fail(fd):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_rows([*rows, *rows], target)
    assert target.read_bytes() == before
    assert sorted(os.listdir(folder)) == ["empty.mp4", "sub", "train.jsonl", "val.jsonl", "video_path"]


def test_import_of_the_room_loads_no_torch_and_no_decoder():
    modules = "cvft.data.check, cvft.data.split, cvft.data.video.decode, cvft.data.video.pyav, cvft.data.video.decord"
    code = f"import sys, {modules}; print([m for m in ('torch', 'av', 'decord') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_numbers_and_booleans_are_taken_as_they_are_written(folder):
    path = folder / "train.jsonl"
    path.write_text(
        '{"query": 7, "response": 1.50, "history": [[true, -0.0], ["a", 1e3]]}\n{"query": "q", "response": false}\n'
    )
    first, second = read_rows(path)
    assert (first.query, first.response, first.history) == ("7", "1.50", (("true", "-0.0"), ("a", "1e3")))
    assert first.taken_as_text == ("query", "response", "history")
    assert (second.response, second.taken_as_text) == ("false", ("response",))
    (row,) = make_rows([(1, {"query": "q", "response": 0.5})], source=Path("here"), video_root=folder)
    assert row.response == "0.5"
    with pytest.raises(DataError, match="got the number `NaN`"):
        make_rows([(1, {"query": "q", "response": float("nan")})], source=Path("here"), video_root=folder)


@pytest.mark.parametrize(
    ("columns", "where"),
    [({"query": "a\udcff"}, "query"), ({"query": "q", "history": [["\ud83d", "a"]]}, "history")],
)
def test_letters_that_no_file_could_hold_are_refused(folder, columns, where):
    with pytest.raises(DataError) as caught:
        make_rows([(1, columns)], source=Path("here"), video_root=folder, require_response=False)
    (problem,) = caught.value.problems
    assert problem.where == f"here: item 1 `{where}`"
    assert "of which a part is no character, need text in UTF-8" in str(problem)
