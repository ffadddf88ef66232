"""The real vLLM answers as cvft does: prompts id by id, and greedy answers.

Runs where `CVFT_VLLM` is the path of an installed `vllm` (its CPU build will do: an environment of its own, not this one), and is
skipped elsewhere. Each case starts an engine by the script that was handed over, and stops it.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from cvft.cli.main import main
from tests.opened import MAKERS
from tests.vllm_cases import write_processor_files

VLLM = os.environ.get("CVFT_VLLM")
START_S = 600
SHAPES = Path(__file__).parent.parent / "datasets" / "tiny_shapes"

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(VLLM is None, reason="CVFT_VLLM does not name the program of an installed vllm"),
]

KINDS = {
    "qwen2_5_vl": (
        {
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        },
        {"fps": 4, "min_frame_tokens": 4, "max_frame_tokens": 16},
    ),
    "qwen3_vl": (
        {
            "head_dim": 32,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"},
        },
        {"fps": 4, "min_frame_tokens": 4, "max_frame_tokens": 16},
    ),
    "internvl3_5": ({"head_dim": 32}, {"max_frames": 6}),
    "glm4v": (
        {
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3]},
        },
        {"fps": 4, "max_clip_tokens": 400},
    ),
}
"""Sizes of the decoder and the recipe's section `video`. Heads have 32 channels, the fewest that vLLM takes on a CPU. Qwen3.5 is
left out: its recurrent layers run in bf16 alone there, in which answers of random weights prove nothing."""


@contextmanager
def running(folder, log):
    """An engine, started by the script that was handed over; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PATH": f"{Path(VLLM).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1"}
    environment.pop("PYTHONPATH", None)
    command = ["sh", str(folder / "serve.sh"), "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    url, end_s = f"http://127.0.0.1:{port}", time.monotonic() + START_S
    try:
        while not is_up(url):
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < end_s, log.read_text()[-4000:]
            time.sleep(1)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_up(url):
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=300) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def compare(model, tmp_path, *words):
    """Hands a model over, starts the engine, and returns what the script says of it there."""
    output = tmp_path / "handed"
    assert main(["handover", "vllm", str(model), "--output", str(output), "--max-new-tokens", "8", *words]) == 0
    with running(output, tmp_path / "engine.log") as url:
        command = [sys.executable, "-I", "-S", str(output / "parity.py"), url, "--any-version"]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def said(num):
    return (0, f"{num} of {num} answers are equal; all prompts are, id by id\n", "")


def test_the_tiny_model(tmp_path):
    """As it ships: it has learnt to answer, so that wrong pixels would show."""
    done = compare("tiny-qwen3-vl", tmp_path, "--data", str(SHAPES / "val.jsonl"), "--num-rows", "64")
    assert (done.returncode, done.stdout, done.stderr) == said(64)


def run_of(model, tmp_path, **video):
    """A run of two steps, merged, with 32 val rows."""
    rows = [json.loads(line) for line in (SHAPES / "val.jsonl").read_text().split("\n")[:32]]
    for row in rows:
        row["videos"] = [str(SHAPES / clip) for clip in row["videos"]]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = {
        "model": {"path": str(model), "dtype": "fp32"},
        "data": {"train": "rows.jsonl", "val": "rows.jsonl"},
        "video": video,
        "train": {"max_steps": 2, "global_batch_rows": 8, "micro_batch_rows": 8},
        "parallel": {"device": "cpu"},
        "output": {"root": str(tmp_path / "runs")},
    }
    (tmp_path / "it.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["run", str(tmp_path / "it.yaml")]) == 0
    return tmp_path / "runs" / "it"


@pytest.mark.parametrize("kind", KINDS)
def test_every_family(tmp_path, kind):
    """Random weights: any other pixel, position or layer would be seen in the answers."""
    sizes, video = KINDS[kind]
    folder = MAKERS[kind](tmp_path / "model", kind, **sizes)
    write_processor_files(folder)
    done = compare(run_of(folder, tmp_path, **video), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("32 of 32 answers are equal; all prompts are, id by id")


def test_clips_that_the_engine_opens_itself(tmp_path):
    run = run_of("tiny-qwen3-vl", tmp_path, sampling="uniform", max_frames=8, min_frame_tokens=4, max_frame_tokens=4)
    done = compare(run, tmp_path, "--send", "clips")
    assert (done.returncode, done.stdout, done.stderr) == said(32)
