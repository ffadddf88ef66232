"""The text of errors, and that they survive the way between processes."""

import pickle

from cvft.errors import ClipError, Problem, did_you_mean, quote


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
