"""Stored predictions and rubrics -> cases: the rows that are graded together, and the request that asks for it.

The key of a case is the hash of the whole request: question, reference, prediction, prompt, model and temperature. Two rows with
the same content are one call, in whichever evaluation they stand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cvft.data.clip_columns import clip_columns_of
from cvft.errors import DataError, Problem, quote
from cvft.evaluate.judge.rubrics import Rubric

PAIR_COLUMN = "pair"
"""Column of rows with the name of their pair, for rubrics that grade two answers together."""

CHARS_PER_TOKEN = 4
"""Characters of English per token, about. Source: OpenAI's own rule of thumb for its tokenizers. Other scripts: one."""


@dataclass(frozen=True)
class Judge:
    """Who is asked, and how.

    Args:
        model: Its name at the endpoint.
        temperature: Of its answers; None leaves it to the endpoint, for models that allow none.
        fields: What every request has besides.
    """

    model: str
    temperature: float | None = 0.0
    fields: Mapping[str, Any] | None = None

    def settings(self, rubric: Rubric) -> dict[str, Any]:
        """States what decides the replies of a rubric, beyond the rows."""
        return {
            "judge": self.model,
            "temperature": self.temperature,
            "fields": dict(self.fields or {}),
            "rubric": rubric.name,
            "prompt_sha256": rubric.prompt_sha256,
        }

    def request(self, rubric: Rubric, content: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the request that grades one case."""
        stated = {} if self.temperature is None else {"temperature": self.temperature}
        messages = [
            {"role": "system", "content": rubric.prompt},
            {"role": "user", "content": json.dumps(content, ensure_ascii=False)},
        ]
        return {"model": self.model, "messages": messages, **stated, **(self.fields or {})}


@dataclass(frozen=True)
class Case:
    """What one call grades.

    Args:
        rows: Numbers of the rows, from 0: one, or two of a pair.
        rubric: How it is graded.
        request: Body of the request.
        key: Identifies the request.
    """

    rows: tuple[int, ...]
    rubric: Rubric
    request: Mapping[str, Any]
    key: str


def make_cases(lines: Sequence[Mapping[str, Any]], *, rubric: Rubric, judge: Judge, subject: str) -> list[Case]:
    """Makes the cases of one rubric.

    Args:
        lines: Predictions, as an evaluation keeps them.
        rubric: The rubric.
        judge: Who is asked.
        subject: The evaluation, for messages.

    Raises:
        DataError: when a rubric grades pairs and there are none, or they are not plain.
    """
    contents: list[tuple[tuple[int, ...], dict[str, Any]]]
    if not rubric.is_paired:
        contents = [((number,), _content(line)) for number, line in enumerate(lines)]
    else:
        pairs = find_pairs(lines, subject=subject)
        contents = [(pair, _pair_content([lines[number] for number in pair])) for pair in pairs]
    cases = []
    for rows, content in contents:
        request = judge.request(rubric, content)
        text = json.dumps(request, sort_keys=True, ensure_ascii=True)
        cases.append(Case(rows, rubric, request, hashlib.sha256(text.encode()).hexdigest()))
    return cases


def find_pairs(lines: Sequence[Mapping[str, Any]], *, subject: str) -> list[tuple[int, int]]:
    """Finds the rows that ask for one answer in two ways: by their column `pair`, else by clip and right answer.

    The order of rows decides nothing but which question of a pair comes first.

    Raises:
        DataError: with every pair that is none, or when there is no pair at all.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, line in enumerate(lines):
        named = line.get(PAIR_COLUMN)
        clip, response = json.dumps(clip_columns_of(line)), line["response"]
        key = ("named", json.dumps(named)) if named is not None else ("alike", clip, response)
        groups.setdefault(key, []).append(number)
    problems = []
    for key, rows in groups.items():
        where = f"rows {', '.join(str(number + 1) for number in rows[:4])}"
        if key[0] == "named":
            if len(rows) != 2:
                got = f"{len(rows)} rows with the `{PAIR_COLUMN}` {quote(key[1])}"
                problems.append(Problem(where, got, "two rows of each pair"))
            elif len({lines[number]["response"] for number in rows}) > 1:
                got = f"two right answers in the `{PAIR_COLUMN}` {quote(key[1])}"
                problems.append(Problem(where, got, "the same `response` in both"))
        elif len(rows) > 2:
            hint = f"name the pairs in a column `{PAIR_COLUMN}`"
            problems.append(Problem(where, f"{len(rows)} rows of one clip and one answer", "two", hint))
    pairs = [(rows[0], rows[1]) for rows in groups.values() if len(rows) == 2]
    if not problems and not pairs:
        need = "rows that ask for one answer in two ways"
        hint = f"two rows of one clip with the same `response`, or with the same name in a column `{PAIR_COLUMN}`"
        problems.append(Problem("rows", "no pair among them", need, hint))
    if problems:
        raise DataError(subject, problems)
    return pairs


@dataclass(frozen=True)
class Cost:
    """What judging is going to cost.

    Args:
        num_calls: Calls that have to be made: one for each case without a reply, more where a reply cannot be read.
        num_cached: Cases that have their replies already.
        num_characters: Of all requests that have to be made.
        num_tokens: The same in tokens, about; replies come on top.
    """

    num_calls: int
    num_cached: int
    num_characters: int
    num_tokens: int

    def __str__(self) -> str:
        return (
            f"{self.num_calls:,} calls, {self.num_characters:,} characters of requests, about {self.num_tokens:,} tokens; "
            f"replies come on top. {self.num_cached:,} cases have their replies already"
        )


def count_cost(asked: Sequence[Case], *, num_cached: int) -> Cost:
    """Counts what calls are going to cost.

    Args:
        asked: Cases to ask about, each key once.
        num_cached: Cases that need no call.
    """
    texts = [message["content"] for case in asked for message in case.request["messages"]]
    num_plain = sum(len(text.encode("ascii", errors="ignore")) for text in texts)
    num_characters = sum(map(len, texts))
    num_tokens = -(-num_plain // CHARS_PER_TOKEN) + num_characters - num_plain
    return Cost(len(asked), num_cached, num_characters, num_tokens)


def _content(line: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_asked(line),
        "reference_answer": line["response"],
        "predicted_answer": line["prediction"],
    }


def _pair_content(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    questions = [{**_asked(line), "predicted_answer": line["prediction"]} for line in lines]
    return {"questions": questions, "reference_answer": lines[0]["response"]}


def _asked(line: Mapping[str, Any]) -> dict[str, Any]:
    turns = [{"question": question, "answer": answer} for question, answer in line.get("history") or []]
    return {**({"earlier_turns": turns} if turns else {}), "question": line["query"]}
