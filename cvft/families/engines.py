"""Serving engines that merged models are handed over to: what was read of them, and what a family tells them. No torch.

Neither engine has answered here: their code was read, in the releases that are named. That of vLLM has run up to the model:
`tests/golden/vllm.json` holds what it makes of requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

from cvft.errors import ModelError, Problem

if TYPE_CHECKING:
    pass


class Engine(NamedTuple):
    """A release of an engine.

    Args:
        name: Its name, which is also its command.
        version: The release whose code was read.
    """

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


ENGINES = {each.name: each for each in (Engine("vllm", "0.33.0"), Engine("sglang", "0.5.23"))}

Sends = Literal["frames", "clips"]
"""What requests carry: the frames that were chosen and resized here, or clips whose frames the engine chooses."""

TAKES_CLIPS_ALONE = (
    "a chat route whose `video_url` is a clip (`ChatCompletionMessageContentVideoURL` of `entrypoints/openai/protocol.py`), "
    "with the seconds and the numbers of its own frames"
)
"""What SGLang has for requests. Source: its 0.5.23, `srt/`."""

NEEDS_FRAMES = "one that takes the frames that were chosen, with their numbers"

HINT_SERVE = "serve it with `cvft serve`, a server for each GPU behind a balancer: docs/handover.md"


@dataclass(frozen=True)
class Handover:
    """What an engine is told so that it feeds a model as its contract says.

    Args:
        chat_template: Jinja text that writes a conversation, in place of the folder's own.
        media: How the engine's loader reads clips, for all requests.
        processor: How the engine's processor turns frames into pixels, for all requests.
        system: System prompt; an empty one stands for none.
        stop_ids: Ids that end an answer.
        clip_id: Id under the tokens of a clip here.
        engine_clip_id: The engine's; its prompts may differ in this alone.
        fills_pairs: Whether an odd number of frames is sent with the last one twice: the engine refuses a single frame.
    """

    chat_template: str
    media: Mapping[str, Any]
    processor: Mapping[str, Any]
    system: str
    stop_ids: tuple[int, ...]
    clip_id: int
    engine_clip_id: int
    fills_pairs: bool = False


@dataclass(frozen=True)
class Reasons:
    """Collects why an engine cannot be told, so that all are reported at once."""

    engine: Engine
    title: str
    problems: list[Problem] = field(default_factory=list)

    def add(self, where: str, got: str, need: str, hint: str = HINT_SERVE) -> None:
        """Adds one."""
        self.problems.append(Problem(where, got, need, hint))

    def check(self) -> None:
        """Raises what was added.

        Raises:
            ModelError: when there is something.
        """
        if self.problems:
            raise ModelError(f"{self.title} in {self.engine}", self.problems)


def refuse_family(engine: Engine, title: str, got: str, need: str) -> NoReturn:
    """Refuses a family as a whole.

    Args:
        engine: The engine.
        title: The family's name in sentences.
        got: What there is.
        need: What there would have to be.

    Raises:
        ModelError: always.
    """
    raise ModelError(f"{title} in {engine}", [Problem("family", got, need, HINT_SERVE)])
