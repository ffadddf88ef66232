"""A real browser, driven over WebDriver by chromedriver: what a user does with a page, and what the page then shows."""

import base64
import mimetypes
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.project import HANG_S

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
DRIVER = shutil.which("chromedriver")
needs_driver = pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs a Chromium and its chromedriver")

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""Key of an element's name. Source: WebDriver, section Elements."""

KEYS = {"enter": "\ue007", "escape": "\ue00c", "tab": "\ue004"}
"""Source: WebDriver, section Keyboard actions."""


class Browser:
    """One window."""

    def __init__(self, client: httpx.Client, session: str) -> None:
        self._client = client
        self._session = session

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        arguments = {} if method == "GET" else {"json": body or {}}
        response = self._client.request(method, f"/session/{self._session}{path}", **arguments)
        value = response.json()["value"]
        assert response.status_code == 200, value
        return value

    def open(self, url: str) -> None:
        self._call("POST", "/url", {"url": url})

    def run(self, script: str, *args: Any) -> Any:
        return self._call("POST", "/execute/sync", {"script": script, "args": list(args)})

    def find(self, selector: str) -> str:
        return self._call("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector: str) -> None:
        self._call("POST", f"/element/{self.find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        self._call("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Presses keys where the focus is."""
        actions = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def texts(self, selector: str) -> list[str]:
        return self.run("return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)", selector)

    def wait(self, script: str) -> Any:
        """Waits until an expression is true, and returns it."""
        begin_s = time.monotonic()
        while not (value := self.run(f"return {script}")):
            assert time.monotonic() - begin_s < 300, f"{script}\n{self.text('body')}"
            time.sleep(0.05)
        return value

    def drop(self, selector: str, path: Path) -> None:
        """Drops a file onto the page, as from a file manager."""
        self._hand(
            path,
            """
            const init = { dataTransfer: handed, bubbles: true, cancelable: true };
            for (const kind of ["dragenter", "dragover", "drop"]) {
              document.querySelector(selector).dispatchEvent(new DragEvent(kind, init));
            }""",
            selector,
        )

    def paste(self, selector: str, path: Path) -> None:
        """Pastes a file where the focus may be, as after it was copied in a file manager or another page."""
        script = """
            const init = { clipboardData: handed, bubbles: true, cancelable: true };
            document.querySelector(selector).dispatchEvent(new ClipboardEvent("paste", init));"""
        self._hand(path, script, selector)

    def _hand(self, path: Path, script: str, selector: str) -> None:
        head = """
            const [selector, name, type, content] = arguments;
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const handed = new DataTransfer();
            handed.items.add(new File([bytes], name, { type }));"""
        kind, _ = mimetypes.guess_type(path)
        self.run(head + script, selector, path.name, kind, base64.b64encode(path.read_bytes()).decode())

    def permit(self, url: str, name: str, *, setting: str) -> None:
        """Answers in advance whether a page may use something, `granted` or `denied`."""
        params = {"origin": url, "permission": {"name": name}, "setting": setting}
        self._call("POST", "/goog/cdp/execute", {"cmd": "Browser.setPermission", "params": params})

    def cut_network(self) -> None:
        """Lets nothing in or out from now on."""
        conditions = {"offline": True, "latency": 0, "throughput": 0}
        self._call("POST", "/chromium/network_conditions", {"network_conditions": conditions})

    def asked_for(self) -> list[str]:
        """What the page has loaded or tried to, but for what it carries itself."""
        names = self.run("return performance.getEntriesByType('resource').map((each) => each.name)")
        return [name for name in names if not name.startswith(("data:", "blob:"))]

    def picture(self) -> bytes:
        """The whole page as a PNG, however high it is."""
        size = self.run("return [innerWidth, document.body.scrollHeight]")
        params = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self._call("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": params})
        return base64.b64decode(self._call("GET", "/screenshot"))

    def complaints(self) -> list[str]:
        """What the page has written to its console since the last call."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]


@contextmanager
def browsing(
    profile: Path, *, width: int = 1440, height: int = 900, language: str = "en", more: tuple[str, ...] = ()
) -> Iterator[Browser]:
    """Opens a window of a browser with a profile of its own, and with further arguments."""
    assert CHROMIUM is not None
    assert DRIVER is not None
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        for line in driver.stdout:
            if "started successfully on port" in line:
                port = line.rstrip().rstrip(".").rpartition(" ")[2]
                break
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        arguments += [f"--user-data-dir={profile}", f"--window-size={width},{height}", f"--accept-lang={language}"]
        chrome = {"binary": CHROMIUM, "args": [*arguments, *more, "--disable-component-update", "--disable-sync"]}
        wanted = {"goog:chromeOptions": chrome, "goog:loggingPrefs": {"browser": "ALL"}}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG_S) as client:
            made = client.post("/session", json={"capabilities": {"alwaysMatch": wanted}}).json()["value"]
            try:
                yield Browser(client, made["sessionId"])
            finally:
                client.delete(f"/session/{made['sessionId']}")
    finally:
        driver.terminate()
        driver.wait()
        driver.stdout.close()
