"""What a file of Python imports and calls, read from its text."""

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Facts(NamedTuple):
    """What is asked of a file.

    Args:
        imported: Full dotted names that it imports, anywhere in it.
        when_run: These without the ones for types alone.
        when_imported: These without the ones inside of functions.
        prints: Whether it calls `print`.
    """

    imported: frozenset[str]
    when_run: frozenset[str]
    when_imported: frozenset[str]
    prints: bool


def facts_of(path: Path) -> Facts:
    return facts_in(path.read_text())


@cache  # a planted breach is one file among all the others
def facts_in(text: str) -> Facts:
    nodes = list(ast.walk(ast.parse(text)))
    for_types = {inner for node in nodes if is_for_types(node) for inner in ast.walk(node)}
    later = {inner for node in nodes if isinstance(node, ast.FunctionDef) for inner in ast.walk(node)}
    calls = (node.func for node in nodes if isinstance(node, ast.Call))
    return Facts(
        imported=names_in(nodes),
        when_run=names_in(node for node in nodes if node not in for_types),
        when_imported=names_in(node for node in nodes if node not in for_types | later),
        prints=any(isinstance(call, ast.Name) and call.id == "print" for call in calls),
    )


def names_in(nodes: Iterable[ast.AST]) -> frozenset[str]:
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
