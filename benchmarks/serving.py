"""How fast `cvft serve` answers: `python benchmarks/serving.py`.

The tiny model behind HTTP in a process of its own: questions about different clips one at a time and 64 at a time, each answer
compared with the one given alone; and the time to the first token of a first and of a later question about a clip.
Writes `benchmarks/results/serving--<device>.json`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from job import write_result

CLIPS = sorted((Path(__file__).parent.parent / "datasets" / "tiny_shapes" / "clips").glob("*.mp4"))
NUM_AT_A_TIME = 64
QUERY = "At what second does the white square appear, and when does it disappear?"
LATER = "What colour is the triangle?"
BATCHES = (1, 4, 16)


def main() -> None:
    """Measures and writes the result."""
    cases: dict[str, Any] = {}
    for batch_rows in BATCHES:
        cases[f"--batch-rows {batch_rows}"] = measure(batch_rows)
        print(batch_rows, cases[f"--batch-rows {batch_rows}"])
    path = write_result(
        "serving",
        command="python benchmarks/serving.py",
        load_average_before=os.getloadavg()[0],
        timed_region="from sending a request to its last byte; to the first token: to the first text of a stream",
        cases=cases,
    )
    print(path)


def measure(batch_rows: int) -> dict[str, Any]:
    """Measures one server."""
    command = [sys.executable, "-m", "cvft", "serve", "--model", "tiny", "--port", "0", "--batch-rows", str(batch_rows)]
    command += ["--max-waiting", "200"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        url = ""
        for line in process.stderr:
            found = re.search(r"answers at (\S+)", line)
            if found is not None:
                url = found[1]
                break
        with httpx.Client(base_url=url, timeout=600, limits=httpx.Limits(max_connections=NUM_AT_A_TIME)) as client:
            clips = [upload(client, path) for path in CLIPS[:NUM_AT_A_TIME]]
            first = [first_token(client, clip, QUERY) for clip in clips[:16]]
            later = [first_token(client, clip, LATER) for clip in clips[:16]]
            alone, alone_s, begin_s = {}, [], time.perf_counter()
            for clip in clips:
                alone[clip], seconds = ask(client, clip)
                alone_s.append(seconds)
            one_at_a_time_s = time.perf_counter() - begin_s
            begin_s = time.perf_counter()
            with ThreadPoolExecutor(NUM_AT_A_TIME) as threads:
                answers = list(threads.map(ask, itertools.repeat(client), clips))
            together_s = time.perf_counter() - begin_s
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()
    return {
        "requests": len(clips),
        "same_text_as_alone": sum(text == alone[clip] for clip, (text, _) in zip(clips, answers, strict=True)),
        "requests_per_s_one_at_a_time": round(len(clips) / one_at_a_time_s, 2),
        "requests_per_s_together": round(len(clips) / together_s, 2),
        "one_at_a_time_median_s": round(statistics.median(alone_s), 4),
        "together_median_s": round(statistics.median(seconds for _, seconds in answers), 4),
        "together_p99_s": round(statistics.quantiles([seconds for _, seconds in answers], n=100)[98], 4),
        "first_token_of_a_first_question_median_s": round(statistics.median(first), 4),
        "first_token_of_a_later_question_median_s": round(statistics.median(later), 4),
    }


def upload(client: httpx.Client, path: Path) -> str:
    """Sends a clip, and returns a name for it."""
    response = client.post("/clips", content=path.read_bytes(), headers={"content-type": "video/mp4"})
    url: str = response.json()["url"]
    return url


def ask(client: httpx.Client, clip: str) -> tuple[str, float]:
    """Asks about a clip; returns the answer and how long it took."""
    begin_s = time.perf_counter()
    response = client.post("/v1/chat/completions", json=body(clip, QUERY))
    return response.json()["choices"][0]["message"]["content"], time.perf_counter() - begin_s


def first_token(client: httpx.Client, clip: str, query: str) -> float:
    """Returns the seconds until the first text of an answer."""
    begin_s = time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json={**body(clip, query), "stream": True}) as response:
        lines = response.iter_lines()
        for line in lines:
            if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                return time.perf_counter() - begin_s
    raise AssertionError("an answer without text")


def body(clip: str, query: str) -> dict[str, Any]:
    """Builds a request."""
    content = [{"type": "video_url", "video_url": {"url": clip}}, {"type": "text", "text": query}]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}]}


if __name__ == "__main__":
    main()
