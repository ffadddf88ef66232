"""Rows: published examples load as they stand, and every mistake is told with its place."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cvft.data.rows import Row, category_of, check_written, extra_columns, make_rows, read_rows, write_rows
from cvft.errors import DataError


@pytest.fixture
def folder(tmp_path):
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
        Row("55555", "66666", (), video, path, 1),
        Row("eeeee", "fffff", (), video, path, 2),
        Row("EEEEE", "FFFFF", (("AAAAA", "BBBBB"), ("CCCCC", "DDDDD")), video, path, 3),
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
    assert row.video is None
    assert row.history == ()


def test_blank_lines_and_windows_line_ends_keep_line_numbers(folder):
    path = folder / "train.jsonl"
    path.write_bytes(b'\r\n{"query": "q", "response": "r"}\r\n\n{"query": "a\xe2\x80\xa8b", "response": "r"}')
    assert [(row.line, row.query) for row in read_rows(path)] == [(2, "q"), (4, "a\u2028b")]


def test_video_root_replaces_the_folder_of_the_file(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    path = write(elsewhere, {"query": "q", "response": "r", "videos": ["video_path"]})
    assert read_rows(path, video_root=folder)[0].video == folder / "video_path"
    assert len(problems_of(path)) == 1


def test_absolute_path_and_link_name_the_same_clip(folder):
    (folder / "link").symlink_to(folder / "video_path")
    base = {"query": "q", "response": "r"}
    rows = read_rows(
        write(folder, {**base, "videos": [str(folder / "video_path")]}, {**base, "videos": ["sub/../link"]})
    )
    assert rows[0].video == rows[1].video == (folder / "video_path").resolve()


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


GOOD = {"query": "q", "response": "r"}
PAIRS = "need a list of [question, answer] pairs of strings"
ONE = "need a list with at most one path"
BLANK = "name the clip; only a row that needs none has `[]`"
FRAMES = (
    "name them in one list, or their folder, and say when each was taken: "
    '`"videos": [["{}", ...]], "seconds": [0, 0.5, ...]`'
)
MESSAGES = [
    ({"query": "q"}, "`response`: got no such column, need a string that is not empty"),
    (
        {"query": "q", "answer": "r"},
        "`response`: got no such column, need a string that is not empty\n  hint: rename `answer` to `response`",
    ),
    (
        {**GOOD, "response": ""},
        "`response`: got an empty string, need a string that is not empty\n  hint: write the answer or remove the row",
    ),
    (
        {**GOOD, "response": " \n"},
        "`response`: got only white space, need a string that is not empty\n  hint: write the answer or remove the row",
    ),
    (
        {**GOOD, "response": ["r"]},
        "`response`: got the list `['r']`, need a string that is not empty\n  hint: write it as one text, in quotes",
    ),
    (
        {**GOOD, "query": {"text": "q"}},
        "`query`: got the object `{'text': 'q'}`, need a string\n  hint: write it as one text, in quotes",
    ),
    ({"response": "r"}, "`query`: got no such column, need a string"),
    (
        {**GOOD, "history": [["q", None]]},
        f"`history`: got turn 1 whose answer is null, {PAIRS}\n  hint: complete the pair or remove it",
    ),
    ({**GOOD, "history": "old"}, f"`history`: got the string `old`, {PAIRS}"),
    (
        {**GOOD, "history": [["a", "b"], ["c"]]},
        f"`history`: got turn 2 with 1 items, {PAIRS}\n  hint: each turn is a list of two strings",
    ),
    (
        {**GOOD, "history": ["ab"]},
        f"`history`: got turn 1 = the string `ab`, {PAIRS}\n  hint: each turn is a list of two strings",
    ),
    (
        {**GOOD, "videos": ["a.mp4", "b c.mp4"]},
        f"`videos`: got 2 clips, {ONE}\n  hint: a model here takes one clip a row; join clips of one size, "
        "`ffmpeg -i a.mp4 -i 'b c.mp4' -filter_complex concat=n=2 joined.mp4`, "
        "name that one and say in `query` which part is which",
    ),
    (
        {**GOOD, "videos": "video_path"},
        f'`videos`: got the string `video_path`, {ONE}\n  hint: write `"videos": ["video_path"]`',
    ),
    (
        {**GOOD, "videos": '["video_path"]'},
        f'`videos`: got the string `["video_path"]`, {ONE}\n  hint: write `"videos": ["video_path"]`',
    ),
    (
        {**GOOD, "videos": [["video_path"]]},
        f'`videos`: got a list with the list `[\'video_path\']`, {ONE}\n  hint: write `"videos": ["video_path"]`',
    ),
    (
        {**GOOD, "videos": [{"type": "video", "video": "video_path"}]},
        "`videos`: got a list with the object `{'type': 'video', 'video': 'video_path'}`, "
        f'{ONE}\n  hint: write `"videos": ["video_path"]`',
    ),
    (
        {**GOOD, "videos": {"video": "video_path", "video_start": 1, "video_end": 3}},
        "`videos`: got the object `{'video': 'video_path', 'video_start': 1, 'video_end': 3}`, "
        f'{ONE}\n  hint: write `"videos": ["video_path"], "start": 1, "end": 3`',
    ),
    ({**GOOD, "videos": [None]}, f"`videos`: got a list with null, {ONE}\n  hint: {BLANK}"),
    ({**GOOD, "videos": [[], ""]}, f"`videos`: got the list `[[], '']`, {ONE}\n  hint: {BLANK}"),
    ({**GOOD, "videos": {"path": 1}}, f"`videos`: got the object `{{'path': 1}}`, {ONE}\n  hint: {BLANK}"),
    (
        {**GOOD, "videos": [["f/1.jpg", "f/2.JPG"]]},
        f"`videos`: got 2 pictures, {ONE}\n  hint: {FRAMES.format('f/1.jpg')}",
    ),
    (
        {**GOOD, "images": ["f/1.png", "f/2.png"]},
        f"`images`: got 2 pictures, need at most one clip in `videos`\n  hint: {FRAMES.format('f/1.png')}",
    ),
    (
        {**GOOD, "image": "a.png"},
        "`image`: got 1 picture, need at most one clip in `videos`\n  hint: make a clip of it and name it in `videos`: "
        "`ffmpeg -loop 1 -i a.png -t 1 -r 1 -pix_fmt yuv444p clip.mp4`",
    ),
    (
        {**GOOD, "images": ["a.png"], "videos": ["video_path"]},
        "`images`: got 1 picture beside a clip, need at most one clip in `videos`\n"
        "  hint: put them into the clip, or leave the row out: a model here takes one clip a row",
    ),
    (
        {**GOOD, "images": ["a.mp4"]},
        '`images`: got a clip, need at most one clip in `videos`\n  hint: write `"videos": ["a.mp4"]`',
    ),
    (
        {**GOOD, "audios": ["a.wav"]},
        "`audios`: got sound, need at most one clip in `videos`\n"
        "  hint: leave out rows that are about sound: no model here hears",
    ),
    (
        {**GOOD, "media": {"file": "a.mp4"}},
        "`media`: got an unknown column and no `videos`, need the column `videos`\n"
        '  hint: did you mean `videos`? if not, add `"videos": []`',
    ),
    (
        {**GOOD, "videos": ["empty.mp4"]},
        "`videos`: got `empty.mp4`, which is empty (0 bytes), need a video file\n  hint: copy or download it again",
    ),
    ({**GOOD, "videos": ["sub"]}, "`videos`: got `sub`, which is a folder, need a video file"),
    (
        {**GOOD, "videos": ["sub/nothing.mp4"]},
        "`videos`: got `sub/nothing.mp4`, which does not exist at `sub/nothing.mp4`, need an existing file\n"
        "  hint: relative paths start from the folder of the data file, or from the video root when given",
    ),
    (
        {**GOOD, "videos": ["https://host/a.mp4"]},
        "`videos`: got the URL `https://host/a.mp4`, need the path of a local file\n"
        "  hint: download the clip and give its path",
    ),
    (
        {**GOOD, "videos": ["a\x00b"]},
        "`videos`: got `a\\x00b`, which cannot be opened (embedded null byte), need a readable file",
    ),
    (
        {**GOOD, "video": "video_path"},
        "`video`: got an unknown column and no `videos`, need the column `videos`\n"
        '  hint: did you mean `videos`? if not, add `"videos": []`',
    ),
    (
        {**GOOD, "video_path": "video_path"},
        "`video_path`: got an unknown column and no `videos`, need the column `videos`\n"
        '  hint: did you mean `videos`? if not, add `"videos": []`',
    ),
    (
        {**GOOD, "histroy": [["a", "b"]]},
        "`histroy`: got an unknown column and no `history`, need the column `history`\n"
        '  hint: did you mean `history`? if not, add `"history": []`',
    ),
    (
        {**GOOD, "category": ["colour", "time"]},
        "`category`: got the list `['colour', 'time']`, need a string, a number or null\n"
        "  hint: write one text, or rename the column: `category` says what kind of question a row asks",
    ),
    (
        {**GOOD, "family": {"name": "cats"}},
        "`family`: got the object `{'name': 'cats'}`, need a string, a number or null\n"
        "  hint: write one text, or rename the column: `family` says what kind of question a row asks",
    ),
    ({**GOOD, "id": 1.5}, "`id`: got the number `1.5`, need a string or a whole number"),
]


@pytest.mark.parametrize(("row", "message"), MESSAGES, ids=[json.dumps(row) for row, _ in MESSAGES])
def test_message_of_one_bad_column(folder, row, message):
    path = write(folder, row)
    assert problems_of(path) == [f"train.jsonl:1 {message}"]


def test_rows_of_another_format_are_one_message(folder):
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "videos": "no.mp4"}
    with pytest.raises(DataError) as caught:
        read_rows(write(folder, *[row] * 5000))
    assert str(caught.value).replace(f"{folder}/", "") == (
        "data train.jsonl has 5000 problems\n"
        "  train.jsonl:1, 2, 3 and 4997 more: got a conversation in `messages`, "
        "need the columns `query`, `response` and `videos`\n"
        "    hint: each answer becomes a row: its question is `query`, the answer `response`, what was said before `history`, "
        "the clip `videos`; data.format says that a file is written otherwise, and `cvft convert` makes native rows of it"
    )


LINES = [
    (b"[1, 2]\n5\n", "`train.json`"),
    (b'{"query": "q", "query": "p", "response": "r"}', "the key `query` more than once"),
    (b'{"query": "q", "response": "r", "score": NaN}', "`NaN`, which is not JSON"),
    (b'{"query": "q\xff", "response": "r"}', "byte 0xff, which is not UTF-8"),
    (b'{"query": "\\ud83d", "response": "r"}', "half of a surrogate pair (`\\ud8..`) in a string"),
    (b'"text"', 'a string `"text"`, need a JSON object'),
    (b"null", "null `null`, need a JSON object"),
    (b'\xef\xbb\xbf{"query": "q", "response": "r"}', "a byte order mark (BOM), need plain UTF-8"),
    (b"[" * 100_000, "rename it to `train.json`"),
    (b'{"a":' * 100_000, "JSON nested too deeply"),
]


@pytest.mark.parametrize(("raw", "message"), LINES, ids=[repr(raw[:20]) for raw, _ in LINES])
def test_line_that_is_no_row(folder, raw, message):
    path = folder / "train.jsonl"
    path.write_bytes(raw)
    (problem,) = problems_of(path)
    assert problem.startswith("train.jsonl:1: got ")
    assert message in problem


@pytest.mark.parametrize("raw", [b"", b"\n \n", b"[]"], ids=repr)
def test_file_without_rows(folder, raw):
    path = folder / "train.json"
    path.write_bytes(raw)
    assert problems_of(path) == ["train.json: got no rows, need at least one row"]


def test_broken_array_names_the_line(folder):
    path = folder / "train.json"
    path.write_text('[\n {"query": "q", "response": "r"},\n oops\n]')
    assert problems_of(path) == ["train.json:3: got invalid JSON (Expecting value, column 2), need one JSON object"]


def test_file_that_is_absent(folder):
    write(folder, {})
    need = "need a readable JSON or JSONL file"
    assert problems_of(folder / "trian.jsonl") == [
        f"trian.jsonl: got no such file, {need}\n  hint: did you mean `train.jsonl`?"
    ]
    assert problems_of(folder / "a.jsonl,b.jsonl") == [
        f"a.jsonl,b.jsonl: got no such file, {need}\n"
        "  hint: join several files, `cat a.jsonl b.jsonl > all.jsonl`, and name that one"
    ]
    hints = {
        "https:/host/train.jsonl": "URLs are not read: download the file and give its path",
        r"C:\data\train.jsonl": "write `/` between folders, and a path on this machine",
        "none/train.jsonl": f"there is no folder `{folder}/none`",
    }
    for name, hint in hints.items():
        with pytest.raises(DataError) as caught:
            read_rows(folder / name)
        assert [problem.hint for problem in caught.value.problems] == [hint]
    (problem,) = problems_of(folder)
    assert "got a folder, need a file with one JSON object per line" in problem
    assert problem.endswith(f"name one of its files, such as `{folder.name}/train.jsonl`")


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
    assert [(row.video, row.id, row.extra) for row in again] == [(row.video, row.id, row.extra) for row in rows]
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
