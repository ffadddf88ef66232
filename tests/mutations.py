"""Documents that are nearly right: one value of a right one exchanged, left out, nested, repeated under another name."""

import copy
import random
from collections.abc import Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -0.0, 1, -1, 2, 1.0, 1.5, -1.5, 1e-300, 1e308, -1e308, 1e9),
    *(10**9, 10**10, -(10**18), 2**31, 2**32, 2**63, 2**64, 10**40, 10**90),
    *("", " ", "x", "0", "8", "true", "null", "auto", "on", "no", "a" * 300, "a/" * 3000, "a\nb", " a", "a ", "a\tb"),
    *(
        "../../etc/passwd",
        "/dev/zero",
        "~nobody-here/x",
        "~",
        "\u2028",
        "\ufeff",
        "\x1b[31m",
        "\U0001f600",
        "\u6f22\u5b57",
    ),
    *("e\u0301", "%s%n", "${HOME}", "$(id)", "hf:x", "ms:a/b/c", "tiny", "(a+)+$", "[", "{", "#", "!x", "inf", "nan"),
    *("Infinity", "1e999", "0x10", "1_000", "\u0663", "--help", "-1"),
    *([], [[]], [None], [1], ["a"], ["a", "a"], [""], [["a"]], [{}], list(range(300))),
    *({}, {"a": 1}, {"": {}}, {"a": {"b": {"c": {}}}}, {"path": "tiny"}, {"__class__": "x"}),
)
"""Values of every kind that a file can hold, with those among them that other code stumbles over."""

NAMES = (
    *("x", "", " ", "extends", "path", "__init__", "self", "model", "report_to", "lr", "class", "\u6f22", "a" * 300),
    *("a.b", "a.b.c", ".", "0", "<<"),
)


def mutations(document: dict[str, Any], *, count: int, seed: int) -> Iterator[tuple[dict[str, Any], str]]:
    """Yields changed documents, each with the key that was changed."""
    dice = random.Random(seed)
    paths = [*_paths(document)]
    for _ in range(count):
        changed = copy.deepcopy(document)
        path = dice.choice(paths)
        parent = changed
        for step in path[:-1]:
            parent = parent[step]
        last, kind = path[-1], dice.random()
        if kind < 0.7:
            parent[last] = copy.deepcopy(dice.choice(VALUES))
        elif kind < 0.78:
            del parent[last]
        elif kind < 0.86:
            parent[last] = {str(last): parent[last]}
        elif kind < 0.92:
            parent[last] = [parent[last]]
        elif isinstance(parent, dict):
            last = dice.choice(NAMES)
            parent[last] = copy.deepcopy(dice.choice(VALUES))
        yield changed, str(next(step for step in reversed((*path[:-1], last)) if isinstance(step, str)))


def _paths(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*prefix, key)
        yield from _paths(inner, (*prefix, key))
