"""What the tests of the server share: a folder of clips with what must not be shown, and how replies are read."""

import base64
import json
import os
import shutil
from pathlib import Path

import httpx

CLIPS = Path(__file__).parent.parent / "datasets" / "tiny_shapes" / "clips"
NAMES = [path.name for path in sorted(CLIPS.glob("val_*.mp4"))[:8]]


def make_root(parent: Path) -> Path:
    """Makes a media root with clips, and with what must not be shown."""
    folder = parent / "root"
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
