"""Reads the time that an answer names: `from 3 to 7`, `at 0:12`, `第2秒至第4秒` -> seconds.

The rules, with the forms that could be read otherwise:

* The first span that an answer names counts; without a span, the first instant.
* Ends in reversed order are swapped.
* A unit written once holds for both ends: `3-7 s`, `1 to 2 minutes`.
* Numbers without any unit are seconds when something says that a time is meant: `from ... to`, `between ... and`, brackets,
  `start ... end`, or an answer that is nothing else. A noun after them says that they count something: `3 to 7 people`.
* `0:12` is minutes and seconds, `1:02:03` begins with hours. `5:30 pm` is a time of day, `3:2` a score: no times.
* `the first 5 seconds` and `until 5 s` begin at 0. `the last 5 seconds`, `for 5 seconds` and `5 seconds later` name no time.
* `from 5 s to the end` names the instant 5, for the end is not known here.
* `3,5 s` has a decimal comma, `[3,5]` two numbers, `1,000 s` a thousand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cvft.data.numerals import CHINESE, ENGLISH, fold, read_chinese, read_digits, read_english

_TOKEN = re.compile(
    rf"""
    (?P<clock>\d+:[0-5]\d(?::[0-5]\d)?(?:[.,]\d+)?(?![\d:]))
    | (?P<primes>\d+['′]\s?\d{{1,2}}(?:\.\d+)?(?:["″]|''|′′)?)
    | (?P<number>\d{{1,3}}(?:,\d{{3}})+(?!\d)|\d+(?:\.\d+)?)
    | (?P<chinese>[{CHINESE}]+)
    | (?P<word>秒钟|秒|分钟|分|小时|直到|到|至|从|由|第|之间|开始|结束|持续|最后|前|大约|约|[^\W\d_])
    | (?P<sign>\.\.\.?|--?>|=>|''|\S)
    """,
    re.VERBOSE | re.ASCII,
)
_LATIN = re.compile(r"[a-zà-öø-ÿ]+")

_SECOND, _MINUTE, _HOUR = 1, 60, 3600
_UNITS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds", "秒", "秒钟", '"', "″", "''"), _SECOND),
    **dict.fromkeys(("min", "mins", "minute", "minutes", "分", "分钟"), _MINUTE),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours", "小时"), _HOUR),
}
_BEFORE_NUMBER = frozenset(("second", "seconds", "sec", "t", "time", "timestamp", "@", "s"))
_TO = frozenset(
    (
        "to",
        "till",
        "til",
        "until",
        "through",
        "thru",
        "-",
        "–",
        "—",
        "−",
        "~",
        "〜",
        "..",
        "...",
        "->",
        "-->",
        "=>",
        "→",
    )
)
_TO |= {"到", "至", "直到"}
_FROM = frozenset(("from", "between", "从", "由"))
_FILLERS = frozenset(
    ("about", "around", "approximately", "approx", "roughly", "the", "up", "at", "约", "大约", "≈", "just")
)
_START = frozenset(("start", "starts", "started", "starting", "begin", "begins", "began", "beginning", "onset", "开始"))
_END = frozenset(("end", "ends", "ended", "ending", "stop", "stops", "stopped", "finish", "finishes", "结束"))
_DURATION = frozenset(
    ("for", "lasts", "lasting", "lasted", "takes", "took", "last", "final", "every", "持续", "最后", "within")
)
_RELATIVE = frozenset(("later", "long", "ago", "earlier", "duration", "apart"))
_FIRST = frozenset(("first", "initial", "opening", "前"))
_UNTIL = frozenset(("until", "till", "til", "直到"))
_FUNCTION = frozenset(
    ("a", "an", "the", "and", "or", "when", "while", "where", "which", "that", "as", "in", "of", "on", "at", "is")
)
_FUNCTION |= {"are", "was", "it", "he", "she", "they", "there", "then", "with", "during"}
_OPEN = {"[": "]", "(": ")", "<": ">", "{": "}", "【": "】"}
_MAX_FILLERS = 6
"""Words that may stand between `starts` and its time, or between a start and its end."""


@dataclass(frozen=True)
class Span:
    """A time that an answer names.

    Args:
        start_s: First second.
        end_s: Last second, not before `start_s`; equal for an instant.
        is_whole: Whether both ends are written without decimals.
        is_range: Whether two ends are written: `from 3 to 3` is a range, `at 3 s` is none.
    """

    start_s: float
    end_s: float
    is_whole: bool = True
    is_range: bool = True

    @property
    def middle_s(self) -> float:
        """The second in the middle."""
        return (self.start_s + self.end_s) / 2


@dataclass(frozen=True)
class _Atom:
    """One time in the text: value in units of `unit`, None where no unit is written; `end` is the token after it."""

    value: float
    unit: int | None
    end: int
    is_whole: bool
    is_clock: bool = False

    def seconds(self, unit: int | None) -> float:
        return self.value * (self.unit or unit or _SECOND)


def read_time(text: str) -> Span | None:
    """Returns the time that an answer names, or None; see the module's rules.

    Example:
        >>> read_time("2 people walk by between 0:58 and 1:05")
        Span(start_s=58.0, end_s=65.0, is_whole=True, is_range=True)
        >>> read_time("第三秒")
        Span(start_s=3.0, end_s=3.0, is_whole=True, is_range=False)
        >>> read_time("for 5 seconds") is None
        True
    """
    return _Reader(text).read()


def is_time(text: str) -> bool:
    """Says whether a text is a time and nothing else but the words around it, as `from 3 to 7 s` or `At 0:12.`."""
    reader = _Reader(text)
    return reader.read() is not None and reader.covers_all()


class _Reader:
    def __init__(self, text: str) -> None:
        self.words = _cut(fold(text))
        self.used: tuple[int, int] = (0, 0)

    def read(self) -> Span | None:
        indices = range(len(self.words))
        for read_at in (self._span_at, self._instant_at):
            for index in indices:
                if (span := read_at(index)) is not None:
                    return span
        return self._bare_answer()

    def covers_all(self) -> bool:
        """Whether nothing but fillers, brackets and signs stands outside the time that was read."""
        start, end = self.used
        outside = self.words[:start] + self.words[end:]
        known = _FILLERS | _FROM | _BEFORE_NUMBER | {"in", "on", "video", "clip", "第", "之间", "在", "处", "左右"}
        return all(word in known or word in _UNITS or not any(c.isalnum() for c in word) for word in outside)

    # --- spans ---

    def _span_at(self, index: int) -> Span | None:
        return self._bracketed(index) or self._keyed(index) or self._ranged(index) or self._from_zero(index)

    def _bracketed(self, index: int) -> Span | None:
        """`[3, 7]`, `(0:12 - 0:15)`, `<3.0><7.0>`."""
        close = _OPEN.get(self._word(index))
        first = self._atom(index + 1) if close else None
        if first is None:
            return None
        after = first.end
        if self._word(after) == close:  # <3.0><7.0>, <3> to <7>
            after += 1
            if self._word(after) in _TO:
                after += 1
            if _OPEN.get(self._word(after)) != close:
                return None
        elif self._word(after) not in _TO | {",", ";"}:
            return None
        second = self._atom(after + 1)
        if second is None or self._word(second.end) != close:
            return None
        return self._make(first, second, index, second.end + 1)

    def _keyed(self, index: int) -> Span | None:
        """`starts at 3 s and ends at 7 s`, `{"start": 3, "end": 7}`, `3秒开始,7秒结束`."""
        word = self._word(index)
        for opening, closing in ((_START, _END), (_END, _START)):
            if word in opening:
                first = self._next_atom(index + 1)
                key = self._next_key(first.end, closing) if first else None
                second = self._next_atom(key + 1) if key is not None else None
                if first and second:
                    return self._make(first, second, index, second.end)
        if (first := self._atom(index)) is not None and self._word(first.end) == "开始":
            second = self._next_atom(first.end + 1)
            if second and self._word(second.end) == "结束":
                return self._make(first, second, index, second.end + 1)
        return None

    def _ranged(self, index: int) -> Span | None:
        """`from 3 to 7`, `between 3 and 7 s`, `0:12–1:05`, `从第2秒到第4秒`."""
        opener = self._word(index) if self._word(index) in _FROM else None
        begin = self._skip_fillers(index + 1 if opener else index)
        first = self._atom(begin)
        if first is None:
            return None
        at = first.end + 1 if self._word(first.end) == "up" else first.end
        joint = self._word(at)
        if joint not in _TO and not (opener == "between" and joint in ("and", "&")):
            return None
        second = self._atom(self._skip_fillers(at + 1))
        if second is None or (first.is_clock and second.unit is None):  # 0:12-15 could end at 15 s or at 0:15
            return None
        if first.unit is None and second.unit is None:
            is_all = index == 0 and self._is_end(second.end)
            if not (opener and self._is_no_count(second.end)) and not is_all:
                return None
        return self._make(first, second, index, second.end)

    def _from_zero(self, index: int) -> Span | None:
        """`the first 5 seconds`, `until 5 s`, `前5秒`."""
        word = self._word(index)
        if word not in _FIRST | _UNTIL:
            return None
        atom = self._atom(self._skip_fillers(index + 1))
        if atom is None or atom.unit is None:
            return None
        return self._make(_Atom(0, atom.unit, index, True), atom, index, atom.end)

    def _make(self, first: _Atom, second: _Atom, start: int, end: int) -> Span:
        self.used = (start, end)
        ends = sorted((first.seconds(second.unit), second.seconds(first.unit)))
        return Span(ends[0], ends[1], first.is_whole and second.is_whole)

    # --- instants ---

    def _instant_at(self, index: int) -> Span | None:
        atom = self._atom(index)
        if atom is None or atom.unit is None:
            return None
        before, after = self._before(index), self._word(atom.end)
        if before in _DURATION or after in _RELATIVE or (after == "-" and self._word(atom.end + 1).isalpha()):
            return None
        self.used = (index, atom.end)
        return Span(atom.seconds(None), atom.seconds(None), atom.is_whole, is_range=False)

    def _bare_answer(self) -> Span | None:
        """`3`, `at about 3`: an answer that is a number and nothing else."""
        index = self._skip_fillers(0)
        atom = self._atom(index)
        if atom is None or atom.unit is not None or not self._is_end(atom.end):
            return None
        self.used = (index, atom.end)
        return Span(atom.value, atom.value, atom.is_whole, is_range=False)

    def _before(self, index: int) -> str:
        while index > 0 and self._word(index - 1) in _FILLERS:
            index -= 1
        return self._word(index - 1) if index else ""

    # --- pieces ---

    def _word(self, index: int) -> str:
        return self.words[index] if 0 <= index < len(self.words) else ""

    def _is_end(self, index: int) -> bool:
        return not any(character.isalnum() or character in "%°$" for word in self.words[index:] for character in word)

    def _is_no_count(self, index: int) -> bool:
        """Whether what follows a bare number does not say what it counts."""
        word = self._word(index)
        return not word or word in _FUNCTION or (not word[0].isalnum() and word not in ("%", "°"))

    def _skip_fillers(self, index: int) -> int:
        while self._word(index) in _FILLERS or (self._word(index) == "~" and self._word(index + 1)[:1].isdigit()):
            index += 1
        return index

    def _next_atom(self, index: int) -> _Atom | None:
        for at in range(index, index + _MAX_FILLERS):
            if (atom := self._atom(at)) is not None:
                return atom
        return None

    def _next_key(self, index: int, keys: frozenset[str]) -> int | None:
        return next((at for at in range(index, index + _MAX_FILLERS) if self._word(at) in keys), None)

    def _atom(self, index: int) -> _Atom | None:
        word = self._word(index)
        if ":" in word and word[:1].isdigit():
            return None if self._is_time_of_day(index + 1) else _clock(word, index + 1)
        if any(mark in word for mark in "'′") and word[:1].isdigit():
            minutes, seconds = re.findall(r"\d+(?:\.\d+)?", word)
            return _Atom(60 * float(minutes) + float(seconds), _SECOND, index + 1, "." not in word)
        if word == "第":
            inner = self._number(index + 1)
            return None if inner is None else self._with_unit(inner)
        if word in _BEFORE_NUMBER:
            at = index + 1
            while self._word(at) in ("=", ":", "#", "number"):
                at += 1
            inner = self._number(at)
            # `the second one` is no time, and in `at 3 s` the unit comes after
            if inner is None or self._word(inner.end) in _UNITS or self._word(at) == "one":
                return None
            return _Atom(inner.value, _SECOND, inner.end, inner.is_whole)
        inner = self._number(index)
        return None if inner is None else self._with_unit(inner)

    def _is_time_of_day(self, index: int) -> bool:
        word = self._word(index)
        return word in ("am", "pm") or (word in ("a", "p") and self._word(index + 1) == ".")

    def _number(self, index: int) -> _Atom | None:
        word = self._word(index)
        value = read_digits(word)
        if value is not None:
            # a comma makes a decimal only before a unit: `3,5 s`
            decimals = self._word(index + 2)
            is_split = self._word(index + 1) == "," and decimals.isdigit() and self._word(index + 3) in _UNITS
            if is_split and self._word(index - 1) not in _OPEN and "." not in word:
                return _Atom(float(f"{word}.{decimals}"), None, index + 3, False)
            end = index + 1
            if self._word(end) in ("st", "nd", "rd", "th"):
                end += 1
            return _Atom(value, None, end, "." not in word)
        if word in ENGLISH:
            said = read_english(self.words[index : index + 8])
            assert said is not None, "the first word is a number"
            return _Atom(float(said[0]), None, index + said[1], True)
        number = read_chinese(word)
        return None if number is None else _Atom(float(number), None, index + 1, True)

    def _with_unit(self, number: _Atom) -> _Atom:
        """Takes the unit after a number, and lower ones after it: `1 min 12 s`, `1m12s`, `1分12秒`."""
        unit = self._unit(number.end, is_compound=False)
        if unit is None:
            return number
        total, end, is_whole = number.value * unit, number.end + 1, number.is_whole
        last = unit
        while last > _SECOND:
            at = end + 1 if self._word(end) in ("and", ",") else end
            more = self._number(at)
            lower = self._unit(more.end, is_compound=True) if more else None
            if more is None or lower is None or lower >= last:
                break
            total, end, is_whole, last = total + more.value * lower, more.end + 1, is_whole and more.is_whole, lower
        if last == unit:
            return _Atom(number.value, unit, end, is_whole)
        return _Atom(total, _SECOND, end, is_whole)

    def _unit(self, index: int, *, is_compound: bool) -> int | None:
        word = self._word(index)
        if word == "m":  # metres, unless seconds or an hour stand beside it: `1m12s`, `1h2m`
            follows = self._number(index + 1)
            is_minutes = is_compound or (follows is not None and self._word(follows.end) in ("s", "sec"))
            return _MINUTE if is_minutes else None
        return _UNITS.get(word)


def _clock(word: str, end: int) -> _Atom:
    parts = word.replace(",", ".").split(":")
    total = 0.0
    for part in parts:
        total = total * 60 + float(part)
    return _Atom(total, _SECOND, end, "." not in parts[-1], is_clock=True)


def _cut(text: str) -> list[str]:
    """Cuts text into numbers, clock times, words and signs."""
    words, index = [], 0
    while index < len(text):
        if text[index].isspace():
            index += 1
            continue
        latin = _LATIN.match(text, index)
        match = latin or _TOKEN.match(text, index)
        assert match is not None, "every character but white space is a token"
        words.append(match.group())
        index = match.end()
    return words
