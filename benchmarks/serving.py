"""How fast `cvft serve` answers: `python benchmarks/serving.py`.

The tiny model behind HTTP in a process of its own, asked questions of the data set about different clips. Rounds of 64 requests
one at a time and rounds of 64 at a time follow each other in one run, each about clips that the server has not seen; answers are
compared. Then the time to the first token of a first and of a later question about a clip, in turn: about the data set's clips of
112 px, which are decoded in no time, and about four clips of cameras and films. All of it once with the model as it is, which
answers in few tokens, and with the same model made to go on for 16 and for 64 tokens, as answers in sentences do.
Writes `benchmarks/results/serving--<device>.json`.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from job import write_result
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent.parent))

from cvft.shipped import SHIPPED
from tests.real_clips import real_clips

ROWS = Path(__file__).parent.parent / "datasets" / "tiny_shapes" / "train.jsonl"
NUM_AT_A_TIME = 64
NUM_ROUNDS = 4
NUM_OF_REAL_CLIP = 8
LENGTHS = (16, 64)
"""Tokens of longer answers: those of a sentence, and of a paragraph."""
KEEP_S = 4.0
"""A connection that was idle for longer is not used again: the server closes it after 5 s, uvicorn's own time."""
THREADS = {"OMP_NUM_THREADS": "1"}
HEADERS = {"content-type": "application/json"}

Question = tuple[Path, str, str]
"""A clip, a question about it, and a later one."""


def main() -> None:
    """Measures and writes the result."""
    questions = read_questions()
    cases = {"short answers": measure(questions, model="tiny", max_tokens=None)}
    print(json.dumps(cases, indent=2))
    with tempfile.TemporaryDirectory() as folder:
        endless = make_endless(Path(folder) / "cogvlm2-video-llama3-chat")
        for num_tokens in LENGTHS:
            cases[f"answers of {num_tokens} tokens"] = measure(questions, model=str(endless), max_tokens=num_tokens)
    print(json.dumps(cases, indent=2))
    path = write_result(
        "serving",
        command="python benchmarks/serving.py",
        model="tiny: a decoder of 5 layers, 128 wide; for long answers, with an end that is never the likeliest token",
        settings="`cvft serve` as it is, with one thread for the model",
        questions="rows of datasets/tiny_shapes/train.jsonl about each clip, drawn with seed 0",
        conditions="client, server and its decode processes share the cores; every timed clip is new to the server; connections "
        "are kept, as OpenAI's own client keeps them",
        timed_region="from sending a request to its last byte; to the first token: to the first text of a stream",
        cases=cases,
    )
    print(path)


def read_questions() -> list[Question]:
    """Reads two questions about each clip."""
    of_clip: dict[str, list[str]] = {}
    for line in ROWS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        of_clip.setdefault(row["videos"][0], []).append(row["query"])
    rng = random.Random(0)
    chosen = [(ROWS.parent / clip, *rng.sample(queries, 2)) for clip, queries in sorted(of_clip.items())]
    assert len(chosen) >= NUM_AT_A_TIME
    return chosen[:NUM_AT_A_TIME]


def make_endless(folder: Path) -> Path:
    """Copies the tiny model so that no answer ends before its limit."""
    shutil.copytree(SHIPPED["tiny"].folder, folder)
    eos = json.loads((folder / "config.json").read_text(encoding="utf-8"))["eos_token_id"]
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][eos] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def measure(questions: list[Question], *, model: str, max_tokens: int | None) -> dict[str, Any]:
    """Measures one server."""
    command = [sys.executable, "-m", "cvft", "serve", "--model", model, "--name", "it", "--port", "0"]
    command += ["--max-waiting", str(NUM_AT_A_TIME)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **THREADS})
    try:
        client = Client(read_port(process), numbers=itertools.count(), max_tokens=max_tokens)
        for path, query, _ in questions[:8]:  # the first decode processes start
            client.ask(client.upload(path), query)
        rounds = [measure_round(client, process, questions) for _ in range(NUM_ROUNDS)]
        firsts, laters = measure_first_tokens(client, questions)
        real = {
            name: compare_first_tokens(*measure_first_tokens(client, [(path, *questions[0][1:])] * NUM_OF_REAL_CLIP))
            for name, path in real_clips().items()
        }
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()
    seconds = [each for one in rounds for each in one.pop("together_s")]
    ratios = [one["times_as_many_together"] for one in rounds]
    return {
        "requests_per_round": NUM_AT_A_TIME,
        "same_text_as_alone": sum(one.pop("num_same") for one in rounds),
        "of": NUM_ROUNDS * NUM_AT_A_TIME,
        "tokens_per_answer_mean": rounds[0].pop("tokens"),
        "times_as_many_together_median": statistics.median(ratios),
        "together_latency_median_s": round(statistics.median(seconds), 4),
        "together_latency_p99_s": round(statistics.quantiles(seconds, n=100)[98], 4),
        **compare_first_tokens(firsts, laters),
        "real_clips": real,
        "rounds": [{key: value for key, value in one.items() if key != "tokens"} for one in rounds],
    }


def measure_round(client: Client, process: subprocess.Popen[str], questions: list[Question]) -> dict[str, Any]:
    """Asks all questions one at a time, and then all at a time."""
    load = os.getloadavg()[0]
    sides: dict[str, Any] = {}
    for side, num_threads in (("one_at_a_time", 1), ("together", NUM_AT_A_TIME)):
        asked = [(client.upload(path), query) for path, query, _ in questions]
        begin_cpu_s, begin_s = cpu_seconds(process), time.perf_counter()
        with ThreadPoolExecutor(num_threads) as threads:
            replies = list(threads.map(lambda each: client.ask(*each), asked))
        sides[side] = replies, time.perf_counter() - begin_s, cpu_seconds(process) - begin_cpu_s
    (alone, alone_s, alone_cpu_s), (together, together_s, together_cpu_s) = sides.values()
    num = len(questions)
    return {
        "load_average_before": round(load, 2),
        "requests_per_s_one_at_a_time": round(num / alone_s, 2),
        "requests_per_s_together": round(num / together_s, 2),
        "times_as_many_together": round(alone_s / together_s, 2),
        "server_cpu_s_per_request_one_at_a_time": round(alone_cpu_s / num, 5),
        "server_cpu_s_per_request_together": round(together_cpu_s / num, 5),
        "num_same": sum(one[0] == other[0] for one, other in zip(alone, together, strict=True)),
        "tokens": round(statistics.mean(reply[1] for reply in alone), 2),
        "together_s": [reply[2] for reply in together],
    }


def measure_first_tokens(client: Client, questions: list[Question]) -> tuple[list[float], list[float]]:
    """Returns the seconds to the first token of first questions, and of later ones about the same clips."""
    firsts, laters = [], []
    for path, query, later in questions:
        clip = client.upload(path)
        firsts.append(client.first_token(clip, query))
        laters.append(client.first_token(clip, later))
    return firsts, laters


def compare_first_tokens(firsts: list[float], laters: list[float]) -> dict[str, float]:
    """Compares the seconds to the first token of first and later questions."""
    first_s, later_s = statistics.median(firsts), statistics.median(laters)
    return {
        "first_token_of_a_first_question_median_s": round(first_s, 4),
        "first_token_of_a_later_question_median_s": round(later_s, 4),
        "times_as_fast_later": round(first_s / later_s, 2),
    }


def read_port(process: subprocess.Popen[str]) -> int:
    """Waits until a server is ready, and returns its port."""
    for line in process.stderr:
        found = re.search(r"answers at http://127.0.0.1:(\d+)", line)
        if found is not None:
            return int(found[1])
    raise SystemExit("the server did not start")


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    """Returns what a server and its decode processes have computed so far."""
    own = psutil.Process(process.pid)
    times = [each.cpu_times() for each in (own, *own.children(recursive=True))]
    return sum(each.user + each.system for each in times)


class Client:
    """Asks a server as plainly as can be, so that little of the machine goes to asking.

    Args:
        port: Where the server listens.
        numbers: Makes every clip that is sent another one.
        max_tokens: Longest answer, or None.
    """

    def __init__(self, port: int, *, numbers: Iterator[int], max_tokens: int | None = None) -> None:
        self.port = port
        self.numbers = numbers
        self.limit = {} if max_tokens is None else {"max_tokens": max_tokens}
        self._free: list[tuple[http.client.HTTPConnection, float]] = []

    def upload(self, path: Path) -> str:
        """Sends a clip that the server has not seen: a box of MP4 that means nothing, with a number in it, is added."""
        content = path.read_bytes() + (16).to_bytes(4) + b"free" + next(self.numbers).to_bytes(8)
        with self._post("/clips", content, {"content-type": "video/mp4"}) as response:
            url: str = json.loads(response.read())["url"]
        return url

    def ask(self, clip: str, query: str) -> tuple[str, int, float]:
        """Asks about a clip; returns the answer, its tokens, and how long it took in seconds."""
        begin_s = time.perf_counter()
        with self._post("/v1/chat/completions", body(clip, query, **self.limit), HEADERS) as response:
            reply = json.loads(response.read())
        seconds = time.perf_counter() - begin_s
        return reply["choices"][0]["message"]["content"], reply["usage"]["completion_tokens"], seconds

    def first_token(self, clip: str, query: str) -> float:
        """Returns the seconds until the first text of an answer."""
        begin_s, first_s = time.perf_counter(), None
        with self._post("/v1/chat/completions", body(clip, query, stream=True, **self.limit), HEADERS) as response:
            for line in response:
                if first_s is None and line.startswith(b"data: {"):
                    choices = json.loads(line[6:])["choices"]
                    if choices[0]["delta"].get("content"):
                        first_s = time.perf_counter() - begin_s
        assert first_s is not None, "an answer without text"
        return first_s

    @contextmanager
    def _post(self, path: str, content: bytes, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        """Gives a response, and keeps its connection for another request, as OpenAI's own client does."""
        connection = self._borrow()
        connection.request("POST", path, content, headers)
        response = connection.getresponse()
        yield response
        response.read()
        self._free.append((connection, time.monotonic()))

    def _borrow(self) -> http.client.HTTPConnection:
        while self._free:
            connection, since_s = self._free.pop()
            if time.monotonic() - since_s < KEEP_S:
                return connection
            connection.close()
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)


def body(clip: str, query: str, **more: Any) -> bytes:
    """Builds a request."""
    content = [{"type": "video_url", "video_url": {"url": clip}}, {"type": "text", "text": query}]
    return json.dumps({"model": "it", "messages": [{"role": "user", "content": content}], **more}).encode()


if __name__ == "__main__":
    main()
