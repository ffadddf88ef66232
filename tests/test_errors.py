"""The text of errors, and that they survive the way between processes."""

import pickle
from pathlib import Path

from cvft.errors import ClipError, DataError, Problem, did_you_mean, quote


def test_all_problems_are_told_with_their_hints():
    error = ClipError("clip x.mp4", [Problem("a", "`1`", "2"), Problem("b", "nothing", "something", "look there")])
    assert (
        str(error)
        == "clip x.mp4 has 2 problems\n  a: got `1`, need 2\n  b: got nothing, need something\n    hint: look there"
    )


def test_an_error_crosses_processes_whole():
    error = ClipError("clip x.mp4", [Problem("a", "`1`", "2", "hint")])
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ClipError
    assert (str(again), again.problems) == (str(error), error.problems)


def test_long_values_are_shortened_and_near_names_found():
    assert quote("x" * 100) == f"`{'x' * 77}...`"
    assert did_you_mean("qvk", ["qkv", "all-linear"]) == "did you mean `qkv`?"
    assert did_you_mean("zzz", ["qkv"]) == ""


def test_a_fault_of_a_whole_file_is_one_message_with_three_examples():
    same = [Problem(f"t.jsonl:{line} `response`", "null", "text", "write it") for line in range(1, 5001)]
    assert str(DataError("data t.jsonl", same)) == (
        "data t.jsonl has 5000 problems\n"
        "  t.jsonl:1, 2, 3 and 4997 more `response`: got null, need text\n"
        "    hint: write it"
    )


def test_what_differs_in_names_and_numbers_only_is_one_kind():
    names = ["a", "b c", "12", "", "e"]
    missing = [
        Problem(f"t.json: item {2 * number} `videos`", f"`{name}`, the {number}th of {10 * number}", "a file", "look")
        for number, name in enumerate(names, 1)
    ]
    other = Problem("t.json: item 3 `videos`", "2 clips", "one", "join them")
    assert str(DataError("data", [missing[0], other, *missing[1:]])) == (
        "data has 6 problems\n"
        "  t.json: item 2 `videos`: got `a`, the 1th of 10, need a file\n"
        "  t.json: item 4 `videos`: got `b c`, the 2th of 20, need a file\n"
        "  t.json: item 6 `videos`: got `12`, the 3th of 30, need a file\n"
        "  and 2 more like these, up to t.json: item 10\n"
        "    hint: look\n"
        "  t.json: item 3 `videos`: got 2 clips, need one\n"
        "    hint: join them"
    )


def test_three_of_a_kind_and_what_has_no_line_are_told_in_full():
    three = [Problem(f"t.jsonl:{line}", "null", "text", f"hint {line}") for line in (1, 2, 3)]
    settings = [Problem(f"lora.{name}", "null", "text") for name in "abcde"]
    error = DataError("data", [*three, *settings])
    assert [str(problem) in str(error).replace("\n  ", "\n") for problem in error.problems] == [True] * 8


def test_clips_of_many_rows_are_one_kind():
    problems = [
        Problem(f"t.jsonl:{line}, {line + 1} and 3 more rows `videos`: /x/clip {line}.mp4", "a picture", "a video")
        for line in range(1, 50, 5)
    ]
    lines = str(DataError("the check of clips", problems)).split("\n")
    assert len(lines) == 5
    assert lines[1] == "  t.jsonl:1, 2 and 3 more rows `videos`: /x/clip 1.mp4: got a picture, need a video"
    assert lines[4] == "  and 7 more like these, up to t.jsonl:46"


def test_what_cannot_be_seen_is_written_out():
    assert quote("a\x1b[31m\u2028\nb\ud800") == r"`a\x1b[31m\u2028\nb\ud800`"
    assert quote("naïve 日本") == "`naïve 日本`"


def test_a_path_is_never_cut():
    path = Path("/folder") / ("a" * 100) / "clip.mp4"
    assert quote(path) == f"`{path}`"
    assert quote(str(path)).endswith("...`")
