"""The engine's thread, step by step: who joins when, who leaves when, and what a failure costs."""

import asyncio
import queue
from collections.abc import Callable, Iterator

import pytest

from cvft.families.answering import Drawing
from cvft.predict.infer import make_question
from cvft.predict.open import open_trained
from cvft.predict.predictor import Predictor
from cvft.serve.engine import Asked, Engine, Said
from cvft.serve.metrics import Metrics
from tests.tiny import make_endless

ENDLESS = 1000
"""Tokens of an answer that somebody has to end."""


@pytest.fixture(scope="module")
def predictor(tmp_path_factory) -> Iterator[Predictor]:
    opened = open_trained(make_endless(tmp_path_factory.mktemp("model")))
    yield opened
    opened.close()


class Stepped:
    """An engine whose steps are watched.

    Args:
        predictor: What answers.
        batch_rows: As of `Engine`.
    """

    def __init__(self, predictor: Predictor, *, batch_rows: int) -> None:
        ready: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self.predictor = predictor
        self.metrics = Metrics()
        self.engine = Engine(
            lambda: {"it": predictor}, batch_rows=batch_rows, prefix_bytes=0, metrics=self.metrics, on_ready=ready.put
        )
        self.engine.start()
        assert ready.get() is None
        self.steps: list[set[Asked]] = []
        """Who got a token at each step."""
        self.joined: list[list[Asked]] = []
        self.at_step: dict[int, Callable[[], object]] = {}
        """What happens in the engine's thread while a step is computed, by its number."""
        self.after_step: dict[int, Callable[[], object]] = {}
        """What happens there when it has been handed on."""
        self._watch()

    def _watch(self) -> None:
        model = self.engine._running["it"]
        step, join, tell = model.batch.step, self.engine._join, self.engine._tell

        def watched_step():
            self.steps.append({choice.asked for choice in model.running.values()})
            self.at_step.get(len(self.steps), lambda: None)()
            return step()

        def watched_tell():
            tell()
            self.after_step.pop(len(self.steps), lambda: None)()

        def watched_join(model, joining):
            self.joined.append(joining)
            join(model, joining)

        model.batch.step, self.engine._join, self.engine._tell = watched_step, watched_join, watched_tell

    def ask(self, query: str = "What?", *, max_new_tokens: int = ENDLESS, **more) -> Asked:
        prompt = self.predictor.prepare(make_question(None, query), max_new_tokens=max_new_tokens)
        return Asked("it", prompt, **more)


async def hear(asked: Asked) -> list[tuple[int, str | Said]]:
    return [event async for event in asked.listen()]


def test_a_request_joins_at_the_next_step_and_one_that_is_gone_has_left_it(predictor):
    async def play() -> None:
        stepped = Stepped(predictor, batch_rows=2)
        first, second, third = (stepped.ask(query) for query in ("One?", "Is it two of them?", "Three, or more?"))
        fourth = stepped.ask("And four?", max_new_tokens=4)
        stepped.at_step = {
            3: lambda: stepped.engine.put(second),
            5: lambda: stepped.engine.put(third),  # there is no place
            10: third.cancel,
            12: lambda: stepped.engine.put(fourth),
            20: second.cancel,
        }
        stepped.after_step = {7: first.cancel}
        stepped.engine.put(first)
        await asyncio.gather(*map(hear, (first, second, third, fourth)))
        running = [{first}] * 3 + [{first, second}] * 4 + [{second, third}] * 3 + [{second}] * 2
        assert stepped.steps == running + [{second, fourth}] * 3 + [{second}] * 5
        # one token with joining, and one at each step
        num_tokens = [asked.choices[0].num_tokens for asked in (first, second, third, fourth)]
        assert num_tokens == [1 + 7, 1 + 17, 1 + 3, 4]
        text = stepped.metrics.text().decode()
        assert 'request_success_total{finished_reason="abort"} 3.0' in text
        assert 'request_success_total{finished_reason="length"} 1.0' in text
        stepped.engine.close()

    asyncio.run(play())


def test_choices_join_together_and_end_by_themselves(predictor):
    async def play() -> None:
        stepped = Stepped(predictor, batch_rows=3)
        drawings = [Drawing(1.5, 1.0, seed) for seed in (1, 2)]
        both = stepped.ask("Two?", max_new_tokens=30, drawings=drawings, in_pieces=False)
        before, behind = stepped.ask(max_new_tokens=5), stepped.ask(max_new_tokens=2)
        beside = stepped.ask(max_new_tokens=7)
        stepped.at_step = {1: lambda: [stepped.engine.put(asked) for asked in (beside, both, behind)]}
        stepped.engine.put(before)
        told = await asyncio.gather(*map(hear, (before, beside, both, behind)))
        # one place is free beside the first two, and whoever comes later does not overtake
        assert stepped.joined == [[before], [beside], [both], [behind]]
        texts = {number: text for number, text in told[2] if isinstance(text, str)}
        assert len(told[2]) == 4
        for number, drawing in enumerate(drawings):
            alone = stepped.ask("Two?", max_new_tokens=30, drawings=[drawing])
            stepped.engine.put(alone)
            heard = await hear(alone)
            assert "".join(text for _, text in heard[:-1]) == texts[number]
        assert len(set(texts.values())) == 2
        stepped.engine.close()

    asyncio.run(play())


def test_a_question_that_fails_costs_no_other_and_a_step_that_fails_costs_those_that_run(predictor, caplog):
    async def play() -> None:
        stepped = Stepped(predictor, batch_rows=3)
        alone = stepped.ask(max_new_tokens=12)
        stepped.engine.put(alone)
        expected = await hear(alone)
        good, bad = stepped.ask(max_new_tokens=12), stepped.ask("Bad?")
        bad.prompt.tensors["input_ids"].fill_(10**6)
        stepped.at_step = {len(stepped.steps) + 3: lambda: stepped.engine.put(bad)}
        stepped.engine.put(good)
        heard, failed = await asyncio.gather(hear(good), hear(bad), return_exceptions=True)
        assert (heard, type(failed)) == (expected, IndexError)
        assert "a batch of 1 requests could not be answered" in caplog.text
        head, model = predictor.model.lm_head, predictor.model
        lost = [stepped.ask(), stepped.ask("Lost?", drawings=[None, None])]
        stepped.at_step = {len(stepped.steps) + 3: lambda: setattr(model, "lm_head", None)}
        for asked in lost:
            stepped.engine.put(asked)
        failures = await asyncio.gather(*map(hear, lost), return_exceptions=True)
        assert list(map(type, failures)) == [TypeError] * 2
        assert "a batch of 2 requests could not be answered" in caplog.text
        model.lm_head = head
        again = stepped.ask(max_new_tokens=12)
        stepped.engine.put(again)
        assert await hear(again) == expected
        stepped.engine.close()

    asyncio.run(play())


def test_what_still_runs_ends_with_the_engine(predictor):
    async def play() -> None:
        stepped = Stepped(predictor, batch_rows=1)
        running = stepped.ask()
        closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stepped.at_step = {5: lambda: closing.get_loop().call_soon_threadsafe(closing.set_result, None)}
        stepped.engine.put(running)
        await closing
        await asyncio.to_thread(stepped.engine.close)
        *_, (_, said) = await hear(running)
        assert isinstance(said, Said)
        assert 5 < said.num_tokens < ENDLESS

    asyncio.run(play())
