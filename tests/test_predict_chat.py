"""A chat: turns as the template has them, the answers of `cvft infer`, mistakes that end nothing, Ctrl-C, rows to train on."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from cvft.cli.interrupts import GRACE_S
from cvft.data.rows import read_rows
from cvft.data.video.decode import decode_clip
from cvft.data.video.sample import Sampling
from cvft.errors import CvftError, DataError
from cvft.families.answering import Answer
from cvft.predict.chat import Chat, open_chat
from cvft.predict.infer import infer_one, make_question
from tests.project import HANG_S, cvft, files_under
from tests.real_clips import real_clip
from tests.tiny import copy_tiny, make_endless
from tests.trained import copy_of_trained_project

CLIP = Path(__file__).parent.parent / "datasets" / "tiny_shapes" / "clips" / "val_000.mp4"
MOST_TOKENS = 1900
"""Of an answer that has no end: several seconds."""


def say(chat: Chat, query: str) -> Answer:
    def listen():
        answer = yield from chat.ask(query)
        yield answer

    *pieces, answer = listen()
    assert "".join(pieces) == answer.text
    return answer


@pytest.fixture(scope="module")
def opened() -> Iterator[Chat]:
    with contextlib.closing(open_chat("tiny")) as chat:
        yield chat


@pytest.fixture
def chat(opened) -> Chat:
    """About the clip, with no turns."""
    opened.show(str(CLIP))
    opened.max_new_tokens = None
    return opened


@pytest.fixture(scope="module")
def endless(tmp_path_factory) -> Path:
    """A model that never ends an answer: the end is never the likeliest token."""
    return make_endless(tmp_path_factory.mktemp("endless"))


def blocks(stdout: str) -> list[str]:
    assert stdout == "" or stdout.endswith("\n\n")
    return stdout.split("\n\n")[:-1]


@pytest.mark.dist
def test_a_chat_says_what_infer_says(tmp_path_factory, tmp_path):
    run = copy_of_trained_project(tmp_path_factory).parent / "runs" / "small"
    clip, rows = real_clip("carphone_pristine.mp4"), tmp_path / "rows.jsonl"
    lines = [
        "What is shown?",
        "And now?",
        f"/save {rows}",
        "/clear",
        "Where is he?",
        f"/save {rows}",
        "/quit",
        "no more",
    ]
    done = cvft("chat", "--model", run, clip, input="\n".join(lines))
    assert (done.returncode, blocks(done.stdout)) == (0, ["a man", "still a man", "in a car"]), done.stderr
    with contextlib.closing(open_chat(run / "adapter", video=str(clip))) as chat:
        turns: list[tuple[str, str]] = []
        for query in ("What is shown?", "And now?", "What is shown?"):
            said = say(chat, query).text
            assert said == infer_one(run / "adapter", video=clip, query=query, history=turns)
            turns.append((query, said))
            assert chat.turns == turns
    first, second = read_rows(rows)
    assert (first.query, first.response, first.videos) == ("And now?", "still a man", (clip,))
    assert first.history == (("What is shown?", "a man"),)
    assert (second.query, second.response, second.history, second.videos) == ("Where is he?", "in a car", (), (clip,))


def test_from_a_pipe_each_mistake_is_one_and_the_chat_goes_on(tmp_path):
    shutil.copy2(CLIP, tmp_path / "a clip.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"\0" * 5000)
    lines = [
        "What is shown?",
        "/video bad.mp4",
        "/video nothing.mp4",
        "/video ftp://example.org/clip.mp4",
        "/video a\0b.mp4",
        "/video",
        "/clear all",
        "/frame",
        "~" * 4000,
        "\udcff?",
        "",
        "What is shown?",
        "/video 'a clip.mp4'",
        "/frames",
        " /what is shown?",
        f"{tmp_path}/a clip.mp4",
    ]
    text = "".join(f"{line}\r\n" for line in lines).encode("utf-8", "surrogateescape")
    command = [sys.executable, "-m", "cvft", "chat", "--model", "tiny", str(CLIP)]
    done = subprocess.run(command, input=text, capture_output=True, timeout=HANG_S, check=False, cwd=tmp_path)
    first, again, frames, last = blocks(done.stdout.decode())
    history = [("What is shown?", first)]
    assert first == infer_one("tiny", video=CLIP, query="What is shown?")
    assert again == infer_one("tiny", video=CLIP, query="What is shown?", history=history)
    assert frames.startswith("a clip.mp4: 8 of 59 frames, 7.38 s, 112 x 112, sampling chat\nframe   0      0.00 s\n")
    assert last == infer_one("tiny", video=CLIP, query=" /what is shown?")
    said = done.stderr.decode()
    assert done.returncode == 1
    assert said.endswith("10 of 15 lines could not be carried out\n")
    assert "Traceback" not in said
    for each in (
        "bad.mp4 (decoder `pyav`): got ",
        "`videos`: got `nothing.mp4`, which does not exist",
        "`videos`: got the URL `ftp://example.org/clip.mp4`, need the path of a local file",
        "/video: got nothing, need a file\n",
        "/clear: got `all`, need nothing behind it\n",
        "hint: did you mean `/frames`",
        f"hint: write `/video {tmp_path}/a clip.mp4` to talk about that file",
        "the question: got 4",
        "the line: got bytes that are no text, need UTF-8 text\n",
    ):
        assert said.count(each) == 1, (each, said)
    assert files_under(tmp_path) == ["a clip.mp4", "bad.mp4"]


def test_what_is_wrong_at_the_start_is_found_before_the_model_is_loaded(tmp_path, monkeypatch):
    def never(*args):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("cvft.predict.chat.load_found", never)
    with pytest.raises(DataError, match="which does not exist"):
        open_chat("tiny", video="no.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"\0" * 5000)
    with pytest.raises(CvftError, match="bad"):
        open_chat("tiny", video=str(tmp_path / "bad.mp4"))


def test_a_template_without_history_answers_each_question_alone(tmp_path, caplog):
    folder = tmp_path / "cogvlm2-video-llama3-base"
    copy_tiny(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "template_version": "base"}))
    with caplog.at_level(logging.INFO), contextlib.closing(open_chat(folder, video=str(CLIP))) as chat:
        for query in ("What is shown?", "What colour is it?"):
            assert say(chat, query).text == infer_one(folder, video=CLIP, query=query)
        assert chat.turns == []
        chat.save(tmp_path / "rows.jsonl")
    assert caplog.text.count("each question stands alone") == 1
    (row,) = read_rows(tmp_path / "rows.jsonl")
    assert (row.query, row.history) == ("What colour is it?", ())


def test_a_question_without_room_is_refused_and_the_turns_stay(chat):
    long = "~" * 4000
    with pytest.raises(DataError, match=r"the question: got 4.* tokens and no room .*\n.*hint: shorten the question"):
        say(chat, long)
    say(chat, "What is shown?")
    turns = chat.turns
    with pytest.raises(DataError, match=r"hint: forget the earlier turns with `/clear`"):
        say(chat, long)
    assert chat.turns == turns
    chat.clear()
    assert (chat.turns, chat.video) == ([], CLIP.resolve())


def test_another_clip_is_another_conversation_and_a_bad_one_is_none(chat, tmp_path):
    say(chat, "What is shown?")
    before = chat.turns, chat.frames()
    (tmp_path / "bad.mp4").write_bytes(b"\0" * 5000)
    for wrong in (tmp_path / "bad.mp4", tmp_path / "none.mp4", tmp_path):
        with pytest.raises(CvftError):
            chat.show(str(wrong))
        assert (chat.turns, chat.frames()) == before
    chat.show(str(real_clip("bikes.mp4")))
    assert chat.turns == []
    head, *lines = chat.frames().splitlines()
    assert head.startswith("bikes.mp4: 11 of 250 frames, 10.00 s")
    seen = chat._predictor.clips.load(chat.video)
    assert lines[:11] == [f"frame {number:3d}  {second:8.2f} s" for number, second in enumerate(seen.view.timestamps_s)]


def test_the_pictures_of_a_folder_with_their_seconds_are_a_clip(tmp_path):
    folder, seconds = tmp_path / "my frames", [0.0, 0.5, 2.0]
    folder.mkdir()
    decoded = decode_clip(CLIP, sampling=Sampling("uniform", 3))
    for number, frame in enumerate(decoded.frames, 1):
        Image.fromarray(frame).save(folder / f"{number}.png")
    lines = [
        f"/video '{folder}' 0 0.5 2.",
        "What is shown?",
        "/frames",
        f"/save {tmp_path / 'rows.jsonl'}",
        f"/video '{folder}' 0 1",
        f"/video {folder}",
    ]
    done = cvft("chat", "--model", "tiny", input="\n".join(lines))
    answer, frames = blocks(done.stdout)
    row = make_question(str(folder), "What is shown?", seconds=seconds)
    assert answer == infer_one("tiny", video=row.videos[0], query="What is shown?")
    assert frames.splitlines() == [
        "1.png (3 frames): 3 of 3 frames, 3.00 s, 112 x 112, sampling chat",
        *(f"frame {number:3d}  {second:8.2f} s" for number, second in enumerate(seconds)),
    ]
    (saved,) = read_rows(tmp_path / "rows.jsonl")
    assert (saved.videos, saved.response) == (row.videos, answer)
    assert f"clip      `{folder}`: a new conversation" in done.stderr
    assert done.stderr.count("`seconds`: got ") == 1
    assert done.stderr.endswith("2 of 6 lines could not be carried out\n")


def test_control_tokens_that_are_typed_stay_text(chat):
    encoder = chat._predictor.encoder
    special = set(encoder.tokenizer.all_special_ids)
    query = "What is shown? " + "".join(encoder.tokenizer.convert_ids_to_tokens(sorted(special)))
    plain, typed = (encoder.encode(chat.row(each), (), with_response=False) for each in ("What is shown?", query))
    num_plain, num_typed = (sum(token in special for token in each["input_ids"].tolist()) for each in (plain, typed))
    assert num_typed == num_plain > 0
    assert len(typed["input_ids"]) > len(plain["input_ids"])


def test_rows_are_added_and_nothing_is_overwritten(chat, tmp_path, monkeypatch):
    path = tmp_path / "new" / "rows.jsonl"
    with pytest.raises(CvftError, match="the last turn: got no answer yet"):
        chat.save(path)
    say(chat, "What is shown?")
    chat.save(path)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))  # as some editors leave it
    say(chat, "What colour is it?")
    chat.save(path)
    rows = read_rows(path)
    assert [row.query for row in rows] == ["What is shown?", "What colour is it?"]
    assert [(row.query, row.response) for row in rows] == chat.turns
    assert rows[1].history == tuple(chat.turns[:1])

    kept = path.read_bytes()
    (tmp_path / "notes.txt").write_text("my notes\n")
    (tmp_path / "rows.json").write_text('[{"query": "q"}]')
    for wrong in (tmp_path, tmp_path / "notes.txt", tmp_path / "rows.json", Path("/dev/null"), path / "below"):
        with pytest.raises(CvftError):
            chat.save(wrong)
    assert (tmp_path / "notes.txt").read_text() == "my notes\n"

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        for place in (path, tmp_path / "other.jsonl"):
            with pytest.raises(CvftError, match="got No space left on device, need a file that can be written"):
                chat.save(place)
    chat.max_new_tokens = 1
    assert say(chat, "What is shown?").is_cut
    with pytest.raises(CvftError, match="got an answer that was cut, need a whole answer"):
        chat.save(path)
    assert path.read_bytes() == kept
    assert files_under(tmp_path) == ["new/rows.jsonl", "notes.txt", "rows.json"]


def test_an_answer_that_nobody_listens_to_ends(endless):
    with contextlib.closing(open_chat(endless, max_new_tokens=MOST_TOKENS)) as chat:
        steps: list[None] = []
        counting = chat._predictor.model.register_forward_hook(lambda *_: steps.append(None))
        before = threading.active_count()
        pieces = chat.ask("What is shown?")
        assert next(pieces)
        assert threading.active_count() == before + 1
        pieces.close()
        counting.remove()
        assert threading.active_count() == before
        assert 0 < len(steps) < MOST_TOKENS / 2
        assert chat.turns == []
        chat.max_new_tokens = 4
        assert say(chat, "What is shown?").is_cut


class Terminal:
    """A chat in a terminal of its own."""

    def __init__(self, *args: object) -> None:
        self.master, screen = pty.openpty()

        def take_terminal() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        command = [sys.executable, "-m", "cvft", "chat", *map(str, args)]
        self.process = subprocess.Popen(
            command, stdin=screen, stdout=screen, stderr=screen, start_new_session=True, preexec_fn=take_terminal
        )
        os.close(screen)
        self.shown = ""

    def type(self, text: str) -> None:
        self.shown = ""
        os.write(self.master, text.encode())

    def wait_for(self, pattern: str) -> str:
        """Reads until the text since the last `type` matches."""
        end = time.monotonic() + HANG_S
        while not re.search(pattern, self.shown):
            assert time.monotonic() < end, self.shown
            if select.select([self.master], [], [], 1)[0]:
                try:
                    self.shown += os.read(self.master, 4096).decode()
                except OSError:  # it has ended
                    assert re.search(pattern, self.shown), self.shown
        return self.shown

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *failure: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)

    def end(self) -> int:
        return self.process.wait(HANG_S)


def test_ctrl_c_in_a_terminal_stops_the_answer_and_twice_the_chat(endless, tmp_path):
    with Terminal("--model", endless, "--max-new-tokens", MOST_TOKENS) as terminal:
        terminal.wait_for(r"Ctrl-D ends the chat[\s\S]*> $")
        for _ in range(2):  # the chat is there afterwards
            terminal.type("What is shown?\n")
            terminal.wait_for(r"What is shown\?\r\n\S*red ")  # the first words, as they come
            terminal.type("\x03")
            terminal.wait_for(r" \[stopped\]\r\n\r\n[\s\S]*no part of the conversation\r\n\S*> $")
        time.sleep(GRACE_S + 1)  # after which any other command would have been ended
        terminal.type(f"/save {tmp_path / 'rows.jsonl'}\n")
        terminal.wait_for(r"got no answer yet[\s\S]*> $")
        terminal.type("half a question\x03")
        terminal.wait_for(r"Ctrl-C again ends the chat[\s\S]*> $")
        terminal.type("/clear\n")  # not twice in a row
        terminal.wait_for(r"are forgotten[\s\S]*> $")
        terminal.type("\x03")
        terminal.wait_for(r"Ctrl-C again ends the chat[\s\S]*> $")
        terminal.type("\x03")
        terminal.wait_for("interrupted\r\n")
        assert terminal.end() == 130
        assert files_under(tmp_path) == []


def test_ctrl_d_ends_a_chat_in_a_terminal(tmp_path):
    with Terminal("--model", "tiny", CLIP) as terminal:
        terminal.wait_for(r"Ctrl-D ends the chat[\s\S]*> $")
        terminal.type("/video no.mp4\n")
        terminal.wait_for(r"which does not exist[\s\S]*> $")
        terminal.type("\x04")
        assert terminal.end() == 0


def test_ctrl_c_ends_a_chat_with_a_pipe(endless):
    command = [sys.executable, "-m", "cvft", "chat", "--model", str(endless), "--max-new-tokens", str(MOST_TOKENS)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"What is shown?\n" * 20)
    process.stdin.flush()
    assert process.stdout.read(3) == b"red"
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=HANG_S)
    assert (process.returncode, said) == (130, b"interrupted\n")
    assert out.endswith(b"[stopped]\n\n")
