"""Answers in the form of OpenAI's API: one object, or a stream of chunks as server-sent events."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

DONE = b"data: [DONE]\n\n"


class Reply:
    """One answer's objects.

    Args:
        model: The name of the model that answers.
        num_prompt_tokens: Length of the prompt, the clip's tokens included.
    """

    def __init__(self, model: str, *, num_prompt_tokens: int) -> None:
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._num_prompt_tokens = num_prompt_tokens

    def whole(self, choices: Sequence[tuple[str, str]], *, num_tokens: int) -> dict[str, Any]:
        """Returns the whole answer.

        Args:
            choices: Text of each, and how it ended.
            num_tokens: Tokens of all of them together.
        """
        listed = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": reason,
            }
            for index, (text, reason) in enumerate(choices)
        ]
        return {**self._head, "object": "chat.completion", "choices": listed, "usage": self.usage(num_tokens)}

    def chunk(
        self, delta: dict[str, Any], *, index: int, reason: str | None = None, usage_follows: bool = False
    ) -> bytes:
        """Returns a piece of the answer as an event.

        Args:
            delta: What is new of the message.
            index: Which choice it belongs to.
            reason: How it ended, in the last one.
            usage_follows: Whether a chunk with the usage ends the stream: the others then say that they have none.
        """
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        usage = {"usage": None} if usage_follows else {}
        return event({**self._head, "object": "chat.completion.chunk", "choices": [choice], **usage})

    def usage_chunk(self, num_tokens: int) -> bytes:
        """Returns the last event of a stream that was asked for its usage."""
        return event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self.usage(num_tokens)})

    def usage(self, num_tokens: int) -> dict[str, int]:
        """Returns the tokens of prompt and answer."""
        asked = self._num_prompt_tokens
        return {"prompt_tokens": asked, "completion_tokens": num_tokens, "total_tokens": asked + num_tokens}


def event(data: dict[str, Any]) -> bytes:
    """Returns a server-sent event; every character of its data is one that UTF-8 can hold."""
    return f"data: {json.dumps(data)}\n\n".encode()
