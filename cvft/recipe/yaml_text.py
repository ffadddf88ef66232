"""YAML text to plain values and back, without the surprises of YAML 1.1 and without its traps.

Only what a reader would expect is typed: `true`/`false`, `null`, decimal integers, and floats in every usual spelling
(`1e-4` included). Everything else is text, so `on`, `no`, `010` and `2026-01-01` meet the schema as they were written.
Duplicate keys, several documents and keys that are not text are refused, with line numbers.

text -> nodes, counted and measured while they are read -> values, built here: no constructor of the library runs

An alias counts as all that it stands for, so that a few lines cannot become more than memory holds.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from cvft.errors import Problem, quote

_TAG = "tag:yaml.org,2002:"

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

_PATTERNS = {tag: re.compile(pattern) for tag, pattern, _ in _SCALARS}

MAX_BYTES = 1 << 20
"""Largest document. A recipe has a few thousand bytes."""

MAX_DEPTH = 12
"""Deepest nesting. A recipe has lists in settings in sections: three."""

MAX_VALUES = 2000
"""Most keys and values of a document, each alias counted as all that it stands for. There are about 70 settings."""

MAX_NUMBER_CHARS = 100
"""Longest number. Python itself turns more than 4,300 digits down."""

MAX_TEXT_CHARS = 8192
"""Longest text. The longest that a setting can mean is a path, of at most 4,096 bytes."""


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, firsts in _SCALARS:
        for first in firsts:
            key = "" if first == "\0" else first
            table.setdefault(key, []).append((f"{_TAG}{tag}", re.compile(rf"^(?:{pattern})$")))
    return table


class _LimitError(yaml.MarkedYAMLError):
    """A document is larger, deeper or more entangled than any recipe.

    Args:
        mark: Where it is.
        got: What was found.
        need: What would be accepted.
    """

    def __init__(self, mark: yaml.Mark, got: str, need: str) -> None:
        super().__init__(problem=got, problem_mark=mark)
        self.line = mark.line + 1
        self.got = got
        self.need = need


class _Loader(yaml.SafeLoader):
    """Reads one document into nodes, and gives up on one that is no recipe before anything is built of it."""

    yaml_implicit_resolvers = _resolvers()

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.num_values = 0
        self.sizes: dict[int, int] = {}
        """Values under a node that is whole, by its identity; a node that is still being read is not there."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        is_alias = self.check_event(yaml.AliasEvent)
        before = self.num_values
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _LimitError(mark, f"more than {MAX_DEPTH} levels of nesting", "settings in sections")
        node = super().compose_node(parent, index)
        self.depth -= 1
        if is_alias and id(node) not in self.sizes:
            raise _LimitError(mark, "an alias that stands for itself", "values that end")
        self.num_values += self.sizes[id(node)] if is_alias else 1
        self.sizes[id(node)] = self.num_values - before
        if self.num_values > MAX_VALUES:
            raise _LimitError(mark, f"more than {MAX_VALUES} values", "the settings of one recipe")
        return node


class _Builder:
    """Makes values of nodes, and notes what is wrong with them."""

    def __init__(self) -> None:
        self.complaints: list[tuple[int, str, str, str]] = []

    def build(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        kind = "map" if isinstance(node, yaml.MappingNode) else "seq"
        if node.tag != f"{_TAG}{kind}":
            self._complain(node, f"the tag {quote(_show_tag(node.tag))}", "a plain value", "remove the tag")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node)
        return [self.build(inner) for inner in node.value]

    def _complain(self, node: yaml.Node, got: str, need: str, hint: str = "") -> None:
        self.complaints.append((node.start_mark.line + 1, got, need, hint))

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        lines: dict[str, int] = {}
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key_node.tag != f"{_TAG}str":
                shown = "a key that is a list or a mapping" if key is None else f"the key {quote(key)}"
                self._complain(key_node, shown, "the name of a setting")
            elif key == "<<":
                hint = "write the settings out, or start from another recipe with `extends`"
                self._complain(key_node, "the merge key `<<`", "the name of a setting", hint)
            elif key in lines:
                got = f"the key {quote(key)} again (first in line {lines[key]})"
                self._complain(key_node, got, "each key once", "remove one of the two")
            else:
                lines[key] = key_node.start_mark.line + 1
                self._check_text(key_node)
                values[key] = self.build(value_node)
        return values

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind, text = node.tag.removeprefix(_TAG), str(node.value)
        if kind == "str":
            self._check_text(node)
            return text
        if kind not in _PATTERNS:
            self._complain(node, f"the tag {quote(_show_tag(node.tag))}", "a plain value", "remove the tag")
        elif not _PATTERNS[kind].fullmatch(text):  # typed by hand
            self._complain(node, f"{quote(text)} with the tag {quote(f'!!{kind}')}", "a plain value", "remove the tag")
        elif len(text) > MAX_NUMBER_CHARS:
            self._complain(node, f"a number of {len(text):,} characters", f"at most {MAX_NUMBER_CHARS}")
        elif kind == "int":
            return int(text)
        elif kind == "float":
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
        elif kind == "bool":
            return text == "true"
        return None

    def _check_text(self, node: yaml.ScalarNode) -> None:
        text = str(node.value)
        if len(text) > MAX_TEXT_CHARS:
            self._complain(node, f"a text of {len(text):,} characters", f"at most {MAX_TEXT_CHARS:,}")
        elif odd := _UNWRITABLE.search(text):
            self._complain(node, f"the character U+{ord(odd.group()):04X}", "text that can be written to a file")


_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
"""Ends a name in every system call, or is half of a character."""


class _Dumper(yaml.SafeDumper):
    """Quotes exactly those texts that `_Loader` would read as something else."""

    yaml_implicit_resolvers = _resolvers()

    def ignore_aliases(self, data: Any) -> bool:
        return True


def parse_yaml(text: str, *, where: str) -> tuple[Any, list[Problem]]:
    """Parses one YAML document.

    Args:
        text: The document.
        where: Its name in messages; line numbers are added to it.

    Returns:
        The value, and every problem of its form; the value means nothing when there are problems.
    """
    if len(text) > MAX_BYTES:
        return None, [Problem(where, f"{len(text):,} characters", f"a recipe: at most {MAX_BYTES:,}")]
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except _LimitError as error:
        return None, [Problem(f"{where}:{error.line}", error.got, error.need)]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        return None, [_explain(error, f"{where}:{line}")]
    except yaml.YAMLError as error:
        return None, [Problem(where, " ".join(str(error).split()), "YAML text")]
    finally:
        if loader is not None:
            loader.dispose()
    builder = _Builder()
    value = None if node is None else builder.build(node)
    return value, [Problem(f"{where}:{line}", *rest) for line, *rest in sorted(builder.complaints)]


def parse_scalar(text: str) -> tuple[Any, str]:
    """Parses the value of an override; returns it and an empty text, or nothing and what is wrong."""
    value, problems = parse_yaml(text, where="value")
    return (None, problems[0].got) if problems else (value, "")


def dump_yaml(value: dict[str, Any]) -> str:
    """Writes plain values as YAML that `parse_yaml` reads back to the same values."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _show_tag(tag: str) -> str:
    return f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag


def _explain(error: yaml.MarkedYAMLError, where: str) -> Problem:
    text = error.problem or "text that is not YAML"
    if "'\\t'" in text:
        return Problem(where, "a tab", "spaces", "indent with two spaces per level")
    if "expected a single document" in f"{error.context} {text}":
        return Problem(where, "a second document", "one document per file", "remove the line `---`")
    if "mapping values are not allowed here" in text:
        return Problem(where, "a second `:` in one line", "one `key: value` per line", "quote a text that holds `: `")
    return Problem(where, text, "YAML text", "look at this line and the one before it")
