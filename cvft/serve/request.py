"""The body of `/v1/chat/completions`, read strictly: what is not carried out is refused by its name.

bytes -> JSON object -> fields (known, of the right kind, with an effect) -> messages -> `ChatRequest`: question, turns, clip
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cvft.errors import did_you_mean, quote
from cvft.families.answering import Drawing
from cvft.serve.errors import ApiError, refused

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
        clip: How the request names its clip, or None.
        clip_param: The field that names it.
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
    clip: str | None
    clip_param: str
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
    query, history, clip, clip_param = _read_messages(given.get("messages"))
    return ChatRequest(
        model=_text(given, "model"),
        query=query,
        history=history,
        clip=clip,
        clip_param=clip_param,
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
        raise refused(key, _kind(value), "text")
    return value


def _boolean(given: Mapping[str, Any], key: str) -> bool:
    value = given.get(key, False)
    if not isinstance(value, bool):
        raise refused(key, _kind(value), "true or false")
    return value


def _number(given: Mapping[str, Any], key: str, default: float) -> float:
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise refused(key, _kind(value), "a number")
    return float(value)


def _max_tokens(given: Mapping[str, Any]) -> int | None:
    keys = [key for key in ("max_completion_tokens", "max_tokens") if key in given]
    for key in keys:
        value = given[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise refused(key, _kind(value), "a whole number of at least 1")
    if len(keys) == 2 and given[keys[0]] != given[keys[1]]:
        raise refused("max_tokens", f"{given['max_tokens']} beside another `max_completion_tokens`", "one of the two")
    return given[keys[0]] if keys else None


def _num_choices(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_CHOICES:
        raise refused("n", _kind(value), f"a whole number from 1 to {MAX_CHOICES}")
    return value


def _stops(value: Any) -> tuple[str, ...]:
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise refused("stop", _kind(value), "a text, or a list of texts, none of them empty")
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
        raise refused("seed", _kind(seed), "a whole number of 64 bits")
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
        raise refused("stream_options", _kind(options), "an object")
    for key in options:
        if key != "include_usage":
            raise refused(f"stream_options.{key}", "a field that is not carried out", "`include_usage` alone")
    if not stream:
        raise refused("stream_options", "it without a stream", "`stream` beside it")
    return _boolean(options, "include_usage")


def _read_messages(messages: Any) -> tuple[str, tuple[tuple[str, str], ...], str | None, str]:
    if not isinstance(messages, list) or not messages:
        raise refused("messages", _kind(messages), "a list of at least one message")
    said: list[str] = []
    clip, clip_param = None, "messages"
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise refused(where, _kind(message), "an object with `role` and `content`")
        for key, value in message.items():
            if key not in ("role", "content") and value not in (None, [], {}):
                raise refused(f"{where}.{key}", "a field that is not carried out", "`role` and `content` alone")
        role, expected = message.get("role"), ("user", "assistant")[number % 2]
        if role not in ("user", "assistant"):
            need = "`user` or `assistant`: the models have no place for other texts"
            raise refused(f"{where}.role", quote(json.dumps(role)), need)
        if role != expected:
            raise refused(f"{where}.role", quote(role), f"`{expected}`: questions and answers in turn")
        text, found, at = _read_content(message.get("content"), where=f"{where}.content", is_question=role == "user")
        said.append(text)
        if found is not None and clip is not None and found != clip:
            raise refused(at, "a second clip", "one clip in a conversation")
        if found is not None and clip is None:
            clip, clip_param = found, at
    if len(said) % 2 == 0:
        raise refused("messages", "an answer at the end", "a question at the end")
    return said[-1], tuple(zip(said[:-1:2], said[1::2], strict=True)), clip, clip_param


def _read_content(content: Any, *, where: str, is_question: bool) -> tuple[str, str | None, str]:
    """Returns the text of a message, how it names a clip, and where."""
    if isinstance(content, str):
        return content, None, where
    if not isinstance(content, list) or not content:
        raise refused(where, _kind(content), "text, or a list of parts")
    texts: list[str] = []
    clip, clip_param = None, where
    for number, part in enumerate(content):
        at = f"{where}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "image_url":
            need = "`video_url`: which frames of a clip are shown is the rule that the model was trained with"
            raise refused(f"{at}.type", "`image_url`", need)
        if kind not in ("text", "video_url") or (kind == "video_url" and not is_question):
            need = "`text` or `video_url`" if is_question else "`text`"
            raise refused(f"{at}.type", quote(json.dumps(kind)), need)
        for key in part:
            if key not in ("type", kind):
                raise refused(f"{at}.{key}", "a field that is not carried out", f"`type` and `{kind}` alone")
        value = part.get(kind)
        if kind == "text":
            if not isinstance(value, str):
                raise refused(f"{at}.text", _kind(value), "text")
            texts.append(value)
            continue
        url, url_param = _read_url(value, where=f"{at}.video_url")
        if clip is not None and url != clip:
            raise refused(url_param, "a second clip", "one clip in a conversation")
        clip, clip_param = url, url_param
    return "\n".join(texts), clip, clip_param


def _read_url(value: Any, *, where: str) -> tuple[str, str]:
    if isinstance(value, dict):
        for key in value:
            if key != "url":
                raise refused(f"{where}.{key}", "a field that is not carried out", "`url` alone")
        value, where = value.get("url"), f"{where}.url"
    if not isinstance(value, str) or not value:
        raise refused(where, _kind(value), "a URL")
    return value, where


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    names = {list: "a list", dict: "an object", str: "text", bool: "true or false"}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return quote(value)
    name = names.get(type(value), "another kind of value")
    return f"no {name.removeprefix('a ')}" if value in ("", [], {}) else name
