"""Questions about a scene of the tiny world, each with exactly one right answer.

Scene -> every (category, question, answer) that the scene allows. A question that two answers would fit is not asked:
which circle is meant, say, when two circles differ in colour. Categories in `SECONDS_CATEGORIES` need the time of a frame.

`HELD_OUT_CATEGORY` is never seen in pre-training: it is what the demo teaches.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from cvft.tiny.world import COLOURS, SHAPES, Scene

QuestionAnswer = tuple[str, str]

HELD_OUT_CATEGORY = "interval"
"""The answer style that pre-training leaves out: "from 2 to 4"."""

EVENT_VERB = {"appear": "appears", "disappear": "disappears"}


@dataclass(frozen=True)
class Sighting:
    """A colour and shape with the seconds at which a viewer sees it.

    Args:
        name: "red circle".
        first_s: First second that shows it.
        last_s: Last second that shows it, inclusive.
    """

    name: str
    first_s: int
    last_s: int


def sightings(scene: Scene) -> list[Sighting]:
    """Returns one entry per colour and shape that is ever visible; an object that changes colour gives two."""
    found = []
    for thing in scene.things:
        if thing.change_s is None:
            found.append(Sighting(thing.name_at(0), thing.first_s, thing.last_s))
        else:
            found.append(Sighting(thing.name_at(0), thing.first_s, thing.change_s - 1))
            found.append(Sighting(thing.name_at(thing.change_s), thing.change_s, thing.last_s))
    return found


def _colour(scene: Scene) -> Iterator[QuestionAnswer]:
    for shape in SHAPES:
        colours = {s.name.split()[0] for s in sightings(scene) if s.name.endswith(shape)}
        if len(colours) == 1:
            yield f"What colour is the {shape}?", colours.pop()


def _shape(scene: Scene) -> Iterator[QuestionAnswer]:
    for colour in COLOURS:
        shapes = {s.name.split()[1] for s in sightings(scene) if s.name.startswith(colour)}
        if len(shapes) == 1:
            yield f"What shape is the {colour} object?", shapes.pop()


def _count(scene: Scene) -> Iterator[QuestionAnswer]:
    for second in range(scene.num_seconds):
        yield f"How many objects are visible at second {second}?", str(len(scene.visible(second)))


def _colour_at(scene: Scene) -> Iterator[QuestionAnswer]:
    for second in range(scene.num_seconds):
        for shape in SHAPES:
            colours = [thing.colour_at(second) for thing in scene.visible(second) if thing.shape == shape]
            if len(colours) == 1:
                yield f"What colour is the {shape} at second {second}?", colours[0]


def _what_at(scene: Scene) -> Iterator[QuestionAnswer]:
    for second in range(scene.num_seconds):
        things = scene.visible(second)
        if len(things) == 1:
            yield f"What is visible at second {second}?", things[0].name_at(second)


def _visible_at(scene: Scene) -> Iterator[QuestionAnswer]:
    for second in range(scene.num_seconds):
        for seen in sightings(scene):
            answer = "yes" if seen.first_s <= second <= seen.last_s else "no"
            yield f"Is the {seen.name} visible at second {second}?", answer


def _appear(scene: Scene) -> Iterator[QuestionAnswer]:
    for second, kind, thing in scene.events():
        if kind == "appear":
            yield f"At what second does the {thing.name_at(second)} appear?", str(second)
            yield f"When does the {thing.name_at(second)} appear?", str(second)


def _disappear(scene: Scene) -> Iterator[QuestionAnswer]:
    for second, kind, thing in scene.events():
        if kind == "disappear":
            yield f"At what second does the {thing.name_at(second)} disappear?", str(second)
            yield f"When does the {thing.name_at(second)} disappear?", str(second)


def _change(scene: Scene) -> Iterator[QuestionAnswer]:
    for second, kind, thing in scene.events():
        if kind == "change":
            yield f"At what second does the {thing.colour} {thing.shape} change colour?", str(second)
            yield f"When does the {thing.colour} {thing.shape} change colour?", str(second)


def _first_seen(scene: Scene) -> Iterator[QuestionAnswer]:
    for seen in sightings(scene):
        yield f"At what second is the {seen.name} first visible?", str(seen.first_s)


def _last_seen(scene: Scene) -> Iterator[QuestionAnswer]:
    for seen in sightings(scene):
        yield f"At what second is the {seen.name} last visible?", str(seen.last_s)


def _change_how(scene: Scene) -> Iterator[QuestionAnswer]:
    for thing in scene.things:
        if thing.change_s is not None:
            question = f"How does the {thing.colour} {thing.shape} change?"
            yield question, f"from {thing.colour} to {thing.new_colour}"


def _describe_event(scene: Scene) -> list[tuple[int, str]]:
    events = []
    for second, kind, thing in scene.events():
        if kind == "change":
            events.append((second, f"{thing.colour} {thing.shape} turns {thing.new_colour}"))
        else:
            events.append((second, f"{thing.name_at(second)} {EVENT_VERB[kind]}"))
    return events


def _event_at(scene: Scene) -> Iterator[QuestionAnswer]:
    for second, text in _describe_event(scene):
        yield f"What happens at second {second}?", text


def _event_order(scene: Scene) -> Iterator[QuestionAnswer]:
    events = _describe_event(scene)
    if events:
        yield "What happens first?", f"{events[0][1]} at {events[0][0]}"
        yield "What happens last?", f"{events[-1][1]} at {events[-1][0]}"


def _end(scene: Scene) -> Iterator[QuestionAnswer]:
    yield "At what second does the clip end?", str(scene.num_seconds - 1)


def _first_and_last(scene: Scene) -> Iterator[QuestionAnswer]:
    # one style for each wording: what is learnt is to give two seconds, whatever the words around them
    for seen in sightings(scene):
        first_s, last_s = seen.first_s, seen.last_s
        if first_s < last_s:
            yield f"When is the {seen.name} first and last visible?", f"at {first_s} then {last_s}"
            yield f"When is the {seen.name} visible first and last?", f"on {first_s} until {last_s}"
            yield f"At what second is the {seen.name} first and last visible?", f"{first_s}, {last_s}"
            yield f"How long is the {seen.name} visible?", f"it is {first_s} and then {last_s}"
            yield f"When was the {seen.name} visible?", f"it was {first_s} until {last_s}"
    for thing in scene.things:
        if thing.change_s is None and thing.first_s > 0 and thing.last_s + 1 < scene.num_seconds:
            question = f"When does the {thing.name_at(0)} appear and disappear?"
            yield question, f"at {thing.first_s} and {thing.last_s + 1}"


def _interval(scene: Scene) -> Iterator[QuestionAnswer]:
    for seen in sightings(scene):
        if seen.first_s < seen.last_s:
            yield f"When is the {seen.name} visible?", f"from {seen.first_s} to {seen.last_s}"


CATEGORIES: dict[str, Callable[[Scene], Iterator[QuestionAnswer]]] = {
    "colour": _colour,
    "shape": _shape,
    "count": _count,
    "colour_at": _colour_at,
    "what_at": _what_at,
    "visible_at": _visible_at,
    "appear": _appear,
    "disappear": _disappear,
    "change": _change,
    "first_seen": _first_seen,
    "last_seen": _last_seen,
    "change_how": _change_how,
    "event_at": _event_at,
    "event_order": _event_order,
    "end": _end,
    "first_and_last": _first_and_last,
    HELD_OUT_CATEGORY: _interval,
}
"""Every category: from a scene to all its questions of that kind."""

BASE_CATEGORIES: tuple[str, ...] = tuple(name for name in CATEGORIES if name != HELD_OUT_CATEGORY)
"""The categories of pre-training."""

SECONDS_CATEGORIES: tuple[str, ...] = ("appear", "disappear", "change", "first_seen", "last_seen")
"""Categories whose answer is a second."""


def ask(scene: Scene, *, category: str) -> list[QuestionAnswer]:
    """Returns all questions of one category with their answers; empty when the scene allows none."""
    return list(CATEGORIES[category](scene))


def ask_some(
    scene: Scene, *, rng: np.random.Generator, num_questions: int, weights: dict[str, float]
) -> list[tuple[str, str, str]]:
    """Draws questions for one clip.

    Args:
        scene: The clip.
        rng: Source of chance.
        num_questions: How many, at most: no question comes twice.
        weights: Relative frequency of each category that may be asked.

    Returns:
        (category, question, answer) triples.
    """
    open_categories = {name: found for name in weights if (found := ask(scene, category=name))}
    drawn: list[tuple[str, str, str]] = []
    for share, place in rng.random((num_questions, 2)).tolist():
        if not open_categories:
            break
        names = list(open_categories)
        shares = list(accumulate(weights[name] for name in names))
        name = names[bisect_right(shares, share * shares[-1])]
        found = open_categories[name]
        drawn.append((name, *found.pop(int(place * len(found)))))
        if not found:
            del open_categories[name]
    return drawn
