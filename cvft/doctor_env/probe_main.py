"""Imports modules one after the other and says how it went: a program of its own, which a broken package may end.

`python -m cvft.doctor_env.probe_main MODULE...` -> a line of JSON before each import, and one after it
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mpeg2video", "mjpeg", "prores", "wmv2", "theora")
"""Names of FFmpeg's decoders of what clips are written in."""


def _codecs(av: Any) -> dict[str, Any]:
    known = {name for name in CODECS if name in av.codecs_available}
    return {"ffmpeg": av.ffmpeg_version_info, "codecs": [name for name in CODECS if name in known]}


def _cuda(torch: Any) -> dict[str, Any]:
    facts = {"built_for_cuda": torch.version.cuda, "sees_gpus": torch.cuda.device_count()}
    if torch.version.cuda and not torch.cuda.is_available():
        try:
            torch.cuda.init()
        except Exception as error:
            facts["why_not"] = f"{type(error).__name__}: {error}"
    return facts


ASKED: Mapping[str, Callable[[Any], dict[str, Any]]] = {"av": _codecs, "torch": _cuda}
"""Module -> what it is asked when it could be imported."""


def main() -> None:
    """Imports what the command line names."""
    # whatever the packages say goes elsewhere: standard output is for the answers
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for name in sys.argv[1:]:
        print(json.dumps({"begins": name}), file=answers, flush=True)
        try:
            module = importlib.import_module(name)
            facts = ASKED[name](module) if name in ASKED else {}
            answer = {"module": name, "facts": facts}
        except BaseException as error:  # a package may call exit as well
            answer = {"module": name, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
