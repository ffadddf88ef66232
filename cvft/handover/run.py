"""`cvft handover`: what an engine needs to serve a merged model as its contract says, and what proves it there.

model + rows -> OUTPUT/{serve.sh, chat_template.jinja, reference.jsonl, parity.py}

`reference.jsonl` holds requests with the prompt ids and greedy answers that they have here; `parity.py` sends them to the engine,
in the engine's own environment, and fails at the first difference.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvft.data.rows import Row, read_rows
from cvft.data.video.loader import ClipLoader
from cvft.data.video.spec import ClipRef, ClipSpec, file_of, has_own_times, is_image, name_of
from cvft.dtypes import BY_NAME
from cvft.errors import CvftError, ModelError, Problem, RunError
from cvft.families.answering import Answer
from cvft.families.engines import ENGINES, Engine, Handover, Sends
from cvft.families.runtime import Encoder, load_runtime
from cvft.files import publish_folder, why_unwritable
from cvft.jsonl import to_line
from cvft.plan.lengths import MAX_NEW_TOKENS, check_prompts
from cvft.plan.recorded import read_recorded, refuse_gone
from cvft.predict.batches import make_batches
from cvft.predict.infer import BATCH_ROWS, load_found
from cvft.predict.trained import FoundModel, find_model
from cvft.recipe import load_recipe
from cvft.runs import RunFolder

if TYPE_CHECKING:
    from cvft.data.video.decode import Clip

LOG = logging.getLogger(__name__)

NUM_ROWS = 32
"""Rows that are compared where nothing is said."""

PARITY = Path(__file__).with_name("parity.py")
BLANK_LINE = "\n\n"
TEMPLATE_FILE, REFERENCE_FILE, COMMAND_FILE = "chat_template.jinja", "reference.jsonl", "serve.sh"


def hand_over(
    engine: str,
    model: str | Path,
    *,
    output: Path,
    data: Path | None = None,
    num_rows: int = NUM_ROWS,
    sends: Sends = "frames",
    max_new_tokens: int | None = None,
    name: str | None = None,
) -> str:
    """Writes a folder with everything that an engine needs beside the model.

    Args:
        engine: One of `ENGINES`.
        model: A run that was exported, a merged folder, or a published model, as `find_model` takes it.
        output: The folder to write; it must not exist.
        data: Rows to compare answers on; without it, those that the run has held out.
        num_rows: Most of them.
        sends: What requests carry.
        max_new_tokens: Longest answer in tokens; None takes what a prompt leaves.
        name: The model's name for clients; else that of its folder or run.

    Returns:
        What to do with the folder, for the terminal.

    Raises:
        CvftError: when the engine cannot reproduce the contract, or rows, clips or output cannot be used; nothing is written
            then.
    """
    whose = ENGINES[engine]
    _check_folder(output)
    found = find_model(model)
    if found.adapter is not None:
        hint = f"cvft export {model} merges it; an adapter that cannot be merged is served by `cvft serve`"
        raise ModelError(f"model {model}", [Problem(str(found.folder), "an adapter", "a merged model", hint)])
    told = found.family.handover(whose, found.model, found.how, sends=sends)
    rows = _read(model, found, data)[:num_rows]
    _check_rows(rows, sends=sends)
    check_prompts(rows, family=found.family, folder=found.model, how=found.how, max_new_tokens=max_new_tokens)
    name = name or _name_of(found)
    root = _common_root(rows) if sends == "clips" else None
    clip_ids = {"clip_id": told.clip_id, "engine_clip_id": told.engine_clip_id}
    head = {"engine": whose.name, "version": whose.version, "model": name, **clip_ids}
    with closing(load_found(found)) as predictor:
        prompts = [predictor.prepare(row, max_new_tokens=max_new_tokens) for row in rows]
        answers: dict[int, Answer] = {}
        for numbers in make_batches(rows, BATCH_ROWS):  # as `cvft infer` batches them
            said = predictor.answer_prompts([prompts[number] for number in numbers])
            answers |= zip(numbers, said, strict=True)
    shown = _send_frames(rows, found, told) if sends == "frames" else {}
    lines: list[dict[str, Any]] = [
        {
            "row": row.location,
            "request": _request(row, told, name=name, limit=prompt.max_new_tokens, shown=shown),
            "prompt_token_ids": prompt.tensors["input_ids"].tolist(),
            "answer": answers[number].text,
        }
        for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True))
    ]
    longest = max(prompt.num_tokens + prompt.max_new_tokens for prompt in prompts)
    command = _command(whose, found, told, name=name, sends=sends, root=root, longest=longest)
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        (aside / TEMPLATE_FILE).write_text(told.chat_template, encoding="utf-8")
        (aside / REFERENCE_FILE).write_text("".join(to_line(line) for line in [head, *lines]), encoding="utf-8")
        (aside / COMMAND_FILE).write_text(command, encoding="utf-8")
        shutil.copyfile(PARITY, aside / PARITY.name)
        for path in (aside, aside / COMMAND_FILE):
            path.chmod(0o755)
        publish_folder(aside, output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    start, proof = shlex.quote(str(output / COMMAND_FILE)), shlex.quote(str(output / PARITY.name))
    return (
        f"{command.partition(BLANK_LINE)[2]}\n"
        f"in the environment of {whose}, whose code was read and which has not answered here:\n"
        f"  sh {start}\n"
        f"  python {proof} http://127.0.0.1:8000    # compares {len(rows)} rows, and fails at the first difference"
    )


def _check_folder(output: Path) -> None:
    problem = None
    if os.path.lexists(output):
        hint = "give another name, or move it away"
        problem = Problem("--output", f"`{output}`, which exists", "a new folder", hint)
    else:
        folder = next(each for each in output.absolute().parents if os.path.lexists(each))
        if why := why_unwritable(folder):
            problem = Problem("--output", f"`{output}`: {why}", "a new folder in one that can be written")
    if problem is not None:
        raise CvftError("command line", [problem])


def _read(model: str | Path, found: FoundModel, data: Path | None) -> Sequence[Row]:
    """Reads the rows of a file, or those that the model's run has held out."""
    if data is not None:
        return read_rows(data, require_response=False, format="auto")
    for folder in (Path(model).absolute(), found.folder.absolute().parent):
        run = RunFolder(folder)
        if run.recipe_file.is_file() and run.val_rows.is_file():
            recorded = read_recorded(run, "val", recipe=load_recipe(run.recipe_file).recipe)
            refuse_gone(recorded, run)
            return recorded.all_rows
    problem = Problem("--data", "nothing, and no run with val rows", "rows to compare answers on", "--data FILE")
    raise RunError(f"model {model}", [problem])


def _name_of(found: FoundModel) -> str:
    folder = found.folder.absolute()
    is_of_run = RunFolder(folder.parent).merged == folder and RunFolder(folder.parent).recipe_file.is_file()
    return folder.parent.name if is_of_run else folder.name


def _common_root(rows: Sequence[Row]) -> Path:
    """Returns the folder that all clips lie below: the engine may read whatever lies there."""
    folders = [str(file.resolve().parent) for row in rows for file in row.files]
    root = Path(os.path.commonpath(folders)) if folders else Path.cwd()
    if root == Path(root.anchor):
        need, hint = "clips below one folder: the engine may read all that lies there", "move them together"
        raise CvftError("the rows", [Problem("`videos`", "clips that have only the root in common", need, hint)])
    return root


def _check_rows(rows: Sequence[Row], *, sends: Sends) -> None:
    """Refuses rows that no request can carry, all at once, before a model is loaded to answer them."""
    problems = []
    for row in rows:
        where, hint = f"{row.location} `{'images' if any(map(is_image, row.videos)) else 'videos'}`", "leave it out"
        if len(row.videos) > 1:
            need = "one clip: what a request tells the engine of frames holds for all its clips"
            problems.append(Problem(where, f"{len(row.videos)} clips", need, hint))
            continue
        for clip in row.videos:
            if has_own_times(clip) or (isinstance(clip, ClipSpec) and sends == "clips"):
                need = (
                    "whole clips: an engine takes no part of one, no picture, no budget and no seconds of a row's own"
                )
                problems.append(Problem(where, name_of(clip), need, hint))
    if problems:
        raise CvftError("the rows", problems)


def _send_frames(rows: Sequence[Row], found: FoundModel, told: Handover) -> dict[ClipRef, tuple[str, dict[str, Any]]]:
    """Decodes the rows' clips; each becomes the URL of its frames and what the engine is told of them."""
    encoder = load_runtime(found.family).encoder(found.model, found.how)

    def prepare(_: ClipRef, clip: Clip) -> tuple[str, dict[str, Any]]:
        return write_frames(clip, encoder, told)

    loader = ClipLoader(found.how.decode, prepare=prepare, num_bytes=lambda _: 0)
    with closing(loader):
        return {clip: loader.load(clip) for row in rows for clip in row.videos}


def write_frames(clip: Clip, encoder: Encoder, told: Handover) -> tuple[str, dict[str, Any]]:
    """Writes the frames of a clip as vLLM's requests carry them: bit for bit, at the size at which they become patches.

    Args:
        clip: The frames that were chosen.
        encoder: Resizes them: what it would keep of them is what becomes patches.
        told: What the engine is told of the model.

    Returns:
        The data URL, and the request's `media_io_kwargs.video`. The engine takes any picture under its type `video/jpeg`:
        these are PNG, which lose nothing. Source: vLLM 0.33.0, `VideoMediaIO.load_base64`.
    """
    from PIL import Image

    pictures, numbers = [], list(clip.frame_indices)
    for frame in encoder.frames_to_keep(clip):
        file = io.BytesIO()
        Image.fromarray(frame).save(file, format="PNG")
        pictures.append(base64.b64encode(file.getvalue()).decode())
    if told.fills_pairs and len(pictures) % 2:
        pictures.append(pictures[-1])
        numbers.append(numbers[-1])
    media = {
        "num_frames": -1,  # stated again: with `fps` alone the engine forgets the server's
        "fps": clip.avg_fps,
        "frames_indices": numbers,
        "total_num_frames": max(clip.num_frames_total, len(numbers)),  # fewer than are sent are refused
        "duration": clip.duration_s,
        "do_sample_frames": False,
    }
    return f"data:video/jpeg;base64,{','.join(pictures)}", media


def _request(
    row: Row, told: Handover, *, name: str, limit: int, shown: Mapping[ClipRef, tuple[str, dict[str, Any]]]
) -> dict[str, Any]:
    """Writes a row as the body of a request that is answered greedily."""
    media: dict[str, Any] = {}
    system = row.system or told.system
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    asked = [*(question for question, _ in row.history), row.query]
    for number, text in enumerate(asked):
        content: Any = text
        if number == 0 and row.videos:
            (clip,) = row.videos
            url = file_of(clip).resolve().as_uri()
            if clip in shown:
                url, of_clip = shown[clip]
                media = {"media_io_kwargs": {"video": of_clip}}
            content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": text}]
        messages.append({"role": "user", "content": content})
        if number < len(row.history):
            messages.append({"role": "assistant", "content": row.history[number][1]})
    return {
        "model": name,
        "messages": messages,
        "max_completion_tokens": limit,
        "temperature": 0,
        "stop_token_ids": list(told.stop_ids),
        "return_token_ids": True,
        **media,
    }


def _command(
    engine: Engine, found: FoundModel, told: Handover, *, name: str, sends: Sends, root: Path | None, longest: int
) -> str:
    """Writes the script that starts the engine; `longest` is the longest row that is compared, with its answer."""
    most = max(longest, min(found.how.max_tokens + MAX_NEW_TOKENS, found.family.context_tokens(found.model.config)))
    flags = {
        "--served-model-name": shlex.quote(name),
        "--dtype": BY_NAME[found.loading.dtype].torch_name,
        "--max-model-len": str(most),
        "--chat-template": f'"$HERE"/{TEMPLATE_FILE}',
        "--chat-template-content-format": "openai",
        "--generation-config": "vllm",
        "--limit-mm-per-prompt": _json({"image": 0, "video": 1}),
        "--mm-processor-kwargs": _json(told.processor),
        "--media-io-kwargs": _json({"video": dict(told.media)}),
    }
    if root is not None:
        flags["--allowed-local-media-path"] = shlex.quote(str(root))
    words = [f"{engine.name} serve {shlex.quote(str(found.model.path.absolute()))}"]
    words += [f"  {flag} {value}" for flag, value in flags.items()]
    words.append(
        "  --no-mm-device-do-normalize"
    )  # else pixels become numbers by another file than clips have, or not at all
    words += ["  --trust-request-mm-kwargs"] * (sends == "frames")
    body = " \\\n".join([*words, '  "$@"'])
    trusted = "# Requests say which frames they carry: for clients that you trust.\n" if sends == "frames" else ""
    return f'#!/bin/sh\n# Written by cvft for {engine}.\n{trusted}HERE=$(cd "$(dirname "$0")" && pwd){BLANK_LINE}exec {body}\n'


def _json(value: Any) -> str:
    return shlex.quote(json.dumps(value))
