#!/usr/bin/env python3
"""Sends the rows of reference.jsonl to a serving engine, and fails at the first prompt or answer that differs from cvft's.

Runs anywhere with Python 3.9 or later and nothing else: `python parity.py http://127.0.0.1:8000`.

Exit codes: 0 all equal, 1 something differs, 2 the engine could not be asked.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

AROUND = 3
"""Ids shown on each side of the first that differs."""


class Failed(Exception):
    """Ends the comparison: the exit code and what to print."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def call(base: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Asks the engine, and returns what its JSON says."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("VLLM_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{base}{path}", data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=3600) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise Failed(2, f"{path}: HTTP {error.code}: {error.read().decode(errors='replace')[:2000]}") from error
    except (OSError, ValueError) as error:
        raise Failed(2, f"{base}{path}: {error}") from error


def compare_ids(ours: list[int], theirs: Any, *, clip_id: int, engine_clip_id: int) -> str:
    """Says where two prompts differ first, or nothing; the two ids under a clip's tokens stand for each other."""
    if not isinstance(theirs, list):
        return "no `prompt_token_ids` in the answer: the engine does not know `return_token_ids`"
    ours = [engine_clip_id if number == clip_id else number for number in ours]
    clip_id = engine_clip_id
    if ours == theirs:
        return ""
    length = min(len(ours), len(theirs))
    at = next((place for place in range(length) if ours[place] != theirs[place]), length)
    window = slice(max(0, at - AROUND), at + AROUND + 1)
    text = f"prompt ids differ at {at}: cvft {ours[window]}, engine {theirs[window]}"
    text += f"\n  {len(ours)} ids and {len(theirs)}"
    if ours.count(clip_id) != theirs.count(clip_id):
        text += (
            f"; {ours.count(clip_id)} and {theirs.count(clip_id)} of them are the clip's: other frames, or another size"
        )
    return text


def whole_text(text: str) -> str:
    """Returns an answer without the start of a letter whose other bytes were cut off: engines leave that out, or mark it."""
    return text.rstrip("\ufffd").strip()


def compare(base: str, lines: list[dict[str, Any]], *, least_share: float, any_version: bool) -> str:
    """Compares all rows; returns a sentence, or raises what differs first."""
    head, *rows = lines
    version = call(base, "/version").get("version")
    if version != head["version"] and not any_version:
        need = f"{head['version']}, whose code was read when this was written"
        raise Failed(2, f"version: got {version}, need {need}\n  hint: --any-version compares all the same")
    names = [model["id"] for model in call(base, "/v1/models")["data"]]
    if head["model"] not in names:
        raise Failed(2, f"models: got {names}, need {head['model']}\n  hint: start the engine with serve.sh")
    num_equal, first = 0, ""
    clip_ids = {key: head[key] for key in ("clip_id", "engine_clip_id")}
    for row in rows:
        said = call(base, "/v1/chat/completions", row["request"])
        if differs := compare_ids(row["prompt_token_ids"], said.get("prompt_token_ids"), **clip_ids):
            raise Failed(1, f"{row['row']}: {differs}")
        text, answer = whole_text(said["choices"][0]["message"]["content"] or ""), whole_text(row["answer"])
        num_equal += text == answer
        if text != answer and not first:
            first = f"{row['row']}: answers differ\n  cvft    {answer!r}\n  engine  {text!r}"
    counts = f"{num_equal} of {len(rows)} answers are equal; all prompts are"
    if num_equal < least_share * len(rows):
        raise Failed(1, f"{first}\n{counts}")
    ours, theirs = clip_ids.values()
    modulo = "" if ours == theirs else f", with {theirs} for {ours} under clips, which the model does not see"
    return f"{counts}, id by id{modulo}"


def main() -> int:
    """Compares, and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url", help="where the engine listens, such as http://127.0.0.1:8000; its key in VLLM_API_KEY")
    parser.add_argument(
        "--answers", type=float, default=1.0, metavar="SHARE", help="least share of answers that are equal; else 1"
    )
    parser.add_argument("--any-version", action="store_true", help="compare with another release of the engine too")
    options = parser.parse_args()
    lines = [json.loads(line) for line in Path(__file__).with_name("reference.jsonl").open(encoding="utf-8")]
    if len(lines) < 2:
        print("reference.jsonl: no rows to compare", file=sys.stderr)
        return 2
    try:
        share, any_version = options.answers, options.any_version
        print(compare(options.url.rstrip("/"), lines, least_share=share, any_version=any_version))
    except Failed as failed:
        print(failed, file=sys.stderr)
        return failed.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
