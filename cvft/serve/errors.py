"""What a client is told when something cannot be done: OpenAI's error bodies, with nothing of this machine in them.

CvftError of a clip or a question -> its problems without places -> paths and addresses taken out -> `ApiError` -> JSON
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cvft.errors import ClipError, CvftError, Problem, quote, visible

_PATH = re.compile(r"(?<![\w/:.])/(?:[^\s/`'\"]+/)+[^\s/`'\"]*")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{4,}\b")

_NO_FRAMES: Mapping[Path, str] = MappingProxyType({})

GONE = "no clip of that name that may be shown"
"""Why a file cannot be had, whatever the reason is."""


class ApiError(Exception):
    """A request that cannot be carried out.

    Args:
        status: HTTP status.
        message: What is wrong, for whoever sent the request.
        param: The field that it is about.
        code: A word for programs.
        headers: What else the response says.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Returns the error as OpenAI's API has it."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        # an error may quote a half character, which JSON text cannot hold
        message = self.message.encode("utf-8", "backslashreplace").decode()
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}


def refused(param: str, got: str, need: str) -> ApiError:
    """Makes the error of a field."""
    return ApiError(400, f"{param}: got {got}, need {need}", param=param, code="invalid_value")


def from_error(error: CvftError, *, hidden: Collection[Path] = (), frames: Mapping[Path, str] = _NO_FRAMES) -> ApiError:
    """Tells a client what is wrong with its clip or question.

    Args:
        error: What was raised.
        hidden: Files and folders whose names are taken out as well, wherever they stand.
        frames: Picture -> the field that names it, for a clip of pictures.
    """
    is_clip = isinstance(error, ClipError)
    fields = [next((param for path, param in frames.items() if _is_about(each, path)), "") for each in error.problems]
    texts = [
        f"{param or 'the clip'}: {clean(_describe(problem), hidden=hidden)}"
        if is_clip
        else clean(f"messages: {problem.where}: {_describe(problem)}", hidden=hidden)
        for problem, param in zip(error.problems, fields, strict=True)
    ]
    code = "invalid_clip" if is_clip else "invalid_messages"
    return ApiError(400, "\n".join(texts), param=next(filter(None, fields), "messages"), code=code)


def clean(text: str, *, hidden: Iterable[Path] = ()) -> str:
    """Returns a message without paths and addresses of this machine."""
    for path in sorted(map(str, hidden), key=len, reverse=True):
        text = text.replace(path, "the clip")
    lines = (visible(line) for line in text.split("\n"))
    return "\n".join(_ADDRESS.sub("(address)", _PATH.sub("(path)", line)) for line in lines)


def _describe(problem: Problem) -> str:
    hint = f" ({problem.hint})" if problem.hint else ""
    return f"got {problem.got}, need {problem.need}{hint}"


def _is_about(problem: Problem, path: Path) -> bool:
    return problem.where == str(path) or problem.where.startswith(f"{path} (")


def is_number(value: Any) -> bool:
    """Says whether a JSON value is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def kind_of(value: Any) -> str:
    """Names a JSON value for messages: its kind alone, but numbers whole."""
    if value is None:
        return "nothing"
    names = {list: "list", dict: "object", str: "text", bool: "true or false"}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return quote(value)
    name = names.get(type(value), "another kind of value")
    if value in ("", [], {}):
        return f"no {name}"
    return {"list": "a list", "object": "an object"}.get(name, name)
