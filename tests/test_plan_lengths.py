"""Lengths: rows and answers that fit to the token, those that do not refused by their line, before any model is loaded."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cvft.data.groups import RowShape
from cvft.data.rows import Row
from cvft.data.video.loader import DecodeSettings
from cvft.errors import DataError
from cvft.families.cogvlm2_video.family import COGVLM2_VIDEO
from cvft.families.family import Preprocessing
from cvft.plan.lengths import MAX_NEW_TOKENS, answer_limit, check_answers_fit, check_prompts, note_lengths
from cvft.weights.folder import ModelFolder
from tests.project import ROWS, cvft, make_project, with_real_clips, write_jsonl
from tests.real_clips import real_clip
from tests.tiny import TINY, tiny_processor

FOLDER = ModelFolder.of(TINY)
CONTEXT = 2048
FIELDS = {"num_tokens_per_frame": tiny_processor().num_tokens_per_frame}
CHAT = Preprocessing("chat", DecodeSettings.of("chat", max_frames=24, decoder="pyav"), CONTEXT, FIELDS)


def ask(query: str, *, video: Path | None = None, line: int = 1) -> Row:
    return Row(query, "", (), () if video is None else (video,), Path("rows.jsonl"), line)


def query_of(num_tokens: int) -> str:
    """A question whose row has so many tokens without a clip and without its answer: no two of its characters are merged."""
    query = "~" * (num_tokens - num_prompt_tokens(ask("~")) + 1)
    assert num_prompt_tokens(ask(query)) == num_tokens
    return query


def num_prompt_tokens(row: Row) -> int:
    return sum(label == -100 for label in COGVLM2_VIDEO.layouts(FOLDER, CHAT)(row, None).labels)


def check(*rows: Row, max_new_tokens: int | None, how: Preprocessing = CHAT) -> None:
    check_prompts(rows, family=COGVLM2_VIDEO, folder=FOLDER, how=how, max_new_tokens=max_new_tokens)


def test_prompt_and_answer_fit_to_the_token():
    rows = [ask("a", line=1), ask("b", line=2)]
    assert check_answers_fit(rows, [10, 90], max_new_tokens=10, max_tokens=100) == [10, 10]
    with pytest.raises(
        DataError, match=r"rows.jsonl:2: got 91 tokens and 10 for the answer, need at most 100 together"
    ):
        check_answers_fit(rows, [10, 91], max_new_tokens=10, max_tokens=100)


def test_an_answer_of_no_stated_length_takes_what_is_left():
    rows = [ask("a", line=number) for number in range(3)]
    most = MAX_NEW_TOKENS
    assert check_answers_fit(rows, [10, 1000, 1999], max_new_tokens=None, max_tokens=2000) == [most, most, 1]
    with pytest.raises(DataError, match=r"rows.jsonl:1: got 2000 tokens and no room for the answer"):
        check_answers_fit(rows[1:2], [2000], max_new_tokens=None, max_tokens=2000)


def test_the_limit_is_the_models_or_what_training_was_told():
    assert answer_limit(COGVLM2_VIDEO, FOLDER, CHAT) == CONTEXT
    assert (
        answer_limit(COGVLM2_VIDEO, FOLDER, replace(CHAT, max_tokens=100)) == CONTEXT
    )  # a limit of memory in training
    assert answer_limit(COGVLM2_VIDEO, FOLDER, replace(CHAT, max_tokens=3000)) == 3000


def test_all_prompts_without_room_are_refused_at_once():
    full, fits = query_of(CONTEXT), query_of(CONTEXT - 1)
    check(ask(fits), max_new_tokens=None)
    with pytest.raises(DataError, match="has 2 problems") as refused:
        check(ask(full, line=3), ask(fits, line=4), ask(full + full, line=5), max_new_tokens=None)
    assert "rows.jsonl:3: got 2048 tokens" in str(refused.value)
    assert "rows.jsonl:5: got 4" in str(refused.value)


def test_a_clip_is_decoded_where_the_most_frames_would_not_fit(tmp_path):
    clip, broken = real_clip("bikes.mp4"), tmp_path / "broken.mp4"
    broken.write_bytes(b"no clip")
    with CHAT.decode.make_process() as process:
        seen = process.inspect(clip, sampling=CHAT.decode.sampling, decoder="pyav")
    assert seen.num_frames < CHAT.decode.sampling.max_frames
    num_clip_tokens = seen.num_frames * (tiny_processor().num_tokens_per_frame + 1)
    fits = query_of(CONTEXT - num_clip_tokens - 1)
    check(ask(fits, video=clip), max_new_tokens=1)
    check(ask(fits, video=broken), ask("What?", video=broken), max_new_tokens=1)  # somebody else's business
    with pytest.raises(DataError, match=r"rows.jsonl:7: got 2047 tokens and 2 for the answer"):
        check(ask(fits, video=clip, line=7), max_new_tokens=2)


def test_notes_say_which_answers_will_be_cut_and_which_rows_go_apart():
    shapes = [RowShape((0,), 10, num_question_tokens=count + 5, num_label_tokens=count) for count in (2, 8, 9, 21)]
    bare = RowShape((0,), 10, num_question_tokens=4, num_label_tokens=4)
    assert note_lengths(shapes, shapes[:2], max_new_tokens=8, context_tokens=36) == []
    cut, apart = note_lengths(shapes, [*shapes, bare], max_new_tokens=8, context_tokens=36)
    assert cut.startswith("2 of 5 val rows expect answers longer than eval.max_new_tokens (8), up to 21 tokens")
    (long,) = note_lengths(shapes, shapes[:2], max_new_tokens=8, context_tokens=35)
    assert (
        long == "1 rows have more than the 35 tokens that the model was made for, up to 36: data.max_tokens allows it"
    )
    assert apart.startswith("1 rows have no text before their answer")


def test_commands_refuse_rows_without_room_before_they_answer(tmp_path):
    recipe = make_project(tmp_path / "job")
    for command in ("plan", "train"):
        result = cvft(command, recipe, "eval.max_new_tokens=4000")
        assert result.returncode == 2
        assert "val.jsonl:1: got " in result.stderr
        assert "and 4000 for the answer, need at most 2048 together" in result.stderr
        assert "hint: max_new_tokens of at most 19" in result.stderr
    assert not list((tmp_path / "job" / "runs").rglob("adapter"))
    rows = [*with_real_clips(ROWS[:2]), {"query": query_of(CONTEXT)}]
    data, output = write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    result = cvft("infer", "--model", "tiny", "--data", data, "--output", output)
    assert result.returncode == 2
    assert f"{data}:3: got 2048 tokens and no room for the answer, need at most 2048 together" in result.stderr
    assert not list(tmp_path.glob("out*"))
    result = cvft("infer", "--model", "tiny", "--query", "What?", "--max-new-tokens", "2048")
    assert result.returncode == 2
    assert "and 2048 for the answer, need at most 2048 together" in result.stderr
    assert cvft("infer", "--model", "tiny", "--query", "What?", "--max-new-tokens", "0").returncode == 2


def test_the_plan_says_which_answers_will_be_cut(tmp_path):
    recipe = make_project(tmp_path)
    values = json.loads(cvft("plan", recipe, "eval.max_new_tokens=2", "--json").stdout)
    (note,) = [note for note in values["notes"] if "max_new_tokens" in note]
    assert note.startswith("3 of 3 val rows expect answers longer than eval.max_new_tokens (2), up to 5 tokens")
