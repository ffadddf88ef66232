"""The page of the server in a real browser: a clip, its frames, questions, a second to jump to, two models, no complaints."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import cvft
from cvft.data.clip_columns import clip_of_frames
from cvft.data.video.decode import decode_clip
from cvft.data.video.sample import Sampling
from cvft.data.video.spec import make_image
from cvft.predict.infer import make_question
from tests.browser import browsing, needs_driver
from tests.random_adapter import write_served_adapter
from tests.server import KEY, serving

CLIPS = Path(__file__).parent.parent / "datasets" / "tiny_shapes" / "clips"
CLIP = CLIPS / "val_000.mp4"
ASKED = ["At what second does the white square appear?", "What shape is the white object?"]
HOSTILE = "<img src=x onerror=document.title='hit'><script>document.title='hit'</script>"
IDLE = "!document.querySelector('#turns [aria-busy]') && document.querySelectorAll('.turn').length"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    adapter = write_served_adapter(tmp_path_factory.mktemp("job"))
    with serving("--model", "tiny", "--adapter", f"tuned={adapter}") as running:
        yield running


@pytest.fixture(scope="module")
def tiny():
    model = cvft.load("tiny")
    yield model
    model.close()


@needs_driver
def test_a_clip_is_shown_and_asked_about(server, tiny, tmp_path):
    with browsing(tmp_path / "profile") as browser:
        browser.open(f"{server.url}/")
        browser.wait("document.getElementById('models').textContent")
        assert browser.text("#models") == "tiny · tuned"
        browser.type("#file", str(CLIP))
        browser.wait("document.querySelectorAll('#frames button').length")
        seconds = tiny._predictor.clips.load(CLIP).view.timestamps_s
        assert browser.texts("#frames button") == [f"{round(second, 2):g} s" for second in seconds]
        assert browser.run(
            "return [...document.querySelectorAll('#frames img')].every((each) => each.naturalWidth > 0)"
        )
        browser.wait("document.activeElement.id === 'query'")
        turns: list[tuple[str, str]] = []
        for number, query in enumerate(ASKED, 1):
            browser.press(*query, "enter")
            assert browser.wait(IDLE) == number
            said = tiny.ask(CLIP, query, history=turns)
            turns.append((query, said))
            first = f".turn:nth-child({number})"
            assert browser.text(f"{first} .answer[data-model=tiny] p") == said
            assert browser.texts(f"{first} h4") == ["tiny", "tuned"]
            browser.run("document.getElementById('query').focus()")
        second = float(turns[0][1])
        browser.click(".turn:first-child .jump")
        assert browser.run("return document.getElementById('player').currentTime") == second
        lit = browser.run(
            "return [...document.querySelectorAll('#frames button')].map((each) => each.className === 'lit')"
        )
        assert lit == [round(each, 2) == second for each in seconds]
        for control in ("#theme", "#language"):  # neither takes away what is shown
            browser.click(control)
            assert lit == browser.run(
                "return [...document.querySelectorAll('#frames button')].map((each) => each.className === 'lit')"
            )
        assert browser.run("return document.querySelector('#frames img').alt").startswith("第 0 秒")
        browser.click("#language")
        browser.press("/")
        assert browser.run("return document.activeElement.id") == "query"
        # one of the two models alone; what was asked is text, whatever it looks like
        browser.click("#choices input[value=tuned]")
        browser.type("#query", HOSTILE)
        browser.click("#send")
        assert browser.wait(IDLE) == 3
        assert browser.texts(".turn:nth-child(3) h4") == ["tiny"]
        assert browser.text(".turn:nth-child(3) h3") == HOSTILE
        assert browser.run("return document.title") == "cvft"
        browser.click("#clear")
        assert browser.texts(".turn") == []
        assert browser.complaints() == []


def first_frame(path):
    """The first frame of a clip as a picture."""
    Image.fromarray(decode_clip(CLIP, sampling=Sampling("uniform", 1)).frames[0]).save(path)
    return path


@needs_driver
def test_pictures_that_are_the_frames_of_a_clip(server, tiny, tmp_path):
    clip = decode_clip(CLIP, sampling=Sampling("uniform", 3))
    for number, frame in zip(
        (2, 9, 10), clip.frames, strict=True
    ):  # by number, whatever the order in which they are chosen
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    paths, seconds = [tmp_path / f"{number}.png" for number in (2, 9, 10)], [0.0, 0.5, 2.0]
    row = make_question(clip_of_frames(paths, seconds), ASKED[1])
    (said,) = tiny._predictor.answer([row], batch_rows=1, max_new_tokens=None)
    expected = said.text
    with browsing(tmp_path / "profile") as browser:
        browser.open(f"{server.url}/")
        browser.wait("document.getElementById('models').textContent")
        browser.type("#file", "\n".join(map(str, sorted(paths))))
        browser.wait("document.activeElement.id === 'seconds'")
        browser.press(*"1 0", "enter")
        browser.wait("document.getElementById('status').textContent.includes('frame_seconds: got')")
        assert len(browser.complaints()) == 1
        browser.run("document.getElementById('seconds').value = ''")
        browser.type("#seconds", "0 0.5 2")
        browser.click("#pictures button")
        browser.wait("document.querySelectorAll('#frames button').length")
        assert browser.texts("#frames button") == ["0 s", "0.5 s", "2 s"]
        assert browser.text("#name") == "3 pictures from 2.png on"
        assert browser.run("return document.getElementById('player').hidden")
        browser.click("#frames button:last-child")
        browser.type("#query", ASKED[1])
        browser.click("#copy")
        curl, python = browser.text("#as-curl"), browser.text("#as-python")
        browser.click("#close")
        browser.click("#send")
        assert browser.wait(IDLE) == 1
        assert browser.text(".answer[data-model=tiny] p") == expected
        browser.drop(
            "main", first_frame(tmp_path / "one.png")
        )  # to a model that takes no pictures: a clip of one frame
        browser.wait("document.getElementById('facts').textContent.startsWith('1 frames')")
        assert browser.texts("#frames button") == ["0 s"]
        browser.click("#copy")
        assert "frame_seconds" not in browser.text("#as-curl")
        browser.click("#close")
        assert browser.complaints() == []
    for command, content in ((["sh", "-c", curl], expected), ([sys.executable, "-c", python], f"{expected}\n")):
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        assert (json.loads(said)["choices"][0]["message"]["content"] if command[0] == "sh" else said) == content


@needs_driver
def test_what_is_copied_says_the_same(server, tiny, tmp_path):
    with browsing(tmp_path / "profile") as browser:
        browser.open(f"{server.url}/")
        browser.wait("document.getElementById('models').textContent")
        clip = tmp_path / "it's a clip.mp4"
        shutil.copy2(CLIP, clip)
        browser.type("#file", str(clip))
        browser.wait("document.querySelectorAll('#frames button').length")
        query = """What $HOME `shape` is "it"? null \\n 在哪？"""
        browser.run("document.getElementById('query').value = arguments[0]", query)
        browser.click("#copy")
        curl, python = browser.text("#as-curl"), browser.text("#as-python")
        assert browser.complaints() == []
    expected = tiny.ask(CLIP, query)
    done = subprocess.run(["sh", "-c", curl], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == expected
    (tmp_path / "ask.py").write_text(python)
    done = subprocess.run([sys.executable, "ask.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected}\n"


@needs_driver
def test_on_a_phone_in_chinese_and_what_goes_wrong(server, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"\0" * 5000)
    with browsing(tmp_path / "profile", width=390, height=844, language="zh-CN") as browser:
        browser.open(f"{server.url}/")
        browser.wait("document.getElementById('models').textContent")
        assert browser.text("#send") == "提问"
        assert browser.run("return document.documentElement.lang") == "zh-CN"
        browser.click("#language")
        assert browser.text("#send") == "Ask"
        browser.click("#theme")
        assert browser.run("return document.documentElement.dataset.theme") in ("dark", "light")
        browser.type("#file", str(bad))
        browser.wait("document.getElementById('status').textContent.includes('the clip: got')")
        assert browser.run("return document.getElementById('send').disabled")
        assert browser.run("return document.documentElement.scrollWidth - innerWidth") <= 0
        browser.drop("main", CLIP)
        browser.wait("document.querySelectorAll('#frames button').length")
        assert browser.text("#status") == ""
        browser.open(f"{server.url}/")  # what was chosen is kept
        browser.wait("document.getElementById('models').textContent")
        assert browser.text("#send") == "Ask"


CAMERA = ("--use-fake-device-for-media-stream",)
FREE = "!document.getElementById('camera').srcObject && !document.getElementById('record').hidden"


@needs_driver
def test_a_clip_is_recorded_with_the_camera(server, tmp_path):
    with browsing(tmp_path / "profile", more=CAMERA) as browser:
        browser.open(f"{server.url}/")
        browser.wait("document.getElementById('models').textContent")
        browser.permit(server.url, "camera", setting="denied")
        browser.click("#record")
        browser.wait("document.getElementById('status').textContent.includes('does not let')")
        assert browser.run(f"return {FREE}")
        browser.permit(server.url, "camera", setting="granted")
        # what is discarded leaves what was there
        browser.type("#file", str(CLIP))
        browser.wait("document.querySelectorAll('#frames button').length")
        browser.click("#record")
        browser.wait("document.activeElement.id === 'record-stop'")
        browser.press("escape")
        browser.wait(FREE)
        assert browser.text("#status") == ""
        assert browser.text("#name") == CLIP.name
        assert browser.run("return document.getElementById('save').hidden")
        # a clip that is chosen meanwhile wins
        browser.click("#record")
        browser.wait("document.activeElement.id === 'record-stop'")
        browser.drop("main", CLIP)
        browser.wait(FREE)
        browser.wait("document.querySelectorAll('#frames button').length")
        assert browser.text("#name") == CLIP.name
        browser.click("#record")
        browser.wait("document.getElementById('camera').currentTime > 1.5")
        assert browser.text("#recorded").endswith(" s / 60 s")
        browser.press("enter")  # on `Stop and use it`
        browser.wait("document.getElementById('name').textContent.startsWith('recording-')")
        browser.wait("document.querySelectorAll('#frames button').length")
        assert browser.run(f"return {FREE}")
        assert browser.run("return document.getElementById('save').download") == browser.text("#name")
        seconds = [float(text.removesuffix(" s")) for text in browser.texts("#frames button")]
        assert seconds[0] == 0  # how many more there are, the machine decides: a busy one drops pictures of the camera
        assert seconds == sorted(set(seconds))
        browser.click("#frames button:last-child")
        assert abs(browser.run("return document.getElementById('player').currentTime") - seconds[-1]) < 0.01
        browser.type("#query", ASKED[1])
        browser.click("#send")
        assert browser.wait(IDLE) == 1
        assert browser.texts(".failed") == []
        assert browser.complaints() == []


@pytest.fixture(scope="module")
def pictured(tmp_path_factory):
    """A server with a key, whose model takes pictures; a picture; and what it says to the question about it."""
    picture = first_frame(tmp_path_factory.mktemp("picture") / "white.png")
    model = cvft.load("tiny-qwen3-vl")
    row = make_question(make_image(picture), ASKED[1])
    (answer,) = model._predictor.answer([row], batch_rows=1, max_new_tokens=None)
    num_tokens = model._predictor.prepare(row, max_new_tokens=None).num_tokens
    model.close()
    with serving("--model", "tiny-qwen3-vl", key=KEY) as running:
        yield running, picture, answer.text, num_tokens


def test_a_model_that_takes_pictures_says_so_and_takes_one(pictured):
    running, picture, answer, num_tokens = pictured
    with running.client() as client:
        (model,) = client.get("/v1/models").json()["data"]
        assert model["takes_images"] is True
    url = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": ASKED[1]}]
    said = running.ask(parts, model=model["id"]).json()
    assert (said["choices"][0]["message"]["content"], said["usage"]["prompt_tokens"]) == (answer, num_tokens)
    said = running.ask(parts, model=model["id"], frame_seconds=[0]).json()
    assert said["usage"]["prompt_tokens"] != num_tokens  # a clip of one frame


@needs_driver
def test_the_page_asks_for_the_key_and_shows_a_picture_as_the_model_takes_it(pictured, tmp_path):
    running, picture, answer, _ = pictured
    with browsing(tmp_path / "profile") as browser:
        browser.open(f"{running.url}/")
        browser.wait("!document.getElementById('key-form').hidden")
        browser.type("#key", f"{KEY}x")
        browser.click("#key-form button")
        browser.wait("document.getElementById('status').textContent.includes('key')")
        browser.run("document.getElementById('key').value = ''")
        browser.type("#key", KEY)
        browser.click("#key-form button")
        browser.wait("document.getElementById('models').textContent")
        browser.type("#query", "Say yes.")
        browser.click("#send")
        assert browser.wait(IDLE) == 1
        assert browser.texts(".failed") == []
        assert KEY not in browser.run("return location.href")
        assert all("401" in each for each in browser.complaints())
        browser.paste("#query", picture)
        browser.wait("document.querySelectorAll('#frames button').length")
        assert browser.text("#facts") == "The picture is shown to the model:"
        assert browser.texts("#frames button") == [""]
        assert browser.run("return document.getElementById('player').hidden")
        browser.type("#query", ASKED[1])
        browser.click("#copy")
        curl = browser.text("#as-curl")
        browser.click("#close")
        assert ("frame_seconds" in curl, "image_url" in curl, "data:image/png;base64" in curl) == (False, True, True)
        browser.click("#send")
        assert browser.wait(IDLE) == 1
        assert browser.text(".answer p") == answer
        assert browser.complaints() == []
