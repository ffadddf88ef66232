"""A set of rows and clips of which each is wrong or odd in a way of its own: a check names each by its kind, and no other."""

import json
import re
from pathlib import Path

import av
import numpy as np
import pytest

from cvft.data.doctor.check import CheckUp, DataFile, check_files
from cvft.data.doctor.findings import KINDS
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.sample import Sampling
from tests.fixtures_video import make_clip
from tests.test_data_doctor import CLIPS, OF_CLIPS, ROWS

HOW = DecodeSettings(Sampling())


def row(number: int, **columns) -> str:
    return json.dumps({"query": f"Question {number}?", "response": f"answer {number}", **columns}, ensure_ascii=False)


REFUSED = {
    "broken JSON": ('{"query": "Who?", "response": }', "invalid JSON (Expecting value, column 31)"),
    "cut JSON": ('{"query": "Who?", "respo', "invalid JSON (Unterminated string"),
    "two objects in a line": (row(0) + row(1), "invalid JSON (Extra data"),
    "a list": ("[1]", "a list"),
    "a string": ('"a"', "a string"),
    "null": ("null", "null"),
    "a repeated key": ('{"query": "a", "query": "b", "response": "c"}', "the key `query` more than once"),
    "NaN": ('{"query": "a", "response": NaN}', "`NaN`, which is not JSON"),
    "a number without end": ('{"query": "a", "response": 1e999}', "too large"),
    "half a character": ('{"query": "\\ud83d", "response": "c"}', "half of a surrogate pair"),
    "deep nesting": (row(1, more="X").replace('"X"', "[" * 150 + "]" * 150), "nested too deeply"),
    "no answer": ('{"query": "Who?"}', "no such column"),
    "an empty answer": (row(1, response=""), "an empty string"),
    "an answer of blanks": (row(1, response=" \n"), "only white space"),
    "an answer of null": (row(1, response=None), "null"),
    "a list as answer": (row(1, response=["a"]), "the list `['a']`"),
    "no question": ('{"response": "yes"}', "no such column"),
    "a question of null": (row(1, query=None), "null"),
    "a misspelt column": (row(1).replace("response", "respone"), "no such column"),
    "a misspelt history": (row(1, histroy=[]), "no `history`"),
    "half a turn": (row(1, history=[["Who?"]]), "turn 1 with 1 items"),
    "turns as objects": (row(1, history=[{"q": "a"}]), "turn 1 ="),
    "a turn of null": (row(1, history=[["a", None]]), "answer is null"),
    "clip and picture": (row(1, videos=["good.mp4", "walk.png"]), "beside a clip"),
    "a clip as text": (row(1, videos="good.mp4"), "the string `good.mp4`"),
    "missing picture": (row(1, images=["a.png", "b.png"]), "`a.png`, which does not exist"),
    "sound": (row(1, audios=["a.wav"]), "sound"),
    "a list as id": (row(1, id=[1]), "the list `[1]`"),
    "a list as category": (row(1, category=["a"]), "the list `['a']`"),
    "an end before the start": (row(1, videos=["good.mp4"], start=3, end=2), "the number `2`"),
    "a start of a row without a clip": (row(1, start=3), "the number `3`"),
    "a negative start": (row(1, videos=["good.mp4"], start=-1), "the number `-1`"),
    "no frames": (row(1, videos=["good.mp4"], max_frames=0), "the number `0`"),
    "a tag without a clip": (row(1, query="<video>Who?"), "1 tag such as `<video>`"),
    "two tags": (row(1, query="<video><video>Who?", videos=["good.mp4"]), "2 tags such as `<video>`"),
    "a tag of a picture": (row(1, query="<image>Who?", videos=["good.mp4"]), "`<image>` in a question"),
    "a conversation": ('{"messages": [{"role": "user", "content": "a"}]}', "a conversation in `messages`"),
    "a clip that is not there": (row(1, videos=["none.mp4"]), "`none.mp4`, which does not exist"),
    "a clip in other letters": (row(1, videos=["GOOD.MP4"]), "`GOOD.MP4`, which does not exist"),
    "a clip of no bytes": (row(1, videos=["empty.mp4"]), "`empty.mp4`, which is empty (0 bytes)"),
    "a folder": (row(1, videos=["folder"]), "`folder`, which is a folder"),
    "a URL": (row(1, videos=["https://host/a.mp4"]), "the URL `https://host/a.mp4`"),
    "a path of Windows": (row(1, videos=["C:\\clips\\a.mp4"]), "the Windows path"),
}
"""What is wrong with a row -> the row, and words of what is said of it."""

BAD_CLIPS = {
    "truncated": lambda path: path.write_bytes(make_clip(path, num_frames=75).read_bytes()[:-9000]),
    "zeros": lambda path: path.write_bytes(bytes(5000)),
    "text": lambda path: path.write_text("<html>404 Not Found</html>"),
    "sound": lambda path: make_sound(path),
    "pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
}

TURNS = {
    "answers first": ([("assistant", "a"), ("user", "b")], "turn 1 of `assistant`"),
    "two questions": ([("user", "a"), ("user", "b"), ("assistant", "c")], "turn 2 of `user`"),
    "a tool": ([("user", "a"), ("tool", "b")], "the role `tool`"),
    "a system text amid": ([("user", "a"), ("system", "b"), ("assistant", "c")], "a system text amid the turns"),
    "a clip in a system text": (
        [("system", "See <video>"), ("user", "a"), ("assistant", "b")],
        "`<video>` in a system text",
    ),
    "no turn": ([], "`[]` in `messages`"),
    "an empty answer": ([("user", "a"), ("assistant", "")], "an empty text"),
}


def make_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        for number in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("torture")
    for name, make in {**CLIPS, **BAD_CLIPS}.items():
        make(folder / f"{name}.mp4")
    (folder / "empty.mp4").touch()
    (folder / "folder").mkdir()
    return folder


def check(path: Path) -> tuple[CheckUp, dict[int, list[tuple[str, str]]]]:
    """Returns what was found by the number of the line."""
    checked = check_files([DataFile(path)], how=HOW, num_workers=2)
    found: dict[int, list[tuple[str, str]]] = {}
    for finding in checked.findings:
        line = int(re.match(rf"{re.escape(str(path))}:(\d+)", finding.problem.where)[1])
        found.setdefault(line, []).append((finding.kind, finding.problem.got))
    return checked, found


def test_every_kind_is_named_and_nothing_else(folder):
    cases: list[tuple[str, str, str]] = [(line, "row_refused", words) for line, words in REFUSED.values()]
    cases += [(row(100 + at, videos=[f"{name}.mp4"]), "clip_refused", "") for at, name in enumerate(BAD_CLIPS)]
    odd = {name: name for name in CLIPS if name not in ("good", "walk", "drift")} | {"slide": "frozen"}
    cases += [(row(200 + at, videos=[f"{name}.mp4"]), kind, "") for at, (name, kind) in enumerate(odd.items())]
    cases += [
        (json.dumps({**columns, "query": f"{columns['query']} {kind}", "videos": [f"{clip}.mp4"]}), kind, "")
        for kind, (clip, columns) in OF_CLIPS.items()
        if clip == "good"
    ]
    alone = ("blank_text", "tag_in_answer", "control_token_text", "placeholder_text")
    cases += [(json.dumps({**ROWS[kind][0], "query": kind}), kind, "") for kind in alone]
    good = [row(300 + number, videos=["good.mp4"]) for number in range(len(cases))]
    path = folder / "rows.jsonl"
    path.write_text(
        "".join(f"{line}\n{fine}\n" for (line, _, _), fine in zip(cases, good, strict=True)), encoding="utf-8"
    )
    checked, found = check(path)
    for number, (line, kind, words) in enumerate(cases):
        mine = found.pop(2 * number + 1, [])
        assert [each for each, _ in mine] == [kind], (line, mine)
        assert words in mine[0][1], (words, mine)
    assert found == {}  # of the rows between them, nothing
    num_refused = sum(kind == "row_refused" for _, kind, _ in cases)
    assert len(checked.rows) + num_refused == len(cases) + len(good)
    assert len(cases) + len(TURNS) >= 45
    of_many = {
        "conflicting_answers",
        "duplicate_row",
        "one_answer",
        "row_too_long",
        "frames_repeated",
        "same_clip_two_names",
    }
    of_sides = {"clip_on_both_sides", "clip_in_two_files", "similar_clip_on_both_sides", "similar_clips"}
    # those are in test_data_doctor.py, test_data_similar.py and test_data_datasets.py
    assert {kind for _, kind, _ in cases} == set(KINDS) - of_many - of_sides - {"time_not_shown", "dataset_note"}


def test_turns_out_of_order_are_named(folder):
    path = folder / "turns.jsonl"
    lines = [
        json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]})
        for turns, _ in TURNS.values()
    ]
    fine = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    path.write_text("\n".join([*lines, fine]) + "\n")
    checked, found = check(path)
    assert [[kind for kind, _ in found[line]] for line in sorted(found)] == [["row_refused"]] * len(TURNS)
    for number, (_, words) in enumerate(TURNS.values(), start=1):
        assert words in found[number][0][1]
    assert len(checked.rows) == 1
