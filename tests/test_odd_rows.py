"""A whole job on rows that hold whatever JSON can: nothing ends the work late, and all of it comes through to the letter."""

import json

from cvft.data.rows import category_of, read_rows
from cvft.jsonl import read_jsonl
from tests.project import cvft_ok, make_project
from tests.real_clips import real_clip

ODD = (
    "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e \r \r\n \x00 \x1b[31m \u202e \ufeff \ufffe \U0001f600 e\u0301 \\ "
    "$x_1$ <b>&amp;\"'</b> |`"
)
"""Line ends of all kinds, what terminals and pages take for orders, and letters of two forms."""


def odd_rows():
    clip = [str(real_clip("bikes.mp4"))]
    extra = {"big": 10**400, "small": 1e-300, "": "no name", ODD: ODD, "nested": [[[[{"a": None}]]]], "query ": 1}
    return [
        {"query": f"What {ODD} is shown?", "response": f"a {ODD} man", "videos": clip, "category": ODD, **extra},
        {"query": "How many?", "response": 3, "videos": clip, "category": 3},
        {"query": "How many exactly?", "response": 1.5, "videos": clip, "category": "3"},
        {"query": "Is it?", "response": True, "videos": clip, "family": True, "prediction": "mine", "is_cut": [1]},
        {"query": "q" * 400, "response": "\x85x", "history": [[f"a{ODD}", 2], ["b", ODD]], "category": None, "id": 7},
        {"query": "Say yes.", "response": "\ufeff", "videos": [], "category": " ", "score": {"a": [1, "b", None]}},
    ]


def test_a_whole_job_on_odd_rows(tmp_path):
    rows = odd_rows()
    # the first texts are dates and without a clip: types guessed from them would be wrong
    dates = [{"query": "2020-01-01", "response": "2020-01-01 10:00:00"}] * 3
    recipe = make_project(
        tmp_path,
        rows=[*dates, *rows],
        val_rows=rows,
        train={"max_steps": 2, "save_steps": 2, "num_workers": 1},
        eval={"compare_base": False, "max_new_tokens": 4},
    )
    said = cvft_ok("run", recipe)
    run = tmp_path / "runs" / "small"
    wanted = read_rows(tmp_path / "val.jsonl")
    assert [row.to_json() for row in read_rows(run / "data" / "val.jsonl")] == [row.to_json() for row in wanted]
    messages = read_jsonl(run / "data" / "swift" / "train.jsonl")
    assert [line["messages"][-1]["content"] for line in messages] == [
        row.response for row in read_rows(tmp_path / "train.jsonl")
    ]
    predictions = read_jsonl(run / "eval" / "merged" / "predictions.jsonl")
    assert [line["query"] for line in predictions] == [row.query for row in wanted]
    assert [line["response"] for line in predictions] == [f"a {ODD} man", "3", "1.5", "true", "\x85x", "\ufeff"]
    assert predictions[0][ODD] == ODD
    assert predictions[0]["big"] == 10**400
    metrics = json.loads((run / "eval" / "merged" / "metrics.json").read_text())["metrics"]
    assert metrics["categories"].keys() == {category_of(row) for row in wanted} - {None} == {ODD, "3", "true"}
    assert (run / "report.html").is_file()
    assert ODD not in said.stdout
    assert "\x1b[31m" not in said.stdout + said.stderr
