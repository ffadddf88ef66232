"""The process that lays out rows: answers one request after the other until its parent closes the pipe.

Started by `cvft.families.any_swift.layouts`. A clip is blank frames of its number and size: no template here looks at what is on
them to decide how many tokens they take.
"""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from cvft.data.rows import Row
from cvft.data.video.decode import Clip
from cvft.data.video.pipe import RawPipe, receive_header, send_header, take_pipes
from cvft.errors import CvftError, DataError, Problem
from cvft.families.any_swift.family import FAMILIES
from cvft.families.family import Preprocessing
from cvft.families.runtime import load_runtime
from cvft.weights.folder import ModelFolder


def serve(requests: RawPipe, answers: RawPipe) -> None:
    """Answers requests until the parent closes its end.

    Args:
        requests: Unbuffered pipe to read from; the first header says what is laid out for.
        answers: Unbuffered pipe to write to.
    """
    try:
        opening = receive_header(requests)
    except EOFError:
        return
    encoder: Any = None
    while True:
        try:
            request = receive_header(requests)
        except EOFError:
            return
        try:
            encoder = encoder or _open(opening)
            answer = {"layout": vars(_lay_out(encoder, request))}
        except CvftError as error:
            problems = [vars(problem) for problem in error.problems]
            answer = {"problems": problems, "subject": error.subject, "is_about_row": isinstance(error, DataError)}
        except Exception as error:  # whatever ms-swift or transformers fail with is named, not a silent end
            problem = Problem("ms-swift's template", f"{type(error).__name__}: {str(error)[:500]}", "a row encoded")
            answer = {"problems": [vars(problem)], "subject": f"model {opening['folder']}", "is_about_row": False}
        send_header(answers, answer)


def _open(opening: dict[str, Any]) -> Any:
    family = next(each for each in FAMILIES if each.name == opening["family"])
    how = TypeAdapter(Preprocessing).validate_python(opening["how"])
    return load_runtime(family).encoder(ModelFolder.of(opening["folder"]), how)


def _lay_out(encoder: Any, request: dict[str, Any]) -> Any:
    history = tuple((question, answer) for question, answer in request["history"])
    row = Row(request["query"], request["response"], history, (), source=Path(), line=0, system=request["system"])
    clip = None
    if request["clip"] is not None:
        num_frames, height_px, width_px = request["clip"]
        clip = _blank(num_frames, height_px, width_px)
    return encoder.lay_out(row, clip)


def _blank(num_frames: int, height_px: int, width_px: int) -> Clip:
    frames = np.zeros((num_frames, height_px, width_px, 3), dtype=np.uint8)
    seconds = np.arange(num_frames, dtype=np.float32)
    return Clip(frames, seconds, tuple(range(num_frames)), num_frames, 1.0, float(num_frames), "pyav")


def main() -> None:
    """Runs the process: its pipes are kept apart from the standard streams, which libraries may print to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it then closes the pipe
    requests, answers = take_pipes()
    with contextlib.suppress(BrokenPipeError):
        serve(requests, answers)


if __name__ == "__main__":
    main()
