"""pydantic's complaints, put in the words of a recipe's reader.

The `need` of a wrong value is derived from the setting's type and bounds, so a message cannot disagree with the schema.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from cvft.errors import Problem, did_you_mean, quote
from cvft.recipe.data_section import RowFile
from cvft.recipe.names import hint_for_unknown, iter_fields, key_names, section_names, section_of
from cvft.recipe.rules import ConflictError
from cvft.recipe.values import CEILINGS, HOST_PATTERN, MAX_RUN_NAME_BYTES, why_unwritable

LISTS = ("data.train",)
"""Settings that may be a list of `RowFile`s."""

_YAML_11_BOOLEANS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def explain(
    error: ValidationError, raw: dict[str, Any], *, label: Callable[[str], str]
) -> tuple[list[Problem], set[str]]:
    """Translates what pydantic found wrong with single settings of `raw`.

    Args:
        error: What pydantic found.
        raw: The merged settings that it read.
        label: Turns a key path into the `where` of a message.

    Returns:
        One problem per key path in the order of the schema, and the key paths at fault.
    """
    fields = dict(iter_fields())
    found: dict[str, Problem] = {}
    for item in error.errors(include_url=False):
        if isinstance(item.get("ctx", {}).get("error"), ConflictError):
            continue
        path = _key_path(item["loc"], fields)
        value = _lookup(raw, path)
        if (
            path in LISTS and isinstance(value, list) and value
        ):  # what its items are, other members of the union cannot be
            found |= _wrong_item(path, label(path), item, value)
            continue
        if path in found:
            continue
        if item["type"] == "extra_forbidden":
            found[path] = _unknown(path, label(path))
        elif item["type"] == "missing" and path in fields:
            found[path] = Problem(label(path), "nothing", describe_need(fields[path]))
        elif path in fields:
            found[path] = _wrong_value(label(path), _lookup(raw, path), fields[path])
        else:
            found[path] = _wrong_section(path, label(path), _lookup(raw, path))
    order = {path: index for index, path in enumerate(fields)}
    setting = {path: path.partition("[")[0] for path in found}
    reported = [found[path] for path in sorted(found, key=lambda path: (order.get(setting[path], len(order)), path))]
    return reported, set(setting.values())


def conflicts_of(error: ValidationError) -> list[tuple[Problem, tuple[str, ...]]]:
    """Returns the broken rules that a failed validation carries: each problem with the key paths it is about."""
    causes = (item.get("ctx", {}).get("error") for item in error.errors(include_url=False))
    return [conflict for cause in causes if isinstance(cause, ConflictError) for conflict in cause.conflicts]


def unknown_key(path: str, *, where: str) -> Problem:
    """The problem of a key path that the schema does not have."""
    return _unknown(path, where)


def describe_need(field: FieldInfo, *, shows_ceiling: bool = False) -> str:
    """Says in words what a setting accepts: "a whole number from 1 to 24", "one of `auto`, `sdpa` or `eager`".

    Args:
        field: The setting.
        shows_ceiling: Whether to name a bound that nobody meets by intention.
    """
    words, texts = _alternatives(field.annotation, list(field.metadata), shows_ceiling=shows_ceiling)
    choices = [quote(word) for word in words]
    return f"{'one of ' if len(choices) > 2 or (len(choices) > 1 and texts) else ''}{_join([*choices, *texts])}"


def _alternatives(annotation: Any, metadata: list[Any], *, shows_ceiling: bool = False) -> tuple[list[str], list[str]]:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return _alternatives(inner, [*more, *metadata], shows_ceiling=shows_ceiling)
    if origin is Literal:
        return list(get_args(annotation)), []
    if origin in (Union, types.UnionType):
        words: list[str] = []
        texts: list[str] = []
        for part in get_args(annotation):
            more_words, more_texts = _alternatives(part, metadata, shows_ceiling=shows_ceiling)
            words += more_words
            texts += more_texts
        # `null` reads best at the end, and what is simple before what is not
        texts.sort(key=lambda text: (text == "`null`", text.startswith("a list")))
        return words, texts
    if origin is tuple:
        choices, others = _alternatives(get_args(annotation)[0], [])
        if "a file of rows" in others:
            return [], ["a list of files"]
        if choices:
            return [], [f"a list of {_join([quote(word) for word in choices])}"]
        return [], [_LIST_OF.get(others[0], _LIST_OF_NAMES)]
    if annotation is RowFile:
        return [], ["a file of rows"]
    if annotation is type(None):
        return [], ["`null`"]
    if annotation is bool:
        return ["true", "false"], []
    if annotation in (int, float):
        kind = "a whole number" if annotation is int else "a number"
        return [], [kind + _bounds(metadata, shows_ceiling=shows_ceiling)]
    pattern = _constraint(metadata, "pattern")
    if annotation is str and pattern and r"\p{L}" in pattern:
        return [], ["a folder name (letters, digits, `.`, `_`, `-`)"]
    if annotation is str and pattern == HOST_PATTERN:
        return [], ["a host"]
    if annotation is str:
        return [], ["text without space at its ends" if pattern else "text"]
    return [], ["a path"]


_LIST_OF = {"a path": "a list of paths", "a host": "a list of hosts"}
"""What one of them is -> what the list is."""
_LIST_OF_NAMES = "a list of module names"
_LISTS_OF_TEXTS = (*_LIST_OF.values(), _LIST_OF_NAMES)


def _bounds(metadata: list[Any], *, shows_ceiling: bool = False) -> str:
    ge, gt, le, lt = (_constraint(metadata, key) for key in ("ge", "gt", "le", "lt"))
    if le in CEILINGS and not shows_ceiling:
        le = None
    if ge is not None and le is not None:
        return f" from {ge} to {le}"
    limits = ((ge, "of at least"), (gt, "above"), (le, "of at most"), (lt, "below"))
    return " and".join(f" {words} {limit}" for limit, words in limits if limit is not None)


def _constraint(metadata: Iterable[Any], key: str) -> Any:
    for item in metadata:
        candidates = [*item.metadata, item] if isinstance(item, FieldInfo) else [item]
        for candidate in candidates:
            value = getattr(candidate, key, None)
            if value is not None:
                return value
    return None


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _key_path(loc: tuple[int | str, ...], fields: dict[str, FieldInfo]) -> str:
    # Behind a setting, pydantic goes on with the member of a union and the index in a list: one setting all the same.
    parts = [str(part) for part in loc]
    if not parts or parts[0] in fields or section_of(parts[0]) is None:
        return parts[0] if parts else ""
    return ".".join(parts[:2])


def _lookup(raw: Any, path: str) -> Any:
    for part in path.split("."):
        raw = raw.get(part) if isinstance(raw, dict) else None
    return raw


def show_value(value: object) -> str:
    """Shows a YAML value in a message: text, list and mapping by kind, others as written."""
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return quote(str(value).lower())
    if isinstance(value, str):
        return quote(value) if value.strip() else "an empty text"
    if isinstance(value, list):
        return f"the list {quote(value)}" if value else "an empty list"
    if isinstance(value, dict):
        return "a mapping"
    return quote(value)


def _wrong_value(where: str, value: Any, field: FieldInfo) -> Problem:
    words, texts = _alternatives(field.annotation, list(field.metadata))
    numeric = any("number" in text for text in texts)
    got, hint = show_value(value), ""
    if isinstance(value, str):
        if words == ["true", "false"]:
            hint = f"write `{_YAML_11_BOOLEANS[value.lower()]}`" if value.lower() in _YAML_11_BOOLEANS else ""
            hint = f"write `{value.lower()}`" if value.lower() in words else hint
        elif words:
            hint = did_you_mean(value, words) or _hint_at_longer(value, words)
            if not hint and any(text in _LISTS_OF_TEXTS for text in texts) and value.strip():
                hint = f"a list is written `[{value}]`" if len(value) <= 80 else ""
        elif any(text in _LISTS_OF_TEXTS for text in texts) and value.strip():
            hint = f"a list is written `[{value}]`" if len(value) <= 80 else ""
        if (numeric or words == ["true", "false"]) and not hint:
            got = f"the text {got}" if value.strip() else got
            hint = "remove the quotes" if _is_number(value) else ""
        num_bytes = len(value.encode(errors="surrogatepass"))
        if any("folder name" in text for text in texts) and num_bytes > MAX_RUN_NAME_BYTES:
            hint = f"shorten it: it has {num_bytes} bytes of at most {MAX_RUN_NAME_BYTES}"
        if why := why_unwritable(value):
            got, hint = f"{got} with {why}", ""
    elif isinstance(value, list) and where.startswith("data.val"):
        hint = "one file of rows: join several with `cat a.jsonl b.jsonl > all.jsonl`; clip paths start from its folder"
    elif isinstance(value, float) and value.is_integer() and any("whole" in text for text in texts):
        hint = f"write `{int(value)}`"
    elif (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and not numeric
        and texts
        and not words
        and not all(text in _LISTS_OF_TEXTS for text in texts)
    ):
        got, hint = f"the number {got}", f'quote it: `"{value}"`'
    is_high = numeric and isinstance(value, int | float) and math.isfinite(value) and value > min(CEILINGS)
    return Problem(where, got, describe_need(field, shows_ceiling=is_high), hint)


def _wrong_item(path: str, where: str, error: Mapping[str, Any], value: list[Any]) -> dict[str, Problem]:
    """The problem of one file in a list of them, by its key path; none for what pydantic says of the other kinds of value."""
    loc = error["loc"]
    number = next((part for part in loc if isinstance(part, int)), None)
    if number is None:
        return {}
    place, item, known = f"{path}[{number}]", value[number], list(RowFile.model_fields)
    where = f"{place}{where.removeprefix(path)}"
    if not isinstance(item, str | dict) or (isinstance(item, str) and not item.strip()):
        return {place: Problem(where, show_value(item), f"a path, or {_join([quote(name) for name in known])}")}
    key = next(
        part for part in (*loc[loc.index(number) + 1 :], "path") if part in known or error["type"] == "extra_forbidden"
    )
    where = f"{place}.{key}{where.removeprefix(place)}"
    if error["type"] == "extra_forbidden":
        need = f"one of {_join([quote(name) for name in known])}"
        return {f"{place}.{key}": Problem(where, "an unknown key", need, did_you_mean(str(key), known))}
    if error["type"] == "missing":
        return {f"{place}.{key}": Problem(where, "nothing", describe_need(RowFile.model_fields[key]))}
    return {
        f"{place}.{key}": _wrong_value(
            where, item if isinstance(item, str) else item.get(key), RowFile.model_fields[key]
        )
    }


def _hint_at_longer(value: str, words: list[str]) -> str:
    """Hints at words that begin with what was written, whatever its case and its dashes."""
    begin = value.lower().replace("_", "-")
    longer = [word for word in words if begin and word.replace("_", "-").startswith(begin)]
    return f"did you mean {' or '.join(quote(word) for word in longer)}?" if longer else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _unknown(path: str, where: str) -> Problem:
    section = path.rpartition(".")[0]
    if section and section_of(section) is None:
        sections = _join([quote(name) for name in section_names()])
        return Problem(where, "an unknown section", f"one of {sections}", hint_for_unknown(path))
    known = key_names(section)
    return Problem(where, "an unknown key", f"one of {_join([quote(name) for name in known])}", hint_for_unknown(path))


def _wrong_section(path: str, where: str, value: Any) -> Problem:
    return Problem(where, show_value(value), f"a section of settings, such as {quote(key_names(path)[0])}")
