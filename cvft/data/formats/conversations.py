r"""Formats that hold a whole conversation: `messages`, `sharegpt`, `llava`.

    {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A dog."}], "videos": ["a.mp4"]}
    {"conversations": [{"from": "human", "value": "<video>Who?"}, {"from": "gpt", "value": "A dog."}], "videos": ["a.mp4"]}
    {"id": "7", "video": "a.mp4", "conversations": [{"from": "human", "value": "<image>\nWho?"}, ...]}

In the first two a later turn is said after the earlier ones; in the third, each is a question of its own about the clip.

Source: ms-swift's custom dataset page (`messages`, `loss`); LLaMA-Factory's data page (`sharegpt`); LLaVA's and
LLaVA-Video-178K's training files (`llava`, whose `<image>` stands for the video).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from cvft.data.formats.turns import Columns, Turn, read_text, rest_of, rows_of_turns, with_system
from cvft.data.media_columns import COLUMN_OF_KEY
from cvft.data.tags import HINT_SEVERAL
from cvft.errors import ValueProblem, quote

_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
"""Role in a file -> whose words they are."""

_UNANSWERED = ("assistant", None, True)
"""What stands for the answer of a question that waits for it."""

_CONTENT_OF = {role: f"`content` of {quote(role)}" for role in _ROLES}
"""Role -> how messages name what it says."""

_CONVERSATIONS = ("conversations", "conversation")

_IMAGE_TAG = "<image>"
_VIDEO_TAG = "<video>"


def is_messages(columns: Mapping[str, Any]) -> bool:
    """Says whether an object holds `messages` with `role` and `content`."""
    return _holds(columns.get("messages"), "role", "content")


def is_sharegpt(columns: Mapping[str, Any]) -> bool:
    """Says whether an object holds `conversations` with `from` and `value`, and no `video` of LLaVA."""
    return _has_conversation(columns) and "video" not in columns


def is_llava(columns: Mapping[str, Any]) -> bool:
    """Says whether an object holds `conversations` with `from` and `value`, and no `videos` of ShareGPT."""
    return _has_conversation(columns) and "videos" not in columns


def adapt_messages(columns: Mapping[str, Any]) -> list[Columns]:
    """Reads one object with `messages`; clips stand in `videos` or in the parts of a message.

    Raises:
        ValueProblem: when it is no conversation that rows can hold.
    """
    parts = _Parts()
    said = [parts.read(each) for each in _turns_in(columns, ("messages",))]
    system, turns = _pair(said)
    rest = with_system(rest_of(columns, ("messages", "system")), columns, system)
    clips, about = parts.clips, parts.about
    for column, found in clips.items():
        if found and rest.get(column):
            what = "clips" if column == "videos" else "pictures"
            got = f"{what} in {quote(column)} and in messages"
            raise ValueProblem(got, "one place for them", "remove one of them")
    if both := about.keys() & rest.keys():
        raise ValueProblem(f"{quote(min(both))} in a column and in messages", "one place for it", "remove one of them")
    rest.update({column: found for column, found in clips.items() if found})
    return rows_of_turns(turns, rest | about if about else rest)


def adapt_sharegpt(columns: Mapping[str, Any]) -> list[Columns]:
    """Reads one object with `conversations`, of which a later turn is said after the earlier ones.

    Raises:
        ValueProblem: when it is no conversation that rows can hold.
    """
    system, turns = _read_conversation(columns)
    return rows_of_turns(turns, with_system(rest_of(columns, (*_CONVERSATIONS, "system")), columns, system))


def adapt_llava(columns: Mapping[str, Any]) -> list[Columns]:
    """Reads one object with `conversations`, of which each turn is a question of its own about the clip.

    `<image>` stands for the clip where there is one and no image.

    Raises:
        ValueProblem: when it is no conversation that rows can hold.
    """
    system, turns = _read_conversation(columns)
    rest = with_system(rest_of(columns, (*_CONVERSATIONS, "system", "video")), columns, system)
    video = columns.get("video")
    rest["videos"] = video if isinstance(video, list) else [] if video in (None, "") else [video]
    if "image" in rest:  # beside a clip it would only be one column more
        image = rest.pop("image")
        rest["images"] = image if isinstance(image, list) or image is None else [image]
    if rest["videos"] and not rest.get("images"):
        turns = [turn._replace(query=turn.query.replace(_IMAGE_TAG, _VIDEO_TAG)) for turn in turns]
    return [row for turn in turns for row in rows_of_turns([turn], rest)]


def _holds(value: Any, *names: str) -> bool:
    return isinstance(value, list) and any(
        isinstance(each, dict) and all(name in each for name in names) for each in value
    )


def _has_conversation(columns: Mapping[str, Any]) -> bool:
    return any(_holds(columns.get(name), "from", "value") for name in _CONVERSATIONS)


def _turns_in(columns: Mapping[str, Any], names: Sequence[str]) -> list[Mapping[str, Any]]:
    for name in names:
        if name in columns:
            break
    else:
        raise ValueProblem(
            f"no column {quote(names[0])}", "a conversation in it", "data.format says how rows are written"
        )
    value = columns[name]
    for each in value if isinstance(value, list) and value else [None]:
        if not isinstance(each, dict):
            raise ValueProblem(f"{quote(value, most=40)} in {quote(name)}", "a list of turns, each an object")
    turns: list[Mapping[str, Any]] = value
    return turns


def _read_conversation(columns: Mapping[str, Any]) -> tuple[str | None, list[Turn]]:
    said = []
    for number, each in enumerate(_turns_in(columns, _CONVERSATIONS), start=1):
        role = _role(each, "from")
        said.append((role, read_text(each.get("value"), f"`value` of turn {number}"), True))
    return _pair(said)


def _role(turn: Mapping[str, Any], name: str) -> str:
    written = turn.get(name)
    role = _ROLES.get(written) if isinstance(written, str) else None
    if role is None:
        got = f"the role {quote(written)}" if name in turn else f"a turn without {quote(name)}"
        raise ValueProblem(got, "turns of `user` and `assistant`", "a row has no place for tools and other voices")
    return role


class _Parts:
    """Reads the messages of one conversation, one after the other, and keeps what their parts show."""

    def __init__(self) -> None:
        self.clips: dict[str, list[Any]] = {"videos": [], "images": []}
        self._about: list[Columns] = []
        self._has_said = False

    @property
    def about(self) -> Columns:
        """What is said of the clips: of one as a row says it, of several as lists with an entry for each."""
        if len(self._about) < 2:
            return self._about[0] if self._about else {}
        return {name: [each.get(name) for each in self._about] for each in self._about for name in each}

    def read(self, message: Mapping[str, Any]) -> tuple[str, str, bool]:
        """Returns whose words they are, the text, and whether it is trained on."""
        whose = _role(message, "role")
        content, role = message.get("content"), message["role"]
        loss = message.get("loss")
        if loss is not None and not isinstance(loss, bool):
            raise ValueProblem(f"`loss` {quote(loss)}", "true or false")
        if not isinstance(content, list):
            text = read_text(content, _CONTENT_OF[role])
            self._has_said |= bool(text.strip()) and whose != "system"
            return whose, text, loss is not False
        texts = []
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text":
                texts.append(read_text(part.get("text"), f"`text` of {quote(role)}"))
                self._has_said |= bool(texts[-1].strip()) and whose != "system"
            elif kind in ("video", "video_url"):
                self._add("videos", part, kind)
                said_of = {column: part[key] for key, column in COLUMN_OF_KEY.items() if part.get(key) is not None}
                self._about.append(said_of)
                if unread := part.keys() - {"type", kind, *COLUMN_OF_KEY}:
                    hint = "it has no place in a row: video.max_frames and its like say how clips are shown"
                    raise ValueProblem(
                        f"{quote(min(unread))} in a part of a message", "what a row can say of its clip", hint
                    )
            elif kind in ("image", "image_url"):
                self._add("images", part, kind)
                if unread := part.keys() - {"type", kind}:
                    need = "what a row can say of its picture"
                    raise ValueProblem(f"{quote(min(unread))} in a part of a message", need)
            else:
                hint = "leave the row out: a model here takes text, and clips or pictures"
                need = "parts `text`, `video` and `image`"
                raise ValueProblem(f"a part of the type {quote(kind)} in a message", need, hint)
        return whose, "".join(texts), loss is not False

    def _add(self, column: str, part: Mapping[str, Any], kind: str) -> None:
        """Keeps a clip or a picture; of several, none may stand behind text, for a row shows them before it."""
        shown = part.get(kind)
        self.clips[column].append(shown.get("url") if isinstance(shown, dict) else shown)
        if self._has_said and len(self.clips[column]) > 1:
            got = f"a part of the type {quote(kind)} behind text, beside others"
            raise ValueProblem(got, "several clips or pictures before the text of the first question", HINT_SEVERAL)


def _pair(said: Sequence[tuple[str, str, bool]]) -> tuple[str | None, list[Turn]]:
    """Returns the system text at the head, and what was said as questions with answers; the last one may wait for its answer.

    Raises:
        ValueProblem: when a system text stands elsewhere, or when user and assistant do not take turns.
    """
    system = None
    if said and said[0][0] == "system":
        system, said = said[0][1], said[1:]
    if not said:
        raise ValueProblem("no turn", "a question and its answer")
    turns = []
    has_trained = False
    left = iter(said)
    for number, (asker, query, _) in enumerate(left):
        answerer, response, is_trained = next(left, _UNANSWERED)
        if asker != "user" or answerer != "assistant":
            _refuse_order([role for role, _, _ in said])
        if response is not None and is_trained and not response.strip():
            read_text(response, f"the answer in turn {2 * number + 2}", may_be_empty=False)
        turns.append(Turn(query, response, is_trained))
        has_trained = has_trained or is_trained
    if not has_trained:
        raise ValueProblem("`loss: false` at every answer", "an answer to learn", "remove the row")
    return system, turns


def _refuse_order(roles: Sequence[str]) -> NoReturn:
    if "system" in roles:
        raise ValueProblem("a system text amid the turns", "one at their head alone", "remove it, or move it there")
    due = ["assistant" if number % 2 else "user" for number in range(len(roles))]
    number = next(number for number, role in enumerate(roles) if role != due[number])
    got = f"turn {number + 1} of {quote(roles[number])}"
    raise ValueProblem(got, f"one of {quote(due[number])}: user and assistant take turns, and the user begins")
