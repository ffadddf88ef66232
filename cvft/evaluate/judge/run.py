"""`cvft judge`: stored answers graded by another model.

evaluations -> cases -> what it is going to cost -> calls for cases without a reply -> scores beside the predictions
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cvft.errors import quote
from cvft.evaluate.judge.asking import Manner, ask_about, needs_call
from cvft.evaluate.judge.cases import Case, Cost, Judge, count_cost, make_cases
from cvft.evaluate.judge.endpoint import check_url, read_key
from cvft.evaluate.judge.results import Judged, write_judged
from cvft.evaluate.judge.rubrics import RUBRICS, Rubric
from cvft.evaluate.judge.store import Reply, open_store, read_replies
from cvft.evaluate.run import Evaluation
from cvft.evaluate.stored import find_evaluations

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Part:
    """The cases of one evaluation by one rubric."""

    name: str
    evaluation: Evaluation
    rubric: Rubric
    cases: Sequence[Case]

    @property
    def root(self) -> Path:
        """The folder that holds the run: RUN/eval/<model> is the evaluation's."""
        return self.evaluation.folder.parent.parent.parent


def estimate_cost(names: Sequence[str], *, rubrics: Sequence[str], judge: Judge, url: str, num_tries: int) -> Cost:
    """Counts what `judge_evaluations` would cost; asks nobody and writes nothing.

    Args:
        names: As of `judge_evaluations`.
        rubrics: As of `judge_evaluations`.
        judge: As of `judge_evaluations`.
        url: As of `judge_evaluations`.
        num_tries: Most calls for one case.

    Raises:
        CvftError: when the address or the key cannot be used.
        RunError: when there is no such evaluation.
        DataError: when rows cannot be graded so.
    """
    check_url(url)
    read_key()
    parts = _find_parts(names, rubrics=rubrics, judge=judge)
    replies = {root: read_replies(root) for root in {part.root for part in parts}}
    return _plan_calls(parts, replies, num_tries=num_tries)[1]


def judge_evaluations(
    names: Sequence[str], *, rubrics: Sequence[str], judge: Judge, url: str, manner: Manner
) -> dict[str, list[Judged]]:
    """Asks a judge about stored answers and writes its scores beside them. A case that has a score is not asked about again.

    Args:
        names: Evaluations; see `find_evaluation`.
        rubrics: Names of `RUBRICS`.
        judge: Who is asked.
        url: Address of an OpenAI-compatible endpoint, up to and with `/v1`.
        manner: How calls are made.

    Returns:
        Name -> what the judge said, in the order of the rubrics.

    Raises:
        CvftError: when the address or the key cannot be used.
        RunError: when there is no such evaluation, or when the endpoint is not there or refuses every call. What was said
            before is kept, and not asked for again.
        DataError: when rows cannot be graded so.
        LockHeldError: when another process asks a judge for runs of the same folder.
    """
    url, key = check_url(url), read_key()
    parts = _find_parts(names, rubrics=rubrics, judge=judge)
    with ExitStack() as stack:
        stores = {root: stack.enter_context(open_store(root)) for root in sorted({part.root for part in parts})}
        replies = {root: store.replies for root, store in stores.items()}
        asked, cost = _plan_calls(parts, replies, num_tries=manner.num_tries)
        LOG.info("cost      %s", cost)
        has_replied = any(case.key in replies[part.root] for part in parts for case in part.cases)
        without = (
            ask_about(
                [(stores[root], case) for root, case in asked],
                judge=judge,
                url=url,
                key=key,
                manner=manner,
                has_replied=has_replied,
            )
            if asked
            else {}
        )
        judged: dict[str, list[Judged]] = {name: [] for name in names}
        for part in parts:
            said = write_judged(
                part.evaluation,
                cases=part.cases,
                replies=replies[part.root],
                without=without,
                judge=judge,
                rubric=part.rubric,
            )
            judged[part.name].append(said)
    return judged


def _find_parts(names: Sequence[str], *, rubrics: Sequence[str], judge: Judge) -> list[_Part]:
    evaluations = find_evaluations(names, subject="cvft judge")
    parts = []
    for name, evaluation in evaluations.items():
        lines = evaluation.read_predictions()
        for rubric in (RUBRICS[each] for each in dict.fromkeys(rubrics)):
            subject = f"evaluation {quote(name)} by `{rubric.name}`"
            cases = make_cases(lines, rubric=rubric, judge=judge, subject=subject)
            parts.append(_Part(name, evaluation, rubric, cases))
    return parts


def _plan_calls(
    parts: Sequence[_Part], replies: Mapping[Path, Mapping[str, Sequence[Reply]]], *, num_tries: int
) -> tuple[list[tuple[Path, Case]], Cost]:
    """Decides which cases are asked about, each once."""
    cases = {(part.root, case.key): case for part in parts for case in part.cases}
    asked = [
        (root, case)
        for (root, key), case in cases.items()
        if needs_call(replies[root].get(key, ()), case, num_tries=num_tries)
    ]
    return asked, count_cost([case for _, case in asked], num_cached=len(cases) - len(asked))
