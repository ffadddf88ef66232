"""Asks a judge about many cases: some calls at a time, no faster than allowed, again where there was no reply.

cases + endpoint + store -> a reply in the store that can be read, or the reason why a case has none
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from cvft.errors import Problem, RunError
from cvft.evaluate.judge.cases import Case, Judge
from cvft.evaluate.judge.endpoint import DeclinedError, Endpoint, NoReplyError
from cvft.evaluate.judge.reply import Judgement, UnreadableError, read_reply
from cvft.evaluate.judge.store import Reply, ReplyStore

FIRST_WAIT_S = 1.0
"""Before a call is made again; twice as long before the next time, up to `LONGEST_WAIT_S`."""

LONGEST_WAIT_S = 60.0

MAX_FAILED = 5
"""Cases in a row without a reply after which the endpoint is taken for dead."""


@dataclass(frozen=True)
class Manner:
    """How calls are made.

    Args:
        num_workers: Calls at a time.
        per_minute: Most calls that start in a minute; None for no limit.
        num_tries: Most calls for one case, those of earlier times whose replies could not be read among them.
        timeout_s: Seconds that a call may take.
        first_wait_s: Before a call is made again.
    """

    num_workers: int = 4
    per_minute: float | None = None
    num_tries: int = 5
    timeout_s: float = 120.0
    first_wait_s: float = FIRST_WAIT_S


class Pace:
    """Says when the next call may start: no more than so many a minute, and none while the endpoint asks to wait."""

    def __init__(self, per_minute: float | None) -> None:
        self._apart_s = 60.0 / per_minute if per_minute else 0.0
        self._next_s = 0.0
        self._paused_until_s = 0.0

    async def turn(self) -> None:
        """Waits until a call may start."""
        loop = asyncio.get_running_loop()
        start_s = max(loop.time(), self._next_s)
        self._next_s = start_s + self._apart_s
        while (rest_s := max(start_s, self._paused_until_s) - loop.time()) > 0:
            await asyncio.sleep(rest_s)

    def pause(self, seconds: float) -> None:
        """Lets nobody start for a time."""
        self._paused_until_s = max(self._paused_until_s, asyncio.get_running_loop().time() + seconds)


def judgement_of(replies: Sequence[Reply], case: Case) -> Judgement | str:
    """Returns what the first reply says that can be read, or why the last one cannot; for none, an empty text."""
    reason = ""
    for reply in replies:
        if reply.finish_reason == "length":
            reason = "cut at the longest reply that the endpoint gives"
            continue
        try:
            return read_reply(reply.text, has_verdict=case.rubric.has_verdict)
        except UnreadableError as error:
            reason = str(error)
    return reason


def needs_call(replies: Sequence[Reply], case: Case, *, num_tries: int) -> bool:
    """Tells whether a case with these replies has no score yet, and tries left."""
    return len(replies) < num_tries and isinstance(judgement_of(replies, case), str)


def ask_about(
    asked: Sequence[tuple[ReplyStore, Case]],
    *,
    judge: Judge,
    url: str,
    key: str | None,
    manner: Manner,
    has_replied: bool = False,
) -> Mapping[str, str]:
    """Asks about cases, each key once, and keeps every reply in its store.

    Args:
        asked: The cases, each with its store.
        judge: Who is asked.
        url: The endpoint's address.
        key: The key to it, or None.
        manner: How calls are made.
        has_replied: Whether this judge has replied at an earlier time: then a request that it declines says nothing about
            the others.

    Returns:
        Keys of the cases that were left without any further reply, with the reason.

    Raises:
        RunError: when the endpoint is not there, or takes no call at all. Replies that came before are kept.
    """

    async def ask_all() -> Mapping[str, str]:
        asking = _Asking(judge, manner, total=len(asked), has_replied=has_replied)
        with asking.bar:
            async with Endpoint(url, key=key, timeout_s=manner.timeout_s) as endpoint:
                queue = iter(asked)
                try:
                    async with asyncio.TaskGroup() as group:
                        for _ in range(min(manner.num_workers, len(asked))):
                            group.create_task(asking.work(queue, endpoint))
                except ExceptionGroup as errors:
                    raise errors.exceptions[0] from None
        return asking.without

    return asyncio.run(ask_all())


class _Asking:
    """The state that workers share."""

    def __init__(self, judge: Judge, manner: Manner, *, total: int, has_replied: bool) -> None:
        self.judge = judge
        self.manner = manner
        self.pace = Pace(manner.per_minute)
        self.without: dict[str, str] = {}
        self.num_failed = 0
        self.has_replied = has_replied
        self.bar = tqdm(total=total, desc="judging", unit="case", file=sys.stderr, dynamic_ncols=True)

    async def work(self, queue: Iterator[tuple[ReplyStore, Case]], endpoint: Endpoint) -> None:
        for store, case in queue:
            reason = await self._ask(store, case, endpoint)
            if reason:
                self.without[case.key] = reason
            self.bar.update()

    async def _ask(self, store: ReplyStore, case: Case, endpoint: Endpoint) -> str:
        reason = ""
        for number in range(len(store.find(case.key)), self.manner.num_tries):
            await self.pace.turn()
            try:
                reply = await endpoint.ask(case.request)
            except DeclinedError as error:
                if not self.has_replied:
                    self._count_failed(str(error))
                return str(error)
            except NoReplyError as error:
                reason = str(error)
                if error.pause_s is not None:
                    self.pace.pause(error.pause_s)
                elif number + 1 < self.manner.num_tries:
                    await asyncio.sleep(min(self.manner.first_wait_s * 2**number, LONGEST_WAIT_S))
                continue
            store.add(case, reply, judge=self.judge)
            self.num_failed, self.has_replied, reason = 0, True, ""
            if isinstance(judgement_of([reply], case), Judgement):
                return ""
        if reason:
            self._count_failed(reason)
        return reason

    def _count_failed(self, reason: str) -> None:
        self.num_failed += 1
        if self.num_failed >= MAX_FAILED:
            got = f"no reply for {self.num_failed} cases in a row, the last time: {reason}"
            hint = "the replies that came are kept: run the same command again when it answers"
            raise RunError("the judge", [Problem("endpoint", got, "one that replies", hint)])
