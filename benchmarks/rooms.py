"""Draws the rooms of the code and the arrows between them: `python benchmarks/rooms.py [--check]` writes docs/rooms.svg.

The arrows are those of `tests/test_layering.py`, which proves that the code imports no more and no less. A room stands above all
rooms that it imports. Of its arrows only those are drawn that no longer way leads to as well: the others follow from them.
With --check nothing is written, and the exit code tells whether the picture is up to date.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.test_layering import MAY_IMPORT, WITHOUT_TORCH  # noqa: E402

PICTURE = ROOT / "docs" / "rooms.svg"

GROUND = "ground"
TOGETHER = {
    "data": "data",
    "families": "families",
    "cli": "cli",
    "evaluate/uncertainty": "evaluate/metrics",
    "evaluate/judge": "evaluate",
}
"""Rooms that are drawn as one with their sub-rooms, or with a neighbour."""
LEFT_OUT = ("__init__", "__main__", "_autoload")
"""Doors of the package: they lead into the house and hold nothing."""

WIDTH, ROW_HEIGHT, BOX_HEIGHT, LETTER_WIDTH, GAP = 1000, 84, 34, 8.2, 150
INK, LINE, BOX, TORCH_BOX = "#1f2430", "#8a93a6", "#eef2fb", "#fdeedd"

Graph = dict[str, set[str]]


def main() -> int:
    """Draws the picture, or checks it."""
    picture = draw(arrows())
    if "--check" in sys.argv[1:]:
        is_new = PICTURE.is_file() and PICTURE.read_text(encoding="utf-8") == picture
        print("the picture is up to date" if is_new else f"{PICTURE.relative_to(ROOT)} is out of date")
        return int(not is_new)
    PICTURE.write_text(picture, encoding="utf-8")
    return 0


def drawn_as(room: str) -> str:
    """Returns the box that a room is part of."""
    if not MAY_IMPORT[room].strip():
        return GROUND if "/" not in room else TOGETHER[room]
    parent = room.partition("/")[0]
    return TOGETHER.get(room, TOGETHER.get(parent, room))


def arrows() -> Graph:
    """Returns which box imports which: the ground is every module that imports the ground alone."""
    boxes = {room: drawn_as(room) for room in MAY_IMPORT if room not in LEFT_OUT}
    changed = True
    while changed:  # files imports errors, json_files imports jsonl: all of it is ground
        low = [room for room in boxes if "/" not in room and boxes[room] == room and _stands_on_ground(room, boxes)]
        changed = bool(low)
        boxes.update(dict.fromkeys(low, GROUND))
    graph: Graph = {box: set() for box in boxes.values()}
    for room, box in boxes.items():
        graph[box] |= {boxes[other] for other in MAY_IMPORT[room].split() if other in boxes} - {box}
    return graph


def _stands_on_ground(room: str, boxes: Mapping[str, str]) -> bool:
    is_module = (ROOT / "cvft" / f"{room}.py").is_file()
    return is_module and all(boxes.get(other, GROUND) == GROUND for other in MAY_IMPORT[room].split())


def levels_of(graph: Graph) -> dict[str, int]:
    """Returns the level of each box: one above the highest that it imports."""
    levels: dict[str, int] = {}

    def level(box: str, trail: tuple[str, ...] = ()) -> int:
        assert box not in trail, f"a circle: {' -> '.join((*trail, box))}"
        if box not in levels:
            levels[box] = 1 + max((level(other, (*trail, box)) for other in graph[box]), default=-1)
        return levels[box]

    for box in graph:
        level(box)
    return levels


def without_shortcuts(graph: Graph) -> Graph:
    """Leaves out arrows where a longer way leads to the same room."""
    reach: Graph = {}

    def reached(box: str) -> set[str]:
        if box not in reach:
            reach[box] = set().union(*({other} | reached(other) for other in graph[box]), set())
        return reach[box]

    return {
        box: {to for to in targets if not any(to in reached(via) for via in targets - {to})}
        for box, targets in graph.items()
    }


def place(graph: Graph, levels: Mapping[str, int]) -> dict[str, tuple[float, float, float]]:
    """Returns middle, top and width of each box: on its level, in the order that keeps arrows short."""
    rows: dict[int, list[str]] = {}
    for box in sorted(graph):
        rows.setdefault(levels[box], []).append(box)
    middle = {box: WIDTH / 2 for box in graph}
    places: dict[str, tuple[float, float, float]] = {}
    neighbours = {box: graph[box] | {other for other in graph if box in graph[other]} for box in graph}
    for _ in range(24):
        for number, row in rows.items():
            pull = {box: sum(middle[other] for other in neighbours[box]) / max(1, len(neighbours[box])) for box in row}
            row.sort(key=lambda box: (round(pull[box], 3), box))
            widths = [len(box) * LETTER_WIDTH + 28 for box in row]
            gap = min(GAP, (WIDTH - 40 - sum(widths)) / (len(row) + 1))
            left = (WIDTH - sum(widths) - gap * (len(row) - 1)) / 2
            top = (max(rows) - number) * ROW_HEIGHT + 20
            for box, width in zip(row, widths, strict=True):
                middle[box] = left + width / 2
                places[box] = (middle[box], top, width)
                left += width + gap
    return places


def draw(graph: Graph) -> str:
    """Returns the picture as SVG."""
    levels = levels_of(graph)
    shown = without_shortcuts(graph)
    places = place(shown, levels)
    height = max(levels.values()) * ROW_HEIGHT + BOX_HEIGHT + 70
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        ' font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="14">',
        "<title>The rooms of cvft: an arrow means that a room imports another</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>',
    ]
    for box in sorted(shown):
        targets = sorted(shown[box], key=lambda other: places[other][0])
        for number, other in enumerate(targets):
            x, top, _ = places[box]
            x += (number - (len(targets) - 1) / 2) * 16  # side by side where several begin
            to_x, to_top, _ = places[other]
            start, end = top + BOX_HEIGHT, to_top - 2
            bend = (end - start) / 2
            way = f"M{x:.0f} {start:.0f}C{x:.0f} {start + bend:.0f} {to_x:.0f} {end - bend:.0f} {to_x:.0f} {end:.0f}"
            lines.append(f'<path d="{way}" fill="none" stroke="{LINE}" stroke-width="1.3" marker-end="url(#head)"/>')
    for box, (x, top, width) in sorted(places.items()):
        colour = BOX if has_no_torch(box) else TORCH_BOX
        lines.append(
            f'<rect x="{x - width / 2:.0f}" y="{top}" width="{width:.0f}" height="{BOX_HEIGHT}" rx="7" fill="{colour}"'
            f' stroke="{INK}" stroke-width="1"/>'
        )
        lines.append(f'<text x="{x:.0f}" y="{top + 22}" text-anchor="middle" fill="{INK}">{box}</text>')
    legend = [("no torch is imported", BOX), ("torch may be", TORCH_BOX)]
    for number, (text, colour) in enumerate(legend):
        x = 20 + number * 220
        lines.append(f'<rect x="{x}" y="{height - 36}" width="18" height="18" rx="4" fill="{colour}" stroke="{INK}"/>')
        lines.append(f'<text x="{x + 26}" y="{height - 22}" fill="{INK}" font-size="13">{text}</text>')
    return "\n".join([*lines, "</svg>", ""])


def has_no_torch(box: str) -> bool:
    """Tells whether no room of a box may import torch; those of `families` that may are its `network/` and `runtime.py`."""
    rooms = [room for room in MAY_IMPORT if room not in LEFT_OUT and drawn_as(room) == box]
    return box == GROUND or all(room in WITHOUT_TORCH for room in rooms)


if __name__ == "__main__":
    sys.exit(main())
