"""What the server refuses: what it would not carry out, files that may not be shown, and ways to start that are not safe."""

import os
from pathlib import Path

import pytest

from tests.project import cvft as command
from tests.served import NAMES, data_url, error_of, make_root
from tests.server import clip_part, frame_part, serving, text_part


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make_root(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(root):
    with serving("--model", "tiny", "--media-root", root) as running:
        yield running


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("n", 0, "n"),
        ("n", 17, "n"),
        ("n", True, "n"),
        ("frequency_penalty", 0.5, "frequency_penalty"),
        ("logprobs", True, "logprobs"),
        ("tools", [{"type": "function"}], "tools"),
        ("response_format", {"type": "json_object"}, "response_format"),
        ("media_io_kwargs", {"video": {"fps": 1000}}, "media_io_kwargs"),
        ("temprature", 1, "temprature"),
        ("temperature", 3, "temperature"),
        ("temperature", True, "temperature"),
        ("temperature", 10**400, "temperature"),
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
        ("messages", [{"role": "tool", "content": "x"}], "messages[0].role"),
        ("messages", [{"role": "system", "content": "x"}], "messages"),
        ("messages", [{"role": "user", "content": "x"}, {"role": "system", "content": "x"}], "messages[1].role"),
        ("messages", [{"role": "system", "content": [clip_part("a")]}], "messages[0].content[0].type"),
        ("messages", [{"role": "assistant", "content": "x"}], "messages[0].role"),
        ("messages", [{"role": "user", "content": "x"}] * 2, "messages[1].role"),
        ("messages", [{"role": "user", "content": "x", "name": "y"}], "messages[0].name"),
        ("messages", [{"role": "user", "content": [frame_part("a"), clip_part("b")]}], "messages[0].content[1].type"),
        ("messages", [{"role": "user", "content": [frame_part("a"), text_part("b"), frame_part("c")]}],
         "messages[0].content[2].type"),
        ("messages", [{"role": "user", "content": [frame_part("a"), frame_part("b")]}], "frame_seconds"),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a", "detail": "high"}}]}],
         "messages[0].content[0].image_url.detail"),
        ("messages", [{"role": "user", "content": [{**frame_part("a"), "seconds": 1}]}], "messages[0].content[0].seconds"),
        ("messages", [{"role": "user", "content": [frame_part("a")]}, {"role": "assistant", "content": "b"},
                      {"role": "user", "content": [frame_part("c")]}], "messages[2].content[0].image_url.url"),
        ("messages", [{"role": "user", "content": "a"}, {"role": "assistant", "content": [frame_part("b")]}],
         "messages[1].content[0].type"),
        ("frame_seconds", [0], "frame_seconds"),
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
            server.show([clip_part(url)]),
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
