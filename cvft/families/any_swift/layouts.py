"""Rows laid out by ms-swift's own template, in a process beside: nobody who plans imports ms-swift or torch. No torch.

row + facts of its clip -> `cvft.families.any_swift.layout_main`: blank frames of that size, encoded as in training -> Layout
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import asdict
from typing import IO, Any

from cvft.data.rows import Row
from cvft.data.video.pipe import receive_header, send_header
from cvft.data.video.process import ClipInfo
from cvft.errors import DataError, ModelError, Problem
from cvft.families.any_swift.inputs import NO_IMAGES
from cvft.families.family import LayOut, Layout, Preprocessing, naming, only_clip
from cvft.imports import python_environment
from cvft.processes import NUM_LOG_LINES_SHOWN
from cvft.weights.folder import ModelFolder

MODULE = "cvft.families.any_swift.layout_main"
"""What the process runs."""


class LayoutProcess:
    """One process that lays out rows, started when it is first asked; it ends when this end of its pipe does.

    Args:
        family: Name of the family.
        folder: The model folder.
        how: How rows reach the model.
    """

    def __init__(self, family: str, folder: str, how: Preprocessing) -> None:
        self._opening = {"family": family, "folder": folder, "how": asdict(how)}
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, row: Row, clip: ClipInfo | None) -> Layout:
        """Lays out a row with its answer.

        Raises:
            DataError: when the template cannot take its texts.
            ModelError: when the template cannot be used with the folder, or its process ended.
        """
        facts = None if clip is None else (clip.num_frames, clip.height_px, clip.width_px)
        texts = {"query": row.query, "response": row.response, "history": row.history, "system": row.system}
        question = {**texts, "clip": facts}
        with self._lock:
            said = self._exchange(question)
        if "problems" in said:
            problems = [Problem(**each) for each in said["problems"]]
            raise (
                DataError(said["subject"], problems) if said["is_about_row"] else ModelError(said["subject"], problems)
            )
        return Layout(**said["layout"])

    def _exchange(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            process = self._process or self._start()
            assert process.stdin is not None, "a pipe"
            assert process.stdout is not None, "a pipe"
            send_header(process.stdin, question)  # type: ignore[arg-type]
            return receive_header(process.stdout)  # type: ignore[arg-type]
        except (OSError, EOFError, ValueError) as error:
            need, hint = "rows laid out by ms-swift's template", "\n".join(self._last_lines())
            problem = Problem("the process that lays out rows", f"its end ({type(error).__name__})", need, hint)
            raise ModelError(f"model {self._folder}", [problem]) from error

    def _last_lines(self) -> list[str]:
        """Returns the end of what the libraries in the process have printed."""
        if self._said is None:
            return []
        self._said.seek(0)
        return self._said.read().decode(errors="replace").strip().splitlines()[-NUM_LOG_LINES_SHOWN:]

    def _start(self) -> subprocess.Popen[bytes]:
        variables = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            bufsize=0,
            env=python_environment(variables),
        )
        self._process = process
        weakref.finalize(self, _end, process, self._said)
        assert process.stdin is not None, "a pipe"
        send_header(process.stdin, self._opening)  # type: ignore[arg-type]
        return process


def _end(process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    """Lets a process end by closing its pipes, and waits for it."""
    for pipe in (process.stdin, process.stdout, said):
        if pipe is not None:
            pipe.close()
    process.wait()


def lay_out_beside(family: str, folder: ModelFolder, how: Preprocessing) -> LayOut:
    """Returns what lays out rows by asking a process; one process serves all that are fed alike.

    Args:
        family: Name of the family.
        folder: The model folder.
        how: How rows reach the model.
    """
    process = _process_for(family, str(folder.path.absolute()), _Hashable(how))

    def lay_out(row: Row, clips: Sequence[ClipInfo]) -> Layout:
        with naming(row):
            return process.ask(row, only_clip(row, clips, no_images=NO_IMAGES))

    return lay_out


class _Hashable:
    """A preprocessing that can be the key of a cache: its values, in words."""

    def __init__(self, how: Preprocessing) -> None:
        self.how = how
        self._words = repr(how)

    def __hash__(self) -> int:
        return hash(self._words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashable) and other._words == self._words


@functools.lru_cache(maxsize=1)
def _process_for(family: str, folder: str, how: _Hashable) -> LayoutProcess:
    return LayoutProcess(family, folder, how.how)
