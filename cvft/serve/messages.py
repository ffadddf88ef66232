"""The messages of a request: what is said in turn, and how they name the one clip that it is about.

content                                                        -> text, and `AskedClip`
`{"type": "video_url", "video_url": {"url": "hall.mp4"}}`      -> a video
`{"type": "image_url", "image_url": {"url": "1.jpg"}}` and more -> the frames of one clip, in order; the request's `frame_seconds`
                                                                   says when each was taken
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from cvft.data.clip_columns import check_seconds
from cvft.errors import ValueProblem, quote
from cvft.serve.errors import ApiError, is_number, kind_of, refused

MAX_FRAMES = 768
"""Most frames of a clip. Source: FPS_MAX_FRAMES of qwen-vl-utils, the most frames that its makers show a model."""

ClipKind = Literal["video", "picture"]
"""What a name of a request stands for."""

_KINDS: dict[str, ClipKind] = {"video_url": "video", "image_url": "picture"}


@dataclass(frozen=True)
class AskedClip:
    """How a request names its clip.

    Args:
        kind: Whether it names a video, or pictures that are its frames.
        names: The name of the video, or of each frame in order.
        params: The field of the request that holds each of them.
        seconds: When each frame was taken; empty of a video, and of one picture of which nothing is said.
    """

    kind: ClipKind
    names: tuple[str, ...]
    params: tuple[str, ...] = field(compare=False)
    seconds: tuple[float, ...] = ()


class Said(NamedTuple):
    """What the messages of a request say.

    Args:
        query: The last question.
        history: The (question, answer) turns before it.
        system: The system text; None where it says nothing.
        clip: The clip.
    """

    query: str
    history: tuple[tuple[str, str], ...]
    system: str | None
    clip: AskedClip | None


def read_messages(messages: Any, *, frame_seconds: Any = None) -> Said:
    """Reads the messages of a request.

    Args:
        messages: What its `messages` hold.
        frame_seconds: What its `frame_seconds` hold; None for nothing.

    Raises:
        ApiError: with the first field that cannot be carried out.
    """
    if not isinstance(messages, list) or not messages:
        raise refused("messages", kind_of(messages), "a list of at least one message")
    said: list[str] = []
    system: str | None = None
    clip: AskedClip | None = None
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise refused(where, kind_of(message), "an object with `role` and `content`")
        for key, value in message.items():
            if key not in ("role", "content") and value not in (None, [], {}):
                raise refused(f"{where}.{key}", "a field that is not carried out", "`role` and `content` alone")
        role, expected = message.get("role"), ("user", "assistant")[len(said) % 2]
        if role == "system" and number == 0:
            system, _ = _read_content(message.get("content"), where=f"{where}.content", is_question=False)
            continue
        if role not in ("user", "assistant"):
            need = "`user` or `assistant`; `system` in the first message alone"
            raise refused(f"{where}.role", quote(json.dumps(role)), need)
        if role != expected:
            raise refused(f"{where}.role", quote(role), f"`{expected}`: questions and answers in turn")
        text, found = _read_content(message.get("content"), where=f"{where}.content", is_question=role == "user")
        said.append(text)
        if found is not None and clip is not None and found != clip:
            raise _second_clip(found.params[0])
        clip = clip or found
    if len(said) % 2 == 0:
        raise refused("messages", "an answer at the end" if said else "no question", "a question at the end")
    history = tuple(zip(said[:-1:2], said[1::2], strict=True))
    return Said(said[-1], history, system, _with_seconds(clip, frame_seconds))


def _read_content(content: Any, *, where: str, is_question: bool) -> tuple[str, AskedClip | None]:
    """Returns the text of a message, and the clip that it names."""
    if isinstance(content, str):
        return content, None
    if not isinstance(content, list) or not content:
        raise refused(where, kind_of(content), "text, or a list of parts")
    texts: list[str] = []
    clip: AskedClip | None = None
    last_frame = -1
    for number, part in enumerate(content):
        at = f"{where}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in (("text", *_KINDS) if is_question else ("text",)):
            need = "`text`, `video_url` or `image_url`" if is_question else "`text`"
            raise refused(f"{at}.type", quote(json.dumps(kind)), need)
        for key in part:
            if key not in ("type", kind):
                raise refused(f"{at}.{key}", "a field that is not carried out", f"`type` and `{kind}` alone")
        value = part.get(kind)
        if kind == "text":
            if not isinstance(value, str):
                raise refused(f"{at}.text", kind_of(value), "text")
            texts.append(value)
            continue
        name, param = _read_url(value, where=f"{at}.{kind}", is_picture=kind == "image_url")
        found = AskedClip(_KINDS[kind], (name,), (param,))
        if clip is None:
            clip, last_frame = found, number
        elif clip.kind != found.kind:
            raise refused(f"{at}.type", f"`{kind}` beside a {clip.kind}", "one video, or frames alone")
        elif found.kind == "video":
            if found != clip:
                raise _second_clip(param)
        elif number != last_frame + 1:
            need = "frames side by side: when each was taken stands in `frame_seconds`, and text follows them"
            raise refused(f"{at}.type", "a frame after text that follows other frames", need)
        elif len(clip.names) == MAX_FRAMES:
            raise refused(where, f"more than {MAX_FRAMES} frames", "at most as many")
        else:
            clip = replace(clip, names=(*clip.names, name), params=(*clip.params, param))
            last_frame = number
    return "\n".join(texts), clip


def _read_url(value: Any, *, where: str, is_picture: bool) -> tuple[str, str]:
    """Returns a URL, and the field that holds it."""
    if isinstance(value, dict):
        for key in value:
            # what clients write who leave the size of a picture to the model
            if key != "url" and not (is_picture and key == "detail" and value[key] in (None, "auto")):
                raise refused(f"{where}.{key}", "a field that is not carried out", "`url` alone")
        value, where = value.get("url"), f"{where}.url"
    if not isinstance(value, str) or not value:
        raise refused(where, kind_of(value), "a URL")
    return value, where


def _with_seconds(clip: AskedClip | None, seconds: Any) -> AskedClip | None:
    """Returns a clip of frames with their seconds; a single one needs none, and is then an image where a model takes one."""
    if clip is None or clip.kind == "video":
        if seconds is not None:
            raise refused("frame_seconds", "it without frames", "`image_url` parts: a video has its own seconds")
        return clip
    num_frames = len(clip.names)
    if seconds is None and num_frames > 1:
        need = f"{num_frames} seconds, when each `image_url` was taken: a list that rises from 0"
        raise refused("frame_seconds", "nothing", need)
    if seconds is None:
        return clip
    if not isinstance(seconds, list) or not all(map(is_number, seconds)):
        got = "a list with other values in it" if isinstance(seconds, list) else kind_of(seconds)
        raise refused("frame_seconds", got, "a list of numbers, one for each `image_url`")
    try:
        check_seconds(seconds, num_frames=num_frames)
    except ValueProblem as error:
        raise refused(
            "frame_seconds", error.got, f"{error.need} ({error.hint})" if error.hint else error.need
        ) from None
    return replace(clip, seconds=tuple(map(float, seconds)))


def _second_clip(param: str) -> ApiError:
    return refused(param, "a second clip", "one clip in a conversation")
