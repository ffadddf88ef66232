"""Formats of rows: each is found by a stated rule, becomes the same rows in every way, and what cannot be carried is named."""

import argparse
import io
import json
from pathlib import Path
from typing import get_args

import pyarrow
import pyarrow.parquet
import pytest

from cvft.cli.arguments import add_format
from cvft.cli.main import main
from cvft.data.formats.convert import convert_file
from cvft.data.formats.table import NUM_SAMPLED
from cvft.data.rows import read_rows, survey_rows
from cvft.data.video.spec import ClipSpec
from cvft.errors import DataError
from cvft.plan.job import open_job
from cvft.plan.prepare import prepare
from cvft.recipe import load_recipe
from cvft.recipe.data_section import Data
from cvft.row_formats import FORMAT_NAMES, FormatName
from tests.mutations import mutations
from tests.project import files_under, make_project
from tests.real_clips import real_clip

CLIP = "a.mp4"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / CLIP).write_bytes(b"any bytes")
    return tmp_path


def say(**turns: str) -> list[dict]:
    return [{"role": role.rstrip("_"), "content": text} for role, text in turns.items()]


def talk(*texts: str) -> list[dict]:
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


MESSAGES = {
    "messages": say(user="<video>Who?", assistant="A dog.", user_="Why?", assistant_="Hunger."),
    "videos": [CLIP],
}
SHAREGPT = {"conversations": talk("<video>Who?", "A dog.", "Why?", "Hunger."), "videos": [CLIP]}
LLAVA = {"id": "7", "video": CLIP, "conversations": talk("<image>\nWho?", "A dog.", "Why?", "Hunger."), "source": "x"}
ALPACA = {
    "instruction": "Why?",
    "input": "Be brief.",
    "output": "Hunger.",
    "system": "",
    "history": [["<video>Who?", "A dog."]],
    "videos": [CLIP],
}
VIDEO_CHATGPT = {"q": "Who?", "a": "A dog.", "video_id": "a"}
BENCHMARK = {"video_name": "a", "question_1": "Who?", "question_2": "Which?", "question": "None", "answer": "A dog."}
TABLE = {"question": "Who?", "answer": "A dog.", "video": CLIP, "category": "who", "qid": "3"}

FIRST = ("Who?", "A dog.", (), CLIP)
LATER = ("Why?", "Hunger.", (("Who?", "A dog."),), CLIP)
OBJECTS = {
    "messages": (MESSAGES, [FIRST, LATER]),
    "sharegpt": (SHAREGPT, [FIRST, LATER]),
    "llava": (LLAVA, [FIRST, ("Why?", "Hunger.", (), CLIP)]),
    "alpaca": (ALPACA, [FIRST, ("Why?\nBe brief.", *LATER[1:])]),
    "video_chatgpt": (VIDEO_CHATGPT, [FIRST]),
    "native": ({"query": "<video>Who?", "response": "A dog.", "videos": [CLIP]}, [FIRST]),
}


def write(folder: Path, *objects: object, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{json.dumps(each)}\n" for each in objects), encoding="utf-8")
    return path


def parquet(folder: Path, *objects: dict, name: str = "rows.parquet") -> Path:
    with io.BytesIO() as file:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(objects)), file)
        (folder / name).write_bytes(file.getvalue())
    return folder / name


def values(rows) -> list[tuple]:
    return [(row.query, row.response, row.history, row.videos[0].name if row.videos else None) for row in rows]


def told(path: Path, **options) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_rows(path, **{"format": "auto", **options})
    return [str(problem).replace(f"{path.parent}/", "") for problem in caught.value.problems]


@pytest.mark.parametrize("num_objects", [1, 30])
@pytest.mark.parametrize("name", OBJECTS)
def test_each_format_is_found_and_means_the_same_rows(folder, name, num_objects):
    made, expected = OBJECTS[name]
    path = write(folder, *[made] * num_objects)
    rows = read_rows(path, format="auto")
    assert values(rows) == expected * num_objects
    assert {row.format for row in rows} == {name}
    assert [row.line for row in rows] == [line for line in range(1, num_objects + 1) for _ in expected]
    assert values(read_rows(path, format=name)) == values(rows)
    array = folder / "rows.json"
    array.write_text(json.dumps([made] * num_objects, indent=1))
    assert values(read_rows(array, format="auto")) == values(rows)
    if name not in ("native", "llava"):
        assert values(read_rows(parquet(folder, *[made] * num_objects), format="auto")) == values(rows)


def test_columns_beside_the_format_are_kept(folder):
    first, second = read_rows(write(folder, LLAVA), format="auto")
    assert (first.id, first.extra, second.extra) == ("7", {"source": "x"}, {"source": "x"})


def test_parts_of_messages_and_answers_that_are_not_trained(folder):
    parts = [{"type": "video", "video": CLIP}, {"type": "text", "text": "Who"}, {"type": "text", "text": "?"}]
    messages = say(user="", assistant="A dog.", user_="Why?", assistant_="Hunger.")
    messages[0]["content"] = parts
    messages[1]["loss"] = False
    assert values(read_rows(write(folder, {"messages": messages}), format="auto")) == [LATER]
    parts[0] = {"type": "video_url", "video_url": {"url": CLIP}}
    assert values(read_rows(write(folder, {"messages": messages}), format="auto")) == [LATER]


def test_rows_to_be_answered_may_end_with_a_question(folder):
    path = write(folder, {"messages": say(user="Who?", assistant="A dog.", user_="Why?")})
    (first, last) = read_rows(path, format="auto", require_response=False)
    assert (first.response, last.query, last.response) == ("A dog.", "Why?", "")
    assert told(path) == ["rows.jsonl:1 `response`: got no such column, need a string that is not empty"]


def test_the_benchmark_of_video_chatgpt(folder):
    (folder / "b.mkv").write_bytes(b"any")
    general = {"video_name": "b", "question_1": "None", "question_2": "None", "question": "Who?", "answer": "A dog."}
    nothing = {"video_name": "b.mkv", "Q": "None", "A": "A dog."}
    rows = read_rows(write(folder, BENCHMARK, general, nothing), format="auto")
    assert [(row.query, row.videos[0].name) for row in rows] == [
        ("Who?", CLIP),
        ("Which?", CLIP),
        ("Who?", "b.mkv"),
        ("None", "b.mkv"),
    ]
    (folder / "a.webm").write_bytes(b"any")
    assert told(write(folder, VIDEO_CHATGPT)) == [
        "rows.jsonl:1: got the clip `a`, for which there are `a.mp4` and `a.webm`, need one file\n"
        "  hint: move the other away"
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables(folder, delimiter):
    path = folder / "rows.csv"
    odd = delimiter.join(["007", '"a, b;\n"', "", "", ""])
    lines = (delimiter.join(TABLE), delimiter.join(TABLE.values()), "", odd)
    path.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    rows = read_rows(path, format="auto")
    assert values(rows) == [FIRST, ("007", "a, b;\n", (), None)]
    assert [(row.line, row.format, row.extra) for row in rows] == [
        (2, "columns of a table", {"category": "who", "qid": "3"}),
        (4, "columns of a table", {"category": "", "qid": ""}),
    ]
    other = path.rename(folder / "rows.txt")
    assert values(read_rows(other, format="csv")) == values(rows)
    assert values(read_rows(parquet(folder, TABLE), format="auto")) == [FIRST]


def test_a_file_with_a_query_is_native_whatever_else_is_in_it(folder):
    path = write(folder, MESSAGES, {"query": "q", "response": "r"})
    assert told(path) == told(path, format="native")
    path = write(folder, {"query": "q", "response": "r", **MESSAGES})
    assert [row.format for row in read_rows(path, format="auto")] == ["native"]


def test_rows_that_fit_no_format_do_not_hide_that_of_the_others(folder):
    path = write(folder, {}, 5, *[MESSAGES] * 20, {"messages": []})
    with pytest.raises(DataError) as caught:
        read_rows(path, format="auto")
    assert str(caught.value).replace(f"{folder}/", "") == (
        "data rows.jsonl has 3 problems\n"
        "  rows.jsonl:1: got no column `messages`, need a conversation in it\n"
        "    hint: data.format says how rows are written\n"
        "  rows.jsonl:2: got a number `5`, need a JSON object\n"
        "  rows.jsonl:23: got `[]` in `messages`, need a list of turns, each an object"
    )


def test_a_file_that_may_be_two_formats_is_asked_about(folder):
    path = write(folder, *[{"conversations": talk("Who?", "A dog.")}] * 25)
    assert told(path) == [
        "rows.jsonl: got rows that may be `sharegpt` and `llava`, need rows of one format\n"
        "  hint: say which it is: data.format=sharegpt or data.format=llava"
    ]
    assert len(read_rows(path, format="llava")) == 25
    # one row that shows it is enough
    assert {
        row.format for row in read_rows(write(folder, {"conversations": talk("Who?", "A dog.")}, LLAVA), format="auto")
    } == {"llava"}
    assert told(write(folder, *[MESSAGES] * 3, ALPACA)) == [
        "rows.jsonl: got rows of several formats, `messages` (row 1) and `alpaca` (row 4), need rows of one format\n"
        "  hint: write a file for each, and `cvft convert` them"
    ]
    late = write(folder, *[MESSAGES] * NUM_SAMPLED, ALPACA)
    assert told(late) == [
        f"rows.jsonl:{NUM_SAMPLED + 1}: got no column `messages`, need a conversation in it\n"
        "  hint: data.format says how rows are written"
    ]


REFUSED = [
    (
        {"messages": say(system="Be brief.", user="Who?", assistant="A dog."), "system": "Be kind."},
        "got a system text in `system` and in a turn, need one place for it\n  hint: remove one of them",
    ),
    (
        {"messages": say(user="Who?", assistant="A dog."), "system": ["Be brief."]},
        "got a list as `system`, need a text",
    ),
    (
        {"messages": say(user="Who?", tool="x", assistant="A dog.")},
        "got the role `tool`, need turns of `user` and `assistant`\n  hint: a row has no place for tools and other voices",
    ),
    (
        {"messages": say(assistant="Hello.", user="Who?")},
        "got turn 1 of `assistant`, need one of `user`: user and assistant take turns, and the user begins",
    ),
    (
        {"messages": say(user="Who?", assistant=" ")},
        "got only white space as the answer in turn 2, need a text that is not empty\n"
        "  hint: write the answer or remove the row",
    ),
    (
        {"messages": [*say(user="Who?"), {"role": "assistant", "content": "A dog.", "loss": False}]},
        "got `loss: false` at every answer, need an answer to learn\n  hint: remove the row",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}]}, *say(assistant="A dog.")]},
        "got a part of the type `audio` in a message, need parts `text`, `video` and `image`\n"
        "  hint: leave the row out: a model here takes text, and clips or pictures",
    ),
    (
        {**MESSAGES, "videos": [[CLIP, CLIP]]},
        "`videos`: got the list `[['a.mp4', 'a.mp4']]`, need a list of paths\n"
        '  hint: write `"videos": ["a.mp4", "a.mp4"]`',
    ),
    (
        {**MESSAGES, "images": ["a.jpg"]},
        "`images`: got 1 picture beside a clip, need clips in `videos`, or pictures in `images`\n"
        "  hint: leave the row out: a row shows clips in `videos`, or pictures in `images`",
    ),
    (
        {**LLAVA, "image": "a.jpg"},
        "`images`: got 1 picture beside a clip, need clips in `videos`, or pictures in `images`\n"
        "  hint: leave the row out: a row shows clips in `videos`, or pictures in `images`",
    ),
    (
        {**MESSAGES, "history": []},
        "got the column `history` beside those of another format, need only `messages`, `system`\n  hint: remove one",
    ),
    (
        {**ALPACA, "history": [["q"]]},
        "got turn 1 of `history`, `['q']`, need a question and its answer in a list",
    ),
    (
        {"messages": say(user="<video>Who?", assistant="A dog.")},
        "`query`: got 1 tag such as `<video>`, need at most 0: the row has no clip\n"
        "  hint: a clip always comes before the text: write no tag, or one `<video>` for the one clip; in other words where "
        "it is meant",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("made", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_rows_have_no_place_for_is_one_message_a_row(folder, made, message):
    path = write(folder, made)
    assert len(set(told(path))) == 1
    assert told(path)[0] in (f"rows.jsonl:1: {message}", f"rows.jsonl:1 {message}")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            b"query,query\na,b\n",
            "1: got the column `query` more than once, need a name for each column in the first line",
        ),
        (b"query,\na,b\n", "1: got a column without a name, need a name for each column in the first line"),
        (
            b"query,response\na,b\nc\n",
            "3: got 1 cells, need 2, one for each column\n"
            "  hint: put cells in quotes that hold the delimiter or a line end",
        ),
        (
            b'query,response\na,"b\n',
            "2: got no row of a CSV file (unexpected end of data), need cells, in quotes where they hold quotes",
        ),
        (b"query,response\n\xff,b\n", "2: got byte 0xff, need UTF-8 text\n  hint: save the file as UTF-8"),
        (
            b"prompt,question,response\na,b,c\n",
            "2: got the columns `question` and `prompt`, need one column for `query`\n  hint: name one of them `query`",
        ),
        (
            b"x,y\na,b\n",
            "2: got no column that holds a question, need one of `query`, `question`, `prompt`\n  hint: rename the column",
        ),
    ],
)
def test_tables_that_are_none(folder, raw, message):
    (folder / "t.csv").write_bytes(raw)
    assert told(folder / "t.csv") == [f"t.csv:{message}"]


def test_files_that_are_no_parquet(folder):
    assert told(write(folder, MESSAGES), format="parquet") == [
        "rows.jsonl: got a file that is not parquet, need a parquet file\n  hint: data.format=auto finds what it is"
    ]
    (folder / "t.parquet").write_bytes(parquet(folder, TABLE).read_bytes()[:-9])
    (problem,) = told(folder / "t.parquet")
    assert problem.startswith("t.parquet: got a parquet file that cannot be read (")
    assert "need a whole one\n  hint: copy it again" in problem


def test_clips_inside_a_parquet_file_come_out_with_convert_alone(folder):
    inside = {"bytes": real_clip("bikes.mp4").read_bytes(), "path": "../../out.mp4"}
    path = parquet(folder, {"question": "Who?", "answer": "A dog.", "video": inside, "score": float("nan")})
    before = files_under(folder)
    assert told(path) == [
        f"rows.parquet: item 1: got a clip inside the file ({len(inside['bytes']):,} bytes), need the path of a clip\n"
        "  hint: `cvft convert FILE OUT.jsonl` writes the clips beside OUT.jsonl"
    ]
    assert files_under(folder) == before
    done = convert_file(path, folder / "out.jsonl")
    (row,) = read_rows(folder / "out.jsonl")
    assert row.videos[0].parent.parent == done.clips == folder / "out_clips"  # and not where its name leads
    assert row.videos[0].read_bytes() == inside["bytes"]
    assert row.extra == {"score": None}
    named = parquet(folder, {"question": "Who?", "answer": "A dog.", "video": {"bytes": None, "path": CLIP}})
    assert values(read_rows(named, format="auto")) == [FIRST]
    image = parquet(folder, {"query": "Who?", "response": "A dog.", "image": {"bytes": b"x", "path": "a.jpg"}})
    assert told(image)[0].startswith("rows.parquet: item 1: got bytes in the column `image`")


@pytest.mark.parametrize("times", [{}, {"start": "1", "end": "2.5"}], ids=["whole", "stretch"])
@pytest.mark.parametrize("name", [*OBJECTS, "csv", "parquet"])
def test_convert_and_load_is_the_identity(folder, tmp_path_factory, name, times):
    table = TABLE | times
    if name == "csv":
        path = folder / "rows.csv"
        path.write_text(",".join(table) + "\n" + ",".join(table.values()) + "\n")
    elif name == "parquet":
        path = parquet(folder, SHAREGPT | {column: float(second) for column, second in times.items()})
    else:
        path = write(folder, *[OBJECTS[name][0] | times] * 3)
    target = tmp_path_factory.mktemp("elsewhere") / "rows.jsonl"
    done = convert_file(path, target)
    rows = read_rows(path, format="auto")
    again = read_rows(target)
    assert [row.to_json() for row in again] == [row.to_json() for row in rows]
    clip = folder.resolve() / CLIP
    assert {row.videos[0] for row in again} == {ClipSpec(clip, start_s=1.0, end_s=2.5) if times else clip}
    assert (done.num_rows, done.num_objects) == (len(rows), len({row.line for row in rows}))


def test_convert_writes_all_rows_or_nothing(folder, capsys):
    good = write(folder, LLAVA, name="good.jsonl")
    inside = {"bytes": b"any", "path": "b.mp4"}
    rows = [{"query": "q", "response": "r", "videos": [clip]} for clip in (inside, {"bytes": None, "path": "no.mp4"})]
    bad = parquet(folder, *rows)
    before = files_under(folder)
    assert main(["convert", str(bad), str(folder / "out.jsonl")]) == 2
    assert "rows.parquet: item 2 `videos`: got `no.mp4`, which does not exist" in capsys.readouterr().err
    broken = write(folder, {**LLAVA, "video": "no.mp4"}, name="broken.jsonl")
    assert main(["convert", str(broken), str(folder / "out.jsonl")]) == 2
    assert "broken.jsonl:1 `videos`: got `no.mp4`, which does not exist" in capsys.readouterr().err
    assert main(["convert", str(good), str(folder / "out.json")]) == 2
    assert main(["convert", str(good), str(good)]) == 2
    assert files_under(folder) == sorted([*before, "broken.jsonl"])
    capsys.readouterr()
    assert main(["convert", str(good), str(folder / "out.jsonl"), "--format", "llava"]) == 0
    assert capsys.readouterr().out == f"2 rows of 1 objects (llava) written to {folder / 'out.jsonl'}\n"


@pytest.mark.parametrize("name", OBJECTS)
def test_mutated_rows_are_read_or_named(folder, name):
    """Rows in are rows out and rows named, whatever is in them, and nothing falls."""
    made = [changed for changed, _ in mutations(OBJECTS[name][0], count=2000, seed=7)]
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(each)}\n" for each in made), encoding="utf-8", newline="")
    rows, problems = survey_rows(path, format=name)
    read = {row.line for row in rows}
    named = {int(problem.where.removeprefix(f"{path}:").split(" ")[0].rstrip(":")) for problem in problems}
    assert read | named == set(range(1, len(made) + 1))
    assert len(read) > 200
    assert len(named) > 200
    assert all("Traceback" not in str(problem) for problem in problems)


def test_a_recipe_says_which_format_it_found(tmp_path):
    clip = str(real_clip("bikes.mp4"))
    rows = [{**LLAVA, "video": clip}] * 3
    recipe = make_project(tmp_path, rows=rows, val_rows=[{**SHAREGPT, "videos": [clip]}])
    prepared = prepare(open_job(load_recipe(recipe), needs_weights=False))
    assert len(prepared.train_rows) == 6
    assert prepared.notes[:2] == [
        f"{tmp_path / 'train.jsonl'} is read as `llava`: 6 rows",
        f"{tmp_path / 'val.jsonl'} is read as `sharegpt`: 2 rows",
    ]
    with pytest.raises(DataError, match="a conversation in `conversations`"):
        prepare(open_job(load_recipe(recipe, overrides=["data.format=native"]), needs_weights=False))


def test_every_place_names_the_same_formats():
    parser = argparse.ArgumentParser()
    add_format(parser)
    (choices,) = (action.choices for action in parser._actions if action.dest == "format")
    assert get_args(Data.model_fields["format"].annotation) == choices == FORMAT_NAMES == get_args(FormatName)
