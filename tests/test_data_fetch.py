"""Clips by URL: which URLs and addresses, what a server may do to a download, and what is left of one that was killed."""

import asyncio
import logging
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from cvft.data.fetch.addresses import is_public
from cvft.data.fetch.cache import ClipCache, place_of
from cvft.data.fetch.limits import FetchError, FetchLimits, HostError
from cvft.data.fetch.urls import parse_url, show_url
from cvft.errors import CvftError, RunError, ValueProblem
from cvft.files import hash_file
from tests.clip_server import CLIP, OTHER, ClipServer
from tests.project import HANG_S

QUICK = {"pause_s": 0.0, "connect_s": 5.0}


@pytest.fixture(scope="module")
def server():
    with ClipServer() as running:
        yield running


def open_cache(folder: Path, *, resolve=None, allow=("127.0.0.1",), **limits) -> ClipCache:
    more = {} if resolve is None else {"resolve": resolve}
    return ClipCache(folder, limits=FetchLimits(allow_hosts=allow, **{**QUICK, **limits}), **more)


def fetch(cache: ClipCache, *urls: str) -> list[Path | FetchError]:
    """The clip of each URL, or why there is none."""
    wanted = {place_of(cache.folder, parse_url(url)): url for url in urls}
    refused = cache.fetch(wanted)
    assert all(place.is_file() is (place not in refused) for place in wanted)
    return [refused.get(place, place) for place in wanted]


def files_of(cache: ClipCache, *folders: str) -> list[Path]:
    return sorted(path for name in folders for path in (cache.folder / name).rglob("*") if path.is_file())


# --- URLs and addresses ---

TAKEN = {
    "https://Host.ORG/a.mp4": ("https://host.org/a.mp4", "a.mp4"),
    "HTTP://host.org.:80": ("http://host.org/", "clip"),
    "https://bücher.de/ä b.mp4?x=a b": ("https://xn--bcher-kva.de/%C3%A4%20b.mp4?x=a%20b", "_b.mp4"),
    "http://10.0.0.5:8080/a%20b.mp4": ("http://10.0.0.5:8080/a%20b.mp4", "a_b.mp4"),
    "http://[::FFFF:127.0.0.1]/../..%2fx": ("http://[::ffff:7f00:1]/../..%2fx", "_x"),
    "http://１２７.0.0.1/x": ("http://127.0.0.1/x", "x"),
}


@pytest.mark.parametrize("text", TAKEN)
def test_a_url_has_one_spelling_and_a_harmless_name(text):
    url = parse_url(text)
    assert (url.text, url.file_name) == TAKEN[text]
    assert parse_url(url.text) == url


@pytest.mark.parametrize(
    "text",
    [
        *("http://0x7f.1/", "http://2130706433/", "http://0177.0.0.1/", "http://127.1/", "http://127.0.0.1.0x0/"),
        *("http://[fe80::1%25eth0]/", "http://127%2e0%2e0%2e1/", "http://a..b/", "http:///a", "http://-a/"),
        *("http://h:99999/", "http://h:0/", "http://h:x/", "http://h\\@g/", "http://h/\n", "http://h/\udc80"),
        *(
            "https://user:word@h/a",
            "https://user@h/a",
            "http://h/a.mp4#t=1,2",
            "http://h/" + "a" * 9000,
            "http://h"[:7],
        ),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text):
    with pytest.raises(ValueProblem) as caught:
        parse_url(text)
    assert "user:word" not in caught.value.got
    assert "word@" not in caught.value.got


def test_a_message_holds_no_key():
    assert show_url("https://h/a.mp4?sig=KEY&x=1") == "https://h/a.mp4?..."
    assert show_url("https://user:KEY@h/a#KEY") == "https://...@h/a#..."
    assert show_url("https://user:KEY/more@h/a") == "https://..."
    assert show_url("http://h:80/a@b.mp4") == "http://h:80/a@b.mp4"


PRIVATE = (
    *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.8.9.1", "169.254.169.254", "172.16.0.1"),
    *("192.0.0.1", "192.0.2.1", "192.168.1.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
    *("255.255.255.255", "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1"),
    *("64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "fc00::1", "fd00:ec2::254"),
    *("fe80::1", "fe80::1%eth0", "2606:4700::1%1", "fec0::1", "ff02::1", "host"),
)
PUBLIC = ("8.8.8.8", "93.184.216.34", "::ffff:8.8.8.8", "64:ff9b::808:808", "2606:4700::1111", "2001:4860:4860::8888")


def test_only_addresses_of_the_public_internet_are_dialled():
    assert [address for address in PRIVATE if is_public(address)] == []
    assert [address for address in PUBLIC if not is_public(address)] == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"])
def test_a_host_that_is_not_public_is_not_asked(server, tmp_path, host):
    num_asked = len(server.asked)
    (error,) = fetch(open_cache(tmp_path, allow=()), f"http://{host}/good/a.mp4")
    assert isinstance(error, HostError)
    assert "which is no public address, need a host of the public Internet" in str(error)
    (error,) = fetch(open_cache(tmp_path, allow=()), f"http://{host}:{server.port}/good/a.mp4")
    assert "need the port 80 or 443" in str(error)
    assert len(server.asked) == num_asked


def test_a_name_is_looked_up_once_and_dialled_as_it_was_found(server, tmp_path):
    looked_up = []

    def resolve(host: str, port: int) -> list[str]:
        looked_up.append((host, port))
        return ["127.0.0.1"]

    cache = open_cache(tmp_path, resolve=resolve, allow=["Clips.test"])
    (place,) = fetch(cache, f"http://clips.test:{server.port}/good/named.mp4")
    assert place.read_bytes() == CLIP
    assert looked_up == [("clips.test", server.port)]
    assert server.asked_for("/good/named.mp4")[0]["host"] == f"clips.test:{server.port}"


def test_a_name_that_means_another_address_the_second_time_is_refused_then(server, tmp_path):
    """Whoever answers at the first address cannot prove to be that host, so that there is a second look."""
    answers = iter([["192.88.99.1"], ["127.0.0.1"]])
    looked_up = []

    def resolve(host: str, port: int) -> list[str]:
        looked_up.append(host)
        return next(answers)

    num_asked = len(server.asked)
    (error,) = fetch(open_cache(tmp_path, resolve=resolve, connect_s=0.2), "https://rebound.test/good/a.mp4")
    assert "`rebound.test` at `127.0.0.1`, which is no public address" in str(error)
    assert looked_up == ["rebound.test"] * 2
    mixed = open_cache(tmp_path, resolve=lambda host, port: ["93.184.216.34", "10.0.0.1"])
    (error,) = fetch(mixed, "http://mixed.test/a.mp4")
    assert "`mixed.test` at `10.0.0.1`" in str(error)
    assert len(server.asked) == num_asked


# --- redirects ---


def test_each_redirect_is_looked_at_anew(server, tmp_path):
    cache = open_cache(tmp_path, resolve=lambda host, port: ["127.0.0.1"], allow=["clips.test"])
    start = f"http://clips.test:{server.port}/to/a.mp4?"
    inside = f"http://127.0.0.1:{server.port}/good/secret"
    metadata = "http://169.254.169.254/latest/meta-data"
    relative, away, numbers, to_metadata, file, user, loop, nowhere = fetch(
        cache,
        start + "/good/relative.mp4",
        start + inside,
        start + "http://0x7f.1/good/secret",
        start + metadata,
        start + "file:///etc/passwd",
        start + "http://me:word@clips.test/",
        f"http://clips.test:{server.port}/loop/a.mp4",
        f"http://clips.test:{server.port}/nowhere/a.mp4",
    )
    assert relative.read_bytes() == CLIP
    assert isinstance(away, HostError)
    assert isinstance(to_metadata, HostError)
    assert not server.asked_for("/good/secret")
    for error, words in (
        (numbers, "whose host is none"),
        (to_metadata, "`169.254.169.254`, which is no public address"),
        (file, "with `file:`"),
        (user, "with a user or password"),
        (loop, "got ever further redirects, need at most 5"),
        (nowhere, "got ever further redirects"),
    ):
        assert words in str(error), error
        assert "word@" not in str(error)
    assert server.counts["/loop/a.mp4"] == 6


def test_what_began_encrypted_stays_so():
    with pytest.raises(ValueProblem, match="not encrypted"):
        parse_url("https://h/a").follow("http://h/a")
    assert parse_url("https://h/a/b?x").follow("../c#t").text == "https://h/c"


# --- what servers do to a download ---


def test_a_download_that_was_cut_goes_on_where_it_stopped(server, tmp_path):
    for kind, content, begins in (
        ("cut", CLIP, [None, len(CLIP) // 3, 2 * len(CLIP) // 3]),
        ("loose", CLIP, [None, len(CLIP) // 3, 2 * len(CLIP) // 3]),
        ("dated", CLIP, [None, len(CLIP) // 2]),
        ("nameless", CLIP, [None, None]),
        ("changed", OTHER, [None, len(CLIP) // 2]),
        ("elsewhere", CLIP, [None, len(CLIP) // 2, None]),
        ("gone", CLIP, [None, len(CLIP) // 2, None]),
        ("stall_once", CLIP, [None, len(CLIP) // 2]),
        ("busy", CLIP, [None, None]),
    ):
        path = f"/{kind}/resumed.mp4"
        (place,) = fetch(open_cache(tmp_path / kind, stall_s=0.5), server.url + path)
        assert isinstance(place, Path), (kind, place)
        assert place.read_bytes() == content, kind
        asked = [headers.get("range") for headers in server.asked_for(path)]
        assert asked == [None if begin is None else f"bytes={begin}-" for begin in begins], kind
        left = [file.suffix for file in (tmp_path / kind / "partial").iterdir()]
        assert left == [".lock"], kind
    assert all(headers["accept-encoding"] == "identity" for _, headers in server.asked)


BAD = {
    "missing": "got status 404, need status 200",
    "page": "got a page or a message (`text/html; charset=utf-8`), need the clip itself",
    "hidden_page": "got a web page (HTML), need a clip",
    "gzip": "got a response that is packed (`gzip`), need the bytes of the clip as they are",
    "empty": "got nothing (0 bytes), need a clip",
    "large": "got more than 1,048,576 bytes, need at most 1 MiB",
    "endless": "got more than 1,048,576 bytes, need at most 1 MiB",
    "always_cut": "got a download that was cut (peer closed connection",
    "long": "got a download that was cut (peer closed connection",
    "stall": "got a download that stands still, need a byte at least every 0.3 s",
    "drip": "got a download that takes longer, need the whole clip in 2 s",
    "head_drip": "got a download that takes longer, need the whole clip in 2 s",
}


def test_a_server_that_gives_no_whole_clip_leaves_none(server, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    cache = open_cache(tmp_path, max_bytes=1 << 20, stall_s=0.3, total_s=2.0)
    errors = fetch(cache, *(f"{server.url}/{kind}/a.mp4?sig=KEY" for kind in BAD))
    for (kind, words), error in zip(BAD.items(), errors, strict=True):
        assert isinstance(error, FetchError), kind
        assert f"{server.url}/{kind}/a.mp4?...: {words}" in str(error), error
        assert "KEY" not in str(error)
    assert "fetch     0 of 12 are there" in caplog.text
    assert "KEY" not in caplog.text
    assert files_of(cache, "urls", "content") == []
    kept = [path.name for path in files_of(cache, "partial") if path.suffix != ".lock"]
    stalled = parse_url(f"{server.url}/stall/a.mp4?sig=KEY").digest
    assert kept == [stalled, f"{stalled}.version"]  # what can be gone on with, and nothing else


def test_hosts_that_cannot_be_reached_are_bad_clips(server, tmp_path, monkeypatch):
    def resolve(host: str, port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    (error,) = fetch(open_cache(tmp_path, resolve=resolve), "http://nobody.test/a.mp4")
    assert "the host `nobody.test`, which is not found (Name or service not known)" in str(error)
    monkeypatch.setenv("http_proxy", server.url)  # it is said that this is not used, and it is not
    (error,) = fetch(open_cache(tmp_path), "http://127.0.0.1:1/a.mp4")
    assert isinstance(error, HostError)
    assert "no connection to `127.0.0.1:1`" in str(error)
    assert "hint: proxies that the environment names are not used" in str(error)
    assert not server.asked_for("http://127.0.0.1:1/a.mp4")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    made = (
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
        "-subj",
        "/CN=clips.test",
        "-addext",
        "subjectAltName=DNS:clips.test",
    )
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *made]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=HANG_S)
    return folder


def test_tls_proves_the_name_and_not_the_address(certificate, tmp_path, monkeypatch):
    names = []
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    tls.set_servername_callback(lambda _, name, __: names.append(name))
    with ClipServer(tls=tls) as server:
        both = [f"https://{host}:{server.port}/good/a.mp4" for host in ("clips.test", "other.test")]

        def open_it(folder: str) -> ClipCache:
            allow = ["clips.test", "other.test"]
            return open_cache(tmp_path / folder, resolve=lambda host, port: ["127.0.0.1"], allow=allow, num_tries=1)

        (unknown,) = fetch(open_it("unknown"), both[0])
        assert "CERTIFICATE_VERIFY_FAILED" in str(unknown)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        place, other = fetch(open_it("known"), *both)
        assert place.read_bytes() == CLIP
        assert "Hostname mismatch" in str(other)
        assert names == ["clips.test", "clips.test", "other.test"]


# --- the cache ---


def test_a_url_is_asked_once_and_a_content_is_kept_once(server, tmp_path):
    cache = open_cache(tmp_path)
    urls = [f"{server.url}/good/{name}.mp4" for name in ("once", "again?key=1", "again?key=2")] + [
        f"{server.url}/other/a"
    ]
    places = fetch(cache, *urls)
    assert [place.read_bytes() for place in places] == [CLIP] * 3 + [OTHER]
    assert len(set(places)) == 4
    contents = files_of(cache, "content")
    assert [path.name for path in contents] == sorted(hash_file(path) for path in contents)
    assert len(contents) == 2
    num_asked = len(server.asked)
    assert fetch(open_cache(tmp_path), *urls) == places
    assert len(server.asked) == num_asked
    contents[0].unlink()  # whoever makes room this way gets it anew
    assert [place.is_file() for place in fetch(cache, *urls)] == [True] * 4


def test_a_cache_that_cannot_be_written_is_no_fault_of_the_clips(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="the cache of clips has 1 problem"):
        fetch(open_cache(tmp_path / "file"), f"{server.url}/good/a.mp4", f"{server.url}/good/b.mp4")
    with pytest.raises(CvftError, match=r"allowed hosts: got `0x7f\.1`, need a host alone"):
        open_cache(tmp_path, allow=["0x7f.1"])


def test_a_notebook_may_fetch(server, tmp_path):
    async def inside_a_loop() -> list[Path | FetchError]:
        return fetch(open_cache(tmp_path), f"{server.url}/good/notebook.mp4")

    assert asyncio.run(inside_a_loop())[0].read_bytes() == CLIP


SCRIPT = """
import sys
from pathlib import Path
from cvft.data.fetch.cache import ClipCache, place_of
from cvft.data.fetch.limits import FetchLimits
from cvft.data.fetch.urls import parse_url
cache = ClipCache(Path(sys.argv[1]), limits=FetchLimits(allow_hosts=["127.0.0.1"]))
place = place_of(cache.folder, parse_url(sys.argv[2]))
assert not cache.fetch({place: sys.argv[2]})
print(place)
"""


def start(folder: Path, url: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", SCRIPT, str(folder), url]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, env=environment)


def test_who_is_killed_leaves_nothing_half_written_and_the_next_goes_on(tmp_path):
    with ClipServer() as server:
        url = f"{server.url}/stall_once/killed.mp4"
        process = start(tmp_path, url)
        partial = tmp_path / "partial" / parse_url(url).digest
        while not (partial.is_file() and partial.stat().st_size):
            assert process.poll() is None
            server.sent.wait(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=HANG_S)
        cache = open_cache(tmp_path)
        assert files_of(cache, "urls", "content") == []
        written = partial.stat().st_size
        (place,) = fetch(cache, url)
        assert place.read_bytes() == CLIP
        assert server.asked_for("/stall_once/killed.mp4")[1]["range"] == f"bytes={written}-"


def test_two_processes_that_want_one_clip_fetch_it_once(tmp_path):
    with ClipServer() as server:
        url = f"{server.url}/slow/both.mp4"
        processes = [start(tmp_path, url) for _ in range(2)]
        said = [process.communicate(timeout=HANG_S)[0].strip() for process in processes]
        assert said[0] == said[1] == str(place_of(tmp_path, parse_url(url)))
        assert server.counts["/slow/both.mp4"] == 1
        assert Path(said[0]).read_bytes() == CLIP
