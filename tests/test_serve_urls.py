"""`cvft serve --allow-urls`: clips by URL, asked for as they are now, within limits, and nothing told of where hosts lie."""

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

import cvft
from tests.clip_server import CLIP, CLIPS, OTHER, ClipServer
from tests.project import cvft as command
from tests.served import error_of
from tests.server import Running, clip_part, serving, text_part

QUERY = "What is shown?"
WHERE = "messages[0].content[0].video_url.url: "


@pytest.fixture(scope="module")
def web():
    with ClipServer() as running:
        yield running


@pytest.fixture(scope="module")
def server(web):
    with serving("--model", "tiny", "--allow-urls", "--allow-host", "127.0.0.1", "--max-url-mib", 1) as running:
        yield running


def ask(server: Running, url: str):
    return server.ask([clip_part(url), text_part(QUERY)])


def test_a_clip_by_url_is_answered_like_its_file_and_sent_again_only_when_it_has_changed(server, web):
    with cvft.load("tiny") as model:
        first, second = (model.ask(CLIPS / name, QUERY) for name in ("val_000.mp4", "val_001.mp4"))
    assert server.text([clip_part(f"{web.url}/good/a.mp4"), text_part(QUERY)]) == first
    assert server.text([clip_part(f"{web.url}/to/?/other/a.mp4"), text_part(QUERY)]) == second
    pictures = server.show([clip_part(f"{web.url}/good/a.mp4")]).json()
    assert len(pictures["frames"]) == 8
    assert server.text([clip_part(f"{web.url}/good/a.mp4"), text_part(QUERY)]) == first
    asked = web.asked_for("/good/a.mp4")
    assert [headers.get("if-none-match") for headers in asked] == [None, '"one"', '"one"']
    # the same URL, another clip by now
    urls = [f"{web.url}/turns/a.mp4"] * 3
    assert [server.text([clip_part(url), text_part(QUERY)]) for url in urls] == [first, second, second]
    assert CLIP != OTHER
    assert "" != first != second != ""
    assert server.text([clip_part(f"{web.url}/good/a.mp4?sig=KEY"), text_part(QUERY)]) == first
    assert "KEY" not in "".join(server.log)


REFUSED = {
    "http://[::1]/a.mp4": "got a URL whose host cannot be asked, need a public host, at port 80 or 443",
    "http://169.254.169.254/latest": "got a URL whose host cannot be asked, need a public host, at port 80 or 443",
    "http://[::ffff:127.0.0.1]/a.mp4": "got a URL whose host cannot be asked, need a public host, at port 80 or 443",
    "https://nobody.invalid/a.mp4": "got a URL whose host cannot be asked, need a public host, at port 80 or 443",
    "http://localhost:PORT/good/a.mp4": "got a URL whose host cannot be asked, need a public host, at port 80 or 443",
    "WEB/to/?http://localhost:PORT/good/a": "got a URL whose host cannot be asked, need a public host, at port 80 or 443",
    "WEB/to/?http://10.0.0.1/a": "got a URL whose host cannot be asked, need a public host, at port 80 or 443",
    "HTTP://0x7f.1/": "got a URL that is not fetched",
    "http://2130706433/": "got a URL that is not fetched",
    "http://user:word@127.0.0.1/a.mp4": "got a URL that is not fetched",
    "WEB/good/a.mp4#t=1": "got a URL that is not fetched",
    "WEB/loop/a.mp4": "got a URL that gives ever further redirects",
    "WEB/page/a.mp4": "got a URL that gives a page or a message",
    "WEB/gzip/a.mp4": "got a URL that gives a response that is packed",
    "WEB/large/a.mp4": "got a URL that gives more than 1,048,576 bytes, need at most 1 MiB",
    "WEB/endless/a.mp4": "got a URL that gives more than 1,048,576 bytes, need at most 1 MiB",
    "WEB/long/a.mp4": "got a URL that gives a download that was cut",
    "WEB/missing/a.mp4": "got a URL that gives status 404",
    "WEB/short/a.mp4": "the clip: got a file that was cut off",
    "ftp://a/b": "got a URL that begins with `ftp:`, need an http, https or data URL",
}


def test_what_cannot_be_had_fails_alone_and_tells_nothing_of_hosts(server, web):
    num_asked = len(web.asked)
    asked = {url: url.replace("WEB", web.url).replace("PORT", str(web.port)) for url in REFUSED}
    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(asked, pool.map(lambda url: ask(server, url), asked.values()), strict=True))
    for url, response in answers.items():
        error = error_of(response)
        assert error["message"].startswith(("" if "the clip" in REFUSED[url] else WHERE) + REFUSED[url]), (url, error)
        told = re.findall(
            r"127\.|::1|10\.0|169\.|localhost|nobody|:word|word@|/tmp|cvft-serve|refused|errno", error["message"]
        )
        assert told == [], (url, error)
    assert {path for path, _ in web.asked[num_asked:] if path.startswith("/good")} == set()
    assert server.text("Say yes.")


def test_a_server_that_stands_still_holds_up_nobody(server, web):
    with ThreadPoolExecutor(8) as pool:
        stalled = [pool.submit(ask, server, f"{web.url}/{kind}/{number}") for number in range(4) for kind in ("stall",)]
        while sum(path.startswith("/stall/") for path, _ in web.asked) < 4:
            time.sleep(0.05)
        assert server.text([text_part("Say yes.")])
        web.stop.set()  # they let go
        for each in stalled:
            assert "a download that was cut" in error_of(each.result())["message"]
        web.stop.clear()


def test_a_client_that_has_gone_leaves_its_place_to_others(server, web):
    """Those who wait for the same four places would otherwise wait until what stands still is given up, after a second try."""
    asked = {"model": "tiny", "messages": [{"role": "user", "content": [clip_part(f"{web.url}/stall/gone.mp4")]}]}
    body = json.dumps(asked).encode()
    head = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    port = int(server.url.rpartition(":")[2])
    with ExitStack() as clients:
        for _ in range(4):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n" + head.encode() + body)
        while web.counts["/stall/gone.mp4"] < 4:
            time.sleep(0.05)
    assert server.text([clip_part(f"{web.url}/good/next.mp4"), text_part(QUERY)])
    assert web.counts["/stall/gone.mp4"] == 4


def test_urls_are_off_unless_asked_for():
    done = command("serve", "--model", "tiny", "--allow-host", "media.lan", "--max-url-mib", "5")
    assert done.returncode == 2
    assert "--allow-host: got it without `--allow-urls`" in done.stderr
    assert "--max-url-mib: got it without `--allow-urls`" in done.stderr
    done = command("serve", "--model", "tiny", "--allow-urls", "--allow-host", "http://a/", "--max-url-mib", "0")
    assert "--allow-host: got `http://a/`, need a host alone" in done.stderr
    assert "--max-url-mib: got `0`, need at least 1" in done.stderr
