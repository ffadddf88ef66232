"""What a judge said of one evaluation: scores per case and their summary, in the evaluation's folder, and how two compare.

RUN/eval/<model>/judged/<rubric>-<digest>.jsonl   a line per case: score or why there is none, every reply word for word
RUN/eval/<model>/judged/<rubric>-<digest>.json    settings and summary; written last
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cvft.errors import Problem, RunError
from cvft.evaluate.compare import clips_of
from cvft.evaluate.judge.asking import judgement_of
from cvft.evaluate.judge.cases import Case, Judge
from cvft.evaluate.judge.reply import Judgement
from cvft.evaluate.judge.rubrics import HIGHEST, Rubric
from cvft.evaluate.judge.store import Reply
from cvft.evaluate.run import Evaluation
from cvft.evaluate.uncertainty import Difference, compare, interval, share_interval
from cvft.files import hash_file, write_whole
from cvft.json_files import OBJECT, JsonError, check_object, read_object
from cvft.jsonl import read_jsonl, to_jsonl
from cvft.runs import PREDICTIONS_FILE

FOLDER = "judged"

NUM_DIGEST_DIGITS = 8

_SHAPE = {"settings": OBJECT, "summary": OBJECT}


@dataclass(frozen=True)
class Judged:
    """One evaluation, graded by one judge with one rubric.

    Args:
        settings: Who was asked, how and what; equal ones can be compared.
        summary: Means over the cases that have a score, and how many have none.
        lines: A line per case.
        is_stale: Whether the predictions were replaced since.
    """

    settings: Mapping[str, Any]
    summary: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    is_stale: bool = False


def write_judged(
    evaluation: Evaluation,
    *,
    cases: Sequence[Case],
    replies: Mapping[str, Sequence[Reply]],
    without: Mapping[str, str],
    judge: Judge,
    rubric: Rubric,
) -> Judged:
    """Writes what a judge said beside the predictions, in place of what it said before.

    Args:
        evaluation: The evaluation.
        cases: Its cases.
        replies: Key -> replies that there are.
        without: Key -> why there is no further reply.
        judge: Who was asked.
        rubric: How it graded.
    """
    predictions = evaluation.read_predictions()
    settings = judge.settings(rubric)
    lines = []
    for case in cases:
        said = replies.get(case.key, ())
        found = judgement_of(said, case)
        stated: dict[str, Any] = (
            {"score": found.score, "verdict": found.verdict}
            if isinstance(found, Judgement)
            else {"score": None, "verdict": None}
        )
        if isinstance(found, str):
            stated["why_missing"] = without.get(case.key) or found
            stated["has_reply"] = bool(said) and case.key not in without
        lines.append(
            {
                "lines": [number + 1 for number in case.rows],
                **stated,
                "key": case.key,
                **settings,
                "replies": [asdict(reply) for reply in said],
            }
        )
    clips = clips_of(predictions)
    summary = summarize(lines, clips=[clips[case.rows[0]] for case in cases], num_rows=len(predictions))
    stem = evaluation.folder / FOLDER / _name(settings)
    sha256 = hash_file(evaluation.folder / PREDICTIONS_FILE)
    stem.with_suffix(".json").unlink(missing_ok=True)  # without it, scores are none
    write_whole(stem.with_suffix(".jsonl"), to_jsonl(lines))
    text = json.dumps({"settings": settings, "predictions_sha256": sha256, "summary": summary}, indent=2)
    write_whole(stem.with_suffix(".json"), text + "\n")
    return Judged(settings, summary, lines)


def read_judged(evaluation: Evaluation) -> list[Judged]:
    """Reads what judges said of an evaluation, in order of the files' names.

    Raises:
        RunError: when a file is not what `write_judged` wrote.
    """
    paths = sorted((evaluation.folder / FOLDER).glob("*.json"))
    sha256 = hash_file(evaluation.folder / PREDICTIONS_FILE) if paths else ""
    return [_read(path, sha256=sha256) for path in paths]


def _read(path: Path, *, sha256: str) -> Judged:
    subject, hint = f"scores of a judge {path}", "move it away and judge again: cvft judge"
    try:
        stored = read_object(path)
        problems = check_object(stored, _SHAPE, where=path.name, hint=hint)
        lines = read_jsonl(path.with_suffix(".jsonl")) if not problems else []
    except (JsonError, OSError) as error:
        problems = [Problem(path.name, str(error), "what a judging wrote", hint)]
    if problems:
        raise RunError(subject, problems)
    return Judged(stored["settings"], stored["summary"], lines, stored.get("predictions_sha256") != sha256)


def summarize(lines: Sequence[Mapping[str, Any]], *, clips: Sequence[str | int], num_rows: int) -> dict[str, Any]:
    """Sums up the scores of one rubric.

    Args:
        lines: A line per case.
        clips: The clip of each case.
        num_rows: Rows of the evaluation; of a rubric for pairs, some may be in none.

    Returns:
        Counts; the mean score of those that have one, with its interval, and the mean with every missing score as 0. The same
        for the share of `yes`, where that was asked. Without any score the means are None.
    """
    has = [index for index, line in enumerate(lines) if line["score"] is not None]
    scores = [float(lines[index]["score"]) for index in has]
    own = [clips[index] for index in has]
    num_missing = len(lines) - len(has)
    ends = interval(scores, clips=own) if scores else None
    result: dict[str, Any] = {
        "num_rows": num_rows,
        "num_cases": len(lines),
        "num_missing": num_missing,
        "num_without_reply": sum(line.get("has_reply") is False for line in lines),
        "share_missing": num_missing / len(lines) if lines else None,
        "mean_score": sum(scores) / len(has) if has else None,
        "mean_score_missing_as_0": sum(scores) / len(lines) if has else None,
        "interval_95": None if ends is None else [max(0.0, ends[0]), min(float(HIGHEST), ends[1])],
    }
    if any("verdict" in line and line["verdict"] is not None for line in lines):
        said = [float(lines[index]["verdict"] == "yes") for index in has]
        yes = share_interval(said, clips=own)
        result |= {
            "share_yes": sum(said) / len(said),
            "share_yes_missing_as_no": sum(said) / len(lines),
            "share_yes_interval_95": None if yes is None else list(yes),
        }
    return result


def compare_judged(
    first: Judged, second: Judged, *, predictions: Sequence[Mapping[str, Any]]
) -> tuple[Difference | None, int]:
    """Compares the scores of two evaluations of the same rows by the same judge, second less first.

    Args:
        first: The first.
        second: The second.
        predictions: Lines of either evaluation.

    Returns:
        The difference over the cases that have a score on both sides, or None for too few clips; and the number of the others.
    """
    scores = [{tuple(line["lines"]): line["score"] for line in judged.lines} for judged in (first, second)]
    shared = [rows for rows, score in scores[0].items() if score is not None and scores[1].get(rows) is not None]
    clips = clips_of(predictions)
    difference = compare(
        *([float(each[rows]) for rows in shared] for each in scores), clips=[clips[rows[0] - 1] for rows in shared]
    )
    return difference, len(scores[0].keys() | scores[1].keys()) - len(shared)


def _name(settings: Mapping[str, Any]) -> str:
    text = json.dumps(dict(settings), sort_keys=True)
    return f"{settings['rubric']}-{hashlib.sha256(text.encode()).hexdigest()[:NUM_DIGEST_DIGITS]}"
