"""Two models on the same rows: what differs, whether it is chance, and refusals; the command on evaluations that are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cvft.cli.main import main
from cvft.errors import CvftError
from cvft.evaluate.compare import clips_of, compare_predictions
from cvft.evaluate.metrics import compute_metrics
from cvft.runs import RunFolder

NUM_CLIPS, NUM_ROWS = 12, 48


def lines(*, wrong: set[int] = frozenset(), num_clips: int = NUM_CLIPS) -> list[dict[str, Any]]:  # type: ignore[assignment]
    return [
        {
            "query": f"What is shown at {index}?",
            "response": "red",
            "videos": [f"/clips/{index % num_clips}.mp4"],
            "category": "colour" if index % 2 else "thing",
            "prediction": "blue" if index in wrong else "red",
            "is_exact_match": index not in wrong,
        }
        for index in range(NUM_ROWS)
    ]


def write_evaluation(run: Path, *, model: str, predictions: list[dict[str, Any]]) -> None:
    folder = RunFolder(run).evaluation(model)
    folder.mkdir(parents=True)
    metrics = compute_metrics(
        [line["prediction"] for line in predictions],
        expected=[line["response"] for line in predictions],
        categories=[line["category"] for line in predictions],
        clips=[line["videos"][0] for line in predictions],
    )
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in predictions))
    (folder / "metrics.json").write_text(json.dumps({"settings": {}, "metrics": metrics}))


def test_rows_won_and_lost_and_categories() -> None:
    found = compare_predictions(lines(wrong=set(range(0, 48, 2)) | {1}), lines(wrong={3}))
    assert (found.num_gained, found.num_lost) == (25, 1)
    assert found.overall is not None
    assert found.overall.mean == pytest.approx(24 / 48)
    assert found.overall.num_clips == NUM_CLIPS
    # 6 clips have the even rows and 6 the odd ones: too few in each category
    assert found.categories == {"colour": None, "thing": None}
    assert json.loads(json.dumps(found.to_dict()))["num_gained"] == 25


def test_categories_are_those_of_the_metrics() -> None:
    """Numbers are taken as text there; beside text they could not even be put in order."""
    rows = [{**line, "category": index % 2 or "thing"} for index, line in enumerate(lines())]
    assert set(compare_predictions(rows, rows).categories) == {"1", "thing"}


def test_few_clips_are_said_and_not_guessed() -> None:
    assert compare_predictions(lines(num_clips=9), lines(num_clips=9)).overall is None


def test_rows_that_share_any_file_are_drawn_together() -> None:
    files: list[list[Any]] = [["a.mp4", "b.mp4"], ["c.mp4"], [], ["b.mp4"], [["1.jpg", "2.jpg"]], ["c.mp4", "d.mp4"]]
    assert clips_of([{"videos": videos, "start": 0} for videos in files]) == [
        "a.mp4",
        "c.mp4",
        2,
        "a.mp4",
        "1.jpg",
        "c.mp4",
    ]
    assert clips_of([{"images": ["a.jpg"]}, {"query": "What?"}]) == ["a.jpg", 1]


@pytest.mark.parametrize(
    ("column", "value", "shown"),
    [
        ("query", "other", "other"),
        ("response", "other", "other"),
        ("videos", ["/clips/other.mp4"], "other"),
        ("start", 4.5, "4.5"),
    ],
)
def test_other_rows_are_refused_with_what_differs(column: str, value: Any, shown: str) -> None:
    other = lines()
    other[7][column] = value
    with pytest.raises(CvftError, match=rf"row 8 `{column}`.*{shown}"):
        compare_predictions(lines(), other)
    with pytest.raises(CvftError, match="48 and 47"):
        compare_predictions(lines(), lines()[:-1])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_evaluation(first, model="base", predictions=lines(wrong=set(range(24))))
    write_evaluation(first, model="adapter", predictions=lines(wrong={0}))
    write_evaluation(second, model="merged", predictions=lines())
    page = tmp_path / "page.html"
    assert main(["compare", f"{first}:base", str(first), str(second), "--page", str(page)]) == 0
    said = capsys.readouterr().out
    assert "50.0 %" in said
    assert f"{second} against {first}:base: +50.0 points of exact match, 95 % from" in said
    assert "24 rows won, 0 lost" in said
    assert "colour" in said
    assert "+50.0 points" in page.read_text()


def test_what_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    write_evaluation(run, model="base", predictions=lines())
    assert main(["compare", str(run), f"{run}:base", f"{tmp_path}/none"]) == 2
    said = capsys.readouterr().err
    assert said.count("no evaluation") == 2
    assert "evaluated there: base" in said
    assert "run `cvft eval" in said
    assert main(["compare", f"{run}:base"]) == 2
    assert "two evaluations or more" in capsys.readouterr().err
