"""YAML text to plain values and back, without the surprises of YAML 1.1.

Only what a reader would expect is typed: `true`/`false`, `null`, decimal integers, and floats in every usual spelling
(`1e-4` included). Everything else is text, so `on`, `no`, `010` and `2026-01-01` meet the schema as they were written.
Duplicate keys, several documents and keys that are not text are refused, with line numbers.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from cvft.errors import Problem, quote

_SCALARS: tuple[tuple[str, str, str], ...] = (
    ("null", r"~|null|", "~n\0"),
    ("bool", r"true|false", "tf"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        "-+.0123456789",
    ),
)
"""Tag, pattern and first characters of every typed scalar. Source: YAML 1.2.2 section 10.3.2, core schema, minus other
bases, capital spellings and leading zeros."""


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, firsts in _SCALARS:
        for first in firsts:
            key = "" if first == "\0" else first
            table.setdefault(key, []).append((f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$")))
    return table


class _Loader(yaml.SafeLoader):
    """Reads one document and notes what SafeLoader would pass over in silence."""

    yaml_implicit_resolvers = _resolvers()

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.complaints: list[tuple[int, str, str, str]] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        pairs: list[tuple[yaml.Node, yaml.Node]] = []
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key_node.tag != "tag:yaml.org,2002:str":
                shown = "a key that is a list or a mapping" if key is None else f"the key {quote(key)}"
                self.complaints.append((line, shown, "the name of a setting", ""))
            elif key in lines:
                got = f"the key {quote(key)} again (first in line {lines[key]})"
                self.complaints.append((line, got, "each key once", "remove one of the two"))
            else:
                lines[key] = line
                pairs.append((key_node, value_node))
        node.value = pairs
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes exactly those texts that `_Loader` would read as something else."""

    yaml_implicit_resolvers = _resolvers()

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(str(loader.construct_scalar(node)))


# SafeLoader's own reads `1:30` and a leading zero as other bases.
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def parse_yaml(text: str, *, where: str) -> tuple[Any, list[Problem]]:
    """Parses one YAML document.

    Args:
        text: The document.
        where: Its name in messages; line numbers are added to it.

    Returns:
        The value, and every problem of its form; the value means nothing when there are problems.
    """
    loader = None
    try:
        loader = _Loader(text)
        value = loader.get_single_data()
        complaints = loader.complaints
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        return None, [_explain(error, f"{where}:{line}")]
    except yaml.YAMLError as error:
        return None, [Problem(where, " ".join(str(error).split()), "YAML text")]
    finally:
        if loader is not None:
            loader.dispose()
    return value, [Problem(f"{where}:{line}", *rest) for line, *rest in sorted(complaints)]


def parse_scalar(text: str) -> tuple[Any, str]:
    """Parses the value of an override; returns it and an empty text, or nothing and what is wrong."""
    value, problems = parse_yaml(text, where="value")
    return (None, problems[0].got) if problems else (value, "")


def dump_yaml(value: dict[str, Any]) -> str:
    """Writes plain values as YAML that `parse_yaml` reads back to the same values."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _explain(error: yaml.MarkedYAMLError, where: str) -> Problem:
    text = error.problem or "text that is not YAML"
    if "'\\t'" in text:
        return Problem(where, "a tab", "spaces", "indent with two spaces per level")
    if "expected a single document" in f"{error.context} {text}":
        return Problem(where, "a second document", "one document per file", "remove the line `---`")
    if "mapping values are not allowed here" in text:
        return Problem(where, "a second `:` in one line", "one `key: value` per line", "quote a text that holds `: `")
    return Problem(where, text, "YAML text", "look at this line and the one before it")
