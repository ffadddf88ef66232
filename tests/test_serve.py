"""The server, asked over HTTP as clients do: answers of `cvft infer`, strict requests, limits, and nothing of this machine."""

import base64
import json
import os
import shutil
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

import cvft
from tests.project import cvft as command
from tests.random_adapter import write_served_adapter
from tests.server import KEY, clip_part, serving, text_part
from tests.tiny import make_endless, tiny_encoder

CLIPS = Path(__file__).parent.parent / "datasets" / "tiny_shapes" / "clips"
NAMES = [path.name for path in sorted(CLIPS.glob("val_*.mp4"))[:8]]
MOST_TOKENS = 1900
"""Of an answer that has no end: several seconds."""


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """An adapter of the tiny model whose weights are random: it says other things than its base."""
    return write_served_adapter(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """Another one, beside it."""
    return write_served_adapter(tmp_path_factory.mktemp("job"), seed=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A media root with clips, and with what must not be shown."""
    folder = tmp_path_factory.mktemp("served") / "root"
    (folder / "deep").mkdir(parents=True)
    for name in NAMES:
        shutil.copy2(CLIPS / name, folder / name)
    shutil.copy2(CLIPS / NAMES[0], folder / "deep" / "a clip.mp4")
    shutil.copy2(CLIPS / NAMES[1], folder.parent / "outside.mp4")
    (folder / "bad.mp4").write_bytes(b"\0" * 5000)
    (folder / "secret.txt").write_text("the secret of this machine\n" * 100)
    (folder / "link.mp4").symlink_to(folder.parent / "outside.mp4")
    (folder / "inside.mp4").symlink_to(folder / NAMES[0])
    (folder / "out").symlink_to(folder.parent)
    os.mkfifo(folder / "pipe.mp4")
    return folder


@pytest.fixture(scope="module")
def server(root, adapter, other):
    adapters = ("--adapter", f"tuned={adapter}", "--adapter", f"other={other}")
    with serving("--model", "tiny", *adapters, "--media-root", root) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server that others may reach, with little room, whose answers have no end."""
    model = make_endless(tmp_path_factory.mktemp("endless"))
    limits = ("--max-waiting", 1, "--batch-rows", 1, "--max-body-mib", 1, "--max-new-tokens", MOST_TOKENS)
    with serving(
        "--model", model, "--name", "endless", "--host", "0.0.0.0", *limits, key=KEY, stop=signal.SIGTERM
    ) as running:
        yield running


@pytest.fixture(scope="module")
def tiny():
    model = cvft.load("tiny")
    yield model
    model.close()


def data_url(path: Path) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"


def events(response: httpx.Response) -> list[dict]:
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def error_of(response: httpx.Response, status: int = 400) -> dict:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


QUESTIONS = ["What is shown?", "When does the shape appear?", "How many shapes are there?", "Which colour is it?"]


def test_answers_are_those_of_infer(server, tiny, adapter, other):
    turns = [("What is shown?", "a square")]
    tuned, others = cvft.load(adapter), cvft.load(other)
    several = []
    for number, query in enumerate(QUESTIONS):
        clip = CLIPS / NAMES[number]
        asked = [clip_part(NAMES[number]), text_part(query)]
        assert server.text(asked) == tiny.ask(clip, query)
        assert server.text(asked, model="tuned", max_tokens=12) == tuned.ask(clip, query, max_new_tokens=12)
        said = [
            server.text(asked),
            server.text(asked, model="other", max_tokens=12),
            server.text(asked, model="tuned", max_tokens=12),
        ]
        assert said[1] == others.ask(clip, query, max_new_tokens=12)
        several.append(said)
        told = [
            {"role": "user", "content": [clip_part(data_url(clip)), text_part(turns[0][0])]},
            {"role": "assistant", "content": turns[0][1]},
            {"role": "user", "content": query},
        ]
        assert server.text(told) == tiny.ask(clip, query, history=turns)
        assert server.text(query) == tiny.ask(None, query)
    assert len(set(zip(*several, strict=True))) == 3  # they are three models
    tuned.close()
    others.close()
    # the base beside its adapter was asked in between
    said = command("infer", "--model", "tiny", "--video", CLIPS / NAMES[0], "--query", QUESTIONS[0]).stdout
    assert server.text([clip_part(NAMES[0]), text_part(QUESTIONS[0])]) + "\n" == said


def test_the_official_client(server, tiny, root):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["tiny", "tuned", "other"]
    expected = tiny.ask(CLIPS / NAMES[0], "What is shown?")
    for url in ("deep/a clip.mp4", f"file://{root}/deep/a%20clip.mp4", "inside.mp4", data_url(CLIPS / NAMES[0])):
        messages = [{"role": "user", "content": [clip_part(url), text_part("What is shown?")]}]
        whole = client.chat.completions.create(model="tiny", messages=messages)
        assert whole.choices[0].message.content == expected
        assert whole.choices[0].finish_reason == "stop"
        options = {"include_usage": True}
        chunks = list(
            client.chat.completions.create(model="tiny", messages=messages, stream=True, stream_options=options)
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == expected
        assert (chunks[-2].choices[0].finish_reason, chunks[-1].choices) == ("stop", [])
        assert chunks[-1].usage == whole.usage
    prompt = tiny_encoder().processor.lay_out("What is shown?", time_indices=())
    bare = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "What is shown?"}])
    assert bare.usage.prompt_tokens == len(prompt)
    assert bare.usage.total_tokens == bare.usage.prompt_tokens + bare.usage.completion_tokens
    with pytest.raises(openai.NotFoundError, match="need one of `tiny`, `tuned`, `other`"):
        client.chat.completions.create(model="another", messages=[{"role": "user", "content": "?"}])
    with pytest.raises(openai.BadRequestError, match="`presence_penalty`"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "?"}], presence_penalty=1)


def test_stops_and_limits_end_an_answer(server, tiny):
    asked = [clip_part(NAMES[0]), text_part("What is shown?")]
    whole = tiny.ask(CLIPS / NAMES[0], "What is shown?")
    first, last = whole.split(" ", 1)
    for stop, expected in (
        ([last], first),
        (last[1:3], f"{first} {last[0]}"),
        ([first], ""),
        (["no such text"], whole),
    ):
        response = server.ask(asked, stop=stop).json()
        assert (response["choices"][0]["message"]["content"], response["choices"][0]["finish_reason"]) == (
            expected,
            "stop",
        )
        streamed = events(server.ask(asked, stop=stop, stream=True))
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in streamed) == expected
        assert all(chunk["choices"][0]["delta"] != {"content": ""} for chunk in streamed)
    cut = server.ask(asked, max_completion_tokens=1).json()
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 1
    assert whole.startswith(cut["choices"][0]["message"]["content"])


def test_what_is_drawn_follows_from_its_seed(server):
    asked = [clip_part(NAMES[0]), text_part("What is shown?")]
    greedy = server.text(asked)
    drawn = {seed: server.text(asked, model="tuned", temperature=2, seed=seed, max_tokens=8) for seed in range(6)}
    assert len(set(drawn.values())) > 1
    assert drawn == {seed: server.text(asked, model="tuned", temperature=2, seed=seed, max_tokens=8) for seed in drawn}
    assert server.text(asked, temperature=0, seed=3) == greedy
    assert server.text(asked, temperature=2, top_p=1e-6) == greedy  # the likeliest alone is left
    assert server.text(asked) == greedy


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("n", 2, "n"),
        ("frequency_penalty", 0.5, "frequency_penalty"),
        ("logprobs", True, "logprobs"),
        ("tools", [{"type": "function"}], "tools"),
        ("response_format", {"type": "json_object"}, "response_format"),
        ("media_io_kwargs", {"video": {"fps": 1000}}, "media_io_kwargs"),
        ("temprature", 1, "temprature"),
        ("temperature", 3, "temperature"),
        ("temperature", True, "temperature"),
        ("top_p", 0, "top_p"),
        ("top_p", 0.5, "top_p"),
        ("seed", 1.5, "seed"),
        ("seed", 2**64, "seed"),
        ("max_tokens", 0, "max_tokens"),
        ("max_completion_tokens", 10**9, "messages"),
        ("stop", ["a"] * 5, "stop"),
        ("stop", "", "stop"),
        ("stream", "yes", "stream"),
        ("stream_options", {"include_usage": True}, "stream_options"),
        ("messages", [], "messages"),
        ("messages", [{"role": "system", "content": "x"}], "messages[0].role"),
        ("messages", [{"role": "assistant", "content": "x"}], "messages[0].role"),
        ("messages", [{"role": "user", "content": "x"}] * 2, "messages[1].role"),
        ("messages", [{"role": "user", "content": "x", "name": "y"}], "messages[0].name"),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
         "messages[0].content[0].type"),
        ("messages", [{"role": "user", "content": [{"type": "input_audio"}]}], "messages[0].content[0].type"),
        ("messages", [{"role": "user", "content": [clip_part("a"), clip_part("b")]}],
         "messages[0].content[1].video_url.url"),
        ("messages", [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "a", "fps": 9}}]}],
         "messages[0].content[0].video_url.fps"),
        ("messages", [{"role": "user", "content": "<image> what?"}], "messages"),
    ],
)  # fmt: skip
def test_a_field_that_is_not_carried_out_is_named(server, field, value, param):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "?"}], field: value}
    error = error_of(server.post("/v1/chat/completions", body))
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["message"].strip("`").startswith(param)


def test_fields_that_ask_for_nothing_are_taken(server):
    nothing = {"n": 1, "logprobs": False, "presence_penalty": 0, "tools": None, "user": None, "top_p": 1, "seed": None}
    assert server.text("Say yes.", **nothing) == server.text("Say yes.")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a": NaN}', b'{"a":1,"a":1}', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object(server, body):
    with server.client() as client:
        response = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert error_of(response)["code"] == "invalid_json"


def test_other_ways_in_are_closed(server):
    with server.client() as client:
        assert error_of(client.get("/nothing"), 404)["type"] == "not_found_error"
        assert error_of(client.get("/v1/chat/completions"), 405)["type"] == "invalid_request_error"
        plain = {"content-type": "text/plain"}  # what a page from elsewhere may send
        assert error_of(client.post("/v1/chat/completions", content=b"{}", headers=plain), 415)
        assert error_of(client.post("/clips", content=b"x", headers=plain), 415)
        assert error_of(client.get("/v1/models", headers={"host": "evil.example"}), 403)["code"] == "wrong_host"
        assert client.get("/v1/models", headers={"host": "localhost:1"}).status_code == 200
        for path in ("/docs", "/openapi.json", "/page/../errors.py", "/%2e%2e/errors.py", "/page.js/"):
            assert client.get(path).status_code in (404, 307), path


FORBIDDEN = [
    "nothing.mp4",
    "/etc/passwd",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "file://other/etc/passwd",
    "../outside.mp4",
    "deep/../../outside.mp4",
    "file:///%2e%2e/%2e%2e/etc/passwd",
    "link.mp4",
    "out/outside.mp4",
    "pipe.mp4",
    "deep",
    ".",
    "/proc/self/environ",
    "file:///proc/self/root/etc/passwd",
    "file:///dev/zero",
    "bad\0.mp4",
    "a" * 5000,
    f"{NAMES[0]}?x",
    "clip:" + "0" * 64,
    "clip:../../etc/passwd",
]


def test_files_outside_the_roots_are_as_if_they_were_not_there(server, root):
    # each of the links does lead to a file
    assert (root / "link.mp4").is_file()
    assert (root / "out" / "outside.mp4").is_file()
    absolute = [str(root.parent / "outside.mp4"), str(root / "link.mp4"), f"file://{root}/../outside.mp4"]
    for url in [*FORBIDDEN, *absolute]:
        error = error_of(server.ask([clip_part(url), text_part("?")]))
        if url.startswith("clip:.."):
            assert error["code"] == "invalid_value"
            continue
        assert error["message"] == "messages[0].content[0].video_url.url: no clip of that name that may be shown", url
    for url in ("http://127.0.0.1/a.mp4", "https://example.org/a.mp4", "HTTP://0x7f.1/", "ftp://a/b", "javascript:1"):
        assert "nothing is fetched" in error_of(server.ask([clip_part(url), text_part("?")]))["message"]
    for url in (
        "data:text/html;base64,AAAA",
        "data:video/mp4,AAAA",
        "data:video/mp4;base64,A*A",
        "data:video/mp4;base64,",
    ):
        assert "data URL" in error_of(server.ask([clip_part(url), text_part("?")]))["message"]
    assert server.text("Say yes.")


def test_a_bad_clip_tells_nothing_of_the_machine(server, root):
    for url in ("bad.mp4", "secret.txt", data_url(root / "bad.mp4")):
        for response in (
            server.ask([clip_part(url), text_part("?")]),
            server.ask([clip_part(url), text_part("?")], stream=True),
            server.post("/frames", {"model": "tiny", "url": url}),
        ):
            error = error_of(response)
            assert error["code"] == "invalid_clip"
            for word in (
                str(root),
                str(root.parent),
                "secret of this",
                "cvft-serve",
                "0x",
                "/tmp",
                ".mp4:",
                "Traceback",
            ):
                assert word not in response.text, response.text


def test_control_tokens_in_a_question_are_its_text(server, tiny):
    special = sorted(tiny_encoder().processor.encode_text.control_tokens.values())
    assert special
    for token in special:
        query = f"{token}What {token} is shown?{token}"
        ids = tiny_encoder().processor.lay_out(query).input_ids
        response = server.ask(query).json()
        assert response["usage"]["prompt_tokens"] == len(ids)
        assert response["choices"][0]["message"]["content"] == tiny.ask(None, query)
        assert set(ids[1:]).isdisjoint(tiny_encoder().processor.encode_text.control_tokens)


def test_many_at_a_time_are_answered_as_alone_and_a_bad_one_fails_alone(server, tiny):
    asked = [(name, query) for name in NAMES for query in QUESTIONS[:3]]
    alone = {each: tiny.ask(CLIPS / each[0], each[1]) for each in asked}

    def ask(each: tuple[str, str]) -> httpx.Response:
        url = data_url(CLIPS / each[0]) if each[0] != "bad.mp4" else each[0]
        return server.ask([clip_part(url), text_part(each[1])], stream=len(each[1]) % 2 == 0)

    everything = [*asked[:10], ("bad.mp4", "?"), *asked[10:]]
    with ThreadPoolExecutor(len(everything)) as threads:
        responses = dict(zip(everything, threads.map(ask, everything), strict=True))
    error_of(responses.pop(("bad.mp4", "?")))
    for each, response in responses.items():
        assert response.status_code == 200, response.text
        if response.headers["content-type"] == "application/json":
            said = response.json()["choices"][0]["message"]["content"]
        else:
            said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in events(response))
        assert said == alone[each]
    assert (server.metric("num_requests_running"), server.metric("num_requests_waiting")) == (0, 0)


def test_a_clip_that_is_asked_about_again_is_not_computed_again(server, tiny):
    hits = server.metric("prefix_cache_hits_total")
    for query in QUESTIONS:
        assert server.text([clip_part(NAMES[5]), text_part(query)]) == tiny.ask(CLIPS / NAMES[5], query)
    assert server.metric("prefix_cache_hits_total") >= hits + len(QUESTIONS) - 1


def test_a_file_that_has_changed_is_another_clip(server, tiny, root):
    path = root / "changing.mp4"
    for name in (NAMES[0], NAMES[2]):
        shutil.copy2(CLIPS / name, path)
        assert server.text([clip_part("changing.mp4"), text_part("What is shown?")]) == tiny.ask(path, "What is shown?")
        tiny._predictor.clips._loader._cached.clear()
    assert tiny.ask(CLIPS / NAMES[0], "What is shown?") != tiny.ask(CLIPS / NAMES[2], "What is shown?")


def test_frames_times_and_uploads_of_the_page(server, tiny):
    with server.client() as client:
        content = (CLIPS / NAMES[0]).read_bytes()
        url = client.post("/clips", content=content, headers={"content-type": "video/mp4"}).json()["url"]
    shown = server.post("/frames", {"model": "tiny", "url": url}).json()
    seconds = [frame["second"] for frame in shown["frames"]]
    assert seconds == [round(second, 2) for second in tiny._predictor.clips.load(CLIPS / NAMES[0]).view.timestamps_s]
    assert all(base64.b64decode(frame["picture"].partition(",")[2])[8:12] == b"WEBP" for frame in shown["frames"])
    assert server.text([clip_part(url), text_part("What is shown?")]) == tiny.ask(CLIPS / NAMES[0], "What is shown?")
    pieces = server.post("/times", {"text": "he walks from 3 to 7 s"}).json()["pieces"]
    assert pieces == [{"text": "he walks"}, {"text": " from 3 to 7 s", "start_s": 3.0, "end_s": 7.0}]


def endless() -> dict:
    content = [clip_part(data_url(CLIPS / NAMES[0])), text_part("What is shown?")]
    return {"model": "endless", "messages": [{"role": "user", "content": content}], "stream": True}


def wait_for(condition) -> None:
    begin_s = time.monotonic()
    while not condition():
        assert time.monotonic() - begin_s < 300
        time.sleep(0.05)


def test_a_key_is_needed_for_all_but_the_page(guarded):
    with httpx.Client(base_url=guarded.url) as nobody:
        for path in ("/v1/models", "/metrics"):
            assert error_of(nobody.get(path), 401)["type"] == "authentication_error"
        for path in ("/v1/chat/completions", "/clips", "/frames", "/times"):
            assert error_of(nobody.post(path, json={}), 401)["code"] == "invalid_api_key"
        for given in (f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY, "Bearer", "Bearer é".encode()):
            assert nobody.get("/v1/models", headers={"authorization": given}).status_code == 401
        assert nobody.get("/health").json() == {"status": "ok"}
        assert nobody.get("/").status_code == 200
    with guarded.client() as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == "endless"
    error = error_of(guarded.ask("?", model="endless", max_tokens=MOST_TOKENS + 1))
    assert error["param"] == "max_completion_tokens"


def test_a_client_that_hangs_up_frees_its_place_and_a_full_queue_says_so(guarded):
    running = "num_requests_running"
    with guarded.client() as first, guarded.client() as second:
        with first.stream("POST", "/v1/chat/completions", json=endless()) as answer:
            lines = answer.iter_lines()  # kept: httpx hangs up when its iterator is gone
            next(lines)
            wait_for(lambda: guarded.metric(running) == 1)
            with ThreadPoolExecutor(1) as threads:
                whole = {**endless(), "stream": False, "max_tokens": 3}
                waiting = threads.submit(second.post, "/v1/chat/completions", json=whole)
                wait_for(lambda: guarded.metric("num_requests_waiting") == 1)
                full = guarded.post("/v1/chat/completions", endless())
                assert error_of(full, 429)["code"] == "queue_full"
                assert int(full.headers["retry-after"]) >= 1
                answer.close()
                said = waiting.result()
        assert said.json()["usage"]["completion_tokens"] == 3
    # one that waits for a whole answer is noticed as well
    with socket.create_connection(("127.0.0.1", int(guarded.url.rpartition(":")[2]))) as connection:
        body = json.dumps({**endless(), "stream": False}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        connection.sendall(
            f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        wait_for(lambda: guarded.metric(running) == 1)
    wait_for(lambda: guarded.metric(running) == 0)
    assert guarded.metric('request_success_total{finished_reason="abort"}') == 2
    assert guarded.metric("generation_tokens_total") < MOST_TOKENS


def test_a_body_beyond_the_limit_is_refused_while_it_comes(guarded):
    def parts():
        for _ in range(64):
            yield b" " * 65536

    with guarded.client() as client:
        kind = {"content-type": "application/json"}
        for content in (b" " * (2 << 20), parts()):
            try:
                response = client.post("/v1/chat/completions", content=content, headers=kind)
            except httpx.TransportError:  # it may be told while it still sends
                continue
            assert error_of(response, 413)["code"] == "too_large"
    assert guarded.ask("?", model="endless", max_tokens=1).status_code == 200


@pytest.mark.parametrize(
    ("args", "key", "said"),
    [
        (["--host", "0.0.0.0"], "", "--host: got `0.0.0.0`, need 127.0.0.1, or a key in CVFT_API_KEY"),
        (["--host", "0.0.0.0"], "short", "CVFT_API_KEY: got a key that is too short or odd"),
        (["--media-root", "/"], "", "--media-root: got `/`, need a folder of clips"),
        (["--media-root", "nowhere"], "", "--media-root: got `nowhere`, need a folder that exists"),
        (["--adapter", "tuned"], "", "--adapter: got `tuned`, need NAME=FOLDER"),
        (["--adapter", "tiny=x"], "", "--adapter: got the name `tiny` twice"),
        (["--name", "a b"], "", "the name of a model: got `a b`"),
        (["--batch-rows", "0"], "", "--batch-rows: got `0`, need at least 1"),
        (["--port", "99999"], "", "--port: got `99999`, need 0 to 65535"),
    ],
)
def test_what_would_not_be_safe_is_refused_before_anything_listens(args, key, said):
    environment = {**os.environ, "CVFT_API_KEY": key}
    result = command("serve", "--model", "tiny", *args, env=environment)
    assert result.returncode == 2
    assert said in result.stderr


def test_a_port_that_is_taken(server):
    port = server.url.rpartition(":")[2]
    result = command("serve", "--model", "tiny", "--port", port)
    assert (result.returncode, "need an address that is free" in result.stderr) == (2, True)
