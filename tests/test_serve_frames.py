"""Frames sent to the server as pictures with their seconds: answered like a row of them, and refused where they are odd."""

import asyncio
import base64
import io
import json
import os
import struct
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import openai
import pytest
from PIL import Image

from cvft.data.video.decode import decode_clip
from cvft.data.video.sample import Sampling
from cvft.serve.errors import ApiError
from cvft.serve.media import MediaStore
from cvft.serve.messages import MAX_FRAMES, AskedClip
from cvft.serve.web_clips import WebClips
from tests.clip_server import ClipServer
from tests.project import cvft as command
from tests.project import write_jsonl
from tests.served import CLIPS, NAMES, error_of, make_root
from tests.server import Running, clip_part, frame_part, serving, text_part

QUERY = "What is shown?"
SECONDS = [0, 0.5, 1, 2.5]


def encoded(picture: Image.Image, kind: str) -> bytes:
    held = io.BytesIO()
    picture.save(held, kind)
    return held.getvalue()


def picture_url(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A media root, with four frames of two clips each as PNG, and of one as JPEG and WebP as well."""
    folder = make_root(tmp_path_factory.mktemp("served"))
    for name, clip, kinds in (("one", NAMES[0], ("png", "jpeg", "webp")), ("two", NAMES[1], ("png",))):
        for number, frame in enumerate(decode_clip(CLIPS / clip, sampling=Sampling("uniform", 4)).frames):
            for kind in kinds:
                (folder / f"{name}{number}.{kind}").write_bytes(encoded(Image.fromarray(frame), kind))
    (folder / "frame.png").symlink_to(folder.parent / "outside.mp4")
    (folder / "small.png").write_bytes(encoded(Image.new("RGB", (32, 32)), "png"))
    (folder / "cut.png").write_bytes((folder / "one1.png").read_bytes()[:400])
    os.mkfifo(folder / "pipe.png")
    return folder


@pytest.fixture(scope="module")
def web():
    with ClipServer() as running:
        yield running


@pytest.fixture(scope="module")
def server(root, web):
    urls = ("--allow-urls", "--allow-host", "127.0.0.1", "--max-url-mib", 1)
    with serving("--model", "tiny", "--media-root", root, *urls) as running:
        yield running


def named(name: str, kind: str = "png", count: int = 4) -> list[str]:
    return [f"{name}{number}.{kind}" for number in range(count)]


def ask(server: Running, names: list[str], seconds: object = None):
    said = {} if seconds is None else {"frame_seconds": seconds}
    return server.ask([*map(frame_part, names), text_part(QUERY)], **said)


def text_of(response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def test_frames_are_answered_like_a_row_of_them(server, root, web, tmp_path):
    pictures = {kind: [(root / name).read_bytes() for name in named("one", kind)] for kind in ("png", "jpeg", "webp")}
    web.files = {f"/file/{number}": content for number, content in enumerate(pictures["png"])}
    rows = [
        ("one", "png", 4, SECONDS),
        ("one", "png", 4, [0, 20, 40, 60]),
        ("one", "jpeg", 4, SECONDS),
        ("one", "webp", 4, SECONDS),
        ("two", "png", 4, SECONDS),
        ("two", "png", 1, [0]),
    ]
    asked = [
        {"query": QUERY, "videos": [[str(root / each) for each in named(name, kind, count)]], "seconds": seconds}
        for name, kind, count, seconds in rows
    ]
    later = {**asked[0], "query": "And when?", "history": [[QUERY, "a square"]]}
    data = write_jsonl(tmp_path / "rows.jsonl", [*asked, later])
    done = command("infer", "--model", "tiny", "--data", data, "--output", tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line)["prediction"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    last = answers.pop()
    assert len(answers) == len(rows)
    assert answers[0] != answers[4]  # the frames count
    for answer, (name, kind, count, seconds) in zip(answers, rows, strict=True):
        assert text_of(ask(server, named(name, kind, count), seconds)) == answer
    tokens = [ask(server, named("one"), seconds).json()["usage"]["prompt_tokens"] for *_, seconds in rows[:2]]
    assert tokens[0] < tokens[1]  # so do their seconds: of a longer clip, more is shown
    # the same pictures by their bytes and by URL, mixed too; a single one needs no second
    for kind, answer in (("png", answers[0]), ("jpeg", answers[2]), ("webp", answers[3])):
        assert text_of(ask(server, [picture_url(each, kind) for each in pictures[kind]], SECONDS)) == answer
    urls = [f"{web.url}{path}" for path in web.files]
    assert text_of(ask(server, urls, SECONDS)) == answers[0]
    mixed = ["one0.png", urls[1], picture_url(pictures["png"][2]), f"file://{root}/one3.png"]
    assert text_of(ask(server, mixed, SECONDS)) == answers[0]
    assert text_of(ask(server, named("two", count=1))) == answers[5]
    shown = server.show([*map(frame_part, named("one"))], frame_seconds=SECONDS).json()
    assert shown["duration_s"] > SECONDS[-1]
    assert {each["second"] for each in shown["frames"]} <= set(SECONDS)
    assert len(shown["frames"]) > 1

    # the official client, which says the whole conversation anew, in pieces
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    parts = [{"type": "image_url", "image_url": {"url": url, "detail": "auto"}} for url in named("one")]
    said = [{"role": "user", "content": [text_part(QUERY), *parts]}]
    more = {"extra_body": {"frame_seconds": SECONDS}}
    kept = server.metric("prefix_cache_hits_total")
    chunks = client.chat.completions.create(model="tiny", messages=said, stream=True, **more)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answers[0]
    said += [{"role": "assistant", "content": "a square"}, {"role": "user", "content": "And when?"}]
    whole = client.chat.completions.create(model="tiny", messages=said, **more)
    assert whole.choices[0].message.content == last
    assert server.metric("prefix_cache_hits_total") == kept + 2  # the frames were not computed again


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "got nothing, need 4 seconds, when each `image_url` was taken"),
        ([0, 1, 2], "got 3 seconds, need 4, one for each picture"),
        ([], "got 0 seconds, need 4, one for each picture"),
        ([1, 2, 3, 4], "got 1 for the first picture, need 0 (take 1 from all of them"),
        ([0, 2, 1, 3], "got 1 for picture 3 after 2, need later seconds for later pictures"),
        ([0, 1, 1, 2], "got 1 for picture 3 after 1, need later seconds for later pictures"),
        ([0, 1e-300, 1, 2], "got 1e-300 for picture 2 after 0, need at least 0.001 s between pictures"),
        ([0, 1, 2, 1e300], "got 1e+300 for the last picture, need less than 1e+07 s"),
        ([0, 1, 2, 10**400], "got a list with other values in it, need a list of numbers"),
        ([0, 1, 2, "3"], "got a list with other values in it, need a list of numbers"),
        ([False, True, 2, 3], "got a list with other values in it, need a list of numbers"),
        ("0,1,2,3", "got text, need a list of numbers"),
        (True, "got true or false, need a list of numbers"),
        ({}, "got no object, need a list of numbers"),
    ],
)
def test_seconds_that_are_unclear_are_named(server, seconds, said):
    error = error_of(ask(server, named("one"), seconds))
    assert error["param"] == "frame_seconds"
    assert error["message"].startswith(f"frame_seconds: {said}")


FORBIDDEN = [
    "nothing.png",
    "/etc/passwd",
    "file:///etc/passwd",
    "../outside.mp4",
    "frame.png",
    "out/outside.mp4",
    "pipe.png",
    "deep",
    "/proc/self/environ",
    "file:///dev/zero",
    "one\0.png",
    "clip:" + "0" * 64,
]


def test_frames_outside_the_roots_are_as_if_they_were_not_there(server, root):
    assert (root / "frame.png").is_file()
    for name in [*FORBIDDEN, str(root.parent / "outside.mp4"), str(root / "frame.png")]:
        error = error_of(ask(server, ["one0.png", name], [0, 1]))
        assert error["message"] == "messages[0].content[1].image_url.url: no clip of that name that may be shown", name
    for url, said in (
        ("data:image/png;base64,A*A", "got a data URL that is no base64"),
        ("data:image/png;base64,", "got a data URL with nothing in it"),
        ("data:image/png,AAAA", "got another data URL"),
        ("data:text/html;base64,AAAA", "got a data URL of type `text/html`, need the type of a picture"),
        ("data:video/mp4;base64,AAAA", "got a data URL of type `video/mp4`, need the type of a picture"),
        ("ftp://a/b.png", "got a URL that begins with `ftp:`"),
        ("http://169.254.169.254/a.png", "got a URL whose host cannot be asked"),
    ):
        error = error_of(ask(server, ["one0.png", url], [0, 1]))
        assert error["message"].startswith(f"messages[0].content[1].image_url.url: {said}"), error
    # a picture is no video, though a video's data URL may say nothing of its kind
    assert "need the type of a video" in error_of(server.ask([clip_part("data:image/png;base64,AAAA")]))["message"]


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Writes a PNG whose head says what it likes."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    written = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", head), *chunks, (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
        written += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return written


def test_a_frame_that_is_none_fails_alone_is_named_and_tells_nothing(server, root):
    two = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    moving = io.BytesIO()
    two[0].save(moving, "png", save_all=True, append_images=two[1:])
    for name, said in (
        ("secret.txt", "got"),
        ("cut.png", "got a picture that is damaged or cut off"),
        ("small.png", "got a picture of 32 x 32 pixels after one of"),
        (NAMES[0], "got"),
        (picture_url(png(30_000, 30_000)), "got frames of 30000 x 30000 pixels, need at most"),
        (picture_url(png(200_000, 10)), "got frames of 200000 x 10 pixels"),
        (picture_url(png(64, 64, (b"zTXt", b"a\0\0" + zlib.compress(bytes(80 << 20))))), "got"),
        (picture_url(moving.getvalue()), "got 2 pictures in a file"),
        (picture_url(b"<svg onload='alert(1)'/>", "svg+xml"), "got"),
        (picture_url(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "got"),
        (picture_url(encoded(two[0], "gif"), "gif"), "got"),
    ):
        for place in (0, 1):
            if place == 0 and name == "small.png":  # then the other one differs from it
                continue
            names = ["one0.png", "one1.png"]
            names[place] = name
            response = ask(server, names, [0, 1])
            error = error_of(response)
            param = f"messages[0].content[{place}].image_url.url"
            assert (error["code"], error["param"]) == ("invalid_clip", param), (name[:60], error)
            assert error["message"].startswith(f"{param}: {said}"), error
            for word in (str(root), str(root.parent), "secret of this", "cvft-serve", "0x", "/tmp", "Traceback"):
                assert word not in response.text, response.text
    assert text_of(ask(server, named("one"), SECONDS))


def test_frames_have_limits_together(server, web):
    many = ["one0.png"] * (MAX_FRAMES + 1)
    error = error_of(ask(server, many, [number * 0.1 for number in range(len(many))]))
    assert error["message"] == f"messages[0].content: got more than {MAX_FRAMES} frames, need at most as many"
    assert text_of(ask(server, many[1:], [number * 0.1 for number in range(MAX_FRAMES)]))
    noise = np.random.default_rng(0).integers(0, 256, (2, 450, 450, 3), dtype=np.uint8)
    web.files = {f"/file/{number}": encoded(Image.fromarray(each), "png") for number, each in enumerate(noise)}
    urls = [f"{web.url}{path}" for path in web.files]
    assert all(text_of(ask(server, [url])) is not None for url in urls)
    error = error_of(ask(server, urls, [0, 1]), 413)
    assert error["param"] == "messages[0].content[1].image_url.url"


def test_frames_that_were_fetched_before_one_that_fails_are_let_go(web):
    web.files = {"/file/0": encoded(Image.new("RGB", (64, 64)), "png"), "/file/1": (CLIPS / NAMES[0]).read_bytes()}
    urls = [f"{web.url}{path}" for path in ("/file/0", "/missing/1", "/file/1")]
    with closing(MediaStore([], max_bytes=10**6, fetches=True)) as media:
        clips = WebClips(media, max_bytes=10**6, allow_hosts=["127.0.0.1"])

        def fetch(*names: str) -> list[Path | None]:
            clip = AskedClip("picture", names, tuple("abc"[: len(names)]), tuple(map(float, range(len(names)))))
            return asyncio.run(clips.open_all(clip))

        for bad, said in (
            (urls[1], "b: got a URL that gives status 404"),
            (urls[2], "b: got a URL that gives an mp4 or mov clip"),
        ):
            with pytest.raises(ApiError, match=said):
                fetch(urls[0], bad)
            assert set(media._users.values()) == {0}
        opened = fetch(urls[0], "elsewhere.png", urls[0])
        assert opened[1] is None
        assert [media._users[path] for path in opened if path is not None] == [2, 2]
