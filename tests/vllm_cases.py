"""Tiny models and the requests about them that serving engines are sent: what goldens are made of, and what they hold."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvft.data.rows import Row, read_rows
from cvft.data.video.decode import Clip, decode_clip
from cvft.families.engines import ENGINES, Handover
from cvft.handover import run as handing
from tests.internvl_tiny import TOKENS_PER_FRAME
from tests.opened import Opened
from tests.project import ROWS, with_real_clips, write_jsonl

HISTORY = (("What moves?", " a red circle "), ("Where?", "left"))
CASES = (
    *(("qwen2_5_vl", {}, sends) for sends in ("frames", "clips")),
    ("qwen2_5_vl", {"system": "Say it in one word."}, "frames"),
    *(("qwen3_vl", {}, sends) for sends in ("frames", "clips")),
    *(("qwen3_vl", {"clip_tags": "transformers5", "system": "You are helpful."}, each) for each in ("frames", "clips")),
    *(("qwen3_5", {}, sends) for sends in ("frames", "clips")),
    ("internvl3_5", {"system": "Say it in one word."}, "frames"),
    ("internvl3", {}, "clips"),
    ("glm4v", {"system": "Say it in one word."}, "frames"),
)
"""Kinds of folders, sections `model` of their recipes, and what requests carry."""


def write_processor_files(folder: Path) -> None:
    """Writes what a published folder says to an engine's processor, where the tiny one leaves it out."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    if kind == "internvl":
        (folder / "processor_config.json").write_text(json.dumps({"image_seq_length": TOKENS_PER_FRAME}))
        return
    size = {"shortest_edge": 12544, "longest_edge": 47040000}
    stated = {"processor_class": "Glm4vProcessor", "size": size} if kind == "glm4v" else {}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))


@dataclass
class Case:
    """A tiny model, rows about clips, and the requests that they become."""

    opened: Opened
    told: Handover
    rows: list[Row]
    clips: dict[Any, Clip]
    requests: list[dict[str, Any]]
    argv: list[str]


def make_case(folder: Path, kind: str, model: dict[str, str], sends: Any) -> Case:
    """Makes one of `CASES`: `argv` are the words that a vLLM is started with."""
    budgets = {"qwen": {"min_frame_tokens": 64, "max_frame_tokens": 80}, "glm4": {"max_clip_tokens": 400}}
    video: dict[str, Any] = {"max_frames": 40, **({} if kind.startswith("internvl") else {"fps": 15.0})}
    if sends == "clips":
        video = {"sampling": "uniform", "max_frames": 6}
    if sends == "clips" or kind == "glm4v":  # the bounds bind: small frames grow, large ones shrink
        video |= budgets.get(kind[:4], {})
    opened = Opened(folder / "model", kind, model=model, video=video)
    write_processor_files(opened.folder.path)
    told = opened.family.handover(ENGINES["vllm"], opened.folder, opened.how, sends=sends)
    rows_file = write_jsonl(folder / "rows.jsonl", with_real_clips(ROWS[:4]))
    rows = [*read_rows(rows_file), Row(" What is  shown?\n", "x", HISTORY, (), rows_file, 5)]
    rows[1:2] = [Row("\n Where is he? ", "x", HISTORY, rows[1].videos, rows_file, 2)]
    clips = {clip: decode_clip(clip, sampling=opened.how.decode.sampling) for row in rows for clip in row.videos}
    shown = {}
    if sends == "frames":
        shown = {ref: handing.write_frames(clip, opened.encoder, told) for ref, clip in clips.items()}
    (folder / "chat_template.jinja").write_text(told.chat_template)
    flags = {
        "--served-model-name": "x",
        "--dtype": "float32",
        "--max-model-len": "8000",
        "--chat-template": str(folder / "chat_template.jinja"),
        "--chat-template-content-format": "openai",
        "--generation-config": "vllm",
        "--limit-mm-per-prompt": json.dumps({"image": 0, "video": 1}),
        "--mm-processor-kwargs": json.dumps(told.processor),
        "--media-io-kwargs": json.dumps({"video": told.media}),
        "--allowed-local-media-path": str(handing._common_root(rows)),
    }
    argv = [str(opened.folder.path), *(word for flag in flags.items() for word in flag), "--no-mm-device-do-normalize"]
    argv += ["--trust-request-mm-kwargs"] * (sends == "frames")
    requests = [handing._request(row, told, name="x", limit=8, shown=shown) for row in rows]
    return Case(opened, told, rows, clips, requests, argv)
