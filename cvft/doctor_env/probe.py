"""Whether packages can be imported, found out in processes of their own: one that crashes or hangs costs its own answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cvft.imports import python_environment
from cvft.jsonl import split_lines

TIMEOUT_S = 600.0
"""For all imports of a process together, from a slow network disk as well."""


@dataclass(frozen=True)
class Imported:
    """How the import of a module ended.

    Args:
        error: What went wrong; empty when nothing did.
        facts: What the module said of itself, for those of `probe_main.ASKED`.
    """

    error: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def import_modules(modules: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> dict[str, Imported]:
    """Imports modules in processes of their own, as many in one as it survives.

    Args:
        modules: Their names.
        timeout_s: Seconds for a process, before it is killed.

    Returns:
        How each import ended.
    """
    found: dict[str, Imported] = {}
    while left := [name for name in modules if name not in found]:
        command = [sys.executable, "-m", "cvft.doctor_env.probe_main", *left]
        try:
            done = subprocess.run(
                command, capture_output=True, env=python_environment(os.environ), timeout=timeout_s, check=False
            )
            lines, ending = done.stdout, _name_ending(done.returncode)
        except subprocess.TimeoutExpired as late:
            lines, ending = late.stdout or b"", f"the import took more than {timeout_s:g} s"
        except OSError as error:
            lines, ending = b"", f"no process could be started: {error}"
        asked = left[0]
        whole = lines[: lines.rfind(b"\n") + 1]  # the process may have ended amid a line
        for answer in (json.loads(line) for _, line in split_lines(whole)):
            asked = answer.get("begins", asked)
            if "module" in answer:
                found[answer["module"]] = Imported(answer.get("error", ""), answer.get("facts", {}))
        if asked not in found:
            found[asked] = Imported(ending)
    return found


def _name_ending(code: int) -> str:
    if code >= 0:
        return f"the process ended with code {code}"
    try:
        return f"the process was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"the process was ended by signal {-code}"
