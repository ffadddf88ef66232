"""Rows: the whole text of what is wrong with a column, a line or a file."""

import json

import pytest

from cvft.data.rows import read_rows
from cvft.errors import DataError
from tests.row_files import GOOD, make_folder, problems_of, write


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path)


PAIRS = "need a list of [question, answer] pairs of strings"
ONE = "need a list of paths"
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
        {**GOOD, "videos": ["a.mp4", "b.png"]},
        "`videos`: got `b.png` beside a clip, need clips alone\n"
        "  hint: a row shows clips in `videos`, or pictures in `images`",
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
        {**GOOD, "image": "a.png"},
        '`image`: got 1 picture, need clips in `videos`, or pictures in `images`\n  hint: write `"images": ["a.png"]`',
    ),
    (
        {**GOOD, "images": ["a.png"], "videos": ["video_path"]},
        "`images`: got 1 picture beside a clip, need clips in `videos`, or pictures in `images`\n"
        "  hint: leave the row out: a row shows clips in `videos`, or pictures in `images`",
    ),
    (
        {**GOOD, "images": ["a.mp4"]},
        '`images`: got a clip, need pictures in `images`, and clips in `videos`\n  hint: write `"videos": ["a.mp4"]`',
    ),
    (
        {**GOOD, "audios": ["a.wav"]},
        "`audios`: got sound, need clips in `videos`, or pictures in `images`\n"
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
