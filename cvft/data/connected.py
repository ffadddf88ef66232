"""Which things belong together because something shows them together: what shares any thing with what shares any other.

`[("a", "b"), ("b", "c"), ("d",)]` -> `{"a": "a", "b": "a", "c": "a", "d": "d"}`
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def connect(sets: Iterable[Iterable[str]]) -> dict[str, str]:
    """Finds which names are connected: those of one set are, and so are all of two sets that have a name in common.

    Args:
        sets: Sets of names.

    Returns:
        Name -> the least of all names that it is connected with, itself among them: it does not depend on the order of the sets.

    Example:
        >>> connect([("c",), ("b", "c"), ("a",), ("b", "d")])
        {'c': 'b', 'b': 'b', 'a': 'a', 'd': 'b'}
    """
    above: dict[str, str] = {}

    def find(name: str) -> str:
        top = name
        while above[top] != top:
            top = above[top]
        while above[name] != top:  # the next search is short
            above[name], name = top, above[name]
        return top

    for names in sets:
        tops = set()
        for name in names:
            above.setdefault(name, name)
            tops.add(find(name))
        if len(tops) > 1:
            least = min(tops)
            above.update(dict.fromkeys(tops, least))
    return {name: find(name) for name in above}


def name_connected(sets: Sequence[Sequence[str]]) -> list[str | int]:
    """Returns a name for each set, the same for all that are connected; an empty one has its own number.

    Example:
        >>> name_connected([("c",), (), ("b", "c")])
        ['b', 1, 'b']
    """
    connected = connect(sets)
    return [connected[names[0]] if names else number for number, names in enumerate(sets)]
