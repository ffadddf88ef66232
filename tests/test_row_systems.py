"""System texts of rows: read from every format, told as a recipe's own, kept apart in groups and in what is kept of clips."""

import contextlib
import json
from pathlib import Path

import pytest
import torch

import cvft
from cvft.cli.main import main
from cvft.data.groups import RowShape, encodes_a_clip_again, make_steps, most_rows_per_clip
from cvft.data.rows import Row, read_rows, write_rows
from cvft.errors import DataError
from cvft.families.network.answering import RunningRows
from cvft.families.network.prefixes import KeptPrefixes
from cvft.predict.chat import open_chat
from tests.opened import Opened
from tests.project import cvft as command
from tests.project import cvft_ok, make_project, with_real_clips, write_jsonl
from tests.real_clips import real_clip
from tests.served import error_of
from tests.server import clip_part, serving, text_part

BRIEF = "Answer with one word."
KINDS = ("qwen2_5_vl", "qwen3_5", "internvl3_5", "glm4v", "llava_onevision")
CLIP = Path(__file__).parent.parent / "datasets" / "tiny_shapes" / "clips" / "val_000.mp4"


def ask(query="What is it?", *, system=None, history=(), video=()):
    return Row(query, "a bird", history, video, source=Path("rows.jsonl"), line=1, system=system)


SAID = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "A dog."}]
IN_FORMATS = {
    "native": {"query": "Who?", "response": "A dog.", "system": BRIEF},
    "messages": {
        "messages": [
            {"role": "system", "content": BRIEF},
            {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": "A dog."},
        ]
    },
    "sharegpt": {"conversations": [{"from": "system", "value": BRIEF}, *SAID], "videos": []},
    "llava": {"conversations": SAID, "system": BRIEF, "video": ""},
    "alpaca": {"instruction": "Who?", "input": "", "output": "A dog.", "system": BRIEF},
}


@pytest.mark.parametrize("name", IN_FORMATS)
def test_every_format_holds_it_and_it_is_written_again(name, tmp_path):
    (row,) = read_rows(write_jsonl(tmp_path / "rows.jsonl", [IN_FORMATS[name]]), format="auto")
    assert (row.system, row.query, row.response, row.extra, row.format) == (BRIEF, "Who?", "A dog.", {}, name)
    write_rows([row], tmp_path / "again.jsonl")
    (again,) = read_rows(tmp_path / "again.jsonl")
    assert again.to_json() == row.to_json()


@pytest.mark.parametrize("nothing", ["", " \n", None])
def test_one_that_says_nothing_is_none(nothing, tmp_path):
    rows = [{"query": "Who?", "response": "A dog.", "system": nothing}]
    (row,) = read_rows(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert row.system is None
    assert "system" not in row.to_json()


def test_a_column_that_may_mean_it_is_refused(tmp_path):
    rows = [
        {"query": "a", "response": "b", "system_prompt": BRIEF},
        {"query": "a", "response": "b", "system": {"text": BRIEF}},
        {"query": "a", "response": "b", "system": "Look at <image> first."},
    ]
    with pytest.raises(DataError) as raised:
        read_rows(write_jsonl(tmp_path / "rows.jsonl", rows))
    where = [problem.where.removeprefix(f"{tmp_path}/") for problem in raised.value.problems]
    assert where == ["rows.jsonl:1 `system_prompt`", "rows.jsonl:2 `system`", "rows.jsonl:3 `system`"]
    assert raised.value.problems[0].hint == 'did you mean `system`? if not, add `"system": null`'


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    """A family as released, and with a system text for all rows."""
    folder = tmp_path_factory.mktemp("model")
    plain = Opened(folder / "plain", request.param)
    return plain, Opened(folder / "brief", request.param, model={"system": BRIEF})


def test_a_rows_own_is_told_as_a_recipes(both):
    """Which golden vectors hold to the makers' chat templates."""
    plain, brief = both
    history = (("Who?", "a man"),)
    for clip in ([plain.clip(num_frames=4)], []):
        for opened in both:
            own = opened.encoder.encode(ask(system=BRIEF, history=history), clip, with_response=True)
            stated = brief.encoder.encode(ask(history=history), clip, with_response=True)
            for key in ("input_ids", "labels", "position_ids", "segment_ids"):
                assert torch.equal(own[key], stated[key]), key
        without = plain.encoder.encode(ask(history=history), clip, with_response=True)
        assert len(without["input_ids"]) != len(own["input_ids"])
    own = plain.family.layouts(plain.folder, plain.how)(ask(system=BRIEF, history=history), ())
    assert own.input_ids == stated["input_ids"].tolist()


def test_rows_of_a_clip_meet_where_theirs_is_the_same(both):
    opened, _ = both
    clip = [opened.clip(num_frames=4)]
    systems = [None, BRIEF, "Be kind.", BRIEF, None, "Be kind."]
    rows = [opened.encoder.encode(ask(system=system), clip, with_response=True) for system in systems]
    names = sorted({system for system in systems if system})
    shapes = [RowShape((0,), 10, 5, system=None if system is None else names.index(system)) for system in systems]
    groups = [group for step in make_steps(shapes, global_batch_rows=6, max_rows_per_group=8, seed=0) for group in step]
    assert sorted(map(sorted, groups)) == [[0, 4], [1, 3], [2, 5]]
    for first, second in groups:
        joined = opened.encoder.join([rows[first], rows[second]])
        assert len(joined["input_ids"]) < 2 * len(rows[first]["input_ids"])
    with pytest.raises(AssertionError, match="rows of different clips"):
        opened.encoder.join(rows[:2])


def test_a_clip_under_two_of_them_is_encoded_twice():
    same, other = [RowShape((0,), 10, 5, system=0)] * 2, [RowShape((0,), 10, 5, system=0), RowShape((0,), 10, 5)]
    assert (most_rows_per_clip(same), most_rows_per_clip(other)) == (2, 1)
    assert not encodes_a_clip_again(same, max_rows_per_group=8)
    assert encodes_a_clip_again(other, max_rows_per_group=8)


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen3_5"])
def test_what_is_kept_of_a_clip_is_kept_for_one_of_them(kind, tmp_path):
    opened = Opened(tmp_path / kind, kind)
    model, clip = opened.load(), opened.clip(num_frames=4)
    rows = [ask("What?", system=system) for system in (None, BRIEF, "Say it in very many words.", BRIEF)]
    prompts = [opened.encoder.encode(row, [clip], with_response=False) for row in rows]

    def answers(numbers, kept):
        running = RunningRows(model, opened.encoder, kept=kept)
        chosen = [prompts[number] for number in numbers]
        limits, clips, drawings = [6] * len(chosen), ["one"] * len(chosen), [None] * len(chosen)
        tokens = running.join(chosen, max_new_tokens=limits, clips=clips, drawings=drawings)
        ended = {}
        while len(ended) < len(chosen):
            ended |= {token.row: token.answer.text for token in tokens if token.answer is not None}
            tokens = running.step() if len(ended) < len(chosen) else []
        return [text for _, text in sorted(ended.items())]

    alone = [answers([number], None)[0] for number in range(4)]
    assert len(set(alone)) == 3
    kept = KeptPrefixes(2**30)
    assert answers([0, 1], kept) + answers([3, 2], kept) == [alone[0], alone[1], alone[3], alone[2]]
    assert (kept.num_asked, kept.num_found) == (4, 1)


def test_a_model_without_a_place_for_it_says_so(tmp_path):
    rows = with_real_clips([{"query": "Who?", "response": "a man", "videos": ["bikes.mp4"], "system": BRIEF}] * 2)
    planned = command("plan", make_project(tmp_path, rows=rows))
    said = f"`system`: got `{BRIEF}`, need none: the model's templates have no place for one"
    assert planned.returncode == 2
    assert said in planned.stderr
    asked = command("infer", "--model", "tiny", "--video", CLIP, "--query", "Who?", "--system", BRIEF)
    assert (asked.returncode, said in asked.stderr) == (2, True)
    with pytest.raises(DataError, match="no place for one"):
        open_chat("tiny", system=BRIEF)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A trained run, of whose rows about one clip some have system texts."""
    rows = [
        {"query": f"What is shown? {number}", "response": f"bikes {number}", "videos": ["bikes.mp4"], "system": system}
        for number, system in enumerate(["", BRIEF, BRIEF, "Be kind.", "", ""])
    ]
    recipe = make_project(
        tmp_path_factory.mktemp("job"),
        rows=with_real_clips(rows),
        val_rows=with_real_clips(rows[1:5]),
        model={"path": "tiny-qwen3-vl", "dtype": "fp32"},
        lora={"rank": 4, "alpha": 8, "dropout": 0.0, "targets": "all-linear"},
        video={"max_frames": 4},
        train={"global_batch_rows": 6, "max_steps": 2},
    )
    return recipe, cvft_ok("run", recipe)


def run_of(recipe):
    return recipe.parent / "runs" / "small"


def test_the_whole_job_takes_them(done):
    recipe, said = done
    assert "6 of 10 rows (train.jsonl:2, train.jsonl:3, train.jsonl:4 and 3 more) have a system text of their own" in (
        said.stderr
    )
    cvft_ok("train", recipe, "name=apart", "train.group_by_clip=off", "video.cache_features=off")

    def losses(name):
        lines = (recipe.parent / "runs" / name / "train" / "logging.jsonl").read_text().splitlines()
        return [line["loss"] for line in map(json.loads, lines) if "loss" in line]

    assert losses("small") == pytest.approx(losses("apart"), abs=1e-5)
    lines = list(map(json.loads, (run_of(recipe) / "eval" / "merged" / "predictions.jsonl").read_text().splitlines()))
    assert [line.get("system") for line in lines] == [BRIEF, BRIEF, "Be kind.", None]
    clip = real_clip("bikes.mp4")
    with contextlib.closing(cvft.load(run_of(recipe) / "merged")) as model:
        asked = [model.ask(clip, line["query"], system=line.get("system"), max_new_tokens=8) for line in lines]
        assert asked == [line["prediction"] for line in lines]
        assert model.answer([{**line, "videos": [str(clip)]} for line in lines], max_new_tokens=8) == asked


def test_whoever_serves_the_model_is_told_them(done, tmp_path):
    recipe, _ = done
    assert (
        main(["handover", "vllm", str(run_of(recipe)), "--max-new-tokens", "8", "--output", str(tmp_path / "new")]) == 0
    )
    _, *rows = map(json.loads, (tmp_path / "new" / "reference.jsonl").read_text().splitlines())
    assert [row["request"]["messages"][0] for row in rows[:3]] == [
        {"role": "system", "content": system} for system in (BRIEF, BRIEF, "Be kind.")
    ]
    assert rows[3]["request"]["messages"][0]["role"] == "user"


def test_server_chat_and_command_line_say_the_same(tmp_path):
    query, system = "When does the shape appear?", "In very many words, and as slowly as can be."
    with contextlib.closing(cvft.load("tiny-qwen3-vl")) as model:
        plain, own = model.ask(CLIP, query), model.ask(CLIP, query, system=system)
    assert plain != own
    said = cvft_ok("infer", "--model", "tiny-qwen3-vl", "--video", CLIP, "--query", query, "--system", system)
    assert said.stdout.strip() == own
    said = cvft_ok(
        "chat", CLIP, "--model", "tiny-qwen3-vl", "--system", system, input=f"{query}\n/save {tmp_path}/r.jsonl\n"
    )
    assert said.stdout.strip() == own
    (row,) = read_rows(tmp_path / "r.jsonl")
    assert (row.system, row.response) == (system, own)
    asked = {"role": "user", "content": [clip_part(CLIP.name), text_part(query)]}
    with serving("--model", "tiny-qwen3-vl", "--media-root", CLIP.parent) as server:
        for _ in range(2):  # the second time, with what is kept of the clip
            assert server.text([asked], model="tiny-qwen3-vl") == plain
            told = [{"role": "system", "content": system}, asked]
            assert server.text(told, model="tiny-qwen3-vl") == own
        assert server.text([{"role": "system", "content": " "}, asked], model="tiny-qwen3-vl") == plain
        assert error_of(server.ask([{"role": "system", "content": "a"}], model="tiny-qwen3-vl"))["param"] == "messages"
