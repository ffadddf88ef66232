"""The body of `/v1/chat/completions`, read strictly: what is not carried out is refused by its name.

bytes -> JSON object -> fields (known, of the right kind, with an effect) -> `messages` -> `ChatRequest`: question, turns, clip
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cvft.errors import did_you_mean, quote
from cvft.families.answering import Drawing
from cvft.serve.errors import ApiError, is_number, kind_of, refused
from cvft.serve.messages import AskedClip, read_messages

MAX_STOPS = 4
"""Most stop texts. Source: OpenAI's API reference."""

MAX_STOP_CHARS = 256

MAX_CHOICES = 128
"""Most answers to one question. Source: OpenAI's API reference."""

SEEDS = 2**64
"""Seeds are whole numbers of 64 bits, with a sign."""

MAX_TEMPERATURE = 2.0
"""Source: OpenAI's API reference."""

FIELDS = (
    "model",
    "messages",
    "frame_seconds",
    "stream",
    "stream_options",
    "max_completion_tokens",
    "max_tokens",
    "stop",
    "n",
    "seed",
    "temperature",
    "top_p",
)
"""What is carried out."""

ASKS_NOTHING: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "store": (False,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "logit_bias": ({},),
}
"""Fields that are not carried out, with the values that ask for nothing: those are taken, all others refused."""


@dataclass(frozen=True)
class ChatRequest:
    """What is asked for.

    Args:
        model: The name of the model that shall answer.
        query: The last question.
        history: The (question, answer) turns before it.
        system: The system text; None for the model's own.
        clip: How the request names its clip, or None.
        max_tokens: Longest answer in tokens; None takes what the prompt leaves.
        stops: Texts that end the answer.
        drawing: How to draw; None takes the likeliest token.
        num_choices: How many answers are wanted.
        stream: Whether pieces are sent as they come.
        include_usage: Whether a stream ends with the number of tokens.
    """

    model: str
    query: str
    history: tuple[tuple[str, str], ...]
    system: str | None
    clip: AskedClip | None
    max_tokens: int | None
    stops: tuple[str, ...]
    drawing: Drawing | None
    num_choices: int
    stream: bool
    include_usage: bool

    @property
    def drawings(self) -> tuple[Drawing | None, ...]:
        """How each answer that is computed is drawn: the first by the seed, each later one by the next number.

        Answers that take the likeliest tokens are all the same, and one is computed.
        """
        if self.drawing is None:
            return (None,)
        first = self.drawing.seed + SEEDS // 2
        return tuple(
            replace(self.drawing, seed=(first + number) % SEEDS - SEEDS // 2) for number in range(self.num_choices)
        )


def parse_json(body: bytes) -> dict[str, Any]:
    """Reads the body of a request.

    Raises:
        ApiError: when it is no JSON object.
    """
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        problem = str(error) if isinstance(error, _Refusal) else "no JSON"
        raise ApiError(400, f"the body: got {problem}, need a JSON object", code="invalid_json") from error
    if not isinstance(found, dict):
        raise ApiError(400, "the body: got JSON that is no object, need a JSON object", code="invalid_json")
    return found


def read_request(columns: Mapping[str, Any]) -> ChatRequest:
    """Reads a request for an answer.

    Args:
        columns: The JSON object of its body.

    Raises:
        ApiError: with the first field that cannot be carried out.
    """
    given = {key: value for key, value in columns.items() if value is not None}
    for key, value in given.items():
        if key in FIELDS or any(_same(value, nothing) for nothing in ASKS_NOTHING.get(key, ())):
            continue
        need = "a field that is carried out"
        if key in ASKS_NOTHING:
            need = f"{quote(json.dumps(ASKS_NOTHING[key][0]))}, or leave it out: it is not carried out"
        hint = did_you_mean(key, FIELDS)
        message = f"{quote(key)}: got {quote(json.dumps(value))}, need {need}" + (f" ({hint})" if hint else "")
        raise ApiError(400, message, param=key, code="unsupported_parameter")
    stream = _boolean(given, "stream")
    said = read_messages(given.get("messages"), frame_seconds=given.get("frame_seconds"))
    return ChatRequest(
        model=_text(given, "model"),
        query=said.query,
        history=said.history,
        system=said.system,
        clip=said.clip,
        max_tokens=_max_tokens(given),
        stops=_stops(given.get("stop")),
        drawing=_drawing(given),
        num_choices=_num_choices(given.get("n", 1)),
        stream=stream,
        include_usage=_include_usage(given, stream=stream),
    )


class _Refusal(ValueError):
    pass


def _refuse_constant(name: str) -> Any:
    raise _Refusal(f"`{name}`, which is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Refusal("a key that stands twice in an object")
    return found


def _same(value: Any, nothing: Any) -> bool:
    return value == nothing and isinstance(value, bool) == isinstance(nothing, bool)


def _text(given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    if not isinstance(value, str) or not value:
        raise refused(key, kind_of(value), "text")
    return value


def _boolean(given: Mapping[str, Any], key: str) -> bool:
    value = given.get(key, False)
    if not isinstance(value, bool):
        raise refused(key, kind_of(value), "true or false")
    return value


def _number(given: Mapping[str, Any], key: str, default: float) -> float:
    value = given.get(key, default)
    if not is_number(value):
        raise refused(key, kind_of(value), "a number")
    return float(value)


def _max_tokens(given: Mapping[str, Any]) -> int | None:
    keys = [key for key in ("max_completion_tokens", "max_tokens") if key in given]
    for key in keys:
        value = given[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise refused(key, kind_of(value), "a whole number of at least 1")
    if len(keys) == 2 and given[keys[0]] != given[keys[1]]:
        raise refused("max_tokens", f"{given['max_tokens']} beside another `max_completion_tokens`", "one of the two")
    return given[keys[0]] if keys else None


def _num_choices(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_CHOICES:
        raise refused("n", kind_of(value), f"a whole number from 1 to {MAX_CHOICES}")
    return value


def _stops(value: Any) -> tuple[str, ...]:
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise refused("stop", kind_of(value), "a text, or a list of texts, none of them empty")
    if len(texts) > MAX_STOPS:
        raise refused("stop", f"{len(texts)} texts", f"at most {MAX_STOPS}")
    if any(len(text) > MAX_STOP_CHARS for text in texts):
        raise refused("stop", "a long text", f"at most {MAX_STOP_CHARS} characters each")
    return tuple(texts)


def _drawing(given: Mapping[str, Any]) -> Drawing | None:
    temperature = _number(given, "temperature", 0.0)
    if not 0 <= temperature <= MAX_TEMPERATURE:
        raise refused("temperature", f"{temperature:g}", f"0 to {MAX_TEMPERATURE:g}")
    top_p = _number(given, "top_p", 1.0)
    if not 0 < top_p <= 1:
        raise refused("top_p", f"{top_p:g}", "more than 0, at most 1")
    seed = given.get("seed")
    if seed is not None and (
        isinstance(seed, bool) or not isinstance(seed, int) or not -SEEDS // 2 <= seed < SEEDS // 2
    ):
        raise refused("seed", kind_of(seed), "a whole number of 64 bits")
    if temperature == 0:
        if top_p != 1:
            raise refused("top_p", f"{top_p:g} without a temperature", "`temperature` beside it: 0 takes the likeliest")
        return None
    return Drawing(temperature, top_p, secrets.randbits(63) if seed is None else seed)


def _include_usage(given: Mapping[str, Any], *, stream: bool) -> bool:
    options = given.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise refused("stream_options", kind_of(options), "an object")
    for key in options:
        if key != "include_usage":
            raise refused(f"stream_options.{key}", "a field that is not carried out", "`include_usage` alone")
    if not stream:
        raise refused("stream_options", "it without a stream", "`stream` beside it")
    return _boolean(options, "include_usage")
